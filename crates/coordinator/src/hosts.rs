//! The hosts as the coordinator sees them, and the way of an order to one.

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tracing::warn;
use transhume_model::{Epoch, HostName, OrderId, VmName};
use transhume_protocol::message::{Command, HostState, Order, VmState};
use transhume_protocol::migration::OrderIds;

use crate::api::{HostList, HostView};
use crate::error::Refused;

/// A host.
#[derive(Debug, Default)]
struct Host {
    /// Where its orders go; `None` while its agent is away.
    orders: Option<mpsc::Sender<Order>>,
    /// As last heard.
    state: Option<HostState>,
    /// Why its agent is away.
    away: Option<String>,
}

/// All hosts of the configuration.
#[derive(Debug)]
pub(crate) struct Hosts {
    hosts: BTreeMap<HostName, Host>,
    ids: OrderIds,
}

impl Hosts {
    /// Nobody is connected yet. `ids` are for orders outside of any move.
    pub(crate) fn new(names: impl Iterator<Item = HostName>, ids: OrderIds) -> Self {
        Self {
            hosts: names.map(|name| (name, Host::default())).collect(),
            ids,
        }
    }

    fn of(&mut self, name: &HostName) -> &mut Host {
        self.hosts.entry(name.clone()).or_default()
    }

    pub(crate) fn back(&mut self, name: &HostName, state: HostState, orders: mpsc::Sender<Order>) {
        *self.of(name) = Host {
            orders: Some(orders),
            state: Some(state),
            away: None,
        };
    }

    pub(crate) fn lost(&mut self, name: &HostName) {
        self.of(name).orders = None;
    }

    pub(crate) fn away(&mut self, name: &HostName, why: String) {
        self.of(name).away = Some(why);
    }

    /// Message B.
    pub(crate) fn said(&mut self, name: &HostName, state: HostState) {
        self.of(name).state = Some(state);
    }

    /// An order of a move. For a host that is away it is dropped; whoever gave it gives it again.
    pub(crate) fn send(&self, name: &HostName, order: Order) {
        let Some(orders) = self.hosts.get(name).and_then(|host| host.orders.as_ref()) else {
            return;
        };
        if orders.try_send(order).is_err() {
            warn!(host = %name, "its connection does not take orders any more");
        }
    }

    /// An order outside of any move.
    pub(crate) fn ask(&mut self, name: &HostName, epoch: Epoch, command: Command) -> OrderId {
        let id = self.ids.next_id();
        self.send(name, Order { id, epoch, command });
        id
    }

    /// Asks every host for its state, out of turn: a move or a cluster has just changed it.
    pub(crate) fn look_around(&mut self) {
        let names: Vec<HostName> = self.hosts.keys().cloned().collect();
        for name in names {
            self.ask(&name, Epoch::default(), Command::inspect());
        }
    }

    pub(crate) fn is_connected(&self, name: &HostName) -> bool {
        self.hosts.get(name).is_some_and(|host| host.orders.is_some())
    }

    /// Refused, with the reason, while its agent is away.
    pub(crate) fn check_connected(&self, name: &HostName) -> Result<(), Refused> {
        if self.is_connected(name) {
            return Ok(());
        }
        let why = self.hosts.get(name).and_then(|host| host.away.as_deref());
        Err(Refused::unreachable(name, why))
    }

    /// As last heard.
    pub(crate) fn state(&self, name: &HostName) -> Option<&HostState> {
        self.hosts.get(name)?.state.as_ref()
    }

    /// What a host's agent said of a VM.
    pub(crate) fn vm(&self, name: &HostName, vm: &VmName) -> Option<&VmState> {
        self.state(name)?.vms.iter().find(|state| state.spec.name == *vm)
    }

    /// The host of that name.
    pub(crate) fn named(&self, name: &str) -> Result<HostName, Refused> {
        let found = self.hosts.keys().find(|host| host.as_str() == name).cloned();
        found.ok_or_else(|| Refused::unknown("host", name, self.hosts.keys().map(HostName::as_str)))
    }

    pub(crate) fn list(&self) -> HostList {
        let hosts = self.hosts.iter().map(|(name, host)| {
            let state = host.state.as_ref();
            HostView {
                name: name.clone(),
                connected: host.orders.is_some(),
                away: host.away.clone(),
                capacity: state.map(|state| state.capacity),
                free: state.map(|state| state.free),
                qemu: state.and_then(|state| state.qemu.clone()),
                qemu_error: state.and_then(|state| state.qemu_error.clone()),
                vms: state
                    .map(|state| state.vms.iter().map(|vm| vm.spec.name.clone()).collect())
                    .unwrap_or_default(),
            }
        });
        HostList {
            hosts: hosts.collect(),
        }
    }
}
