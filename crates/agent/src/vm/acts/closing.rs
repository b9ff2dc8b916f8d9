//! Step 9: closing the buffers takes as long as marker and peer do, so it goes on beside the VM's
//! other acts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use transhume_agent_core::{Act, Input, Product, Ticket};
use transhume_netbuf::Error;
use transhume_protocol::message::{SourceFrames, TargetFrames};

use crate::context::locked;
use crate::limits::{CLOSED_BUFFER_KEPT, FINISH_ACT_MAX, FINISH_LOOK};
use crate::nics::{SourceBuffers, TargetBuffers};
use crate::text::{chain, network_failed};
use crate::vm::holdings::{Holdings, Slot};
use crate::vm::task::Outcome;

/// Begins one; its end comes in by the task's queue.
pub(in crate::vm) fn begin_beside(holdings: &Holdings, ticket: Ticket, act: &Act) {
    let inputs = holdings.inputs.clone();
    let reach = holdings.reach.clone();
    let given_up = move || reach.is_given_up(ticket);
    match act {
        Act::FinishSourceBuffer => {
            let (slot, vm) = (holdings.source.clone(), holdings.vm.clone());
            answer_when_done(inputs, ticket, move || {
                finish_source(&slot, given_up).map_or_else(
                    || Err(lacks(&vm, "its source's buffers")),
                    |closed| closed.map(Product::SourceFrames).map_err(network_failed),
                )
            });
        }
        _ => {
            let (slot, vm) = (holdings.target.clone(), holdings.vm.clone());
            answer_when_done(inputs, ticket, move || {
                finish_target(&slot, given_up).map_or_else(
                    || Err(lacks(&vm, "its target's buffers")),
                    |closed| closed.map(Product::TargetFrames).map_err(network_failed),
                )
            });
        }
    }
}

fn lacks(vm: &transhume_model::VmName, what: &str) -> transhume_agent_core::Trouble {
    let reason = format!("VM {vm} has not {what} any more");
    transhume_agent_core::Trouble::failed(transhume_protocol::message::FaultKind::Internal, reason)
}

fn answer_when_done(
    inputs: mpsc::Sender<Input>,
    ticket: Ticket,
    work: impl FnOnce() -> Outcome + Send + 'static,
) {
    spawn_blocking(move || {
        let result = work();
        // The task ends only when the VM is gone; then nobody waits for this.
        let _ = inputs.blocking_send(Input::Done { ticket, result });
    });
}

fn finish_source(
    slot: &Slot<SourceBuffers>,
    given_up: impl Fn() -> bool,
) -> Option<Result<SourceFrames, Error>> {
    let mut buffers = locked(slot);
    Some(until_closed(buffers.as_mut()?, SourceBuffers::finish, given_up))
}

/// A closed target goes on answering a source that missed it.
fn finish_target(
    slot: &Slot<TargetBuffers>,
    given_up: impl Fn() -> bool,
) -> Option<Result<TargetFrames, Error>> {
    let closed = {
        let mut buffers = locked(slot);
        until_closed(buffers.as_mut()?, TargetBuffers::finish, given_up)
    };
    if closed.is_ok() {
        keep_for_a_while(slot);
    }
    Some(closed)
}

/// Closed buffers answer a source that missed it, and go then.
pub(super) fn keep_for_a_while(slot: &Slot<TargetBuffers>) {
    // Whoever opens new buffers has a slot of their own.
    let kept = Arc::downgrade(slot);
    tokio::spawn(async move {
        tokio::time::sleep(CLOSED_BUFFER_KEPT).await;
        let Some(closed) = kept.upgrade().and_then(|slot| locked(&slot).take()) else {
            return;
        };
        // Ending them waits for the kernel: 50 ms, in which others' acts are not to stand still.
        spawn_blocking(|| {
            if let Err(error) = closed.discard() {
                tracing::warn!("its target's buffers: {}", chain(&error));
            }
        });
    });
}

/// Asks again until it is closed, or nobody waits for that any more.
fn until_closed<B, A>(
    buffers: &mut B,
    finish: impl Fn(&mut B, Duration) -> Result<A, Error>,
    given_up: impl Fn() -> bool,
) -> Result<A, Error> {
    let begun = Instant::now();
    loop {
        match finish(buffers, FINISH_LOOK) {
            Err(Error::StillClosing { .. }) if begun.elapsed() < FINISH_ACT_MAX && !given_up() => {}
            closed => return closed,
        }
    }
}
