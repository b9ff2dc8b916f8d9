//! What a VM is on this host: one struct per role. An order consumes the role and returns the next
//! one, or the old one with the trouble; so nothing a role holds can be dropped on the way.

mod adopting;
mod arrived;
mod booting;
mod capture;
mod copy;
mod expected;
mod home;
mod left;
mod off;
mod restore;
mod source;
mod stranded;
mod target;
mod vacant;

use transhume_model::{Epoch, VmSpec};
use transhume_protocol::message::{GuestState, Order, OrderKind, RefusalKind, VmRole};

use self::adopting::Adopting;
pub(crate) use self::adopting::recover;
use self::arrived::Arrived;
use self::booting::Booting;
use self::expected::Expected;
use self::home::Home;
use self::left::Left;
use self::off::Off;
use self::source::Source;
use self::stranded::Stranded;
use self::target::Target;
use self::vacant::Vacant;
use crate::effect::Ticket;
use crate::input::Input;
use crate::machine::Cx;
use crate::record::{Place, RECORD_VERSION, Record};
use crate::trouble::Trouble;

/// The next role, or the old one and why it is still that.
pub(crate) type Transition = Result<Role, Box<Stays>>;

/// A transition that did not happen: nothing that the role holds is lost.
pub(crate) struct Stays {
    pub(crate) role: Role,
    pub(crate) trouble: Trouble,
}

impl Stays {
    fn new(role: Role, trouble: Trouble) -> Box<Self> {
        Box::new(Stays { role, trouble })
    }
}

/// What a VM is on this host.
#[derive(Debug, Clone)]
pub(crate) enum Role {
    /// Nothing is here yet.
    Vacant(Vacant),
    /// Is being started.
    Booting(Booting),
    /// Lives here.
    Home(Home),
    /// Lives here, powered off.
    Off(Off),
    /// Leaves.
    Source(Box<Source>),
    /// Has left; its buffers still forward.
    Left(Left),
    /// Room is promised.
    Expected(Expected),
    /// Is coming.
    Target(Target),
    /// Has come; its buffers still deliver.
    Arrived(Arrived),
    /// Is being taken over from an earlier agent.
    Adopting(Adopting),
    /// Cannot be taken over.
    Stranded(Stranded),
    /// Nothing is here any more.
    Gone,
}

impl Role {
    pub(crate) fn vacant() -> Self {
        Role::Vacant(Vacant::default())
    }

    pub(crate) fn stranded_without_record(what: String, hint: String) -> Self {
        Role::Stranded(Stranded::without_record(what, hint))
    }

    /// Takes an order while nothing else is being carried out.
    pub(crate) fn order(self, cx: &mut Cx<'_>, order: Order) -> Transition {
        match self {
            Role::Vacant(role) => role.order(cx, order),
            Role::Booting(role) => Err(wrong_state(cx, order.command.kind(), Role::Booting(role))),
            Role::Home(role) => role.order(cx, order),
            Role::Off(role) => role.order(cx, order),
            Role::Source(role) => role.order(cx, order),
            Role::Left(role) => role.order(cx, order),
            Role::Expected(role) => role.order(cx, order),
            Role::Target(role) => role.order(cx, order),
            Role::Arrived(role) => role.order(cx, order),
            Role::Adopting(role) => Err(wrong_state(cx, order.command.kind(), Role::Adopting(role))),
            Role::Stranded(role) => role.order(cx, order),
            Role::Gone => Err(wrong_state(cx, order.command.kind(), Role::Gone)),
        }
    }

    /// Takes anything that is no order. What does not concern the role leaves it as it is.
    pub(crate) fn fact(self, cx: &mut Cx<'_>, fact: Input) -> Role {
        match self {
            Role::Vacant(role) => role.fact(cx, fact),
            Role::Booting(role) => role.fact(cx, fact),
            Role::Home(role) => role.fact(cx, fact),
            Role::Off(role) => Role::Off(role),
            Role::Source(role) => role.fact(cx, fact),
            Role::Left(role) => role.fact(cx, fact),
            Role::Expected(role) => role.fact(cx, fact),
            Role::Target(role) => role.fact(cx, fact),
            Role::Arrived(role) => role.fact(cx, fact),
            Role::Adopting(role) => role.fact(cx, fact),
            Role::Stranded(role) => role.fact(cx, fact),
            Role::Gone => Role::Gone,
        }
    }

    /// The act that must be over before another order can be taken.
    pub(crate) fn busy_with(&self) -> Option<Ticket> {
        match self {
            Role::Vacant(role) => role.busy_with(),
            Role::Booting(role) => Some(role.busy_with()),
            Role::Home(role) => role.busy_with(),
            Role::Off(_) | Role::Gone => None,
            Role::Source(role) => role.busy_with(),
            Role::Left(role) => role.busy_with(),
            Role::Expected(role) => role.busy_with(),
            Role::Target(role) => role.busy_with(),
            Role::Arrived(role) => role.busy_with(),
            Role::Adopting(role) => Some(role.busy_with()),
            Role::Stranded(role) => role.busy_with(),
        }
    }

    /// Whether an order of this kind begins a new move here, whatever was answered in the last one.
    pub(crate) fn begins_anew(&self, kind: OrderKind) -> bool {
        matches!((self, kind), (Role::Home(_), OrderKind::PreCopy))
    }

    /// What a later agent is to find.
    pub(crate) fn record(&self, epoch: Epoch) -> Option<Record> {
        let (spec, place) = match self {
            Role::Vacant(_) | Role::Gone => return None,
            Role::Booting(role) => role.place()?,
            Role::Home(role) => role.place(),
            Role::Off(role) => role.place(),
            Role::Source(role) => role.place(),
            Role::Left(role) => role.place(),
            Role::Expected(role) => role.place(),
            Role::Target(role) => role.place(),
            Role::Arrived(role) => role.place(),
            Role::Adopting(role) => return Some(role.record(epoch)),
            Role::Stranded(role) => return role.record(epoch),
        };
        Some(record(spec, epoch, place))
    }

    /// As the host state shows it.
    pub(crate) fn shown(&self) -> Option<(&VmSpec, VmRole, GuestState)> {
        match self {
            Role::Vacant(_) | Role::Stranded(_) | Role::Gone => None,
            Role::Booting(role) => Some((role.spec(), VmRole::Expected, GuestState::Off)),
            Role::Home(role) => Some((role.spec(), VmRole::Home, role.guest())),
            Role::Off(role) => Some((role.spec(), VmRole::Off, GuestState::Off)),
            Role::Source(role) => Some((role.spec(), VmRole::Source, role.guest())),
            Role::Left(role) => Some((role.spec(), VmRole::Left, GuestState::Paused)),
            Role::Expected(role) => Some((role.spec(), VmRole::Expected, GuestState::Off)),
            Role::Target(role) => Some((role.spec(), VmRole::Target, GuestState::Paused)),
            Role::Arrived(role) => Some((role.spec(), VmRole::Arrived, role.guest())),
            Role::Adopting(role) => Some(role.shown()),
        }
    }

    /// What a VM that has left had captured is gone.
    fn without_spool(self) -> Self {
        match self {
            Role::Left(left) => Role::Left(left.without_spool()),
            other => other,
        }
    }

    /// A target that holds the whole VM, or may: one that is being taken over has not said so yet.
    pub(crate) fn is_whole_target(&self) -> bool {
        match self {
            Role::Target(role) => role.is_whole(),
            Role::Adopting(role) => role.is_target(),
            Role::Vacant(_)
            | Role::Booting(_)
            | Role::Home(_)
            | Role::Off(_)
            | Role::Source(_)
            | Role::Left(_)
            | Role::Expected(_)
            | Role::Arrived(_)
            | Role::Stranded(_)
            | Role::Gone => false,
        }
    }

    pub(crate) fn stranded(&self) -> Option<(&str, &str)> {
        match self {
            Role::Stranded(role) => Some(role.why()),
            Role::Vacant(_)
            | Role::Booting(_)
            | Role::Home(_)
            | Role::Off(_)
            | Role::Source(_)
            | Role::Left(_)
            | Role::Expected(_)
            | Role::Target(_)
            | Role::Arrived(_)
            | Role::Adopting(_)
            | Role::Gone => None,
        }
    }

    /// In words, for refusals.
    fn name(&self) -> &'static str {
        match self {
            Role::Vacant(_) | Role::Gone => "not here",
            Role::Booting(_) => "being started",
            Role::Home(_) => "at home",
            Role::Off(_) => "powered off",
            Role::Source(_) => "leaving",
            Role::Left(_) => "gone to another host",
            Role::Expected(_) => "expected",
            Role::Target(_) => "coming",
            Role::Arrived(_) => "arriving",
            Role::Adopting(_) => "being taken over",
            Role::Stranded(_) => "stranded",
        }
    }
}

fn record(spec: &VmSpec, epoch: Epoch, place: Place) -> Record {
    Record {
        version: RECORD_VERSION,
        spec: spec.clone(),
        epoch,
        place,
    }
}

/// The refusal of an order that does not apply, with the role as it is.
fn wrong_state(cx: &Cx<'_>, kind: OrderKind, role: Role) -> Box<Stays> {
    let begins = matches!(kind, OrderKind::StartVm | OrderKind::Reserve);
    let refusal = if begins {
        RefusalKind::AlreadyHere
    } else {
        RefusalKind::WrongState
    };
    let trouble = Trouble::refused(
        refusal,
        format!(
            "{kind} does not apply to VM {}, which is {} on host {}",
            cx.name,
            role.name(),
            cx.host
        ),
        "another move of this VM may be under way; see `transhume migrations`",
    );
    Stays::new(role, trouble)
}

/// An act made something else than it is there for: the io around the machine is at fault.
fn unexpected() -> Trouble {
    Trouble::failed(
        transhume_protocol::message::FaultKind::Internal,
        "an act was answered with what another one makes",
    )
}

/// The answer to an order that ends everything of a VM here.
fn ended_as(kind: OrderKind) -> transhume_protocol::message::Outcome {
    use transhume_protocol::message::Outcome;
    match kind {
        OrderKind::AbortTarget => Outcome::TargetDropped,
        OrderKind::Discard => Outcome::Discarded { frames: None },
        _ => Outcome::Destroyed,
    }
}
