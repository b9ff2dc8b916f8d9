//! The report, computed from what the machine knows.
//!
//! Instants of two hosts are compared here, and only here: blackout and gap span source and target, so they are as
//! exact as the hosts' clocks agree. Nothing is decided by them.

use transhume_model::{HostName, WallMicros};

use super::vm::Vm;
use super::{Migration, Now, trouble};
use crate::forecast::{Actual, Comparison, VmComparison, VmForecast};
use crate::message::{Fault, GuestState, SourceFrames, TargetFrames};
use crate::report::{BlackoutParts, Ending, Frames, MigrationReport, PhaseTime, VmLoss, VmReport};
use crate::step::Phase;

const MICROS_PER_MILLI: f64 = 1_000.0;

/// Milliseconds from one instant to another; negative if the clocks disagree more than that.
fn ms(from: WallMicros, to: WallMicros) -> f64 {
    (to.0 as i64).wrapping_sub(from.0 as i64) as f64 / MICROS_PER_MILLI
}

impl Migration {
    /// The report as of now.
    pub fn report(&self, now: Now) -> MigrationReport {
        match &self.ended {
            Some(report) => report.as_ref().clone(),
            None => self.report_with(now, Ending::Running),
        }
    }

    pub(super) fn report_with(&self, now: Now, outcome: Ending) -> MigrationReport {
        let forecast = self.request.forecast.as_ref();
        let of = |vm: &Vm| self.vm_report(vm, forecast.and_then(|all| all.of(vm.name())), now.wall);
        let vms: Vec<VmReport> = self.vms.iter().map(of).collect();
        let duration_ms = ms(self.begun_at, now.wall);
        let actual = match outcome {
            Ending::Committed => whole(&vms, duration_ms),
            Ending::Running
            | Ending::CommittedWithLoss
            | Ending::RolledBack
            | Ending::PartlyCommitted
            | Ending::Refused => Actual::default(),
        };
        MigrationReport {
            migration: self.request.migration,
            cluster: self.request.cluster.clone(),
            outcome,
            mode: self.request.mode,
            from: self.request.from.clone(),
            to: self.request.to.clone(),
            used: used(&vms, outcome),
            batch: self.request.batches[0].len(),
            started_at: self.begun_at,
            duration_ms,
            frames: vms.iter().filter_map(|vm| vm.frames).sum(),
            vms,
            forecast: forecast.map(|all| Comparison::of(&all.expected, actual)),
            trouble: self.trouble.clone(),
            waiting: self.waiting_for(now),
        }
    }

    fn vm_report(&self, vm: &Vm, forecast: Option<&VmForecast>, now: WallMicros) -> VmReport {
        let source = vm.source_frames.unwrap_or_default();
        let target = vm.target_frames.unwrap_or_default();
        VmReport {
            id: vm.name().clone(),
            batch: vm.batch + 1,
            source: vm.source.clone(),
            target: vm.target.clone(),
            host: if vm.committed {
                vm.target.clone()
            } else {
                vm.source.clone()
            },
            guest: guest(vm),
            lost: vm.lost.as_ref().map(|fault| self.loss(vm, fault)),
            phase: vm.entered.last().map_or(Phase::PreMigration, |(phase, _)| *phase),
            blackout_ms: blackout_ms(vm),
            blackout_parts: blackout_parts(vm),
            gap_ms: source
                .last_sent_at
                .zip(target.first_sent_at)
                .map(|(last, first)| ms(last, first)),
            clock_uncertainty_ms: None,
            clocks: None,
            frames: frames(vm),
            old_path: source.old_path,
            buffer_peak_bytes: source.peak.max(target.peak).0,
            pages: vm.pages,
            phases: phase_times(vm, now),
            forecast: forecast.map(|forecast| comparison(vm, forecast)),
        }
    }

    fn loss(&self, vm: &Vm, fault: &Fault) -> VmLoss {
        VmLoss {
            reason: fault.reason.clone(),
            hint: trouble::start_again(&self.request.cluster, vm.name()),
        }
    }
}

/// What a VM's guest does, as far as the journal knows.
fn guest(vm: &Vm) -> GuestState {
    if vm.powered_off || vm.lost.is_some() {
        GuestState::Off
    } else {
        vm.guest
    }
}

/// Targets that hold VMs of the cluster now, or are to hold them if the move goes on; each once, in order.
fn used(vms: &[VmReport], outcome: Ending) -> Vec<HostName> {
    let planned = matches!(outcome, Ending::Running);
    let mut used = Vec::new();
    for vm in vms.iter().filter(|vm| planned || vm.host == vm.target) {
        if !used.contains(&vm.target) {
            used.push(vm.target.clone());
        }
    }
    used
}

/// What came of a move that committed: bytes of all VMs, the longest blackout.
fn whole(vms: &[VmReport], duration_ms: f64) -> Actual {
    Actual {
        bytes: Some(vms.iter().map(|vm| vm.pages.wire.0 as f64).sum()),
        duration_ms: Some(duration_ms),
        blackout_ms: vms.iter().filter_map(|vm| vm.blackout_ms).reduce(f64::max),
    }
}

/// A VM's forecast with what came of it; there are actual figures when it has arrived and nothing is left to do.
fn comparison(vm: &Vm, forecast: &VmForecast) -> VmComparison {
    // Pre-migration lasts as long as earlier batches do.
    let mut entered = vm.entered.iter();
    let begun = entered.find(|(phase, _)| *phase > Phase::PreMigration);
    let begun_at = begun.map(|(_, at)| *at);
    let actual = match vm
        .over_at
        .filter(|_| vm.committed && vm.lost.is_none() && !vm.powered_off)
    {
        Some(over_at) => Actual {
            bytes: Some(vm.pages.wire.0 as f64),
            duration_ms: begun_at.map(|begun_at| ms(begun_at, over_at)),
            blackout_ms: blackout_ms(vm),
        },
        None => Actual::default(),
    };
    VmComparison {
        rate_mbit_s: forecast.rate_mbit_s,
        dirty_mib_s: forecast.dirty_mib_s,
        assumed: forecast.assumed.clone(),
        modelled: forecast.modelled,
        figures: Comparison::of(&forecast.expected, actual),
    }
}

/// VM stopped → running, on the target or, after an abort, on the source again.
/// There is none for a guest that did not run before either.
fn blackout_ms(vm: &Vm) -> Option<f64> {
    if !vm.is_to_run() {
        return None;
    }
    let stopped_at = vm.capture?.stopped_at;
    let running_at = vm.activation.map(|times| times.running_at).or(vm.restored_at)?;
    Some(ms(stopped_at, running_at))
}

fn blackout_parts(vm: &Vm) -> Option<BlackoutParts> {
    blackout_ms(vm)?;
    let (capture, copy, loaded_at) = (vm.capture?, vm.copy?, vm.loaded_at?);
    let activation = vm.activation?;
    Some(BlackoutParts {
        capture_ms: ms(capture.stopped_at, capture.capturing_at),
        memory_ms: ms(capture.capturing_at, copy.pre_switchover_at),
        device_ms: ms(copy.pre_switchover_at, loaded_at),
        commit_ms: ms(loaded_at, activation.begun_at),
        resume_ms: ms(activation.begun_at, activation.running_at),
    })
}

/// The account is closed when both halves are there, or the source's alone after an abort that captured
/// something, or where the target lost the VM: then nothing was delivered.
fn frames(vm: &Vm) -> Option<Frames> {
    match (vm.committed, vm.source_frames, vm.target_frames) {
        (true, Some(source), Some(target)) => Some(moved(&source, &target)),
        (true, Some(source), None) if vm.lost.is_some() => Some(moved(&source, &TargetFrames::default())),
        (false, Some(source), _) if vm.capture.is_some() || source.captured > 0 => Some(put_back(&source)),
        (true, _, None) | (true, None, _) | (false, _, _) => None,
    }
}

fn moved(source: &SourceFrames, target: &TargetFrames) -> Frames {
    let arrived = target.delivered + target.undelivered;
    Frames {
        captured: source.captured,
        delivered: target.delivered,
        lost: source.captured.saturating_sub(arrived) + source.dropped + target.dropped,
        duplicated: target.duplicated,
        reordered: target.reordered,
        late: target.late,
        broadcast: target.broadcast,
        own_echo: source.own_echo,
        untaken: source.untaken + target.undelivered,
        second_speaker: source.second_speaker,
    }
}

fn put_back(source: &SourceFrames) -> Frames {
    Frames {
        captured: source.captured,
        delivered: source.put_back,
        lost: source.captured.saturating_sub(source.put_back) + source.dropped,
        broadcast: source.broadcast,
        own_echo: source.own_echo,
        untaken: source.untaken,
        second_speaker: source.second_speaker,
        ..Frames::default()
    }
}

/// Each phase lasts until the next one begins, the last until the VM's move is over.
fn phase_times(vm: &Vm, now: WallMicros) -> Vec<PhaseTime> {
    let over_at = vm.over_at.unwrap_or(now);
    let ends = vm.entered.iter().skip(1).map(|(_, at)| *at).chain([over_at]);
    let phases = vm.entered.iter().zip(ends);
    phases
        .map(|((phase, at), end)| PhaseTime {
            phase: *phase,
            ms: ms(*at, end),
        })
        .collect()
}
