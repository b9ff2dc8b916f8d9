//! A VM's QEMU: admitted, started, adopted, run, stopped, ended.

use std::fs::File;

use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::timeout;
use transhume_agent_core::{AdoptBuffers, Product, RunState, SpawnFor, Trouble};
use transhume_model::{Endpoint, Epoch, ProcessId, VmSpec};
use transhume_protocol::message::{FaultKind, RefusalKind, SourceFrames};
use transhume_qemu::{AdoptedIncoming, Incoming, LOG_BYTES_MAX, Means, Running, Surrendered, VmFiles};

use super::closing::keep_for_a_while;
use crate::context::{Context, locked};
use crate::disk::{self, DiskError};
use crate::host::compatible;
use crate::images::{self, Use};
use crate::limits::FILES_OPEN_MAX;
use crate::marks;
use crate::nics::{Ends, SourceBuffers, Taps, TargetBuffers, has_spools, remove_file, remove_spools};
use crate::page_stream::SOURCE_SOCKET;
use crate::text::{chain, failed, network_failed, qemu_failed};
use crate::vm::holdings::{Copying, Holdings, Qemu, Slot};
use crate::vm::task::Outcome;
use crate::vm::watch::{Watch, run_state};

/// Everything that can be known before a VM is put here: QEMU, machine type, MTU, files, disks,
/// room (G3).
pub(super) async fn admit(context: &Context, spec: VmSpec, powered_off: bool) -> Outcome {
    let config = &context.config;
    let mut admitted = spec;
    if !powered_off {
        compatible(config, context.qemu(), &admitted).map_err(Trouble::Refused)?;
        for disk in &admitted.disks {
            disk::probe(disk, &config.images).await.map_err(|error| {
                Trouble::refused(
                    RefusalKind::Disk,
                    format!(
                        "host {} cannot use a disk of VM {}: {}",
                        config.host,
                        admitted.name,
                        chain(&error)
                    ),
                    match &error {
                        DiskError::NoFile(error) => error.hint(),
                        _ => "start the export, or give the host a way to the storage",
                    },
                )
            })?;
        }
        let machine = context.launcher()?.binary().resolve(&admitted);
        admitted.machine = Some(machine.map_err(qemu_failed)?);
    }
    let promised = context.reservations().promise(&config.host, &admitted);
    promised.map_err(Trouble::Refused)?;
    Ok(Product::Admitted { spec: admitted })
}

/// Taps first, then QEMU behind them, stopped.
pub(super) async fn spawn(
    holdings: &mut Holdings,
    context: &Context,
    spec: &VmSpec,
    purpose: SpawnFor,
) -> Outcome {
    let launcher = context.launcher()?;
    let paths = context.paths(&spec.name);
    let taps = block_in_place(|| Taps::create(&context.config, &context.owner, spec, purpose));
    let taps = holdings.taps.insert(taps.map_err(network_failed)?).fds();
    let means = Means {
        taps: &taps,
        files: files(context, spec).await?,
        groups: groups(context, spec)?,
        log_bytes_max: LOG_BYTES_MAX,
    };
    let qemu = match purpose {
        SpawnFor::Boot => launcher.boot(spec, &paths, means).await.map(Qemu::Here),
        SpawnFor::Incoming => launcher.receive(spec, &paths, means).await.map(Qemu::Waiting),
    };
    let qemu = holdings.qemu.insert(qemu.map_err(qemu_failed)?);
    holdings.watch = Some(Watch::start(qemu.vm(), &paths, holdings.inputs.clone()));
    let process = qemu.vm().process().clone();
    Ok(Product::Spawned { process })
}

/// The control group that it is to be in, where this agent has any to give.
fn groups(context: &Context, spec: &VmSpec) -> Result<Vec<File>, Trouble> {
    let opened = context.slice.as_ref().map(|slice| slice.open(spec)).transpose();
    let opened = opened.map_err(|error| {
        let reason = format!("VM {} gets no control group: {error}", spec.name);
        Trouble::failed(FaultKind::Internal, reason)
    })?;
    Ok(opened.into_iter().collect())
}

/// Its files, opened; a file system that hangs is not waited for.
async fn files(context: &Context, spec: &VmSpec) -> Result<VmFiles, Trouble> {
    let (roots, of) = (context.config.images.clone(), spec.clone());
    let opening = spawn_blocking(move || {
        VmFiles::open(&of, |path, writable| {
            let use_as = if writable { Use::Write } else { Use::Read };
            images::open(&roots, path, use_as)
        })
    });
    match timeout(FILES_OPEN_MAX, opening).await {
        Ok(Ok(opened)) => opened.map_err(|error| failed(FaultKind::Qemu, error)),
        Ok(Err(_)) | Err(_) => {
            let reason = format!(
                "the files of VM {} cannot be opened within {FILES_OPEN_MAX:?}",
                spec.name
            );
            Err(Trouble::failed(FaultKind::Qemu, reason))
        }
    }
}

/// What an earlier agent left of a VM.
pub(super) struct Adoption {
    pub(super) process: ProcessId,
    pub(super) spec: VmSpec,
    pub(super) epoch: Epoch,
    pub(super) buffers: AdoptBuffers,
    pub(super) incoming: bool,
    pub(super) surrendered: bool,
}

impl Adoption {
    pub(super) async fn carry_out(self, holdings: &mut Holdings, context: &Context) -> Outcome {
        if self.surrendered && !transhume_qemu::is_alive(&self.process) {
            return self.without_process(holdings, context);
        }
        if !transhume_qemu::is_alive(&self.process) {
            return Ok(Product::Gone);
        }
        let paths = context.paths(&self.spec.name);
        // QEMU's monitor is one connection: one that was made stays.
        if holdings.qemu.is_none() {
            holdings.qemu = Some(self.qemu(context).await?);
        }
        let vm = holdings.vm().cloned().ok_or_else(|| holdings.lacks("a QEMU"))?;
        if holdings.watch.is_none() {
            holdings.watch = Some(Watch::start(&vm, &paths, holdings.inputs.clone()));
        }
        if holdings.taps.is_none() {
            let taken = block_in_place(|| Taps::take(&self.spec, self.process.pid));
            holdings.taps = Some(taken.map_err(network_failed)?);
        }
        let run = run_state(&vm.query_status().await.map_err(qemu_failed)?);
        self.buffers(holdings, context, run)?;
        tracing::info!(pid = self.process.pid, ?run, "taken over");
        Ok(Product::Adopted { run })
    }

    /// A VM that has left needs no QEMU any more, but what was captured for it is still to be
    /// forwarded, and what comes by the old path until that closes: its taps went with the process
    /// and are made anew.
    fn without_process(&self, holdings: &mut Holdings, context: &Context) -> Outcome {
        // What is in memory goes with the host's power.
        let capture = matches!(self.buffers, AdoptBuffers::Capture { .. });
        if capture && !has_spools(&context.config, &self.spec) {
            return Ok(Product::AdoptedWithoutSpool);
        }
        if holdings.taps.is_none() {
            let purpose = SpawnFor::Boot;
            let taps = block_in_place(|| Taps::create(&context.config, &context.owner, &self.spec, purpose));
            holdings.taps = Some(taps.map_err(network_failed)?);
        }
        let run = RunState::PostMigrate;
        self.buffers(holdings, context, run)?;
        Ok(Product::Adopted { run })
    }

    async fn qemu(&self, context: &Context) -> Result<Qemu, Trouble> {
        let (name, paths) = (&self.spec.name, context.paths(&self.spec.name));
        let adopted = match (self.surrendered, self.incoming) {
            (true, _) => Surrendered::adopt(name, &self.process, &paths)
                .await
                .map(Qemu::Surrendered),
            (false, true) => {
                Incoming::adopt(name, &self.process, &paths)
                    .await
                    .map(|adopted| match adopted {
                        AdoptedIncoming::Waiting(qemu) => Qemu::Waiting(qemu),
                        AdoptedIncoming::Loaded(qemu) => Qemu::Loaded(qemu),
                    })
            }
            (false, false) => Running::adopt(name, &self.process, &paths).await.map(Qemu::Here),
        };
        adopted.map_err(qemu_failed)
    }

    fn buffers(&self, holdings: &mut Holdings, context: &Context, run: RunState) -> Result<(), Trouble> {
        let ends = Ends {
            config: &context.config,
            security: &context.pages.secured.security,
            spec: &self.spec,
            epoch: self.epoch,
            inputs: &holdings.inputs,
        };
        let taps = holdings.taps()?;
        match self.buffers.clone().with_guest(run, self.surrendered) {
            // Whatever an earlier move kept is of no use any more.
            AdoptBuffers::None => remove_spools(&context.config, &self.spec.name),
            AdoptBuffers::Capture { tunnels } => {
                let resumed = block_in_place(|| SourceBuffers::resume(&ends, taps, &tunnels));
                let mut resumed = resumed.map_err(network_failed)?;
                if self.surrendered {
                    resumed.committed();
                }
                holdings.meter.source(resumed.meters());
                holdings.source = slot(resumed);
            }
            AdoptBuffers::Abort => {
                let resumed = block_in_place(|| SourceBuffers::resume_abort(&ends, taps));
                let resumed = resumed.map_err(network_failed)?;
                holdings.meter.source(resumed.meters());
                holdings.source = slot(resumed);
            }
            AdoptBuffers::Deliver { tunnels, activated } => {
                let delivers = self.deliver(&ends, taps, &tunnels, activated)?;
                holdings.meter.target(delivers.meters());
                holdings.plugs = delivers.openers();
                holdings.target = slot(delivers);
            }
            AdoptBuffers::Delivered { tunnels } => match self.deliver(&ends, taps, &tunnels, true) {
                Ok(delivered) => {
                    holdings.meter.target(delivered.meters());
                    holdings.target = slot(delivered);
                    keep_for_a_while(&holdings.target);
                }
                // Nothing of it is missing here; its source ends at a limit of its own.
                Err(trouble) => tracing::debug!("its buffers are gone already: {trouble}"),
            },
        }
        Ok(())
    }

    fn deliver(
        &self,
        ends: &Ends<'_>,
        taps: &Taps,
        tunnels: &[Endpoint],
        activated: bool,
    ) -> Result<TargetBuffers, Trouble> {
        block_in_place(|| TargetBuffers::resume(ends, taps, tunnels, activated)).map_err(network_failed)
    }
}

/// A new slot: whoever still works on the old one does no harm.
pub(super) fn slot<B>(buffers: B) -> Slot<B> {
    let slot = Slot::default();
    *locked(&slot) = Some(buffers);
    slot
}

/// Lets the guest run.
pub(super) async fn cont(holdings: &Holdings) -> Outcome {
    holdings.here()?.cont().await.map_err(qemu_failed)?;
    Ok(Product::Done)
}

/// Stops the guest, together with others that are about to be stopped.
pub(super) async fn stop(holdings: &Holdings, context: &Context) -> Outcome {
    context.together.ready(&holdings.vm).await;
    let run = holdings.here()?.stop().await.map_err(qemu_failed)?;
    Ok(Product::Stopped { run: run_state(&run) })
}

/// Asks the guest to power itself off.
pub(super) async fn power_down(holdings: &Holdings) -> Outcome {
    holdings.here()?.power_down().await.map_err(qemu_failed)?;
    Ok(Product::Done)
}

/// Ends everything of the VM here, also what only carries its mark. The process goes first: while
/// it lives, its taps do.
pub(super) async fn end(holdings: &mut Holdings, context: &Context) -> Outcome {
    drop(locked(&holdings.reach.stream).take());
    holdings.whole = None;
    holdings.watch = None;
    holdings.copying = Copying::default();
    if let Some(vm) = holdings.vm() {
        vm.kill().await.map_err(qemu_failed)?;
    }
    holdings.qemu = None;
    let vm = holdings.vm.clone();
    let left = block_in_place(|| marks::processes_of(context.store.vms_dir(), &vm));
    for process in left.map_err(|error| failed(FaultKind::Internal, error))? {
        tracing::warn!(pid = process.pid, "ends a QEMU that only carries the VM's mark");
        transhume_qemu::kill(&vm, &process).await.map_err(qemu_failed)?;
    }
    let source = block_in_place(|| drop_buffers(holdings));
    holdings.taps = None;
    if let Some(slice) = &context.slice {
        slice.close(&vm);
    }
    remove_spools(&context.config, &vm);
    let paths = context.paths(&vm);
    let sockets = [
        paths.qmp(),
        paths.user_qmp(),
        paths.serial(),
        paths.dir().join(SOURCE_SOCKET),
    ];
    sockets.iter().for_each(|socket| remove_file(socket));
    Ok(Product::Ended { source })
}

/// The account of what a source captured, where it had buffers.
fn drop_buffers(holdings: &mut Holdings) -> Option<SourceFrames> {
    holdings.plugs.clear();
    if let Some(target) = locked(&holdings.target).take()
        && let Err(error) = target.discard()
    {
        tracing::warn!("its target's buffers: {}", chain(&error));
    }
    let account = locked(&holdings.source).as_mut()?.give_up();
    *locked(&holdings.source) = None;
    match account {
        Ok(frames) => Some(frames),
        Err(error) => {
            tracing::warn!("what was captured is not accounted for: {}", chain(&error));
            None
        }
    }
}
