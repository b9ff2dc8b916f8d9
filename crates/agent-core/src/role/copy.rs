//! Steps 2 and 6 at the source: memory is copied while the guest runs, and the rest when it has
//! stopped.

use transhume_model::{Millis, WallMicros};
use transhume_protocol::message::{CopyTimes, FaultKind, GuestState, Mode, OrderKind, Outcome, PageProgress};

use super::Role;
use super::source::{Copying, Doing, Source};
use crate::effect::{Act, Pace, Signal, Ticket, Timer};
use crate::input::{CopyStatus, Flow, Looked, Product};
use crate::limits::{
    BUFFER_MARGIN_MS, DEAF_MS_MIN, FLOOD_MS_MAX, LAG_LOOK_MS, LAG_MS_MAX, PROBE_AGAIN_MS, PROBE_EVERY_MS,
    PROGRESS_MS, ROUNDS_MIN, SUSPECTED_MS_MIN,
};
use crate::machine::Cx;
use crate::trouble::Trouble;

impl Copying {
    /// Whether the capture is not to wait for the guest: it takes no frames, or has taken none for
    /// as long as the capture would wait.
    pub(super) fn is_deaf(&self, now: Millis) -> bool {
        self.takes == Some(false)
            || self
                .deaf_since
                .is_some_and(|since| now >= since + SUSPECTED_MS_MIN)
    }
}

impl Source {
    /// The target's agent is there. Live, QEMU begins to write; offline, nothing is copied before
    /// the capture.
    pub(super) fn stream_opened(mut self: Box<Self>, cx: &mut Cx<'_>) -> Role {
        self.stream = true;
        match self.order.mode {
            Mode::Live => {
                self.doing = Doing::StartMigration(cx.act(Act::StartMigration));
                Role::Source(self)
            }
            Mode::Offline => {
                self.copying.fits = Some(PageProgress::default());
                cx.answer(OrderKind::PreCopy, Outcome::PreCopying);
                self.report_convergence(cx);
                Role::Source(self)
            }
        }
    }

    pub(super) fn stream_flows(&mut self, cx: &mut Cx<'_>) {
        cx.answer(OrderKind::PreCopy, Outcome::PreCopying);
        cx.timer(PROGRESS_MS, Timer::Look);
    }

    /// Whether memory is being copied while the guest may run.
    fn copies(&self) -> bool {
        let under_way = self.stream && !self.stopped && !self.capturing && self.ended.is_none();
        under_way && self.order.mode == Mode::Live && !matches!(self.doing, Doing::Restore(_))
    }

    /// Looks how far the copying is, unless a look is under way.
    pub(super) fn look(&mut self, cx: &mut Cx<'_>) {
        if self.copies() && self.copying.looking.is_none() {
            self.copying.looking = Some(cx.act(Act::Look));
            self.copying.heard = false;
        }
    }

    /// Asks whether the guest takes frames, again and again until the capture: one that panics goes
    /// on taking them until its ring is full. One that takes none is taken as it is then, or the
    /// healthy guests of its batch would stand still while it is waited for.
    pub(super) fn probe(&mut self, cx: &mut Cx<'_>) {
        if !self.may_be_asked() || self.copying.probing.is_some() {
            return;
        }
        if self.home.guest == GuestState::Running {
            // One that is known for deaf is not asked again: its capture would wait for the answer,
            // and finds out by itself where it takes frames after all.
            let known = self.copying.takes == Some(false) && self.copying.deaf_since.is_some();
            self.copying.probing = (!known).then(|| cx.act(Act::ProbeGuest));
        } else {
            self.copying.takes = Some(false);
            self.report_convergence(cx);
            cx.timer(PROBE_EVERY_MS, Timer::Probe);
        }
    }

    fn may_be_asked(&self) -> bool {
        let runs_on = !self.stopped && self.ended.is_none();
        self.buffers && runs_on && !self.capturing && !self.restoring
    }

    /// A look or a probe is answered.
    pub(super) fn looked(&mut self, cx: &mut Cx<'_>, ticket: Ticket, result: Result<Product, Trouble>) {
        if self.copying.looking == Some(ticket) {
            self.copying.looking = None;
            let pause = match result {
                Ok(Product::Looked(looked)) if self.copies() => self.see(cx, looked),
                // A look that fails is taken again.
                Ok(_) | Err(_) => PROGRESS_MS,
            };
            if self.copies() {
                cx.timer(pause, Timer::Look);
            }
        } else if self.copying.probing == Some(ticket) {
            self.copying.probing = None;
            self.probed(cx, result);
        }
    }

    /// A guest takes frames if it took one, and takes none if it took none for long; until then it
    /// is asked again.
    fn probed(&mut self, cx: &mut Cx<'_>, result: Result<Product, Trouble>) {
        // Where it cannot be told the capture waits for the guest, as for a healthy one.
        let took = !matches!(result, Ok(Product::Takes(false)));
        if took {
            (self.copying.takes, self.copying.deaf_since) = (Some(true), None);
            self.report_convergence(cx);
            return cx.timer(PROBE_EVERY_MS, Timer::Probe);
        }
        let now = cx.now.mono;
        let since = *self.copying.deaf_since.get_or_insert(now);
        if now < since + DEAF_MS_MIN {
            return cx.timer(PROBE_AGAIN_MS, Timer::Probe);
        }
        self.copying.takes = Some(false);
        self.report_convergence(cx);
    }

    /// Decides by one look; returns the pause before the next.
    fn see(&mut self, cx: &mut Cx<'_>, looked: Looked) -> Millis {
        if let Some(guest) = looked.run.guest().filter(|_| !self.copying.heard) {
            self.home.guest = guest;
        }
        let running = self.home.guest == GuestState::Running;
        match looked.status {
            CopyStatus::Lost { why } => {
                self.lose_stream(cx, format!("QEMU ended the migration: {why}"));
                PROGRESS_MS
            }
            // The frames of a guest that nobody captured are lost: it has to run again here.
            CopyStatus::PreSwitchover | CopyStatus::Sent if running => {
                let why = "QEMU stopped the guest without waiting for the target's agreement, or its user did just then";
                self.lose_stream(cx, why.to_owned());
                PROGRESS_MS
            }
            // A guest that does not run dirties nothing: QEMU is through with it.
            CopyStatus::PreSwitchover | CopyStatus::Sent => {
                self.copying.fits.get_or_insert(looked.pages);
                self.progressed(cx, looked.pages);
                PROGRESS_MS
            }
            CopyStatus::Idle => PROGRESS_MS,
            CopyStatus::Active => self.see_active(cx, &looked),
        }
    }

    fn see_active(&mut self, cx: &mut Cx<'_>, looked: &Looked) -> Millis {
        let pages = looked.pages;
        let copied_once = pages.rounds >= ROUNDS_MIN;
        if copied_once && !self.copying.held {
            // From now on QEMU looks for dirty pages without a pause, and is read slowly while it
            // finds none.
            self.copying.held = true;
            cx.signal(Signal::Pace(Pace::Held));
        }
        if self.copying.fits.is_some() {
            self.report_convergence(cx);
            return PROGRESS_MS;
        }
        if !copied_once || pages.blackout > self.order.blackout_max {
            self.progressed(cx, pages);
            return PROGRESS_MS;
        }
        if self.floods(cx, looked) {
            // Its passes would be taken for those of a guest that writes too much.
            return PROGRESS_MS;
        }
        let now = cx.now.mono;
        let since = *self.copying.fits_since.get_or_insert(now);
        if !looked.lag_within_limit && now < since + LAG_MS_MAX {
            // What is under way would be waited for with the guest stopped.
            return LAG_LOOK_MS;
        }
        self.copying.fits = Some(pages);
        self.progressed(cx, pages);
        PROGRESS_MS
    }

    /// Whether more would come for the guest in its blackout than its buffer holds: the batch would
    /// stand still for nothing, and go back. Said when it has lasted for long.
    fn floods(&mut self, cx: &mut Cx<'_>, looked: &Looked) -> bool {
        let needed = looked.pages.blackout + BUFFER_MARGIN_MS;
        let Some(held_for) = looked.flow.held_for().filter(|held_for| *held_for < needed) else {
            self.copying.floods_since = None;
            return false;
        };
        let now = cx.now.mono;
        let since = *self.copying.floods_since.get_or_insert(now);
        if now >= since + FLOOD_MS_MAX {
            self.copying.floods_since = Some(now);
            let Flow {
                bytes_per_s,
                bytes_max,
            } = looked.flow;
            let reason = format!(
                "VM {} on host {} takes {bytes_per_s} bytes a second from the network; its buffer holds {bytes_max}, \
                 which is {held_for} of that, and its blackout is expected to last {needed}",
                cx.name, cx.host
            );
            cx.speak_up(Trouble::failed(FaultKind::BufferLimit, reason));
        }
        true
    }

    fn progressed(&mut self, cx: &mut Cx<'_>, pages: PageProgress) {
        if !self.copying.converged && !self.report_convergence(cx) {
            cx.report_on(self.order.given(), Outcome::Progress(pages));
        }
    }

    /// Says once that the blackout fits, as soon as it is known whether the guest takes frames.
    fn report_convergence(&mut self, cx: &mut Cx<'_>) -> bool {
        let (Some(pages), Some(_), false) = (self.copying.fits, self.copying.takes, self.copying.converged)
        else {
            return false;
        };
        self.copying.converged = true;
        cx.report_on(self.order.given(), Outcome::Converged(pages));
        true
    }

    fn lose_stream(&mut self, cx: &mut Cx<'_>, why: String) {
        self.stream = false;
        cx.signal(Signal::CutPageStream);
        let reason = format!("VM {} on host {}: {why}", cx.name, cx.host);
        cx.speak_up(Trouble::failed(FaultKind::Qemu, reason));
    }

    /// Step 6 is over.
    pub(super) fn copied(
        self: Box<Self>,
        cx: &mut Cx<'_>,
        begun_at: WallMicros,
        result: Result<Product, Trouble>,
    ) -> Role {
        match result {
            Ok(Product::Copied {
                pages,
                pre_switchover_at,
            }) => {
                let times = CopyTimes {
                    begun_at,
                    pre_switchover_at,
                    completed_at: cx.now.wall,
                };
                cx.answer(OrderKind::StopAndCopy, Outcome::Copied { pages, times });
            }
            Ok(_) => cx.fail(OrderKind::StopAndCopy, super::unexpected()),
            Err(trouble) => cx.fail(OrderKind::StopAndCopy, trouble),
        }
        Role::Source(self)
    }
}
