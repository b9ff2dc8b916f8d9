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
    /// The most that was seen left of it: what the look at its beginning found, but for what went
    /// before it was seen.
    found: Bytes,
}

impl Passes {
    /// What would have to be sent were the guest stopped now, at most: what is left of the pass,
    /// and what the guest may have written since it began. Of the first pass only the former.
    pub fn left(&mut self, seen: &MigrationProgress) -> Bytes {
        if seen.dirty_sync_count != self.number {
            (self.number, self.found) = (seen.dirty_sync_count, Bytes(0));
        }
        if self.number <= FIRST_PASS {
            return seen.remaining;
        }
        self.found = self.found.max(seen.remaining);
        Bytes(seen.remaining.0.saturating_add(self.found.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::MigrationStatus;

    fn look(pass: u64, remaining: u64) -> MigrationProgress {
        MigrationProgress {
            status: MigrationStatus::Active,
            total: Bytes(100),
            transferred: Bytes(0),
            remaining: Bytes(remaining),
            dirty_sync_count: pass,
            dirty_bytes_per_second: Bytes(0),
            mbps: 0.0,
            expected_downtime: None,
            downtime: None,
            error: None,
        }
    }

    fn left(looks: &[(u64, u64)]) -> Vec<u64> {
        let mut passes = Passes::default();
        let seen = looks.iter().map(|(pass, remaining)| look(*pass, *remaining));
        seen.map(|seen| passes.left(&seen).0).collect()
    }

    #[test]
    fn the_end_of_a_pass_is_no_end_for_a_guest_that_goes_on_writing() {
        assert_eq!(
            left(&[(1, 100), (1, 1)]),
            [100, 1],
            "the first pass is all memory"
        );
        assert_eq!(left(&[(1, 1), (2, 24), (2, 12), (2, 1)]), [1, 48, 36, 25]);
        assert_eq!(left(&[(2, 24), (2, 1), (3, 24), (3, 1)]), [48, 25, 48, 25]);
    }

    #[test]
    fn each_pass_is_judged_by_what_it_found_itself() {
        assert_eq!(
            left(&[(2, 24), (2, 1), (3, 4), (3, 0), (9, 0)]),
            [48, 25, 8, 4, 0]
        );
        // Another migration.
        assert_eq!(left(&[(7, 24), (1, 100), (2, 1)]), [48, 100, 2]);
    }
}
