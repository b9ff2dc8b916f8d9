//! Orders are idempotent: what was done is answered again, what is under way is answered when it is done.

use std::collections::HashMap;

use transhume_model::{Epoch, OrderId};
use transhume_protocol::message::Outcome;

/// Answers of one VM's current move, by command name.
#[derive(Debug, Default)]
pub(super) struct Answers {
    done: HashMap<&'static str, Outcome>,
    waiting: HashMap<&'static str, (OrderId, Epoch)>,
}

impl Answers {
    /// The answer given before, if any.
    pub(super) fn done(&self, command: &str) -> Option<&Outcome> {
        self.done.get(command)
    }

    /// Notes that an order waits for its answer; a repeated order takes the place of the first.
    pub(super) fn wait(&mut self, command: &'static str, order: OrderId, epoch: Epoch) {
        self.waiting.insert(command, (order, epoch));
    }

    /// Keeps an answer; returns the order that waited for it.
    pub(super) fn settle(&mut self, command: &'static str, outcome: &Outcome) -> Option<(OrderId, Epoch)> {
        self.done.insert(command, outcome.clone());
        self.waiting.remove(command)
    }

    /// Forgets everything: a new move begins, or the old one is undone.
    pub(super) fn clear(&mut self) {
        self.done.clear();
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_comes_before_its_order_is_kept_for_it() {
        let mut answers = Answers::default();
        assert_eq!(answers.settle("AwaitLoaded", &Outcome::Reserved), None);
        assert_eq!(answers.done("AwaitLoaded"), Some(&Outcome::Reserved));
    }

    #[test]
    fn a_repeated_order_gets_the_answer_once() {
        let mut answers = Answers::default();
        answers.wait("AwaitLoaded", OrderId(1), Epoch(1));
        answers.wait("AwaitLoaded", OrderId(2), Epoch(1));
        assert_eq!(
            answers.settle("AwaitLoaded", &Outcome::Reserved),
            Some((OrderId(2), Epoch(1)))
        );
        assert_eq!(answers.settle("AwaitLoaded", &Outcome::Reserved), None);
    }
}
