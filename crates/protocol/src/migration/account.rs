//! The report, computed from what the machine knows: places, frames, forecasts. Times: see `times`.

use transhume_model::{HostName, WallMicros};

use super::decision::Ran;
use super::times::{Silence, ms, phase_times, silence};
use super::vm::Vm;
use super::{Migration, Now, trouble};
use crate::forecast::{Actual, Comparison, VmComparison, VmForecast};
use crate::message::{Fault, FaultKind, GuestState, SourceFrames, TargetFrames};
use crate::report::{Ending, Frames, MigrationReport, Reclaimed, SourceLoss, VmLoss, VmReport};
use crate::step::{Phase, Side};

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
            batch: self
                .request
                .batches
                .iter()
                .map(Vec::len)
                .max()
                .unwrap_or_default(),
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
        let silence = silence(vm);
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
            source_lost: source_loss(vm),
            reclaimed: vm.reclaimed.map(|ran| Reclaimed {
                from: vm.target.clone(),
                may_have_run: ran == Ran::Maybe,
            }),
            lost: vm.lost.as_ref().map(|fault| self.loss(vm, fault)),
            phase: vm
                .so_far
                .entered
                .last()
                .map_or(Phase::PreMigration, |(phase, _)| *phase),
            blackout_ms: silence.blackout_ms,
            blackout_parts: silence.parts,
            gap_ms: silence.gap_ms,
            clock_uncertainty_ms: silence.uncertainty_ms,
            frames: frames(vm),
            old_path: source.old_path,
            buffer_peak_bytes: source.peak.max(target.peak).0,
            pages: vm.so_far.pages,
            ready_ms: ready_ms(vm),
            phases: phase_times(vm, now),
            forecast: forecast.map(|forecast| comparison(vm, &silence, forecast)),
            clocks: silence.contradiction,
        }
    }

    fn loss(&self, vm: &Vm, fault: &Fault) -> VmLoss {
        VmLoss {
            reason: fault.reason.clone(),
            hint: match fault.kind {
                _ if vm.may_be_reclaimed() => self.how_to_reclaim(vm),
                FaultKind::HostLost => {
                    let host = if vm.committed { &vm.target } else { &vm.source };
                    trouble::restart_elsewhere(&self.request.cluster, vm.name(), host)
                }
                _ => trouble::start_again(&self.request.cluster, vm.name()),
            },
        }
    }
}

/// From the beginning of its pre-copy.
fn ready_ms(vm: &Vm) -> Option<f64> {
    let mut entered = vm.so_far.entered.iter();
    let (_, begun) = entered.rfind(|(phase, _)| *phase == Phase::PreCopy)?;
    let ready = vm.so_far.ready_at?;
    Some(ready.saturating_sub(*begun).0 as f64 / 1e3)
}

/// What a VM's guest does, as far as the journal knows.
fn guest(vm: &Vm) -> GuestState {
    if vm.powered_off || vm.lost.is_some() {
        GuestState::Off
    } else {
        vm.so_far.guest
    }
}

/// Targets that hold VMs of the cluster now, or are to hold them if the move goes on; each once, in
/// order.
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

/// What came of a move that committed: bytes of all VMs, the longest blackout and gap, unless one
/// is not known.
fn whole(vms: &[VmReport], duration_ms: f64) -> Actual {
    let longest = |of: fn(&VmReport) -> Option<f64>| {
        let unknown = |vm: &VmReport| vm.clocks.is_some() && of(vm).is_none();
        let longest = vms.iter().filter_map(of).reduce(f64::max);
        longest.filter(|_| !vms.iter().any(unknown))
    };
    Actual {
        bytes: Some(vms.iter().map(|vm| vm.pages.wire.0 as f64).sum()),
        duration_ms: possible(duration_ms),
        blackout_ms: longest(|vm| vm.blackout_ms),
        gap_ms: longest(|vm| vm.gap_ms),
    }
}

/// Nothing lasts less than nothing: the coordinator's own clock was set back meanwhile.
fn possible(ms: f64) -> Option<f64> {
    (ms >= 0.0).then_some(ms)
}

/// A VM's forecast with what came of it; there are actual figures when it has arrived and nothing
/// is left to do.
fn comparison(vm: &Vm, silence: &Silence, forecast: &VmForecast) -> VmComparison {
    // Pre-migration lasts as long as earlier batches do.
    let mut entered = vm.so_far.entered.iter();
    let begun = entered.find(|(phase, _)| *phase > Phase::PreMigration);
    let begun_at = begun.map(|(_, at)| *at);
    let actual = match vm
        .over_at
        .filter(|_| vm.committed && vm.lost.is_none() && !vm.powered_off)
    {
        Some(over_at) => Actual {
            bytes: Some(vm.so_far.pages.wire.0 as f64),
            duration_ms: begun_at.and_then(|begun_at| possible(ms(begun_at, over_at))),
            blackout_ms: silence.blackout_ms,
            gap_ms: silence.gap_ms,
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

/// What a source took with it. Its own account did not come, so that nobody can say how many frames
/// it still held.
fn source_loss(vm: &Vm) -> Option<SourceLoss> {
    vm.without_fin.then(|| {
        let delivered = vm.target_frames.map_or(0, |frames| frames.delivered);
        let captured = vm.source_frames.map(|frames| frames.captured);
        SourceLoss {
            host: vm.source.clone(),
            frames_lost: captured.map(|captured| captured.saturating_sub(delivered)),
            delivered,
        }
    })
}

/// The account is closed when both halves are there, or the source's alone after an abort that
/// captured something, or where the target lost the VM: then nothing was delivered.
fn frames(vm: &Vm) -> Option<Frames> {
    match (vm.committed, vm.source_frames, vm.target_frames) {
        // What it had on its target, and what reached it there, nobody knows.
        (false, _, _) if vm.reclaimed == Some(Ran::Maybe) => None,
        // Nobody knows what the source had captured.
        (true, _, Some(_)) if vm.without_fin => None,
        // All that it ever sent is delivered: the last record of its stream is here.
        (true, None, Some(target)) if vm.given_up.contains(&Side::Source) => {
            let source = SourceFrames {
                captured: target.delivered + target.given_up,
                ..SourceFrames::default()
            };
            Some(moved(&source, &target))
        }
        (true, Some(source), None) if vm.lost.is_some() => Some(moved(&source, &TargetFrames::default())),
        (false, Some(source), _) if vm.so_far.capture.is_some() || source.captured > 0 => {
            Some(put_back(&source))
        }
        (true, Some(source), Some(target)) => Some(moved(&source, &target)),
        (true, _, None) | (true, None, _) | (false, _, _) => None,
    }
}

fn moved(source: &SourceFrames, target: &TargetFrames) -> Frames {
    Frames {
        captured: source.captured,
        delivered: target.delivered,
        lost: source.captured.saturating_sub(target.delivered + target.given_up)
            + source.dropped
            + target.dropped,
        duplicated: target.duplicated,
        reordered: target.reordered,
        late: target.late,
        broadcast: target.broadcast,
        own_echo: source.own_echo,
        untaken: source.untaken + target.untaken + target.given_up,
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
