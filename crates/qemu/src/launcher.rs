//! Starting a QEMU: for a boot, or to receive a VM.
//!
//! A QEMU that ends while starting is reported with its last words; one that does not greet in time
//! is killed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use tokio::process::Child;
use tokio::time::{sleep, timeout};
use transhume_model::{VmName, VmSpec};

use crate::accel::Accel;
use crate::access::Access;
use crate::binary::QemuBinary;
use crate::command_line::{self, CommandLine, StartMode};
use crate::error::QemuError;
use crate::files::{Ends, Handed, VmFiles};
use crate::limits::{START_LIMIT, START_RETRY};
use crate::migration;
use crate::paths::VmPaths;
use crate::process::{self, Process};
use crate::qmp::Qmp;
use crate::spawn::{Confined, spawn_detached, stderr_tail};
use crate::user::Users;
use crate::vm::{Incoming, Running, Vm, Waiting};

/// Starts VMs on this host.
#[derive(Debug, Clone)]
pub struct Launcher {
    binary: QemuBinary,
    accel: Accel,
    users: Arc<Users>,
}

/// What a QEMU is handed.
#[derive(Debug)]
pub struct Means<'a> {
    /// One per NIC, in order; they stay the caller's, too.
    pub taps: &'a [BorrowedFd<'a>],
    /// Its own from here on.
    pub files: VmFiles,
    /// Control groups that it is to be in: their lists of processes, opened for writing.
    pub groups: Vec<File>,
    /// The guest's console and QEMU's own errors end here where nobody shortens them, usually
    /// [`LOG_BYTES_MAX`](crate::LOG_BYTES_MAX). The kernel has one such limit for all files of a
    /// process: a VM with a larger disk in a file has the size of that.
    pub log_bytes_max: u64,
}

impl Launcher {
    /// With this binary and accelerator, each QEMU as one of these users.
    pub fn new(binary: QemuBinary, accel: Accel, users: Users) -> Self {
        let users = Arc::new(users);
        Self { binary, accel, users }
    }

    /// The binary.
    pub fn binary(&self) -> &QemuBinary {
        &self.binary
    }

    /// The accelerator.
    pub fn accel(&self) -> Accel {
        self.accel
    }

    /// Starts a VM that is to boot; its guest does not run before [`Running::cont`]: by then its
    /// agent has recorded it.
    pub async fn boot(&self, spec: &VmSpec, paths: &VmPaths, means: Means<'_>) -> Result<Running, QemuError> {
        let vm = self.start(spec, paths, means, StartMode::Boot).await?;
        Ok(Running::of(vm))
    }

    /// Starts a VM paused, waiting for its migration stream ([`Incoming::take_stream`]).
    pub async fn receive(
        &self,
        spec: &VmSpec,
        paths: &VmPaths,
        means: Means<'_>,
    ) -> Result<Incoming<Waiting>, QemuError> {
        let vm = self.start(spec, paths, means, StartMode::Incoming).await?;
        let name = spec.name.clone();
        let pair = UnixStream::pair().map_err(|source| QemuError::Io {
            vm: name,
            step: "make the socket of its migration stream",
            source,
        });
        let receiving = async {
            let (ours, theirs) = pair?;
            migration::set_capabilities(vm.qmp()).await?;
            migration::receive(vm.qmp(), theirs.as_fd()).await?;
            Ok(ours)
        };
        match receiving.await {
            Ok(stream) => Ok(Incoming::receiving(vm, stream)),
            Err(error) => {
                vm.kill().await?;
                Err(error)
            }
        }
    }

    async fn start(
        &self,
        spec: &VmSpec,
        paths: &VmPaths,
        means: Means<'_>,
        mode: StartMode,
    ) -> Result<Vm, QemuError> {
        let name = &spec.name;
        let machine = self.binary.resolve(spec)?;
        command_line::check(spec, paths, means.taps.len())?;
        let io_error = |step| {
            move |source| QemuError::Io {
                vm: name.clone(),
                step,
                source,
            }
        };
        let ends = Ends::make(paths).map_err(io_error("make the sockets and logs of QEMU"))?;
        let handed = Handed::of(means.taps, &means.files, &ends);
        let access = Access::by_descriptor(paths, &handed);
        let mut line = CommandLine::build(spec, &machine, self.accel, &access, mode)?;
        if self.binary.waits_for_ack_if_told() {
            line = line.waiting_for_ack();
        }
        let inherited = handed.numbers();
        let stderr = ends
            .stderr
            .try_clone()
            .map_err(io_error("duplicate QEMU's log"))?;
        let spawned = self.users.with_one(self.accel, |user| {
            let confined = Confined {
                user,
                groups: &means.groups,
                file_bytes_max: means.log_bytes_max.max(means.files.disk_bytes_max()),
            };
            spawn_detached(self.binary.path(), line.args(), &inherited, stderr, &confined)
        });
        // What it was handed is QEMU's alone from here on: a lock on a disk image ends with it.
        drop((ends, means));
        let spawned = spawned.map_err(|source| QemuError::User {
            vm: name.clone(),
            source,
        })?;
        let mut child = spawned.map_err(io_error("spawn QEMU"))?;
        match greet(name, paths, &mut child).await {
            Ok(vm) => {
                // Reaps it while this agent lives; a later agent is not its parent and need not.
                tokio::spawn(async move { child.wait().await });
                Ok(vm)
            }
            Err(error) => {
                // It may have ended by itself.
                let _ = child.kill().await;
                Err(error)
            }
        }
    }
}

async fn greet(name: &VmName, paths: &VmPaths, child: &mut Child) -> Result<Vm, QemuError> {
    let died = |status: io::Result<std::process::ExitStatus>| QemuError::DiedAtStart {
        vm: name.clone(),
        status: status.map_or_else(|error| error.to_string(), |status| status.to_string()),
        stderr: stderr_tail(&paths.stderr()),
    };
    let Some(pid) = child.id() else {
        return Err(died(child.wait().await));
    };
    let path = paths.qmp();
    let connect = async {
        loop {
            match Qmp::connect(name, &path).await {
                Ok(qmp) => return qmp,
                Err(_) => sleep(START_RETRY).await,
            }
        }
    };
    let qmp = tokio::select! {
        status = child.wait() => return Err(died(status)),
        connected = timeout(START_LIMIT, connect) => connected.map_err(|_| QemuError::Timeout {
            vm: name.clone(),
            step: "waiting for QMP of a new QEMU",
            limit: START_LIMIT,
        })?,
    };
    let process = process::identify(pid)
        .and_then(Process::open)
        .map_err(|source| QemuError::Io {
            vm: name.clone(),
            step: "take hold of the new QEMU",
            source,
        })?;
    Ok(Vm::new(process, qmp))
}
