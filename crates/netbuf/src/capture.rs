//! The thread that captures: reads every frame from the stopped guest's tap, keeps it, forwards it.
//! Here is the handle that others hold; `worker.rs` does the work, and `closing.rs` has how the old
//! path closes.

mod worker;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::EventfdFlags;

pub(crate) use worker::{Outlet, Worker, account_of};

enum Command {
    Committed,
    Finish,
    Stop,
}

/// The handle of a running thread; dropping it ends the thread where it is.
pub(crate) struct Capture {
    /// Until the thread works.
    hand_over: Option<mpsc::Sender<Box<Worker>>>,
    commands: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
    /// Silent until the thread has ended. Only `&mut self` listens; the lock lets handles be
    /// shared.
    ended: Mutex<mpsc::Receiver<()>>,
    thread: Option<JoinHandle<Option<Box<Worker>>>>,
    /// What the thread owned, once it has ended.
    worker: Option<Box<Worker>>,
}

/// Why there is no worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoWorker {
    /// The thread still runs.
    Running,
    /// The thread panicked, or there never was one.
    Gone,
}

impl Capture {
    /// A thread that waits for what it is to own: everything that can fail, before it owns
    /// anything.
    pub(crate) fn prepare(tap: &str) -> io::Result<Self> {
        let wake = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let (commands, queue) = mpsc::channel();
        let (hand_over, handed_over) = mpsc::channel::<Box<Worker>>();
        let (ending, ended) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name(format!("capture {tap}"))
            .spawn(move || {
                let _ending: mpsc::Sender<()> = ending;
                // Nothing comes where the rest of the preparation failed.
                let mut worker = handed_over.recv().ok()?;
                worker.run(&queue);
                Some(worker)
            })?;
        Ok(Self {
            hand_over: Some(hand_over),
            commands,
            wake: Arc::new(wake),
            ended: Mutex::new(ended),
            thread: Some(thread),
            worker: None,
        })
    }

    /// By what the thread is woken.
    pub(crate) fn wake(&self) -> Arc<OwnedFd> {
        self.wake.clone()
    }

    /// From here on the thread works.
    pub(crate) fn start(&mut self, worker: Worker) {
        if let Some(hand_over) = self.hand_over.take() {
            // The thread waits for nothing else, so it is there.
            let _ = hand_over.send(Box::new(worker));
        }
    }

    fn command(&self, command: Command) {
        // A thread that has ended is noticed when its worker is asked for.
        let _ = self.commands.send(command);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    pub(crate) fn committed(&self) {
        self.command(Command::Committed);
    }

    /// Begins to close the old path; nothing to do where it is closing.
    pub(crate) fn close(&self) {
        self.command(Command::Finish);
    }

    /// Ends the thread where it is.
    pub(crate) fn stop(&self) {
        self.command(Command::Stop);
    }

    /// What the thread owned, if it ends within `wait`.
    pub(crate) fn ended(&mut self, wait: Duration) -> Result<&mut Worker, NoWorker> {
        if let Some(thread) = self.thread.take() {
            let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
            if ended.recv_timeout(wait) == Err(mpsc::RecvTimeoutError::Timeout) {
                self.thread = Some(thread);
                return Err(NoWorker::Running);
            }
            self.worker = thread.join().ok().flatten();
        }
        self.worker.as_deref_mut().ok_or(NoWorker::Gone)
    }

    /// The same by value; it is not there a second time.
    pub(crate) fn take_ended(&mut self) -> Option<Worker> {
        self.worker.take().map(|worker| *worker)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.hand_over = None;
            self.stop();
            // Its end is all that matters.
            let _ = thread.join();
        }
    }
}
