//! What the coordinator tells Prometheus: what it counted since it started, and what is so now.
//!
//! Counts come from what is emitted anyway: news of the links, events of the moves, the report of
//! each move that is over, and the writes of the journal. Nothing else calls this. What is so now
//! is read at each scrape ([`State`]). `docs/design/metrics.md` is this module's page.

mod journal;
mod report;
mod state;
#[cfg(test)]
mod tests;

use serde::Serialize;
use transhume_metrics::{Samples, coordinator as names};
use transhume_model::HostName;
use transhume_protocol::event::Happening;
use transhume_protocol::message::{FaultKind, RefusalKind};

use self::journal::{Entries, Measured};
pub(crate) use self::state::State;
use crate::journal::Journal;
use crate::link::LinkNews;

const COMMITTED: &str = "committed";
const ROLLED_BACK: &str = "rolled-back";

/// All counts of this run.
#[derive(Debug)]
pub(crate) struct Metrics {
    counted: Samples,
    entries: Entries,
}

impl Metrics {
    /// Every count whose labels are known begins at 0, so that the first of its kind is seen as a
    /// rise.
    pub(crate) fn new(hosts: impl Iterator<Item = HostName>) -> Self {
        let mut counted = Samples::default();
        counted.set(&names::BUILD_INFO, [env!("CARGO_PKG_VERSION")], 1.0);
        for host in hosts {
            counted.add(&names::LINKS_LOST, [host.as_str()], 0.0);
        }
        counted.add(&names::MOVES_BEGUN, [], 0.0);
        for decision in [COMMITTED, ROLLED_BACK] {
            counted.add(&names::BATCHES, [decision], 0.0);
        }
        for kind in RefusalKind::ALL {
            counted.add(&names::ORDERS_REFUSED, [&word(&kind)], 0.0);
        }
        for kind in FaultKind::ALL {
            counted.add(&names::FAULTS, [&word(&kind)], 0.0);
        }
        counted.add(&names::VMS_LOST, [], 0.0);
        counted.add(&names::VMS_STUCK, [], 0.0);
        report::begin(&mut counted);
        Self {
            counted,
            entries: Entries::default(),
        }
    }

    /// The same journal; its writes are counted and timed.
    pub(crate) fn measured(&mut self, journal: Box<dyn Journal>) -> Box<dyn Journal> {
        Box::new(Measured::new(journal, &mut self.counted, self.entries.clone()))
    }

    /// News of a link has come.
    pub(crate) fn heard(&mut self, news: &LinkNews) {
        if let LinkNews::Lost { host } = news {
            self.counted.add(&names::LINKS_LOST, [host.as_str()], 1.0);
        }
    }

    /// An event of a move was emitted.
    pub(crate) fn happened(&mut self, what: &Happening) {
        let counted = &mut self.counted;
        match what {
            Happening::Begun { .. } => counted.add(&names::MOVES_BEGUN, [], 1.0),
            Happening::Committed { .. } => counted.add(&names::BATCHES, [COMMITTED], 1.0),
            Happening::RollingBack { .. } => counted.add(&names::BATCHES, [ROLLED_BACK], 1.0),
            Happening::Refused { refusal, .. } => {
                counted.add(&names::ORDERS_REFUSED, [&word(&refusal.kind)], 1.0);
            }
            Happening::Failed { fault, .. } => {
                counted.add(&names::FAULTS, [&word(&fault.kind)], 1.0);
            }
            Happening::Stuck { .. } => counted.add(&names::VMS_STUCK, [], 1.0),
            Happening::VmLost { .. } => counted.add(&names::VMS_LOST, [], 1.0),
            // What a move is doing is read when it is asked for, and how it ended stands in its
            // report; links are lost whether a move is under way or not.
            Happening::StepEntered { .. }
            | Happening::PhaseEntered { .. }
            | Happening::Progress { .. }
            | Happening::Outlook { .. }
            | Happening::PutOff { .. }
            | Happening::Rearranged { .. }
            | Happening::AgentLost { .. }
            | Happening::AgentBack { .. }
            | Happening::HostGone { .. }
            | Happening::GivenUp { .. }
            | Happening::DecisionWanted { .. }
            | Happening::Resolved { .. }
            | Happening::Bands { .. }
            | Happening::AlreadyRollingBack { .. }
            | Happening::Ended { .. } => {}
        }
    }

    /// A move is over.
    pub(crate) fn ended(&mut self, report: &transhume_protocol::report::MigrationReport) {
        report::count(&mut self.counted, report);
    }

    /// Everything, as of now.
    pub(crate) fn scrape(&self, state: State<'_>) -> Samples {
        let mut samples = self.counted.clone();
        samples.set(&names::JOURNAL_ENTRIES, [], self.entries.get() as f64);
        state.show(&mut samples);
        samples
    }
}

/// The name of a variant, as JSON writes it: one spelling everywhere.
fn word(variant: &impl Serialize) -> String {
    let written = serde_json::to_value(variant).ok();
    let word = written.as_ref().and_then(serde_json::Value::as_str);
    word.expect("a variant without fields is written as its name")
        .to_owned()
}
