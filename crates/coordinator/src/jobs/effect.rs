//! What jobs want done, and what an agent's answer says where it is not the one wanted.

use transhume_api::ClusterView;
use transhume_model::{ClusterName, Epoch, HostName, VmName, VmSpec};
use transhume_protocol::message::Outcome;

use crate::error::Refused;
use crate::journal::ClusterRecord;
use crate::requests::Reply;

/// What a job wants done, in this order.
#[derive(Debug)]
pub(crate) enum Effect {
    /// The record becomes durable, in place of what was kept.
    Keep(ClusterRecord),
    /// The cluster is forgotten; whoever asked is shown what it was.
    Forget {
        cluster: ClusterName,
        reply: Option<Reply<ClusterView>>,
    },
    /// A VM runs as its agent says.
    VmStarted {
        cluster: ClusterName,
        host: HostName,
        spec: VmSpec,
        epoch: Epoch,
    },
    /// A VM is powered off.
    VmStopped { host: HostName, vm: VmName },
    /// A VM is gone from its host.
    VmGone { host: HostName, vm: VmName },
    /// A VM is no part of its cluster any more; whoever asked is shown the rest.
    VmForgotten {
        cluster: ClusterName,
        vm: VmName,
        reply: Reply<ClusterView>,
    },
    /// Whoever asked is shown the cluster.
    Show {
        cluster: ClusterName,
        reply: Reply<ClusterView>,
    },
    /// Whoever asked is refused.
    Refuse {
        refused: Refused,
        reply: Reply<ClusterView>,
    },
}

/// What an answer says that is not the one wanted.
pub(super) fn at_fault(host: &HostName, vm: &VmName, outcome: &Outcome) -> Refused {
    match outcome {
        Outcome::Refused(refusal) => {
            Refused::conflict("refused-by-agent", refusal.reason.clone(), refusal.hint.clone())
        }
        Outcome::Failed(fault) => Refused::conflict(
            "failed-at-agent",
            format!("VM {vm} on host {host}: {}", fault.reason),
            fault
                .hint
                .clone()
                .unwrap_or_else(|| format!("the log of the agent of host {host} says more")),
        ),
        other => Refused::conflict(
            "failed-at-agent",
            format!("VM {vm}: host {host} answered `{}`", other.name()),
            "are agent and coordinator of one release?",
        ),
    }
}
