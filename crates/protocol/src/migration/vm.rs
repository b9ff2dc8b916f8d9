//! What the machine knows of one VM: what is done, which orders are open, what was measured.

use std::collections::BTreeSet;

use transhume_model::{Endpoint, HostName, Millis, OrderId, VmName, VmSpec, WallMicros};

use super::Now;
use super::decision::Ran;
use super::journal::{RunOn, VmSoFar};
use super::open::OpenOrders;
use super::request::{MoveRequest, MoveVm};
use crate::message::{
    ActivationTimes, Command, Fault, FaultKind, GuestState, OrderKind, SourceFrames, TargetFrames,
};
use crate::step::{Need, ORDERS, OrderRow, Part, Phase, Side};

/// One VM of the move.
#[derive(Debug)]
pub(super) struct Vm {
    pub(super) spec: VmSpec,
    pub(super) source: HostName,
    pub(super) target: HostName,
    /// Only its place moves.
    pub(super) powered_off: bool,
    /// From 0.
    pub(super) batch: usize,
    started: BTreeSet<OrderKind>,
    done: BTreeSet<OrderKind>,
    pub(super) open: OpenOrders,
    /// Sides that got an order: these need an order to abort.
    touched: BTreeSet<Side>,
    /// Failures of the current orders in a row, for the pause before the next attempt.
    pub(super) failures: u32,
    /// What the last event about a failure said, so that it is said once.
    pub(super) last_failure: Option<String>,
    pub(super) page_stream: Option<Endpoint>,
    pub(super) tunnels: Vec<Endpoint>,
    pub(super) committed: bool,
    /// Committed, and gone before it ran for good: why.
    pub(super) lost: Option<Fault>,
    /// Sides whose host is lost for good: nothing is wanted of them any more.
    pub(super) given_up: BTreeSet<Side>,
    /// Of those, what is to be cleaned away when they are back is in the journal.
    pub(super) left_behind: BTreeSet<Side>,
    /// An operator's word where it runs.
    pub(super) resolved: Option<RunOn>,
    /// The whole VM is on its target, as far as is known.
    pub(super) whole: bool,
    /// An order to run it on its target may have left.
    pub(super) told_to_run: bool,
    /// It goes back to its source after commit; whether it may have run on its target.
    pub(super) reclaimed: Option<Ran>,
    /// Since when its target says that it has lost it.
    pub(super) lost_at: Option<Millis>,
    /// The plug was opened without FIN: frames that the source held may be lost.
    pub(super) without_fin: bool,
    /// What was measured before the decision: the journal keeps it there.
    pub(super) so_far: VmSoFar,
    pub(super) activation: Option<ActivationTimes>,
    pub(super) source_frames: Option<SourceFrames>,
    pub(super) target_frames: Option<TargetFrames>,
    /// When `Activated` was here.
    pub(super) activated_at: Option<WallMicros>,
    /// When it ran on its source again, after an abort.
    pub(super) restored_at: Option<WallMicros>,
    /// When its move was over.
    pub(super) over_at: Option<WallMicros>,
}

impl Vm {
    pub(super) fn new(vm: &MoveVm, batch: usize) -> Self {
        Vm {
            spec: vm.spec.clone(),
            source: vm.source.clone(),
            target: vm.target.clone(),
            powered_off: vm.powered_off,
            batch,
            started: BTreeSet::new(),
            done: BTreeSet::new(),
            open: OpenOrders::default(),
            touched: BTreeSet::new(),
            failures: 0,
            last_failure: None,
            page_stream: None,
            tunnels: Vec::new(),
            committed: false,
            lost: None,
            given_up: BTreeSet::new(),
            left_behind: BTreeSet::new(),
            resolved: None,
            whole: false,
            told_to_run: false,
            reclaimed: None,
            lost_at: None,
            without_fin: false,
            so_far: VmSoFar::new(vm.spec.name.clone(), vm.guest),
            activation: None,
            source_frames: None,
            target_frames: None,
            activated_at: None,
            restored_at: None,
            over_at: None,
        }
    }

    pub(super) fn name(&self) -> &VmName {
        &self.spec.name
    }

    pub(super) fn host(&self, side: Side) -> &HostName {
        match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        }
    }

    pub(super) fn is_on(&self, host: &HostName) -> bool {
        self.source == *host || self.target == *host
    }

    /// Whether the order is given to this VM at all.
    pub(super) fn takes(&self, row: &OrderRow) -> bool {
        let guest = row.without_guest || !(self.powered_off || self.lost.is_some());
        if self.is_reclaimed() || row.order == OrderKind::Reclaim {
            let reclaims = self.is_reclaimed() && row.order == OrderKind::Reclaim;
            return reclaims && !self.given_up.contains(&row.side);
        }
        let comes = match row.order {
            OrderKind::OpenPlug => self.opens_without_fin(),
            OrderKind::CloseTargetBuffer => !self.opens_without_fin(),
            _ => true,
        };
        guest && comes && !self.given_up.contains(&row.side)
    }

    /// Its source is given up before it could send FIN.
    fn opens_without_fin(&self) -> bool {
        let closed = self.is_done(OrderKind::CloseSourceBuffer) || self.is_done(OrderKind::CloseTargetBuffer);
        self.committed && self.given_up.contains(&Side::Source) && !closed
    }

    /// Whether it runs on its target by an operator's word, though its batch rolls back.
    pub(super) fn is_kept_on_target(&self) -> bool {
        self.resolved == Some(RunOn::Target)
    }

    /// Whether an operator gave it back to its source after commit.
    pub(super) fn is_reclaimed(&self) -> bool {
        self.reclaimed.is_some()
    }

    /// Whether its target lost it before it was seen to run, and its source still has the copy that
    /// was surrendered: an operator decides.
    pub(super) fn may_be_reclaimed(&self) -> bool {
        let never_seen = self.committed && self.lost.is_some() && self.activated_at.is_none();
        let kept = !self.given_up.contains(&Side::Source) && !self.is_done(OrderKind::Discard);
        never_seen && kept && self.resolved.is_none() && !self.powered_off
    }

    /// Whether it may have run on its target.
    pub(super) fn ran(&self) -> Ran {
        let never = self
            .lost
            .as_ref()
            .is_some_and(|fault| fault.kind == FaultKind::NeverRan);
        match never || !self.told_to_run || self.powered_off {
            true => Ran::Never,
            false => Ran::Maybe,
        }
    }

    pub(super) fn is_done(&self, order: OrderKind) -> bool {
        self.done.contains(&order)
    }

    /// Whether nothing is left to wait for: the order is done, or not given to this VM.
    pub(super) fn has(&self, order: OrderKind) -> bool {
        self.is_done(order) || order.row().is_some_and(|row| !self.takes(row))
    }

    /// Whether an interim answer to the order is here.
    pub(super) fn is_started(&self, order: OrderKind) -> bool {
        self.started.contains(&order)
    }

    pub(super) fn set_started(&mut self, order: OrderKind) {
        self.started.insert(order);
    }

    /// Answered: nothing more is expected for this order. After the last frame nothing that comes
    /// before it is missing any more, even if its own answer got lost.
    pub(super) fn set_done(&mut self, order: OrderKind) {
        self.done.insert(order);
        self.open.close(order);
        if matches!(order, OrderKind::CloseSourceBuffer | OrderKind::Discard)
            && let Some(row) = order.row()
        {
            self.set_needs_done(row);
        }
    }

    fn set_needs_done(&mut self, row: &OrderRow) {
        for need in row.needs {
            if let Need::Own(order) = need
                && !self.is_done(*order)
            {
                self.done.insert(*order);
                self.open.close(*order);
                if let Some(row) = order.row() {
                    self.set_needs_done(row);
                }
            }
        }
    }

    /// All that comes before the commit is done: read back from the journal.
    pub(super) fn set_prepared(&mut self) {
        let before = ORDERS
            .iter()
            .filter(|row| row.part < Part::Step(crate::step::Step::Commit));
        self.done.extend(before.map(|row| row.order));
    }

    /// The buffers must be connected anew before they can be closed: one of the two agents may have
    /// restarted.
    pub(super) fn part_buffers(&mut self) {
        if self.is_done(OrderKind::CloseSourceBuffer) {
            return;
        }
        for order in [OrderKind::OpenTargetBuffer, OrderKind::ConnectBuffers] {
            self.done.remove(&order);
            self.open.close(order);
        }
    }

    /// Whether both buffers are closed.
    pub(super) fn is_closed(&self) -> bool {
        self.is_done(OrderKind::CloseSourceBuffer) && self.is_done(OrderKind::CloseTargetBuffer)
    }

    /// Whether the side got an order and must be undone.
    pub(super) fn is_touched(&self, side: Side) -> bool {
        self.touched.contains(&side)
    }

    pub(super) fn touch(&mut self, side: Side) {
        self.touched.insert(side);
    }

    /// Whether every side that got an order is undone.
    pub(super) fn is_undone(&self) -> bool {
        if self.is_kept_on_target() {
            return self.is_settled();
        }
        let undo = ORDERS.iter().filter(|row| row.part == Part::RollBack);
        undo.filter(|row| self.is_touched(row.side) && !self.given_up.contains(&row.side))
            .all(|row| self.is_done(row.order))
    }

    /// After commit: nothing is wanted of its target any more.
    pub(super) fn is_settled(&self) -> bool {
        [
            OrderKind::Activate,
            OrderKind::CloseTargetBuffer,
            OrderKind::OpenPlug,
        ]
        .into_iter()
        .all(|order| self.has(order))
    }

    /// Notes that an order leaves under this id.
    pub(super) fn issued(&mut self, row: &'static OrderRow, id: OrderId, now: Now, again_at: Option<Millis>) {
        self.touch(row.side);
        self.told_to_run |= row.order == OrderKind::Activate;
        if row.order == OrderKind::Capture {
            self.so_far.capture_sent_at.get_or_insert(now.wall);
        }
        self.open.issued(row, id, now.mono, again_at);
    }

    /// Orders to this host may have been lost with its connection.
    pub(super) fn park_orders_to(&mut self, host: &HostName) {
        for side in [Side::Source, Side::Target] {
            if self.host(side) == host {
                self.open.park(side);
            }
        }
    }

    /// The order in full; `None` while what it carries is not known, and for orders outside a move.
    pub(super) fn command(&self, order: OrderKind, request: &MoveRequest) -> Option<Command> {
        let vm = self.name().clone();
        Some(match order {
            OrderKind::Inspect
            | OrderKind::Pace
            | OrderKind::HearLink
            | OrderKind::TryLink
            | OrderKind::StartVm
            | OrderKind::StopVm
            | OrderKind::DestroyVm => {
                return None;
            }
            OrderKind::Reserve => Command::Reserve {
                migration: request.migration,
                spec: self.spec.clone(),
                powered_off: self.powered_off,
            },
            OrderKind::Prepare => Command::Prepare { vm },
            OrderKind::PreCopy => Command::PreCopy {
                migration: request.migration,
                vm,
                page_stream: self.page_stream.clone()?,
                mode: request.mode,
                blackout_max: request.limits.blackout_ms_max,
            },
            OrderKind::OpenSourceBuffer => Command::OpenSourceBuffer { vm },
            OrderKind::OpenTargetBuffer => Command::OpenTargetBuffer { vm },
            OrderKind::ConnectBuffers => Command::ConnectBuffers {
                vm,
                tunnels: self.tunnels.clone(),
            },
            OrderKind::Capture => Command::Capture { vm },
            OrderKind::StopAndCopy => Command::StopAndCopy { vm },
            OrderKind::AwaitLoaded => Command::AwaitLoaded {
                vm,
                guest: self.so_far.guest,
            },
            OrderKind::Activate => Command::Activate {
                vm,
                run: self.is_to_run(),
            },
            OrderKind::Commit => Command::Commit { vm },
            OrderKind::CloseSourceBuffer => Command::CloseSourceBuffer { vm },
            OrderKind::CloseTargetBuffer => Command::CloseTargetBuffer { vm },
            OrderKind::OpenPlug => Command::OpenPlug { vm },
            OrderKind::Discard => Command::Discard { vm },
            OrderKind::Reclaim => Command::Reclaim { vm },
            OrderKind::AbortSource => Command::AbortSource { vm },
            OrderKind::AbortTarget => Command::AbortTarget { vm },
        })
    }

    /// A guest runs on its target only if it ran on its source.
    pub(super) fn is_to_run(&self) -> bool {
        !self.powered_off && self.so_far.guest == GuestState::Running
    }

    /// Notes that it enters a phase; false if it is there already.
    pub(super) fn enter(&mut self, phase: Phase, at: WallMicros) -> bool {
        let entered = &mut self.so_far.entered;
        let new = entered.last().is_none_or(|(last, _)| *last < phase);
        if new {
            entered.push((phase, at));
        }
        new
    }
}
