//! One VM under plain QEMU: its tap, its process, its migration.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use transhume_model::VmSpec;
use transhume_qemu::{Access, CommandLine, MigrationStatus, QemuError, Qmp, QmpError, StartMode, VmPaths};

use crate::fabric::Batch;
use crate::process::{self, ProcessRecord};
use crate::state::{HostState, Lab};
use crate::stock::Plain;
use crate::stock::mode::{StreamWay, Terms};
use crate::stock::watch::{late, look, named, stock};
use crate::{LabError, Namespace, config};

/// Longest start of a QEMU.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Longest migration of one VM.
pub(super) const MIGRATION_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);
/// Streams come in from here on, by the VM's index.
const PORT_FIRST: u16 = 4900;
/// Where a stream comes in that crosses no link, in the VM's directory on its target.
const STREAM_SOCKET: &str = "stream.sock";
/// Frames a tap holds: as many as the agents' taps, so that no loss is the smaller queue's.
const TAP_FRAMES: u32 = 16_384;

/// How a QEMU is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Its guest boots and runs.
    Boot,
    /// It waits for a stream, and runs what came by itself.
    Incoming,
    /// It waits for a stream, and for `cont`.
    IncomingPaused,
}

/// A VM of the opponent.
#[derive(Debug)]
pub struct StockVm {
    pub spec: VmSpec,
    pub index: u16,
    /// Its host, by index.
    pub host: usize,
    process: ProcessRecord,
    pub qmp: Qmp,
}

/// A QEMU that waits for a VM.
#[derive(Debug)]
pub struct Expected {
    host: usize,
    process: ProcessRecord,
    pub qmp: Qmp,
    pub channels: Value,
}

impl Expected {
    /// It does not come here after all: the QEMU and its tap go.
    pub fn end(self, lab: &Lab, index: u16) -> Result<(), LabError> {
        process::end_all(std::slice::from_ref(&self.process), process::TERM_WAIT_MS_MAX);
        remove_tap(&lab.state.hosts[self.host], index)
    }
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
        let (process, qmp) = start(lab, plain, &spec, index, host, Start::Boot).await?;
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
        terms: &Terms,
    ) -> Result<Expected, LabError> {
        let start_as = match terms.paused {
            true => Start::IncomingPaused,
            false => Start::Incoming,
        };
        let (process, qmp) = start(lab, plain, &self.spec, self.index, to, start_as).await?;
        let there = Expected {
            host: to,
            process,
            qmp,
            channels: match terms.way {
                StreamWay::Link => over_link(lab.state.hosts[to].vmct, PORT_FIRST + self.index),
                StreamWay::Socket => through_socket(&vm_dir(&lab.state.hosts[to], &self.spec)),
            },
        };
        match self.agree(&there, terms).await {
            Ok(()) => Ok(there),
            Err(source) => {
                there.end(lab, self.index)?;
                Err(stock(&self.spec.name, source.into()))
            }
        }
    }

    /// Both sides are told how, and the target listens.
    async fn agree(&self, there: &Expected, terms: &Terms) -> Result<(), QmpError> {
        for (side, capabilities) in [(&self.qmp, &terms.source), (&there.qmp, &terms.target)] {
            for (command, arguments) in [
                ("migrate-set-capabilities", capabilities),
                ("migrate-set-parameters", &terms.parameters),
            ] {
                side.execute(command, arguments.clone()).await?;
            }
        }
        let listen = there.qmp.execute("migrate-incoming", there.channels.clone());
        listen.await.map(|_| ())
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
        let resumed_at = named(name, &mut resumed, "RESUME", MIGRATION_LIMIT).await?;
        let stopped_at = named(name, &mut stopped, "STOP", MIGRATION_LIMIT).await?;
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
            let seen = look(&self.spec.name, &self.qmp).await?;
            if seen["status"] == MigrationStatus::Completed.name() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(late(&self.spec.name, "the end of its migration", MIGRATION_LIMIT));
            }
            sleep(POLL).await;
        }
    }
}

fn over_link(address: Ipv4Addr, port: u16) -> Value {
    main_channel(json!({
        "transport": "socket", "type": "inet", "host": address.to_string(), "port": port.to_string(),
    }))
}

fn through_socket(dir: &Path) -> Value {
    main_channel(json!({"transport": "socket", "type": "unix", "path": dir.join(STREAM_SOCKET)}))
}

fn main_channel(address: Value) -> Value {
    json!({"channels": [{"channel-type": "main", "addr": address}]})
}

fn vm_dir(host: &HostState, spec: &VmSpec) -> PathBuf {
    host.state_dir.join("vms").join(spec.name.as_str())
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
    start_as: Start,
) -> Result<(ProcessRecord, Qmp), LabError> {
    let host = lab.state.hosts[host].clone();
    let namespace = Namespace::named(&host.namespace);
    let dir = vm_dir(&host, spec);
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
    let started = async {
        let arguments =
            arguments(plain, spec, &paths, &tap, start_as).map_err(|source| stock(&spec.name, source))?;
        let what = format!("stock {} {}", spec.name, host.name);
        let process = process::spawn(
            &namespace,
            &what,
            plain.binary.path(),
            &arguments,
            &paths.stderr(),
        )?;
        lab.record(process.clone())?;
        connect(spec, &paths, process).await
    };
    let started = started.await;
    if started.is_err() {
        remove_tap(&host, index)?;
    }
    started
}

/// Connects to its monitor; a QEMU that does not answer ends.
async fn connect(
    spec: &VmSpec,
    paths: &VmPaths,
    process: ProcessRecord,
) -> Result<(ProcessRecord, Qmp), LabError> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        match Qmp::connect(&spec.name, &paths.qmp()).await {
            Ok(qmp) => return Ok((process, qmp)),
            Err(_) if process.alive() && Instant::now() < deadline => sleep(POLL).await,
            Err(source) => {
                process::end_all(std::slice::from_ref(&process), process::TERM_WAIT_MS_MAX);
                return Err(stock(&spec.name, source.into()));
            }
        }
    }
}

/// The agent's own command line, but for what makes it the agent's: QEMU opens everything by its
/// name, and runs by itself where it is not to stay paused.
fn arguments(
    plain: &Plain,
    spec: &VmSpec,
    paths: &VmPaths,
    tap: &str,
    start_as: Start,
) -> Result<Vec<String>, QemuError> {
    let access = Access::by_path(spec, paths, &[tap.to_owned()]);
    let machine = plain.binary.newest_machine();
    let mode = match start_as {
        Start::Boot => StartMode::Boot,
        Start::Incoming | Start::IncomingPaused => StartMode::Incoming,
    };
    let mut line = CommandLine::build(spec, machine, plain.accel, &access, mode)?;
    if plain.binary.waits_for_ack_if_told() {
        line = line.waiting_for_ack();
    }
    let words = line
        .args()
        .iter()
        .map(|word: &OsString| word.to_string_lossy().into_owned());
    let stays_paused = start_as == Start::IncomingPaused;
    Ok(words.filter(|word| stays_paused || word != "-S").collect())
}
