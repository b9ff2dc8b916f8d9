//! The source's part of the ten steps: pre-copy, capture, stop-and-copy, and the way back or out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use transhume_model::{Bytes, MigrationId, Millis, OrderId};
use transhume_pages::{Account, PageClass};
use transhume_protocol::message::{
    CaptureTimes, ClassPages, CopyTimes, Fault, FaultKind, GuestState, Mode, Outcome, PageClasses,
    PageProgress, VmRole,
};
use transhume_qemu::MigrationStatus;

use super::passes::{Passes, ROUNDS_MIN};
use super::{Life, Task, Trouble, failed};
use crate::agent::wall;
use crate::limits::{CATCH_UP, CLOSE_LOOK, CLOSE_MAX, STOP_AND_COPY_MAX};
use crate::nics::SourceBuffers;
use crate::pace::Pace;
use crate::page_stream::{self, PageStream};

/// Passes over memory that a stream which catches up makes: one for what was put off, one for what was written meanwhile.
const CATCH_UP_PASSES: u64 = 2;

/// What a source owns while it is copied away.
#[derive(Debug)]
pub(crate) struct Leaving {
    /// The order that progress and convergence answer.
    order: OrderId,
    mode: Mode,
    blackout_max: Millis,
    stream: Option<PageStream>,
    pace: Arc<Pace>,
    /// While its QEMU copies.
    passes: Option<Passes>,
    /// When pre-copy began.
    begun: Instant,
    /// When the predicted blackout first fitted.
    fits_since: Option<Instant>,
    buffers: Option<SourceBuffers>,
    converged: bool,
    stopped: bool,
}

impl Leaving {
    /// A source that an earlier agent left behind: its stream is broken, it can only be restored or committed.
    pub(crate) fn adopted(buffers: Option<SourceBuffers>, stopped: bool) -> Self {
        Self {
            order: OrderId(0),
            mode: Mode::Live,
            blackout_max: Millis(0),
            stream: None,
            pace: Arc::default(),
            passes: None,
            begun: Instant::now(),
            fits_since: None,
            buffers,
            converged: true,
            stopped,
        }
    }
}

impl Leaving {
    /// Whether the target's agent is close behind, or was given the time to come close.
    fn comes_close(&mut self) -> bool {
        let since = self.fits_since.get_or_insert_with(Instant::now);
        since.elapsed() >= CLOSE_MAX || self.stream.as_ref().is_none_or(PageStream::is_close)
    }
}

impl Task {
    /// Step 2. Live: QEMU copies while the guest runs. Offline: nothing is copied before the capture.
    pub(super) async fn pre_copy(
        &mut self,
        order: OrderId,
        migration: MigrationId,
        page_stream: SocketAddr,
        mode: Mode,
        blackout_max: Millis,
    ) -> Result<Outcome, Trouble> {
        self.answers.clear();
        self.record.activated = None;
        self.record.closed = None;
        // Held from the second pass on: before, a gap in what QEMU writes is no idleness.
        let pace = Arc::new(Pace::default());
        pace.release();
        let (stream, socket, ended) = page_stream::start_source(
            &self.dir(),
            &self.record.spec,
            self.record.epoch,
            page_stream,
            pace.clone(),
            &self.shared.pages,
        )
        .await
        .map_err(|error| failed(FaultKind::PageStream, error))?;
        self.watch_stream(ended);
        self.record.migration = Some(migration);
        self.enter(VmRole::Source)?;
        let Life::Home { qemu, taps } = std::mem::replace(&mut self.life, Life::Expected) else {
            unreachable!("the table of orders lets only a VM at home come here")
        };
        let leaving = Leaving {
            order,
            mode,
            blackout_max,
            stream: Some(stream),
            pace,
            passes: Some(Passes::watch(qemu.vm(), self.alarm.clone())),
            begun: Instant::now(),
            fits_since: None,
            buffers: None,
            converged: mode == Mode::Offline,
            stopped: false,
        };
        self.life = Life::Source {
            qemu,
            taps,
            leaving: Box::new(leaving),
        };
        if mode == Mode::Offline {
            // Nothing is copied before the capture: both answers at once.
            self.answer_pre_copy(Outcome::PreCopying);
            return Ok(Outcome::Converged(PageProgress::default()));
        }
        let (qemu, _) = self.leaving();
        qemu.start_migration(&socket)
            .await
            .map_err(|error| failed(FaultKind::Qemu, error))?;
        Ok(Outcome::PreCopying)
    }

    /// One of the several answers to the order to pre-copy.
    fn answer_pre_copy(&mut self, outcome: Outcome) {
        let order = self.leaving().1.order;
        self.shared
            .report(Some(order), self.record.epoch, Some(self.name().clone()), outcome);
    }

    fn leaving(&mut self) -> (&mut transhume_qemu::Running, &mut Leaving) {
        match &mut self.life {
            Life::Source { qemu, leaving, .. } => (qemu, leaving),
            _ => unreachable!("the table of orders lets only a source come here"),
        }
    }

    /// A page stream that ends before its time is a fault of the batch.
    pub(super) fn watch_stream(&self, ended: tokio::sync::oneshot::Receiver<page_stream::Ended>) {
        let (alarm, vm) = (self.alarm.clone(), self.name().clone());
        tokio::spawn(async move {
            if let Ok(Err(error)) = ended.await {
                let reason = format!("the page stream of VM {vm} broke: {error}");
                let fault = Fault {
                    kind: FaultKind::PageStream,
                    reason,
                    hint: None,
                };
                // The task may have ended meanwhile; then nobody needs to know.
                let _ = alarm.send(crate::nics::Alarm::Fault(fault)).await;
            }
        });
    }

    /// Whether memory is being copied while the guest runs.
    pub(super) fn copies(&self) -> bool {
        matches!(&self.life, Life::Source { leaving, .. }
            if leaving.mode == Mode::Live && !leaving.stopped && leaving.stream.is_some())
    }

    /// Reports how far pre-copy is; says once when the predicted blackout fits.
    pub(super) async fn look_at_progress(&mut self) {
        let (qemu, leaving) = self.leaving();
        let Ok(seen) = qemu.vm().migration_progress().await else {
            return;
        };
        let lost = match seen.status {
            status if status.is_lost() => Some(format!(
                "QEMU ended the migration: {}",
                seen.error.as_deref().unwrap_or(status.name())
            )),
            // The frames of a guest that nobody stopped are captured by nobody: it has to run again here.
            MigrationStatus::PreSwitchover => {
                Some("QEMU stopped the guest without waiting for the target's agreement".to_owned())
            }
            _ => None,
        };
        if let Some(reason) = lost {
            leaving.stream = None;
            return self.tell(Outcome::Failed(Fault {
                kind: FaultKind::Qemu,
                reason,
                hint: None,
            }));
        }
        let pages = progress(&seen, leaving);
        let copied_once = seen.dirty_sync_count >= ROUNDS_MIN;
        if copied_once {
            // From now on QEMU looks for dirty pages without a pause, and is read slowly while it finds none.
            leaving.pace.hold();
        }
        let fits =
            seen.status == MigrationStatus::Active && copied_once && pages.blackout <= leaving.blackout_max;
        if fits && !leaving.converged && !leaving.comes_close() {
            // What is under way would be waited for with the guest stopped.
            self.progress.reset_after(CLOSE_LOOK);
        } else if fits && !leaving.converged {
            leaving.converged = true;
            self.answer_pre_copy(Outcome::Converged(pages));
        } else if !leaving.converged {
            self.answer_pre_copy(Outcome::Progress(pages));
        }
    }

    /// Step 3.
    pub(super) async fn open_source_buffer(&mut self) -> Result<Outcome, Trouble> {
        let buffers = {
            let Life::Source { taps, .. } = &self.life else {
                unreachable!("the table of orders lets only a source come here")
            };
            SourceBuffers::open(&self.shared.config, &self.record, taps, self.alarm.clone())
                .map_err(|error| failed(FaultKind::Network, error))?
        };
        self.leaving().1.buffers = Some(buffers);
        Ok(Outcome::SourceBufferOpen)
    }

    fn buffers(&mut self) -> Result<&mut SourceBuffers, Trouble> {
        let vm = self.name().clone();
        self.leaving().1.buffers.as_mut().ok_or_else(|| {
            let reason = format!("VM {vm} has no open buffer on its source");
            Trouble::Failed(Fault {
                kind: FaultKind::Internal,
                reason,
                hint: None,
            })
        })
    }

    /// Step 4.
    pub(super) async fn connect_buffers(&mut self, tunnels: &[SocketAddr]) -> Result<Outcome, Trouble> {
        self.record.tunnels = tunnels.to_vec();
        self.remember()?;
        let buffers = self.buffers()?;
        tokio::task::block_in_place(|| buffers.connect(tunnels))
            .map_err(|error| failed(FaultKind::Tunnel, error))?;
        Ok(Outcome::BuffersConnected)
    }

    /// Step 5. The order within binds (design §3): plug shut, ring empty, only then stop; QEMU purges what it has read
    /// and the guest has not taken.
    pub(super) async fn capture(&mut self) -> Result<Outcome, Trouble> {
        let begun_at = wall();
        self.buffers()?;
        // What the held stream has put off goes across while the guest still runs. Held again, QEMU does not contend
        // with its own search for dirty pages while the guest empties its ring.
        let leaving = self.leaving().1;
        leaving.pace.release();
        if let Some(passes) = &mut leaving.passes {
            // What it has not caught up with by then goes across after the stop.
            let _ = tokio::time::timeout(CATCH_UP, passes.more(CATCH_UP_PASSES)).await;
        }
        leaving.pace.hold();
        self.record.capturing = true;
        self.remember()?;
        let network = |error| failed(FaultKind::Network, error);
        let buffers = self.buffers()?;
        let (shut_at, empty_at) = tokio::task::block_in_place(|| buffers.shut()).map_err(network)?;
        let (qemu, leaving) = self.leaving();
        leaving.stopped = true;
        let stopped = qemu.stop().await;
        leaving.pace.release();
        stopped.map_err(|error| failed(FaultKind::Qemu, error))?;
        let stopped_at = wall();
        self.buffers()?.capture().map_err(network)?;
        Ok(Outcome::Captured {
            guest: GuestState::Running,
            times: CaptureTimes {
                begun_at,
                shut_at,
                empty_at,
                stopped_at,
                capturing_at: wall(),
            },
        })
    }

    /// Step 6. The stopped guest's rest goes across.
    pub(super) async fn stop_and_copy(&mut self) -> Result<Outcome, Trouble> {
        let begun_at = wall();
        let socket = self.dir().join(page_stream::SOURCE_SOCKET);
        let Self {
            life,
            orders,
            postponed,
            ..
        } = self;
        let Life::Source { qemu, leaving, .. } = life else {
            unreachable!("the table of orders lets only a source come here")
        };
        let offline = leaving.mode == Mode::Offline;
        let work = async {
            if offline {
                qemu.start_migration(&socket).await?;
            }
            qemu.await_pre_switchover(STOP_AND_COPY_MAX).await?;
            let pre_switchover_at = wall();
            qemu.continue_migration().await?;
            let seen = qemu.await_completed(STOP_AND_COPY_MAX).await?;
            Ok::<_, transhume_qemu::QemuError>((pre_switchover_at, seen))
        };
        let Some(done) = Self::unless_aborted(orders, postponed, work).await else {
            return Err(self.given_up());
        };
        let (pre_switchover_at, seen) = done.map_err(|error| failed(FaultKind::Qemu, error))?;
        let pages = progress(&seen, leaving);
        Ok(Outcome::Copied {
            pages,
            times: CopyTimes {
                begun_at,
                pre_switchover_at,
                completed_at: wall(),
            },
        })
    }

    /// Step 8: remembered first, so that no later agent runs this copy; then the type system forbids it here too.
    pub(super) async fn commit(&mut self) -> Result<Outcome, Trouble> {
        if matches!(self.life, Life::Left { .. }) {
            return Ok(Outcome::CommitNoted);
        }
        self.enter(VmRole::Left)?;
        let Life::Source { qemu, leaving, .. } = std::mem::replace(&mut self.life, Life::Expected) else {
            unreachable!("the table of orders lets only a source come here")
        };
        let mut buffers = leaving.buffers;
        if let Some(buffers) = &mut buffers {
            buffers.committed();
        }
        self.life = Life::Left {
            qemu: qemu.surrender(),
            buffers,
        };
        Ok(Outcome::CommitNoted)
    }

    /// Step 9: marker, drain, FIN. The answer comes when the target has opened its plug.
    pub(super) async fn close_source_buffer(&mut self) -> Result<Option<Outcome>, Trouble> {
        let Life::Left { buffers, .. } = &mut self.life else {
            unreachable!("the table of orders lets only a VM that has left come here")
        };
        if let Some(buffers) = buffers.take() {
            buffers.finish(self.alarm.clone());
        }
        Ok(None)
    }

    /// Step 9: the copy that was left is destroyed.
    pub(super) async fn discard(&mut self) -> Result<Outcome, Trouble> {
        if let Some(vm) = self.life.vm() {
            vm.kill().await.map_err(|error| failed(FaultKind::Qemu, error))?;
        }
        self.vanish();
        Ok(Outcome::Discarded { frames: None })
    }

    /// Before commit: the VM runs here again, with its frames put back in order.
    pub(super) async fn restore(&mut self) -> Result<Outcome, Trouble> {
        let Life::Source { qemu, leaving, .. } = &mut self.life else {
            unreachable!("the table of orders lets only a source come here")
        };
        leaving.pace.release();
        leaving.stream = None;
        let mut buffers = leaving.buffers.take();
        let network = |error| failed(FaultKind::Network, error);
        if let Some(buffers) = &mut buffers {
            tokio::task::block_in_place(|| buffers.shut_for_abort()).map_err(network)?;
        }
        qemu.run_here()
            .await
            .map_err(|error| failed(FaultKind::Qemu, error))?;
        let frames = match buffers {
            Some(buffers) => buffers.put_back().await.map_err(network)?,
            None => Default::default(),
        };
        let Life::Source { qemu, taps, .. } = std::mem::replace(&mut self.life, Life::Expected) else {
            unreachable!("matched above")
        };
        self.life = Life::Home { qemu, taps };
        self.record.capturing = false;
        self.record.tunnels.clear();
        self.record.migration = None;
        self.enter(VmRole::Home)?;
        self.answers.clear();
        Ok(Outcome::SourceRestored(frames))
    }
}

/// QEMU's figures, ours for the wire, and the predicted blackout: what is left at the rate measured last.
fn progress(seen: &transhume_qemu::MigrationProgress, leaving: &Leaving) -> PageProgress {
    // QEMU measures its rate every 100 ms; before that what has gone so far says it.
    let bytes_per_ms = match seen.mbps {
        0.0 => seen.transferred.0 as f64 / (leaving.begun.elapsed().as_secs_f64() * 1e3),
        mbps => mbps * 1e6 / 8.0 / 1e3,
    };
    let blackout = if seen.remaining.0 == 0 {
        0.0
    } else if bytes_per_ms > 0.0 {
        seen.remaining.0 as f64 / bytes_per_ms
    } else {
        f64::from(u32::MAX)
    };
    let account = leaving
        .stream
        .as_ref()
        .map(PageStream::account)
        .unwrap_or_default();
    PageProgress {
        total: seen.total,
        transferred: seen.transferred,
        remaining: seen.remaining,
        wire: Bytes(account.wire_bytes),
        classes: classes(&account),
        rounds: seen.dirty_sync_count,
        dirty_per_second: seen.dirty_bytes_per_second,
        blackout: Millis(blackout.ceil() as u64),
    }
}

fn classes(account: &Account) -> PageClasses {
    let of = |class| {
        let count = account.class(class);
        ClassPages {
            pages: count.pages,
            bytes: Bytes(count.wire_bytes),
        }
    };
    PageClasses {
        zero: of(PageClass::Zero),
        fill: of(PageClass::Fill),
        known: of(PageClass::Known),
        delta: of(PageClass::Delta),
        wkdm: of(PageClass::Wkdm),
        lz4: of(PageClass::Lz4),
        zstd: of(PageClass::Zstd),
        raw: of(PageClass::Raw),
    }
}
