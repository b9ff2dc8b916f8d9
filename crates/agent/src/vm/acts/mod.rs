//! The acts of a VM, each carried out where the VM's task holds what it needs. Every one ends: by
//! its own limits, those of QEMU and `netbuf`, or the backstop here.

mod closing;
mod process;
mod source_buffer;
mod stream;
mod target_buffer;

use tokio::time::{Duration, timeout};
use transhume_agent_core::{Act, Product, Trouble};
use transhume_protocol::message::FaultKind;

pub(super) use self::closing::begin_beside;
use super::holdings::Holdings;
use super::task::Outcome;
use crate::context::Context;
use crate::limits::{ACT_MAX, COPY_ACT_MAX};
use crate::throttle;

/// Does it. Given up in the middle, everything is still where it was.
pub(super) async fn carry_out(holdings: &mut Holdings, context: &Context, act: Act) -> Outcome {
    let (name, limit) = (act.name(), limit(&act));
    let vm = holdings.vm.clone();
    match timeout(limit, perform(holdings, context, act)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Trouble::failed(
            FaultKind::Internal,
            format!("{name} of VM {vm} took longer than {limit:?}"),
        )),
    }
}

fn limit(act: &Act) -> Duration {
    match act {
        Act::FinishCopy { .. } | Act::AwaitLoaded => COPY_ACT_MAX,
        _ => ACT_MAX,
    }
}

async fn perform(holdings: &mut Holdings, context: &Context, act: Act) -> Outcome {
    match act {
        Act::Admit { spec, powered_off } => process::admit(context, spec, powered_off).await,
        Act::Spawn { spec, purpose } => process::spawn(holdings, context, &spec, purpose).await,
        Act::Adopt {
            process,
            spec,
            epoch,
            buffers,
            incoming,
            surrendered,
        } => {
            // A killed agent lifts nothing.
            throttle::lift(process.pid);
            let adoption = process::Adoption {
                process,
                spec,
                epoch,
                buffers,
                incoming,
                surrendered,
            };
            adoption.carry_out(holdings, context).await
        }
        Act::End => process::end(holdings, context).await,
        Act::Cont => process::cont(holdings).await,
        Act::Stop => process::stop(holdings, context).await,
        Act::PowerDown => process::power_down(holdings).await,

        Act::OpenPageListener { spec, epoch } => stream::listen(holdings, context, &spec, epoch).await,
        Act::OpenPageStream { spec, epoch, target } => {
            stream::open(holdings, context, &spec, epoch, &target).await
        }
        Act::StartMigration => stream::start(holdings, context).await,
        Act::Look => stream::look(holdings, context).await,
        Act::CatchUp => stream::catch_up(holdings, context).await,
        Act::FinishCopy { mode } => stream::finish_copy(holdings, context, mode).await,
        Act::AwaitLoaded => stream::await_loaded(holdings).await,
        Act::CancelMigration => stream::cancel(holdings).await,

        Act::OpenSourceBuffer { spec, epoch } => source_buffer::open(holdings, context, &spec, epoch).await,
        Act::ConnectSourceBuffer { tunnels } => source_buffer::connect(holdings, &tunnels),
        Act::ProbeGuest => source_buffer::probe(holdings),
        Act::ShutSourceBuffer { as_is } => source_buffer::shut(holdings, as_is).await,
        Act::Capture => source_buffer::capture(holdings),
        Act::Surrender => source_buffer::surrender(holdings),
        Act::Reclaim { epoch } => source_buffer::reclaim(holdings, epoch),
        Act::ShutForAbort => source_buffer::shut_for_abort(holdings),
        Act::PutBack => source_buffer::put_back(holdings),

        Act::OpenTargetBuffer { spec, epoch } => target_buffer::open(holdings, context, &spec, epoch),
        Act::RunArrived { epoch } => target_buffer::run_arrived(holdings, epoch).await,
        Act::ActivateBuffer { epoch } => target_buffer::activate(holdings, epoch),
        Act::OpenPlug => target_buffer::open_plug(holdings),
        // Begun by `begin_beside`.
        Act::FinishSourceBuffer | Act::FinishTargetBuffer => Ok(Product::Done),
    }
}
