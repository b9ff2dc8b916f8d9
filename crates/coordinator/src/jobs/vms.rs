//! Work on one VM: started, stopped, or forgotten. One order, one answer.
//!
//! Nothing is kept of such a job: it ends with its answer, with the loss of its host, or with its
//! time, and what came of it is what the host reports. A restarted coordinator knows nothing of it.

use transhume_api::ClusterView;
use transhume_model::{ClusterName, Epoch, HostName, Millis, OrderId, VmName, VmSpec};
use transhume_protocol::message::{Command, Outcome, RefusalKind};

use super::effect::{Effect, at_fault};
use crate::error::Refused;
use crate::hosts::Hosts;
use crate::requests::Reply;

/// A VM is started, powered off at once, or forgotten by then.
const WORK_MS_MAX: Millis = Millis(120_000);
/// A guest that was asked has powered itself off by then; above its agent's own patience.
const STOP_MS_MAX: Millis = Millis(150_000);

/// What is done with a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VmWork {
    /// Boot it.
    Start(Box<VmSpec>),
    /// Power it off; its place stays.
    Stop { force: bool },
    /// Power it off and take it out of its cluster.
    Forget,
}

impl VmWork {
    fn name(&self) -> &'static str {
        match self {
            VmWork::Start(_) => "started",
            VmWork::Stop { .. } => "stopped",
            VmWork::Forget => "forgotten",
        }
    }

    fn ms_max(&self) -> Millis {
        match self {
            VmWork::Stop { force: false } => STOP_MS_MAX,
            VmWork::Start(_) | VmWork::Stop { force: true } | VmWork::Forget => WORK_MS_MAX,
        }
    }

    fn command(&self, vm: &VmName) -> Command {
        let vm = vm.clone();
        match self {
            VmWork::Start(spec) => Command::StartVm {
                spec: (**spec).clone(),
            },
            VmWork::Stop { force } => Command::StopVm { vm, force: *force },
            VmWork::Forget => Command::DestroyVm { vm },
        }
    }
}

/// Work on a VM that is to begin.
#[derive(Debug)]
pub(crate) struct VmJob {
    pub(crate) cluster: ClusterName,
    pub(crate) vm: VmName,
    pub(crate) host: HostName,
    pub(crate) work: VmWork,
    pub(crate) epoch: Epoch,
    pub(crate) reply: Reply<ClusterView>,
}

/// Work on a VM whose order is issued.
#[derive(Debug)]
struct Issued {
    job: VmJob,
    order: OrderId,
    due: Millis,
}

/// All VMs that are being worked on.
#[derive(Debug, Default)]
pub(super) struct VmJobs {
    jobs: Vec<Issued>,
}

impl VmJobs {
    pub(super) fn begin(&mut self, job: VmJob, now: Millis, hosts: &mut Hosts) {
        let order = hosts.ask(&job.host, job.epoch, job.work.command(&job.vm));
        let due = now + job.work.ms_max();
        self.jobs.push(Issued { job, order, due });
    }

    pub(super) fn check_idle(&self, cluster: &ClusterName) -> Result<(), Refused> {
        match self.jobs.iter().find(|issued| issued.job.cluster == *cluster) {
            None => Ok(()),
            Some(Issued { job, .. }) => Err(Refused::conflict(
                "vm-busy",
                format!("VM {} of cluster {cluster} is being {}", job.vm, job.work.name()),
                "wait until that is done; it ends within minutes, one way or the other",
            )),
        }
    }

    /// `None` where no VM's job has issued that order.
    pub(super) fn answered(
        &mut self,
        host: &HostName,
        order: OrderId,
        vm: &VmName,
        outcome: &Outcome,
    ) -> Option<Vec<Effect>> {
        let asked =
            |issued: &Issued| issued.order == order && issued.job.host == *host && issued.job.vm == *vm;
        let index = self.jobs.iter().position(asked)?;
        Some(self.jobs.swap_remove(index).job.answered(outcome))
    }

    pub(super) fn host_lost(&mut self, host: &HostName) -> Vec<Effect> {
        let lost = self.jobs.extract_if(.., |issued| issued.job.host == *host);
        lost.map(|issued| issued.job.lost()).collect()
    }

    pub(super) fn due(&mut self, now: Millis) -> Vec<Effect> {
        let late = self.jobs.extract_if(.., |issued| issued.due <= now);
        late.map(|issued| issued.job.ran_out()).collect()
    }

    pub(super) fn next_due(&self) -> Option<Millis> {
        self.jobs.iter().map(|issued| issued.due).min()
    }
}

impl VmJob {
    fn answered(self, outcome: &Outcome) -> Vec<Effect> {
        let Self {
            cluster,
            vm,
            host,
            work,
            epoch,
            reply,
        } = self;
        let changed = match (&work, outcome) {
            (VmWork::Start(asked), Outcome::Started { spec }) => Effect::VmStarted {
                cluster: cluster.clone(),
                host,
                spec: super::as_started(asked, spec),
                epoch,
            },
            (VmWork::Stop { .. }, Outcome::Stopped) => Effect::VmStopped { host, vm },
            (VmWork::Forget, Outcome::Destroyed) => return gone(cluster, host, vm, reply),
            (VmWork::Forget, Outcome::Refused(refusal)) if refusal.kind == RefusalKind::UnknownVm => {
                return gone(cluster, host, vm, reply);
            }
            (_, other) => {
                let refused = at_fault(&host, &vm, other);
                return vec![Effect::Refuse { refused, reply }];
            }
        };
        vec![changed, Effect::Show { cluster, reply }]
    }

    fn lost(self) -> Effect {
        let (vm, host) = (&self.vm, &self.host);
        let refused = Refused::conflict(
            "agent-unreachable",
            format!(
                "the agent of host {host} was lost while VM {vm} was being {}",
                self.work.name()
            ),
            format!(
                "once it answers again, `transhume cluster show {}` shows what came of it",
                self.cluster
            ),
        );
        Effect::Refuse {
            refused,
            reply: self.reply,
        }
    }

    fn ran_out(self) -> Effect {
        let Self {
            cluster,
            vm,
            host,
            work,
            ..
        } = &self;
        let hint = match work {
            VmWork::Stop { force: false } => {
                format!("its guest does not do it: `transhume vm stop {cluster} {vm} --force` does")
            }
            _ => format!("the log of the agent of host {host} says what takes so long"),
        };
        let what = format!(
            "VM {vm} on host {host} was not {} within {}",
            work.name(),
            work.ms_max()
        );
        Effect::Refuse {
            refused: Refused::conflict("vm-too-slow", what, hint),
            reply: self.reply,
        }
    }
}

fn gone(cluster: ClusterName, host: HostName, vm: VmName, reply: Reply<ClusterView>) -> Vec<Effect> {
    vec![
        Effect::VmGone { host, vm: vm.clone() },
        Effect::VmForgotten { cluster, vm, reply },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use transhume_model::MigrationId;
    use transhume_protocol::migration::OrderIds;

    fn begun(work: VmWork) -> (VmJobs, Hosts) {
        let host: HostName = "h1".parse().unwrap();
        let mut hosts = Hosts::new([host.clone()].into_iter(), OrderIds::of(MigrationId(0)));
        let mut jobs = VmJobs::default();
        let (reply, _) = Reply::channel();
        let job = VmJob {
            cluster: "lab".parse().unwrap(),
            vm: "vm1".parse().unwrap(),
            host,
            work,
            epoch: Epoch(3),
            reply,
        };
        jobs.begin(job, Millis(1_000), &mut hosts);
        (jobs, hosts)
    }

    fn refusal(mut effects: Vec<Effect>) -> transhume_api::Problem {
        match (effects.pop(), effects.is_empty()) {
            (Some(Effect::Refuse { refused, .. }), true) => refused.problem,
            other => panic!("one refusal: {other:?}"),
        }
    }

    #[test]
    fn a_guest_that_does_not_power_itself_off_is_reported_with_the_way_to_force_it() {
        let (mut jobs, _hosts) = begun(VmWork::Stop { force: false });
        let due = jobs.next_due().expect("it has a limit");
        assert!(jobs.due(Millis(due.0 - 1)).is_empty());
        let problem = refusal(jobs.due(due));
        assert_eq!(problem.code, "vm-too-slow");
        assert!(
            problem.hint.contains("transhume vm stop lab vm1 --force"),
            "{problem:?}"
        );
        assert_eq!(jobs.next_due(), None, "it is over");
        assert!(jobs.check_idle(&"lab".parse().unwrap()).is_ok());
    }

    fn answered(jobs: &mut VmJobs, host: &str, order: OrderId, outcome: &Outcome) -> Option<Vec<Effect>> {
        jobs.answered(&host.parse().unwrap(), order, &"vm1".parse().unwrap(), outcome)
    }

    #[test]
    fn an_answer_that_comes_after_the_end_is_old_news() {
        let (mut jobs, mut hosts) = begun(VmWork::Forget);
        let next: OrderId = hosts.ask(&"h1".parse().unwrap(), Epoch(1), Command::inspect());
        let order = OrderId(next.0 - 1);
        let problem = refusal(jobs.host_lost(&"h1".parse().unwrap()));
        assert_eq!(problem.code, "agent-unreachable");
        assert!(
            answered(&mut jobs, "h1", order, &Outcome::Destroyed).is_none(),
            "nothing is forgotten by it"
        );
    }

    #[test]
    fn an_answer_to_another_question_is_a_fault_of_the_agent() {
        let (mut jobs, mut hosts) = begun(VmWork::Stop { force: true });
        let next = hosts.ask(&"h1".parse().unwrap(), Epoch(1), Command::inspect());
        let order = OrderId(next.0 - 1);
        let stopped = Outcome::Stopped;
        assert!(
            answered(&mut jobs, "h1", next, &stopped).is_none(),
            "not its order"
        );
        assert!(
            answered(&mut jobs, "h2", order, &stopped).is_none(),
            "another host says so"
        );
        let answer = answered(&mut jobs, "h1", order, &Outcome::Destroyed);
        let problem = refusal(answer.expect("its order"));
        assert_eq!(problem.code, "failed-at-agent");
    }
}
