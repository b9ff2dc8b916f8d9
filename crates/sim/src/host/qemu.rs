//! A simulated QEMU: a process that lives on when its agent does not.

use transhume_agent_core::{RunState, SpawnFor};
use transhume_model::ProcessId;

use crate::network::Micros;

/// How far a source's migration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copying {
    /// There is none.
    No,
    /// Memory is copied; from then on the predicted blackout fits.
    Since { begun: Micros, fits: Micros },
    /// All is sent but what only a stopped guest gives away.
    PreSwitchover,
    /// Everything is sent.
    Sent,
    /// It failed.
    Lost,
}

/// One process.
#[derive(Debug)]
pub(crate) struct Qemu {
    pub(crate) id: ProcessId,
    pub(crate) run: RunState,
    /// What a cancelled migration goes back to.
    before: RunState,
    /// The last frame that the guest in it has seen: all there is of its memory.
    pub(crate) seen: u64,
    /// The whole VM is here.
    pub(crate) loaded: bool,
    pub(crate) copying: Copying,
    /// The guest takes no frames.
    pub(crate) deaf: bool,
    /// The frame that was read for a guest that does not take it.
    pub(crate) held: Option<u64>,
}

impl Qemu {
    pub(crate) fn new(pid: u32, purpose: SpawnFor) -> Self {
        let incoming = purpose == SpawnFor::Incoming;
        let run = if incoming {
            RunState::InMigrate
        } else {
            RunState::Prelaunch
        };
        Qemu {
            id: ProcessId {
                pid,
                start_ticks: u64::from(pid),
                boot: "b".to_owned(),
            },
            run,
            before: run,
            seen: 0,
            loaded: !incoming,
            copying: Copying::No,
            deaf: false,
            held: None,
        }
    }

    /// Whether its processors run: at most one copy of a VM may.
    pub(crate) fn runs(&self) -> bool {
        self.run == RunState::Running
    }

    /// Lets the guest run. QEMU obeys also where it must never be asked: fencing is the agents'.
    pub(crate) fn cont(&mut self) -> Result<(), &'static str> {
        match self.run {
            RunState::InMigrate => Err("it waits for its page stream"),
            RunState::FinishMigrate => Err("its migration is not finalized yet"),
            RunState::Shutdown => Err("its guest is powered off"),
            RunState::Running => Ok(()),
            RunState::Paused
            | RunState::Prelaunch
            | RunState::PostMigrate
            | RunState::DiskError
            | RunState::Panicked => {
                self.run = RunState::Running;
                Ok(())
            }
        }
    }

    /// Stops the guest; returns the frame that was read for it and is thrown away.
    pub(crate) fn stop(&mut self) -> Option<u64> {
        if self.runs() {
            self.run = RunState::Paused;
        }
        self.held.take()
    }

    /// The guest stops by itself.
    pub(crate) fn fall(&mut self, to: RunState) -> Option<u64> {
        self.run = to;
        self.held.take()
    }

    /// A guest that does not run dirties nothing: its migration comes to its end without any
    /// agreement.
    pub(crate) fn copy_on(&mut self) {
        if matches!(self.copying, Copying::Since { .. }) && !self.runs() {
            self.copying = Copying::PreSwitchover;
            self.finish_migrate();
        }
    }

    pub(crate) fn finish_migrate(&mut self) {
        if !matches!(self.run, RunState::FinishMigrate | RunState::PostMigrate) {
            self.before = self.run;
            self.run = RunState::FinishMigrate;
        }
    }

    /// Its guest powered itself off, whatever a migration made of the run state since.
    pub(crate) fn has_shut_down(&self) -> bool {
        let moving = matches!(self.run, RunState::FinishMigrate | RunState::PostMigrate);
        self.run == RunState::Shutdown || moving && self.before == RunState::Shutdown
    }

    /// The state in which a target loads what this one was.
    pub(crate) fn stopped_as(&self) -> RunState {
        match self.run {
            RunState::FinishMigrate => match self.before {
                fallen @ (RunState::DiskError | RunState::Panicked) => fallen,
                _ => RunState::Paused,
            },
            _ => RunState::Paused,
        }
    }

    /// Everything is sent.
    pub(crate) fn sent(&mut self) {
        self.finish_migrate();
        self.copying = Copying::Sent;
        self.run = RunState::PostMigrate;
    }

    /// The migration is cancelled, or its stream broke: the guest is what it was.
    pub(crate) fn cancel(&mut self, to: Copying) {
        if self.copying != Copying::Sent {
            self.copying = to;
            if self.run == RunState::FinishMigrate {
                self.run = self.before;
            }
        }
    }
}
