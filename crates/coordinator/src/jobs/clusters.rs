//! Work on a whole cluster: all its VMs are started, or all powered off.
//!
//! ```text
//!  Start ─every VM started─▶ live          End ─every VM gone─▶ forgotten
//!    └─ one refused, failed, lost, late ─▶ End: waits for hosts that are away, asks again, never gives up
//! ```
//!
//! The stage is in the journal before the first order leaves, so a restarted coordinator ends what
//! it finds half done.

use std::collections::BTreeMap;

use tracing::{info, warn};
use transhume_api::{ClusterStage, ClusterView};
use transhume_model::{Epoch, HostName, Millis, OrderId, PlacedVm, VmName, VmSpec};
use transhume_protocol::message::{Command, Outcome, RefusalKind};

use super::effect::{Effect, at_fault};
use crate::error::Refused;
use crate::hosts::Hosts;
use crate::journal::ClusterRecord;
use crate::requests::Reply;

/// All VMs of a cluster are started by then, or the cluster ends.
const START_MS_MAX: Millis = Millis(120_000);
/// Whoever asked for an end is answered by then, however far it is.
const END_MS_MAX: Millis = Millis(60_000);
/// A VM that could not be powered off is asked for again after this.
const END_AGAIN_MS: Millis = Millis(5_000);

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClusterWork {
    /// Start every VM, all or none.
    Start,
    /// Power every VM off.
    End,
}

/// Work on a cluster that is to begin.
#[derive(Debug)]
pub(crate) struct ClusterJob {
    pub(crate) work: ClusterWork,
    pub(crate) cluster: ClusterRecord,
    /// The first of [`ClusterJob::EPOCHS`]: a start that fails is an end afterwards.
    pub(crate) epoch: Epoch,
    /// `None` where nobody asked.
    pub(crate) reply: Option<Reply<ClusterView>>,
}

impl ClusterJob {
    /// Epochs that a job needs.
    pub(crate) const EPOCHS: u64 = 2;
}

/// Where an order for one VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// To be issued from then on.
    From(Millis),
    /// Issued.
    Issued(OrderId),
}

/// One cluster's work.
#[derive(Debug)]
struct Job {
    work: ClusterWork,
    cluster: ClusterRecord,
    epoch: Epoch,
    /// VMs that are not done.
    left: BTreeMap<VmName, (HostName, Turn)>,
    /// Start: what went wrong first. End: why the cluster never came to be, if that is so.
    trouble: Option<Refused>,
    /// `None` when whoever asked has been answered, or never was there.
    reply: Option<Reply<ClusterView>>,
    /// `None` when nobody is kept waiting.
    due: Option<Millis>,
}

/// All clusters that are being started or ended.
#[derive(Debug, Default)]
pub(super) struct ClusterJobs {
    jobs: Vec<Job>,
}

impl ClusterJobs {
    pub(super) fn begin(&mut self, begun: ClusterJob, now: Millis) {
        let ClusterJob {
            work,
            cluster,
            epoch,
            reply,
        } = begun;
        info!(cluster = %cluster.spec.name, stage = ?cluster.stage, "cluster");
        let mut job = Job {
            work,
            cluster,
            epoch,
            left: BTreeMap::new(),
            trouble: None,
            reply,
            due: None,
        };
        job.begin(work, now);
        self.jobs.push(job);
    }

    pub(super) fn issue(&mut self, now: Millis, hosts: &mut Hosts) {
        for job in &mut self.jobs {
            job.issue(now, hosts);
        }
    }

    pub(super) fn answered(
        &mut self,
        now: Millis,
        host: &HostName,
        order: OrderId,
        vm: &VmName,
        outcome: Outcome,
    ) -> Vec<Effect> {
        let asked = |job: &&mut Job| {
            job.left
                .get(vm)
                .is_some_and(|(of, turn)| of == host && *turn == Turn::Issued(order))
        };
        match self.jobs.iter_mut().find(asked) {
            Some(job) => job.answered(now, host, vm, outcome),
            None => Vec::new(),
        }
    }

    pub(super) fn host_lost(&mut self, host: &HostName) {
        for job in &mut self.jobs {
            job.host_lost(host);
        }
    }

    pub(super) fn due(&mut self, now: Millis) -> Vec<Effect> {
        let late = self
            .jobs
            .iter_mut()
            .filter(|job| job.due.is_some_and(|due| due <= now));
        late.filter_map(Job::ran_out).collect()
    }

    /// A turn that has come and waits for its host is nothing to be woken for.
    pub(super) fn next_due(&self, now: Millis) -> Option<Millis> {
        let again = self.jobs.iter().flat_map(|job| job.left.values());
        let again = again.filter_map(|(_, turn)| match turn {
            Turn::From(at) if *at > now => Some(*at),
            Turn::From(_) | Turn::Issued(_) => None,
        });
        self.jobs.iter().filter_map(|job| job.due).chain(again).min()
    }

    pub(super) fn conclude(&mut self, now: Millis, connected: impl Fn(&HostName) -> bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        let done = self.jobs.extract_if(.., |job| job.left.is_empty());
        let done: Vec<Job> = done.collect();
        for job in done {
            self.jobs.extend(job.finish(now, &mut effects));
        }
        for job in &mut self.jobs {
            effects.extend(job.waits_for_hosts_only(&connected));
        }
        effects
    }
}

impl Job {
    fn begin(&mut self, work: ClusterWork, now: Millis) {
        let limit = match work {
            ClusterWork::Start => START_MS_MAX,
            ClusterWork::End => END_MS_MAX,
        };
        let vms = self.cluster.spec.vms.iter();
        let at_once = Turn::From(Millis(0));
        let left = vms.map(|vm| (vm.spec.name.clone(), (vm.host.clone(), at_once)));
        self.left = left.collect();
        self.work = work;
        self.due = Some(now + limit);
    }

    fn issue(&mut self, now: Millis, hosts: &mut Hosts) {
        for (vm, (host, turn)) in &mut self.left {
            if !matches!(turn, Turn::From(at) if *at <= now) || !hosts.is_connected(host) {
                continue;
            }
            let command = match self.work {
                ClusterWork::Start => {
                    let placed = self
                        .cluster
                        .spec
                        .vms
                        .iter()
                        .find(|placed| placed.spec.name == *vm);
                    let spec = placed.expect("a job is about its cluster's VMs").spec.clone();
                    Command::StartVm { spec }
                }
                ClusterWork::End => Command::DestroyVm { vm: vm.clone() },
            };
            *turn = Turn::Issued(hosts.ask(host, self.epoch, command));
        }
    }

    fn answered(&mut self, now: Millis, host: &HostName, vm: &VmName, outcome: Outcome) -> Vec<Effect> {
        let gone = || Effect::VmGone {
            host: host.clone(),
            vm: vm.clone(),
        };
        match (self.work, outcome) {
            (ClusterWork::Start, Outcome::Started { spec }) => {
                self.left.remove(vm);
                self.started(host, vm, &spec).into_iter().collect()
            }
            (ClusterWork::End, Outcome::Destroyed) => {
                self.left.remove(vm);
                vec![gone()]
            }
            (ClusterWork::End, Outcome::Refused(refusal)) if refusal.kind == RefusalKind::UnknownVm => {
                self.left.remove(vm);
                vec![gone()]
            }
            (work, outcome) => {
                let trouble = at_fault(host, vm, &outcome);
                warn!(cluster = %self.cluster.spec.name, "{}", trouble.problem.message);
                match work {
                    ClusterWork::Start => {
                        self.left.remove(vm);
                        self.trouble.get_or_insert(trouble);
                    }
                    ClusterWork::End => {
                        let again = Turn::From(now + END_AGAIN_MS);
                        self.left.insert(vm.clone(), (host.clone(), again));
                    }
                }
                Vec::new()
            }
        }
    }

    /// The VM as its agent started it is the cluster's from now on.
    fn started(&mut self, host: &HostName, vm: &VmName, told: &VmSpec) -> Option<Effect> {
        let mut vms = self.cluster.spec.vms.iter_mut();
        let PlacedVm { spec: kept, .. } = vms.find(|placed| placed.spec.name == *vm)?;
        *kept = super::as_started(kept, told);
        Some(Effect::VmStarted {
            cluster: self.cluster.spec.name.clone(),
            host: host.clone(),
            spec: kept.clone(),
            epoch: self.epoch,
        })
    }

    fn host_lost(&mut self, host: &HostName) {
        let asked = |(of, turn): &(HostName, Turn)| of == host && matches!(turn, Turn::Issued(_));
        if !self.left.values().any(asked) {
            return;
        }
        match self.work {
            ClusterWork::Start => {
                self.left.retain(|_, (of, _)| of != host);
                self.trouble
                    .get_or_insert_with(|| Refused::unreachable(host, None));
            }
            ClusterWork::End => {
                let lost = self.left.values_mut().filter(|(of, _)| of == host);
                lost.for_each(|(_, turn)| *turn = Turn::From(Millis(0)));
            }
        }
    }

    fn ran_out(&mut self) -> Option<Effect> {
        let late: Vec<&str> = self.left.keys().map(VmName::as_str).collect();
        let (late, name) = (late.join(", "), &self.cluster.spec.name);
        let hint = "the agents' logs say what takes so long";
        self.due = None;
        match self.work {
            ClusterWork::Start => {
                let what = format!("{late} of cluster {name} did not start within {START_MS_MAX}");
                self.trouble
                    .get_or_insert(Refused::conflict("start-too-slow", what, hint));
                self.left.clear();
                None
            }
            ClusterWork::End => {
                let what = format!("{late} of cluster {name} are not gone after {END_MS_MAX}");
                let refused = Refused::conflict("end-too-slow", what, hint);
                let reply = self.reply.take()?;
                Some(Effect::Refuse { refused, reply })
            }
        }
    }

    /// Draws the conclusion of a job with no VM left; the job that follows from it, if there is
    /// one.
    fn finish(mut self, now: Millis, effects: &mut Vec<Effect>) -> Option<Self> {
        let name = self.cluster.spec.name.clone();
        match (self.work, self.trouble.take()) {
            (ClusterWork::Start, None) => {
                info!(cluster = %name, "all its VMs run");
                self.cluster.stage = ClusterStage::Live;
                effects.push(Effect::Keep(self.cluster));
                let show = |reply| Effect::Show { cluster: name, reply };
                effects.extend(self.reply.map(show));
                None
            }
            // All or none: what did start is powered off again, then the first trouble is reported.
            (ClusterWork::Start, trouble @ Some(_)) => {
                self.cluster.stage = ClusterStage::Ending;
                effects.push(Effect::Keep(self.cluster.clone()));
                self.epoch = Epoch(self.epoch.0 + 1);
                self.trouble = trouble;
                self.begin(ClusterWork::End, now);
                Some(self)
            }
            (ClusterWork::End, None) => {
                info!(cluster = %name, "forgotten");
                effects.push(Effect::Forget {
                    cluster: name,
                    reply: self.reply,
                });
                None
            }
            (ClusterWork::End, Some(refused)) => {
                info!(cluster = %name, "forgotten");
                effects.push(Effect::Forget {
                    cluster: name,
                    reply: None,
                });
                let refuse = |reply| Effect::Refuse { refused, reply };
                effects.extend(self.reply.map(refuse));
                None
            }
        }
    }

    /// Whoever asked for an end is not kept waiting for hosts that are away.
    fn waits_for_hosts_only(&mut self, connected: impl Fn(&HostName) -> bool) -> Option<Effect> {
        let waits = self.left.values().all(|(host, _)| !connected(host));
        if self.work != ClusterWork::End || !waits {
            return None;
        }
        let reply = self.reply.take()?;
        let refused = self.trouble.take().unwrap_or_else(|| self.hosts_are_away());
        Some(Effect::Refuse { refused, reply })
    }

    fn hosts_are_away(&self) -> Refused {
        let left = self.left.iter();
        let left: Vec<String> = left
            .map(|(vm, (host, _))| format!("VM {vm} on host {host}"))
            .collect();
        Refused::conflict(
            "agent-unreachable",
            format!(
                "{} of cluster {} cannot be powered off now",
                left.join(", "),
                self.cluster.spec.name
            ),
            "this is done, and the cluster forgotten, as soon as the agents answer again",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transhume_model::{ClusterSpec, MigrationId};
    use transhume_protocol::message::{Fault, FaultKind, HostState};
    use transhume_protocol::migration::OrderIds;

    fn ending() -> ClusterJobs {
        let cluster: ClusterSpec = serde_json::from_value(serde_json::json!({
            "name": "lab",
            "vms": [{ "host": "h1", "spec": {
                "name": "vm1", "cluster": "lab", "vcpus": 1, "memory": 96, "nics": [],
                "boot": { "kernel": "/k", "initrd": "/i", "cmdline": "" } } }],
        }))
        .expect("a cluster");
        let mut jobs = ClusterJobs::default();
        let job = ClusterJob {
            work: ClusterWork::End,
            cluster: ClusterRecord {
                spec: cluster,
                stage: ClusterStage::Ending,
            },
            epoch: Epoch(1),
            reply: None,
        };
        jobs.begin(job, Millis(0));
        jobs
    }

    fn state() -> HostState {
        let nothing = serde_json::json!({ "vcpus": 0, "memory": 0 });
        serde_json::from_value(serde_json::json!({
            "protocol": 1, "host": "h1", "agent_run": 1, "capacity": nothing, "free": nothing,
            "qemu": null, "qemu_error": null, "mtu_max": 1500, "vms": [],
        }))
        .expect("a host")
    }

    #[test]
    fn what_failed_is_asked_for_again_after_a_pause_and_a_host_that_is_away_wakes_nobody() {
        let (orders, mut issued) = tokio::sync::mpsc::channel(8);
        let host: HostName = "h1".parse().unwrap();
        let vm: VmName = "vm1".parse().unwrap();
        let mut hosts = Hosts::new([host.clone()].into_iter(), OrderIds::of(MigrationId(0)));
        hosts.back(&host, state(), orders);
        let mut jobs = ending();
        jobs.issue(Millis(0), &mut hosts);
        let order = issued.try_recv().expect("it is issued at once");
        let failed = Outcome::Failed(Fault::new(FaultKind::Qemu, "it does not end"));
        assert!(jobs.answered(Millis(10), &host, order.id, &vm, failed).is_empty());

        let again = Millis(10) + END_AGAIN_MS;
        assert_eq!(jobs.next_due(Millis(10)), Some(again));
        jobs.issue(Millis(again.0 - 1), &mut hosts);
        assert!(issued.try_recv().is_err(), "not yet");
        hosts.lost(&host);
        jobs.host_lost(&host);
        jobs.issue(again, &mut hosts);
        assert!(issued.try_recv().is_err(), "nobody is there");
        assert_eq!(jobs.next_due(again), Some(END_MS_MAX), "no turn that has come");
        let (orders, mut issued) = tokio::sync::mpsc::channel(8);
        hosts.back(&host, state(), orders);
        jobs.issue(Millis(again.0 + 1), &mut hosts);
        assert!(issued.try_recv().is_ok(), "as soon as it is back");
    }
}
