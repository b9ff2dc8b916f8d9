//! The source's buffers (steps 3 to 5 and 8), and the way back.

use transhume_agent_core::{Product, Trouble};
use transhume_model::{Endpoint, Epoch, VmSpec};
use transhume_protocol::message::FaultKind;
use transhume_qemu::{ReclaimPermit, RunState};

use super::process::slot;
use crate::context::{Context, locked};
use crate::nics::{Ends, SourceBuffers, TakenAs};
use crate::text::{failed, network_failed, qemu_failed};
use crate::vm::holdings::{Holdings, Qemu};
use crate::vm::task::Outcome;

/// Step 3. Open ones stay: nothing is in them yet. Closed ones are of a move whose VM went back.
pub(super) async fn open(holdings: &mut Holdings, context: &Context, spec: &VmSpec, epoch: Epoch) -> Outcome {
    if let Some(former) = &mut holdings.former {
        // Its end is all that matters: it has the same taps.
        let _ = former.await;
        holdings.former = None;
    }
    let of_before = locked(&holdings.source).as_ref().map(SourceBuffers::are_closed);
    if of_before.unwrap_or(true) {
        let ends = Ends {
            config: &context.config,
            security: &context.pages.secured.security,
            spec,
            epoch,
            inputs: &holdings.inputs,
        };
        let taps = holdings.taps()?;
        let opened = tokio::task::block_in_place(|| SourceBuffers::open(&ends, taps));
        let opened = opened.map_err(network_failed)?;
        holdings.meter.source(opened.meters());
        holdings.source = slot(opened);
    }
    Ok(Product::Done)
}

/// Step 4.
pub(super) fn connect(holdings: &Holdings, tunnels: &[Endpoint]) -> Outcome {
    holdings.with_source(|buffers| {
        let connected = buffers.connect(tunnels);
        connected.map_err(|error| failed(FaultKind::Tunnel, error))
    })?;
    Ok(Product::Done)
}

/// Whether the guest takes frames.
pub(super) fn probe(holdings: &Holdings) -> Outcome {
    let takes = holdings.with_source(|buffers| buffers.probe().map_err(network_failed))?;
    Ok(Product::Takes(takes))
}

/// Step 5, first half.
pub(super) async fn shut(holdings: &Holdings, as_is: bool) -> Outcome {
    let taken = match as_is {
        false => TakenAs::Healthy,
        true => taken_as(holdings).await?,
    };
    let (shut_at, empty_at) = holdings.with_source(|buffers| buffers.shut(taken).map_err(network_failed))?;
    Ok(Product::Shut { shut_at, empty_at })
}

/// One that is stopped holds other frames than one that runs and takes none.
async fn taken_as(holdings: &Holdings) -> Result<TakenAs, Trouble> {
    let run = holdings.here()?.vm().query_status().await.map_err(qemu_failed)?;
    Ok(match run {
        RunState::Running | RunState::Suspended => TakenAs::Deaf,
        _ => TakenAs::Stopped,
    })
}

/// Step 5, second half.
pub(super) fn capture(holdings: &Holdings) -> Outcome {
    holdings.with_source(|buffers| buffers.capture().map_err(network_failed))?;
    Ok(Product::Done)
}

/// Step 8: recorded before; now the types forbid it here too.
pub(super) fn surrender(holdings: &mut Holdings) -> Outcome {
    holdings.qemu = match holdings.qemu.take() {
        Some(Qemu::Here(running)) => Some(Qemu::Surrendered(running.surrender())),
        other => other,
    };
    // Where they are being closed already, they know.
    if let Ok(mut buffers) = holdings.source.try_lock()
        && let Some(buffers) = buffers.as_mut()
    {
        buffers.committed();
    }
    Ok(Product::Done)
}

/// After commit, its target being lost: the order to reclaim is the permit. Closed buffers have
/// nothing to announce with; the guest's own frames do that.
pub(super) fn reclaim(holdings: &mut Holdings, epoch: Epoch) -> Outcome {
    holdings.qemu = match holdings.qemu.take() {
        Some(Qemu::Surrendered(left)) => {
            Some(Qemu::Here(left.reclaim(ReclaimPermit::of_reclaim_order(epoch))))
        }
        None => return Ok(Product::Gone),
        other => other,
    };
    if let Some(buffers) = locked(&holdings.source).as_mut() {
        tokio::task::block_in_place(|| buffers.reclaim()).map_err(network_failed)?;
    }
    Ok(Product::Done)
}

/// Abort, first half.
pub(super) fn shut_for_abort(holdings: &Holdings) -> Outcome {
    holdings.with_source(|buffers| buffers.shut_for_abort().map_err(network_failed))?;
    Ok(Product::Done)
}

/// Abort, second half. The buffers go when every frame is accounted for, not before.
pub(super) fn put_back(holdings: &Holdings) -> Outcome {
    let frames = holdings.with_source(|buffers| buffers.put_back().map_err(network_failed))?;
    *locked(&holdings.source) = None;
    Ok(Product::SourceFrames(frames))
}
