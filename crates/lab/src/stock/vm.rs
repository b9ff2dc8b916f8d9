//! One VM under plain QEMU: its tap, its process, its migration.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::time::{Instant, sleep, timeout_at};
use transhume_model::{VmName, VmSpec};
use transhume_qemu::{
    Access, CommandLine, MigrationStatus, QemuError, Qmp, QmpError, QmpEvent, StartMode, VmPaths,
};

use crate::fabric::Batch;
use crate::process::{self, ProcessRecord};
use crate::state::{HostState, Lab};
use crate::stock::{Plain, StockMode};
use crate::{LabError, Namespace, config};

/// Longest start of a QEMU.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Longest migration of one VM.
const MIGRATION_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);
/// Streams come in from here on, by the VM's index.
const PORT_FIRST: u16 = 4900;
/// Frames a tap holds: as many as the agents' taps, so that no loss is the smaller queue's.
const TAP_FRAMES: u32 = 16_384;

/// A VM of the opponent.
#[derive(Debug)]
pub struct StockVm {
    pub spec: VmSpec,
    pub index: u16,
    /// Its host, by index.
    pub host: usize,
    process: ProcessRecord,
    qmp: Qmp,
}

/// A QEMU that waits for a VM.
#[derive(Debug)]
pub struct Expected {
    host: usize,
    process: ProcessRecord,
    qmp: Qmp,
    channels: Value,
}

impl StockVm {
    /// Boots it.
    pub async fn boot(
        lab: &mut Lab,
        plain: &Plain,
        spec: VmSpec,
        index: u16,
        host: usize,
    ) -> Result<Self, LabError> {
        let (process, qmp) = start(lab, plain, &spec, index, host, StartMode::Boot).await?;
        Ok(Self {
            spec,
            index,
            host,
            process,
            qmp,
        })
    }

    /// Starts a QEMU on another host that waits for this VM's stream.
    pub async fn expect(
        &self,
        lab: &mut Lab,
        plain: &Plain,
        to: usize,
        mode: StockMode,
        downtime_ms: u64,
    ) -> Result<Expected, LabError> {
        let failed = |source: QmpError| stock(&self.spec.name, source.into());
        let (process, qmp) = start(lab, plain, &self.spec, self.index, to, StartMode::Incoming).await?;
        let channels = channels(lab.state.hosts[to].vmct, PORT_FIRST + self.index);
        for side in [&self.qmp, &qmp] {
            for (command, arguments) in [
                ("migrate-set-capabilities", mode.capabilities()),
                ("migrate-set-parameters", mode.parameters(downtime_ms)),
            ] {
                side.execute(command, arguments).await.map_err(failed)?;
            }
        }
        qmp.execute("migrate-incoming", channels.clone())
            .await
            .map_err(failed)?;
        Ok(Expected {
            host: to,
            process,
            qmp,
            channels,
        })
    }

    /// Sends it there; returns how long its guest stood still.
    pub async fn migrate(&self, to: &Expected) -> Result<Duration, LabError> {
        let name = &self.spec.name;
        let (mut stopped, mut resumed) = (self.qmp.events(), to.qmp.events());
        self.qmp
            .execute("migrate", to.channels.clone())
            .await
            .map_err(|source| stock(name, source.into()))?;
        let deadline = Instant::now() + MIGRATION_LIMIT;
        let resumed_at = event(name, &mut resumed, "RESUME", deadline).await?;
        let stopped_at = event(name, &mut stopped, "STOP", deadline).await?;
        self.completed(deadline).await?;
        Ok(Duration::from_micros(resumed_at.saturating_sub(stopped_at)))
    }

    /// It lives there now: the source ends.
    pub async fn settle(&mut self, lab: &Lab, there: Expected) -> Result<(), LabError> {
        // A source that has handed its VM over ends without a word.
        let _ = self.qmp.execute("quit", json!({})).await;
        process::end_all(std::slice::from_ref(&self.process), process::TERM_WAIT_MS_MAX);
        remove_tap(&lab.state.hosts[self.host], self.index)?;
        (self.process, self.qmp, self.host) = (there.process, there.qmp, there.host);
        Ok(())
    }

    async fn completed(&self, deadline: Instant) -> Result<(), LabError> {
        loop {
            let seen: Value = self
                .qmp
                .query("query-migrate")
                .await
                .map_err(|source| stock(&self.spec.name, source.into()))?;
            if seen["status"] == MigrationStatus::Completed.name() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(late(&self.spec.name, "the end of its migration"));
            }
            sleep(POLL).await;
        }
    }
}

fn channels(address: Ipv4Addr, port: u16) -> Value {
    json!({"channels": [{
        "channel-type": "main",
        "addr": {"transport": "socket", "type": "inet", "host": address.to_string(), "port": port.to_string()},
    }]})
}

fn stock(vm: &VmName, source: QemuError) -> LabError {
    LabError::Stock {
        vm: vm.to_string(),
        source: Box::new(source),
    }
}

fn late(vm: &VmName, what: &str) -> LabError {
    LabError::Timeout {
        what: format!("VM {vm} of the stock lab: {what}"),
        waited_ms: MIGRATION_LIMIT.as_millis() as u64,
    }
}

/// Waits for an event; when it happened, microseconds since 1970.
async fn event(
    vm: &VmName,
    events: &mut Receiver<QmpEvent>,
    name: &str,
    deadline: Instant,
) -> Result<u64, LabError> {
    loop {
        match timeout_at(deadline, events.recv()).await {
            Ok(Ok(event)) if event.name == name => return Ok(event.timestamp.micros()),
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return Err(late(vm, name)),
        }
    }
}

fn tap(index: u16) -> String {
    format!("stock{index}")
}

fn remove_tap(host: &HostState, index: u16) -> Result<(), LabError> {
    let mut batch = Batch::default();
    batch.link(format!("link del {}", tap(index)));
    batch.run(&Namespace::named(&host.namespace))
}

async fn start(
    lab: &mut Lab,
    plain: &Plain,
    spec: &VmSpec,
    index: u16,
    host: usize,
    mode: StartMode,
) -> Result<(ProcessRecord, Qmp), LabError> {
    let host = lab.state.hosts[host].clone();
    let namespace = Namespace::named(&host.namespace);
    let dir: PathBuf = host.state_dir.join("vms").join(spec.name.as_str());
    std::fs::create_dir_all(&dir).map_err(|source| LabError::File {
        action: "create",
        path: dir.clone(),
        source,
    })?;
    let paths = VmPaths::new(dir);
    for socket in [paths.qmp(), paths.serial()] {
        // There on the second visit only.
        let _ = std::fs::remove_file(socket);
    }
    let mut batch = Batch::default();
    let (tap, mtu) = (tap(index), spec.nics[0].mtu);
    batch.link(format!("tuntap add dev {tap} mode tap vnet_hdr"));
    batch.link(format!(
        "link set {tap} mtu {mtu} txqueuelen {TAP_FRAMES} master {} up",
        config::BRIDGE
    ));
    batch.run(&namespace)?;
    let arguments = arguments(plain, spec, &paths, &tap, mode).map_err(|source| stock(&spec.name, source))?;
    let what = format!("stock {} {}", spec.name, host.name);
    let process = process::spawn(
        &namespace,
        &what,
        plain.binary.path(),
        &arguments,
        &paths.stderr(),
    )?;
    lab.record(process.clone())?;
    let deadline = Instant::now() + START_LIMIT;
    loop {
        match Qmp::connect(&spec.name, &paths.qmp()).await {
            Ok(qmp) => return Ok((process, qmp)),
            Err(_) if process.alive() && Instant::now() < deadline => sleep(POLL).await,
            Err(source) => return Err(stock(&spec.name, source.into())),
        }
    }
}

/// The agent's own command line, but for what makes it the agent's: QEMU opens everything by its
/// name, and a target resumes by itself.
fn arguments(
    plain: &Plain,
    spec: &VmSpec,
    paths: &VmPaths,
    tap: &str,
    mode: StartMode,
) -> Result<Vec<String>, QemuError> {
    let access = Access::by_path(spec, paths, &[tap.to_owned()]);
    let machine = plain.binary.newest_machine();
    let line = CommandLine::build(spec, machine, plain.accel, &access, mode)?;
    let words = line
        .args()
        .iter()
        .map(|word: &OsString| word.to_string_lossy().into_owned());
    Ok(words.filter(|word| word != "-S").collect())
}
