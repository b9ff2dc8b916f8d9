//! Network-attached storage (§3.1): one disk server per VM in the storage namespace, raw files in
//! the lab's directory.

use std::fs::{self, File};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};

use transhume_model::{Mebibytes, VmName};

use crate::process::{self, ProcessRecord};
use crate::state::VmState;
use crate::{LabError, Layout, Namespace, layout};

const PROGRAM: &str = "/usr/bin/qemu-nbd";
/// The two QEMUs of a move, and whoever looks.
const CLIENTS_MAX: u32 = 8;

/// Whether a disk takes writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It does.
    Enough,
    /// Every write fails for lack of space.
    None,
}

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
    /// The server's output.
    pub log: PathBuf,
}

impl DiskServer {
    /// The server of a VM's disk.
    pub fn of(layout: &Layout, vm: &VmState) -> Self {
        DiskServer {
            namespace: Namespace::named(layout.storage_namespace()),
            vm: vm.name.clone(),
            address: SocketAddrV4::new(layout::storage_address(), layout::disk_port(vm.index)),
            file: layout.disk_file(&vm.name),
            log: layout.dir().join("storage.log"),
        }
    }

    /// Makes the file and starts the server; `ready` tells when it answers.
    pub fn start(&self, size: Mebibytes) -> Result<ProcessRecord, LabError> {
        let create = || -> std::io::Result<()> {
            fs::create_dir_all(self.file.parent().unwrap_or(Path::new("/")))?;
            File::create(&self.file)?.set_len(size.bytes().0)
        };
        create().map_err(|source| LabError::File {
            action: "create",
            path: self.file.clone(),
            source,
        })?;
        self.serve(Room::Enough)
    }

    /// Starts the server of a disk that is there.
    pub fn serve(&self, room: Room) -> Result<ProcessRecord, LabError> {
        let file = self.file.display();
        let image = match room {
            Room::Enough => ["--format=raw".to_owned(), file.to_string()],
            Room::None => {
                let inject = "event=none,file.inject-error.0.iotype=write";
                let image = format!(
                    "driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename={file},\
                     file.inject-error.0.{inject},file.inject-error.0.errno={}",
                    rustix::io::Errno::NOSPC.raw_os_error()
                );
                ["--image-opts".to_owned(), image]
            }
        };
        let arguments = [
            "--persistent".to_owned(),
            format!("--shared={CLIENTS_MAX}"),
            format!("--bind={}", self.address.ip()),
            format!("--port={}", self.address.port()),
            format!("--export-name={}", self.vm),
        ];
        process::spawn(
            &self.namespace,
            &format!("disk {}", self.vm),
            Path::new(PROGRAM),
            &[arguments.as_slice(), &image].concat(),
            &self.log,
        )
    }

    /// Waits until the server takes connections.
    pub fn ready(&self, process: &ProcessRecord) -> Result<(), LabError> {
        process::wait_for_listener(&self.namespace, self.address, process, &self.log)
    }
}
