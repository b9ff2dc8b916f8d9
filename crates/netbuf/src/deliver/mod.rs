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

enum Command {
    Activate(mpsc::Sender<Activated>),
    Finish(mpsc::Sender<Closed>),
    End,
}

/// Why the thread did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    NotInTime,
    ThreadGone,
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
        // A thread that has ended is noticed when its answer does not come.
        let _ = self.commands.send(command);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
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
