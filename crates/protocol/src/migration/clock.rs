//! Hosts' clocks: what a host reports is read by the coordinator's clock, where its offset is
//! estimated.
//!
//! Deliberately absent: how offsets are estimated (the driver, over its link to the host).

use transhume_model::WallMicros;

use super::Migration;
use super::journal::ClockUse;
use crate::message::{ActivationTimes, CaptureTimes, CopyTimes, Outcome, SourceFrames, TargetFrames};
use crate::step::Side;

/// An estimate of a host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clock {
    /// The host's wall clock minus the coordinator's.
    pub(super) offset_us: i64,
    pub(super) uncertainty_us: u64,
}

impl Clock {
    /// The host's instant by the coordinator's clock.
    fn read(self, at: WallMicros) -> WallMicros {
        let micros = i128::from(at.0) - i128::from(self.offset_us);
        WallMicros(u64::try_from(micros.max(0)).unwrap_or(u64::MAX))
    }
}

impl Migration {
    /// A report's instants by the coordinator's clock, at the offset that is known now. Where none
    /// is, they are taken as they are.
    pub(super) fn by_our_clock(
        &mut self,
        index: usize,
        side: Side,
        at: WallMicros,
        outcome: Outcome,
    ) -> (WallMicros, Outcome) {
        if !carries_instants(&outcome) {
            return (at, outcome);
        }
        let vm = &mut self.vms[index];
        let clock = self.clocks.get(vm.host(side)).copied();
        let used = match side {
            Side::Source => &mut vm.so_far.source_clock,
            Side::Target => &mut vm.so_far.target_clock,
        };
        used.note(clock);
        match clock {
            Some(clock) => (clock.read(at), corrected(outcome, clock)),
            None => (at, outcome),
        }
    }
}

impl ClockUse {
    fn note(&mut self, clock: Option<Clock>) {
        match clock {
            Some(clock) => self.uncertainty_us = self.uncertainty_us.max(Some(clock.uncertainty_us)),
            None => self.taken_as_they_are = true,
        }
    }
}

fn carries_instants(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Captured { .. }
            | Outcome::Copied { .. }
            | Outcome::Loaded { .. }
            | Outcome::Activated(_)
            | Outcome::SourceClosed(_)
            | Outcome::TargetClosed(_)
            | Outcome::Discarded { frames: Some(_) }
            | Outcome::SourceRestored(_)
    )
}

fn corrected(outcome: Outcome, clock: Clock) -> Outcome {
    let at = |at| clock.read(at);
    let source = |frames: SourceFrames| SourceFrames {
        last_sent_at: frames.last_sent_at.map(at),
        ..frames
    };
    match outcome {
        Outcome::Captured { times, guest } => Outcome::Captured {
            times: CaptureTimes {
                begun_at: at(times.begun_at),
                shut_at: at(times.shut_at),
                empty_at: at(times.empty_at),
                stopped_at: at(times.stopped_at),
                capturing_at: at(times.capturing_at),
            },
            guest,
        },
        Outcome::Copied { pages, times } => Outcome::Copied {
            pages,
            times: CopyTimes {
                begun_at: at(times.begun_at),
                pre_switchover_at: at(times.pre_switchover_at),
                completed_at: at(times.completed_at),
            },
        },
        Outcome::Loaded { loaded_at } => Outcome::Loaded {
            loaded_at: at(loaded_at),
        },
        Outcome::Activated(times) => Outcome::Activated(ActivationTimes {
            begun_at: at(times.begun_at),
            running_at: at(times.running_at),
            injected_at: at(times.injected_at),
            announced_at: at(times.announced_at),
        }),
        Outcome::SourceClosed(frames) => Outcome::SourceClosed(source(frames)),
        Outcome::SourceRestored(frames) => Outcome::SourceRestored(source(frames)),
        Outcome::Discarded { frames } => Outcome::Discarded {
            frames: frames.map(source),
        },
        Outcome::TargetClosed(frames) => Outcome::TargetClosed(TargetFrames {
            first_sent_at: frames.first_sent_at.map(at),
            ..frames
        }),
        without_instants => without_instants,
    }
}
