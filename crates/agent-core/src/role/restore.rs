//! The way back before commit, and after it by an operator's decision: the VM is at home again, as
//! it was, with its frames put back in order.
//!
//! Every step may be taken again after a failure: the next order begins with the first and finds
//! what is done. Nothing that was kept is let go of before the last one has succeeded.

use transhume_protocol::message::{Fault, FaultKind, GuestState, OrderKind, Outcome, SourceFrames};

use super::source::{Doing, Source};
use super::{Home, Off, Role};
use crate::effect::{Act, Pace, Signal, Ticket};
use crate::input::Product;
use crate::machine::Cx;
use crate::trouble::Trouble;

/// How far the way back is.
#[derive(Debug, Clone)]
pub(super) struct Restoring {
    pub(super) ticket: Ticket,
    /// Whose answer it is: `AbortSource` or `Reclaim`.
    kind: OrderKind,
    step: Step,
    /// QEMU said meanwhile what the guest does: newer than what the step found.
    pub(super) heard: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It was surrendered, and may run again.
    Reclaim,
    /// Frames wait in the plug, all before them are kept.
    Shut,
    Cancel,
    Run,
    PutBack,
    /// There is nothing to run any more: what is left is cleared away.
    End,
}

impl Source {
    pub(super) fn begin_restore(mut self: Box<Self>, cx: &mut Cx<'_>, kind: OrderKind) -> Role {
        self.stream = false;
        cx.signal(Signal::Pace(Pace::Released));
        cx.signal(Signal::CutPageStream);
        // From here on the plug may be shut, and the guest may run again: a later agent must not
        // capture, and must open what is shut.
        self.restoring = self.buffers;
        let step = match (&self.ended, kind) {
            (Some(_), _) => Step::End,
            (None, OrderKind::Reclaim) => Step::Reclaim,
            (None, _) => self.first_step(),
        };
        self.restore(cx, kind, step)
    }

    fn first_step(&self) -> Step {
        match self.buffers {
            true => Step::Shut,
            false => Step::Cancel,
        }
    }

    fn restore(mut self: Box<Self>, cx: &mut Cx<'_>, kind: OrderKind, step: Step) -> Role {
        let act = match step {
            Step::Reclaim => Act::Reclaim { epoch: cx.epoch },
            Step::Shut => Act::ShutForAbort,
            Step::Cancel => Act::CancelMigration,
            Step::Run => Act::Cont,
            Step::PutBack => Act::PutBack,
            Step::End => Act::End,
        };
        let ticket = cx.act(act);
        let heard = false;
        self.doing = Doing::Restore(Restoring {
            ticket,
            kind,
            step,
            heard,
        });
        Role::Source(self)
    }

    pub(super) fn restore_went(
        mut self: Box<Self>,
        cx: &mut Cx<'_>,
        restoring: Restoring,
        result: Result<Product, Trouble>,
    ) -> Role {
        let (kind, closed) = (restoring.kind, self.closed.unwrap_or_default());
        let product = match result {
            Ok(product) => product,
            // QEMU ended on the way: it is cleared away instead.
            Err(_) if self.ended.is_some() && restoring.step != Step::End => {
                return self.restore(cx, kind, Step::End);
            }
            Err(trouble) => {
                cx.fail(kind, trouble);
                return Role::Source(self);
            }
        };
        match (restoring.step, product) {
            (Step::Reclaim, Product::Gone) => {
                self.ended = Some("its QEMU ended while it was kept".to_owned());
                self.restore(cx, kind, Step::End)
            }
            (Step::Reclaim, _) => {
                let step = self.first_step();
                self.restore(cx, kind, step)
            }
            (Step::Shut, _) => self.restore(cx, kind, Step::Cancel),
            (Step::Cancel, product) => {
                if let Product::Cancelled { run } = product
                    && !restoring.heard
                {
                    self.learn_after_cancel(cx, run);
                }
                // Where we did not stop it, it runs, or QEMU has put back the state that it was in.
                let step = match (
                    self.stopped && self.home.guest == GuestState::Running,
                    self.buffers,
                ) {
                    (true, _) => Step::Run,
                    (false, true) => Step::PutBack,
                    (false, false) => return self.restored(cx, kind, closed),
                };
                self.restore(cx, kind, step)
            }
            (Step::Run, _) if self.buffers => {
                self.stopped = false;
                self.restore(cx, kind, Step::PutBack)
            }
            (Step::Run, _) => self.restored(cx, kind, closed),
            (Step::PutBack, Product::SourceFrames(frames)) => self.restored(cx, kind, frames),
            (Step::PutBack, _) => {
                cx.fail(kind, super::unexpected());
                Role::Source(self)
            }
            (Step::End, product) => self.cleared(cx, kind, product),
        }
    }

    /// Whether its guest was told to run again.
    pub(super) fn is_told_to_run(&self) -> bool {
        matches!(&self.doing, Doing::Restore(restoring) if restoring.step == Step::Run)
    }

    fn restored(self: Box<Self>, cx: &mut Cx<'_>, kind: OrderKind, frames: SourceFrames) -> Role {
        if self.ended.is_some() {
            return self.restore(cx, kind, Step::End);
        }
        cx.end_move();
        cx.answer(kind, Outcome::SourceRestored(frames));
        let Home {
            spec,
            process,
            guest,
            started,
            ..
        } = self.home;
        Role::Home(Home::new(spec, process, guest, started, None))
    }

    /// Its place stays. What was captured for it is lost with it, and the account says so.
    fn cleared(self: Box<Self>, cx: &mut Cx<'_>, kind: OrderKind, product: Product) -> Role {
        let frames = match product {
            Product::Ended { source } => source.unwrap_or_default(),
            _ => SourceFrames::default(),
        };
        cx.end_move();
        let why = self.ended.unwrap_or_else(|| "its QEMU is gone".to_owned());
        let outcome = match kind {
            // The copy on its target is lost already.
            OrderKind::Reclaim => {
                let reason = format!(
                    "VM {} is lost on its source, host {}, too: {why}",
                    cx.name, cx.host
                );
                Outcome::Lost(Fault::new(FaultKind::Qemu, reason))
            }
            _ => Outcome::SourceRestored(frames),
        };
        cx.answer(kind, outcome);
        Role::Off(Off::new(self.home.spec, why, None))
    }
}
