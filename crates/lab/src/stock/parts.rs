//! What a move by hand says of itself: when each VM did what, and so which part of its blackout
//! went where. Pure but for the strings.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use transhume_model::VmName;

/// One VM's move in a batch by hand. Times are microseconds since 1970, all of the lab's one clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandMove {
    /// The VM.
    pub vm: VmName,
    /// Its source's `STOP`.
    pub stopped: u64,
    /// Its last memory was sent: QEMU was seen in `pre-switchover`, and told to continue.
    pub continued: u64,
    /// Its target had loaded it: `MIGRATION` with status `completed`.
    pub loaded: u64,
    /// Every VM of the batch was loaded, and its target was told to run it.
    pub told: u64,
    /// Its target's `RESUME`.
    pub running: u64,
    /// Its target had answered: its processors run, which `RESUME` comes before.
    pub answered: u64,
    /// Its source was seen in `completed`. Behind `loaded`, for with the return path a source waits
    /// for the target's word; so no part of the blackout.
    pub source_completed: u64,
    /// From the batch's first `STOP` to its last `RESUME`, milliseconds.
    pub batch_ms: f64,
}

impl HandMove {
    /// Names of the parts of a blackout, in order.
    pub const PARTS: [&str; 4] = ["memory", "state", "wait", "resume"];

    /// Milliseconds of each part: the last memory, until QEMU may go on; its device state, saved
    /// and loaded; the wait for the batch; the target's `cont`, its disk's activation within.
    /// Together they are the blackout.
    pub fn parts_ms(&self) -> [f64; 4] {
        let instants = [self.stopped, self.continued, self.loaded, self.told, self.running];
        std::array::from_fn(|part| ms(instants[part], instants[part + 1]))
    }

    /// From `STOP` to `RESUME`.
    pub fn blackout_ms(&self) -> f64 {
        ms(self.stopped, self.running)
    }

    /// From the order to run until it was answered: a little beyond the blackout, and what ours
    /// counts.
    pub fn cont_ms(&self) -> f64 {
        ms(self.told, self.answered)
    }

    /// From `STOP` until the source was seen to have completed.
    pub fn source_ms(&self) -> f64 {
        ms(self.stopped, self.source_completed)
    }
}

/// From one time to another, which may be the earlier one: different processes read the clock.
pub(super) fn ms(from: u64, to: u64) -> f64 {
    (to as f64 - from as f64) / 1e3
}

/// One VM of one move by hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandRow {
    /// VMs of a batch.
    pub k: usize,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Which move of this k and MTU, from 1.
    pub repetition: usize,
    /// The VM's move.
    pub moved: HandMove,
}

/// One line per row, with a header.
pub fn hand_csv(rows: &[HandRow]) -> String {
    let parts = HandMove::PARTS.map(|part| format!("{part}_ms")).join(",");
    let mut text =
        format!("k,mtu,repetition,vm,blackout_ms,{parts},cont_answered_ms,source_completed_ms,batch_ms\n");
    for row in rows {
        let moved = &row.moved;
        let parts = moved.parts_ms().map(|ms| format!("{ms:.3}")).join(",");
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{},{},{},{},{:.3},{parts},{:.3},{:.3},{:.3}",
            row.k,
            row.mtu,
            row.repetition,
            moved.vm,
            moved.blackout_ms(),
            moved.cont_ms(),
            moved.source_ms(),
            moved.batch_ms,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_the_blackout() {
        let moved = HandMove {
            vm: "vm1".parse().unwrap(),
            stopped: 1_000_000,
            continued: 1_002_500,
            loaded: 1_012_000,
            told: 1_020_000,
            running: 1_024_125,
            answered: 1_026_000,
            source_completed: 1_013_000,
            batch_ms: 25.5,
        };
        assert_eq!(moved.parts_ms(), [2.5, 9.5, 8.0, 4.125]);
        assert_eq!(moved.parts_ms().iter().sum::<f64>(), moved.blackout_ms());
        let row = HandRow {
            k: 2,
            mtu: 1500,
            repetition: 1,
            moved,
        };
        assert_eq!(
            hand_csv(&[row]),
            "k,mtu,repetition,vm,blackout_ms,memory_ms,state_ms,wait_ms,resume_ms,cont_answered_ms,source_completed_ms,batch_ms\n\
             2,1500,1,vm1,24.125,2.500,9.500,8.000,4.125,6.000,13.000,25.500\n"
        );
    }
}
