//! The thread that delivers, from outside: told to activate, to finish, to end. What it does is in
//! `worker`.

mod announcing;
mod worker;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::account::TargetAccount;
use crate::target::Activated;

pub(crate) use worker::Worker;

/// The account, and how often the guest's ring was full.
type Closed = (TargetAccount, u64);

#[derive(Debug)]
pub(crate) enum Command {
    Activate(mpsc::Sender<Activated>),
    Finish(mpsc::Sender<Closed>),
    OpenPlug,
    End,
}

/// Why the thread did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    NotInTime,
    ThreadGone,
}

/// Opens a plug for which no FIN comes; also while somebody waits for the buffer to close.
#[derive(Debug, Clone)]
pub struct PlugOpener {
    commands: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
}

impl PlugOpener {
    /// The source is lost. What is here is delivered, then the plug opens and the buffer closes.
    /// What the source still sends is dropped, counted in the log. Fine when it is open.
    pub fn open(&self) {
        tell(&self.commands, &self.wake, Command::OpenPlug);
    }
}

fn tell(commands: &mpsc::Sender<Command>, wake: &OwnedFd, command: Command) {
    // A thread that has ended is noticed when its answer does not come.
    let _ = commands.send(command);
    let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
}

/// The handle of a running thread; dropping it ends the thread.
pub(crate) struct Deliver {
    commands: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Deliver {
    pub(crate) fn spawn(mut worker: Worker) -> io::Result<Self> {
        let (commands, queue) = mpsc::channel();
        let wake = worker.wake.clone();
        let thread = std::thread::Builder::new()
            .name(format!("deliver {}", worker.tap.name()))
            .spawn(move || worker.run(&queue))?;
        Ok(Self {
            commands,
            wake,
            thread: Some(thread),
        })
    }

    fn command(&self, command: Command) {
        tell(&self.commands, &self.wake, command);
    }

    pub(crate) fn opener(&self) -> PlugOpener {
        PlugOpener {
            commands: self.commands.clone(),
            wake: self.wake.clone(),
        }
    }

    /// The thread has its own limits for this; `None` where it has ended.
    pub(crate) fn activate(&self) -> Option<Activated> {
        let (answer, answered) = mpsc::channel();
        self.command(Command::Activate(answer));
        answered.recv().ok()
    }

    /// Waits until the source has closed.
    pub(crate) fn finish(&self, wait: Duration) -> Result<Closed, NoAnswer> {
        let (answer, answered) = mpsc::channel();
        self.command(Command::Finish(answer));
        answered.recv_timeout(wait).map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => NoAnswer::NotInTime,
            mpsc::RecvTimeoutError::Disconnected => NoAnswer::ThreadGone,
        })
    }

    /// Ends the thread where it is.
    pub(crate) fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.command(Command::End);
            // Its end is all that matters.
            let _ = thread.join();
        }
    }
}

impl Drop for Deliver {
    fn drop(&mut self) {
        self.end();
    }
}
