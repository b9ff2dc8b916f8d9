//! Times of one VM that span its two hosts: blackout, its parts, gap.
//!
//! Instants of two hosts are compared here, and only here. They stand by the coordinator's clock
//! where both hosts' offsets were estimated, else as the hosts said them. A time that cannot be is
//! no number: the report says why, and no forecast learns from it. Nothing is decided by any of
//! them.

use transhume_model::WallMicros;

use super::journal::ClockUse;
use super::vm::Vm;
use crate::report::{BlackoutParts, PhaseTime};

const MICROS_PER_MILLI: f64 = 1_000.0;

/// Milliseconds from one instant to another; negative if the second is earlier.
pub(super) fn ms(from: WallMicros, to: WallMicros) -> f64 {
    (to.0 as i64).wrapping_sub(from.0 as i64) as f64 / MICROS_PER_MILLI
}

/// What is known of a VM's silence.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Silence {
    pub(super) blackout_ms: Option<f64>,
    pub(super) parts: Option<BlackoutParts>,
    pub(super) gap_ms: Option<f64>,
    /// How far the figures may be off; `None` where not both clocks were estimated.
    pub(super) uncertainty_ms: Option<f64>,
    /// Why figures are missing although they were measured.
    pub(super) contradiction: Option<String>,
}

/// What the instants say, as far as it can be.
pub(super) fn silence(vm: &Vm) -> Silence {
    let (blackout_ms, gap_ms) = (blackout_ms(vm), gap_ms(vm));
    let uncertainty_ms = uncertainty_ms(vm);
    let mut known = Silence {
        blackout_ms,
        parts: blackout_ms.and_then(|_| parts(vm)),
        gap_ms,
        uncertainty_ms,
        contradiction: None,
    };
    let contradiction = if (blackout_ms.is_some() || gap_ms.is_some()) && is_mixed(vm) {
        Some(format!(
            "the clocks of {} and {} were estimated for a part of the times only",
            vm.source, vm.target
        ))
    } else {
        impossible(vm, &known).map(|what| {
            format!(
                "the clocks of {} and {} contradict each other: {what}",
                vm.source, vm.target
            )
        })
    };
    if contradiction.is_some() {
        return Silence {
            uncertainty_ms,
            contradiction,
            ..Silence::default()
        };
    }
    if known.parts.as_ref().is_some_and(is_any_negative) {
        known.parts = None;
        known.contradiction = Some(format!(
            "the clocks of {} and {} are too far apart to tell the parts of its blackout",
            vm.source, vm.target
        ));
    }
    known
}

fn is_any_negative(parts: &BlackoutParts) -> bool {
    let BlackoutParts {
        capture_ms,
        memory_ms,
        device_ms,
        commit_ms,
        resume_ms,
    } = parts;
    [capture_ms, memory_ms, device_ms, commit_ms, resume_ms]
        .into_iter()
        .any(|ms| *ms < 0.0)
}

/// VM stopped → running, on the target or, after an abort, on the source again. There is none for a
/// guest that did not run before either.
fn blackout_ms(vm: &Vm) -> Option<f64> {
    if !vm.is_to_run() {
        return None;
    }
    let stopped_at = vm.so_far.capture?.stopped_at;
    let running_at = vm.activation.map(|times| times.running_at).or(vm.restored_at)?;
    Some(ms(stopped_at, running_at))
}

fn parts(vm: &Vm) -> Option<BlackoutParts> {
    let (capture, copy, loaded_at) = (vm.so_far.capture?, vm.so_far.copy?, vm.so_far.loaded_at?);
    let activation = vm.activation?;
    Some(BlackoutParts {
        capture_ms: ms(capture.stopped_at, capture.capturing_at),
        memory_ms: ms(capture.capturing_at, copy.pre_switchover_at),
        device_ms: ms(copy.pre_switchover_at, loaded_at),
        commit_ms: ms(loaded_at, activation.begun_at),
        resume_ms: ms(activation.begun_at, activation.running_at),
    })
}

/// The guest's last frame from its source → its first from its target.
fn gap_ms(vm: &Vm) -> Option<f64> {
    let last_sent_at = vm.source_frames?.last_sent_at?;
    let first_sent_at = vm.target_frames?.first_sent_at?;
    Some(ms(last_sent_at, first_sent_at))
}

/// Of the source's clock and, if it got so far, the target's.
fn clocks(vm: &Vm) -> Vec<ClockUse> {
    let both = [vm.so_far.source_clock, vm.so_far.target_clock];
    let of = if vm.committed { 2 } else { 1 };
    both[..of].to_vec()
}

/// Whether corrected instants and others stand side by side: they cannot be compared.
fn is_mixed(vm: &Vm) -> bool {
    let clocks = clocks(vm);
    clocks.iter().any(|clock| clock.taken_as_they_are)
        && clocks.iter().any(|clock| clock.uncertainty_us.is_some())
}

fn uncertainty_ms(vm: &Vm) -> Option<f64> {
    let source_us = vm.so_far.source_clock.uncertainty_us?;
    let target_us = vm.so_far.target_clock.uncertainty_us?;
    Some(source_us.saturating_add(target_us) as f64 / MICROS_PER_MILLI)
}

/// What cannot be: a time below nothing, or a blackout longer than the coordinator saw the VM away.
fn impossible(vm: &Vm, known: &Silence) -> Option<String> {
    if let Some(blackout_ms) = known.blackout_ms {
        if blackout_ms < 0.0 {
            return Some(format!("its blackout would be {blackout_ms:.1} ms"));
        }
        let slack_ms = known.uncertainty_ms.unwrap_or(0.0);
        let away_ms = away_ms(vm).filter(|away_ms| blackout_ms > away_ms + slack_ms);
        if let Some(away_ms) = away_ms {
            return Some(format!(
                "its blackout would be {blackout_ms:.1} ms, and it was away for {away_ms:.1} ms at most"
            ));
        }
    }
    match known.gap_ms {
        Some(gap_ms) if gap_ms < 0.0 => Some(format!("its gap would be {gap_ms:.1} ms")),
        Some(_) | None => None,
    }
}

/// From the order to capture to the answer that it runs, by the coordinator's clock.
fn away_ms(vm: &Vm) -> Option<f64> {
    let until = if vm.committed { vm.activated_at } else { vm.over_at };
    Some(ms(vm.so_far.capture_sent_at?, until?))
}

/// Each phase lasts until the next one begins, the last until the VM's move is over.
pub(super) fn phase_times(vm: &Vm, now: WallMicros) -> Vec<PhaseTime> {
    let over_at = vm.over_at.unwrap_or(now);
    let entered = &vm.so_far.entered;
    let ends = entered.iter().skip(1).map(|(_, at)| *at).chain([over_at]);
    let phases = entered.iter().zip(ends);
    phases
        .map(|((phase, at), end)| PhaseTime {
            phase: *phase,
            ms: ms(*at, end),
        })
        .collect()
}
