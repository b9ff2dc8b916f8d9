//! What a stop would leave to be sent, from one look at a migration to the next.
//!
//! QEMU counts what is left of the pages that its last look for dirty pages found
//! (`ram_bytes_remaining`, migration/ram.c). What the guest has written since is in no count before
//! the next look. So shortly before the end of every pass next to nothing is left, however much the
//! guest writes:
//!
//! ```text
//!  left  |\        |\        |\        of a guest that rewrites 24 MiB faster than they are sent;
//!        | \       | \       | \       a stop leaves 24 MiB at any of these instants
//!        |  \      |  \      |  \
//!        +---------+---------+------▶ time
//!        look      look      look for dirty pages
//! ```
//!
//! A guest that goes on as it did has written at most as much since as it had before the pass.
//! Pure.

use transhume_model::Bytes;

use crate::migration::MigrationProgress;

/// The first pass goes over all memory, and says nothing of what a guest writes.
const FIRST_PASS: u64 = 1;

/// The pass under way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passes {
    number: u64,
    /// The most that the look at its beginning found.
    found: u64,
    /// Sent by QEMU up to the last look.
    transferred: u64,
}

impl Passes {
    /// What would have to be sent were the guest stopped now, at most: what is left of the pass,
    /// and what the guest may have written since it began. Of the first pass only the former.
    pub fn left(&mut self, seen: &MigrationProgress) -> Bytes {
        let (remaining, transferred) = (seen.remaining.0, seen.transferred.0);
        let since = transferred.saturating_sub(self.transferred);
        let passes = seen.dirty_sync_count.saturating_sub(self.number);
        if seen.dirty_sync_count != self.number {
            // What had gone of this pass before it was seen: at most all that went since, and on
            // average a part of it where several passes began meanwhile.
            let gone = since / passes.max(1);
            (self.number, self.found) = (seen.dirty_sync_count, remaining.saturating_add(gone));
        }
        self.transferred = transferred;
        if self.number <= FIRST_PASS {
            return seen.remaining;
        }
        self.found = self.found.max(remaining);
        Bytes(remaining.saturating_add(self.found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::MigrationStatus;

    fn look(pass: u64, remaining: u64, transferred: u64) -> MigrationProgress {
        MigrationProgress {
            status: MigrationStatus::Active,
            total: Bytes(100),
            transferred: Bytes(transferred),
            remaining: Bytes(remaining),
            dirty_sync_count: pass,
            dirty_bytes_per_second: Bytes(0),
            mbps: 0.0,
            expected_downtime: None,
            downtime: None,
            error: None,
        }
    }

    /// Of looks at (pass, remaining, transferred).
    fn left(looks: &[(u64, u64, u64)]) -> Vec<u64> {
        let mut passes = Passes::default();
        let seen = looks
            .iter()
            .map(|(pass, remaining, transferred)| look(*pass, *remaining, *transferred));
        seen.map(|seen| passes.left(&seen).0).collect()
    }

    #[test]
    fn the_end_of_a_pass_is_no_end_for_a_guest_that_goes_on_writing() {
        assert_eq!(
            left(&[(1, 100, 0), (1, 1, 99)]),
            [100, 1],
            "the first pass is all memory"
        );
        let long = [
            (1, 1, 99),
            (2, 24, 100),
            (2, 12, 112),
            (2, 1, 123),
            (3, 24, 124),
            (3, 1, 147),
        ];
        assert_eq!(left(&long), [1, 49, 37, 26, 49, 26]);
    }

    #[test]
    fn a_pass_that_is_seen_late_found_what_has_gone_since_the_last_look() {
        assert_eq!(left(&[(2, 24, 100), (3, 2, 122), (4, 2, 144)]), [98, 26, 26]);
        // Several passes between two looks: each is a part of what went.
        assert_eq!(left(&[(2, 24, 100), (12, 1, 120)]), [98, 4]);
    }

    #[test]
    fn each_pass_is_judged_by_what_it_found_itself() {
        let looks = [(2, 24, 100), (2, 0, 124), (3, 4, 124), (3, 0, 128), (9, 0, 128)];
        assert_eq!(left(&looks), [98, 74, 8, 4, 0]);
        // Another migration.
        assert_eq!(left(&[(7, 24, 900), (1, 100, 0), (2, 1, 100)]), [176, 100, 102]);
    }
}
