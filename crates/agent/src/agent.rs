//! The agent as a whole: who is here, who takes which order, what the host says of itself.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot};
use transhume_agent_core::{Machine, Ready, absent, admit};
use transhume_model::{Endpoint, Epoch, Mebibytes, VmName, WallMicros};
use transhume_protocol::message::{
    AnyOrder, CertificateState, Command, Fault, FaultKind, Hello, HostState, Order, Outcome,
    PROTOCOL_VERSION, Refusal, RefusalKind, Report, Stranded, VmRates, VmState,
};
use transhume_protocol::wire::WireError;
use transhume_trust::Validity;

use crate::bands::Keeper;
use crate::clock::wall;
use crate::context::{Context, locked};
use crate::dirty_rate;
use crate::limits::ORDERS_WAITING_MAX;
use crate::link::OrderHandler;
use crate::metrics::SeenVm;
use crate::pace::Pace;
use crate::page_stream;
use crate::store::StoreError;
use crate::vm::{Farewell, Snapshot, VmMeter, VmTask};

/// All VMs of this host. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    context: Arc<Context>,
    /// Differs after each start.
    run: u64,
    vms: Arc<Mutex<HashMap<VmName, Entry>>>,
    /// One coordinator after the other says who it is.
    admitting: Arc<Mutex<()>>,
    /// Version of the messages that the newest connection speaks.
    protocol: Arc<AtomicU16>,
}

/// A VM's task, seen from outside.
#[derive(Debug)]
struct Entry {
    orders: mpsc::Sender<Order>,
    snapshot: Arc<Mutex<Snapshot>>,
    pace: Arc<Pace>,
    meter: Arc<VmMeter>,
}

impl Agent {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            run: wall().0,
            vms: Arc::default(),
            admitting: Arc::default(),
            protocol: Arc::new(AtomicU16::new(PROTOCOL_VERSION)),
        }
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Starts the task of a VM that an earlier agent left; told when it is taken over.
    pub(crate) fn enlist(&self, machine: Machine, first: Option<Ready>) -> oneshot::Receiver<()> {
        let (name, (entry, taken_over)) = (machine.name().clone(), self.start(machine, first));
        locked(&self.vms).insert(name, entry);
        taken_over
    }

    fn start(&self, machine: Machine, first: Option<Ready>) -> (Entry, oneshot::Receiver<()>) {
        let (orders, queue) = mpsc::channel(ORDERS_WAITING_MAX);
        let snapshot = Arc::new(Mutex::new(Snapshot::default()));
        let (told, taken_over) = oneshot::channel();
        let context = self.context.clone();
        let task = VmTask::new(context, machine, first, queue, snapshot.clone(), told);
        let (meter, pace) = (task.meter(), task.pace());
        let agent = self.clone();
        tokio::spawn(async move {
            let name = task.name().clone();
            let farewell = task.run().await;
            agent.part_with(&name, farewell);
        });
        let entry = Entry {
            orders,
            snapshot,
            pace,
            meter,
        };
        (entry, taken_over)
    }

    /// Nothing of the VM is here any more. It is struck out before its last answer, so that the
    /// next order finds no task that ends.
    fn part_with(&self, vm: &VmName, farewell: Farewell) {
        let Farewell {
            reports,
            mut postponed,
            mut orders,
            taken_over,
        } = farewell;
        tokio::task::block_in_place(|| self.forget(vm));
        {
            let mut vms = locked(&self.vms);
            vms.remove(vm);
            // Nobody can send any more.
            while let Ok(order) = orders.try_recv() {
                postponed.push(order);
            }
        }
        self.context.reservations().release(vm);
        drop(taken_over);
        for report in reports {
            self.context.reports.send(report);
        }
        for order in postponed {
            self.hand_over(order, vm);
        }
    }

    /// A VM that was stranded without a record leaves a directory without one.
    fn forget(&self, vm: &VmName) {
        if let Err(error) = self.context.store.forget(vm) {
            tracing::error!(%vm, "its directory stays behind: {}", crate::text::chain(&error));
        }
    }

    fn report(&self, order: &Order, vm: Option<VmName>, outcome: Outcome) {
        self.context.reports.send(Report {
            order: Some(order.id),
            epoch: order.epoch,
            vm,
            at: wall(),
            outcome,
        });
    }

    fn hand_over(&self, order: Order, vm: &VmName) {
        let refused = {
            let mut vms = locked(&self.vms);
            if !vms.contains_key(vm) {
                if let Some(outcome) = absent(&self.context.config.host, &order) {
                    drop(vms);
                    return self.report(&order, Some(vm.clone()), outcome);
                }
                let machine = Machine::new(self.context.config.host.clone(), vm.clone());
                vms.insert(vm.clone(), self.start(machine, None).0);
            }
            let Some(entry) = vms.get(vm) else { return };
            match entry.orders.try_send(order) {
                Ok(()) => return,
                Err(refused) => refused.into_inner(),
            }
        };
        let reason = format!("VM {vm} has {ORDERS_WAITING_MAX} orders waiting, or its task has broken");
        let trouble = transhume_agent_core::Trouble::failed(FaultKind::Internal, reason);
        self.report(&refused, Some(vm.clone()), trouble.into());
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        let vms = locked(&self.vms);
        vms.values()
            .map(|entry| locked(&entry.snapshot).clone())
            .collect()
    }

    /// All VMs for whoever scrapes, without waiting for any of them.
    pub(crate) fn seen(&self) -> Vec<SeenVm> {
        let vms = locked(&self.vms);
        let seen = vms.iter().map(|(name, entry)| SeenVm {
            name: name.clone(),
            snapshot: locked(&entry.snapshot).clone(),
            figures: entry.meter.read(),
        });
        seen.collect()
    }

    fn host_state(&self) -> HostState {
        let context = &self.context;
        let (mut vms, mut stranded) = (Vec::<VmState>::new(), Vec::<Stranded>::new());
        for snapshot in self.snapshots() {
            vms.extend(snapshot.state);
            stranded.extend(snapshot.stranded);
        }
        vms.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        stranded.sort_by(|a, b| a.vm.cmp(&b.vm));
        HostState {
            protocol: self.protocol.load(Ordering::Relaxed),
            release: Some(env!("CARGO_PKG_VERSION").to_owned()),
            host: context.config.host.clone(),
            agent_run: self.run,
            capacity: context.config.capacity,
            free: context.reservations().free(),
            qemu: context.qemu().ok(),
            qemu_error: context.qemu().err(),
            mtu_max: context.config.mtu_max,
            vms,
            stranded,
            bands: context.bands().map(Keeper::state),
            no_throttle: context.no_throttle.clone(),
            insecure: context.pages.secured.security.is_insecure(),
            certificate: context.pages.secured.security.validity().map(certificate),
            dirty: Default::default(),
        }
    }

    /// VMs that are at home here and run, of those named; each with its memory.
    fn at_home(&self, names: &[VmName]) -> Vec<(transhume_qemu::Vm, Mebibytes)> {
        let wanted: BTreeSet<&VmName> = names.iter().collect();
        let snapshots = self.snapshots().into_iter();
        let at_home = snapshots.filter_map(|snapshot| {
            let spec = snapshot.state?.spec;
            let vm = snapshot.at_home.filter(|_| wanted.contains(&spec.name))?;
            Some((vm, spec.memory))
        });
        at_home.collect()
    }

    /// Rates hold at once, whatever a VM's task is doing. A VM that is not here has left or was
    /// never here: nothing is to be paced.
    fn pace(&self, rates: &[VmRates]) {
        let vms = locked(&self.vms);
        for rates in rates {
            if let Some(entry) = vms.get(&rates.vm) {
                entry.pace.set_rates(rates.copying, rates.switching);
                entry.pace.set_processor(rates.processor_percent);
            }
        }
    }

    /// It takes seconds; other orders do not wait for it.
    fn try_link(&self, order: Order, target: Endpoint) {
        let agent = self.clone();
        tokio::spawn(async move {
            let what = format!(
                "cannot try the link to host {} at {}",
                target.host, target.address
            );
            let outcome = match page_stream::try_link(target, &agent.context.pages).await {
                Ok(figures) => Outcome::LinkTried(figures),
                Err(error) => no_link(&what, &error),
            };
            agent.report(&order, None, outcome);
        });
    }

    /// Message B, with the dirty rates that were asked for, as far as they can be had in time
    /// (§2.2.2). A measurement takes its time; other orders do not wait for it.
    fn answer_inspect(&self, order: Order, dirty_of: Vec<VmName>) {
        if dirty_of.is_empty() {
            return self.report(&order, None, Outcome::Host(Box::new(self.host_state())));
        }
        let agent = self.clone();
        tokio::spawn(async move {
            let dirty = dirty_rate::measure(agent.at_home(&dirty_of)).await;
            let state = HostState {
                dirty,
                ..agent.host_state()
            };
            agent.report(&order, None, Outcome::Host(Box::new(state)));
        });
    }
}

fn no_link(what: &str, error: &std::io::Error) -> Outcome {
    let why = transhume_trust::explain(error);
    let hint = "page streams take the same way: the address of VMCT that the target's agent listens on";
    Outcome::Failed(Fault::new(FaultKind::PageStream, format!("{what}: {why}")).with_hint(hint))
}

fn certificate(validity: Validity) -> CertificateState {
    CertificateState {
        until: WallMicros(validity.until.max(0) as u64 * 1_000_000),
        ends_soon: validity.ends_soon(transhume_trust::now()),
    }
}

impl OrderHandler for Agent {
    fn admit(&self, hello: &Hello) -> Result<(), Refusal> {
        let _turn = locked(&self.admitting);
        let failed = |error: StoreError| Refusal {
            kind: RefusalKind::WrongState,
            reason: format!(
                "host {} cannot remember whom it obeys: {}",
                self.context.config.host,
                crate::text::chain(&error)
            ),
            hint: "look at the agent's state directory: it must be readable, and take writes".to_owned(),
        };
        let held = self.context.store.leader().map_err(failed)?;
        match admit(&self.context.config.host, held.as_ref(), hello)? {
            Some(leader) => self.context.store.keep_leader(&leader).map_err(failed),
            None => Ok(()),
        }
    }

    async fn greeting(&self, protocol: u16) -> Report {
        self.protocol.store(protocol, Ordering::Relaxed);
        Report {
            order: None,
            epoch: Epoch::default(),
            vm: None,
            at: wall(),
            outcome: Outcome::Host(Box::new(self.host_state())),
        }
    }

    fn refuse(&self, order: AnyOrder, why: &WireError) {
        let why = crate::text::chain(why);
        let report = order.refused(&self.context.config.host, wall(), why);
        self.context.reports.send(report);
    }

    async fn take(&self, order: Order) {
        match &order.command {
            Command::Inspect { dirty_of } => {
                let dirty_of = dirty_of.clone();
                self.answer_inspect(order, dirty_of);
            }
            Command::Pace { rates } => {
                self.pace(rates);
                self.report(&order, None, Outcome::Paced);
            }
            Command::HearLink => {
                let heard = page_stream::hear(self.context.config.listen.vmct, &self.context.pages).await;
                let outcome = match heard {
                    Ok(at) => Outcome::HearsLink { at },
                    Err(error) => no_link("cannot wait for a link check", &error),
                };
                self.report(&order, None, outcome);
            }
            Command::TryLink { target } => self.try_link(order.clone(), target.clone()),
            command => {
                if let Some(vm) = command.vm().cloned() {
                    self.hand_over(order, &vm);
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
