//! Network-attached storage (§3.1): one disk server per VM in the storage namespace, raw files in
//! the lab's directory.

use std::fs::{self, File};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};

use transhume_model::{Mebibytes, VmName};

use crate::process::{self, ProcessRecord};
use crate::{LabError, Namespace};

const PROGRAM: &str = "/usr/bin/qemu-nbd";
/// The two QEMUs of a move, and whoever looks.
const CLIENTS_MAX: u32 = 8;

/// One disk and its server.
#[derive(Debug, Clone)]
pub struct DiskServer {
    /// Where the server runs.
    pub namespace: Namespace,
    /// The VM; also the export's name.
    pub vm: VmName,
    /// Where it listens.
    pub address: SocketAddrV4,
    /// The disk's contents.
    pub file: PathBuf,
    /// The disk's size.
    pub size: Mebibytes,
    /// The server's output.
    pub log: PathBuf,
}

impl DiskServer {
    /// Makes the file and starts the server; `ready` tells when it answers.
    pub fn start(&self) -> Result<ProcessRecord, LabError> {
        let create = || -> std::io::Result<()> {
            fs::create_dir_all(self.file.parent().unwrap_or(Path::new("/")))?;
            File::create(&self.file)?.set_len(self.size.bytes().0)
        };
        create().map_err(|source| LabError::File {
            action: "create",
            path: self.file.clone(),
            source,
        })?;
        let arguments = [
            "--format=raw".to_owned(),
            "--persistent".to_owned(),
            format!("--shared={CLIENTS_MAX}"),
            format!("--bind={}", self.address.ip()),
            format!("--port={}", self.address.port()),
            format!("--export-name={}", self.vm),
            self.file.display().to_string(),
        ];
        process::spawn(
            &self.namespace,
            &format!("disk {}", self.vm),
            Path::new(PROGRAM),
            &arguments,
            &self.log,
        )
    }

    /// Waits until the server takes connections.
    pub fn ready(&self, process: &ProcessRecord) -> Result<(), LabError> {
        process::wait_for_listener(&self.namespace, self.address, process, &self.log)
    }
}
