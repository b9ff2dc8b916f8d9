//! One VM's QEMU as its task owns it: what may be done depends on what it is.
//!
//! [`Vm`] is the handle everything shares: look, kill, learn of the end. [`Running`] can be
//! stopped, continued and sent away. [`Incoming`] can only be loaded and, with a [`CommitPermit`],
//! resumed. [`Surrendered`] can only be destroyed, or taken back with a [`ReclaimPermit`].

mod incoming;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;
use transhume_model::{Epoch, Mebibytes, ProcessId, VmName};

use crate::dirty_rate::{self, DirtyRate};
use crate::error::QemuError;
use crate::limits::{CANCEL_LIMIT, KILL_LIMIT, QUIT_LIMIT};
use crate::migration::{self, MigrationProgress, MigrationStatus};
use crate::paths::VmPaths;
use crate::process::Process;
use crate::qmp::Qmp;

pub use self::incoming::{AdoptedIncoming, Arrived, Incoming, Loaded, Waiting};

/// Allows one target to run: exists only because an `Activate` order came, which exists only after
/// the journal held `Committed`, or an operator's word for a VM whose source is lost and fenced.
#[derive(Debug)]
pub struct CommitPermit {
    epoch: Epoch,
}

impl CommitPermit {
    /// The permit that an `Activate` order of this epoch is. Make one nowhere else.
    pub fn of_activate_order(epoch: Epoch) -> Self {
        Self { epoch }
    }

    /// Epoch of the order.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
}

/// Allows one surrendered source to run again: exists only because a `Reclaim` order came, which
/// exists only after an operator's decision that its target, which is lost, is not to have it.
#[derive(Debug)]
pub struct ReclaimPermit {
    epoch: Epoch,
}

impl ReclaimPermit {
    /// The permit that a `Reclaim` order of this epoch is. Make one nowhere else.
    pub fn of_reclaim_order(epoch: Epoch) -> Self {
        Self { epoch }
    }

    /// Epoch of the order.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
}

/// QEMU's run state, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// The guest runs.
    Running,
    /// Stopped by command, or loaded and not told to run.
    Paused,
    /// Started and not yet told to run.
    Prelaunch,
    /// Waits for its migration stream.
    Inmigrate,
    /// Stopped for the rest of a migration.
    FinishMigrate,
    /// Sent away completely.
    Postmigrate,
    /// Powered off, waiting to be destroyed.
    Shutdown,
    /// Its guest sleeps by itself (S3); to QEMU it is as good as running.
    Suspended,
    /// Stopped by QEMU: a disk did not take what was written.
    IoError,
    /// Stopped by QEMU: the guest said that it panicked.
    GuestPanicked,
    /// Stopped by QEMU: the processor got into a state that cannot go on.
    InternalError,
    /// Stopped by QEMU: the guest's watchdog barked.
    Watchdog,
    /// Any other state, by QEMU's name; none is expected in this crate's use.
    #[serde(untagged)]
    Other(String),
}

impl RunState {
    /// What a target is in whose stream has come whole: as its source was stopped.
    fn is_loaded(&self) -> bool {
        matches!(
            self,
            RunState::Paused
                | RunState::Prelaunch
                | RunState::IoError
                | RunState::GuestPanicked
                | RunState::InternalError
                | RunState::Watchdog
        )
    }
}

/// A QEMU process and its monitor. Clones share them. Nothing here makes a guest run.
#[derive(Debug, Clone)]
pub struct Vm {
    process: Arc<Process>,
    qmp: Qmp,
}

impl Vm {
    /// A process that has greeted.
    pub(crate) fn new(process: Process, qmp: Qmp) -> Self {
        Self {
            process: Arc::new(process),
            qmp,
        }
    }

    /// The monitor, for questions this crate has no words for.
    pub fn qmp(&self) -> &Qmp {
        &self.qmp
    }

    /// Takes over a QEMU that an earlier agent started; its monitor must be free.
    async fn adopt(name: &VmName, process: &ProcessId, paths: &VmPaths) -> Result<Self, QemuError> {
        let process = Process::open(process.clone()).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => QemuError::NotTheSameProcess {
                vm: name.clone(),
                pid: process.pid,
            },
            _ => QemuError::Io {
                vm: name.clone(),
                step: "take hold of the recorded QEMU",
                source,
            },
        })?;
        let qmp = Qmp::connect(name, &paths.qmp()).await?;
        Ok(Self::new(process, qmp))
    }

    /// The VM.
    pub fn name(&self) -> &VmName {
        self.qmp.vm()
    }

    /// Its process, for the agent's record and for taking its taps.
    pub fn process(&self) -> &ProcessId {
        self.process.id()
    }

    /// QEMU's run state.
    pub async fn query_status(&self) -> Result<RunState, QemuError> {
        #[derive(Deserialize)]
        struct Answer {
            status: RunState,
        }
        Ok(self.qmp.query::<Answer>("query-status").await?.status)
    }

    /// The threads that are its processors, as the kernel numbers them.
    pub async fn processor_threads(&self) -> Result<Vec<u32>, QemuError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Processor {
            thread_id: u32,
        }
        let processors = self.qmp.query::<Vec<Processor>>("query-cpus-fast").await?;
        let mut threads: Vec<u32> = processors.iter().map(|one| one.thread_id).collect();
        // One thread may play several processors.
        threads.dedup();
        Ok(threads)
    }

    /// A look at the migration, on either side.
    pub async fn migration_progress(&self) -> Result<MigrationProgress, QemuError> {
        Ok(migration::progress(&self.qmp).await?)
    }

    /// How fast the guest writes to its memory; it runs on meanwhile. `memory` is its size.
    pub async fn dirty_rate(&self, memory: Mebibytes, limit: Duration) -> Result<DirtyRate, QemuError> {
        dirty_rate::measure(&self.qmp, memory, limit).await
    }

    /// What QEMU says by itself from now on.
    pub fn events(&self) -> tokio::sync::broadcast::Receiver<crate::qmp::QmpEvent> {
        self.qmp.events()
    }

    /// Resolves when the process has ended, however that came about.
    pub async fn died(&self) {
        if let Err(error) = self.process.ended().await {
            tracing::warn!(vm = %self.name(), %error, "cannot watch QEMU; taking it for ended");
        }
    }

    /// Asks QEMU to end, kills it when it does not; returns when the process is gone.
    pub async fn quit(&self) -> Result<(), QemuError> {
        // Refused or unanswered, the kill below decides.
        let asked = self.qmp.execute_within("quit", json!({}), QUIT_LIMIT).await;
        if asked.is_ok() && timeout(QUIT_LIMIT, self.died()).await.is_ok() {
            return Ok(());
        }
        self.kill().await
    }

    /// Kills QEMU by its pidfd; returns when the process is gone.
    pub async fn kill(&self) -> Result<(), QemuError> {
        self.process.kill().map_err(|source| QemuError::Io {
            vm: self.name().clone(),
            step: "kill QEMU",
            source,
        })?;
        timeout(KILL_LIMIT, self.died())
            .await
            .map_err(|_| QemuError::Timeout {
                vm: self.name().clone(),
                step: "waiting for a killed QEMU to end",
                limit: KILL_LIMIT,
            })
    }
}

/// A VM whose place is here: it may run and may be sent away. Whether its guest does run is a
/// matter of [`Vm::query_status`].
#[derive(Debug)]
pub struct Running {
    vm: Vm,
}

impl Running {
    pub(crate) fn of(vm: Vm) -> Self {
        Self { vm }
    }

    /// Takes over a VM that an earlier agent ran here.
    pub async fn adopt(name: &VmName, process: &ProcessId, paths: &VmPaths) -> Result<Self, QemuError> {
        Ok(Self {
            vm: Vm::adopt(name, process, paths).await?,
        })
    }

    /// The shared handle.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Stops the guest; its taps are not read from here on. The run state behind the stop: a guest
    /// that had panicked, or stood still on a disk error, stays so (QEMU's `vm_stop`).
    pub async fn stop(&self) -> Result<RunState, QemuError> {
        let qmp = &self.vm.qmp;
        // Written one behind the other and answered in that order: one turn of QEMU's loop.
        let stop = async { Ok(qmp.execute("stop", json!({})).await.map(|_| ())?) };
        let ((), run) = tokio::try_join!(stop, self.vm.query_status())?;
        Ok(run)
    }

    /// Lets the guest run, whatever stopped it.
    pub async fn cont(&self) -> Result<(), QemuError> {
        self.vm.qmp.execute("cont", json!({})).await?;
        Ok(())
    }

    /// Asks the guest to power itself off (ACPI); it may take its time, or not obey.
    pub async fn power_down(&self) -> Result<(), QemuError> {
        self.vm.qmp.execute("system_powerdown", json!({})).await?;
        Ok(())
    }

    /// Starts the page stream towards a Unix socket, which is connected here: QEMU itself may reach
    /// none. For an offline move call [`stop`](Self::stop) first; the rest is the same.
    pub async fn start_migration(&self, socket: &Path) -> Result<(), QemuError> {
        let qmp = &self.vm.qmp;
        migration::set_capabilities(qmp).await?;
        migration::set_parameters(qmp).await?;
        let stream = UnixStream::connect(socket).map_err(|source| QemuError::Io {
            vm: self.vm.name().clone(),
            step: "connect to the socket of its migration stream",
            source,
        })?;
        migration::start(qmp, stream.as_fd()).await?;
        Ok(())
    }

    /// Waits until the stopped guest's memory is copied and QEMU asks to go on, or has gone on
    /// already.
    pub async fn await_pre_switchover(&self, limit: Duration) -> Result<MigrationProgress, QemuError> {
        let wanted = [
            MigrationStatus::PreSwitchover,
            MigrationStatus::Device,
            MigrationStatus::Completed,
        ];
        migration::wait_for(&self.vm.qmp, &wanted, "pre-switchover", limit).await
    }

    /// Lets QEMU send the device state. Only where it is in pre-switchover.
    pub async fn continue_migration(&self) -> Result<(), QemuError> {
        let arguments = json!({"state": "pre-switchover"});
        self.vm.qmp.execute("migrate-continue", arguments).await?;
        Ok(())
    }

    /// Waits until everything is sent.
    pub async fn await_completed(&self, limit: Duration) -> Result<MigrationProgress, QemuError> {
        let wanted = [MigrationStatus::Completed];
        migration::wait_for(&self.vm.qmp, &wanted, "completed", limit).await
    }

    /// Ends a migration that is under way; one that ended already, even completed, is left as it
    /// is.
    pub async fn cancel_migration(&self) -> Result<(), QemuError> {
        let qmp = &self.vm.qmp;
        if !migration::progress(qmp).await?.status.is_under_way() {
            return Ok(());
        }
        qmp.execute("migrate_cancel", json!({})).await?;
        let ended = [
            MigrationStatus::Cancelled,
            MigrationStatus::Failed,
            MigrationStatus::Completed,
            MigrationStatus::None,
        ];
        migration::wait_for(qmp, &ended, "the end of a cancelled migration", CANCEL_LIMIT).await?;
        Ok(())
    }

    /// The batch is committed: from here on nothing can make this copy run.
    pub fn surrender(self) -> Surrendered {
        Surrendered { vm: self.vm }
    }
}

/// A source after commit. It can be looked at and destroyed; it runs again with a
/// [`ReclaimPermit`] only, and nothing else makes it run:
///
/// ```compile_fail
/// # use transhume_qemu::Surrendered;
/// async fn runs(vm: Surrendered) { vm.cont().await; }
/// ```
/// ```compile_fail
/// # use transhume_qemu::Surrendered;
/// fn undecided(vm: Surrendered) { vm.reclaim(); }
/// ```
/// ```compile_fail
/// # use transhume_qemu::{CommitPermit, Surrendered};
/// fn another_permit(vm: Surrendered, permit: CommitPermit) { vm.reclaim(permit); }
/// ```
/// ```
/// # use transhume_qemu::{ReclaimPermit, Surrendered};
/// async fn decided(vm: Surrendered, permit: ReclaimPermit) { let _ran = vm.reclaim(permit).cont().await; }
/// ```
#[derive(Debug)]
pub struct Surrendered {
    vm: Vm,
}

impl Surrendered {
    /// Takes over a surrendered source that an earlier agent left.
    pub async fn adopt(name: &VmName, process: &ProcessId, paths: &VmPaths) -> Result<Self, QemuError> {
        Ok(Self {
            vm: Vm::adopt(name, process, paths).await?,
        })
    }

    /// The shared handle.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// It may run again; QEMU takes its disks back when it is told to (`cont`).
    pub fn reclaim(self, permit: ReclaimPermit) -> Running {
        tracing::info!(vm = %self.vm.name(), epoch = %permit.epoch(), "reclaimed after commit");
        Running::of(self.vm)
    }

    /// Destroys it.
    pub async fn discard(self) -> Result<(), QemuError> {
        self.vm.kill().await
    }
}
