//! How often a tree that somebody else changes is put back.

use std::collections::VecDeque;

use transhume_model::Millis;

use crate::limits::{REPAIRS_MAX, REPAIRS_WITHIN_MS};

/// What a look comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As planned.
    AsPlanned,
    /// To be put back, and told.
    PutBack,
    /// Somebody insists: left alone from here on, and told. Said once.
    LeaveAlone,
    /// Left alone since then.
    LeftAlone,
}

/// The repairs of one interface.
#[derive(Debug, Clone, Default)]
pub struct Repairs {
    made: VecDeque<Millis>,
    given_up: bool,
    total: u64,
}

impl Repairs {
    /// After a look: whether there was anything to be done.
    pub fn judge(&mut self, now: Millis, as_planned: bool) -> Verdict {
        if as_planned {
            // Whoever insisted has given up: the tree is looked after again.
            self.given_up = false;
            return Verdict::AsPlanned;
        }
        if self.given_up {
            return Verdict::LeftAlone;
        }
        while self
            .made
            .front()
            .is_some_and(|made| made.0 + REPAIRS_WITHIN_MS <= now.0)
        {
            self.made.pop_front();
        }
        if self.made.len() >= REPAIRS_MAX {
            self.given_up = true;
            return Verdict::LeaveAlone;
        }
        self.made.push_back(now);
        self.total += 1;
        Verdict::PutBack
    }

    /// Repairs so far.
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_put_back_a_few_times_a_minute_and_then_left_alone() {
        let mut repairs = Repairs::default();
        for at in 0..REPAIRS_MAX as u64 {
            assert_eq!(repairs.judge(Millis(at * 1000), false), Verdict::PutBack);
        }
        assert_eq!(repairs.judge(Millis(5_000), false), Verdict::LeaveAlone);
        assert_eq!(repairs.judge(Millis(90_000), false), Verdict::LeftAlone);
        assert_eq!(repairs.judge(Millis(91_000), true), Verdict::AsPlanned);
        assert_eq!(repairs.judge(Millis(92_000), false), Verdict::PutBack);
        assert_eq!(repairs.total(), REPAIRS_MAX as u64 + 1);
    }

    #[test]
    fn rare_repairs_do_not_add_up() {
        let mut repairs = Repairs::default();
        for hour in 0..100 {
            assert_eq!(repairs.judge(Millis(hour * 3_600_000), false), Verdict::PutBack);
        }
    }
}
