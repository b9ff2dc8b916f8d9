//! Room is promised to a VM that is to come (step 1).

use transhume_model::{MigrationId, VmSpec};
use transhume_protocol::message::{ActivationTimes, Command, Order, OrderKind, Outcome};

use super::{Off, Role, Target, Transition, wrong_state};
use crate::effect::{Act, Ticket};
use crate::input::Input;
use crate::machine::Cx;
use crate::record::{Arrival, Place};

#[derive(Debug, Clone)]
pub(crate) struct Expected {
    spec: VmSpec,
    migration: MigrationId,
    powered_off: bool,
    ending: Option<(Ticket, OrderKind)>,
}

impl Expected {
    pub(super) fn new(spec: VmSpec, migration: MigrationId, powered_off: bool) -> Self {
        Expected {
            spec,
            migration,
            powered_off,
            ending: None,
        }
    }

    pub(super) fn spec(&self) -> &VmSpec {
        &self.spec
    }

    pub(super) fn busy_with(&self) -> Option<Ticket> {
        self.ending.map(|(ticket, _)| ticket)
    }

    pub(super) fn place(&self) -> (&VmSpec, Place) {
        let place = Place::Expected {
            migration: self.migration,
            powered_off: self.powered_off,
        };
        (&self.spec, place)
    }

    pub(super) fn order(self, cx: &mut Cx<'_>, order: Order) -> Transition {
        let kind = order.command.kind();
        match order.command {
            // A move that was given up left it here.
            Command::Reserve {
                migration,
                powered_off,
                ..
            } => {
                cx.answer(kind, Outcome::Reserved);
                Ok(Role::Expected(Expected {
                    migration,
                    powered_off,
                    ..self
                }))
            }
            Command::Prepare { .. } if !self.powered_off => {
                Ok(Target::prepare(cx, self.spec, self.migration))
            }
            // Only its place comes, and the batch is committed.
            Command::Activate { run: false, .. } if self.powered_off => {
                let at = cx.now.wall;
                let times = ActivationTimes {
                    begun_at: at,
                    running_at: at,
                    injected_at: at,
                    announced_at: at,
                };
                cx.answer(kind, Outcome::Activated(times));
                let arrival = Arrival {
                    tunnels: Vec::new(),
                    told_to_run: false,
                    activated: Some(times),
                    closed: None,
                };
                let why = "it was powered off when it moved here".to_owned();
                Ok(Role::Off(Off::new(self.spec, why, Some(arrival))))
            }
            Command::AbortTarget { .. } | Command::DestroyVm { .. } => {
                let ending = Some((cx.act(Act::End), kind));
                Ok(Role::Expected(Expected { ending, ..self }))
            }
            _ => Err(wrong_state(cx, kind, Role::Expected(self))),
        }
    }

    pub(super) fn fact(mut self, cx: &mut Cx<'_>, fact: Input) -> Role {
        match fact {
            Input::Done { ticket, result } if self.busy_with() == Some(ticket) => {
                match (self.ending.take(), result) {
                    (Some((_, kind)), Ok(_)) => {
                        cx.answer(kind, super::ended_as(kind));
                        Role::Gone
                    }
                    (Some((_, kind)), Err(trouble)) => {
                        cx.fail(kind, trouble);
                        Role::Expected(self)
                    }
                    (None, _) => Role::Expected(self),
                }
            }
            _ => Role::Expected(self),
        }
    }
}
