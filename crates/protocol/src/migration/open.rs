//! The open orders of one VM: issued and not yet answered.
//!
//! ```text
//!  issued ─▶ InFlight ── failure ──▶ BackingOff ── pause over ─▶ Parked ── issued again ─▶ InFlight
//!               └──── no answer in time, or its host is lost ───────┘
//! ```

use std::collections::BTreeMap;

use transhume_model::{Millis, OrderId};

use crate::message::OrderKind;
use crate::step::{OrderRow, Side};

/// Ids of an order's latest attempts: an answer to any of them counts.
const ATTEMPTS_REMEMBERED_MAX: usize = 8;

/// An order that is not answered yet.
#[derive(Debug)]
pub(super) struct OpenOrder {
    pub(super) row: &'static OrderRow,
    ids: Vec<OrderId>,
    pub(super) state: OrderState,
    /// When its first attempt left, by the monotonic clock.
    pub(super) since: Millis,
    /// Why its latest attempt failed.
    pub(super) failure: Option<String>,
}

/// Where an open order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OrderState {
    /// On its way or being carried out; issued again at the instant, if there is one.
    InFlight { again_at: Option<Millis> },
    /// It failed; issued again at the instant.
    BackingOff { again_at: Millis },
    /// Its host is lost, or its time is up; issued again as soon as its host is there.
    Parked,
}

/// All open orders of a VM.
#[derive(Debug, Default)]
pub(super) struct OpenOrders(BTreeMap<OrderKind, OpenOrder>);

impl OpenOrders {
    /// The order that a report answers, if it is still open.
    pub(super) fn answered_by(&self, id: OrderId) -> Option<&'static OrderRow> {
        let mut open = self.0.values();
        open.find(|open| open.ids.contains(&id)).map(|open| open.row)
    }

    pub(super) fn get(&self, order: OrderKind) -> Option<&OpenOrder> {
        self.0.get(&order)
    }

    /// Nothing more is expected for the order.
    pub(super) fn close(&mut self, order: OrderKind) {
        self.0.remove(&order);
    }

    /// Notes that an order leaves under this id.
    pub(super) fn issued(
        &mut self,
        row: &'static OrderRow,
        id: OrderId,
        now: Millis,
        again_at: Option<Millis>,
    ) {
        let state = OrderState::InFlight { again_at };
        let open = self.0.entry(row.order).or_insert(OpenOrder {
            row,
            ids: Vec::new(),
            state,
            since: now,
            failure: None,
        });
        if open.ids.len() == ATTEMPTS_REMEMBERED_MAX {
            open.ids.remove(0);
        }
        open.ids.push(id);
        open.state = state;
    }

    /// The order failed and is left alone until the instant; `None` if it is not open any more.
    pub(super) fn back_off(&mut self, order: OrderKind, reason: &str, again_at: Millis) -> Option<OrderId> {
        let open = self.0.get_mut(&order)?;
        open.state = OrderState::BackingOff { again_at };
        open.failure = Some(reason.to_owned());
        open.ids.last().copied()
    }

    /// If this is the latest attempt of an open order and its time is up, lets the order be issued
    /// again.
    pub(super) fn time_is_up(&mut self, id: OrderId, now: Millis) -> bool {
        let mut open = self.0.values_mut();
        let Some(open) = open.find(|open| open.ids.last() == Some(&id)) else {
            return false;
        };
        let due = match open.state {
            OrderState::InFlight { again_at } => again_at.is_some_and(|at| at <= now),
            OrderState::BackingOff { again_at } => again_at <= now,
            OrderState::Parked => false,
        };
        if due {
            open.state = OrderState::Parked;
        }
        due
    }

    /// Orders to this side may have been lost with the connection of its host.
    pub(super) fn park(&mut self, side: Side) {
        for open in self.0.values_mut().filter(|open| open.row.side == side) {
            open.state = OrderState::Parked;
        }
    }

    /// Nothing is wanted of this side any more.
    pub(super) fn forget_side(&mut self, side: Side) {
        self.0.retain(|_, open| open.row.side != side);
    }

    /// Nothing that was issued matters any more, but whether the VM is whole on its target.
    pub(super) fn forget_all(&mut self) {
        self.0.retain(|order, _| *order == OrderKind::AwaitLoaded);
    }
}
