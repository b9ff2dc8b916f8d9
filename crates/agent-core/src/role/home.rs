//! A VM that lives here.

use transhume_model::{ProcessId, VmSpec};
use transhume_protocol::message::{
    Command, Fault, FaultKind, GuestState, Order, OrderKind, Outcome, RefusalKind, SourceFrames,
};

use super::{Off, Role, Source, Stays, Transition, wrong_state};
use crate::effect::{Act, Ticket, Timer};
use crate::input::Input;
use crate::limits::{POWER_PRESS_EVERY_MS, POWER_PRESSES_MAX};
use crate::machine::Cx;
use crate::record::{Arrival, Place};
use crate::trouble::Trouble;

#[derive(Debug, Clone)]
pub(crate) struct Home {
    pub(super) spec: VmSpec,
    pub(super) process: ProcessId,
    pub(super) guest: GuestState,
    /// Whether its guest was told to run once; a boot is over then.
    pub(super) started: bool,
    pub(super) arrival: Option<Arrival>,
    doing: Doing,
}

#[derive(Debug, Clone)]
enum Doing {
    Nothing,
    /// It is told to run for the first time.
    Start(Ticket),
    /// Its guest is asked to power itself off, and how often it was so far.
    AskPowerDown {
        ticket: Ticket,
        press: u32,
    },
    /// It was asked and has some time.
    AwaitPowerDown {
        press: u32,
    },
    /// Everything of it is ended; it is off then, or gone.
    End {
        ticket: Ticket,
        /// Why it is off; absent where it is to be gone.
        off: Option<String>,
        /// To answer.
        kind: Option<OrderKind>,
    },
}

impl Home {
    pub(super) fn new(
        spec: VmSpec,
        process: ProcessId,
        guest: GuestState,
        started: bool,
        arrival: Option<Arrival>,
    ) -> Self {
        let doing = Doing::Nothing;
        Home {
            spec,
            process,
            guest,
            started,
            arrival,
            doing,
        }
    }

    /// It leaves: what was answered when it came is of no use any more.
    pub(super) fn without_arrival(self) -> Self {
        Home {
            arrival: None,
            ..self
        }
    }

    /// Started, stopped, recorded: it may run.
    pub(super) fn booted(cx: &mut Cx<'_>, spec: VmSpec, process: ProcessId) -> Role {
        let home = Home::new(spec, process, GuestState::Paused, false, None);
        let doing = Doing::Start(cx.act(Act::Cont));
        Role::Home(Home { doing, ..home })
    }

    pub(super) fn spec(&self) -> &VmSpec {
        &self.spec
    }

    pub(super) fn guest(&self) -> GuestState {
        self.guest
    }

    pub(super) fn busy_with(&self) -> Option<Ticket> {
        match self.doing {
            Doing::Nothing | Doing::AwaitPowerDown { .. } => None,
            Doing::Start(ticket) | Doing::AskPowerDown { ticket, .. } | Doing::End { ticket, .. } => {
                Some(ticket)
            }
        }
    }

    pub(super) fn place(&self) -> (&VmSpec, Place) {
        let place = Place::Home {
            process: self.process.clone(),
            started: self.started,
            arrival: self.arrival.clone(),
        };
        (&self.spec, place)
    }

    pub(super) fn order(self, cx: &mut Cx<'_>, order: Order) -> Transition {
        let kind = order.command.kind();
        match order.command {
            Command::StartVm { .. } if self.started => {
                let spec = self.spec.clone();
                cx.answer(kind, Outcome::Started { spec });
                Ok(Role::Home(self))
            }
            Command::StartVm { .. } => {
                let doing = Doing::Start(cx.act(Act::Cont));
                Ok(Role::Home(Home { doing, ..self }))
            }
            Command::StopVm { force: true, .. } => {
                let why = "it was powered off by order".to_owned();
                Ok(self.end(cx, Some(why), Some(kind)))
            }
            Command::StopVm { force: false, .. } => Ok(self.ask_power_down(cx, 1)),
            Command::DestroyVm { .. } => Ok(self.end(cx, None, Some(kind))),
            Command::PreCopy { .. } if matches!(self.doing, Doing::AwaitPowerDown { .. }) => {
                let trouble = Trouble::refused(
                    RefusalKind::PoweredOff,
                    format!("the guest of VM {} is powering itself off", cx.name),
                    "move again when it is off: its place moves with the cluster",
                );
                Err(Stays::new(Role::Home(self), trouble))
            }
            Command::PreCopy {
                migration,
                page_stream,
                mode,
                blackout_max,
                ..
            } => {
                let order = super::source::PreCopyOrder {
                    id: order.id,
                    epoch: order.epoch,
                    migration,
                    mode,
                    blackout_max,
                };
                Ok(Source::begin(cx, self, order, page_stream))
            }
            Command::AbortSource { .. } | Command::Reclaim { .. } => {
                cx.answer(kind, Outcome::SourceRestored(SourceFrames::default()));
                Ok(Role::Home(self))
            }
            _ => match super::off::answer_again(&self.arrival, kind) {
                Some(outcome) => {
                    cx.answer(kind, outcome);
                    Ok(Role::Home(self))
                }
                None => Err(wrong_state(cx, kind, Role::Home(self))),
            },
        }
    }

    fn ask_power_down(self, cx: &mut Cx<'_>, press: u32) -> Role {
        let ticket = cx.act(Act::PowerDown);
        let doing = Doing::AskPowerDown { ticket, press };
        Role::Home(Home { doing, ..self })
    }

    fn end(self, cx: &mut Cx<'_>, off: Option<String>, kind: Option<OrderKind>) -> Role {
        let ticket = cx.act(Act::End);
        let doing = Doing::End { ticket, off, kind };
        Role::Home(Home { doing, ..self })
    }

    pub(super) fn fact(mut self, cx: &mut Cx<'_>, fact: Input) -> Role {
        match fact {
            Input::Done { ticket, result } if self.busy_with() == Some(ticket) => match result {
                Ok(_) => self.done(cx),
                Err(trouble) => self.failed(cx, trouble),
            },
            Input::RunState(run) => match run.guest() {
                Some(GuestState::Off) => self.went_off(cx, "the guest powered itself off".to_owned()),
                Some(guest) => {
                    self.guest = guest;
                    Role::Home(self)
                }
                None => Role::Home(self),
            },
            Input::PoweredOff => self.went_off(cx, "the guest powered itself off".to_owned()),
            Input::Died { why } => self.went_off(cx, format!("its QEMU ended by itself: {why}")),
            Input::Timer(Timer::PowerDown) => self.not_off_yet(cx),
            _ => Role::Home(self),
        }
    }

    /// Its guest has had its time since its power button was pressed.
    fn not_off_yet(mut self, cx: &mut Cx<'_>) -> Role {
        let Doing::AwaitPowerDown { press } = self.doing else {
            return Role::Home(self);
        };
        if press < POWER_PRESSES_MAX {
            return self.ask_power_down(cx, press + 1);
        }
        self.doing = Doing::Nothing;
        let (vm, cluster) = (&cx.name, &self.spec.cluster);
        let reason = format!(
            "the guest of VM {vm} was asked {press} times, every {POWER_PRESS_EVERY_MS}, and did not power \
             itself off"
        );
        let hint = format!("`transhume vm stop --force {cluster} {vm}` pulls its plug");
        let fault = Fault::new(FaultKind::Qemu, reason).with_hint(hint);
        cx.fail(OrderKind::StopVm, Trouble::Failed(fault));
        Role::Home(self)
    }

    /// It ended while it was about to leave.
    pub(super) fn gone(self, cx: &mut Cx<'_>, why: String) -> Role {
        self.went_off(cx, why)
    }

    /// Whatever was being done, there is nothing to run any more; what QEMU left is cleared away.
    fn went_off(self, cx: &mut Cx<'_>, why: String) -> Role {
        match &self.doing {
            Doing::End { .. } => Role::Home(self),
            Doing::Start(_) => {
                cx.fail(
                    OrderKind::StartVm,
                    Trouble::failed(FaultKind::Qemu, format!("VM {} did not start: {why}", cx.name)),
                );
                self.end(cx, Some(why), None)
            }
            Doing::AskPowerDown { .. } | Doing::AwaitPowerDown { .. } => {
                self.end(cx, Some(why), Some(OrderKind::StopVm))
            }
            Doing::Nothing => self.end(cx, Some(why), None),
        }
    }

    fn done(mut self, cx: &mut Cx<'_>) -> Role {
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Start(_) => {
                self.started = true;
                if self.guest == GuestState::Paused {
                    self.guest = GuestState::Running;
                }
                let spec = self.spec.clone();
                cx.answer(OrderKind::StartVm, Outcome::Started { spec });
                Role::Home(self)
            }
            Doing::AskPowerDown { press, .. } => {
                cx.timer(POWER_PRESS_EVERY_MS, Timer::PowerDown);
                self.doing = Doing::AwaitPowerDown { press };
                Role::Home(self)
            }
            Doing::End { off, kind, .. } => {
                let (role, outcome) = match off {
                    Some(why) => (
                        Role::Off(Off::new(self.spec, why, self.arrival)),
                        Outcome::Stopped,
                    ),
                    None => (Role::Gone, Outcome::Destroyed),
                };
                if let Some(kind) = kind {
                    cx.answer(kind, outcome);
                }
                role
            }
            Doing::Nothing | Doing::AwaitPowerDown { .. } => Role::Home(self),
        }
    }

    fn failed(mut self, cx: &mut Cx<'_>, trouble: Trouble) -> Role {
        let kind = match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Start(_) => Some(OrderKind::StartVm),
            Doing::AskPowerDown { .. } => Some(OrderKind::StopVm),
            Doing::End { kind, .. } => kind,
            Doing::Nothing | Doing::AwaitPowerDown { .. } => None,
        };
        match kind {
            Some(kind) => {
                cx.fail(kind, trouble);
                Role::Home(self)
            }
            // Its guest is off and what it left cannot be cleared away.
            None => super::Stranded::clear_later(cx, record_of(&self, cx)),
        }
    }
}

fn record_of(home: &Home, cx: &Cx<'_>) -> crate::record::Record {
    let (spec, place) = home.place();
    super::record(spec, cx.epoch, place)
}
