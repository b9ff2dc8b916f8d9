//! Why there is no placement: what is short, which constraints conflict, and the least that would
//! make it possible. Nothing is claimed beyond what was asked and answered; a question that the
//! search left open is reported as open.

mod addition;
mod behind;
mod conflict;
mod help;
mod reason;

use serde::Serialize;
use transhume_model::{HostName, VmName};
use utoipa::ToSchema;

use crate::input::PlanInput;
use crate::problem::Problem;
use crate::solve::{self, Ended, Watch};
use crate::words::{listed, some};

pub(crate) use addition::{addition, kinds, largest, with_added};
pub(crate) use behind::unplaced;
pub use behind::{Cause, Unplaced};
pub use help::Help;
pub use reason::Reason;

/// Work for one question "would it be possible then?".
const QUESTION_WORK: u64 = 3_000_000;
/// Reasons given in one sentence; the rest are counted.
const REASONS_TOLD_MAX: usize = 3;

/// The explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Impossible {
    /// What is short; at least one.
    pub reasons: Vec<Reason>,
    /// Constraints that cannot all be kept. Where `conflict-known` is `proved`, none can be left
    /// out of this list, and an empty one means that the amounts alone forbid it.
    pub conflict: Vec<Constraint>,
    /// What is known about the conflict.
    pub conflict_known: Known,
    /// The fewest hosts of an existing kind that would do, as far as kinds were tried.
    pub addition: Option<Addition>,
    /// What is known about additions. Where it is `proved`, none at all means that no number of
    /// such hosts would do.
    pub addition_known: Known,
    /// Other changes that would do; each was tried.
    pub help: Vec<Help>,
}

/// How far a question was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "known")]
pub enum Known {
    /// Completely.
    Proved,
    /// The search ended before it was.
    Stopped {
        /// What ended it.
        by: Ended,
    },
    /// Only so many were examined.
    Part {
        /// Looked at.
        tried: usize,
        /// There are.
        of: usize,
    },
}

/// A constraint of the input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Constraint {
    /// A group.
    Group(String),
    /// Pin, selector or processor models of a VM.
    LimitsOf(VmName),
}

impl Constraint {
    /// In words.
    pub fn phrase(&self) -> String {
        match self {
            Constraint::Group(name) => format!("group {name}"),
            Constraint::LimitsOf(vm) => format!("pin, labels or processor models of VM {vm}"),
        }
    }
}

/// Hosts to add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Addition {
    /// Hosts equal to this one.
    pub like: HostName,
    /// So many.
    pub count: usize,
    /// Proved: one less of this kind would not do.
    pub smallest: bool,
}

/// Explains a problem that [`solve::solve`] proved impossible.
pub(crate) fn explain(
    input: &PlanInput,
    problem: &Problem,
    hosts_min: usize,
    watch: &mut Watch<'_>,
) -> Impossible {
    let (conflict, conflict_known) = conflict::conflict(input, watch);
    let (addition, addition_known) = addition::addition(input, problem, watch);
    Impossible {
        reasons: reason::reasons(input, problem, hosts_min),
        help: help::help(input, &conflict, watch),
        conflict,
        conflict_known,
        addition,
        addition_known,
    }
}

/// The answer, or what ended the search for it.
fn is_feasible(problem: &Problem, watch: &mut Watch<'_>) -> Result<bool, Ended> {
    if watch.is_over() {
        return Err(watch.ended());
    }
    let answer = watch.part(QUESTION_WORK, |part| solve::feasible(problem, part));
    answer.ok_or(match watch.ended() {
        // The question's own bound.
        Ended::Complete => Ended::WorkBound,
        ended => ended,
    })
}

fn stop(by: Ended) -> &'static str {
    match by {
        Ended::Complete | Ended::WorkBound => "the bound on work ended the search",
        Ended::Deadline => "the deadline ended the search",
        Ended::Cancelled => "the search was cancelled",
    }
}

impl Impossible {
    /// What is short and what conflicts, in words of bounded length.
    pub fn sentence(&self) -> String {
        let mut sentences: Vec<String> = self
            .reasons
            .iter()
            .take(REASONS_TOLD_MAX)
            .map(Reason::sentence)
            .collect();
        if self.reasons.len() > REASONS_TOLD_MAX {
            let rest = &self.reasons[REASONS_TOLD_MAX..];
            sentences.push(match rest.iter().all(Reason::is_about_vms) {
                true => format!("{} fit nowhere either", some(rest.len(), "more VM")),
                false => some(rest.len(), "more reason"),
            });
        }
        sentences.extend(self.conflict_sentence());
        sentences.join("; ")
    }

    fn conflict_sentence(&self) -> Option<String> {
        let named = listed(self.conflict.iter().map(Constraint::phrase));
        match (self.conflict_known, self.conflict.is_empty()) {
            (Known::Proved, true) => None,
            (Known::Proved, false) => Some(format!("these cannot all be kept: {named}")),
            (Known::Stopped { by }, true) => Some(format!(
                "whether constraints conflict was not found out: {}",
                stop(by)
            )),
            (Known::Stopped { by }, false) => Some(format!(
                "these cannot all be kept, but perhaps fewer would already conflict ({}): {named}",
                stop(by)
            )),
            (Known::Part { of, .. }, _) => Some(format!(
                "amounts alone would allow it, but not all {} together, too many to tell which conflict",
                some(of, "constraint")
            )),
        }
    }

    /// What would help, first what was tried and does.
    pub fn hint(&self) -> String {
        let tried = match self.addition_known {
            Known::Proved => String::new(),
            Known::Stopped { by } => format!(" ({})", stop(by)),
            Known::Part { tried, of } => format!(" (only {tried} of {of} kinds of hosts were tried)"),
        };
        let addition = self.addition.as_ref().map(|more| {
            let least = if more.smallest { "" } else { ", perhaps fewer," };
            format!("{} more like {}{least} would do{tried}", more.count, more.like)
        });
        let known: Vec<String> = self.help.iter().map(Help::sentence).chain(addition).collect();
        if !known.is_empty() {
            return known.join("; ");
        }
        let help = match (
            self.conflict.is_empty(),
            self.reasons.iter().any(Reason::is_too_large),
        ) {
            (false, _) => "loosen a constraint that is named",
            (true, true) => "a larger host is needed, or a smaller VM",
            (true, false) => "change the choice of targets, pins or labels, or ask for less",
        };
        match self.addition_known {
            Known::Proved => format!("no number of hosts like these would do: {help}"),
            Known::Stopped { .. } | Known::Part { .. } => {
                format!("whether more hosts would do was not found out{tried}: {help}")
            }
        }
    }
}
