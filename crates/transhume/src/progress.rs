//! How far a move is, as one number per VM that never falls.
//!
//! Pre-copy sends pages again that were dirtied meanwhile, and a batch may roll back; the bar of a
//! VM stands still then.

use std::collections::BTreeMap;

use transhume_model::VmName;
use transhume_protocol::event::{Event, Happening};
use transhume_protocol::message::PageProgress;
use transhume_protocol::step::Phase;

/// A full bar.
pub const FULL: u64 = 1000;
/// Pre-copy takes most of it.
const PRE_COPY_FROM: u64 = 20;
const PRE_COPY_TO: u64 = 900;

/// The bars of a move.
#[derive(Debug, Default)]
pub struct Bars {
    vms: BTreeMap<VmName, (u64, Phase)>,
}

fn of_phase(phase: Phase) -> u64 {
    match phase {
        Phase::PreMigration => 0,
        Phase::Reservation => 10,
        Phase::PreCopy => PRE_COPY_FROM,
        Phase::StopAndCopy => PRE_COPY_TO,
        Phase::Commitment => 940,
        Phase::Activation => 970,
    }
}

fn of_pages(pages: &PageProgress) -> u64 {
    let (total, left) = (pages.total.0, pages.remaining.0.min(pages.total.0));
    let done = ((PRE_COPY_TO - PRE_COPY_FROM) * (total - left))
        .checked_div(total)
        .unwrap_or(0);
    // The first pass counts as most of the way even if the guest dirties it all again.
    PRE_COPY_FROM + done
}

impl Bars {
    /// Takes an event; returns the VM whose bar it moves.
    pub fn take(&mut self, event: &Event) -> Option<VmName> {
        let (vm, to, phase) = match &event.what {
            Happening::PhaseEntered { vm, phase } => (vm, of_phase(*phase), Some(*phase)),
            Happening::Progress { vm, pages } => (vm, of_pages(pages), None),
            _ => return None,
        };
        let bar = self.vms.entry(vm.clone()).or_insert((0, Phase::PreMigration));
        bar.0 = bar.0.max(to);
        bar.1 = phase.unwrap_or(bar.1);
        Some(vm.clone())
    }

    /// A VM's bar, 0 to [`FULL`], and its phase.
    pub fn of(&self, vm: &VmName) -> (u64, Phase) {
        self.vms.get(vm).copied().unwrap_or((0, Phase::PreMigration))
    }

    /// Everything arrived.
    pub fn fill(&mut self) {
        self.vms.values_mut().for_each(|bar| bar.0 = FULL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transhume_model::{Bytes, MigrationId, WallMicros};

    fn event(what: Happening) -> Event {
        Event {
            migration: MigrationId(1),
            number: 1,
            at: WallMicros(0),
            what,
        }
    }

    #[test]
    fn a_bar_never_falls() {
        let vm: VmName = "vm1".parse().unwrap();
        let mut bars = Bars::default();
        let mut last = 0;
        let pages = |remaining| PageProgress {
            total: Bytes(100),
            remaining: Bytes(remaining),
            ..PageProgress::default()
        };
        for what in [
            Happening::PhaseEntered {
                vm: vm.clone(),
                phase: Phase::PreCopy,
            },
            Happening::Progress {
                vm: vm.clone(),
                pages: pages(50),
            },
            Happening::Progress {
                vm: vm.clone(),
                pages: pages(90),
            },
            Happening::Progress {
                vm: vm.clone(),
                pages: pages(1000),
            },
            Happening::PhaseEntered {
                vm: vm.clone(),
                phase: Phase::StopAndCopy,
            },
            Happening::PhaseEntered {
                vm: vm.clone(),
                phase: Phase::PreCopy,
            },
        ] {
            bars.take(&event(what));
            let now = bars.of(&vm).0;
            assert!(now >= last && now <= FULL);
            last = now;
        }
        assert_eq!(last, PRE_COPY_TO);
    }
}
