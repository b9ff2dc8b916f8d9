//! The logs of a lab's parts, in pieces, so that a reader can follow them.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use transhume_guest::wire::{Op, Outcome};
use transhume_model::{HostName, VmName};

use crate::state::Lab;
use crate::{Channel, LabError};

/// Bytes in one piece.
const PIECE_BYTES_MAX: u64 = 256 * 1024;
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// Whose log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The coordinator's.
    Coordinator,
    /// The disk servers'.
    Storage,
    /// A host's agent's.
    Agent(HostName),
    /// A VM's console, where its kernel speaks.
    Console(VmName),
    /// A VM's user workload.
    Workload(VmName),
}

/// A piece of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Where the next piece begins.
    pub next_offset: u64,
}

impl Target {
    /// `coordinator`, `storage`, a host's or a VM's name; a VM's name means its console.
    pub fn named(lab: &Lab, name: &str) -> Result<Target, LabError> {
        match name {
            "coordinator" => Ok(Target::Coordinator),
            "storage" => Ok(Target::Storage),
            _ => match lab.host(name) {
                Ok(host) => Ok(Target::Agent(host.name.clone())),
                Err(_) => Ok(Target::Console(lab.vm(name)?.name.clone())),
            },
        }
    }
}

/// The log's bytes from `offset` on, at most one piece.
pub async fn log(lab: &Lab, target: &Target, offset: u64) -> Result<LogPart, LabError> {
    let path = match target {
        Target::Coordinator => lab.layout.coordinator_dir().join("coordinator.log"),
        Target::Storage => lab.layout.dir().join("storage.log"),
        Target::Agent(host) => lab.host(host.as_str())?.agent_log(),
        Target::Console(vm) => console(lab, vm),
        Target::Workload(vm) => return workload(lab, vm, offset).await,
    };
    piece(&path, offset).map_err(|source| LabError::File {
        action: "read",
        path,
        source,
    })
}

/// A VM that moved has a log on each host; the newest is where it is.
fn console(lab: &Lab, vm: &VmName) -> PathBuf {
    let logs = lab.state.hosts.iter().map(|host| host.console_log(vm));
    let written = |path: &PathBuf| {
        path.metadata()
            .and_then(|meta| meta.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    };
    logs.max_by_key(written).unwrap_or_default()
}

async fn workload(lab: &Lab, vm: &VmName, offset: u64) -> Result<LogPart, LabError> {
    let channel = Channel::new(lab, lab.vm(vm.as_str())?);
    let answer = channel.call(Op::Log { offset }, CALL_LIMIT).await?;
    match answer.outcome {
        Outcome::Log { next_offset, .. } => Ok(LogPart {
            bytes: answer.stdout,
            next_offset,
        }),
        other => Err(LabError::Guest {
            vm: vm.to_string(),
            said: format!("answered {other:?}"),
        }),
    }
}

fn piece(path: &Path, offset: u64) -> io::Result<LogPart> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(PIECE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(LogPart {
        next_offset: offset + bytes.len() as u64,
        bytes,
    })
}
