//! When the VM is announced to the fabric: once what came before its activation is in, at FIN, and
//! whenever the fabric still sends to the source.

use std::io;
use std::sync::mpsc;
use std::time::Instant;

use super::worker::Worker;
use crate::limits::{ACTIVATE_WAIT_MAX, REMIND_PAUSE};
use crate::target::Activated;
use crate::wall;

/// An activation waits until everything that had come before it is in, but not for ever.
pub(super) enum Activation {
    Waiting,
    Injecting {
        up_to: usize,
        since: Instant,
        answers: Vec<mpsc::Sender<Activated>>,
    },
    Done(Activated),
}

impl Worker {
    pub(super) fn begin_activation(&mut self, now: Instant) {
        if let Activation::Waiting = self.activation {
            self.activation = Activation::Injecting {
                up_to: self.spool.tail(),
                since: now,
                answers: Vec::new(),
            };
        }
    }

    pub(super) fn activate(&mut self, answer: mpsc::Sender<Activated>) {
        self.begin_activation(Instant::now());
        match &mut self.activation {
            Activation::Injecting { answers, .. } => answers.push(answer),
            // An agent that gave up waiting needs no answer.
            Activation::Done(activated) => drop(answer.send(*activated)),
            Activation::Waiting => {}
        }
    }

    /// Once everything that had come before the activation is in, the VM is announced; or when the
    /// guest has left its ring full for too long. No frame is overtaken by that: the plug opens on
    /// FIN, which lies behind them.
    pub(super) fn announce_when_in(&mut self, now: Instant, deaf: bool) -> io::Result<()> {
        let Activation::Injecting { up_to, since, .. } = &self.activation else {
            return Ok(());
        };
        if self.next < *up_to && !deaf && now - *since <= ACTIVATE_WAIT_MAX {
            return Ok(());
        }
        let injected_at = wall();
        let waiting_frames = self.frames_before(*up_to);
        self.announce()?;
        let activated = Activated {
            injected_at,
            announced_at: wall(),
            waiting_frames,
        };
        let before = std::mem::replace(&mut self.activation, Activation::Done(activated));
        if let Activation::Injecting { answers, .. } = before {
            for answer in answers {
                // An agent that gave up waiting needs no answer.
                let _ = answer.send(activated);
            }
        }
        Ok(())
    }

    /// Frames from the next one on that lie before an offset.
    fn frames_before(&self, offset: usize) -> u64 {
        let (mut at, mut frames) = (self.next, 0);
        while at < offset
            && let Ok(Some(record)) = self.spool.record(at)
        {
            frames += u64::from(record.kind.is_frame());
            at = record.next;
        }
        frames
    }

    pub(super) fn announce(&self) -> io::Result<()> {
        self.tap
            .announce(&self.own, Some(self.signature()))
            .map_err(io::Error::other)
    }

    /// A frame that came by the old path behind the marker: some bridge does not know where the VM
    /// is. One of a link that went down has forgotten it and floods to both sides, so that the VM
    /// has each frame twice until it is heard from. It is, now.
    pub(super) fn remind_fabric(&mut self, now: Instant) {
        if self.reminded_at.is_some_and(|before| now - before < REMIND_PAUSE) {
            return;
        }
        self.reminded_at = Some(now);
        if let Err(error) = self.announce() {
            tracing::warn!(vm = %self.identity.vm, "not announced again: {error}");
        }
    }
}
