//! Clusters come and go: their VMs are started on the hosts they were placed on, all or none, and powered off.

use std::collections::BTreeMap;

use transhume_model::{ClusterSpec, HostName, OrderId, VmName};
use transhume_protocol::message::{Command, Order, Outcome, Report};

use crate::api::{ClusterView, VmLife, VmView};
use crate::core::{Core, CoreError, Reply};
use crate::error::Refused;

/// Something that waits for answers of several hosts.
pub(crate) struct Job {
    kind: Kind,
    cluster: ClusterSpec,
    waiting: BTreeMap<OrderId, (HostName, VmName)>,
    /// What went wrong first.
    refused: Option<Refused>,
    reply: Reply<ClusterView>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Create,
    Delete,
}

impl Core {
    /// Starts every VM of a new cluster. Kept in the journal first, so that a restarted coordinator knows whom to ask.
    pub(crate) fn create_cluster(
        &mut self,
        cluster: ClusterSpec,
        reply: Reply<ClusterView>,
    ) -> Result<(), CoreError> {
        if let Err(refused) = self.check_new(&cluster) {
            // Whoever asked has gone: fine.
            let _ = reply.send(Err(refused));
            return Ok(());
        }
        self.journal.put_cluster(&cluster)?;
        self.clusters.insert(cluster.name.clone(), cluster.clone());
        self.begin_job(Kind::Create, cluster, None, reply)
    }

    fn check_new(&self, cluster: &ClusterSpec) -> Result<(), Refused> {
        if self.clusters.contains_key(&cluster.name) {
            return Err(Refused::conflict(
                "cluster-exists",
                format!("there is a cluster named `{}` already", cluster.name),
                "choose another name, or delete that one first",
            ));
        }
        if cluster.vms.is_empty() {
            return Err(Refused::bad(
                "empty-cluster",
                format!("cluster {} has no VM", cluster.name),
                "give it at least one",
            ));
        }
        let mut seen: std::collections::BTreeSet<&VmName> = self
            .clusters
            .values()
            .flat_map(|other| &other.vms)
            .map(|vm| &vm.spec.name)
            .collect();
        for vm in &cluster.vms {
            let name = &vm.spec.name;
            if !seen.insert(name) {
                return Err(Refused::bad(
                    "vm-twice",
                    format!("there are two VMs named `{name}`"),
                    "VM names are unique across all clusters",
                ));
            }
            if vm.spec.nics.is_empty() {
                return Err(Refused::bad(
                    "no-nic",
                    format!("VM {name} has no network interface"),
                    "give it at least one",
                ));
            }
            self.host_named(vm.host.as_str())?;
            self.state(&vm.host)?;
        }
        Ok(())
    }

    /// Powers every VM of a cluster off and forgets it.
    pub(crate) fn delete_cluster(&mut self, name: &str, reply: Reply<ClusterView>) -> Result<(), CoreError> {
        let cluster = match self.cluster(name) {
            Ok(cluster) => cluster.clone(),
            Err(refused) => {
                let _ = reply.send(Err(refused));
                return Ok(());
            }
        };
        if let Some(id) = self.move_of(&cluster.name) {
            let refused = Refused::conflict(
                "move-under-way",
                format!("cluster {name} is being moved by migration {id}"),
                format!("wait for it with `transhume follow {id}`"),
            );
            let _ = reply.send(Err(refused));
            return Ok(());
        }
        self.begin_job(Kind::Delete, cluster, None, reply)
    }

    fn begin_job(
        &mut self,
        kind: Kind,
        cluster: ClusterSpec,
        refused: Option<Refused>,
        reply: Reply<ClusterView>,
    ) -> Result<(), CoreError> {
        let epoch = self.new_epoch()?;
        let mut job = Job {
            kind,
            cluster,
            waiting: BTreeMap::new(),
            refused,
            reply,
        };
        for vm in &job.cluster.vms {
            let command = match kind {
                Kind::Create => Command::StartVm {
                    spec: vm.spec.clone(),
                },
                Kind::Delete => Command::DestroyVm {
                    vm: vm.spec.name.clone(),
                },
            };
            let id = self.ids.next_id();
            if self.connected(&vm.host) {
                job.waiting.insert(id, (vm.host.clone(), vm.spec.name.clone()));
                self.send(&vm.host, Order { id, epoch, command });
            } else {
                job.refused.get_or_insert(Refused::unreachable(vm.host.as_str()));
            }
        }
        self.jobs.push(job);
        self.finish_jobs()
    }

    /// An answer to an order outside of any move.
    pub(crate) fn job_report(&mut self, host: &HostName, report: Report) -> Result<(), CoreError> {
        let Some(order) = report.order else { return Ok(()) };
        let Some(job) = self.jobs.iter_mut().find(|job| job.waiting.contains_key(&order)) else {
            return Ok(());
        };
        let Some((_, vm)) = job.waiting.remove(&order) else {
            return Ok(());
        };
        match report.outcome {
            Outcome::Started { spec } => {
                if let Some(placed) = job.cluster.vms.iter_mut().find(|placed| placed.spec.name == vm) {
                    placed.spec = spec;
                }
            }
            Outcome::Destroyed => {}
            Outcome::Refused(refusal) => {
                job.refused
                    .get_or_insert(Refused::bad("refused-by-agent", refusal.reason, refusal.hint));
            }
            Outcome::Failed(fault) => {
                let message = format!("VM {vm} on host {host}: {}", fault.reason);
                let hint = format!("the log of the agent of host {host} tells more");
                job.refused
                    .get_or_insert(Refused::bad("failed-at-agent", message, hint));
            }
            other => {
                let message = format!("VM {vm}: host {host} answered `{}`", other.name());
                job.refused.get_or_insert(Refused::bad(
                    "failed-at-agent",
                    message,
                    "are agent and coordinator of one release?",
                ));
            }
        }
        self.finish_jobs()
    }

    /// A host went away: what was asked of it is not answered any more.
    pub(crate) fn jobs_lose(&mut self, host: &HostName) -> Result<(), CoreError> {
        for job in &mut self.jobs {
            let before = job.waiting.len();
            job.waiting.retain(|_, (of, _)| of != host);
            if job.waiting.len() < before {
                job.refused.get_or_insert(Refused::unreachable(host.as_str()));
            }
        }
        self.finish_jobs()
    }

    fn finish_jobs(&mut self) -> Result<(), CoreError> {
        while let Some(index) = self.jobs.iter().position(|job| job.waiting.is_empty()) {
            let Job {
                kind,
                cluster,
                refused,
                reply,
                ..
            } = self.jobs.swap_remove(index);
            match (kind, refused) {
                (Kind::Create, None) => {
                    self.journal.put_cluster(&cluster)?;
                    let name = cluster.name.clone();
                    self.clusters.insert(name.clone(), cluster);
                    self.look_around();
                    let _ = reply.send(self.show_cluster(name.as_str()));
                }
                // All or none: what did start is powered off again, then the first trouble is told.
                (Kind::Create, Some(refused)) => {
                    self.begin_job(Kind::Delete, cluster, Some(refused), reply)?
                }
                (Kind::Delete, refused) => {
                    let view = self.show_cluster(cluster.name.as_str());
                    self.journal.remove_cluster(&cluster.name)?;
                    self.clusters.remove(&cluster.name);
                    self.look_around();
                    let _ = reply.send(refused.map_or(view, Err));
                }
            }
        }
        Ok(())
    }

    /// Where a cluster's VMs are and what they do.
    pub(crate) fn show_cluster(&self, name: &str) -> Result<ClusterView, Refused> {
        let cluster = self.cluster(name)?;
        let vm = |placed: &transhume_model::PlacedVm| {
            let seen = self.vm_state(&placed.host, &placed.spec.name);
            let state = match seen {
                _ if !self.connected(&placed.host) => VmLife::Unknown,
                None => VmLife::Missing,
                Some(state) if state.running => VmLife::Running,
                Some(_) => VmLife::Paused,
            };
            VmView {
                id: placed.spec.name.clone(),
                host: placed.host.clone(),
                state,
                role: seen.map(|state| state.role),
                demand: placed.spec.demand(),
            }
        };
        Ok(ClusterView {
            name: cluster.name.clone(),
            migration: self.move_of(&cluster.name),
            vms: cluster.vms.iter().map(vm).collect(),
        })
    }
}
