//! Step 5. The order within binds (design §3): plug shut, ring empty, only then stop; QEMU purges
//! what it has read and the guest has not taken.

use transhume_model::WallMicros;
use transhume_protocol::message::{CaptureTimes, GuestState, Mode, OrderKind, Outcome};

use super::Role;
use super::source::{Doing, Source};
use crate::effect::{Act, Pace, Signal, Ticket};
use crate::input::{Product, RunState};
use crate::machine::Cx;
use crate::trouble::Trouble;

/// How far the capture is.
#[derive(Debug, Clone)]
pub(super) struct Capturing {
    pub(super) ticket: Ticket,
    step: Step,
    /// The guest takes no frames, or does not run: nothing is waited for.
    as_is: bool,
    begun_at: WallMicros,
    shut_at: WallMicros,
    empty_at: WallMicros,
    stopped_at: WallMicros,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    CatchUp,
    Shut,
    Stop,
    Capture,
}

impl Source {
    pub(super) fn begin_capture(mut self: Box<Self>, cx: &mut Cx<'_>) -> Role {
        let running = self.home.guest == GuestState::Running;
        let capturing = Capturing {
            ticket: Ticket(0),
            step: Step::CatchUp,
            as_is: !running || self.copying.is_deaf(cx.now.mono),
            begun_at: cx.now.wall,
            shut_at: WallMicros(0),
            empty_at: WallMicros(0),
            stopped_at: WallMicros(0),
        };
        if self.order.mode == Mode::Offline || !running {
            return self.shut(cx, capturing);
        }
        // What the held stream has put off goes across while the guest still runs.
        cx.signal(Signal::Pace(Pace::Released));
        if capturing.as_is {
            // Its full ring is read meanwhile: that takes as long, and the others are stopped.
            return self.shut(cx, capturing);
        }
        let ticket = cx.act(Act::CatchUp);
        self.doing = Doing::Capture(Capturing { ticket, ..capturing });
        Role::Source(self)
    }

    /// Recorded as capturing before a frame can be missed.
    fn shut(mut self: Box<Self>, cx: &mut Cx<'_>, capturing: Capturing) -> Role {
        // Held again, QEMU does not contend with its own search for dirty pages while the guest
        // empties its ring.
        let as_is = capturing.as_is;
        if self.home.guest == GuestState::Running && !as_is {
            cx.signal(Signal::Pace(Pace::Held));
        }
        self.capturing = true;
        let ticket = cx.act(Act::ShutSourceBuffer { as_is });
        let step = Step::Shut;
        self.doing = Doing::Capture(Capturing {
            ticket,
            step,
            ..capturing
        });
        Role::Source(self)
    }

    fn stop(mut self: Box<Self>, cx: &mut Cx<'_>, mut capturing: Capturing) -> Role {
        if self.home.guest != GuestState::Running {
            return self.capture(cx, capturing);
        }
        (capturing.ticket, capturing.step) = (cx.act(Act::Stop), Step::Stop);
        // Whether it obeys or not, it is told to run again on the way back.
        self.stopped = true;
        self.doing = Doing::Capture(capturing);
        Role::Source(self)
    }

    /// It may have fallen in the instant of its stop, and what QEMU says of that by itself may come
    /// later than it matters: a guest that panicked is not to run at the target.
    fn stopped_as(mut self: Box<Self>, cx: &mut Cx<'_>, capturing: Capturing, run: RunState) -> Role {
        match run {
            RunState::Panicked => self.home.guest = GuestState::Panicked,
            RunState::DiskError => self.home.guest = GuestState::DiskError,
            RunState::Shutdown => self.powered_off(cx),
            _ => {}
        }
        self.capture(cx, capturing)
    }

    fn capture(mut self: Box<Self>, cx: &mut Cx<'_>, mut capturing: Capturing) -> Role {
        cx.signal(Signal::Pace(Pace::Released));
        capturing.stopped_at = cx.now.wall;
        (capturing.ticket, capturing.step) = (cx.act(Act::Capture), Step::Capture);
        self.doing = Doing::Capture(capturing);
        Role::Source(self)
    }

    pub(super) fn capture_went(
        self: Box<Self>,
        cx: &mut Cx<'_>,
        mut capturing: Capturing,
        result: Result<Product, Trouble>,
    ) -> Role {
        match (capturing.step, result) {
            (Step::CatchUp, Ok(_)) => self.shut(cx, capturing),
            (Step::Shut, Ok(Product::Shut { shut_at, empty_at })) => {
                (capturing.shut_at, capturing.empty_at) = (shut_at, empty_at);
                self.stop(cx, capturing)
            }
            (Step::Shut, Ok(_)) => self.not_captured(cx, super::unexpected()),
            (Step::Stop, Ok(Product::Stopped { run })) => self.stopped_as(cx, capturing, run),
            (Step::Stop, Ok(_)) => self.not_captured(cx, super::unexpected()),
            (Step::Capture, Ok(_)) => {
                let times = CaptureTimes {
                    begun_at: capturing.begun_at,
                    shut_at: capturing.shut_at,
                    empty_at: capturing.empty_at,
                    stopped_at: capturing.stopped_at,
                    capturing_at: cx.now.wall,
                };
                let guest = self.home.guest;
                cx.answer(OrderKind::Capture, Outcome::Captured { times, guest });
                Role::Source(self)
            }
            (_, Err(trouble)) => self.not_captured(cx, trouble),
        }
    }

    /// The coordinator rolls back then; the stream must not stay held.
    fn not_captured(self: Box<Self>, cx: &mut Cx<'_>, trouble: Trouble) -> Role {
        cx.signal(Signal::Pace(Pace::Released));
        cx.fail(OrderKind::Capture, trouble);
        Role::Source(self)
    }
}
