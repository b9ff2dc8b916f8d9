//! Work outside of any move: whole clusters are started or ended (`clusters`), single VMs are
//! started, stopped or forgotten (`vms`).
//!
//! Jobs decide what is asked of agents and what their answers mean. What comes of it is a list of
//! [`Effect`]s that the core carries out in their order, before any further order is issued.

mod clusters;
mod vms;

use transhume_api::ClusterView;
use transhume_model::{ClusterName, Epoch, HostName, Millis, VmName, VmSpec};
use transhume_protocol::message::{Outcome, Report};

use self::clusters::ClusterJobs;
pub(crate) use self::clusters::{ClusterJob, ClusterWork};
use self::vms::VmJobs;
pub(crate) use self::vms::{VmJob, VmWork};
use crate::error::Refused;
use crate::hosts::Hosts;
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

/// All work under way.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    clusters: ClusterJobs,
    vms: VmJobs,
}

impl Jobs {
    /// Begins work on a cluster whose record, with its stage, is durable.
    pub(crate) fn begin_cluster(&mut self, job: ClusterJob, now: Millis) {
        self.clusters.begin(job, now);
    }

    /// Begins work on a VM whose host is connected.
    pub(crate) fn begin_vm(&mut self, job: VmJob, now: Millis, hosts: &mut Hosts) {
        self.vms.begin(job, now, hosts);
    }

    /// Refused while a VM of the cluster is being worked on.
    pub(crate) fn check_idle(&self, cluster: &ClusterName) -> Result<(), Refused> {
        self.vms.check_idle(cluster)
    }

    /// Orders for everything that waits and whose host is there.
    pub(crate) fn issue(&mut self, now: Millis, hosts: &mut Hosts) {
        self.clusters.issue(now, hosts);
    }

    /// An answer to an order outside of any move. Answers that nobody waits for any more are old
    /// news.
    pub(crate) fn answered(&mut self, now: Millis, host: &HostName, report: Report) -> Vec<Effect> {
        let (Some(order), Some(vm)) = (report.order, report.vm) else {
            return Vec::new();
        };
        if let Some(effects) = self.vms.answered(order, &report.outcome) {
            return effects;
        }
        self.clusters.answered(now, host, order, &vm, report.outcome)
    }

    /// A host went away: what was asked of it is not answered any more.
    pub(crate) fn host_lost(&mut self, host: &HostName) -> Vec<Effect> {
        self.clusters.host_lost(host);
        self.vms.host_lost(host)
    }

    /// Jobs whose time is over.
    pub(crate) fn due(&mut self, now: Millis) -> Vec<Effect> {
        let mut effects = self.clusters.due(now);
        effects.extend(self.vms.due(now));
        effects
    }

    /// When [`Jobs::due`] or [`Jobs::issue`] has something to do next.
    pub(crate) fn next_due(&self) -> Option<Millis> {
        [self.clusters.next_due(), self.vms.next_due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Jobs that are done by now.
    pub(crate) fn conclude(&mut self, now: Millis, hosts: &Hosts) -> Vec<Effect> {
        self.clusters.conclude(now, |host| hosts.is_connected(host))
    }
}

/// What an answer that is not the one hoped for says.
fn at_fault(host: &HostName, vm: &VmName, outcome: &Outcome) -> Refused {
    match outcome {
        Outcome::Refused(refusal) => {
            Refused::conflict("refused-by-agent", refusal.reason.clone(), refusal.hint.clone())
        }
        Outcome::Failed(fault) => Refused::conflict(
            "failed-at-agent",
            format!("VM {vm} on host {host}: {}", fault.reason),
            format!("the log of the agent of host {host} says more"),
        ),
        other => Refused::conflict(
            "failed-at-agent",
            format!("VM {vm}: host {host} answered `{}`", other.name()),
            "are agent and coordinator of one release?",
        ),
    }
}
