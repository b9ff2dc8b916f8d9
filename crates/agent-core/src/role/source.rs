//! A VM that leaves: the copy here is primary until the batch is committed. The steps of its
//! switchover are in `copy` (steps 2 and 6), `capture` (step 5) and `restore` (the way back).

use transhume_model::{Endpoint, Epoch, MigrationId, Millis, OrderId, VmSpec};
use transhume_protocol::message::{
    Command, FaultKind, GuestState, Mode, Order, OrderKind, Outcome, PageProgress, SourceFrames,
};

use super::capture::Capturing;
use super::restore::Restoring;
use super::{Home, Left, Role, Stays, Transition, wrong_state};
use crate::effect::{Act, Ticket, Timer};
use crate::input::{Input, Product, RunState};
use crate::machine::Cx;
use crate::record::Place;
use crate::trouble::Trouble;

/// The order that a source obeys.
#[derive(Debug, Clone)]
pub(super) struct PreCopyOrder {
    pub(super) id: OrderId,
    /// Of this order: a newer coordinator does not know its id.
    pub(super) epoch: Epoch,
    pub(super) migration: MigrationId,
    pub(super) mode: Mode,
    pub(super) blackout_max: Millis,
}

impl PreCopyOrder {
    pub(super) fn given(&self) -> (OrderId, Epoch) {
        (self.id, self.epoch)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// What it is again after a roll-back. Its guest state is what the guest did by itself,
    /// whatever we stopped.
    pub(super) home: Home,
    pub(super) order: PreCopyOrder,
    /// The page stream is up.
    pub(super) stream: bool,
    pub(super) copying: Copying,
    /// Its buffers are there.
    pub(super) buffers: bool,
    /// Frames are, or were, being captured.
    pub(super) capturing: bool,
    /// Frames are being put back.
    pub(super) restoring: bool,
    pub(super) tunnels: Vec<Endpoint>,
    /// We stopped its guest for the switchover.
    pub(super) stopped: bool,
    /// Why nothing of it can run any more.
    pub(super) ended: Option<String>,
    /// Its QEMU was gone when this agent started: its buffers are not taken up.
    pub(super) orphaned: bool,
    /// Its account, where it was surrendered and all was delivered.
    pub(super) closed: Option<SourceFrames>,
    pub(super) doing: Doing,
}

/// Steps 2 to 4: how far the copying is.
#[derive(Debug, Clone, Default)]
pub(super) struct Copying {
    /// A look that is not answered yet.
    pub(super) looking: Option<Ticket>,
    /// QEMU said since what its guest does: that is newer than what the look saw.
    pub(super) heard: bool,
    /// Whether the guest is being asked if it takes frames.
    pub(super) probing: Option<Ticket>,
    /// Whether it takes frames; `None` until that is known.
    pub(super) takes: Option<bool>,
    /// Since when it was seen to take none.
    pub(super) deaf_since: Option<Millis>,
    /// Since when everything would fit but what comes for the guest meanwhile.
    pub(super) floods_since: Option<Millis>,
    /// When the predicted blackout first fitted.
    pub(super) fits_since: Option<Millis>,
    /// The predicted blackout fits, and the target's agent lags little.
    pub(super) fits: Option<PageProgress>,
    /// The coordinator knows that it does.
    pub(super) converged: bool,
    /// The stream is read slowly while it is idle.
    pub(super) held: bool,
}

/// The order that is being carried out, and how far.
#[derive(Debug, Clone)]
pub(super) enum Doing {
    Nothing,
    OpenStream(Ticket),
    StartMigration(Ticket),
    OpenBuffer(Ticket),
    Connect(Ticket),
    Capture(Capturing),
    Copy {
        ticket: Ticket,
        begun_at: transhume_model::WallMicros,
    },
    Restore(Restoring),
    /// It is destroyed.
    End(Ticket),
}

impl Source {
    /// Step 2: recorded as a source before its stream begins.
    pub(super) fn begin(cx: &mut Cx<'_>, home: Home, order: PreCopyOrder, target: Endpoint) -> Role {
        cx.begin_move(OrderKind::PreCopy, order.id);
        let doing = Doing::OpenStream(cx.act(Act::OpenPageStream {
            spec: home.spec.clone(),
            epoch: cx.epoch,
            target,
        }));
        let home = home.without_arrival();
        Role::Source(Box::new(Source {
            doing,
            ..Source::adopted(home, order, false, false, Vec::new())
        }))
    }

    /// What an earlier agent left: its stream went with that agent, so it can only be restored or
    /// committed.
    pub(super) fn adopted(
        home: Home,
        order: PreCopyOrder,
        capturing: bool,
        restoring: bool,
        tunnels: Vec<Endpoint>,
    ) -> Self {
        Source {
            home,
            order,
            stream: false,
            copying: Copying::default(),
            buffers: capturing || restoring,
            capturing,
            restoring,
            tunnels,
            stopped: false,
            ended: None,
            orphaned: false,
            closed: None,
            doing: Doing::Nothing,
        }
    }

    pub(super) fn spec(&self) -> &VmSpec {
        &self.home.spec
    }

    pub(super) fn guest(&self) -> GuestState {
        match (&self.ended, self.stopped) {
            (Some(_), _) => GuestState::Off,
            (None, true) => GuestState::Paused,
            (None, false) => self.home.guest,
        }
    }

    pub(super) fn busy_with(&self) -> Option<Ticket> {
        match &self.doing {
            Doing::Nothing => None,
            Doing::OpenStream(ticket)
            | Doing::StartMigration(ticket)
            | Doing::OpenBuffer(ticket)
            | Doing::Connect(ticket)
            | Doing::Copy { ticket, .. }
            | Doing::End(ticket) => Some(*ticket),
            Doing::Capture(capturing) => Some(capturing.ticket),
            Doing::Restore(restoring) => Some(restoring.ticket),
        }
    }

    pub(super) fn place(&self) -> (&VmSpec, Place) {
        let place = Place::Source {
            process: self.home.process.clone(),
            migration: self.order.migration,
            guest: self.home.guest,
            capturing: self.capturing,
            restoring: self.restoring,
            tunnels: self.tunnels.clone(),
        };
        (&self.home.spec, place)
    }

    pub(super) fn order(mut self: Box<Self>, cx: &mut Cx<'_>, order: Order) -> Transition {
        let kind = order.command.kind();
        if let Some(why) = &self.ended
            && !matches!(
                kind,
                OrderKind::AbortSource | OrderKind::Reclaim | OrderKind::DestroyVm | OrderKind::Commit
            )
        {
            let reason = format!("VM {} cannot go on: {why}", cx.name);
            return Err(Stays::new(
                Role::Source(self),
                Trouble::failed(FaultKind::Qemu, reason),
            ));
        }
        match order.command {
            Command::OpenSourceBuffer { .. } => {
                self.doing = Doing::OpenBuffer(cx.act(Act::OpenSourceBuffer {
                    spec: self.home.spec.clone(),
                    epoch: cx.epoch,
                }));
                Ok(Role::Source(self))
            }
            Command::ConnectBuffers { tunnels, .. } if self.buffers => {
                self.tunnels.clone_from(&tunnels);
                self.doing = Doing::Connect(cx.act(Act::ConnectSourceBuffer { tunnels }));
                Ok(Role::Source(self))
            }
            Command::Capture { .. } if self.buffers => Ok(self.begin_capture(cx)),
            Command::ConnectBuffers { .. } | Command::Capture { .. } => {
                let reason = format!("VM {} has no open buffer on its source", cx.name);
                Err(Stays::new(
                    Role::Source(self),
                    Trouble::failed(FaultKind::Internal, reason),
                ))
            }
            Command::StopAndCopy { .. } => {
                let mode = self.order.mode;
                self.doing = Doing::Copy {
                    ticket: cx.act(Act::FinishCopy { mode }),
                    begun_at: cx.now.wall,
                };
                Ok(Role::Source(self))
            }
            // Recorded first, so that no later agent runs this copy.
            Command::Commit { .. } => Ok(Left::commit(cx, *self)),
            // It has not heard of the commit yet.
            Command::AbortSource { .. } | Command::Reclaim { .. } => Ok(self.begin_restore(cx, kind)),
            Command::DestroyVm { .. } => {
                self.doing = Doing::End(cx.act(Act::End));
                Ok(Role::Source(self))
            }
            _ => Err(wrong_state(cx, kind, Role::Source(self))),
        }
    }

    pub(super) fn fact(mut self: Box<Self>, cx: &mut Cx<'_>, fact: Input) -> Role {
        match fact {
            Input::Done { ticket, result } if self.busy_with() == Some(ticket) => {
                return self.done(cx, result);
            }
            Input::Done { ticket, result } => self.looked(cx, ticket, result),
            Input::RunState(RunState::Shutdown) | Input::PoweredOff => {
                self.powered_off(cx);
            }
            Input::RunState(run) => self.hears_of_run(run),
            Input::Died { why } => {
                self.ended(cx, FaultKind::Qemu, format!("its QEMU ended by itself: {why}"));
            }
            Input::PageStreamBroke { why } if self.stream => {
                self.stream = false;
                let reason = format!("the page stream of VM {} broke: {why}", cx.name);
                cx.speak_up(Trouble::failed(FaultKind::PageStream, reason));
            }
            Input::BufferFault(fault) => cx.speak_up(Trouble::Failed(fault)),
            Input::PassBegan | Input::Timer(Timer::Look) => self.look(cx),
            Input::Timer(Timer::Probe) => self.probe(cx),
            Input::PageStreamBroke { .. } | Input::Timer(_) | Input::Order(_) => {}
        }
        Role::Source(self)
    }

    fn hears_of_run(&mut self, run: RunState) {
        if let Doing::Restore(restoring) = &mut self.doing {
            restoring.heard |= run.guest().is_some();
        }
        // It was told to run on the way back, and does: what it does from here on it does by
        // itself.
        if run == RunState::Running && self.stopped && self.is_told_to_run() {
            self.stopped = false;
            return;
        }
        // We only ever pause a guest.
        if !self.stopped || matches!(run, RunState::Panicked | RunState::DiskError) {
            self.copying.heard = true;
            if let Some(guest) = run.guest() {
                self.home.guest = guest;
            }
        }
    }

    /// QEMU puts back the state that it was in before the migration stopped it, and tells nobody:
    /// what the guest did right before was hidden until now.
    pub(super) fn learn_after_cancel(&mut self, cx: &mut Cx<'_>, run: RunState) {
        match run {
            RunState::Shutdown => self.powered_off(cx),
            run => self.hears_of_run(run),
        }
    }

    pub(super) fn powered_off(&mut self, cx: &mut Cx<'_>) {
        self.ended(
            cx,
            FaultKind::PoweredOff,
            "its guest powered itself off".to_owned(),
        );
    }

    /// Nothing of it can run any more. The frames that are kept stay until the batch is given up.
    fn ended(&mut self, cx: &mut Cx<'_>, kind: FaultKind, why: String) {
        if self.ended.is_none() {
            let reason = format!("VM {} on host {}: {why}", cx.name, cx.host);
            cx.speak_up(Trouble::failed(kind, reason));
            self.ended = Some(why);
        }
    }

    /// What came of the order that is being carried out.
    fn done(mut self: Box<Self>, cx: &mut Cx<'_>, result: Result<Product, Trouble>) -> Role {
        match (std::mem::replace(&mut self.doing, Doing::Nothing), result) {
            (Doing::Capture(capturing), result) => self.capture_went(cx, capturing, result),
            (Doing::Restore(restoring), result) => self.restore_went(cx, restoring, result),
            (Doing::OpenStream(_), Ok(_)) => self.stream_opened(cx),
            // Nothing flows yet: it is what it was, or what has become of it since.
            (Doing::OpenStream(_), Err(trouble)) => {
                cx.fail(OrderKind::PreCopy, trouble);
                match self.ended {
                    Some(why) => self.home.gone(cx, why),
                    None => Role::Home(self.home),
                }
            }
            (Doing::StartMigration(_), Ok(_)) => {
                self.stream_flows(cx);
                Role::Source(self)
            }
            (Doing::StartMigration(_), Err(trouble)) => {
                cx.fail(OrderKind::PreCopy, trouble);
                Role::Source(self)
            }
            (Doing::OpenBuffer(_), Ok(_)) => {
                self.buffers = true;
                cx.answer(OrderKind::OpenSourceBuffer, Outcome::SourceBufferOpen);
                self.probe(cx);
                Role::Source(self)
            }
            (Doing::OpenBuffer(_), Err(trouble)) => {
                cx.fail(OrderKind::OpenSourceBuffer, trouble);
                Role::Source(self)
            }
            (Doing::Connect(_), Ok(_)) => {
                cx.answer(OrderKind::ConnectBuffers, Outcome::BuffersConnected);
                Role::Source(self)
            }
            (Doing::Connect(_), Err(trouble)) => {
                cx.fail(OrderKind::ConnectBuffers, trouble);
                Role::Source(self)
            }
            (Doing::Copy { begun_at, .. }, result) => self.copied(cx, begun_at, result),
            (Doing::End(_), Ok(_)) => {
                cx.answer(OrderKind::DestroyVm, Outcome::Destroyed);
                Role::Gone
            }
            (Doing::End(_), Err(trouble)) => {
                cx.fail(OrderKind::DestroyVm, trouble);
                Role::Source(self)
            }
            (Doing::Nothing, _) => Role::Source(self),
        }
    }
}
