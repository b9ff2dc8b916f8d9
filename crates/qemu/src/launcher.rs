//! Starting a QEMU: for a boot, or to receive a VM.
//!
//! A QEMU that ends while starting is reported with its last words; one that does not greet in time
//! is killed.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use serde_json::json;
use tokio::process::Child;
use tokio::time::{sleep, timeout};
use transhume_model::{VmName, VmSpec};

use crate::accel::Accel;
use crate::binary::QemuBinary;
use crate::command_line::{CommandLine, StartMode, VmPaths};
use crate::error::QemuError;
use crate::limits::{START_LIMIT, START_RETRY};
use crate::migration;
use crate::process::{self, Process};
use crate::qmp::Qmp;
use crate::spawn::{spawn_detached, stderr_tail};
use crate::vm::{Incoming, Running, Vm, Waiting};

/// Starts VMs on this host.
#[derive(Debug, Clone)]
pub struct Launcher {
    binary: QemuBinary,
    accel: Accel,
}

impl Launcher {
    /// With this binary and accelerator.
    pub fn new(binary: QemuBinary, accel: Accel) -> Self {
        Self { binary, accel }
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
    /// agent has recorded it. `taps` has one descriptor per NIC, in order; QEMU inherits them.
    pub async fn boot(
        &self,
        spec: &VmSpec,
        paths: &VmPaths,
        taps: &[BorrowedFd<'_>],
    ) -> Result<Running, QemuError> {
        let vm = self.start(spec, paths, taps, StartMode::Boot).await?;
        Ok(Running::of(vm))
    }

    /// Starts a VM paused, listening for its migration stream on [`VmPaths::incoming`].
    pub async fn receive(
        &self,
        spec: &VmSpec,
        paths: &VmPaths,
        taps: &[BorrowedFd<'_>],
    ) -> Result<Incoming<Waiting>, QemuError> {
        let socket = paths.incoming();
        remove_stale(&spec.name, &socket)?;
        let vm = self.start(spec, paths, taps, StartMode::Incoming).await?;
        let listening = async {
            migration::set_capabilities(vm.qmp()).await?;
            let channel = json!([{
                "channel-type": "main",
                "addr": {"transport": "socket", "type": "unix", "path": socket},
            }]);
            vm.qmp()
                .execute("migrate-incoming", json!({"channels": channel}))
                .await
        };
        if let Err(error) = listening.await {
            vm.kill().await?;
            return Err(error.into());
        }
        Ok(Incoming::of(vm))
    }

    async fn start(
        &self,
        spec: &VmSpec,
        paths: &VmPaths,
        taps: &[BorrowedFd<'_>],
        mode: StartMode,
    ) -> Result<Vm, QemuError> {
        let name = &spec.name;
        let machine = self.binary.resolve(spec)?;
        let numbers: Vec<_> = taps.iter().map(AsRawFd::as_raw_fd).collect();
        let mut line = CommandLine::build(spec, &machine, self.accel, paths, &numbers, mode)?;
        if self.binary.waits_for_ack_if_told() {
            line = line.waiting_for_ack();
        }
        for socket in [paths.qmp(), paths.user_qmp(), paths.serial()] {
            remove_stale(name, &socket)?;
        }
        let io_error = |step| {
            move |source| QemuError::Io {
                vm: name.clone(),
                step,
                source,
            }
        };
        let mut child = spawn_detached(self.binary.path(), line.args(), taps, &paths.stderr())
            .map_err(io_error("spawn QEMU"))?;
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

fn remove_stale(vm: &VmName, socket: &Path) -> Result<(), QemuError> {
    match fs::remove_file(socket) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(QemuError::Io {
            vm: vm.clone(),
            step: "remove an old socket",
            source,
        }),
        _ => Ok(()),
    }
}
