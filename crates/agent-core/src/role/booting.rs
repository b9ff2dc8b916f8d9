//! A VM is being started: recorded first, started stopped, recorded again, and only then told to
//! run.

use transhume_model::VmSpec;
use transhume_protocol::message::OrderKind;

use super::{Home, Off, Role};
use crate::effect::{Act, SpawnFor, Ticket};
use crate::input::{Input, Product};
use crate::machine::Cx;
use crate::record::Place;
use crate::trouble::Trouble;

#[derive(Debug, Clone)]
pub(crate) struct Booting {
    spec: VmSpec,
    or: Or,
    step: Step,
}

/// What it is again if it cannot be started.
#[derive(Debug, Clone)]
pub(super) enum Or {
    /// Nothing.
    Gone,
    /// Powered off.
    Off(Box<Off>),
}

#[derive(Debug, Clone)]
enum Step {
    /// Is there still room, are its disks still there? Only for one that was off.
    Admit(Ticket),
    Spawn(Ticket),
    /// What was made is taken back.
    End {
        ticket: Ticket,
        trouble: Trouble,
    },
}

impl Booting {
    /// A VM that was off is checked again.
    pub(super) fn admit(cx: &mut Cx<'_>, spec: VmSpec, off: Off) -> Role {
        let act = Act::Admit {
            spec: spec.clone(),
            powered_off: false,
        };
        let step = Step::Admit(cx.act(act));
        let or = Or::Off(Box::new(off));
        Role::Booting(Booting { spec, or, step })
    }

    /// An admitted VM is started.
    pub(super) fn spawn(cx: &mut Cx<'_>, spec: VmSpec, or: Or) -> Role {
        let act = Act::Spawn {
            spec: spec.clone(),
            purpose: SpawnFor::Boot,
        };
        let step = Step::Spawn(cx.act(act));
        Role::Booting(Booting { spec, or, step })
    }

    /// An earlier agent was killed meanwhile. Whatever it started never ran.
    pub(super) fn take_back(cx: &mut Cx<'_>, spec: VmSpec, or: Or) -> Role {
        let trouble = Trouble::failed(
            transhume_protocol::message::FaultKind::AgentRestarted,
            format!("the agent was restarted while VM {} was being started", spec.name),
        );
        let ticket = cx.act(Act::End);
        let step = Step::End { ticket, trouble };
        Role::Booting(Booting { spec, or, step })
    }

    pub(super) fn spec(&self) -> &VmSpec {
        &self.spec
    }

    pub(super) fn busy_with(&self) -> Ticket {
        match self.step {
            Step::Admit(ticket) | Step::Spawn(ticket) | Step::End { ticket, .. } => ticket,
        }
    }

    pub(super) fn place(&self) -> Option<(&VmSpec, Place)> {
        match (&self.step, &self.or) {
            (Step::Admit(_), Or::Gone) => None,
            (Step::Admit(_), Or::Off(off)) => Some(off.place()),
            (Step::Spawn(_) | Step::End { .. }, or) => {
                let off = match or {
                    Or::Gone => None,
                    Or::Off(off) => Some(off.why().to_owned()),
                };
                Some((&self.spec, Place::Booting { off }))
            }
        }
    }

    pub(super) fn fact(self, cx: &mut Cx<'_>, fact: Input) -> Role {
        let Input::Done { ticket, result } = fact else {
            return Role::Booting(self);
        };
        if ticket != self.busy_with() {
            return Role::Booting(self);
        }
        let place = self
            .place()
            .map(|(spec, place)| super::record(spec, cx.epoch, place));
        let Booting { spec, or, step } = self;
        match (step, result) {
            (Step::Admit(_), Ok(Product::Admitted { spec })) => Self::spawn(cx, spec, or),
            (Step::Admit(_), Ok(_)) => Self::give_up(cx, or, super::unexpected()),
            (Step::Admit(_), Err(trouble)) => Self::give_up(cx, or, trouble),
            (Step::Spawn(_), Ok(Product::Spawned { process })) => Home::booted(cx, spec, process),
            (Step::Spawn(_), Ok(_)) => Self::end(cx, spec, or, super::unexpected()),
            (Step::Spawn(_), Err(trouble)) => Self::end(cx, spec, or, trouble),
            (Step::End { trouble, .. }, Ok(_)) => Self::give_up(cx, or, trouble),
            (Step::End { trouble, .. }, Err(again)) => match place {
                // Its record stays, so that a later order or agent ends it.
                Some(record) => {
                    super::Stranded::after_failed_end(cx, record, OrderKind::StartVm, trouble, &again)
                }
                None => Self::give_up(cx, or, trouble),
            },
        }
    }

    fn end(cx: &mut Cx<'_>, spec: VmSpec, or: Or, trouble: Trouble) -> Role {
        let ticket = cx.act(Act::End);
        let step = Step::End { ticket, trouble };
        Role::Booting(Booting { spec, or, step })
    }

    fn give_up(cx: &mut Cx<'_>, or: Or, trouble: Trouble) -> Role {
        cx.fail(OrderKind::StartVm, trouble);
        match or {
            Or::Gone => Role::Gone,
            Or::Off(off) => Role::Off(*off),
        }
    }
}
