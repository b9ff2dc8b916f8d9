//! What users ask for: answered, or begun.

use transhume_api::{ClusterList, ClusterStage, ClusterView, Verdict};
use transhume_metrics::Samples;
use transhume_model::{ClusterName, ClusterSpec, HostName, PlacedVm, PlacementRules};
use transhume_protocol::migration::Now;

use super::{Core, CoreError};
use crate::error::Refused;
use crate::jobs::{ClusterJob, ClusterWork, VmJob, VmWork};
use crate::journal::ClusterRecord;
use crate::metrics::State;
use crate::planning;
use crate::requests::{Reply, Request, VmRequest, VmWish};
use crate::surveys::Purpose;
use crate::{views, vm_checks};

/// What a verb does to a VM, and what may be lost by it.
fn verdict(wish: &VmWish, placed: &PlacedVm, host: &HostName) -> Verdict {
    let (vm, cluster) = (&placed.spec.name, &placed.spec.cluster);
    let memory =
        format!("VM {vm}: what it holds in memory, and what its guest has not written to its disks yet");
    let (what, lost) = match wish {
        VmWish::Start { .. } => (format!("VM {vm} boots on host {host}"), Vec::new()),
        VmWish::Restart { .. } => (
            format!(
                "VM {vm} boots from its disks on host {host}; what host {} still has of it is ended when it is back",
                placed.host
            ),
            vec![memory],
        ),
        VmWish::Stop { force: false } => (
            format!("the guest of VM {vm} is asked to power itself off"),
            Vec::new(),
        ),
        VmWish::Stop { force: true } => (
            format!("the plug of VM {vm} is pulled on host {host}"),
            vec![memory],
        ),
        VmWish::Forget => (
            format!("VM {vm} is taken out of cluster {cluster}; its disks are not touched"),
            Vec::new(),
        ),
    };
    Verdict::planned(what, lost)
}

impl Core {
    /// Answers a request, or begins what it asks for.
    pub(super) fn serve(&mut self, request: Request) -> Result<(), CoreError> {
        let now = self.now();
        match request {
            Request::Metrics(reply) => reply.send(Ok(self.scrape(now))),
            Request::Hosts(reply) => reply.send(Ok(self.host_list())),
            Request::PlanDrain(order, reply) => self.plan_drain(&order, reply),
            Request::Drain(order, reply) => {
                let begun = self.begin_drain(order)?;
                reply.send(begun);
            }
            Request::Drains(reply) => reply.send(Ok(self.drains.list(self.store.clusters()))),
            Request::ShowDrain(id, reply) => {
                let found = self.drains.named(&id);
                reply.send(found.and_then(|id| self.drain_view(id)));
            }
            Request::CancelDrain(id, reply) => {
                let cancelled = self.cancel_drain(&id)?;
                reply.send(cancelled);
            }
            Request::CheckLink { from, to, reply } => self.check_link(&from, &to, reply),
            Request::ShowHost(name, reply) => reply.send(self.show_host(&name)),
            Request::Host {
                host,
                wish,
                dry_run,
                reply,
            } => self.work_on_host(&host, wish, dry_run, reply)?,
            Request::Resolve {
                migration,
                wish,
                dry_run,
                reply,
            } => self.resolve(&migration, wish, dry_run, reply)?,
            Request::OpenPlug {
                cluster,
                vm,
                dry_run,
                reply,
            } => self.open_plug(&cluster, &vm, dry_run, reply)?,
            Request::Clusters(reply) => reply.send(Ok(self.list_clusters())),
            Request::ShowCluster(name, reply) => reply.send(self.show_cluster(&name)),
            Request::CreateCluster(cluster, reply) => self.create_cluster(cluster, reply)?,
            Request::DeleteCluster(name, reply) => self.delete_cluster(&name, reply)?,
            Request::ForgetCluster {
                cluster,
                dry_run,
                reply,
            } => self.forget_cluster(&cluster, dry_run, reply)?,
            Request::Rules(name, reply) => reply.send(self.rules(&name)),
            Request::SetRules(name, rules, reply) => {
                let kept = self.set_rules(&name, rules)?;
                reply.send(kept);
            }
            Request::Vm(request, reply) => self.work_on_vm(&request, reply)?,
            Request::CheckVm(request, reply) => {
                let checked = self.check_vm(&request);
                reply.send(checked.map(|(placed, host)| verdict(&request.wish, &placed, &host)));
            }
            Request::Plan(name, order, reply) => {
                let scene = self.scene(&name, &order);
                self.survey(scene, Purpose::Show(reply));
            }
            Request::Move(name, order, reply) => {
                self.order_move(name, order, reply);
            }
            Request::Migrations(reply) => reply.send(Ok(self.moves.list(now))),
            Request::Report(id, reply) => reply.send(self.moves.report(now, &id)),
            Request::Forecasts(reply) => {
                reply.send(Ok(planning::forecast_record(self.moves.reports())));
            }
            Request::Follow(id, reply) => reply.send(self.moves.history(&id)),
            Request::Cancel(id, reply) => {
                let cancelled = self.cancel(&id)?;
                reply.send(cancelled);
            }
        }
        Ok(())
    }

    fn scrape(&self, now: Now) -> Samples {
        self.metrics.scrape(State {
            hosts: &self.hosts,
            clusters: self.store.clusters(),
            moves: &self.moves,
            now,
        })
    }

    pub(super) fn list_clusters(&self) -> ClusterList {
        let line = |record: &ClusterRecord| {
            let migration = self.moves.of_cluster(&record.spec.name);
            views::line(record, migration)
        };
        ClusterList {
            clusters: self.store.clusters().all().map(line).collect(),
        }
    }

    pub(super) fn show_cluster(&self, name: &str) -> Result<ClusterView, Refused> {
        let record = self.store.clusters().named(name)?;
        let migration = self.moves.of_cluster(&record.spec.name);
        Ok(views::cluster(record, &self.hosts, migration))
    }

    fn rules(&self, name: &str) -> Result<PlacementRules, Refused> {
        let record = self.store.clusters().named(name)?;
        Ok(record.spec.rules.clone())
    }

    /// Rules bind from the next plan on; nobody is moved because of them.
    fn set_rules(
        &mut self,
        name: &str,
        rules: PlacementRules,
    ) -> Result<Result<PlacementRules, Refused>, CoreError> {
        let checked = self.store.clusters().live(name).and_then(|cluster| {
            let cluster = ClusterSpec {
                rules: rules.clone(),
                ..cluster.clone()
            };
            planning::check_rules(&cluster, &self.config).map(|()| cluster.name)
        });
        let name = match checked {
            Ok(name) => name,
            Err(refused) => return Ok(Err(refused)),
        };
        if let Some(record) = self.store.clusters().with_rules(&name, rules.clone()) {
            self.store.keep(record)?;
        }
        Ok(Ok(rules))
    }

    /// Nothing else is going on with a cluster.
    pub(super) fn check_idle(&self, cluster: &ClusterName) -> Result<(), Refused> {
        self.moves.check_idle(cluster)?;
        self.jobs.check_idle(cluster)
    }

    // Clusters and VMs.

    pub(super) fn create_cluster(
        &mut self,
        spec: ClusterSpec,
        reply: Reply<ClusterView>,
    ) -> Result<(), CoreError> {
        if let Err(refused) = self.check_new(&spec) {
            reply.send(Err(refused));
            return Ok(());
        }
        let stage = ClusterStage::Starting;
        self.begin_cluster_job(ClusterWork::Start, ClusterRecord { spec, stage }, Some(reply))
    }

    pub(super) fn check_new(&self, spec: &ClusterSpec) -> Result<(), Refused> {
        self.store.clusters().check_new(spec)?;
        planning::check_rules(spec, &self.config)?;
        for vm in &spec.vms {
            let host = self.hosts.named(vm.host.as_str())?;
            self.hosts.check_connected(&host)?;
            self.check_not_cordoned(&host)?;
            self.hosts.check_not_stranded(&vm.spec.name)?;
        }
        Ok(())
    }

    pub(super) fn delete_cluster(&mut self, name: &str, reply: Reply<ClusterView>) -> Result<(), CoreError> {
        let checked = self.store.clusters().live(name).cloned();
        let checked = checked.and_then(|spec| self.check_idle(&spec.name).map(|()| spec));
        match checked {
            Ok(spec) => {
                let stage = ClusterStage::Ending;
                self.begin_cluster_job(ClusterWork::End, ClusterRecord { spec, stage }, Some(reply))
            }
            Err(refused) => {
                reply.send(Err(refused));
                Ok(())
            }
        }
    }

    /// The stage of the record becomes durable, then orders leave.
    pub(super) fn begin_cluster_job(
        &mut self,
        work: ClusterWork,
        cluster: ClusterRecord,
        reply: Option<Reply<ClusterView>>,
    ) -> Result<(), CoreError> {
        self.store.keep(cluster.clone())?;
        let job = ClusterJob {
            work,
            cluster,
            epoch: self.store.new_epochs(ClusterJob::EPOCHS)?,
            reply,
        };
        self.jobs.begin_cluster(job, self.now().mono);
        self.work_on_jobs(Vec::new())
    }

    /// The VM as it is, and the host that is to work on it.
    fn check_vm(&self, request: &VmRequest) -> Result<(PlacedVm, HostName), Refused> {
        let placed = self.store.clusters().vm(&request.cluster, &request.vm)?.clone();
        self.check_idle(&placed.spec.cluster)?;
        let host = match &request.wish {
            VmWish::Restart { on } => self.check_restart(&placed, on)?,
            VmWish::Start { host } => vm_checks::start(&placed, host.as_deref(), &self.hosts)?,
            VmWish::Stop { .. } => vm_checks::stop(&placed, &self.hosts)?,
            VmWish::Forget => vm_checks::forget(&placed, &self.hosts)?,
        };
        if host != placed.host {
            self.check_not_cordoned(&host)?;
        }
        Ok((placed, host))
    }

    pub(super) fn work_on_vm(
        &mut self,
        request: &VmRequest,
        reply: Reply<ClusterView>,
    ) -> Result<(), CoreError> {
        let (placed, host) = match self.check_vm(request) {
            Ok(found) => found,
            Err(refused) => {
                reply.send(Err(refused));
                return Ok(());
            }
        };
        let (cluster, vm) = (placed.spec.cluster.clone(), placed.spec.name.clone());
        if let VmWish::Restart { .. } = request.wish {
            self.relocate_from_fenced(&placed, &host)?;
        } else if host != placed.host {
            // Where it lives is durable before it can run there.
            let places = [(vm.clone(), host.clone())].into();
            if let Some(record) = self.store.clusters().relocated(&cluster, &places) {
                self.store.keep(record)?;
            }
        }
        let job = VmJob {
            cluster,
            vm,
            host,
            work: match request.wish {
                VmWish::Start { .. } | VmWish::Restart { .. } => VmWork::Start(Box::new(placed.spec)),
                VmWish::Stop { force } => VmWork::Stop { force },
                VmWish::Forget => VmWork::Forget,
            },
            epoch: self.store.new_epochs(1)?,
            reply,
        };
        self.jobs.begin_vm(job, self.now().mono, &mut self.hosts);
        Ok(())
    }
}
