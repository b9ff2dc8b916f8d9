//! Work outside of any move: whole clusters are started or ended (`clusters`), single VMs are
//! started, stopped or forgotten (`vms`).
//!
//! Jobs decide what is asked of agents and what their answers mean. What comes of it is a list of
//! [`Effect`]s that the core carries out in their order, before any further order is issued.

mod clusters;
mod effect;
mod vms;

use transhume_model::{ClusterName, HostName, Millis, VmSpec};
use transhume_protocol::message::Report;

use self::clusters::ClusterJobs;
pub(crate) use self::clusters::{ClusterJob, ClusterWork};
pub(crate) use self::effect::Effect;
use self::vms::VmJobs;
pub(crate) use self::vms::{VmJob, VmWork};
use crate::error::Refused;
use crate::hosts::Hosts;

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
    /// news, and so is what another host says of it, or of another VM.
    pub(crate) fn answered(&mut self, now: Millis, host: &HostName, report: Report) -> Vec<Effect> {
        let (Some(order), Some(vm)) = (report.order, report.vm) else {
            return Vec::new();
        };
        if let Some(effects) = self.vms.answered(host, order, &vm, &report.outcome) {
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
    pub(crate) fn next_due(&self, now: Millis) -> Option<Millis> {
        [self.clusters.next_due(now), self.vms.next_due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Jobs that are done by now.
    pub(crate) fn conclude(&mut self, now: Millis, hosts: &Hosts) -> Vec<Effect> {
        self.clusters.conclude(now, |host| hosts.is_connected(host))
    }
}

/// What was ordered stays what it is, whatever the agent says that it started: only the machine
/// type is its to say, and only where the order left it open.
fn as_started(asked: &VmSpec, told: &VmSpec) -> VmSpec {
    let machine = asked.machine.clone().or_else(|| told.machine.clone());
    VmSpec {
        machine,
        ..asked.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_started_is_what_it_was_ordered_to() {
        let asked: VmSpec = serde_json::from_value(serde_json::json!({
            "name": "vm1", "cluster": "web", "vcpus": 1, "memory": 64,
            "nics": [{"mac": "52:54:00:00:00:01", "mtu": 1500}],
            "boot": {"kernel": "/k", "initrd": "/i", "cmdline": ""},
        }))
        .unwrap();
        let machine = transhume_model::MachineType("pc-q35-10.0".to_owned());
        let mut told = asked.clone();
        told.machine = Some(machine.clone());
        told.boot.kernel = "/etc/shadow".into();
        told.name = "vm2".parse().unwrap();
        let started = as_started(&asked, &told);
        assert_eq!(started.machine, Some(machine.clone()));
        assert_eq!(
            (started.name, started.boot),
            (asked.name.clone(), asked.boot.clone())
        );
        let other = transhume_model::MachineType("pc-q35-8.2".to_owned());
        let fixed = VmSpec {
            machine: Some(other.clone()),
            ..asked
        };
        assert_eq!(as_started(&fixed, &told).machine, Some(other));
    }
}
