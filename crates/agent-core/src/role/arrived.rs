//! A VM that has come: committed; it runs, its buffers still deliver (steps 8 and 9).

use transhume_model::{Endpoint, MigrationId, ProcessId, VmSpec, WallMicros};
use transhume_protocol::message::{
    ActivationTimes, Command, Fault, FaultKind, GuestState, Order, OrderKind, Outcome, TargetFrames,
};

use super::target::Target;
use super::{Home, Off, Role, Transition, wrong_state};
use crate::effect::{Act, Signal, Ticket};
use crate::input::{Input, Product, RunState};
use crate::machine::Cx;
use crate::record::{Arrival, Place};
use crate::trouble::Trouble;

#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    spec: VmSpec,
    process: ProcessId,
    migration: MigrationId,
    /// Whether its guest is to run.
    run: bool,
    guest: GuestState,
    tunnels: Vec<Endpoint>,
    activated: Option<ActivationTimes>,
    /// Its guest was seen to run here: what it does since, it does by itself.
    ran: bool,
    /// Why nothing of it runs any more.
    ended: Option<String>,
    /// All was delivered to what runs no more, and what is left could not be cleared away yet.
    delivered: Option<TargetFrames>,
    /// Until FIN: under way beside other orders.
    closing: Option<Ticket>,
    /// It is destroyed as soon as the closing is over.
    then_end: bool,
    doing: Doing,
}

#[derive(Debug, Clone)]
enum Doing {
    Nothing,
    Run {
        ticket: Ticket,
        begun_at: WallMicros,
    },
    Deliver {
        ticket: Ticket,
        begun_at: WallMicros,
        running_at: WallMicros,
    },
    /// It is closed, but nothing runs: what is left is cleared away.
    ClearAway(Ticket, TargetFrames),
    /// Its source is lost: the plug opens without FIN.
    OpenPlug(Ticket),
    /// It never ran.
    Lose(Ticket),
    /// It is destroyed.
    End(Ticket),
}

/// Both orders that open the plug are answered by the same account.
fn say_closed(cx: &mut Cx<'_>, frames: TargetFrames) {
    cx.answer(OrderKind::CloseTargetBuffer, Outcome::TargetClosed(frames));
    cx.answer(OrderKind::OpenPlug, Outcome::TargetClosed(frames));
}

/// Whether a guest that was stopped when it came must have run since.
fn has_run(guest: GuestState) -> bool {
    match guest {
        GuestState::Running | GuestState::Panicked | GuestState::DiskError => true,
        GuestState::Paused | GuestState::Off => false,
    }
}

impl Arrived {
    /// Step 8: recorded before QEMU is told to run. An agent that dies in between leaves a paused
    /// VM that may run, and the coordinator's repeated order runs it.
    pub(super) fn begin(cx: &mut Cx<'_>, target: Target, run: bool, guest: GuestState) -> Role {
        let Target {
            spec,
            migration,
            tunnels,
            process: Some(process),
            guest: sent_as,
            ..
        } = target
        else {
            cx.fail(OrderKind::Activate, super::unexpected());
            return Role::Target(target);
        };
        // Where the source is lost, whoever orders this may not know what the guest did: what was
        // told before, and what QEMU brought along, do.
        let stopped_itself = matches!(guest, GuestState::Panicked | GuestState::DiskError);
        let run = run && sent_as == GuestState::Running && !stopped_itself;
        let arrived = Arrived::new(spec, process, migration, run, tunnels, None);
        Arrived { guest, ..arrived }.run(cx)
    }

    pub(super) fn new(
        spec: VmSpec,
        process: ProcessId,
        migration: MigrationId,
        run: bool,
        tunnels: Vec<Endpoint>,
        activated: Option<ActivationTimes>,
    ) -> Self {
        Arrived {
            spec,
            process,
            migration,
            run,
            guest: GuestState::Paused,
            tunnels,
            activated,
            ran: false,
            delivered: None,
            ended: None,
            closing: None,
            then_end: false,
            doing: Doing::Nothing,
        }
    }

    pub(super) fn with_guest(self, guest: Option<GuestState>) -> Self {
        let guest = guest.unwrap_or(self.guest);
        let ran = self.activated.is_some() || has_run(guest);
        Arrived { guest, ran, ..self }
    }

    /// An earlier agent left it, and its QEMU is gone with the buffers.
    pub(super) fn dead(self, why: &str) -> Role {
        let arrival = Arrival {
            tunnels: self.tunnels,
            told_to_run: true,
            activated: self.activated,
            closed: None,
        };
        Role::Off(Off::new(self.spec, why.to_owned(), Some(arrival)))
    }

    pub(super) fn spec(&self) -> &VmSpec {
        &self.spec
    }

    pub(super) fn guest(&self) -> GuestState {
        match self.ended {
            Some(_) => GuestState::Off,
            None => self.guest,
        }
    }

    pub(super) fn busy_with(&self) -> Option<Ticket> {
        match self.doing {
            Doing::Nothing => None,
            Doing::Run { ticket, .. }
            | Doing::Deliver { ticket, .. }
            | Doing::ClearAway(ticket, _)
            | Doing::OpenPlug(ticket)
            | Doing::Lose(ticket)
            | Doing::End(ticket) => Some(ticket),
        }
    }

    pub(super) fn place(&self) -> (&VmSpec, Place) {
        let place = Place::Arrived {
            process: self.process.clone(),
            migration: self.migration,
            run: self.run,
            tunnels: self.tunnels.clone(),
            activated: self.activated,
        };
        (&self.spec, place)
    }

    fn run(mut self, cx: &mut Cx<'_>) -> Role {
        let begun_at = cx.now.wall;
        if !self.run || self.ran {
            return self.deliver(cx, begun_at);
        }
        let ticket = cx.act(Act::RunArrived { epoch: cx.epoch });
        self.doing = Doing::Run { ticket, begun_at };
        Role::Arrived(self)
    }

    fn deliver(mut self, cx: &mut Cx<'_>, begun_at: WallMicros) -> Role {
        self.doing = Doing::Deliver {
            ticket: cx.act(Act::ActivateBuffer { epoch: cx.epoch }),
            begun_at,
            running_at: cx.now.wall,
        };
        Role::Arrived(self)
    }

    pub(super) fn order(mut self, cx: &mut Cx<'_>, order: Order) -> Transition {
        let kind = order.command.kind();
        match order.command {
            Command::OpenTargetBuffer { .. } => {
                let tunnels = self.tunnels.clone();
                cx.answer(kind, Outcome::TargetBufferOpen { tunnels });
                Ok(Role::Arrived(self))
            }
            Command::Activate { .. } => match (self.activated, &self.ended) {
                (Some(times), _) => {
                    cx.answer(kind, Outcome::Activated(times));
                    Ok(Role::Arrived(self))
                }
                (None, Some(_)) => {
                    self.doing = Doing::Lose(cx.act(Act::End));
                    Ok(Role::Arrived(self))
                }
                (None, None) => Ok(self.run(cx)),
            },
            Command::CloseTargetBuffer { .. } if self.activated.is_some() => {
                if let Some(frames) = self.delivered {
                    return Ok(self.closed(cx, frames));
                }
                if self.closing.is_none() {
                    self.closing = Some(cx.act(Act::FinishTargetBuffer));
                }
                Ok(Role::Arrived(self))
            }
            Command::OpenPlug { .. } if self.activated.is_some() => {
                if let Some(frames) = self.delivered {
                    return Ok(self.closed(cx, frames));
                }
                self.doing = Doing::OpenPlug(cx.act(Act::OpenPlug));
                Ok(Role::Arrived(self))
            }
            Command::DestroyVm { .. } => {
                match self.closing {
                    Some(closing) => {
                        cx.signal(Signal::Interrupt(closing));
                        self.then_end = true;
                    }
                    None => self.doing = Doing::End(cx.act(Act::End)),
                }
                Ok(Role::Arrived(self))
            }
            _ => Err(wrong_state(cx, kind, Role::Arrived(self))),
        }
    }

    pub(super) fn fact(mut self, cx: &mut Cx<'_>, fact: Input) -> Role {
        match fact {
            Input::Done { ticket, result } if self.busy_with() == Some(ticket) => self.done(cx, result),
            Input::Done { ticket, result } if self.closing == Some(ticket) => self.closing_over(cx, result),
            Input::RunState(RunState::Shutdown) | Input::PoweredOff => self.ended(
                cx,
                FaultKind::PoweredOff,
                "its guest powered itself off".to_owned(),
            ),
            Input::RunState(run) => {
                self.guest = run.guest().unwrap_or(self.guest);
                self.ran |= has_run(self.guest);
                Role::Arrived(self)
            }
            Input::Died { why } => {
                self.ended(cx, FaultKind::Qemu, format!("its QEMU ended by itself: {why}"))
            }
            Input::BufferFault(fault) => {
                cx.speak_up(Trouble::Failed(fault));
                Role::Arrived(self)
            }
            _ => Role::Arrived(self),
        }
    }

    fn ended(mut self, cx: &mut Cx<'_>, kind: FaultKind, why: String) -> Role {
        if self.ended.is_none() && !matches!(self.doing, Doing::End(_)) {
            let reason = format!("VM {} on host {}: {why}", cx.name, cx.host);
            cx.speak_up(Trouble::failed(kind, reason));
            self.ended = Some(why);
        }
        Role::Arrived(self)
    }

    fn closing_over(mut self, cx: &mut Cx<'_>, result: Result<Product, Trouble>) -> Role {
        self.closing = None;
        let trouble = match result {
            Ok(Product::TargetFrames(frames)) if !self.then_end => return self.closed(cx, frames),
            result => result.err().unwrap_or_else(super::unexpected),
        };
        // Whoever opens the plug by order waits for the same account.
        if cx.is_waiting(OrderKind::OpenPlug) && !matches!(self.doing, Doing::OpenPlug(_)) {
            cx.fail(OrderKind::OpenPlug, trouble.clone());
        }
        cx.fail(OrderKind::CloseTargetBuffer, trouble);
        if self.then_end {
            self.doing = Doing::End(cx.act(Act::End));
        }
        Role::Arrived(self)
    }

    fn done(mut self, cx: &mut Cx<'_>, result: Result<Product, Trouble>) -> Role {
        match (std::mem::replace(&mut self.doing, Doing::Nothing), result) {
            (Doing::Run { begun_at, .. }, Ok(_)) => {
                // Unless QEMU has said since that it did and what it does now.
                if !self.ran {
                    (self.guest, self.ran) = (GuestState::Running, true);
                }
                self.deliver(cx, begun_at)
            }
            (
                Doing::Deliver {
                    begun_at, running_at, ..
                },
                Ok(Product::Announced {
                    injected_at,
                    announced_at,
                }),
            ) => {
                let times = ActivationTimes {
                    begun_at,
                    running_at,
                    injected_at,
                    announced_at,
                };
                self.activated = Some(times);
                cx.answer(OrderKind::Activate, Outcome::Activated(times));
                Role::Arrived(self)
            }
            (Doing::Run { .. } | Doing::Deliver { .. }, Err(_)) if self.ended.is_some() => {
                self.doing = Doing::Lose(cx.act(Act::End));
                Role::Arrived(self)
            }
            (Doing::Run { .. } | Doing::Deliver { .. }, result) => {
                cx.fail(
                    OrderKind::Activate,
                    result.err().unwrap_or_else(super::unexpected),
                );
                Role::Arrived(self)
            }
            (Doing::ClearAway(_, frames), Ok(_)) => {
                say_closed(cx, frames);
                let why = self.ended.take().unwrap_or_default();
                let arrival = self.arrival(Some(frames));
                Role::Off(Off::new(self.spec, why, Some(arrival)))
            }
            // The frames are accounted for; the next order clears away again.
            (Doing::ClearAway(_, frames), Err(trouble)) => {
                self.delivered = Some(frames);
                cx.fail(OrderKind::OpenPlug, trouble.clone());
                cx.fail(OrderKind::CloseTargetBuffer, trouble);
                Role::Arrived(self)
            }
            (Doing::OpenPlug(_), Ok(_)) => {
                if self.closing.is_none() {
                    self.closing = Some(cx.act(Act::FinishTargetBuffer));
                }
                Role::Arrived(self)
            }
            (Doing::OpenPlug(_), Err(trouble)) => {
                cx.fail(OrderKind::OpenPlug, trouble);
                Role::Arrived(self)
            }
            (Doing::Lose(_), Ok(_)) => self.lost(cx),
            (Doing::Lose(_), Err(trouble)) => {
                cx.fail(OrderKind::Activate, trouble);
                Role::Arrived(self)
            }
            (Doing::End(_), Ok(_)) => {
                cx.answer(OrderKind::DestroyVm, Outcome::Destroyed);
                Role::Gone
            }
            (Doing::End(_), Err(trouble)) => {
                cx.fail(OrderKind::DestroyVm, trouble);
                Role::Arrived(self)
            }
            (Doing::Nothing, _) => Role::Arrived(self),
        }
    }

    /// The plug is open: the VM lives here.
    fn closed(mut self, cx: &mut Cx<'_>, frames: TargetFrames) -> Role {
        if self.ended.is_some() {
            self.doing = Doing::ClearAway(cx.act(Act::End), frames);
            return Role::Arrived(self);
        }
        say_closed(cx, frames);
        let arrival = self.arrival(Some(frames));
        Role::Home(Home::new(
            self.spec,
            self.process,
            self.guest,
            true,
            Some(arrival),
        ))
    }

    fn arrival(&self, closed: Option<TargetFrames>) -> Arrival {
        Arrival {
            tunnels: self.tunnels.clone(),
            told_to_run: true,
            activated: self.activated,
            closed,
        }
    }

    /// It was told to run, or was about to be, and its QEMU ended.
    fn lost(mut self, cx: &mut Cx<'_>) -> Role {
        let why = self.ended.take().unwrap_or_default();
        let reason = format!("VM {} was lost in the switchover: {why}", cx.name);
        let kind = FaultKind::Qemu;
        cx.answer(OrderKind::Activate, Outcome::Lost(Fault::new(kind, reason)));
        let arrival = self.arrival(None);
        Role::Off(Off::new(self.spec, why, Some(arrival)))
    }
}
