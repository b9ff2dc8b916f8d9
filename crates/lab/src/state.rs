//! The lab's memory: one JSON file, replaced atomically, written before each thing it names is
//! made.

use std::fs;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use transhume_guest::app::App;
use transhume_model::{Band, HostName, VmName};

use crate::layout::Circuits;
use crate::{JournalKind, LabError, LabName, LabUp, Layout, ProcessRecord, layout, process};

/// The guest's second serial port, in a VM's directory; the name is the agents'.
const CHANNEL_SOCKET: &str = "serial.sock";

/// What `down`, `exec` and the others know of a lab.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// `up` finished.
    pub complete: bool,
    /// The process whose end makes this lab a ruin, which the next `up` removes: the one that
    /// builds it; from then on the one that was named, if one was.
    pub owner: Option<ProcessRecord>,
    /// Network namespaces, by name.
    pub namespaces: Vec<String>,
    /// Processes that the lab started itself.
    pub processes: Vec<ProcessRecord>,
    /// Hosts, by index.
    pub hosts: Vec<HostState>,
    /// VMs, by index.
    pub vms: Vec<VmState>,
    /// Set where the lab raised `net.core.netdev_max_backlog`: what it was.
    pub backlog_before: Option<u32>,
    /// The program that is agent and coordinator.
    pub program: PathBuf,
    /// How the bands reach the hosts.
    #[serde(default)]
    pub circuits: Circuits,
    /// The cluster that runs in the guests.
    #[serde(default)]
    pub app: Option<App>,
    /// What the journal is in.
    #[serde(default)]
    pub journal: JournalKind,
    /// Coordinators beside the first.
    #[serde(default)]
    pub more_coordinators: u16,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostState {
    /// Its name.
    pub name: HostName,
    /// Its network namespace.
    pub namespace: String,
    /// Address in CT.
    pub ct: Ipv4Addr,
    /// Address in VMCT.
    pub vmct: Ipv4Addr,
    /// Address in NAST.
    pub nast: Ipv4Addr,
    /// Where its agent keeps its VMs.
    pub state_dir: PathBuf,
    /// Its agent's configuration.
    pub config: PathBuf,
}

/// One VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmState {
    /// Its name.
    pub name: VmName,
    /// Its place in the cluster.
    pub index: u16,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Where it started.
    pub first_host: HostName,
}

impl HostState {
    /// Its address in a band.
    pub fn address(&self, band: Band) -> Ipv4Addr {
        match band {
            Band::Ct => self.ct,
            Band::Vmct => self.vmct,
            Band::Nast => self.nast,
        }
    }

    /// The console channel of a VM on this host.
    pub fn channel_socket(&self, vm: &VmName) -> PathBuf {
        self.state_dir.join("vms").join(vm.as_str()).join(CHANNEL_SOCKET)
    }

    /// The console log of a VM on this host.
    pub fn console_log(&self, vm: &VmName) -> PathBuf {
        self.state_dir.join("vms").join(vm.as_str()).join("console.log")
    }

    /// The agent's own log; outside its directory, so that it can still say that this is full.
    pub fn agent_log(&self) -> PathBuf {
        self.state_dir.with_extension("log")
    }
}

/// A lab that is there: its layout and its memory.
#[derive(Debug, Clone)]
pub struct Lab {
    /// Where everything is.
    pub layout: Layout,
    /// What it remembers.
    pub state: State,
}

impl Lab {
    /// Reads a lab's memory.
    pub fn open(name: &LabName) -> Result<Lab, LabError> {
        let layout = Layout::new(name);
        let path = layout.state_file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LabError::NoLab {
                    name: name.to_string(),
                });
            }
            Err(source) => {
                return Err(LabError::File {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        let state = serde_json::from_str(&text).map_err(|source| LabError::State { path, source })?;
        Ok(Lab { layout, state })
    }

    /// Every lab of this machine whose memory can be read.
    pub(crate) fn all() -> Vec<Lab> {
        let entries = fs::read_dir(layout::RUN_DIR).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        names.filter_map(|name| Lab::open(&name).ok()).collect()
    }

    /// Replaces the file; it is on the disk when this returns.
    pub fn save(&self) -> Result<(), LabError> {
        let path = self.layout.state_file();
        let write = || -> io::Result<()> {
            let part = path.with_extension("part");
            let mut file = fs::File::create(&part)?;
            file.write_all(&serde_json::to_vec_pretty(&self.state)?)?;
            file.sync_data()?;
            fs::rename(&part, &path)
        };
        write().map_err(|source| LabError::File {
            action: "write",
            path: path.clone(),
            source,
        })
    }

    /// `up` is done: the lab belongs to whom the options name, or to nobody.
    pub(crate) fn complete(&mut self, options: &LabUp) -> Result<(), LabError> {
        self.state.complete = true;
        self.state.owner = options.owner.map(process::owner).transpose()?;
        self.save()
    }

    /// Remembers a process that was just started.
    pub fn record(&mut self, process: ProcessRecord) -> Result<(), LabError> {
        self.state.processes.retain(|known| known.what != process.what);
        self.state.processes.push(process);
        self.save()
    }

    /// A host by name.
    pub fn host(&self, name: &str) -> Result<&HostState, LabError> {
        self.state
            .hosts
            .iter()
            .find(|host| host.name.as_str() == name)
            .ok_or_else(|| self.no_such(name))
    }

    /// A VM by name.
    pub fn vm(&self, name: &str) -> Result<&VmState, LabError> {
        self.state
            .vms
            .iter()
            .find(|vm| vm.name.as_str() == name)
            .ok_or_else(|| self.no_such(name))
    }

    /// A process that the lab started, by what it is.
    pub fn process(&self, what: &str) -> Result<&ProcessRecord, LabError> {
        self.state
            .processes
            .iter()
            .find(|process| process.what == what)
            .ok_or_else(|| self.no_such(what))
    }

    pub(crate) fn no_such(&self, name: &str) -> LabError {
        LabError::NoSuch {
            lab: self.layout.name().to_string(),
            name: name.to_owned(),
        }
    }
}
