//! The group state machine: the ten steps of §3.3.2 for one batch after the other, sans-IO.
//!
//! The driver (coordinator, `sim`, tests) feeds [`Input`]s and carries out [`Ready`]s; persist comes before send.

mod journal;
mod ready;
mod request;

pub use journal::{JOURNAL_VERSION, JournalEntry, PreparedVm};
pub use ready::{Illegal, Input, Now, OrderIds, Ready, TimerId};
pub use request::{Limits, MoveRequest, MoveVm, RequestError};

use transhume_model::{Epoch, MigrationId};

use crate::report::MigrationReport;

/// One move of a cluster, from request to report.
#[derive(Debug)]
pub struct Migration {
    request: MoveRequest,
}

/// Why a journal cannot be taken up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// The entries were written by a newer Transhume.
    #[error("the journal of the move has version {found}, this program knows up to {JOURNAL_VERSION}")]
    Version {
        /// As written.
        found: u16,
    },
    /// The entries cannot have been written by this machine.
    #[error("entry {index} of the move's journal does not fit the ones before it: {what}")]
    Order {
        /// Which entry, from 0.
        index: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// The new epoch would not fence the old orders off.
    #[error("epoch {given} is not newer than {held}, which the journal holds")]
    Epoch {
        /// As given.
        given: Epoch,
        /// Newest in the journal.
        held: Epoch,
    },
    /// The journal holds a request that could not have begun.
    #[error("the journal holds an impossible request")]
    Request(#[source] RequestError),
}

impl Migration {
    /// Accepts a move. The first `Ready` persists the request and gives the first orders.
    /// All hosts are taken for connected.
    pub fn begin(now: Now, request: MoveRequest) -> Result<(Self, Ready), RequestError> {
        let _ = (now, request);
        unimplemented!("follows in the next commit")
    }

    /// Takes a move up after a restart of the coordinator; `None` when it is over. No host is taken for connected:
    /// orders leave after each host's [`Input::AgentBack`]. `new_epoch` is above every epoch of `entries`, and the
    /// driver's next one is above [`Migration::epoch_last`].
    pub fn recover(
        now: Now,
        entries: &[JournalEntry],
        new_epoch: Epoch,
    ) -> Result<Option<(Self, Ready)>, RecoverError> {
        let _ = (now, entries, new_epoch);
        unimplemented!("follows in the next commit")
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Now, input: Input) -> Result<Ready, Illegal> {
        let _ = (now, input);
        unimplemented!("follows in the next commit")
    }

    /// The report as of now.
    pub fn report(&self, now: Now) -> MigrationReport {
        let _ = now;
        unimplemented!("follows in the next commit")
    }

    /// The move.
    pub fn id(&self) -> MigrationId {
        self.request.migration
    }

    /// Newest epoch this move may use.
    pub fn epoch_last(&self) -> Epoch {
        self.request.epoch_last()
    }

    /// What was asked.
    pub fn request(&self) -> &MoveRequest {
        &self.request
    }

    /// Stale and repeated reports, and timers that did not matter any more, so far.
    pub fn ignored(&self) -> u64 {
        0
    }
}
