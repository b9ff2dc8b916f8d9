//! A VM that lives here and is powered off: its place is kept, there is no process.

use transhume_model::VmSpec;
use transhume_protocol::message::{
    Command, Fault, FaultKind, Order, OrderKind, Outcome, RefusalKind, SourceFrames,
};

use super::{Booting, Left, Role, Stays, Transition, wrong_state};
use crate::machine::Cx;
use crate::record::{Arrival, Place};
use crate::trouble::Trouble;

#[derive(Debug, Clone)]
pub(crate) struct Off {
    spec: VmSpec,
    why: String,
    arrival: Option<Arrival>,
}

impl Off {
    pub(super) fn new(spec: VmSpec, why: String, arrival: Option<Arrival>) -> Self {
        Off { spec, why, arrival }
    }

    pub(super) fn spec(&self) -> &VmSpec {
        &self.spec
    }

    pub(super) fn why(&self) -> &str {
        &self.why
    }

    pub(super) fn place(&self) -> (&VmSpec, Place) {
        let place = Place::Off {
            why: self.why.clone(),
            arrival: self.arrival.clone(),
        };
        (&self.spec, place)
    }

    pub(super) fn order(self, cx: &mut Cx<'_>, order: Order) -> Transition {
        let kind = order.command.kind();
        match order.command {
            Command::StartVm { spec } => Ok(Booting::admit(cx, spec, self)),
            Command::StopVm { .. } => {
                cx.answer(kind, Outcome::Stopped);
                Ok(Role::Off(self))
            }
            Command::DestroyVm { .. } => {
                cx.answer(kind, Outcome::Destroyed);
                Ok(Role::Gone)
            }
            Command::AbortSource { .. } | Command::Reclaim { .. } => {
                cx.answer(kind, Outcome::SourceRestored(SourceFrames::default()));
                Ok(Role::Off(self))
            }
            // Its place moves: there is nothing to copy, and nothing to forward.
            Command::Commit { .. } => {
                cx.answer(kind, Outcome::CommitNoted);
                Ok(Role::Left(Left::powered_off(self.spec)))
            }
            Command::PreCopy { .. } => {
                let trouble = Trouble::refused(
                    RefusalKind::PoweredOff,
                    format!("VM {} on host {} is powered off: {}", cx.name, cx.host, self.why),
                    "move again: its place moves with the cluster",
                );
                Err(Stays::new(Role::Off(self), trouble))
            }
            Command::Activate { .. }
            | Command::CloseTargetBuffer { .. }
            | Command::OpenPlug { .. }
            | Command::OpenTargetBuffer { .. } => {
                let outcome = answer_again(&self.arrival, kind).or_else(|| self.lost(kind));
                match outcome {
                    Some(outcome) => {
                        cx.answer(kind, outcome);
                        Ok(Role::Off(self))
                    }
                    None => Err(wrong_state(cx, kind, Role::Off(self))),
                }
            }
            _ => Err(wrong_state(cx, kind, Role::Off(self))),
        }
    }

    /// It came with a move and is off now: what it does not hold any more is lost.
    fn lost(&self, kind: OrderKind) -> Option<Outcome> {
        let arrival = self.arrival.as_ref()?;
        let fault_kind = match arrival.told_to_run {
            true => FaultKind::Qemu,
            false => FaultKind::NeverRan,
        };
        (kind != OrderKind::OpenTargetBuffer).then(|| {
            let reason = format!("VM {} is powered off: {}", self.spec.name, self.why);
            Outcome::Lost(Fault::new(fault_kind, reason))
        })
    }
}

/// What was answered when a VM came, to the orders that brought it.
pub(super) fn answer_again(arrival: &Option<Arrival>, kind: OrderKind) -> Option<Outcome> {
    let arrival = arrival.as_ref()?;
    match kind {
        OrderKind::OpenTargetBuffer => Some(Outcome::TargetBufferOpen {
            tunnels: arrival.tunnels.clone(),
        }),
        OrderKind::Activate => arrival.activated.map(Outcome::Activated),
        OrderKind::CloseTargetBuffer | OrderKind::OpenPlug => arrival.closed.map(Outcome::TargetClosed),
        _ => None,
    }
}
