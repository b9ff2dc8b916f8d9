//! The target's part of the ten steps: reserve, prepare, load, activate, close; or drop everything.

use tokio::sync::oneshot;
use tokio::time::timeout;
use transhume_model::{Epoch, MigrationId, VmSpec};
use transhume_pages::stream::StreamDigest;
use transhume_protocol::message::{ActivationTimes, Fault, FaultKind, Outcome, TargetFrames, VmRole};
use transhume_qemu::{CommitPermit, QemuError, RunState, Running};

use super::{Arrival, Life, Task, Trouble, failed};
use crate::agent::wall;
use crate::limits::STOP_AND_COPY_MAX;
use crate::nics::{Taps, TapsFor, TargetBuffers};
use crate::page_stream;

impl Task {
    /// Step 1: everything is checked and room is set aside. A refusal leaves nothing behind.
    pub(super) async fn reserve(&mut self, migration: MigrationId, spec: VmSpec) -> Result<Outcome, Trouble> {
        if let Err(trouble) = self.admit(&spec).await {
            self.vanish();
            return Err(trouble);
        }
        self.record.spec = spec;
        self.record.migration = Some(migration);
        self.enter(VmRole::Expected)?;
        Ok(Outcome::Reserved)
    }

    /// Step 1: taps with shut plugs, QEMU paused behind them, an end for the page stream. Nothing speaks on the wire.
    pub(super) async fn prepare(&mut self) -> Result<Outcome, Trouble> {
        let launcher = self.launcher()?;
        let spec = &self.record.spec;
        let taps = Taps::create(&self.shared.config, spec, TapsFor::Target)
            .map_err(|error| failed(FaultKind::Network, error))?;
        self.record.taps = taps.names();
        self.remember()?;
        let spec = &self.record.spec;
        let qemu = launcher
            .receive(spec, &self.paths(), &taps.fds())
            .await
            .map_err(|error| failed(FaultKind::Qemu, error))?;
        self.record.process = Some(qemu.vm().process().clone());
        self.record.role = VmRole::Target;
        let started = page_stream::start_target(
            self.shared.config.listen.vmct,
            spec,
            self.record.epoch,
            self.paths().incoming(),
            &self.shared.pages,
        )
        .await;
        self.life = Life::Target {
            qemu: Arrival::Waiting(qemu),
            taps,
            stream: None,
            whole: None,
            buffers: None,
        };
        self.remember()?;
        let listening = started.map_err(|error| failed(FaultKind::PageStream, error))?;
        self.watch_stream(listening.ended);
        if let Life::Target { stream, whole, .. } = &mut self.life {
            *stream = Some(listening.stream);
            *whole = Some(listening.whole);
        }
        Ok(Outcome::Prepared {
            page_stream: listening.address,
        })
    }

    /// Step 4.
    pub(super) async fn open_target_buffer(&mut self) -> Result<Outcome, Trouble> {
        // After commit asked again when an agent came back: the buffers have their addresses already.
        let Life::Target { taps, buffers, .. } = &mut self.life else {
            return Ok(Outcome::TargetBufferOpen {
                tunnels: self.record.tunnels.clone(),
            });
        };
        let opened = TargetBuffers::open(&self.shared.config, &self.record, taps, self.alarm.clone())
            .map_err(|error| failed(FaultKind::Network, error))?;
        let tunnels = opened.addresses();
        *buffers = Some(opened);
        self.record.tunnels = tunnels.clone();
        self.remember()?;
        Ok(Outcome::TargetBufferOpen { tunnels })
    }

    /// Step 6: the whole VM is here, paused.
    pub(super) async fn await_loaded(&mut self) -> Result<Outcome, Trouble> {
        let Self {
            life,
            orders,
            postponed,
            ..
        } = self;
        let Life::Target {
            qemu: arrival,
            stream,
            whole,
            ..
        } = life
        else {
            unreachable!("the table of orders lets only a target come here")
        };
        if let Some(stream) = stream {
            stream.hurry();
        }
        let vm = arrival.vm().clone();
        let waiting = match std::mem::replace(arrival, Arrival::Spoilt(vm)) {
            Arrival::Waiting(waiting) => waiting,
            loaded @ Arrival::Loaded(_) => {
                *arrival = loaded;
                return Ok(Outcome::Loaded { loaded_at: wall() });
            }
            Arrival::Spoilt(_) => {
                let reason = format!(
                    "VM {} cannot arrive any more: its loading was broken off",
                    self.name()
                );
                return Err(Trouble::Failed(Fault {
                    kind: FaultKind::Qemu,
                    reason,
                    hint: None,
                }));
            }
        };
        let whole = whole.take();
        let work = async {
            let loaded = waiting.loaded(STOP_AND_COPY_MAX).await?;
            Ok::<_, QemuError>((loaded, arrived_whole(whole).await))
        };
        let Some(done) = Self::unless_aborted(orders, postponed, work).await else {
            return Err(self.given_up());
        };
        let (loaded, whole) = done.map_err(|error| failed(FaultKind::Qemu, error))?;
        if !whole {
            *arrival = Arrival::Spoilt(loaded.vm().clone());
            let reason = format!("the memory of VM {} did not arrive as it was sent", self.name());
            return Err(Trouble::Failed(Fault {
                kind: FaultKind::PageStream,
                reason,
                hint: None,
            }));
        }
        *arrival = Arrival::Loaded(loaded);
        Ok(Outcome::Loaded { loaded_at: wall() })
    }

    /// Step 8. `Arrived` is remembered before QEMU is told to run: an agent that dies in between finds a paused VM that may run,
    /// and the coordinator's repeated order runs it.
    pub(super) async fn activate(&mut self, epoch: Epoch) -> Result<Outcome, Trouble> {
        let begun_at = wall();
        if let Some(times) = self.record.activated {
            return Ok(Outcome::Activated(times));
        }
        if matches!(&self.life, Life::Target { .. }) {
            self.resume(epoch).await?;
        }
        let Life::Arrived { qemu, buffers, .. } = &mut self.life else {
            return Err(self.wrong_state_of("Activate"));
        };
        if !matches!(qemu.vm().query_status().await, Ok(RunState::Running)) {
            qemu.cont()
                .await
                .map_err(|error| failed(FaultKind::Qemu, error))?;
        }
        let running_at = wall();
        let (injected_at, announced_at) = deliver(buffers.as_mut())?;
        let times = ActivationTimes {
            begun_at,
            running_at,
            injected_at,
            announced_at,
        };
        self.record.activated = Some(times);
        self.remember()?;
        Ok(Outcome::Activated(times))
    }

    /// From `Target` to `Arrived`: from here on the way is forward.
    async fn resume(&mut self, epoch: Epoch) -> Result<(), Trouble> {
        if !matches!(
            &self.life,
            Life::Target {
                qemu: Arrival::Loaded(_),
                ..
            }
        ) {
            let reason = format!("VM {} is not loaded, so it cannot be activated", self.name());
            return Err(Trouble::Failed(Fault {
                kind: FaultKind::Internal,
                reason,
                hint: None,
            }));
        }
        self.enter(VmRole::Arrived)?;
        let Life::Target {
            qemu: Arrival::Loaded(loaded),
            taps,
            buffers,
            ..
        } = std::mem::replace(&mut self.life, Life::Expected)
        else {
            unreachable!("checked above")
        };
        let process = loaded.vm().process().clone();
        let resumed = loaded.resume(CommitPermit::of_activate_order(epoch)).await;
        let (qemu, trouble) = match resumed {
            Ok(qemu) => (qemu, None),
            Err(error) => {
                // The repeated order tries again on the same process.
                let qemu = Running::adopt(self.name(), &process, &self.paths())
                    .await
                    .map_err(|error| failed(FaultKind::Qemu, error))?;
                (qemu, Some(failed(FaultKind::Qemu, error)))
            }
        };
        self.life = Life::Arrived { qemu, taps, buffers };
        trouble.map_or(Ok(()), Err)
    }

    /// Step 9: on FIN the plug opens. The answer comes then.
    pub(super) async fn close_target_buffer(&mut self) -> Result<Option<Outcome>, Trouble> {
        match &mut self.life {
            Life::Arrived { buffers, .. } => {
                if let Some(buffers) = buffers.take() {
                    buffers.finish(self.alarm.clone());
                }
                Ok(None)
            }
            // Closed before; asked again.
            _ => match self.record.closed {
                Some(frames) => Ok(Some(Outcome::TargetClosed(frames))),
                None => Err(self.wrong_state_of("CloseTargetBuffer")),
            },
        }
    }

    /// The plug is open: the VM lives here.
    pub(super) async fn target_closed(&mut self, frames: TargetFrames) {
        if let Life::Arrived { qemu, taps, .. } = std::mem::replace(&mut self.life, Life::Expected) {
            self.life = Life::Home { qemu, taps };
        }
        self.record.migration = None;
        self.record.closed = Some(frames);
        match self.enter(VmRole::Home) {
            Ok(()) => self.settle("CloseTargetBuffer", Outcome::TargetClosed(frames)),
            Err(Trouble::Failed(fault)) => self.tell(Outcome::Failed(fault)),
            Err(Trouble::Refused(refusal)) => self.tell(Outcome::Refused(refusal)),
        }
        self.publish().await;
    }

    /// Before commit: the copy is killed, the room given back.
    pub(super) async fn drop_target(&mut self) -> Result<Outcome, Trouble> {
        if let Some(vm) = self.life.vm() {
            vm.kill().await.map_err(|error| failed(FaultKind::Qemu, error))?;
        }
        self.vanish();
        Ok(Outcome::TargetDropped)
    }
}

/// The end marker of the page stream was checked: what QEMU loaded is what the source's QEMU wrote.
async fn arrived_whole(whole: Option<oneshot::Receiver<StreamDigest>>) -> bool {
    match whole {
        Some(whole) => matches!(timeout(STOP_AND_COPY_MAX, whole).await, Ok(Ok(_))),
        None => false,
    }
}

fn deliver(
    buffers: Option<&mut TargetBuffers>,
) -> Result<(transhume_model::WallMicros, transhume_model::WallMicros), Trouble> {
    match buffers {
        Some(buffers) => tokio::task::block_in_place(|| buffers.activate())
            .map_err(|error| failed(FaultKind::Network, error)),
        None => Ok((wall(), wall())),
    }
}
