//! What a row of the protocol's two tables says: [`crate::step::STEPS`] and
//! [`crate::step::ORDERS`].

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::message::{OrderKind, Outcome, OutcomeKind, RefusalKind};
use crate::step::{OnFault, Phase, Step};

/// Which of a VM's two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The host that the VM leaves.
    Source,
    /// The host that it goes to.
    Target,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Side::Source => "source",
            Side::Target => "target",
        })
    }
}

/// One step of the protocol.
#[derive(Debug, Clone, Copy)]
pub struct StepRow {
    /// Which step.
    pub step: Step,
    /// The phase that a VM of the batch is in meanwhile.
    pub phase: Phase,
    /// It is over when this holds for every VM of the batch. An order that is not given to a VM is
    /// not waited for.
    pub done_when: &'static [Fact],
    /// What a fault does.
    pub on_fault: OnFault,
}

/// What can be known of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// The order is under way at its agent: the first of its interim answers is here.
    Started(OrderKind),
    /// The order is done.
    Done(OrderKind),
}

impl Fact {
    /// The order that it is about.
    pub const fn order(self) -> OrderKind {
        match self {
            Fact::Started(order) | Fact::Done(order) => order,
        }
    }
}

/// The part of a move that an order belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// A step.
    Step(Step),
    /// The way back, whatever step it began in.
    RollBack,
}

/// What must be done before an order is wanted. A need that is not given to a VM does not hold its
/// orders up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// This order, for the same VM.
    Own(OrderKind),
    /// This order, for every VM of the batch: a barrier inside a step.
    All(OrderKind),
}

impl Need {
    /// The order that must be done.
    pub const fn order(self) -> OrderKind {
        match self {
            Need::Own(order) | Need::All(order) => order,
        }
    }
}

/// What a refusal means where it is no failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// As good as done: nothing is left to do.
    Done,
    /// The VM is lost.
    Lost,
}

/// The named limit of [`Limits`](crate::migration::Limits) that an order's answer has to keep.
/// Before commit the batch rolls back when it runs out; after commit and during roll-back the order
/// is given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitLimit {
    /// `reserve_ms_max`
    Reserve,
    /// `prepare_ms_max`
    Prepare,
    /// `start_pre_copy_ms_max`, until the page stream runs. Until it has converged:
    /// `pre_copy_ms_max`.
    StartPreCopy,
    /// `buffers_ms_max`
    Buffers,
    /// `capture_ms_max`
    Capture,
    /// `stop_and_copy_ms_max`
    StopAndCopy,
    /// `activate_ms_max`
    Activate,
    /// `close_ms_max`
    Close,
    /// `abort_ms_max`
    Abort,
}

impl WaitLimit {
    /// The name of the field.
    pub const fn name(self) -> &'static str {
        match self {
            WaitLimit::Reserve => "reserve_ms_max",
            WaitLimit::Prepare => "prepare_ms_max",
            WaitLimit::StartPreCopy => "start_pre_copy_ms_max",
            WaitLimit::Buffers => "buffers_ms_max",
            WaitLimit::Capture => "capture_ms_max",
            WaitLimit::StopAndCopy => "stop_and_copy_ms_max",
            WaitLimit::Activate => "activate_ms_max",
            WaitLimit::Close => "close_ms_max",
            WaitLimit::Abort => "abort_ms_max",
        }
    }
}

/// One order of a move.
#[derive(Debug, Clone, Copy)]
pub struct OrderRow {
    /// Which order.
    pub order: OrderKind,
    /// Where it is carried out.
    pub side: Side,
    /// The step from which on it is wanted, or the way back.
    pub part: Part,
    /// What must be done before.
    pub needs: &'static [Need],
    /// Answers that leave it under way.
    pub meanwhile: &'static [OutcomeKind],
    /// The answer that completes it.
    pub done_by: OutcomeKind,
    /// Whether [`Outcome::Lost`] completes it too: the VM is gone, and the order with it.
    pub may_lose: bool,
    /// Refusals that are no failure. They count after commit and during roll-back; before commit
    /// every refusal rolls the batch back.
    pub refused: &'static [(RefusalKind, Meaning)],
    /// How long the answer may take.
    pub limit: WaitLimit,
    /// Whether it is given to a VM that has no guest as well: one that is powered off, or lost.
    pub without_guest: bool,
}

impl OrderRow {
    pub(crate) const fn new(
        part: Part,
        order: OrderKind,
        side: Side,
        done_by: OutcomeKind,
        limit: WaitLimit,
        needs: &'static [Need],
    ) -> Self {
        OrderRow {
            order,
            side,
            part,
            needs,
            meanwhile: &[],
            done_by,
            may_lose: false,
            refused: &[],
            limit,
            without_guest: false,
        }
    }

    pub(crate) const fn meanwhile(mut self, answers: &'static [OutcomeKind]) -> Self {
        self.meanwhile = answers;
        self
    }

    pub(crate) const fn after(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }

    pub(crate) const fn may_lose_the_vm(mut self) -> Self {
        self.may_lose = true;
        self
    }

    pub(crate) const fn refused(mut self, meanings: &'static [(RefusalKind, Meaning)]) -> Self {
        self.refused = meanings;
        self
    }

    pub(crate) const fn for_every_vm(mut self) -> Self {
        self.without_guest = true;
        self
    }

    /// Whether the outcome can answer this order. Every order can be refused, and can fail.
    pub fn is_answered_by(&self, outcome: &Outcome) -> bool {
        match outcome.kind() {
            OutcomeKind::Refused | OutcomeKind::Failed => true,
            OutcomeKind::Lost => self.may_lose,
            kind => kind == self.done_by || self.meanwhile.contains(&kind),
        }
    }

    /// What a refusal of this kind means after commit and during roll-back; `None`: a failure, and
    /// the order is given again.
    pub fn meaning_of(&self, refusal: RefusalKind) -> Option<Meaning> {
        let mut meanings = self.refused.iter();
        meanings
            .find(|(kind, _)| *kind == refusal)
            .map(|(_, meaning)| *meaning)
    }
}
