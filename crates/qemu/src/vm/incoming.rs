//! A target before it runs: what it may do depends on whether the whole VM is here.

use std::marker::PhantomData;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use transhume_model::{ProcessId, VmName};

use super::{CommitPermit, RunState, Running, Vm};
use crate::error::QemuError;
use crate::migration::{self, MigrationStatus};
use crate::paths::VmPaths;

/// The stream is not complete.
#[derive(Debug)]
pub enum Waiting {}

/// The whole VM is here, paused.
#[derive(Debug)]
pub enum Loaded {}

/// A target before commit. Resuming before it is loaded, or without a permit, does not compile:
///
/// ```compile_fail
/// # use transhume_qemu::{Incoming, Waiting, CommitPermit};
/// async fn too_early(vm: Incoming<Waiting>, permit: CommitPermit) { vm.resume(permit).await; }
/// ```
/// ```compile_fail
/// # use transhume_qemu::{Incoming, Loaded};
/// async fn not_committed(vm: Incoming<Loaded>) { vm.resume().await; }
/// ```
/// ```
/// # use transhume_qemu::{Incoming, Loaded, CommitPermit};
/// async fn committed(vm: Incoming<Loaded>, permit: CommitPermit) { let _running = vm.resume(permit).await; }
/// ```
#[derive(Debug)]
pub struct Incoming<S> {
    vm: Vm,
    /// The other end of its migration stream, until somebody takes it.
    stream: Option<UnixStream>,
    state: PhantomData<S>,
}

impl<S> Incoming<S> {
    fn of(vm: Vm) -> Self {
        Self {
            vm,
            stream: None,
            state: PhantomData,
        }
    }

    /// The shared handle.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Kills the copy; the source is untouched.
    pub async fn discard(self) -> Result<(), QemuError> {
        self.vm.kill().await
    }
}

/// What an earlier agent's target turned out to be.
#[derive(Debug)]
pub enum AdoptedIncoming {
    /// Its stream is not complete.
    Waiting(Incoming<Waiting>),
    /// It is complete, paused.
    Loaded(Incoming<Loaded>),
}

impl Incoming<Waiting> {
    /// One that was just told to receive.
    pub(crate) fn receiving(vm: Vm, stream: UnixStream) -> Self {
        Self {
            stream: Some(stream),
            ..Self::of(vm)
        }
    }

    /// Where its migration stream is to be written, for the one who writes it. QEMU gives up when
    /// it is dropped.
    pub fn take_stream(&mut self) -> Option<UnixStream> {
        self.stream.take()
    }

    /// Takes over a target that an earlier agent prepared; one that runs already is an error: adopt
    /// it as [`Running`].
    pub async fn adopt(
        name: &VmName,
        process: &ProcessId,
        paths: &VmPaths,
    ) -> Result<AdoptedIncoming, QemuError> {
        let vm = Vm::adopt(name, process, paths).await?;
        let found = vm.query_status().await?;
        match found {
            RunState::Inmigrate => Ok(AdoptedIncoming::Waiting(Incoming::of(vm))),
            found if found.is_loaded() => Ok(AdoptedIncoming::Loaded(Incoming::of(vm))),
            other => Err(QemuError::State {
                vm: name.clone(),
                step: "adopting a target",
                expected: "a paused one",
                found: format!("{other:?}"),
            }),
        }
    }

    /// Waits until the whole VM is here and checks that it does not run. Given up or failed,
    /// nothing has changed.
    pub async fn arrived(&self, limit: Duration) -> Result<Arrived, QemuError> {
        let wanted = [MigrationStatus::Completed];
        let wait = migration::wait_for(&self.vm.qmp, &wanted, "the whole VM to arrive", limit);
        tokio::select! {
            done = wait => done?,
            () = self.vm.died() => return Err(QemuError::Died {
                vm: self.vm.name().clone(),
                step: "the arrival of its memory",
            }),
        };
        let found = self.vm.query_status().await?;
        if found.is_loaded() {
            return Ok(Arrived(found));
        }
        Err(QemuError::State {
            vm: self.vm.name().clone(),
            step: "loading",
            expected: "a guest that does not run",
            found: format!("{found:?}"),
        })
    }

    /// It is complete.
    pub fn loaded(self, _: Arrived) -> Incoming<Loaded> {
        Incoming::of(self.vm)
    }
}

/// [`Incoming::arrived`] has seen that the whole VM is there.
#[derive(Debug)]
pub struct Arrived(RunState);

impl Arrived {
    /// In which state the guest was stopped: paused, or as it had fallen.
    pub fn run_state(&self) -> &RunState {
        &self.0
    }
}

impl Incoming<Loaded> {
    /// Runs the VM here: the commit has happened. QEMU's monitor is one connection: where it fails
    /// the handle comes back.
    pub async fn resume(self, permit: CommitPermit) -> Result<Running, (Self, QemuError)> {
        tracing::info!(vm = %self.vm.name(), epoch = %permit.epoch(), "committed: the VM runs here");
        let running = Running { vm: self.vm };
        match running.cont().await {
            Ok(()) => Ok(running),
            Err(error) => Err((Incoming::of(running.vm), error)),
        }
    }

    /// The commit has happened, and the guest stays as it came: its user paused it, or QEMU stopped
    /// it.
    pub fn keep_stopped(self, permit: CommitPermit) -> Running {
        tracing::info!(vm = %self.vm.name(), epoch = %permit.epoch(), "committed: the VM is here, not running");
        Running { vm: self.vm }
    }
}
