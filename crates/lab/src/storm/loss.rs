//! Whether what guests missed in a move that lost a host fits what its report says. Pure.

use transhume_model::VmName;
use transhume_protocol::report::MigrationReport;

use super::ledger::Counts;

/// What a report says of frames that never came, of the VMs that live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatedLoss {
    /// How many; absent where it says that nobody can know.
    pub frames: Option<u64>,
    /// A VM went back to its source although it may have run at its target: what it had received
    /// there it receives again.
    pub may_repeat: bool,
}

impl StatedLoss {
    /// `gone` are those that do not live; what was between them and others is nobody's loss.
    pub fn of(report: &MigrationReport, gone: &[VmName]) -> Self {
        let living = || report.vms.iter().filter(|vm| !gone.contains(&vm.id));
        let may_repeat = living().any(|vm| vm.reclaimed.as_ref().is_some_and(|back| back.may_have_run));
        let by_sources = living().map(|vm| vm.source_lost.as_ref().map_or(Some(0), |loss| loss.frames_lost));
        let counted: u64 = living()
            .filter_map(|vm| vm.frames)
            .map(|frames| frames.lost)
            .sum();
        let frames = by_sources
            .sum::<Option<u64>>()
            .filter(|_| !may_repeat)
            .map(|lost| lost + counted);
        StatedLoss { frames, may_repeat }
    }

    /// Why what the living guests count of each other does not fit it.
    pub fn contradicted_by(&self, guests: &Counts) -> Option<String> {
        if let Some(stated) = self.frames.filter(|stated| guests.lost > *stated) {
            return Some(format!(
                "{stated} frames lost, says the report; the guests: {guests}"
            ));
        }
        let repeated = guests.duplicated + guests.reordered > 0;
        (repeated && !self.may_repeat).then(|| format!("the guests: {guests}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(lost: u64, duplicated: u64, reordered: u64) -> Counts {
        Counts {
            lost,
            duplicated,
            reordered,
            ..Counts::default()
        }
    }

    #[test]
    fn more_than_is_stated_contradicts_and_what_nobody_knows_does_not() {
        let exact = StatedLoss {
            frames: Some(2),
            may_repeat: false,
        };
        assert_eq!(exact.contradicted_by(&counts(2, 0, 0)), None);
        assert!(exact.contradicted_by(&counts(3, 0, 0)).is_some());
        assert!(exact.contradicted_by(&counts(0, 1, 0)).is_some());
        assert!(exact.contradicted_by(&counts(0, 0, 1)).is_some());

        let unknown = StatedLoss {
            frames: None,
            ..exact
        };
        assert_eq!(unknown.contradicted_by(&counts(1_000, 0, 0)), None);
        assert!(unknown.contradicted_by(&counts(0, 1, 0)).is_some());

        let bold = StatedLoss {
            may_repeat: true,
            ..unknown
        };
        assert_eq!(bold.contradicted_by(&counts(5, 5, 5)), None);
    }
}
