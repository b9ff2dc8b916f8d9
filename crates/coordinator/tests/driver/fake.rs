//! A host's agent without QEMU: a TCP peer that speaks `protocol` with the coordinator's real link,
//! and carries orders out on paper. It keeps roles and epochs as the real one does, answers
//! repeated orders again, and can be told to misbehave.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use transhume_model::{Capacity, Epoch, HostName, Version, VmName, VmSpec, WallMicros};
use transhume_protocol::message::{
    ActivationTimes, CaptureTimes, Command, CopyTimes, Fault, FaultKind, GuestState, HostState, OldPath,
    Order, Outcome, PROTOCOL_VERSION, PageProgress, QemuState, Refusal, RefusalKind, Report, SourceFrames,
    TargetFrames, VmRole, VmState,
};
use transhume_protocol::wire;

/// Frames that every fake switchover captures.
pub const FRAMES: u64 = 10;

/// What becomes of an order instead of its being carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Refused for this reason.
    Refuse(RefusalKind),
    /// Breaks.
    Fail,
    /// No answer, ever; nothing is done.
    Nothing,
    /// The connection breaks instead.
    Hangup,
    /// Carried out, and besides the answer, which comes twice, things are said that nobody asked
    /// for.
    Babble,
    /// The VM is lost by it: its place stays, powered off.
    Lose,
}

/// A VM as the agent holds it.
#[derive(Debug, Clone)]
struct Held {
    spec: VmSpec,
    role: VmRole,
    epoch: Epoch,
    running: bool,
    /// Reserved for a VM that is powered off.
    comes_off: bool,
}

/// What outlives a connection, and the agent itself.
#[derive(Debug)]
pub struct Desk {
    pub state: HostState,
    vms: BTreeMap<VmName, Held>,
    fates: BTreeMap<&'static str, Fate>,
    /// How far the host's clock is ahead.
    clock_ahead_us: i64,
    /// Every order but heartbeats and questions, in the order of arrival.
    pub orders: Vec<Order>,
}

/// One host.
pub struct Agent {
    pub name: HostName,
    pub address: SocketAddr,
    desk: Arc<Mutex<Desk>>,
    /// Until the first start.
    socket: Option<TcpSocket>,
    task: Option<JoinHandle<()>>,
}

impl Agent {
    /// A host whose agent is not started yet, with its address.
    pub fn new(name: &str, capacity: Capacity) -> Self {
        let name: HostName = name.parse().unwrap();
        // Bound and not listening: the port is ours, and whoever connects before the start is
        // refused.
        let socket = bind("127.0.0.1:0".parse().unwrap());
        let address = socket.local_addr().unwrap();
        let qemu = QemuState {
            version: Version {
                major: 10,
                minor: 0,
                micro: 2,
            },
            machines: vec![super::support::machine()],
            accel: "tcg".to_owned(),
        };
        let state = HostState {
            protocol: PROTOCOL_VERSION,
            host: name.clone(),
            agent_run: 1,
            capacity,
            free: capacity,
            qemu: Some(qemu),
            qemu_error: None,
            mtu_max: 1500,
            vms: Vec::new(),
            stranded: Vec::new(),
            bands: None,
            dirty: BTreeMap::new(),
        };
        let desk = Desk {
            state,
            vms: BTreeMap::new(),
            fates: BTreeMap::new(),
            clock_ahead_us: 0,
            orders: Vec::new(),
        };
        Self {
            name,
            address,
            desk: Arc::new(Mutex::new(desk)),
            socket: Some(socket),
            task: None,
        }
    }

    pub fn start(&mut self) {
        let socket = self.socket.take().unwrap_or_else(|| bind(self.address));
        let (listener, desk) = (socket.listen(8).unwrap(), self.desk.clone());
        self.task = Some(tokio::spawn(async move {
            let mut current: Option<JoinHandle<()>> = None;
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // The newest connection wins, as with the real agent.
                if let Some(older) = current.replace(tokio::spawn(converse(stream, desk.clone()))) {
                    older.abort();
                }
            }
        }));
    }

    /// The agent dies with its connections; what it holds stays.
    pub async fn stop(&mut self) {
        self.desk().fates.insert("*", Fate::Hangup);
        if let Some(task) = self.task.take() {
            task.abort();
            assert!(
                task.await.is_err_and(|error| error.is_cancelled()),
                "it ran until now"
            );
        }
    }

    /// Every VM here is gone, as after a loss of power; nobody was told.
    pub fn loses_all(&self) {
        self.desk().vms.clear();
    }

    /// A guest powers itself off; nobody is told.
    pub fn powers_off(&self, vm: &str) {
        let mut desk = self.desk();
        let held = desk.vms.get_mut(&vm.parse().unwrap()).expect("it is here");
        (held.role, held.running) = (VmRole::Off, false);
    }

    /// The host's clock is stepped.
    pub fn clock_is_ahead_us(&self, ahead_us: i64) {
        self.desk().clock_ahead_us = ahead_us;
    }

    /// Orders of this name that came, in order.
    pub fn orders_named(&self, command: &str) -> Vec<Order> {
        let desk = self.desk();
        let named = desk.orders.iter().filter(|order| order.command.name() == command);
        named.cloned().collect()
    }

    /// Starts again after [`Agent::stop`].
    pub fn restart(&mut self) {
        let mut desk = self.desk();
        desk.fates.remove("*");
        desk.state.agent_run += 1;
        drop(desk);
        self.start();
    }

    pub fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap()
    }

    /// From now on, orders of this name meet this fate.
    pub fn meets(&self, command: &'static str, fate: Fate) {
        self.desk().fates.insert(command, fate);
    }

    /// From now on it does what it is told.
    pub fn behaves(&self) {
        self.desk().fates.clear();
    }

    /// Whether an order of this name has come.
    pub fn was_ordered(&self, command: &str) -> bool {
        self.desk()
            .orders
            .iter()
            .any(|order| order.command.name() == command)
    }

    /// VMs that run here.
    pub fn running(&self) -> Vec<VmName> {
        let desk = self.desk();
        let running = desk.vms.iter().filter(|(_, held)| held.running);
        running.map(|(name, _)| name.clone()).collect()
    }

    /// VMs of which anything is here.
    pub fn holds(&self) -> Vec<VmName> {
        self.desk().vms.keys().cloned().collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

fn bind(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

async fn converse(stream: TcpStream, desk: Arc<Mutex<Desk>>) {
    let (mut read, mut write) = stream.into_split();
    let greeting = desk.lock().unwrap().report(None, Epoch::default(), None, None);
    if write.write_all(&wire::encode(&greeting).unwrap()).await.is_err() {
        return;
    }
    loop {
        let mut prefix = [0; wire::LENGTH_BYTES];
        if read.read_exact(&mut prefix).await.is_err() {
            return;
        }
        let mut body = vec![0; wire::length(prefix).unwrap()];
        if read.read_exact(&mut body).await.is_err() {
            return;
        }
        let Some(reports) = desk.lock().unwrap().take(wire::decode(&body).unwrap()) else {
            return;
        };
        for report in reports {
            if write.write_all(&wire::encode(&report).unwrap()).await.is_err() {
                return;
            }
        }
    }
}

impl Desk {
    /// The reports that an order leads to; `None` when the connection breaks.
    fn take(&mut self, order: Order) -> Option<Vec<Report>> {
        let name = order.command.name();
        if self.fates.get("*") == Some(&Fate::Hangup) {
            return None;
        }
        if !matches!(order.command, Command::Inspect { .. }) {
            self.orders.push(order.clone());
        }
        let outcomes = match self.fates.get(name) {
            None => self.carry_out(&order),
            Some(Fate::Babble) => {
                let answers = self.carry_out(&order);
                let nonsense = [Outcome::Destroyed, Outcome::TargetDropped];
                nonsense
                    .into_iter()
                    .chain(answers.iter().cloned())
                    .chain(answers.clone())
                    .collect()
            }
            Some(Fate::Nothing) => Vec::new(),
            Some(Fate::Lose) => self.lose(order.command.vm()),
            Some(Fate::Hangup) => return None,
            Some(Fate::Fail) => vec![Outcome::Failed(Fault {
                kind: FaultKind::Internal,
                reason: format!("{name} is to fail"),
                hint: None,
            })],
            Some(Fate::Refuse(kind)) => vec![refused(*kind, &format!("{name} is to be refused"))],
        };
        let (id, epoch, vm) = (order.id, order.epoch, order.command.vm().cloned());
        let reports = outcomes
            .into_iter()
            .map(|outcome| self.report(Some(id), epoch, vm.clone(), Some(outcome)));
        Some(reports.collect())
    }

    /// What the host's clock shows.
    fn clock(&self) -> WallMicros {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        WallMicros((since_1970.as_micros() as u64).strict_add_signed(self.clock_ahead_us))
    }

    fn lose(&mut self, vm: Option<&VmName>) -> Vec<Outcome> {
        if let Some(held) = vm.and_then(|vm| self.vms.get_mut(vm)) {
            (held.role, held.running) = (VmRole::Off, false);
        }
        vec![Outcome::Lost(Fault {
            kind: FaultKind::Qemu,
            reason: "its QEMU ended".to_owned(),
            hint: None,
        })]
    }

    /// Without an outcome: message B.
    fn report(
        &self,
        order: Option<transhume_model::OrderId>,
        epoch: Epoch,
        vm: Option<VmName>,
        outcome: Option<Outcome>,
    ) -> Report {
        let outcome = outcome.unwrap_or_else(|| Outcome::Host(Box::new(self.seen())));
        let at = self.clock();
        Report {
            order,
            epoch,
            vm,
            at,
            outcome,
        }
    }

    fn seen(&self) -> HostState {
        let vms = self.vms.values().map(|held| VmState {
            spec: held.spec.clone(),
            role: held.role,
            epoch: held.epoch,
            guest: match held.role {
                _ if held.running => GuestState::Running,
                VmRole::Off => GuestState::Off,
                _ => GuestState::Paused,
            },
        });
        let free = |free: Capacity, held: &Held| free.minus(&held.spec.demand());
        HostState {
            free: self.vms.values().fold(self.state.capacity, free),
            vms: vms.collect(),
            ..self.state.clone()
        }
    }

    /// Message B with those dirty rates that are asked for and known.
    fn asked(&self, command: &Command) -> HostState {
        let mut state = self.seen();
        state
            .dirty
            .retain(|vm, _| matches!(command, Command::Inspect { dirty_of } if dirty_of.contains(vm)));
        state
    }

    fn carry_out(&mut self, order: &Order) -> Vec<Outcome> {
        let Some(vm) = order.command.vm() else {
            return vec![Outcome::Host(Box::new(self.asked(&order.command)))];
        };
        if let Some(held) = self.vms.get_mut(vm) {
            if order.epoch < held.epoch {
                return vec![refused(
                    RefusalKind::StaleEpoch,
                    &format!("VM {vm} is held at epoch {}", held.epoch),
                )];
            }
            held.epoch = order.epoch;
        }
        let stranded = self.state.stranded.iter().any(|stranded| stranded.vm == *vm);
        if stranded && !self.vms.contains_key(vm) {
            return vec![refused(
                RefusalKind::Stranded,
                &format!("VM {vm} is stranded here"),
            )];
        }
        match &order.command {
            Command::StartVm { spec } => {
                let mut spec = spec.clone();
                spec.machine.get_or_insert_with(super::support::machine);
                self.hold(order.epoch, &spec, VmRole::Home, true);
                vec![Outcome::Started { spec }]
            }
            Command::Reserve {
                spec, powered_off, ..
            } => {
                self.hold(order.epoch, spec, VmRole::Expected, false);
                self.vms.get_mut(vm).expect("it is held now").comes_off = *powered_off;
                vec![Outcome::Reserved]
            }
            Command::DestroyVm { .. } => self.drop_vm(vm, Outcome::Destroyed),
            Command::Discard { .. } => self.drop_vm(vm, Outcome::Discarded { frames: None }),
            Command::AbortTarget { .. } => self.drop_vm(vm, Outcome::TargetDropped),
            command => self.step(vm, command),
        }
    }

    fn hold(&mut self, epoch: Epoch, spec: &VmSpec, role: VmRole, running: bool) {
        let held = Held {
            spec: spec.clone(),
            role,
            epoch,
            running,
            comes_off: false,
        };
        self.vms.insert(spec.name.clone(), held);
    }

    fn drop_vm(&mut self, vm: &VmName, outcome: Outcome) -> Vec<Outcome> {
        self.vms.remove(vm);
        vec![outcome]
    }

    /// An order about a VM that must be here.
    fn step(&mut self, vm: &VmName, command: &Command) -> Vec<Outcome> {
        let now = self.clock();
        let Some(held) = self.vms.get_mut(vm) else {
            return vec![refused(RefusalKind::UnknownVm, &format!("VM {vm} is not here"))];
        };
        let here: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let source = SourceFrames {
            captured: FRAMES,
            old_path: Some(OldPath::Marker),
            ..SourceFrames::default()
        };
        match command {
            Command::Prepare { .. } => {
                held.role = VmRole::Target;
                vec![Outcome::Prepared { page_stream: here }]
            }
            Command::PreCopy { .. } => {
                held.role = VmRole::Source;
                vec![Outcome::PreCopying, Outcome::Converged(PageProgress::default())]
            }
            Command::OpenSourceBuffer { .. } => vec![Outcome::SourceBufferOpen],
            Command::OpenTargetBuffer { .. } => {
                let tunnels = held.spec.nics.iter().map(|_| here).collect();
                vec![Outcome::TargetBufferOpen { tunnels }]
            }
            Command::ConnectBuffers { .. } => vec![Outcome::BuffersConnected],
            Command::Capture { .. } => {
                let guest = if held.running {
                    GuestState::Running
                } else {
                    GuestState::Paused
                };
                held.running = false;
                vec![Outcome::Captured {
                    times: CaptureTimes {
                        begun_at: now,
                        shut_at: now,
                        empty_at: now,
                        stopped_at: now,
                        capturing_at: now,
                    },
                    guest,
                }]
            }
            Command::StopAndCopy { .. } => vec![Outcome::Copied {
                pages: PageProgress::default(),
                times: CopyTimes {
                    begun_at: now,
                    pre_switchover_at: now,
                    completed_at: now,
                },
            }],
            Command::AwaitLoaded { .. } => vec![Outcome::Loaded { loaded_at: now }],
            Command::Commit { .. } => {
                held.role = VmRole::Left;
                vec![Outcome::CommitNoted]
            }
            Command::Activate { run, .. } => {
                let role = if held.comes_off {
                    VmRole::Off
                } else {
                    VmRole::Arrived
                };
                (held.role, held.running) = (role, *run);
                vec![Outcome::Activated(ActivationTimes {
                    begun_at: now,
                    running_at: now,
                    injected_at: now,
                    announced_at: now,
                })]
            }
            Command::CloseSourceBuffer { .. } => vec![Outcome::SourceClosed(source)],
            Command::CloseTargetBuffer { .. } => {
                held.role = VmRole::Home;
                vec![Outcome::TargetClosed(TargetFrames {
                    delivered: FRAMES,
                    ..TargetFrames::default()
                })]
            }
            Command::StopVm { .. } => {
                (held.role, held.running) = (VmRole::Off, false);
                vec![Outcome::Stopped]
            }
            Command::AbortSource { .. } => {
                (held.role, held.running) = (VmRole::Home, true);
                let put_back = source.captured;
                vec![Outcome::SourceRestored(SourceFrames { put_back, ..source })]
            }
            Command::Inspect { .. }
            | Command::StartVm { .. }
            | Command::DestroyVm { .. }
            | Command::Reserve { .. }
            | Command::Discard { .. }
            | Command::AbortTarget { .. } => unreachable!("{} is carried out elsewhere", command.name()),
        }
    }
}

fn refused(kind: RefusalKind, reason: &str) -> Outcome {
    Outcome::Refused(Refusal {
        kind,
        reason: reason.to_owned(),
        hint: "this agent is a fake".to_owned(),
    })
}
