//! Something of a VM is here that cannot be taken over. It is left alone, reported, and counts as occupied: nobody may use the VM's
//! name or disks as if nothing were here.

use transhume_model::Epoch;
use transhume_protocol::message::{Command, Order, OrderKind, Outcome, RefusalKind};

use super::adopting::take_up;
use super::{Role, Stays, Transition, VmSpec};
use crate::effect::{Act, Ticket, Timer};
use crate::input::{Found, Input};
use crate::limits::ADOPT_AGAIN_MS;
use crate::machine::Cx;
use crate::record::Record;
use crate::trouble::Trouble;

#[derive(Debug, Clone)]
pub(crate) struct Stranded {
    /// What it is by its record, if there is one that can be read.
    record: Option<Box<Record>>,
    what: String,
    hint: String,
    ending: Option<(Ticket, OrderKind)>,
}

impl Stranded {
    pub(super) fn without_record(what: String, hint: String) -> Self {
        Stranded {
            record: None,
            what,
            hint,
            ending: None,
        }
    }

    /// It could not be adopted: tried again after a while.
    pub(super) fn with_record(cx: &mut Cx<'_>, record: Record, why: &str) -> Role {
        cx.timer(ADOPT_AGAIN_MS, Timer::Adopt);
        let pid = record.process().map(|process| process.pid);
        let process = pid.map_or("what is left of it".to_owned(), |pid| {
            format!("its QEMU, process {pid},")
        });
        Role::Stranded(Stranded {
            what: format!("{process} cannot be taken over: {why}"),
            hint: format!(
                "the agent tries again every {ADOPT_AGAIN_MS}; end the process by hand if it never answers"
            ),
            record: Some(Box::new(record)),
            ending: None,
        })
    }

    /// What was started could not be ended again. The order has failed; what is left is tried again.
    pub(super) fn after_failed_end(
        cx: &mut Cx<'_>,
        spec: VmSpec,
        kind: OrderKind,
        trouble: Trouble,
        again: &Trouble,
    ) -> Role {
        cx.fail(kind, trouble);
        let place = crate::record::Place::Booting { off: None };
        let record = super::record(&spec, cx.epoch, place);
        Self::after_failed_clearing(cx, record, again)
    }

    /// What is left of a VM that runs no more could not be cleared away.
    pub(super) fn after_failed_clearing(cx: &mut Cx<'_>, record: Record, again: &Trouble) -> Role {
        Self::with_record(cx, record, &again.to_string())
    }

    pub(super) fn busy_with(&self) -> Option<Ticket> {
        self.ending.map(|(ticket, _)| ticket)
    }

    pub(super) fn record(&self, epoch: Epoch) -> Option<Record> {
        let record = self.record.as_deref()?;
        Some(Record {
            epoch,
            ..record.clone()
        })
    }

    pub(super) fn why(&self) -> (&str, &str) {
        (&self.what, &self.hint)
    }

    pub(super) fn order(mut self, cx: &mut Cx<'_>, order: Order) -> Transition {
        let kind = order.command.kind();
        if let Command::DestroyVm { .. } = order.command {
            self.ending = Some((cx.act(Act::End), kind));
            return Ok(Role::Stranded(self));
        }
        let trouble = Trouble::refused(
            RefusalKind::Stranded,
            format!("VM {} is stranded on host {}: {}", cx.name, cx.host, self.what),
            self.hint.clone(),
        );
        Err(Stays::new(Role::Stranded(self), trouble))
    }

    pub(super) fn fact(mut self, cx: &mut Cx<'_>, fact: Input) -> Role {
        match (fact, self.record.take()) {
            (Input::Timer(Timer::Adopt), Some(record)) if self.ending.is_none() => {
                let found = record.process().cloned().map_or(Found::Gone, Found::Alive);
                take_up(cx, *record, found)
            }
            (Input::Done { ticket, result }, record) if self.busy_with() == Some(ticket) => {
                self.record = record;
                match (self.ending.take(), result) {
                    (Some((_, kind)), Ok(_)) => {
                        cx.answer(kind, Outcome::Destroyed);
                        Role::Gone
                    }
                    (Some((_, kind)), Err(trouble)) => {
                        cx.fail(kind, trouble);
                        Role::Stranded(self)
                    }
                    (None, _) => Role::Stranded(self),
                }
            }
            (_, record) => {
                self.record = record;
                Role::Stranded(self)
            }
        }
    }
}
