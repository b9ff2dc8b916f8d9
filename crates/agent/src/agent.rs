//! The agent as a whole: who is here, who takes which order, what the host says of itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::mpsc;
use transhume_model::{Epoch, Mebibytes, OrderId, VmName, WallMicros};
use transhume_protocol::message::{
    Command, Fault, FaultKind, HostState, Order, Outcome, PROTOCOL_VERSION, QemuState, Refusal, RefusalKind,
    Report, VmState,
};

use transhume_qemu::Launcher;

use crate::config::Config;
use crate::dirty_rate;
use crate::host::Book;
use crate::limits::ORDERS_WAITING_MAX;
use crate::link::{Desk, Reports};
use crate::page_stream::{PageShare, Pages, Tls};
use crate::record::Record;
use crate::vm;

/// What all tasks of the agent share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) reports: Reports,
    /// What starts VMs here, or why nothing can.
    pub(crate) launcher: Result<Launcher, String>,
    pub(crate) pages: Pages,
    agent_run: u64,
    book: Mutex<Book>,
    vms: Mutex<HashMap<VmName, Entry>>,
}

/// A VM's task, seen from outside.
#[derive(Debug, Clone)]
struct Entry {
    orders: mpsc::Sender<Order>,
    seen: Arc<Mutex<vm::Seen>>,
}

/// The wall clock of this host.
pub(crate) fn wall() -> WallMicros {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    WallMicros(since_1970.map_or(0, |time| time.as_micros() as u64))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

impl Shared {
    pub(crate) fn new(config: Config, launcher: Result<Launcher, String>, tls: Option<Tls>) -> Arc<Self> {
        let pages = Pages {
            share: PageShare::new(config.pages.store_bytes_max),
            classes: config.pages.classes(),
            tls,
        };
        let book = Mutex::new(Book::new(config.capacity));
        Arc::new(Self {
            config,
            reports: Reports::default(),
            launcher,
            pages,
            agent_run: wall().0,
            book,
            vms: Mutex::default(),
        })
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        locked(&self.book)
    }

    /// Answers an order, or speaks up by itself (`order` absent).
    pub(crate) fn report(&self, order: Option<OrderId>, epoch: Epoch, vm: Option<VmName>, outcome: Outcome) {
        tracing::debug!(
            vm = vm.as_ref().map(VmName::as_str),
            outcome = outcome.name(),
            "report"
        );
        self.reports.send(Report {
            order,
            epoch,
            vm,
            at: wall(),
            outcome,
        });
    }

    /// Starts the task of a VM that is here, or is to come.
    pub(crate) fn enlist(self: &Arc<Self>, record: Record, life: vm::Life, alarms: vm::Alarms) {
        let (orders, queue) = mpsc::channel(ORDERS_WAITING_MAX);
        let seen = Arc::new(Mutex::new(vm::Seen {
            state: vm::state(&record, false),
            at_home: None,
        }));
        let entry = Entry {
            orders,
            seen: seen.clone(),
        };
        locked(&self.vms).insert(record.spec.name.clone(), entry);
        tokio::spawn(vm::run(self.clone(), record, life, queue, seen, alarms));
    }

    /// Forgets a VM whose task ends.
    pub(crate) fn dismiss(&self, vm: &VmName) {
        locked(&self.vms).remove(vm);
        self.book().release(vm);
    }

    /// The usable QEMU, or why there is none.
    pub(crate) fn qemu(&self) -> Result<QemuState, String> {
        let launcher = self.launcher.as_ref().map_err(String::clone)?;
        Ok(QemuState {
            version: launcher.binary().version(),
            machines: launcher.binary().machines().to_vec(),
            accel: launcher.accel().name().to_owned(),
        })
    }

    fn host_state(&self) -> HostState {
        let mut vms: Vec<VmState> = locked(&self.vms)
            .values()
            .map(|entry| locked(&entry.seen).state.clone())
            .collect();
        vms.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        HostState {
            protocol: PROTOCOL_VERSION,
            host: self.config.host.clone(),
            agent_run: self.agent_run,
            capacity: self.config.capacity,
            free: self.book().free(),
            qemu: self.qemu().ok(),
            qemu_error: self.qemu().err(),
            mtu_max: self.config.mtu_max,
            vms,
            stranded: Vec::new(),
            dirty: BTreeMap::new(),
        }
    }

    /// VMs that are at home here and run, of those named; each with its memory.
    fn at_home(&self, names: &[VmName]) -> Vec<(transhume_qemu::Vm, Mebibytes)> {
        let wanted: BTreeSet<&VmName> = names.iter().collect();
        let vms = locked(&self.vms);
        let entries = vms.iter().filter(|(name, _)| wanted.contains(name));
        let at_home = entries.filter_map(|(_, entry)| {
            let seen = locked(&entry.seen);
            Some((seen.at_home.clone()?, seen.state.spec.memory))
        });
        at_home.collect()
    }

    /// Message B with the dirty rates that were asked for, as far as they can be had in time (§2.2.2).
    async fn measured_state(&self, dirty_of: &[VmName]) -> HostState {
        let dirty = dirty_rate::measure(self.at_home(dirty_of)).await;
        HostState {
            dirty,
            ..self.host_state()
        }
    }

    /// Message B. A measurement takes its time; other orders do not wait for it.
    fn answer_inspect(self: &Arc<Self>, order: Order) {
        let shared = self.clone();
        let answer = move |state| {
            let outcome = Outcome::Host(Box::new(state));
            shared.report(Some(order.id), order.epoch, None, outcome);
        };
        match order.command {
            Command::Inspect { dirty_of } if !dirty_of.is_empty() => {
                let shared = self.clone();
                tokio::spawn(async move { answer(shared.measured_state(&dirty_of).await) });
            }
            _ => answer(self.host_state()),
        }
    }

    /// The answer to an order about a VM that is not here.
    fn without_vm(self: &Arc<Self>, order: &Order, vm: &VmName) -> Option<Outcome> {
        match &order.command {
            Command::Inspect { .. } => None,
            Command::StartVm { spec } | Command::Reserve { spec, .. } => {
                let record = Record::expected(spec.clone(), order.epoch);
                self.enlist(record, vm::Life::Expected, vm::alarms());
                None
            }
            Command::DestroyVm { .. } => Some(Outcome::Destroyed),
            Command::Discard { .. } => Some(Outcome::Discarded { frames: None }),
            Command::AbortTarget { .. } => Some(Outcome::TargetDropped),
            Command::Prepare { .. }
            | Command::PreCopy { .. }
            | Command::OpenSourceBuffer { .. }
            | Command::OpenTargetBuffer { .. }
            | Command::ConnectBuffers { .. }
            | Command::Capture { .. }
            | Command::StopAndCopy { .. }
            | Command::AwaitLoaded { .. }
            | Command::Commit { .. }
            | Command::StopVm { .. }
            | Command::Activate { .. }
            | Command::CloseSourceBuffer { .. }
            | Command::CloseTargetBuffer { .. }
            | Command::AbortSource { .. } => Some(Outcome::Refused(Refusal {
                kind: RefusalKind::UnknownVm,
                reason: format!(
                    "host {} has no VM {vm}, so {} cannot be done",
                    self.config.host,
                    order.command.name()
                ),
                hint: "`transhume cluster show` tells where each VM runs".to_owned(),
            })),
        }
    }

    fn hand_over(&self, order: Order, vm: &VmName) {
        let entry = locked(&self.vms).get(vm).cloned();
        let (id, epoch) = (order.id, order.epoch);
        let Some(entry) = entry else { return };
        if entry.orders.try_send(order).is_err() {
            let fault = Fault {
                kind: FaultKind::Internal,
                reason: format!(
                    "VM {vm} has {ORDERS_WAITING_MAX} orders waiting, or its task has just ended"
                ),
                hint: None,
            };
            self.report(Some(id), epoch, Some(vm.clone()), Outcome::Failed(fault));
        }
    }
}

/// [`Desk`] of this agent.
#[derive(Clone)]
pub(crate) struct Agent(pub(crate) Arc<Shared>);

impl Desk for Agent {
    async fn greeting(&self) -> Report {
        let outcome = Outcome::Host(Box::new(self.0.host_state()));
        Report {
            order: None,
            epoch: Epoch::default(),
            vm: None,
            at: wall(),
            outcome,
        }
    }

    async fn take(&self, order: Order) {
        let shared = &self.0;
        let Some(vm) = order.command.vm().cloned() else {
            return shared.answer_inspect(order);
        };
        let here = locked(&shared.vms).contains_key(&vm);
        if !here && let Some(answer) = shared.without_vm(&order, &vm) {
            return shared.report(Some(order.id), order.epoch, Some(vm), answer);
        }
        shared.hand_over(order, &vm);
    }
}
