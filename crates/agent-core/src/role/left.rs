//! A VM that has left: committed, never to run here again; its buffers still forward (steps 8 and
//! 9).

use std::net::SocketAddr;

use transhume_model::{ProcessId, VmSpec};
use transhume_protocol::message::{Command, Order, OrderKind, Outcome, SourceFrames};

use super::source::Source;
use super::{Role, Transition, wrong_state};
use crate::effect::{Act, AdoptBuffers, Signal, Ticket};
use crate::input::{Input, Product};
use crate::machine::Cx;
use crate::record::Place;
use crate::trouble::Trouble;

#[derive(Debug, Clone)]
pub(crate) struct Left {
    spec: VmSpec,
    process: Option<ProcessId>,
    tunnels: Vec<SocketAddr>,
    closed: Option<SourceFrames>,
    /// Its buffers are not taken up yet.
    orphaned: bool,
    /// Marker, drain, FIN: under way beside other orders.
    closing: Option<Ticket>,
    /// The order that ends everything as soon as the closing is over.
    then_end: Option<OrderKind>,
    doing: Doing,
}

#[derive(Debug, Clone)]
enum Doing {
    Nothing,
    Surrender(Ticket),
    /// Everything of it is ended; the answer is this order's.
    End(Ticket, OrderKind),
}

impl Left {
    pub(super) fn new(
        spec: VmSpec,
        process: Option<ProcessId>,
        tunnels: Vec<SocketAddr>,
        closed: Option<SourceFrames>,
    ) -> Self {
        let doing = Doing::Nothing;
        Left {
            spec,
            process,
            tunnels,
            closed,
            orphaned: false,
            closing: None,
            then_end: None,
            doing,
        }
    }

    /// Step 8: from here on nothing unwinds.
    pub(super) fn commit(cx: &mut Cx<'_>, source: Source) -> Role {
        let left = Left::new(source.home.spec, Some(source.home.process), source.tunnels, None);
        let orphaned = source.orphaned;
        Left { orphaned, ..left }.surrender(cx)
    }

    /// What an earlier agent captured for a QEMU that is gone is taken up only now: before the
    /// decision nobody needed it.
    fn surrender(self, cx: &mut Cx<'_>) -> Role {
        let act = match &self.process {
            Some(process) if self.orphaned => Act::Adopt {
                process: process.clone(),
                spec: self.spec.clone(),
                epoch: cx.epoch,
                buffers: AdoptBuffers::Capture {
                    tunnels: self.tunnels.clone(),
                },
                incoming: false,
                surrendered: true,
            },
            Some(_) | None => Act::Surrender,
        };
        let doing = Doing::Surrender(cx.act(act));
        Role::Left(Left { doing, ..self })
    }

    /// Only a place that moved: there is nothing to forward.
    pub(super) fn powered_off(spec: VmSpec) -> Self {
        Left::new(spec, None, Vec::new(), Some(SourceFrames::default()))
    }

    pub(super) fn spec(&self) -> &VmSpec {
        &self.spec
    }

    pub(super) fn busy_with(&self) -> Option<Ticket> {
        match self.doing {
            Doing::Nothing => None,
            Doing::Surrender(ticket) | Doing::End(ticket, _) => Some(ticket),
        }
    }

    pub(super) fn place(&self) -> (&VmSpec, Place) {
        let place = Place::Left {
            process: self.process.clone(),
            tunnels: self.tunnels.clone(),
            closed: self.closed,
        };
        (&self.spec, place)
    }

    pub(super) fn order(mut self, cx: &mut Cx<'_>, order: Order) -> Transition {
        let kind = order.command.kind();
        match order.command {
            Command::Commit { .. } => Ok(self.surrender(cx)),
            // Its tunnel connects again by itself.
            Command::ConnectBuffers { .. } => {
                cx.answer(kind, Outcome::BuffersConnected);
                Ok(Role::Left(self))
            }
            Command::CloseSourceBuffer { .. } => {
                match (self.closed, self.closing) {
                    (Some(frames), _) => cx.answer(kind, Outcome::SourceClosed(frames)),
                    (None, None) => self.closing = Some(cx.act(Act::FinishSourceBuffer)),
                    (None, Some(_)) => {}
                }
                Ok(Role::Left(self))
            }
            Command::Discard { .. } | Command::DestroyVm { .. } => {
                match self.closing {
                    // Its target may be lost, and no FIN come from there.
                    Some(closing) => {
                        cx.signal(Signal::Interrupt(closing));
                        self.then_end = Some(kind);
                    }
                    None => self.doing = Doing::End(cx.act(Act::End), kind),
                }
                Ok(Role::Left(self))
            }
            _ => Err(wrong_state(cx, kind, Role::Left(self))),
        }
    }

    pub(super) fn fact(self, cx: &mut Cx<'_>, fact: Input) -> Role {
        match fact {
            Input::Done { ticket, result } if self.busy_with() == Some(ticket) => self.done(cx, result),
            Input::Done { ticket, result } if self.closing == Some(ticket) => self.closing_over(cx, result),
            Input::BufferFault(fault) => {
                cx.speak_up(Trouble::Failed(fault));
                Role::Left(self)
            }
            _ => Role::Left(self),
        }
    }

    fn closing_over(mut self, cx: &mut Cx<'_>, result: Result<Product, Trouble>) -> Role {
        self.closing = None;
        match result {
            Ok(Product::SourceFrames(frames)) => {
                self.closed = Some(frames);
                cx.answer(OrderKind::CloseSourceBuffer, Outcome::SourceClosed(frames));
            }
            result => {
                let trouble = result.err().unwrap_or_else(super::unexpected);
                cx.fail(OrderKind::CloseSourceBuffer, trouble);
            }
        }
        if let Some(kind) = self.then_end.take() {
            self.doing = Doing::End(cx.act(Act::End), kind);
        }
        Role::Left(self)
    }

    fn done(mut self, cx: &mut Cx<'_>, result: Result<Product, Trouble>) -> Role {
        match (std::mem::replace(&mut self.doing, Doing::Nothing), result) {
            (Doing::Surrender(_), Ok(_)) => {
                self.orphaned = false;
                cx.answer(OrderKind::Commit, Outcome::CommitNoted);
            }
            (Doing::Surrender(_), Err(trouble)) => cx.fail(OrderKind::Commit, trouble),
            (Doing::End(_, kind), Ok(product)) => {
                let frames = match product {
                    Product::Ended { source } => self.closed.or(source),
                    _ => self.closed,
                };
                let outcome = match kind {
                    OrderKind::Discard => Outcome::Discarded { frames },
                    _ => Outcome::Destroyed,
                };
                cx.answer(kind, outcome);
                return Role::Gone;
            }
            (Doing::End(_, kind), Err(trouble)) => cx.fail(kind, trouble),
            (Doing::Nothing, _) => {}
        }
        Role::Left(self)
    }
}
