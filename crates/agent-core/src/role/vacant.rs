//! Nothing is here yet: a VM is admitted, to boot or to come.

use transhume_model::{MigrationId, VmSpec};
use transhume_protocol::message::{Command, Order, OrderKind, Outcome};

use super::booting::{Booting, Or};
use super::{Expected, Role, Transition, wrong_state};
use crate::effect::{Act, Ticket};
use crate::input::{Input, Product};
use crate::machine::Cx;

#[derive(Debug, Clone, Default)]
pub(crate) struct Vacant {
    admitting: Option<(Ticket, Guest)>,
}

/// Why a VM asks to be admitted.
#[derive(Debug, Clone)]
enum Guest {
    Boot,
    Arrival {
        migration: MigrationId,
        powered_off: bool,
    },
}

impl Vacant {
    pub(super) fn busy_with(&self) -> Option<Ticket> {
        self.admitting.as_ref().map(|(ticket, _)| *ticket)
    }

    pub(super) fn order(self, cx: &mut Cx<'_>, order: Order) -> Transition {
        let (spec, guest) = match order.command {
            Command::StartVm { spec } => (spec, Guest::Boot),
            Command::Reserve {
                migration,
                spec,
                powered_off,
            } => {
                let arrival = Guest::Arrival {
                    migration,
                    powered_off,
                };
                (spec, arrival)
            }
            other => return Err(wrong_state(cx, other.kind(), Role::Vacant(self))),
        };
        Ok(Self::admit(cx, spec, guest))
    }

    fn admit(cx: &mut Cx<'_>, spec: VmSpec, guest: Guest) -> Role {
        let powered_off = matches!(
            guest,
            Guest::Arrival {
                powered_off: true,
                ..
            }
        );
        let ticket = cx.act(Act::Admit { spec, powered_off });
        Role::Vacant(Vacant {
            admitting: Some((ticket, guest)),
        })
    }

    pub(super) fn fact(self, cx: &mut Cx<'_>, fact: Input) -> Role {
        let (Input::Done { ticket, result }, Some((asked, guest))) = (fact, &self.admitting) else {
            return Role::Vacant(self);
        };
        if ticket != *asked {
            return Role::Vacant(self);
        }
        let kind = match guest {
            Guest::Boot => OrderKind::StartVm,
            Guest::Arrival { .. } => OrderKind::Reserve,
        };
        match (result, guest) {
            (Ok(Product::Admitted { spec }), Guest::Boot) => Booting::spawn(cx, spec, Or::Gone),
            (
                Ok(Product::Admitted { spec }),
                Guest::Arrival {
                    migration,
                    powered_off,
                },
            ) => {
                cx.answer(kind, Outcome::Reserved);
                Role::Expected(Expected::new(spec, *migration, *powered_off))
            }
            (Ok(_), _) => {
                cx.fail(kind, super::unexpected());
                Role::Gone
            }
            (Err(trouble), _) => {
                cx.fail(kind, trouble);
                Role::Gone
            }
        }
    }
}
