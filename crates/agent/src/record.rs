//! What an agent remembers of a VM across its own death: one JSON file per VM, replaced atomically.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use transhume_model::{Epoch, MigrationId, ProcessId, VmSpec};
use transhume_protocol::message::{ActivationTimes, TargetFrames, VmRole};

const FILE: &str = "state.json";
const FILE_NEW: &str = "state.json.new";

/// A VM as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) spec: VmSpec,
    pub(crate) role: VmRole,
    pub(crate) epoch: Epoch,
    pub(crate) migration: Option<MigrationId>,
    /// Its QEMU, once there is one.
    pub(crate) process: Option<ProcessId>,
    /// Name of each NIC's tap.
    pub(crate) taps: Vec<String>,
    /// The target's tunnel ends, by NIC; on both sides.
    pub(crate) tunnels: Vec<SocketAddr>,
    /// Frames are, or were, being captured: they lie in the spool and must be put back or delivered.
    pub(crate) capturing: bool,
    /// What was answered to `Activate` and `CloseTargetBuffer`, for an order that is given again after a restart.
    pub(crate) activated: Option<ActivationTimes>,
    pub(crate) closed: Option<TargetFrames>,
}

/// Why a record cannot be kept or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {path}")]
pub(crate) struct RecordError {
    verb: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn error(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecordError {
    let path = path.to_owned();
    move |source| RecordError { verb, path, source }
}

impl Record {
    /// A VM that is to come, or to be booted: nothing of it is here yet.
    pub(crate) fn expected(spec: VmSpec, epoch: Epoch) -> Self {
        Record {
            spec,
            role: VmRole::Expected,
            epoch,
            migration: None,
            process: None,
            taps: Vec::new(),
            tunnels: Vec::new(),
            capturing: false,
            activated: None,
            closed: None,
        }
    }

    /// Writes the record into the VM's directory; durable against a kill of the process when this returns.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), RecordError> {
        let (path, new) = (dir.join(FILE), dir.join(FILE_NEW));
        let bytes = serde_json::to_vec(self)
            .map_err(io::Error::from)
            .map_err(error("write", &path))?;
        fs::create_dir_all(dir).map_err(error("create", dir))?;
        let mut file = fs::File::create(&new).map_err(error("write", &new))?;
        file.write_all(&bytes).map_err(error("write", &new))?;
        fs::rename(&new, &path).map_err(error("replace", &path))
    }

    /// All records below `vms_dir`, with their directories.
    pub(crate) fn read_all(vms_dir: &Path) -> Result<Vec<Record>, RecordError> {
        let entries = match fs::read_dir(vms_dir) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(error("read", vms_dir))?,
        };
        let mut records = Vec::new();
        for entry in entries {
            let path = entry.map_err(error("read", vms_dir))?.path().join(FILE);
            match fs::read(&path) {
                Err(missing) if missing.kind() == io::ErrorKind::NotFound => {}
                bytes => records.push(
                    serde_json::from_slice(&bytes.map_err(error("read", &path))?)
                        .map_err(io::Error::from)
                        .map_err(error("understand", &path))?,
                ),
            }
        }
        Ok(records)
    }

    /// Forgets the VM with all its files.
    pub(crate) fn remove(dir: &Path) -> Result<(), RecordError> {
        match fs::remove_dir_all(dir) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(error("remove", dir)),
        }
    }
}
