//! Orders of a move by their kind: to whom each goes, in which step, and how long its answer may take.

use transhume_model::Millis;

use super::request::Limits;
use crate::message::Outcome;
use crate::step::Step;

/// Which of a VM's two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Target,
}

/// What one VM can be ordered, in the order of the steps. Also what is known to be done for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Verb {
    Reserve,
    Prepare,
    PreCopy,
    OpenSourceBuffer,
    OpenTargetBuffer,
    ConnectBuffers,
    Capture,
    StopAndCopy,
    AwaitLoaded,
    Activate,
    Commit,
    CloseSourceBuffer,
    CloseTargetBuffer,
    Discard,
    AbortSource,
    AbortTarget,
}

impl Verb {
    pub(super) fn side(self) -> Side {
        match self {
            Verb::PreCopy
            | Verb::OpenSourceBuffer
            | Verb::ConnectBuffers
            | Verb::Capture
            | Verb::StopAndCopy
            | Verb::Commit
            | Verb::CloseSourceBuffer
            | Verb::Discard
            | Verb::AbortSource => Side::Source,
            Verb::Reserve
            | Verb::Prepare
            | Verb::OpenTargetBuffer
            | Verb::AwaitLoaded
            | Verb::Activate
            | Verb::CloseTargetBuffer
            | Verb::AbortTarget => Side::Target,
        }
    }

    /// The step whose row of [`crate::step::STEPS`] names the order; `None` for the two that undo.
    pub(super) fn step(self) -> Option<Step> {
        match self {
            Verb::Reserve | Verb::Prepare => Some(Step::SelectBatch),
            Verb::PreCopy => Some(Step::StartPreCopy),
            Verb::OpenSourceBuffer => Some(Step::CreateSourceBuffers),
            Verb::OpenTargetBuffer | Verb::ConnectBuffers => Some(Step::CreateTargetBuffers),
            Verb::Capture => Some(Step::Capture),
            Verb::StopAndCopy | Verb::AwaitLoaded => Some(Step::StopAndCopy),
            Verb::Activate | Verb::Commit => Some(Step::Activate),
            Verb::CloseSourceBuffer | Verb::CloseTargetBuffer | Verb::Discard => Some(Step::CloseBuffers),
            Verb::AbortSource | Verb::AbortTarget => None,
        }
    }

    /// After how long without an answer the order is given again; `None` where the step's own limit rules.
    pub(super) fn again_after(self, limits: &Limits) -> Millis {
        match self.step() {
            None => limits.abort_ms_max,
            Some(Step::Activate) => limits.activate_ms_max,
            Some(Step::CreateTargetBuffers) => limits.buffers_ms_max,
            Some(_) => limits.close_ms_max,
        }
    }

    /// Whether "there is no such VM here" is as good as done: what the order would end is gone.
    pub(super) fn needs_nothing_of_an_absent_vm(self) -> bool {
        matches!(
            self,
            Verb::Commit
                | Verb::CloseSourceBuffer
                | Verb::CloseTargetBuffer
                | Verb::Discard
                | Verb::AbortSource
                | Verb::AbortTarget
        )
    }

    /// Whether the outcome is this order's answer in the sense of the message table.
    pub(super) fn is_answered_by(self, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Refused(_) | Outcome::Failed(_) => true,
            Outcome::Host(_)
            | Outcome::Started { .. }
            | Outcome::Destroyed
            | Outcome::Stopped
            | Outcome::Lost(_) => false,
            Outcome::Reserved => self == Verb::Reserve,
            Outcome::Prepared { .. } => self == Verb::Prepare,
            Outcome::PreCopying | Outcome::Progress(_) | Outcome::Converged(_) => self == Verb::PreCopy,
            Outcome::SourceBufferOpen => self == Verb::OpenSourceBuffer,
            Outcome::TargetBufferOpen { .. } => self == Verb::OpenTargetBuffer,
            Outcome::BuffersConnected => self == Verb::ConnectBuffers,
            Outcome::Captured { .. } => self == Verb::Capture,
            Outcome::Copied { .. } => self == Verb::StopAndCopy,
            Outcome::Loaded { .. } => self == Verb::AwaitLoaded,
            Outcome::Activated(_) => self == Verb::Activate,
            Outcome::CommitNoted => self == Verb::Commit,
            Outcome::SourceClosed(_) => self == Verb::CloseSourceBuffer,
            Outcome::TargetClosed(_) => self == Verb::CloseTargetBuffer,
            Outcome::Discarded { .. } => self == Verb::Discard,
            Outcome::SourceRestored(_) => self == Verb::AbortSource,
            Outcome::TargetDropped => self == Verb::AbortTarget,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::STEPS;

    #[rustfmt::skip]
    const ALL: [Verb; 16] = [
        Verb::Reserve, Verb::Prepare, Verb::PreCopy, Verb::OpenSourceBuffer, Verb::OpenTargetBuffer,
        Verb::ConnectBuffers, Verb::Capture, Verb::StopAndCopy, Verb::AwaitLoaded, Verb::Activate, Verb::Commit,
        Verb::CloseSourceBuffer, Verb::CloseTargetBuffer, Verb::Discard, Verb::AbortSource, Verb::AbortTarget,
    ];

    #[test]
    fn every_order_goes_where_the_step_table_says() {
        for verb in ALL {
            let name = format!("{verb:?}");
            let Some(step) = verb.step() else {
                assert!(matches!(verb, Verb::AbortSource | Verb::AbortTarget));
                continue;
            };
            let (to, not_to) = match verb.side() {
                Side::Source => (step.row().to_source, step.row().to_target),
                Side::Target => (step.row().to_target, step.row().to_source),
            };
            assert!(
                to.contains(&name.as_str()) && !not_to.contains(&name.as_str()),
                "{name}"
            );
        }
    }

    #[test]
    fn the_step_table_names_no_other_orders() {
        let in_table: usize = STEPS
            .iter()
            .map(|row| row.to_source.len() + row.to_target.len())
            .sum();
        assert_eq!(in_table, ALL.iter().filter(|verb| verb.step().is_some()).count());
    }
}
