//! A host's agent without QEMU: a TCP peer that speaks `protocol` with the coordinator's real link.
//! Orders are obeyed by the machine that ships, which cannot disagree with the real agent's, and
//! carried out on paper (`desk`, `paper`). It can be told to misbehave.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep};
use transhume_model::{Capacity, HostName, Version, VmName};
use transhume_protocol::message::{
    Fault, FaultKind, Hello, HostState, Order, Outcome, PROTOCOL_VERSION, QemuState, Refusal, RefusalKind,
    Report,
};
use transhume_protocol::wire;

use super::desk::Desk;
use super::paper::Paper;

/// Pause between two looks at what is waited for.
const TICK: Duration = Duration::from_millis(5);

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
    pub fn new(name: &str, capacity: Capacity, paper: &Arc<Mutex<Paper>>) -> Self {
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
            release: None,
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
            no_throttle: None,
            insecure: true,
            certificate: None,
            dirty: BTreeMap::new(),
        };
        Self {
            name,
            address,
            desk: Arc::new(Mutex::new(Desk::new(state, paper.clone()))),
            socket: Some(socket),
            task: None,
        }
    }

    pub fn start(&mut self) {
        self.start_after(Duration::ZERO);
    }

    /// Whoever connects is heard only after a while.
    pub fn start_after(&mut self, wait: Duration) {
        let socket = self.socket.take().unwrap_or_else(|| bind(self.address));
        let (listener, desk) = (socket.listen(8).unwrap(), self.desk.clone());
        self.task = Some(tokio::spawn(async move {
            sleep(wait).await;
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
        self.meets("*", Fate::Hangup);
        if let Some(task) = self.task.take() {
            task.abort();
            assert!(
                task.await.is_err_and(|error| error.is_cancelled()),
                "it ran until now"
            );
        }
        self.desk().dies();
    }

    /// Every VM here is gone, as after a loss of power; nobody was told.
    pub fn loses_all(&self) {
        self.desk().loses_all();
    }

    /// A VM here is gone, with its record; nobody was told.
    pub fn loses(&self, vm: &str) {
        self.desk().loses(&vm.parse().unwrap());
    }

    /// A guest powers itself off; nobody is told.
    pub fn powers_off(&self, vm: &str) {
        let mut desk = self.desk();
        desk.powers_off(&vm.parse().unwrap());
        desk.reports.clear();
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
        self.restart_after(Duration::ZERO);
    }

    /// See [`Self::start_after`].
    pub fn restart_after(&mut self, wait: Duration) {
        let mut desk = self.desk();
        desk.fates.remove("*");
        desk.takes_over();
        drop(desk);
        self.start_after(wait);
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
        let vms = self.desk().vms().into_iter();
        vms.filter_map(|(vm, runs)| runs.then_some(vm)).collect()
    }

    /// VMs of which anything is here.
    pub fn holds(&self) -> Vec<VmName> {
        self.desk().vms().into_keys().collect()
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
    stream.set_nodelay(true).unwrap();
    let (mut read, mut write) = stream.into_split();
    let hello = async {
        let mut prefix = [0; wire::LENGTH_BYTES];
        read.read_exact(&mut prefix).await?;
        let mut body = vec![0; wire::length(prefix).unwrap()];
        read.read_exact(&mut body).await.map(|_| body)
    };
    let Ok(hello) = hello.await else { return };
    let hello: Hello = wire::decode(&hello).expect("it says first who it is");
    let refused = {
        let mut desk = desk.lock().unwrap();
        let refusal = desk.admits(&hello);
        refusal.map(|refusal| desk.report(None, None, Outcome::Refused(refusal)))
    };
    if let Some(report) = refused {
        // Whoever is refused may have gone.
        let _ = write.write_all(&wire::encode(&report).unwrap()).await;
        return;
    }
    let mut told = {
        let mut desk = desk.lock().unwrap();
        // What nobody was there to be told is not told any more.
        desk.reports.clear();
        let greeting = Outcome::Host(Box::new(desk.host_state(None)));
        vec![desk.report(None, None, greeting)]
    };
    let (order_to, mut orders) = tokio::sync::mpsc::channel(1);
    let reading = async move {
        let mut prefix = [0; wire::LENGTH_BYTES];
        while read.read_exact(&mut prefix).await.is_ok() {
            let mut body = vec![0; wire::length(prefix).unwrap()];
            if read.read_exact(&mut body).await.is_err() {
                return;
            }
            let sent = order_to.send(wire::decode(&body).unwrap()).await;
            sent.expect("it ends with what it reads for");
        }
    };
    let answering = async {
        let mut ticks = interval(TICK);
        loop {
            for report in told {
                if write.write_all(&wire::encode(&report).unwrap()).await.is_err() {
                    return;
                }
            }
            told = tokio::select! {
                order = orders.recv() => {
                    let Some(order) = order else { return };
                    let Some(reports) = desk.lock().unwrap().take(order) else { return };
                    reports
                }
                _ = ticks.tick() => {
                    let mut desk = desk.lock().unwrap();
                    desk.tick();
                    std::mem::take(&mut desk.reports)
                }
            };
        }
    };
    tokio::select! {
        () = reading => {}
        () = answering => {}
    }
}

impl Desk {
    /// The reports that an order leads to at once; `None` when the connection breaks.
    fn take(&mut self, order: Order) -> Option<Vec<Report>> {
        let name = order.command.name();
        if self.fates.get("*") == Some(&Fate::Hangup) {
            return None;
        }
        if order.command.vm().is_some() {
            self.orders.push(order.clone());
        }
        let (given, vm) = (Some((order.id, order.epoch)), order.command.vm().cloned());
        match self.fates.get(name) {
            None => self.obey(order),
            Some(Fate::Babble) => {
                for nonsense in [Outcome::Destroyed, Outcome::TargetDropped] {
                    let nonsense = self.report(given, vm.clone(), nonsense);
                    self.reports.push(nonsense);
                }
                self.obey(order);
                let twice = self.reports.split_off(2).into_iter();
                self.reports
                    .extend(twice.flat_map(|report| [report.clone(), report]));
            }
            Some(Fate::Nothing) => {}
            Some(Fate::Lose) => {
                self.is_to_die(vm.as_ref().expect("only a VM can be lost"));
                self.obey(order);
            }
            Some(Fate::Hangup) => return None,
            Some(Fate::Fail) => {
                let fault = Fault::new(FaultKind::Internal, format!("{name} is to fail"));
                let report = self.report(given, vm, Outcome::Failed(fault));
                self.reports.push(report);
            }
            Some(Fate::Refuse(kind)) => {
                let refusal = Refusal {
                    kind: *kind,
                    reason: format!("{name} is to be refused"),
                    hint: "this agent is a fake".to_owned(),
                };
                let report = self.report(given, vm, Outcome::Refused(refusal));
                self.reports.push(report);
            }
        }
        Some(std::mem::take(&mut self.reports))
    }
}
