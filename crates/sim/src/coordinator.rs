//! The driver: feeds the group state machine, keeps its journal, dies and recovers.

use transhume_model::{Epoch, HostName, Millis};
use transhume_protocol::event::Happening;
use transhume_protocol::message::Order;
use transhume_protocol::migration::{
    Illegal, Input, JournalEntry, Migration, MoveRequest, Now, Ready, RecoverError, TimerId,
};
use transhume_protocol::report::MigrationReport;

/// Where the coordinator can die while it carries a `Ready` out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// Nothing is durable, nothing has left.
    BeforePersist,
    /// All is durable, nothing has left.
    AfterPersist,
    /// All is durable, the first half of the orders has left.
    BetweenSends,
}

/// What is left of a `Ready` for the network.
#[derive(Debug, Default)]
pub(crate) struct ToDo {
    pub(crate) send: Vec<(HostName, Order)>,
    pub(crate) timers: Vec<(Millis, TimerId)>,
    pub(crate) died: bool,
}

/// The coordinator's process and its disk.
#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(crate) journal: Vec<JournalEntry>,
    machine: Option<Migration>,
    /// Differs after each start.
    pub(crate) run: u64,
    newest_epoch: Epoch,
    /// Events of this run.
    pub(crate) events: Vec<Happening>,
    pub(crate) is_over: bool,
}

impl Coordinator {
    pub(crate) fn new() -> Self {
        Coordinator {
            journal: Vec::new(),
            machine: None,
            run: 1,
            newest_epoch: Epoch(0),
            events: Vec::new(),
            is_over: false,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.machine.is_some()
    }

    pub(crate) fn machine(&self) -> Option<&Migration> {
        self.machine.as_ref()
    }

    pub(crate) fn begin(&mut self, now: Now, request: MoveRequest) -> Ready {
        let (machine, ready) = Migration::begin(now, request).expect("the scenario is sound");
        self.newest_epoch = machine.epoch_last();
        self.machine = Some(machine);
        ready
    }

    /// Like `begin`, in a new life: the user asks again, for nothing was durable.
    pub(crate) fn begin_again(&mut self, now: Now, request: MoveRequest) -> Ready {
        self.run += 1;
        self.begin(now, request)
    }

    /// One that nobody has had.
    pub(crate) fn next_epoch(&mut self) -> Epoch {
        self.newest_epoch = self.newest_epoch.next();
        self.newest_epoch
    }

    /// `None` while it is down or done.
    pub(crate) fn handle(&mut self, now: Now, input: Input) -> Option<Result<Ready, Illegal>> {
        self.machine.as_mut().map(|machine| machine.handle(now, input))
    }

    /// Starts from the journal; `None` if the journal says that the move is over.
    pub(crate) fn recover(&mut self, now: Now) -> Result<Option<Ready>, RecoverError> {
        self.run += 1;
        self.events.clear();
        let recovered = Migration::recover(now, &self.journal, self.newest_epoch.next())?;
        Ok(match recovered {
            Some((machine, ready)) => {
                self.newest_epoch = machine.epoch_last();
                self.machine = Some(machine);
                Some(ready)
            }
            None => {
                self.is_over = true;
                None
            }
        })
    }

    pub(crate) fn die(&mut self) {
        self.machine = None;
    }

    /// Persist, then send; or dies on the way.
    pub(crate) fn carry_out(&mut self, ready: Ready, crash: Option<CrashPoint>) -> ToDo {
        if crash == Some(CrashPoint::BeforePersist) {
            self.die();
            return ToDo {
                died: true,
                ..ToDo::default()
            };
        }
        self.journal.extend(ready.persist);
        self.events.extend(ready.events);
        let mut todo = ToDo {
            send: ready.send,
            timers: ready.timers,
            died: crash.is_some(),
        };
        match crash {
            Some(CrashPoint::AfterPersist) => todo.send.clear(),
            Some(CrashPoint::BetweenSends) => todo.send.truncate(todo.send.len() / 2),
            Some(CrashPoint::BeforePersist) | None => {}
        }
        if crash.is_some() {
            self.die();
        } else if ready.done {
            self.is_over = true;
        }
        todo
    }

    /// The report as the journal holds it.
    pub(crate) fn final_report(&self) -> Option<&MigrationReport> {
        match self.journal.last() {
            Some(JournalEntry::Ended { report }) => Some(report),
            _ => None,
        }
    }
}
