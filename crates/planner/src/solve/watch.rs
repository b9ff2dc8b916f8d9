//! How long a search may go on: a bound on its work, and a caller who may stop it (deadline or
//! cancellation).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Units of work between two questions to the caller.
const WORK_PER_QUESTION: u64 = 20_000;

/// What the caller answers when asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// Keep searching.
    On,
    /// The deadline has passed: stop with the best found.
    Deadline,
    /// Nobody wants the result any more: stop with the best found.
    Cancel,
}

/// Why a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// Nothing was left to try, or nothing could be better.
    Complete,
    /// The bound on work was reached.
    WorkBound,
    /// The caller's deadline.
    Deadline,
    /// The caller's wish.
    Cancelled,
}

/// Counts work and asks the caller from time to time. A unit is about one candidate host examined.
pub struct Watch<'a> {
    left: u64,
    until_question: u64,
    spent: u64,
    ended: Ended,
    ask: &'a mut dyn FnMut() -> Go,
}

impl<'a> Watch<'a> {
    /// At most `work_max` units, and only while `ask` says so.
    pub fn new(work_max: u64, ask: &'a mut dyn FnMut() -> Go) -> Self {
        Self {
            left: work_max,
            until_question: WORK_PER_QUESTION,
            spent: 0,
            ended: Ended::Complete,
            ask,
        }
    }

    /// Counts work done; false when the search must stop.
    pub(crate) fn spend(&mut self, work: u64) -> bool {
        if self.ended != Ended::Complete {
            return false;
        }
        self.spent += work;
        if self.left < work {
            self.ended = Ended::WorkBound;
            return false;
        }
        self.left -= work;
        if self.until_question > work {
            self.until_question -= work;
            return true;
        }
        self.until_question = WORK_PER_QUESTION;
        match (self.ask)() {
            Go::On => true,
            Go::Deadline => {
                self.ended = Ended::Deadline;
                false
            }
            Go::Cancel => {
                self.ended = Ended::Cancelled;
                false
            }
        }
    }

    /// Runs a part of the search with at most `work_max` of what is left; reaching that part's
    /// bound does not end the whole.
    pub(crate) fn part<T>(&mut self, work_max: u64, run: impl FnOnce(&mut Watch<'_>) -> T) -> T {
        let allowed = work_max.min(self.left);
        let mut part = Watch::new(allowed, self.ask);
        let result = run(&mut part);
        let (spent, ended) = (part.spent, part.ended);
        self.spent += spent;
        self.left = self.left.saturating_sub(spent);
        match ended {
            Ended::Complete => {}
            Ended::WorkBound if self.left > 0 => {}
            Ended::WorkBound | Ended::Deadline | Ended::Cancelled => self.ended = ended,
        }
        result
    }

    /// Work that may still be done.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Work done so far.
    pub(crate) fn spent(&self) -> u64 {
        self.spent
    }

    /// Why the search has to stop; `Complete` while it need not.
    pub(crate) fn ended(&self) -> Ended {
        self.ended
    }

    /// Whether the search has to stop.
    pub(crate) fn is_over(&self) -> bool {
        self.ended != Ended::Complete
    }
}
