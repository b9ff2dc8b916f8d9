//! The way back before commit: the VM is at home again, as it was, with its frames put back in
//! order.
//!
//! Every step may be taken again after a failure: the next order begins with the first and finds
//! what is done. Nothing that was kept is let go of before the last one has succeeded.

use transhume_protocol::message::{GuestState, OrderKind, Outcome, SourceFrames};

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
    step: Step,
    /// QEMU said meanwhile what the guest does: newer than what the step found.
    pub(super) heard: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Frames wait in the plug, all before them are kept.
    Shut,
    Cancel,
    Run,
    PutBack,
    /// There is nothing to run any more: what is left is cleared away.
    End,
}

impl Source {
    pub(super) fn begin_restore(mut self: Box<Self>, cx: &mut Cx<'_>) -> Role {
        self.stream = false;
        cx.signal(Signal::Pace(Pace::Released));
        cx.signal(Signal::CutPageStream);
        // From here on the plug may be shut, and the guest may run again: a later agent must not
        // capture, and must open what is shut.
        self.restoring = self.buffers;
        let step = match (&self.ended, self.buffers) {
            (Some(_), _) => Step::End,
            (None, true) => Step::Shut,
            (None, false) => Step::Cancel,
        };
        self.restore(cx, step)
    }

    fn restore(mut self: Box<Self>, cx: &mut Cx<'_>, step: Step) -> Role {
        let act = match step {
            Step::Shut => Act::ShutForAbort,
            Step::Cancel => Act::CancelMigration,
            Step::Run => Act::Cont,
            Step::PutBack => Act::PutBack,
            Step::End => Act::End,
        };
        let ticket = cx.act(act);
        let heard = false;
        self.doing = Doing::Restore(Restoring { ticket, step, heard });
        Role::Source(self)
    }

    pub(super) fn restore_went(
        mut self: Box<Self>,
        cx: &mut Cx<'_>,
        restoring: Restoring,
        result: Result<Product, Trouble>,
    ) -> Role {
        let product = match result {
            Ok(product) => product,
            // QEMU ended on the way: it is cleared away instead.
            Err(_) if self.ended.is_some() && restoring.step != Step::End => {
                return self.restore(cx, Step::End);
            }
            Err(trouble) => {
                cx.fail(OrderKind::AbortSource, trouble);
                return Role::Source(self);
            }
        };
        match (restoring.step, product) {
            (Step::Shut, _) => self.restore(cx, Step::Cancel),
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
                    (false, false) => return self.restored(cx, SourceFrames::default()),
                };
                self.restore(cx, step)
            }
            (Step::Run, _) if self.buffers => {
                self.stopped = false;
                self.restore(cx, Step::PutBack)
            }
            (Step::Run, _) => self.restored(cx, SourceFrames::default()),
            (Step::PutBack, Product::SourceFrames(frames)) => self.restored(cx, frames),
            (Step::PutBack, _) => {
                cx.fail(OrderKind::AbortSource, super::unexpected());
                Role::Source(self)
            }
            (Step::End, product) => self.cleared(cx, product),
        }
    }

    /// Whether its guest was told to run again.
    pub(super) fn is_told_to_run(&self) -> bool {
        matches!(&self.doing, Doing::Restore(restoring) if restoring.step == Step::Run)
    }

    fn restored(self: Box<Self>, cx: &mut Cx<'_>, frames: SourceFrames) -> Role {
        if self.ended.is_some() {
            return self.restore(cx, Step::End);
        }
        cx.end_move();
        cx.answer(OrderKind::AbortSource, Outcome::SourceRestored(frames));
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
    fn cleared(self: Box<Self>, cx: &mut Cx<'_>, product: Product) -> Role {
        let frames = match product {
            Product::Ended { source } => source.unwrap_or_default(),
            _ => SourceFrames::default(),
        };
        cx.end_move();
        cx.answer(OrderKind::AbortSource, Outcome::SourceRestored(frames));
        let why = self.ended.unwrap_or_else(|| "its QEMU is gone".to_owned());
        Role::Off(Off::new(self.home.spec, why, None))
    }
}
