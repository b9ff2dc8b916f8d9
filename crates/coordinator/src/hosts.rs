//! The hosts as the coordinator sees them, and the way of an order to one.

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tracing::warn;
use transhume_api::{ClockView, HostList, HostView};
use transhume_model::{Epoch, HostName, Millis, OrderId, VmName, VmSpec};
use transhume_protocol::message::{
    BandsChange, Command, GuestState, HostState, Order, Stranded, VmRole, VmState,
};
use transhume_protocol::migration::OrderIds;

use crate::clock::{Clock, Estimate, Sample};
use crate::error::{CLEANING, Refused};

const US_PER_MS: f64 = 1_000.0;

/// A host.
#[derive(Debug, Default)]
struct Host {
    /// Where its orders go; `None` while its agent is away.
    orders: Option<mpsc::Sender<Order>>,
    /// As last reported.
    state: Option<HostState>,
    /// Why its agent is away.
    away: Option<String>,
    /// What an earlier loss of it left there is not cleaned away yet.
    cleaning: bool,
    clock: Clock,
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

    /// Connected. The host may have been started anew, so that its clock is measured anew too.
    /// What became of its bands meanwhile, if anything.
    pub(crate) fn back(
        &mut self,
        name: &HostName,
        state: HostState,
        orders: mpsc::Sender<Order>,
    ) -> Option<BandsChange> {
        let host = self.of(name);
        host.orders = Some(orders);
        host.away = None;
        host.clock = Clock::default();
        self.reported(name, state)
    }

    pub(crate) fn lost(&mut self, name: &HostName) {
        let host = self.of(name);
        (host.orders, host.cleaning) = (None, false);
    }

    pub(crate) fn set_cleaning(&mut self, name: &HostName, cleaning: bool) {
        self.of(name).cleaning = cleaning;
    }

    /// Refused while something is being cleaned away there.
    pub(crate) fn check_clean(&self, name: &HostName) -> Result<(), Refused> {
        if !self.hosts.get(name).is_some_and(|host| host.cleaning) {
            return Ok(());
        }
        Err(Refused::conflict(
            CLEANING,
            format!("host {name} is back, and what it still had of VMs is being cleaned away"),
            format!("try again in a moment; `transhume host show {name}` shows what is left"),
        ))
    }

    pub(crate) fn away(&mut self, name: &HostName, why: String) {
        self.of(name).away = Some(why);
    }

    /// Message B. What became of the host's bands since the one before, if anything.
    pub(crate) fn reported(&mut self, name: &HostName, state: HostState) -> Option<BandsChange> {
        let before = self.of(name).state.replace(state)?.bands?;
        let now = self.state(name)?.bands.as_ref()?;
        now.change_since(&before)
    }

    /// A heartbeat was answered. The estimate, where it is known now.
    pub(crate) fn measured(&mut self, name: &HostName, now: Millis, sample: Sample) -> Option<Estimate> {
        let clock = &mut self.of(name).clock;
        if let Some(step) = clock.add(now, sample) {
            let (before, after) = (step.before.offset_us, step.after.offset_us);
            warn!(host = %name, before_us = before, after_us = after, "its clock, or ours, was stepped");
        }
        clock.estimate(now)
    }

    /// What is known of a host's clock by now.
    pub(crate) fn clock(&self, name: &HostName, now: Millis) -> Option<Estimate> {
        self.hosts.get(name)?.clock.estimate(now)
    }

    /// An agent's answer says that a VM runs, before the next message B does.
    pub(crate) fn vm_started(&mut self, name: &HostName, spec: VmSpec, epoch: Epoch) {
        self.vm_gone(name, &spec.name);
        if let Some(host) = self.of(name).state.as_mut() {
            host.vms.push(VmState {
                spec,
                role: VmRole::Home,
                epoch,
                whole: false,
                guest: GuestState::Running,
            });
        }
    }

    /// An agent's answer says that a VM is powered off.
    pub(crate) fn vm_stopped(&mut self, name: &HostName, vm: &VmName) {
        let vms = self.of(name).state.iter_mut().flat_map(|state| &mut state.vms);
        for state in vms.filter(|state| state.spec.name == *vm) {
            (state.role, state.guest) = (VmRole::Off, GuestState::Off);
        }
    }

    /// An agent's answer says that a VM is gone.
    pub(crate) fn vm_gone(&mut self, name: &HostName, vm: &VmName) {
        if let Some(host) = self.of(name).state.as_mut() {
            host.vms.retain(|known| known.spec.name != *vm);
        }
    }

    /// An order of a move. For a host that is away it is dropped; whoever issued it does so again.
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
    pub(crate) fn inspect_all(&mut self) {
        let names: Vec<HostName> = self.hosts.keys().cloned().collect();
        for name in names {
            self.ask(&name, Epoch::default(), Command::inspect());
        }
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &HostName> {
        self.hosts.keys()
    }

    /// Whether every host's agent is connected, or it is known why not.
    pub(crate) fn are_all_tried(&self) -> bool {
        self.hosts
            .values()
            .all(|host| host.orders.is_some() || host.away.is_some())
    }

    pub(crate) fn is_connected(&self, name: &HostName) -> bool {
        self.hosts.get(name).is_some_and(|host| host.orders.is_some())
    }

    /// Refused, with the reason, while its agent is away.
    pub(crate) fn check_connected(&self, name: &HostName) -> Result<(), Refused> {
        if self.is_connected(name) {
            return self.check_clean(name);
        }
        let why = self.hosts.get(name).and_then(|host| host.away.as_deref());
        Err(Refused::unreachable(name, why))
    }

    /// As last reported.
    pub(crate) fn state(&self, name: &HostName) -> Option<&HostState> {
        self.hosts.get(name)?.state.as_ref()
    }

    /// What a host's agent reported of a VM.
    pub(crate) fn vm(&self, name: &HostName, vm: &VmName) -> Option<&VmState> {
        self.state(name)?.vms.iter().find(|state| state.spec.name == *vm)
    }

    /// Hosts whose agents know a VM, in whatever role.
    pub(crate) fn with_vm<'a>(&'a self, vm: &'a VmName) -> impl Iterator<Item = &'a HostName> {
        self.hosts.keys().filter(|name| self.vm(name, vm).is_some())
    }

    /// Everything that is stranded anywhere, as last reported.
    pub(crate) fn stranded(&self) -> impl Iterator<Item = (&HostName, &Stranded)> {
        self.hosts.iter().flat_map(|(name, host)| {
            let stranded = host.state.iter().flat_map(|state| &state.stranded);
            stranded.map(move |stranded| (name, stranded))
        })
    }

    /// Refused, with what would help, while something of the VM is stranded on any host.
    pub(crate) fn check_not_stranded(&self, vm: &VmName) -> Result<(), Refused> {
        match self.stranded().find(|(_, stranded)| stranded.vm == *vm) {
            None => Ok(()),
            Some((host, stranded)) => Err(Refused::stranded(host, stranded)),
        }
    }

    /// The host of that name.
    pub(crate) fn named(&self, name: &str) -> Result<HostName, Refused> {
        let found = self.hosts.keys().find(|host| host.as_str() == name).cloned();
        found.ok_or_else(|| Refused::unknown("host", name, self.hosts.keys().map(HostName::as_str)))
    }

    pub(crate) fn list(&self, now: Millis) -> HostList {
        let hosts = self.hosts.iter().map(|(name, host)| view(name, host, now));
        HostList {
            hosts: hosts.collect(),
        }
    }
}

/// Whether a VM is powered off, whatever its agent holds of it.
pub(crate) fn is_off(state: &VmState) -> bool {
    state.role == VmRole::Off || state.guest == GuestState::Off
}

fn view(name: &HostName, host: &Host, now: Millis) -> HostView {
    let state = host.state.as_ref();
    let vms = state.iter().flat_map(|state| &state.vms);
    let stranded = state.iter().flat_map(|state| &state.stranded);
    HostView {
        name: name.clone(),
        connected: host.orders.is_some(),
        away: host.away.clone(),
        release: state.and_then(|state| state.release.clone()),
        protocol: state.map(|state| state.protocol),
        capacity: state.map(|state| state.capacity),
        free: state.map(|state| state.free),
        qemu: state.and_then(|state| state.qemu.clone()),
        qemu_error: state.and_then(|state| state.qemu_error.clone()),
        vms: vms.map(|vm| vm.spec.name.clone()).collect(),
        stranded: stranded.cloned().collect(),
        bands: state.and_then(|state| state.bands.clone()),
        insecure: state.is_some_and(|state| state.insecure),
        certificate: state.and_then(|state| state.certificate),
        clock: host.clock.estimate(now).map(clock_view),
        fenced_at: None,
        cordoned: false,
        leftovers: Vec::new(),
    }
}

fn clock_view(estimate: Estimate) -> ClockView {
    ClockView {
        offset_ms: estimate.offset_us as f64 / US_PER_MS,
        uncertainty_ms: estimate.uncertainty_us as f64 / US_PER_MS,
    }
}
