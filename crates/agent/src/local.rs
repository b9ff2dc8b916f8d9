//! VMs of this host without a coordinator: looked at, and worked on, through the records of the
//! agent and the monitor that each QEMU has for its user. The agent may run or not: it sees what
//! QEMU says of itself.
//!
//! What may be done is decided by [`transhume_agent_core::check_local`]. It is looked at twice, the
//! second time right before it is done; a coordinator that begins a move in between is not seen.
//! So this is for hosts that have none.

use std::path::Path;

use serde::Serialize;
pub use transhume_agent_core::{Allowed, LocalVerb, NotAllowed};
use transhume_agent_core::{Record, RunState, check_local, place_in_words};
use transhume_model::{ClusterName, VmName};
use transhume_protocol::message::GuestState;
use transhume_qemu::{Qmp, QmpError, VmPaths};

use crate::store::{self, KeptRecord, StoreError};
use crate::vm::run_state;

/// A VM as its record and its QEMU have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LocalVm {
    /// The VM.
    pub vm: VmName,
    /// Its cluster; absent where its record cannot be read.
    pub cluster: Option<ClusterName>,
    /// What it is here, in a few words, or why that is not known.
    pub role: String,
    /// Its QEMU, where there is one.
    pub pid: Option<u32>,
    /// What its guest does; absent where nobody can say.
    pub guest: Option<GuestState>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The records cannot be looked at.
    #[error("the records of this host's VMs cannot be read")]
    Store(#[from] StoreError),
    /// There is no such VM.
    #[error("there is no VM {vm} on this host")]
    Unknown {
        /// As asked.
        vm: VmName,
        /// Those that are here.
        known: Vec<VmName>,
    },
    /// Its record cannot be read.
    #[error("the record of VM {vm} cannot be read: {why}")]
    Record {
        /// The VM.
        vm: VmName,
        /// Why.
        why: String,
    },
    /// It would not be safe, or there is nothing to do.
    #[error("{}", .0.why)]
    NotAllowed(NotAllowed),
    /// Its QEMU does not answer.
    #[error("the QEMU of VM {vm} does not answer")]
    Monitor {
        /// The VM.
        vm: VmName,
        /// Why.
        #[source]
        source: QmpError,
    },
    /// Its QEMU does not end.
    #[error("the QEMU of VM {vm} cannot be killed")]
    Kill {
        /// The VM.
        vm: VmName,
        /// Why.
        #[source]
        source: transhume_qemu::QemuError,
    },
}

impl LocalError {
    /// What would help.
    pub fn hint(&self) -> String {
        match self {
            LocalError::NotAllowed(refused) => refused.hint.clone(),
            LocalError::Unknown { known, .. } if known.is_empty() => "no VM is recorded here".to_owned(),
            LocalError::Unknown { known, .. } => {
                let known: Vec<&str> = known.iter().map(VmName::as_str).collect();
                format!("known: {}; `transhume agent vm list` shows them", known.join(", "))
            }
            LocalError::Store(_) => "look whether `state_dir` of the agent's configuration is right".to_owned(),
            LocalError::Record { .. } => {
                "an agent that starts sets it aside and reports the VM as stranded; `transhume agent vm list` shows the \
                 others"
                    .to_owned()
            }
            LocalError::Monitor { .. } | LocalError::Kill { .. } => {
                "look at `qemu.log` in the VM's directory; `transhume agent vm list` shows its process".to_owned()
            }
        }
    }
}

/// All VMs that are recorded on this host.
pub async fn list(state_dir: &Path) -> Result<Vec<LocalVm>, LocalError> {
    let mut vms = Vec::new();
    for kept in store::look(state_dir)? {
        vms.push(match kept.found {
            KeptRecord::Readable(record) => {
                let run = run(state_dir, &record).await.ok().flatten();
                let alive = record
                    .process()
                    .filter(|process| transhume_qemu::is_alive(process));
                LocalVm {
                    vm: kept.vm,
                    cluster: Some(record.spec.cluster.clone()),
                    role: place_in_words(&record.place).to_owned(),
                    pid: alive.map(|process| process.pid),
                    guest: run.and_then(RunState::guest),
                }
            }
            KeptRecord::Unreadable { why } => unknown(kept.vm, format!("its record cannot be read: {why}")),
            KeptRecord::Missing => unknown(kept.vm, "it has no record".to_owned()),
        });
    }
    Ok(vms)
}

fn unknown(vm: VmName, role: String) -> LocalVm {
    LocalVm {
        vm,
        cluster: None,
        role,
        pid: None,
        guest: None,
    }
}

/// Whether a verb may be carried out, and what may be lost by it.
pub async fn check(state_dir: &Path, vm: &VmName, verb: LocalVerb) -> Result<Allowed, LocalError> {
    let record = record(state_dir, vm)?;
    let run = run(state_dir, &record).await;
    // One that does not answer can be killed, and not resumed.
    let run = match (run, verb) {
        (Err(_), LocalVerb::Kill) => Some(RunState::InMigrate),
        (run, _) => run.map_err(|source| LocalError::Monitor {
            vm: vm.clone(),
            source,
        })?,
    };
    check_local(verb, &record, run).map_err(LocalError::NotAllowed)
}

/// Carries a verb out, having checked it again.
pub async fn carry_out(state_dir: &Path, vm: &VmName, verb: LocalVerb) -> Result<Allowed, LocalError> {
    let allowed = check(state_dir, vm, verb).await?;
    match verb {
        LocalVerb::Resume => {
            let done = async {
                let monitor = monitor(state_dir, vm).await?;
                monitor.execute("cont", serde_json::json!({})).await
            };
            done.await.map_err(|source| LocalError::Monitor {
                vm: vm.clone(),
                source,
            })?;
        }
        LocalVerb::Kill => {
            let record = record(state_dir, vm)?;
            if let Some(process) = record.process() {
                let killed = transhume_qemu::kill(vm, process).await;
                killed.map_err(|source| LocalError::Kill {
                    vm: vm.clone(),
                    source,
                })?;
            }
        }
    }
    Ok(allowed)
}

fn record(state_dir: &Path, vm: &VmName) -> Result<Box<Record>, LocalError> {
    let all = store::look(state_dir)?;
    let known = || all.iter().map(|kept| kept.vm.clone()).collect();
    let (unknown, found) = (known(), all.into_iter().find(|kept| kept.vm == *vm));
    let vm = vm.clone();
    match found.map(|kept| kept.found) {
        None => Err(LocalError::Unknown { vm, known: unknown }),
        Some(KeptRecord::Readable(record)) => Ok(record),
        Some(KeptRecord::Unreadable { why }) => Err(LocalError::Record { vm, why }),
        Some(KeptRecord::Missing) => {
            let why = "there is none".to_owned();
            Err(LocalError::Record { vm, why })
        }
    }
}

/// What its QEMU says; `None` where there is none.
async fn run(state_dir: &Path, record: &Record) -> Result<Option<RunState>, QmpError> {
    #[derive(serde::Deserialize)]
    struct Status {
        status: transhume_qemu::RunState,
    }
    let alive = record.process().is_some_and(transhume_qemu::is_alive);
    if !alive {
        return Ok(None);
    }
    let monitor = monitor(state_dir, &record.spec.name).await?;
    let status: Status = monitor.query("query-status").await?;
    Ok(Some(run_state(&status.status)))
}

/// The one for the VM's user: the agent has its own.
async fn monitor(state_dir: &Path, vm: &VmName) -> Result<Qmp, QmpError> {
    let paths = VmPaths::new(store::vm_dir(state_dir, vm));
    Qmp::connect(vm, &paths.user_qmp()).await
}
