//! The six phases of one VM (§1.2) and the ten steps of a batch (§3.3.2), as one table.
//!
//! These two enums are the only ones of their kind: execution, journal, metrics, API and dashboard use them.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The six phases of one VM's live migration (§1.2), in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The VM runs on the source; the target is chosen and checked.
    PreMigration,
    /// The target has confirmed the resources and holds a container of the right size.
    Reservation,
    /// Memory is copied while the VM runs.
    PreCopy,
    /// The VM is stopped, its frames are captured, the rest of its state is copied.
    StopAndCopy,
    /// A consistent copy is on the target; the journal decides.
    Commitment,
    /// The VM runs on the target and receives what was captured.
    Activation,
}

impl Phase {
    /// All six, in the order of the paper.
    pub const ALL: [Phase; 6] = [
        Phase::PreMigration,
        Phase::Reservation,
        Phase::PreCopy,
        Phase::StopAndCopy,
        Phase::Commitment,
        Phase::Activation,
    ];

    /// The name as the paper writes it, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Phase::PreMigration => "pre-migration",
            Phase::Reservation => "reservation",
            Phase::PreCopy => "pre-copy",
            Phase::StopAndCopy => "stop-and-copy",
            Phase::Commitment => "commitment",
            Phase::Activation => "activation",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The ten steps of a batch (§3.3.2), in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// 1: choose k VMs; reserve and prepare their targets.
    SelectBatch,
    /// 2: start pre-copy for all of them.
    StartPreCopy,
    /// 3: create the buffers on the sources, capture disabled.
    CreateSourceBuffers,
    /// 4: create the buffers on the targets and connect each pair.
    CreateTargetBuffers,
    /// 5: activate capture.
    Capture,
    /// 6: stop-and-copy (the paper's text says "post-copy phase").
    StopAndCopy,
    /// 7: commit.
    Commit,
    /// 8: start the VMs and deliver the captured frames.
    Activate,
    /// 9: stop all buffers; the sources are destroyed.
    CloseBuffers,
    /// 10: stop, or go on with step 1.
    NextBatch,
}

/// What a fault in a step leads to (G2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFault {
    /// Every VM of the batch returns to its source.
    RollBack,
    /// The batch is committed: try again until it is done.
    RollForward,
}

/// One row of the protocol.
#[derive(Debug, Clone, Copy)]
pub struct StepRow {
    /// Which step.
    pub step: Step,
    /// The phase that a VM of the batch is in meanwhile.
    pub phase: Phase,
    /// Orders to the sources, by name of [`crate::message::Command`].
    pub to_source: &'static [&'static str],
    /// Orders to the targets.
    pub to_target: &'static [&'static str],
    /// The step is over when this holds for every VM of the batch.
    pub done_when: &'static str,
    /// What a fault does.
    pub on_fault: OnFault,
}

/// The protocol (§3.3.2). Each order goes to all VMs of the batch at once; a step begins when the one before is
/// done for all of them. Commit is the journal's alone: nothing is sent before `Committed` is on disk.
#[rustfmt::skip]
pub const STEPS: [StepRow; 10] = {
    use OnFault::{RollBack, RollForward};
    const fn row(
        step: Step, phase: Phase, to_source: &'static [&'static str], to_target: &'static [&'static str],
        done_when: &'static str, on_fault: OnFault,
    ) -> StepRow {
        StepRow { step, phase, to_source, to_target, done_when, on_fault }
    }
    [
        row(Step::SelectBatch,         Phase::Reservation,  &[],                                    &["Reserve", "Prepare"],     "target waits, paused, plug shut",            RollBack),
        row(Step::StartPreCopy,        Phase::PreCopy,      &["PreCopy"],                           &[],                         "page stream runs",                           RollBack),
        row(Step::CreateSourceBuffers, Phase::PreCopy,      &["OpenSourceBuffer"],                  &[],                         "buffer ready, capture disabled",             RollBack),
        row(Step::CreateTargetBuffers, Phase::PreCopy,      &["ConnectBuffers"],                    &["OpenTargetBuffer"],       "tunnel up and predicted blackout in budget", RollBack),
        row(Step::Capture,             Phase::StopAndCopy,  &["Capture"],                           &[],                         "VM stopped, frames captured",                RollBack),
        row(Step::StopAndCopy,         Phase::StopAndCopy,  &["StopAndCopy"],                       &["AwaitLoaded"],            "target loaded and paused: prepared",         RollBack),
        row(Step::Commit,              Phase::Commitment,   &[],                                    &[],                         "journal holds Committed",                    RollBack),
        row(Step::Activate,            Phase::Activation,   &["Commit"],                            &["Activate"],               "VM runs on the target, announced",           RollForward),
        row(Step::CloseBuffers,        Phase::Activation,   &["CloseSourceBuffer", "Discard"],      &["CloseTargetBuffer"],      "FIN seen, frames accounted, source gone",    RollForward),
        row(Step::NextBatch,           Phase::Activation,   &[],                                    &[],                         "no VM left, or step 1 again",                RollForward),
    ]
};

impl Step {
    /// All ten, in the order of the paper.
    pub const ALL: [Step; 10] = [
        Step::SelectBatch,
        Step::StartPreCopy,
        Step::CreateSourceBuffers,
        Step::CreateTargetBuffers,
        Step::Capture,
        Step::StopAndCopy,
        Step::Commit,
        Step::Activate,
        Step::CloseBuffers,
        Step::NextBatch,
    ];

    /// Its number in the paper, 1 to 10.
    pub fn number(self) -> u8 {
        self as u8 + 1
    }

    /// Its row in the table.
    pub fn row(self) -> &'static StepRow {
        &STEPS[self as usize]
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Step::SelectBatch => "select batch",
            Step::StartPreCopy => "start pre-copy",
            Step::CreateSourceBuffers => "create source buffers",
            Step::CreateTargetBuffers => "create target buffers",
            Step::Capture => "capture",
            Step::StopAndCopy => "stop-and-copy",
            Step::Commit => "commit",
            Step::Activate => "activate",
            Step::CloseBuffers => "close buffers",
            Step::NextBatch => "next batch",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_paper() {
        for (index, row) in STEPS.iter().enumerate() {
            assert_eq!(row.step, Step::ALL[index]);
            assert_eq!(usize::from(row.step.number()), index + 1);
        }
    }

    #[test]
    fn phases_never_run_backwards() {
        assert!(STEPS.windows(2).all(|pair| pair[0].phase <= pair[1].phase));
    }

    #[test]
    fn faults_roll_back_up_to_commit_and_forward_after_it() {
        for row in &STEPS {
            let expected = if row.step <= Step::Commit {
                OnFault::RollBack
            } else {
                OnFault::RollForward
            };
            assert_eq!(row.on_fault, expected, "{}", row.step);
        }
    }
}
