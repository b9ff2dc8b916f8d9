//! Orders about a VM of which nothing is here.

use transhume_model::HostName;
use transhume_protocol::message::{Order, OrderKind, Outcome, RefusalKind};

use crate::trouble::Trouble;

/// The answer to an order about a VM of which nothing is here; `None` for those two that begin
/// something. Ask only where nothing carries the VM's mark either: what is stranded is not absent.
pub fn absent(host: &HostName, order: &Order) -> Option<Outcome> {
    let kind = order.command.kind();
    match kind {
        OrderKind::StartVm
        | OrderKind::Reserve
        | OrderKind::Inspect
        | OrderKind::Pace
        | OrderKind::HearLink
        | OrderKind::TryLink => None,
        OrderKind::DestroyVm => Some(Outcome::Destroyed),
        OrderKind::Discard => Some(Outcome::Discarded { frames: None }),
        OrderKind::AbortTarget => Some(Outcome::TargetDropped),
        OrderKind::StopVm
        | OrderKind::Prepare
        | OrderKind::PreCopy
        | OrderKind::OpenSourceBuffer
        | OrderKind::OpenTargetBuffer
        | OrderKind::ConnectBuffers
        | OrderKind::Capture
        | OrderKind::StopAndCopy
        | OrderKind::AwaitLoaded
        | OrderKind::Activate
        | OrderKind::Commit
        | OrderKind::CloseSourceBuffer
        | OrderKind::CloseTargetBuffer
        | OrderKind::OpenPlug
        | OrderKind::Reclaim
        | OrderKind::AbortSource => {
            let vm = order.command.vm().map_or("", |vm| vm.as_str());
            let trouble = Trouble::refused(
                RefusalKind::UnknownVm,
                format!("host {host} has no VM {vm}, so {kind} cannot be done"),
                "`transhume cluster show` says where each VM runs",
            );
            Some(trouble.into())
        }
    }
}
