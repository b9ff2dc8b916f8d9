//! Work on a whole cluster outside of any move: all its VMs are started, or all powered off.
//!
//! ```text
//!  Start ─every VM started─▶ live          End ─every VM gone─▶ forgotten
//!    └─ one refused, failed, lost, late ─▶ End: waits for hosts that are away, asks again, never gives up
//! ```
//!
//! The stage is in the journal before the first order leaves, so a restarted coordinator ends what it finds half done.

use std::collections::BTreeMap;

use tracing::{info, warn};
use transhume_model::{Epoch, HostName, Millis, OrderId, PlacedVm, VmName};
use transhume_protocol::message::{Command, Outcome, RefusalKind, Report};

use crate::api::ClusterView;
use crate::core::{Alarm, Core, CoreError, Reply};
use crate::error::Refused;
use crate::journal::{ClusterRecord, ClusterStage};

/// All VMs of a cluster are started by then, or the cluster ends.
const START_MS_MAX: Millis = Millis(120_000);
/// Whoever asked for an end is told by then how far it is.
const END_MS_MAX: Millis = Millis(60_000);
/// A VM that could not be powered off is asked for again after this.
const END_AGAIN_MS: Millis = Millis(5_000);

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Start every VM, all or none.
    Start,
    /// Power every VM off.
    End,
}

/// One cluster's work.
pub(crate) struct Job {
    kind: Kind,
    cluster: ClusterRecord,
    epoch: Epoch,
    /// VMs that are not done, and the order each was given; `None` while it waits for its host or its next turn.
    left: BTreeMap<VmName, (HostName, Option<OrderId>)>,
    /// Start: what went wrong first. End: why the cluster never came to be, if that is so.
    trouble: Option<Refused>,
    /// `None` when whoever asked has been answered, or never was there.
    reply: Option<Reply<ClusterView>>,
    due: Millis,
}

/// What an answer means for one VM.
enum Meaning {
    Done,
    Failed(Refused),
}

impl Core {
    /// The stage of the record becomes durable, then orders leave.
    pub(crate) fn begin_job(
        &mut self,
        kind: Kind,
        cluster: ClusterRecord,
        trouble: Option<Refused>,
        reply: Option<Reply<ClusterView>>,
    ) -> Result<(), CoreError> {
        info!(cluster = %cluster.spec.name, stage = ?cluster.stage, "cluster");
        self.journal.put_cluster(&cluster)?;
        self.clusters.insert(cluster.spec.name.clone(), cluster.clone());
        let vms = cluster.spec.vms.iter();
        let due = self.now().mono
            + match kind {
                Kind::Start => START_MS_MAX,
                Kind::End => END_MS_MAX,
            };
        self.alarms.insert((due, Alarm::Waiting));
        let job = Job {
            kind,
            left: vms
                .map(|vm| (vm.spec.name.clone(), (vm.host.clone(), None)))
                .collect(),
            cluster,
            epoch: self.journal.new_epochs(1)?,
            trouble,
            reply,
            due,
        };
        let job = self.give(job);
        self.jobs.push(job);
        self.settle()
    }

    /// Orders for every VM that has none and whose host is there.
    fn give(&mut self, mut job: Job) -> Job {
        for (vm, (host, order)) in &mut job.left {
            if order.is_some() || !self.hosts.is_connected(host) {
                continue;
            }
            let command = match job.kind {
                Kind::Start => {
                    let placed = job.cluster.spec.vms.iter().find(|placed| placed.spec.name == *vm);
                    let spec = placed.expect("a job is about its cluster's VMs").spec.clone();
                    Command::StartVm { spec }
                }
                Kind::End => Command::DestroyVm { vm: vm.clone() },
            };
            *order = Some(self.hosts.ask(host, job.epoch, command));
        }
        job
    }

    fn give_all(&mut self) -> Result<(), CoreError> {
        let jobs = std::mem::take(&mut self.jobs);
        self.jobs = jobs.into_iter().map(|job| self.give(job)).collect();
        self.settle()
    }

    /// An answer to an order outside of any move.
    pub(crate) fn job_report(&mut self, host: &HostName, report: Report) -> Result<(), CoreError> {
        let Some(order) = report.order else { return Ok(()) };
        let asked = |job: &Job, vm: &VmName| job.left.get(vm).is_some_and(|(_, id)| *id == Some(order));
        let vm = report.vm.as_ref();
        let found = vm.and_then(|vm| {
            let index = self.jobs.iter().position(|job| asked(job, vm))?;
            Some((index, vm.clone()))
        });
        let Some((index, vm)) = found else { return Ok(()) };
        let job = &mut self.jobs[index];
        match job.meaning(host, &vm, report.outcome) {
            Meaning::Done => {
                job.left.remove(&vm);
            }
            Meaning::Failed(trouble) => {
                warn!(cluster = %job.cluster.spec.name, "{}", trouble.problem.message);
                match job.kind {
                    Kind::Start => {
                        job.left.remove(&vm);
                        job.trouble.get_or_insert(trouble);
                    }
                    Kind::End => {
                        job.left.insert(vm, (host.clone(), None));
                        let again_at = self.now().mono + END_AGAIN_MS;
                        self.alarms.insert((again_at, Alarm::Waiting));
                    }
                }
            }
        }
        self.settle()
    }

    /// A host is back: what waits for it is asked.
    pub(crate) fn jobs_regain(&mut self) -> Result<(), CoreError> {
        self.give_all()
    }

    /// A host went away: what was asked of it is not answered any more.
    pub(crate) fn jobs_lose(&mut self, host: &HostName) -> Result<(), CoreError> {
        for job in &mut self.jobs {
            let mut lost = job
                .left
                .values_mut()
                .filter(|(of, order)| of == host && order.is_some());
            if lost.next().is_none() {
                continue;
            }
            match job.kind {
                Kind::Start => {
                    job.left.retain(|_, (of, _)| of != host);
                    job.trouble
                        .get_or_insert_with(|| Refused::unreachable(host, None));
                }
                Kind::End => {
                    let lost = job.left.values_mut().filter(|(of, _)| of == host);
                    lost.for_each(|(_, order)| *order = None);
                }
            }
        }
        self.settle()
    }

    /// Jobs whose time is over, and VMs whose next turn has come.
    pub(crate) fn jobs_due(&mut self, now: Millis) -> Result<(), CoreError> {
        for job in self.jobs.iter_mut().filter(|job| job.due <= now) {
            let late: Vec<&str> = job.left.keys().map(VmName::as_str).collect();
            let name = &job.cluster.spec.name;
            let hint = "the agents' logs tell what takes so long";
            match job.kind {
                Kind::Start => {
                    let what = format!(
                        "{} of cluster {name} did not start within {START_MS_MAX}",
                        late.join(", ")
                    );
                    job.trouble
                        .get_or_insert(Refused::conflict("start-too-slow", what, hint));
                    job.left.clear();
                }
                Kind::End => {
                    let what = format!(
                        "{} of cluster {name} are not gone after {END_MS_MAX}",
                        late.join(", ")
                    );
                    let trouble = Refused::conflict("end-too-slow", what, hint);
                    job.answer(Err(trouble));
                    job.due = Millis(u64::MAX);
                }
            }
        }
        self.give_all()
    }

    /// Draws the conclusions of whatever has changed.
    fn settle(&mut self) -> Result<(), CoreError> {
        while let Some(index) = self.jobs.iter().position(|job| job.left.is_empty()) {
            let job = self.jobs.swap_remove(index);
            self.finish(job)?;
        }
        for job in self
            .jobs
            .iter_mut()
            .filter(|job| job.kind == Kind::End && job.reply.is_some())
        {
            let waits_for_hosts_only = job.left.values().all(|(host, _)| !self.hosts.is_connected(host));
            if waits_for_hosts_only {
                let trouble = job.trouble.take().unwrap_or_else(|| job.waits_for_hosts());
                job.answer(Err(trouble));
            }
        }
        Ok(())
    }

    fn finish(&mut self, mut job: Job) -> Result<(), CoreError> {
        let name = job.cluster.spec.name.clone();
        match (job.kind, job.trouble.take()) {
            (Kind::Start, None) => {
                job.cluster.stage = ClusterStage::Live;
                info!(cluster = %name, "all its VMs run");
                self.journal.put_cluster(&job.cluster)?;
                self.clusters.insert(name.clone(), job.cluster.clone());
                self.hosts.look_around();
                job.answer(self.show_cluster(name.as_str()));
                Ok(())
            }
            // All or none: what did start is powered off again, then the first trouble is told.
            (Kind::Start, trouble) => {
                job.cluster.stage = ClusterStage::Ending;
                self.begin_job(Kind::End, job.cluster, trouble, job.reply)
            }
            (Kind::End, trouble) => {
                let view = self.show_cluster(name.as_str());
                self.journal.remove_cluster(&name)?;
                self.clusters.remove(&name);
                info!(cluster = %name, "forgotten");
                self.hosts.look_around();
                job.answer(trouble.map_or(view, Err));
                Ok(())
            }
        }
    }
}

impl Job {
    fn answer(&mut self, answer: Result<ClusterView, Refused>) {
        if let Some(reply) = self.reply.take() {
            // Whoever asked may have gone; that is no error.
            let _ = reply.send(answer);
        }
    }

    fn waits_for_hosts(&self) -> Refused {
        let left: Vec<String> = self
            .left
            .iter()
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

    fn meaning(&mut self, host: &HostName, vm: &VmName, outcome: Outcome) -> Meaning {
        let at_fault = |code, message, hint: String| Meaning::Failed(Refused::conflict(code, message, hint));
        match (self.kind, outcome) {
            (Kind::Start, Outcome::Started { spec }) => {
                let mut vms = self.cluster.spec.vms.iter_mut();
                if let Some(PlacedVm { spec: kept, .. }) = vms.find(|placed| placed.spec.name == *vm) {
                    *kept = spec;
                }
                Meaning::Done
            }
            (Kind::End, Outcome::Destroyed) => Meaning::Done,
            (Kind::End, Outcome::Refused(refusal)) if refusal.kind == RefusalKind::UnknownVm => Meaning::Done,
            (_, Outcome::Refused(refusal)) => at_fault("refused-by-agent", refusal.reason, refusal.hint),
            (_, Outcome::Failed(fault)) => at_fault(
                "failed-at-agent",
                format!("VM {vm} on host {host}: {}", fault.reason),
                format!("the log of the agent of host {host} tells more"),
            ),
            (_, other) => at_fault(
                "failed-at-agent",
                format!("VM {vm}: host {host} answered `{}`", other.name()),
                "are agent and coordinator of one release?".to_owned(),
            ),
        }
    }
}
