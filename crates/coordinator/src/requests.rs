//! What the API asks of the core, one variant per route.

use std::collections::BTreeSet;

use transhume_model::{ClusterSpec, MigrationId, Millis};
use transhume_protocol::message::Mode;
use transhume_protocol::migration::{Input, Migration, MoveRequest};
use transhume_protocol::report::MigrationReport;

use crate::api::{
    Accepted, ClusterLine, ClusterList, ClusterView, HostList, HostView, MigrationLine, MigrationList,
    MoveOrder, PlanView,
};
use crate::checks;
use crate::core::{Core, CoreError, Move, MoveStage, Reply};
use crate::error::Refused;
use crate::history::History;

/// A request with the place of its answer.
pub(crate) enum Request {
    Hosts(Reply<HostList>),
    Clusters(Reply<ClusterList>),
    ShowCluster(String, Reply<ClusterView>),
    CreateCluster(ClusterSpec, Reply<ClusterView>),
    DeleteCluster(String, Reply<ClusterView>),
    Plan(String, MoveOrder, Reply<PlanView>),
    Move(String, MoveOrder, Reply<Accepted>),
    Migrations(Reply<MigrationList>),
    Report(String, Reply<MigrationReport>),
    Follow(String, Reply<History>),
    Cancel(String, Reply<Accepted>),
}

impl Core {
    /// Answers a request, or begins what it asks for. Whoever asked may have gone; that is no error.
    pub(crate) fn serve(&mut self, request: Request) -> Result<(), CoreError> {
        match request {
            Request::Hosts(reply) => drop(reply.send(Ok(self.list_hosts()))),
            Request::Clusters(reply) => drop(reply.send(Ok(self.list_clusters()))),
            Request::ShowCluster(name, reply) => drop(reply.send(self.show_cluster(&name))),
            Request::CreateCluster(cluster, reply) => self.create_cluster(cluster, reply)?,
            Request::DeleteCluster(name, reply) => self.delete_cluster(&name, reply)?,
            Request::Plan(name, order, reply) => {
                drop(reply.send(checks::plan(self, &name, &order).map(|plan| plan.view)));
            }
            Request::Move(name, order, reply) => {
                let accepted = self.begin_move(&name, &order)?;
                drop(reply.send(accepted));
            }
            Request::Migrations(reply) => drop(reply.send(Ok(self.list_migrations()))),
            Request::Report(id, reply) => drop(reply.send(self.report(&id))),
            Request::Follow(id, reply) => {
                drop(reply.send(self.migration(&id).map(|(_, one)| one.history.clone())));
            }
            Request::Cancel(id, reply) => {
                let cancelled = self.cancel(&id)?;
                drop(reply.send(cancelled));
            }
        }
        Ok(())
    }

    fn begin_move(
        &mut self,
        cluster: &str,
        order: &MoveOrder,
    ) -> Result<Result<Accepted, Refused>, CoreError> {
        let plan = match checks::plan(self, cluster, order) {
            Ok(plan) => plan,
            Err(refused) => return Ok(Err(refused)),
        };
        let id = self.journal.new_migration()?;
        let mut limits = self.config.limits.clone();
        if let Some(budget) = order.blackout_ms_max {
            limits.blackout_ms_max = Millis(budget);
        }
        let request = MoveRequest {
            migration: id,
            cluster: plan.cluster.clone(),
            mode: if order.offline { Mode::Offline } else { Mode::Live },
            epoch: self.journal.new_epochs(plan.batches.len() as u64)?,
            from: plan.from,
            to: plan.to,
            batches: plan.batches,
            limits,
        };
        let (migration, ready) = match Migration::begin(self.now(), request) {
            Ok(begun) => begun,
            Err(error) => {
                let hint = "this is a mistake of the coordinator's own checks; please report it";
                return Ok(Err(Refused::bad("impossible-move", error.to_string(), hint)));
            }
        };
        let stage = MoveStage::Running(Box::new(migration));
        self.moves.insert(
            id,
            Move {
                cluster: plan.cluster,
                history: History::new(),
                stage,
            },
        );
        self.carry_out(id, ready)?;
        Ok(Ok(Accepted { migration: id }))
    }

    fn cancel(&mut self, id: &str) -> Result<Result<Accepted, Refused>, CoreError> {
        let id = match self.migration(id) {
            Ok((
                id,
                Move {
                    stage: MoveStage::Running(_),
                    ..
                },
            )) => id,
            Ok((id, _)) => {
                return Ok(Err(Refused::conflict(
                    "migration-over",
                    format!("migration {id} is over"),
                    format!("`transhume report {id}` tells how it ended"),
                )));
            }
            Err(refused) => return Ok(Err(refused)),
        };
        self.feed(id, Input::Cancel)?;
        Ok(Ok(Accepted { migration: id }))
    }

    fn migration(&self, text: &str) -> Result<(MigrationId, &Move), Refused> {
        let id = text.parse().ok().map(MigrationId);
        let found = id.and_then(|id| self.moves.get(&id).map(|one| (id, one)));
        let known = || self.moves.keys().map(ToString::to_string).collect::<Vec<_>>();
        found.ok_or_else(|| Refused::unknown("migration", text, &known()))
    }

    fn report(&self, id: &str) -> Result<MigrationReport, Refused> {
        Ok(match &self.migration(id)?.1.stage {
            MoveStage::Running(migration) => migration.report(self.now()),
            MoveStage::Over(report) => (**report).clone(),
        })
    }

    fn list_hosts(&self) -> HostList {
        let hosts = self.hosts.iter().map(|(name, host)| {
            let state = host.state.as_ref();
            HostView {
                name: name.clone(),
                connected: self.connected(name),
                capacity: state.map(|state| state.capacity),
                free: state.map(|state| state.free),
                qemu: state.and_then(|state| state.qemu.clone()),
                qemu_error: state.and_then(|state| state.qemu_error.clone()),
                vms: state
                    .map(|state| state.vms.iter().map(|vm| vm.spec.name.clone()).collect())
                    .unwrap_or_default(),
            }
        });
        HostList {
            hosts: hosts.collect(),
        }
    }

    fn list_clusters(&self) -> ClusterList {
        let clusters = self.clusters.values().map(|cluster| {
            let hosts: BTreeSet<_> = cluster.vms.iter().map(|vm| vm.host.clone()).collect();
            ClusterLine {
                name: cluster.name.clone(),
                vms: cluster.vms.len(),
                hosts: hosts.into_iter().collect(),
                migration: self.move_of(&cluster.name),
            }
        });
        ClusterList {
            clusters: clusters.collect(),
        }
    }

    fn list_migrations(&self) -> MigrationList {
        let migrations = self.moves.iter().map(|(id, one)| {
            let report = match &one.stage {
                MoveStage::Running(migration) => migration.report(self.now()),
                MoveStage::Over(report) => (**report).clone(),
            };
            MigrationLine {
                migration: *id,
                cluster: report.cluster,
                outcome: report.outcome,
                vms: report.vms.len(),
            }
        });
        MigrationList {
            migrations: migrations.collect(),
        }
    }
}
