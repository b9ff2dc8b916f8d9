//! A VM that has left: committed; its buffers still forward (steps 8 and 9). It never runs here
//! again, unless its target is lost and an operator decides so (`Reclaim`).

use transhume_model::{Endpoint, MigrationId, ProcessId, VmSpec};
use transhume_protocol::message::{Command, FaultKind, GuestState, Order, OrderKind, Outcome, SourceFrames};

use super::adopting::of_before;
use super::source::Source;
use super::{Home, Off, Role, Stays, Transition, wrong_state};
use crate::effect::{Act, AdoptBuffers, Signal, Ticket};
use crate::input::{Input, Product};
use crate::machine::Cx;
use crate::record::Place;
use crate::trouble::Trouble;

#[derive(Debug, Clone)]
pub(crate) struct Left {
    spec: VmSpec,
    process: Option<ProcessId>,
    migration: MigrationId,
    /// What its guest did until it was stopped.
    guest: GuestState,
    tunnels: Vec<Endpoint>,
    closed: Option<SourceFrames>,
    /// Its buffers are not taken up yet.
    orphaned: bool,
    /// What it had captured went with its host's memory.
    spool_lost: bool,
    /// Why nothing of it can run any more, whoever decides so.
    ended: Option<String>,
    /// Marker, drain, FIN: under way beside other orders.
    closing: Option<Ticket>,
    /// The order that ends everything, or takes it back, as soon as the closing is over.
    then: Option<OrderKind>,
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
        migration: MigrationId,
        tunnels: Vec<Endpoint>,
        closed: Option<SourceFrames>,
    ) -> Self {
        let doing = Doing::Nothing;
        Left {
            spec,
            process,
            migration,
            guest: GuestState::Running,
            tunnels,
            closed,
            orphaned: false,
            spool_lost: false,
            ended: None,
            closing: None,
            then: None,
            doing,
        }
    }

    pub(super) fn with_guest(self, guest: GuestState) -> Self {
        Left { guest, ..self }
    }

    pub(super) fn without_spool(self) -> Self {
        let spool_lost = true;
        Left { spool_lost, ..self }
    }

    /// Its QEMU is gone: it only forwards.
    pub(super) fn dead(self, why: &str) -> Self {
        let ended = Some(why.to_owned());
        Left { ended, ..self }
    }

    /// Step 8: from here on nothing unwinds.
    pub(super) fn commit(cx: &mut Cx<'_>, source: Source) -> Role {
        let guest = source.home.guest;
        let (spec, process) = (source.home.spec, Some(source.home.process));
        let left = Left::new(spec, process, source.order.migration, source.tunnels, None);
        Left {
            guest,
            orphaned: source.orphaned,
            ended: source.ended,
            ..left
        }
        .surrender(cx)
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
        let none = SourceFrames::default();
        Left::new(spec, None, MigrationId::default(), Vec::new(), Some(none)).with_guest(GuestState::Off)
    }

    /// An operator decided that it runs here again: recorded as a source on its way back before
    /// anything of it runs.
    fn reclaim(self, cx: &mut Cx<'_>) -> Role {
        let Some(process) = self.process else {
            cx.end_move();
            cx.answer(
                OrderKind::Reclaim,
                Outcome::SourceRestored(SourceFrames::default()),
            );
            let why = "it was powered off when it was moved".to_owned();
            return Role::Off(Off::new(self.spec, why, None));
        };
        let home = Home::new(self.spec, process, self.guest, true, None);
        let keeps_frames = self.closed.is_none();
        let order = of_before(self.migration);
        let source = Source {
            stopped: self.guest == GuestState::Running,
            ended: self.ended,
            orphaned: self.orphaned,
            closed: self.closed,
            ..Source::adopted(home, order, keeps_frames, keeps_frames, self.tunnels)
        };
        Box::new(source).begin_restore(cx, OrderKind::Reclaim)
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
            migration: self.migration,
            guest: self.guest,
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
            Command::CloseSourceBuffer { .. } if self.spool_lost && self.closed.is_none() => {
                let reason = format!(
                    "host {} was started anew, and what it had captured for VM {} is lost",
                    cx.host, cx.name
                );
                let trouble = Trouble::failed(FaultKind::SpoolLost, reason);
                Err(Stays::new(Role::Left(self), trouble))
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
                        self.then = Some(kind);
                    }
                    None => self.doing = Doing::End(cx.act(Act::End), kind),
                }
                Ok(Role::Left(self))
            }
            Command::Reclaim { .. } => match self.closing {
                Some(closing) => {
                    cx.signal(Signal::Interrupt(closing));
                    self.then = Some(kind);
                    Ok(Role::Left(self))
                }
                None => Ok(self.reclaim(cx)),
            },
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
            Input::Died { why } => Role::Left(self.dead(&format!("its QEMU ended by itself: {why}"))),
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
        match self.then.take() {
            Some(OrderKind::Reclaim) => return self.reclaim(cx),
            Some(kind) => self.doing = Doing::End(cx.act(Act::End), kind),
            None => {}
        }
        Role::Left(self)
    }

    fn done(mut self, cx: &mut Cx<'_>, result: Result<Product, Trouble>) -> Role {
        match (std::mem::replace(&mut self.doing, Doing::Nothing), result) {
            (Doing::Surrender(_), Ok(product)) => {
                self.orphaned = false;
                self.spool_lost |= product == Product::AdoptedWithoutSpool;
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
