//! A VM that is coming: paused here behind shut plugs (steps 1, 4 and 6).

use transhume_model::{Endpoint, MigrationId, ProcessId, VmSpec};
use transhume_protocol::message::{Command, Fault, FaultKind, GuestState, Order, OrderKind, Outcome};

use super::{Arrived, Expected, Off, Role, Stays, Transition, wrong_state};
use crate::effect::{Act, Signal, SpawnFor, Ticket};
use crate::input::{Input, Product, RunState};
use crate::machine::Cx;
use crate::record::{Arrival, Place};
use crate::trouble::Trouble;

#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(super) spec: VmSpec,
    pub(super) migration: MigrationId,
    /// Once it is started.
    pub(super) process: Option<ProcessId>,
    pub(super) tunnels: Vec<Endpoint>,
    /// How far it is.
    pub(super) arrival: Memory,
    /// What its guest did until its source stopped it, as far as that was told.
    pub(super) guest: GuestState,
    /// Why it cannot run any more.
    pub(super) ended: Option<String>,
    doing: Doing,
}

/// How much of it is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// Its stream is not complete.
    Incomplete,
    /// The whole VM, as it was sent: in which state its guest was stopped.
    Whole(GuestState),
    /// It cannot arrive any more; it waits to be dropped.
    Spoilt,
}

impl Memory {
    /// As QEMU says; what does not say so does not run.
    pub(super) fn whole(run: RunState) -> Self {
        Memory::Whole(run.guest().unwrap_or(GuestState::Paused))
    }
}

#[derive(Debug, Clone)]
enum Doing {
    Nothing,
    Spawn(Ticket),
    Listen(Ticket),
    OpenBuffer(Ticket),
    Load(Ticket),
    /// What was started is taken back; it is expected again.
    TakeBack(Ticket, Trouble),
    /// Everything of it is ended; the answer is this order's.
    End(Ticket, OrderKind),
    /// It is lost: what is left of it is cleared away, its place stays.
    Lose(Ticket),
}

impl Target {
    /// Step 1: recorded before anything is started.
    pub(super) fn prepare(cx: &mut Cx<'_>, spec: VmSpec, migration: MigrationId) -> Role {
        let doing = Doing::Spawn(cx.act(Act::Spawn {
            spec: spec.clone(),
            purpose: SpawnFor::Incoming,
        }));
        let target = Target::new(spec, migration, None, Vec::new(), Memory::Incomplete);
        Role::Target(Target { doing, ..target })
    }

    pub(super) fn new(
        spec: VmSpec,
        migration: MigrationId,
        process: Option<ProcessId>,
        tunnels: Vec<Endpoint>,
        arrival: Memory,
    ) -> Self {
        Target {
            spec,
            migration,
            process,
            tunnels,
            arrival,
            guest: GuestState::Running,
            ended: None,
            doing: Doing::Nothing,
        }
    }

    pub(super) fn with_guest(self, guest: GuestState) -> Self {
        Target { guest, ..self }
    }

    /// An earlier agent was killed while it prepared. Whatever it started never ran.
    pub(super) fn take_back(cx: &mut Cx<'_>, spec: VmSpec, migration: MigrationId) -> Role {
        let trouble = Trouble::failed(
            FaultKind::AgentRestarted,
            format!(
                "the agent was restarted while VM {} was being prepared",
                spec.name
            ),
        );
        let target = Target::new(spec, migration, None, Vec::new(), Memory::Spoilt);
        target.end_spawned(cx, trouble)
    }

    /// An earlier agent left it, and its QEMU is gone.
    pub(super) fn dead(self, why: &str) -> Role {
        Role::Target(Target {
            ended: Some(why.to_owned()),
            arrival: Memory::Spoilt,
            ..self
        })
    }

    pub(super) fn spec(&self) -> &VmSpec {
        &self.spec
    }

    /// The whole VM is here and could run.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.arrival, Memory::Whole(_)) && self.ended.is_none()
    }

    pub(super) fn busy_with(&self) -> Option<Ticket> {
        match &self.doing {
            Doing::Nothing => None,
            Doing::Spawn(ticket)
            | Doing::Listen(ticket)
            | Doing::OpenBuffer(ticket)
            | Doing::Load(ticket)
            | Doing::TakeBack(ticket, _)
            | Doing::End(ticket, _)
            | Doing::Lose(ticket) => Some(*ticket),
        }
    }

    pub(super) fn place(&self) -> (&VmSpec, Place) {
        let migration = self.migration;
        let place = match &self.process {
            None => Place::Preparing { migration },
            Some(process) => Place::Target {
                process: process.clone(),
                migration,
                tunnels: self.tunnels.clone(),
                guest: self.guest,
            },
        };
        (&self.spec, place)
    }

    pub(super) fn order(mut self, cx: &mut Cx<'_>, order: Order) -> Transition {
        let kind = order.command.kind();
        match order.command {
            Command::AbortTarget { .. } | Command::DestroyVm { .. } => {
                self.doing = Doing::End(cx.act(Act::End), kind);
                Ok(Role::Target(self))
            }
            Command::Activate { .. } if self.ended.is_some() || self.arrival == Memory::Spoilt => {
                self.doing = Doing::Lose(cx.act(Act::End));
                Ok(Role::Target(self))
            }
            Command::Activate { run, .. } => {
                if let Memory::Whole(guest) = self.arrival {
                    return Ok(Arrived::begin(cx, self, run, guest));
                }
                let reason = format!("VM {} is not loaded, so it cannot be activated", cx.name);
                Err(Stays::new(
                    Role::Target(self),
                    Trouble::failed(FaultKind::Internal, reason),
                ))
            }
            Command::Prepare { .. } | Command::OpenTargetBuffer { .. } | Command::AwaitLoaded { .. }
                if self.ended.is_some() =>
            {
                let trouble = self.cannot_arrive(cx);
                Err(Stays::new(Role::Target(self), trouble))
            }
            // Its listener could not be had the first time.
            Command::Prepare { .. } => Ok(self.listen(cx)),
            Command::OpenTargetBuffer { .. } => {
                self.doing = Doing::OpenBuffer(cx.act(Act::OpenTargetBuffer {
                    spec: self.spec.clone(),
                    epoch: cx.epoch,
                }));
                Ok(Role::Target(self))
            }
            Command::AwaitLoaded { guest, .. } => match self.arrival {
                Memory::Whole(_) => {
                    self.guest = guest;
                    let loaded_at = cx.now.wall;
                    cx.answer(kind, Outcome::Loaded { loaded_at });
                    Ok(Role::Target(self))
                }
                Memory::Spoilt => {
                    let trouble = self.cannot_arrive(cx);
                    Err(Stays::new(Role::Target(self), trouble))
                }
                Memory::Incomplete => {
                    self.guest = guest;
                    cx.signal(Signal::StopWaitingForSiblings);
                    self.doing = Doing::Load(cx.act(Act::AwaitLoaded));
                    Ok(Role::Target(self))
                }
            },
            _ => Err(wrong_state(cx, kind, Role::Target(self))),
        }
    }

    fn cannot_arrive(&self, cx: &Cx<'_>) -> Trouble {
        let reason = format!("VM {} cannot arrive any more: {}", cx.name, self.why_spoilt());
        Trouble::failed(FaultKind::Qemu, reason)
    }

    fn why_spoilt(&self) -> &str {
        self.ended.as_deref().unwrap_or("its loading was broken off")
    }

    fn listen(mut self, cx: &mut Cx<'_>) -> Role {
        self.doing = Doing::Listen(cx.act(Act::OpenPageListener {
            spec: self.spec.clone(),
            epoch: cx.epoch,
        }));
        Role::Target(self)
    }

    fn end_spawned(mut self, cx: &mut Cx<'_>, trouble: Trouble) -> Role {
        self.doing = Doing::TakeBack(cx.act(Act::End), trouble);
        Role::Target(self)
    }

    pub(super) fn fact(mut self, cx: &mut Cx<'_>, fact: Input) -> Role {
        match fact {
            Input::Done { ticket, result } if self.busy_with() == Some(ticket) => self.done(cx, result),
            Input::Died { why } => {
                if self.ended.is_none() && self.process.is_some() && !self.is_ending() {
                    let why = format!("its QEMU ended by itself: {why}");
                    let reason = format!("VM {} on host {}: {why}", cx.name, cx.host);
                    cx.speak_up(Trouble::failed(FaultKind::Qemu, reason));
                    self.ended = Some(why);
                }
                Role::Target(self)
            }
            Input::PageStreamBroke { why } => {
                if self.arrival == Memory::Incomplete {
                    self.arrival = Memory::Spoilt;
                    let reason = format!("the page stream of VM {} broke: {why}", cx.name);
                    cx.speak_up(Trouble::failed(FaultKind::PageStream, reason));
                }
                Role::Target(self)
            }
            Input::BufferFault(fault) => {
                cx.speak_up(Trouble::Failed(fault));
                Role::Target(self)
            }
            _ => Role::Target(self),
        }
    }

    fn is_ending(&self) -> bool {
        matches!(self.doing, Doing::End(..) | Doing::TakeBack(..) | Doing::Lose(_))
    }

    fn done(mut self, cx: &mut Cx<'_>, result: Result<Product, Trouble>) -> Role {
        match (std::mem::replace(&mut self.doing, Doing::Nothing), result) {
            (Doing::Spawn(_), Ok(Product::Spawned { process })) => {
                self.process = Some(process);
                self.listen(cx)
            }
            (Doing::Spawn(_), Ok(_)) => self.end_spawned(cx, super::unexpected()),
            (Doing::Spawn(_), Err(trouble)) => self.end_spawned(cx, trouble),
            (Doing::TakeBack(_, trouble), Ok(_)) => {
                cx.fail(OrderKind::Prepare, trouble);
                Role::Expected(Expected::new(self.spec, self.migration, false))
            }
            (Doing::TakeBack(_, trouble), Err(again)) => {
                let (spec, place) = self.place();
                let record = super::record(spec, cx.epoch, place);
                cx.fail(OrderKind::Prepare, trouble);
                super::Stranded::after_failed_clearing(cx, record, &again)
            }
            (Doing::Listen(_), Ok(Product::Listening { at })) => {
                let page_stream = at;
                cx.answer(OrderKind::Prepare, Outcome::Prepared { page_stream });
                Role::Target(self)
            }
            (Doing::Listen(_), result) => self.went_wrong(cx, OrderKind::Prepare, result),
            (Doing::OpenBuffer(_), Ok(Product::Tunnels(tunnels))) => {
                self.tunnels.clone_from(&tunnels);
                cx.answer(OrderKind::OpenTargetBuffer, Outcome::TargetBufferOpen { tunnels });
                Role::Target(self)
            }
            (Doing::OpenBuffer(_), result) => self.went_wrong(cx, OrderKind::OpenTargetBuffer, result),
            (Doing::Load(_), Ok(Product::Loaded { run })) => {
                self.arrival = Memory::whole(run);
                let loaded_at = cx.now.wall;
                cx.answer(OrderKind::AwaitLoaded, Outcome::Loaded { loaded_at });
                Role::Target(self)
            }
            (Doing::Load(_), result) => {
                self.arrival = Memory::Spoilt;
                self.went_wrong(cx, OrderKind::AwaitLoaded, result)
            }
            (Doing::End(_, kind), Ok(_)) => {
                cx.answer(kind, super::ended_as(kind));
                Role::Gone
            }
            (Doing::End(_, kind), Err(trouble)) => {
                cx.fail(kind, trouble);
                Role::Target(self)
            }
            (Doing::Lose(_), Ok(_)) => self.lost(cx),
            (Doing::Lose(_), Err(trouble)) => {
                cx.fail(OrderKind::Activate, trouble);
                Role::Target(self)
            }
            (Doing::Nothing, _) => Role::Target(self),
        }
    }

    fn went_wrong(self, cx: &mut Cx<'_>, kind: OrderKind, result: Result<Product, Trouble>) -> Role {
        cx.fail(kind, result.err().unwrap_or_else(super::unexpected));
        Role::Target(self)
    }

    /// The batch is committed and this copy is gone: the VM is off, and somebody is told.
    fn lost(self, cx: &mut Cx<'_>) -> Role {
        let why = self.why_spoilt().to_owned();
        let reason = format!("VM {} was lost in the switchover, before it ran: {why}", cx.name);
        // By its record: what is told to run here is `Arrived` first.
        let kind = FaultKind::NeverRan;
        cx.answer(OrderKind::Activate, Outcome::Lost(Fault::new(kind, reason)));
        let arrival = Arrival {
            tunnels: self.tunnels,
            told_to_run: false,
            activated: None,
            closed: None,
        };
        Role::Off(Off::new(self.spec, why, Some(arrival)))
    }
}
