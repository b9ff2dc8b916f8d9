//! Something of a VM is here that cannot be taken over. It is left alone, reported, and counts as
//! occupied: nobody may use the VM's name or disks as if nothing were here.

use transhume_model::Epoch;
use transhume_protocol::message::{Command, Order, OrderKind, Outcome, RefusalKind};

use super::adopting::{take_up, without_process};
use super::{Role, Stays, Transition};
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
    /// What is under way to end it; the order that asked for it, where one did.
    ending: Option<(Ticket, Option<OrderKind>)>,
    /// It runs no more: what is left is to be cleared away, not taken over.
    clears: bool,
}

impl Stranded {
    pub(super) fn without_record(what: String, hint: String) -> Self {
        Stranded {
            record: None,
            what,
            hint,
            ending: None,
            clears: false,
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
            clears: false,
        })
    }

    /// What was started could not be ended again. The order has failed; what is left is tried
    /// again.
    pub(super) fn after_failed_end(
        cx: &mut Cx<'_>,
        record: Record,
        kind: OrderKind,
        trouble: Trouble,
        again: &Trouble,
    ) -> Role {
        cx.fail(kind, trouble);
        Self::after_failed_clearing(cx, record, again)
    }

    /// What is left of a VM that runs no more could not be cleared away.
    pub(super) fn after_failed_clearing(cx: &mut Cx<'_>, record: Record, again: &Trouble) -> Role {
        Self::with_record(cx, record, &again.to_string())
    }

    /// A VM runs no more; nothing of it is to be left when it is off.
    pub(super) fn clear(cx: &mut Cx<'_>, record: Record) -> Role {
        let ending = Some((cx.act(Act::End), None));
        Role::Stranded(Stranded {
            record: Some(Box::new(record)),
            what: "its QEMU is gone, and what is left of it is being cleared away".to_owned(),
            hint: format!("the agent tries again every {ADOPT_AGAIN_MS} until it is"),
            ending,
            clears: true,
        })
    }

    /// The same, after it failed once.
    pub(super) fn clear_later(cx: &mut Cx<'_>, record: Record) -> Role {
        cx.timer(ADOPT_AGAIN_MS, Timer::Adopt);
        Role::Stranded(Stranded {
            record: Some(Box::new(record)),
            what: "its QEMU is gone, and what is left of it cannot be cleared away".to_owned(),
            hint: format!("the agent tries again every {ADOPT_AGAIN_MS} until it can"),
            ending: None,
            clears: true,
        })
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
            self.ending = Some((cx.act(Act::End), Some(kind)));
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
                if self.clears {
                    return Self::clear(cx, *record);
                }
                let found = record.process().cloned().map_or(Found::Gone, Found::Alive);
                take_up(cx, *record, found)
            }
            (Input::Done { ticket, result }, record) if self.busy_with() == Some(ticket) => {
                let kind = self.ending.take().and_then(|(_, kind)| kind);
                match (kind, result, record) {
                    (Some(kind), Ok(_), _) => {
                        cx.answer(kind, Outcome::Destroyed);
                        Role::Gone
                    }
                    (None, Ok(_), Some(record)) => without_process(*record),
                    (None, Ok(_), None) => Role::Gone,
                    (None, Err(_), Some(record)) => Self::clear_later(cx, *record),
                    (kind, Err(trouble), record) => {
                        if let Some(kind) = kind {
                            cx.fail(kind, trouble);
                        }
                        if self.clears {
                            cx.timer(ADOPT_AGAIN_MS, Timer::Adopt);
                        }
                        self.record = record;
                        Role::Stranded(self)
                    }
                }
            }
            (_, record) => {
                self.record = record;
                Role::Stranded(self)
            }
        }
    }
}
