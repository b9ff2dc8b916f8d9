//! The target's buffers, and the instant from which its guest runs (steps 4 and 8).

use tokio::task::block_in_place;
use transhume_agent_core::Product;
use transhume_model::{Epoch, VmSpec};
use transhume_netbuf::PlugOpener;
use transhume_qemu::{CommitPermit, RunState};

use super::process::slot;
use crate::clock::wall;
use crate::context::{Context, locked};
use crate::nics::{Ends, TargetBuffers};
use crate::text::{network_failed, qemu_failed};
use crate::vm::holdings::{Holdings, Qemu};
use crate::vm::task::Outcome;

/// Step 4. Open ones stay, with their addresses.
pub(super) fn open(holdings: &mut Holdings, context: &Context, spec: &VmSpec, epoch: Epoch) -> Outcome {
    if let Some(buffers) = locked(&holdings.target).as_ref() {
        return Ok(Product::Tunnels(buffers.endpoints()));
    }
    let ends = Ends {
        config: &context.config,
        security: &context.pages.secured.security,
        spec,
        epoch,
        inputs: &holdings.inputs,
    };
    let taps = holdings.taps()?;
    let opened = block_in_place(|| TargetBuffers::open(&ends, taps)).map_err(network_failed)?;
    let tunnels = opened.endpoints();
    holdings.meter.target(opened.meters());
    holdings.plugs = opened.openers();
    holdings.target = slot(opened);
    Ok(Product::Tunnels(tunnels))
}

/// Step 8: the order to activate is the permit. Where QEMU does not obey, it is as it was and may
/// be told again.
pub(super) async fn run_arrived(holdings: &mut Holdings, epoch: Epoch) -> Outcome {
    match holdings.qemu.take() {
        Some(Qemu::Loaded(loaded)) => {
            let resumed = loaded.resume(CommitPermit::of_activate_order(epoch)).await;
            let (qemu, result) = match resumed {
                Ok(running) => (Qemu::Here(running), Ok(Product::Done)),
                Err((loaded, error)) => (Qemu::Loaded(loaded), Err(qemu_failed(error))),
            };
            holdings.qemu = Some(qemu);
            result
        }
        other => {
            holdings.qemu = other;
            let qemu = holdings.here()?;
            if !matches!(qemu.vm().query_status().await, Ok(RunState::Running)) {
                qemu.cont().await.map_err(qemu_failed)?;
            }
            Ok(Product::Done)
        }
    }
}

/// Step 9 without its source. The buffers close then by themselves.
pub(super) fn open_plug(holdings: &Holdings) -> Outcome {
    holdings.plugs.iter().for_each(PlugOpener::open);
    Ok(Product::Done)
}

/// Step 8, second half.
pub(super) fn activate(holdings: &mut Holdings, epoch: Epoch) -> Outcome {
    holdings.qemu = match holdings.qemu.take() {
        Some(Qemu::Loaded(loaded)) => {
            let permit = CommitPermit::of_activate_order(epoch);
            Some(Qemu::Here(loaded.keep_stopped(permit)))
        }
        other => other,
    };
    let activated = match locked(&holdings.target).as_mut() {
        Some(buffers) => block_in_place(|| buffers.activate()).map_err(network_failed)?,
        None => (wall(), wall()),
    };
    let (injected_at, announced_at) = activated;
    Ok(Product::Announced {
        injected_at,
        announced_at,
    })
}
