//! Where a batch is heading, and which orders its VMs therefore want: the protocol's tables,
//! walked.
//!
//! ```text
//!  BeforeCommit: steps 1 to 6 ─ Committed in the journal ─▶ Committed: steps 8 to 10 ─▶ next batch
//!       └─────────────── any fault ────────────────▶ RollingBack ────────────────────▶ Over
//! ```

use super::Migration;
use super::vm::Vm;
use crate::message::OrderKind;
use crate::step::{Fact, Need, ORDERS, OrderRow, Part, Side, Step};

/// Where the batch is heading. The step alone does not say: a fault keeps the step in which it
/// came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    /// Steps 1 to 6, one barrier each. Any fault rolls the batch back.
    BeforeCommit,
    /// The journal holds `Committed`: each VM goes on by itself until it is done.
    Committed,
    /// Every VM returns to its source.
    RollingBack,
    /// The move is over.
    Over,
}

impl Migration {
    /// Whether every VM of the batch has all that its step, or the way back, is there for.
    pub(super) fn is_step_done(&self) -> bool {
        match self.course {
            Course::BeforeCommit | Course::Committed => {
                let facts = self.step.row().done_when;
                self.batch_vms()
                    .all(|vm| facts.iter().all(|fact| holds(*fact, vm)))
            }
            Course::RollingBack => self.batch_vms().all(Vm::is_undone),
            Course::Over => false,
        }
    }

    /// Which orders a VM needs now. An order that is open already is not given again; one that got
    /// lost is: this is the one cure for lost answers, lost agents and restarts.
    pub(super) fn wanted(&self, vm: &Vm) -> Vec<&'static OrderRow> {
        let mut wanted: Vec<&OrderRow> = ORDERS
            .iter()
            .filter(|row| self.is_due(row, vm) && vm.takes(row) && !vm.is_done(row.order))
            .filter(|row| row.needs.iter().all(|need| self.is_met(*need, vm)))
            .collect();
        if self.course_of(vm) == Course::Committed {
            // What makes the VM run goes before what connects its buffers anew.
            wanted.sort_by_key(|row| row.part < Part::Step(Step::Commit));
        }
        wanted
    }

    fn is_due(&self, row: &OrderRow, vm: &Vm) -> bool {
        match (self.course_of(vm), row.part) {
            (Course::BeforeCommit, Part::Step(step)) => step <= self.step,
            // It may be the only copy: somebody decides first.
            (Course::Committed, _) if row.order == OrderKind::Discard && vm.may_be_reclaimed() => false,
            (Course::Committed, Part::Step(_)) => true,
            (Course::RollingBack, Part::RollBack) => vm.is_touched(row.side),
            (Course::BeforeCommit | Course::Committed, Part::RollBack)
            | (Course::RollingBack, Part::Step(_))
            | (Course::Over, _) => false,
        }
    }

    /// A VM that an operator keeps on its target goes on there, whatever its batch does.
    pub(super) fn course_of(&self, vm: &Vm) -> Course {
        match self.course {
            Course::RollingBack if vm.is_kept_on_target() => Course::Committed,
            course => course,
        }
    }

    fn is_met(&self, need: Need, vm: &Vm) -> bool {
        match need {
            // A side that got no order has nothing to undo.
            Need::Own(OrderKind::AbortSource) if !vm.is_touched(Side::Source) => true,
            Need::Own(order) => vm.has(order),
            Need::All(order) => self.batch_vms().all(|vm| vm.has(order)),
        }
    }

    /// Whether this order was what others of the batch waited for, and now is done for every VM.
    pub(super) fn barrier_fell(&self, order: OrderKind) -> bool {
        let need = Need::All(order);
        ORDERS.iter().any(|row| row.needs.contains(&need)) && self.batch_vms().all(|vm| vm.has(order))
    }
}

/// Whether a fact is there, or is not to come for this VM.
fn holds(fact: Fact, vm: &Vm) -> bool {
    match fact {
        Fact::Done(order) => vm.has(order),
        Fact::Started(order) => vm.is_started(order) || vm.has(order),
    }
}
