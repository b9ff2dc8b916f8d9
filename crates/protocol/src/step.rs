//! The protocol, to be read off one file: the six phases of one VM (§1.2), the ten steps of a batch
//! (§3.3.2) and the orders by which they are carried out.
//!
//! [`STEPS`] says when a step is done and what a fault in it leads to. [`ORDERS`] says of each
//! order to whom it goes, what must be done before, what answers it and how long it may take. Both
//! tables are executed: the group state machine walks them, and agents and tests look orders up in
//! them. The enums are the only ones of their kind: journal, metrics, API and dashboard use them
//! too.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::message::{OrderKind, OutcomeKind};
pub use crate::row::{Fact, Meaning, Need, OrderRow, Part, Side, StepRow, WaitLimit};

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
    /// 7: commit. The journal's alone: it is over when `Committed` is durable.
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

/// The ten steps (§3.3.2). Before commit a step begins when the one before is done for every VM of
/// the batch: each is a barrier. After commit each VM goes on by itself, and a step is announced as
/// over when the last VM is through.
#[rustfmt::skip]
pub const STEPS: [StepRow; 10] = {
    use Fact::{Done, Started};
    use OnFault::{RollBack, RollForward};
    use OrderKind as O;
    const fn row(step: Step, phase: Phase, done_when: &'static [Fact], on_fault: OnFault) -> StepRow {
        StepRow { step, phase, done_when, on_fault }
    }
    [
        row(Step::SelectBatch,         Phase::Reservation, &[Done(O::Reserve), Done(O::Prepare)],                 RollBack),
        row(Step::StartPreCopy,        Phase::PreCopy,     &[Started(O::PreCopy)],                               RollBack),
        row(Step::CreateSourceBuffers, Phase::PreCopy,     &[Done(O::OpenSourceBuffer)],                         RollBack),
        row(Step::CreateTargetBuffers, Phase::PreCopy,     &[Done(O::ConnectBuffers), Done(O::PreCopy)],         RollBack),
        row(Step::Capture,             Phase::StopAndCopy, &[Done(O::Capture)],                                  RollBack),
        row(Step::StopAndCopy,         Phase::StopAndCopy, &[Done(O::StopAndCopy), Done(O::AwaitLoaded)],        RollBack),
        row(Step::Commit,              Phase::Commitment,  &[],                                                  RollBack),
        row(Step::Activate,            Phase::Activation,  &[Done(O::Activate)],                                 RollForward),
        row(Step::CloseBuffers,        Phase::Activation,  &[Done(O::CloseTargetBuffer), Done(O::OpenPlug), Done(O::Discard), Done(O::Reclaim)], RollForward),
        row(Step::NextBatch,           Phase::Activation,  &[],                                                  RollForward),
    ]
};

/// The orders of a move. Each is wanted from its step on until it is done, as soon as what it needs
/// is done; it goes to all VMs of the batch at once. The two that undo are wanted when a batch
/// rolls back.
#[rustfmt::skip]
pub const ORDERS: [OrderRow; 18] = {
    use Meaning::{Done, Lost};
    use Need::{All, Own};
    use OrderKind as O;
    use OutcomeKind as Is;
    use Side::{Source, Target};
    use Step as S;
    use WaitLimit as L;
    use crate::message::RefusalKind::{self, StaleEpoch, UnknownVm, WrongState};
    const fn at(
        step: Step, order: OrderKind, side: Side, done_by: OutcomeKind, limit: WaitLimit, needs: &'static [Need],
    ) -> OrderRow {
        OrderRow::new(Part::Step(step), order, side, done_by, limit, needs)
    }
    const fn undo(order: OrderKind, side: Side, done_by: OutcomeKind) -> OrderRow {
        OrderRow::new(Part::RollBack, order, side, done_by, L::Abort, &[])
            .for_every_vm()
            .refused(&[(UnknownVm, Done), (StaleEpoch, Done)])
    }
    const GONE: &[(RefusalKind, Meaning)] = &[(UnknownVm, Done)];
    const VM_GONE: &[(RefusalKind, Meaning)] = &[(UnknownVm, Lost)];
    const WHOLE: &[(RefusalKind, Meaning)] = &[(WrongState, Done)];
    const CONNECTED: &[Need] = &[Own(O::ConnectBuffers), Own(O::Activate), Own(O::Commit)];
    const CLOSED: &[Need] = &[Own(O::Activate), Own(O::Commit), Own(O::CloseSourceBuffer), Own(O::CloseTargetBuffer)];
    [
        // step, order, where it is carried out, what it is done by, answer within, needs
        at(S::SelectBatch,         O::Reserve,           Target,     Is::Reserved,         L::Reserve,      &[]).for_every_vm(),
        at(S::SelectBatch,         O::Prepare,           Target,     Is::Prepared,         L::Prepare,      &[All(O::Reserve)]),
        at(S::StartPreCopy,        O::PreCopy,           Source,     Is::Converged,        L::StartPreCopy, &[Own(O::Prepare)])
            .meanwhile(&[Is::PreCopying, Is::Progress]),
        at(S::CreateSourceBuffers, O::OpenSourceBuffer,  Source,     Is::SourceBufferOpen, L::Buffers,      &[]),
        at(S::CreateTargetBuffers, O::OpenTargetBuffer,  Target,     Is::TargetBufferOpen, L::Buffers,      &[]).refused(WHOLE),
        at(S::CreateTargetBuffers, O::ConnectBuffers,    Source,     Is::BuffersConnected, L::Buffers,      &[Own(O::OpenTargetBuffer)]).refused(WHOLE),
        at(S::Capture,             O::Capture,           Source,     Is::Captured,         L::Capture,      &[]),
        at(S::StopAndCopy,         O::StopAndCopy,       Source,     Is::Copied,           L::StopAndCopy,  &[]),
        at(S::StopAndCopy,         O::AwaitLoaded,       Target,     Is::Loaded,           L::StopAndCopy,  &[]),
        // Committed
        at(S::Activate,            O::Activate,          Target,     Is::Activated,        L::Activate,     &[]).for_every_vm().may_lose_the_vm().refused(VM_GONE),
        at(S::Activate,            O::Commit,            Source,     Is::CommitNoted,      L::Activate,     &[]).for_every_vm().refused(GONE),
        at(S::CloseBuffers,        O::CloseSourceBuffer, Source,     Is::SourceClosed,     L::Close,        CONNECTED).refused(GONE),
        at(S::CloseBuffers,        O::CloseTargetBuffer, Target,     Is::TargetClosed,     L::Close,        CONNECTED).may_lose_the_vm().refused(VM_GONE),
        at(S::CloseBuffers,        O::OpenPlug,          Target,     Is::TargetClosed,     L::Close,        &[Own(O::Activate)]).may_lose_the_vm().refused(VM_GONE),
        at(S::CloseBuffers,        O::Discard,           Source,     Is::Discarded,        L::Close,        CLOSED).for_every_vm().refused(GONE),
        at(S::CloseBuffers,        O::Reclaim,           Source,     Is::SourceRestored,   L::Abort,        &[]).may_lose_the_vm().refused(VM_GONE),
        // the way back
        undo(O::AbortSource, Source, Is::SourceRestored),
        undo(O::AbortTarget, Target, Is::TargetDropped).after(&[Own(O::AbortSource)]),
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

    /// The one after it; `None` after the tenth.
    pub fn next(self) -> Option<Step> {
        Step::ALL.get(self as usize + 1).copied()
    }

    /// Its orders, in the order of the table.
    pub fn orders(self) -> impl Iterator<Item = &'static OrderRow> {
        ORDERS.iter().filter(move |row| row.part == Part::Step(self))
    }
}

impl OrderKind {
    /// Its row in the table; `None` for orders that are no part of a move.
    pub fn row(self) -> Option<&'static OrderRow> {
        let first = ORDERS[0].order as usize;
        ORDERS.get((self as usize).checked_sub(first)?)
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

    #[test]
    fn every_order_of_a_move_is_found_at_its_row() {
        for kind in OrderKind::ALL {
            match kind.row() {
                Some(row) => assert_eq!(row.order, kind),
                None => assert!(kind < ORDERS[0].order, "{kind} has no row"),
            }
        }
    }

    #[test]
    fn orders_stand_in_the_order_of_their_steps_and_those_that_undo_stand_last() {
        assert!(ORDERS.windows(2).all(|pair| pair[0].part <= pair[1].part));
    }

    #[test]
    fn a_step_waits_only_for_orders_that_are_given_by_then() {
        for row in &STEPS {
            for fact in row.done_when {
                let order = fact.order().row().expect("a step waits for orders of a move");
                assert!(
                    order.part <= Part::Step(row.step),
                    "{} waits for {}",
                    row.step,
                    order.order
                );
            }
        }
    }

    #[test]
    fn a_vm_without_a_guest_is_waited_for_before_commit() {
        let given = ORDERS.iter().filter(|row| row.without_guest);
        for row in given.filter(|row| row.part < Part::Step(Step::Commit)) {
            let mut steps = STEPS.iter();
            assert!(
                steps.any(|step| step.done_when.contains(&Fact::Done(row.order))),
                "a batch of powered-off VMs would not wait for {}",
                row.order
            );
        }
    }

    #[test]
    fn what_an_order_needs_stands_before_it() {
        for row in &ORDERS {
            assert!(
                row.needs.iter().all(|need| need.order() < row.order),
                "{}",
                row.order
            );
        }
    }

    #[test]
    fn after_commit_every_order_that_ends_something_is_resolved_by_an_absent_vm() {
        for row in ORDERS.iter().filter(|row| row.part > Part::Step(Step::Commit)) {
            let absent = row.meaning_of(crate::message::RefusalKind::UnknownVm);
            assert!(absent.is_some(), "{} would be given for ever", row.order);
        }
    }
}
