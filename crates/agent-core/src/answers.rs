//! Orders are idempotent: what was done is answered again, what is under way is answered when it is
//! done.

use std::collections::BTreeMap;

use transhume_model::{Epoch, OrderId};
use transhume_protocol::message::{OrderKind, Outcome};

/// Answers of one VM's current move.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers {
    done: BTreeMap<OrderKind, Outcome>,
    waiting: BTreeMap<OrderKind, (OrderId, Epoch)>,
    /// The batch that was undone here last.
    undone: Option<Epoch>,
}

/// Orders that are not of a move are carried out each time they are given.
fn is_kept(kind: OrderKind) -> bool {
    kind.is_about_a_vm()
        && !matches!(
            kind,
            OrderKind::StartVm | OrderKind::StopVm | OrderKind::DestroyVm
        )
}

impl Answers {
    /// The answer given before, if any.
    pub(crate) fn done(&self, kind: OrderKind) -> Option<&Outcome> {
        self.done.get(&kind)
    }

    /// Whether an order to begin a batch came late: the batch is undone already.
    pub(crate) fn is_undone(&self, kind: OrderKind, epoch: Epoch) -> bool {
        kind == OrderKind::PreCopy && self.undone == Some(epoch)
    }

    /// Whether such an order is being carried out.
    pub(crate) fn is_waiting(&self, kind: OrderKind) -> bool {
        self.waiting.contains_key(&kind)
    }

    /// Notes that an order waits for its answer; a repeated order takes the place of the first.
    pub(crate) fn wait(&mut self, kind: OrderKind, order: OrderId, epoch: Epoch) {
        self.waiting.insert(kind, (order, epoch));
    }

    /// Keeps an answer; returns the order that waited for it.
    pub(crate) fn resolve(&mut self, kind: OrderKind, outcome: &Outcome) -> Option<(OrderId, Epoch)> {
        let failed = matches!(outcome, Outcome::Refused(_) | Outcome::Failed(_));
        if !failed && is_kept(kind) {
            self.done.insert(kind, outcome.clone());
        }
        let waited = self.waiting.remove(&kind);
        let undoes = matches!(kind, OrderKind::AbortSource | OrderKind::Reclaim);
        if let (true, Some((_, epoch)), false) = (undoes, waited, failed) {
            self.undone = Some(epoch);
        }
        waited
    }

    /// What was answered holds no longer; who waits goes on waiting.
    pub(crate) fn forget_done(&mut self) {
        self.done.clear();
    }

    /// A new move begins.
    pub(crate) fn clear(&mut self) {
        self.done.clear();
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_order_gets_the_answer_once() {
        let mut answers = Answers::default();
        answers.wait(OrderKind::AwaitLoaded, OrderId(1), Epoch(1));
        answers.wait(OrderKind::AwaitLoaded, OrderId(2), Epoch(1));
        assert_eq!(
            answers.resolve(OrderKind::AwaitLoaded, &Outcome::Reserved),
            Some((OrderId(2), Epoch(1)))
        );
        assert_eq!(answers.resolve(OrderKind::AwaitLoaded, &Outcome::Reserved), None);
        assert_eq!(answers.done(OrderKind::AwaitLoaded), Some(&Outcome::Reserved));
    }

    #[test]
    fn a_failure_is_not_kept_and_neither_is_a_power_off() {
        let mut answers = Answers::default();
        let failed = Outcome::from(crate::Trouble::failed(
            transhume_protocol::message::FaultKind::Qemu,
            "",
        ));
        answers.resolve(OrderKind::Capture, &failed);
        answers.resolve(OrderKind::StopVm, &Outcome::Stopped);
        assert_eq!(answers.done(OrderKind::Capture), None);
        assert_eq!(answers.done(OrderKind::StopVm), None);
    }
}
