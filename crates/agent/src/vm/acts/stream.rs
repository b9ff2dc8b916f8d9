//! Memory on its way: the page stream and QEMU's migration, on both sides (steps 1, 2 and 6).

use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use transhume_agent_core::{CopyStatus, Flow, Input, Looked, Product, Trouble};
use transhume_model::{Bytes, Endpoint, Epoch, Millis, VmSpec};
use transhume_pages::{Account, PageClass};
use transhume_protocol::message::{ClassPages, FaultKind, Mode, PageClasses, PageProgress, PlainBytes};
use transhume_qemu::{MigrationProgress, MigrationStatus, QemuError, Running};

use crate::clock::wall;
use crate::context::{Context, locked};
use crate::limits::{CATCH_UP, STOP_AND_COPY_MAX};
use crate::page_stream::{self, PageStream, SOURCE_SOCKET};
use crate::text::{failed, qemu_failed};
use crate::throttle::Throttle;
use crate::vm::holdings::{Copying, Holdings, Qemu};
use crate::vm::task::Outcome;
use crate::vm::watch::run_state;

/// Passes over memory that a stream which catches up makes: one for what was put off, one for what
/// was written meanwhile.
const CATCH_UP_PASSES: u64 = 2;

/// Step 1 at the target.
pub(super) async fn listen(
    holdings: &mut Holdings,
    context: &Context,
    spec: &VmSpec,
    epoch: Epoch,
) -> Outcome {
    let vmct = context.config.listen.vmct;
    let qemu = match &mut holdings.qemu {
        Some(Qemu::Waiting(waiting)) => waiting.take_stream(),
        _ => None,
    };
    let qemu = qemu.ok_or_else(|| holdings.lacks("a QEMU that waits for its memory"))?;
    let listening = page_stream::start_target(vmct, spec, epoch, qemu, &context.pages).await;
    let listening = listening.map_err(|error| failed(FaultKind::PageStream, error))?;
    watch_end(listening.ended, holdings.inputs.clone());
    *locked(&holdings.reach.stream) = Some(listening.stream);
    holdings.whole = Some(listening.whole);
    Ok(Product::Listening { at: listening.at })
}

/// Step 2 at the source: the target's agent is there; QEMU does not write yet.
pub(super) async fn open(
    holdings: &mut Holdings,
    context: &Context,
    spec: &VmSpec,
    epoch: Epoch,
    target: &Endpoint,
) -> Outcome {
    let dir = context.store.vm_dir(&spec.name);
    let pace = holdings.reach.pace.clone();
    pace.begin();
    let started = page_stream::start_source(&dir, spec, epoch, target, pace, &context.pages).await;
    let (stream, ended) = started.map_err(|error| failed(FaultKind::PageStream, error))?;
    watch_end(ended, holdings.inputs.clone());
    *locked(&holdings.reach.stream) = Some(stream);
    holdings.copying = Copying::default();
    holdings.meter.leaves();
    // Of the move that brought the VM here: nobody asks them any more.
    let arrived_by = std::mem::take(&mut holdings.target);
    // A closing that still has them ends them itself. Ending them waits until no processor sees
    // their packet sockets any more, 50 ms in all.
    if let Some(buffers) = arrived_by.try_lock().ok().and_then(|mut buffers| buffers.take()) {
        holdings.former = Some(spawn_blocking(|| drop(buffers)));
    }
    holdings.plugs.clear();
    Ok(Product::Done)
}

/// A page stream that ends before its time is told; one that is cut says nothing.
fn watch_end(ended: oneshot::Receiver<page_stream::Ended>, inputs: mpsc::Sender<Input>) {
    tokio::spawn(async move {
        if let Ok(Err(error)) = ended.await {
            let why = error.to_string();
            // The task may have ended meanwhile; then nobody needs to know.
            let _ = inputs.send(Input::PageStreamBroke { why }).await;
        }
    });
}

/// Step 2, live: QEMU writes from here on.
pub(super) async fn start(holdings: &mut Holdings, context: &Context) -> Outcome {
    begin(holdings, context).await?;
    Ok(Product::Done)
}

async fn begin(holdings: &mut Holdings, context: &Context) -> Result<(), Trouble> {
    if holdings.copying.begun.is_none() {
        let socket = context.store.vm_dir(&holdings.vm).join(SOURCE_SOCKET);
        let started = holdings.here()?.start_migration(&socket).await;
        started.map_err(qemu_failed)?;
        holdings.copying.begun = Some(Instant::now());
        let vm = holdings.here()?.vm().clone();
        holdings.copying.throttle = Some(Throttle::follow(vm, &holdings.reach.pace));
    }
    Ok(())
}

/// How far it is.
pub(super) async fn look(holdings: &Holdings, context: &Context) -> Outcome {
    let vm = holdings.here()?.vm();
    let (seen, run) = tokio::try_join!(vm.migration_progress(), vm.query_status()).map_err(qemu_failed)?;
    let lag_within_limit = {
        let stream = locked(&holdings.reach.stream);
        stream.as_ref().is_none_or(PageStream::lag_within_limit)
    };
    Ok(Product::Looked(Looked {
        status: status(&seen),
        run: run_state(&run),
        pages: progress(&seen, holdings),
        lag_within_limit,
        flow: Flow {
            bytes_per_s: incoming(holdings),
            bytes_max: context.config.buffer_bytes_max,
        },
    }))
}

/// Bytes a second that come for the guest; none where that cannot be seen.
fn incoming(holdings: &Holdings) -> u64 {
    let (mut meter, now) = (locked(&holdings.copying.flow), Instant::now());
    if meter.is_due(now)
        && let Ok(taps) = holdings.taps()
        && let Ok(given) = taps.given_bytes()
    {
        meter.saw(now, given);
    }
    meter.bytes_per_s()
}

fn status(seen: &MigrationProgress) -> CopyStatus {
    match seen.status {
        MigrationStatus::None | MigrationStatus::Setup => CopyStatus::Idle,
        MigrationStatus::Active
        | MigrationStatus::WaitUnplug
        | MigrationStatus::PostcopyActive
        | MigrationStatus::PostcopyPaused
        | MigrationStatus::PostcopyRecover
        | MigrationStatus::Colo => CopyStatus::Active,
        MigrationStatus::PreSwitchover => CopyStatus::PreSwitchover,
        MigrationStatus::Device | MigrationStatus::Completed => CopyStatus::Sent,
        MigrationStatus::Cancelling | MigrationStatus::Cancelled | MigrationStatus::Failed => {
            let why = seen.error.as_deref().unwrap_or(seen.status.name()).to_owned();
            CopyStatus::Lost { why }
        }
    }
}

/// Step 5: what a held stream has put off goes across; what it has not caught up with by then does
/// so after the stop.
pub(super) async fn catch_up(holdings: &mut Holdings, context: &Context) -> Outcome {
    context.together.prepares(&holdings.vm);
    if let Some(watch) = &mut holdings.watch {
        let _ = timeout(CATCH_UP, watch.more_passes(CATCH_UP_PASSES)).await;
    }
    Ok(Product::Done)
}

/// Step 6 at the source. The stopped guest's rest goes across.
pub(super) async fn finish_copy(holdings: &mut Holdings, context: &Context, mode: Mode) -> Outcome {
    if mode == Mode::Offline {
        begin(holdings, context).await?;
    }
    let finished = send_rest(holdings.here()?).await;
    let (pre_switchover_at, seen) = finished.map_err(qemu_failed)?;
    Ok(Product::Copied {
        pages: progress(&seen, holdings),
        pre_switchover_at,
    })
}

async fn send_rest(qemu: &Running) -> Result<(transhume_model::WallMicros, MigrationProgress), QemuError> {
    let seen = qemu.await_pre_switchover(STOP_AND_COPY_MAX).await?;
    let pre_switchover_at = wall();
    if seen.status == MigrationStatus::PreSwitchover {
        qemu.continue_migration().await?;
    }
    let seen = qemu.await_completed(STOP_AND_COPY_MAX).await?;
    Ok((pre_switchover_at, seen))
}

/// Step 6 at the target: the whole VM is there, and it is what the source's QEMU wrote.
pub(super) async fn await_loaded(holdings: &mut Holdings) -> Outcome {
    let arrived = match &holdings.qemu {
        Some(Qemu::Waiting(waiting)) => waiting.arrived(STOP_AND_COPY_MAX).await.map_err(qemu_failed)?,
        Some(Qemu::Loaded(loaded)) => {
            let run = run_state(&loaded.vm().query_status().await.map_err(qemu_failed)?);
            return Ok(Product::Loaded { run });
        }
        _ => return Err(holdings.lacks("a QEMU that waits for its memory")),
    };
    let whole = match &mut holdings.whole {
        Some(whole) => matches!(timeout(STOP_AND_COPY_MAX, whole).await, Ok(Ok(_))),
        None => false,
    };
    holdings.whole = None;
    if !whole {
        let reason = format!("the memory of VM {} did not arrive as it was sent", holdings.vm);
        return Err(Trouble::failed(FaultKind::PageStream, reason));
    }
    let run = run_state(arrived.run_state());
    holdings.qemu = match holdings.qemu.take() {
        Some(Qemu::Waiting(waiting)) => Some(Qemu::Loaded(waiting.loaded(arrived))),
        other => other,
    };
    Ok(Product::Loaded { run })
}

/// The way back: whatever state the migration is in, it is over.
pub(super) async fn cancel(holdings: &mut Holdings) -> Outcome {
    drop(locked(&holdings.reach.stream).take());
    let product = match &holdings.qemu {
        Some(_) => {
            let qemu = holdings.here()?;
            qemu.cancel_migration().await.map_err(qemu_failed)?;
            let run = qemu.vm().query_status().await.map_err(qemu_failed)?;
            Product::Cancelled { run: run_state(&run) }
        }
        None => Product::Done,
    };
    holdings.copying = Copying::default();
    holdings.meter.stays();
    Ok(product)
}

/// QEMU's figures, ours for the wire, and the predicted blackout: what a stop would leave, at the
/// rate measured last.
fn progress(seen: &MigrationProgress, holdings: &Holdings) -> PageProgress {
    let account = {
        let stream = locked(&holdings.reach.stream);
        stream.as_ref().map(PageStream::account).unwrap_or_default()
    };
    let pages = PageProgress {
        total: seen.total,
        transferred: seen.transferred,
        remaining: seen.remaining,
        wire: Bytes(account.wire_bytes),
        classes: classes(&account),
        plain: PlainBytes {
            fast_link: Bytes(account.plain_fast_link_bytes),
            not_understood: Bytes(account.plain_not_understood_bytes),
            way_changes: account.way_changes,
        },
        rounds: seen.dirty_sync_count,
        dirty_per_second: seen.dirty_bytes_per_second,
        blackout: predicted(seen, &holdings.copying),
    };
    holdings.meter.pages(pages);
    pages
}

fn predicted(seen: &MigrationProgress, copying: &Copying) -> Millis {
    let left = locked(&copying.passes).left(seen);
    if left.0 == 0 {
        return Millis(0);
    }
    // QEMU measures its rate every 100 ms; before that what has gone so far says it.
    let bytes_per_ms = match (seen.mbps, copying.begun) {
        (0.0, None) => 0.0,
        (0.0, Some(begun)) => seen.transferred.0 as f64 / (begun.elapsed().as_secs_f64() * 1e3),
        (mbps, _) => mbps * 1e6 / 8.0 / 1e3,
    };
    match bytes_per_ms > 0.0 {
        true => Millis((left.0 as f64 / bytes_per_ms).ceil() as u64),
        false => Millis(u64::from(u32::MAX)),
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
        lzo: of(PageClass::Lzo),
    }
}
