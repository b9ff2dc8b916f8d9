//! What the API asks of the core, one variant per route.

use transhume_model::ClusterSpec;
use transhume_protocol::report::MigrationReport;

use crate::api::{
    Accepted, ClusterList, ClusterView, ForecastRecord, HostList, MigrationList, MoveOrder, PlanView,
};
use crate::core::{Core, CoreError, Reply};
use crate::history::History;
use crate::survey::Purpose;

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
    Forecasts(Reply<ForecastRecord>),
    Follow(String, Reply<History>),
    Cancel(String, Reply<Accepted>),
}

impl Core {
    /// Answers a request, or begins what it asks for. Whoever asked may have gone; that is no error.
    pub(crate) fn serve(&mut self, request: Request) -> Result<(), CoreError> {
        match request {
            Request::Hosts(reply) => drop(reply.send(Ok(self.hosts.list()))),
            Request::Clusters(reply) => drop(reply.send(Ok(self.list_clusters()))),
            Request::ShowCluster(name, reply) => drop(reply.send(self.show_cluster(&name))),
            Request::CreateCluster(cluster, reply) => self.create_cluster(cluster, reply)?,
            Request::DeleteCluster(name, reply) => self.delete_cluster(&name, reply)?,
            Request::Plan(name, order, reply) => self.survey(&name, &order, Purpose::Show(reply)),
            Request::Move(name, order, reply) => self.survey(&name, &order, Purpose::Move(reply)),
            Request::Migrations(reply) => drop(reply.send(Ok(self.list_migrations()))),
            Request::Report(id, reply) => drop(reply.send(self.report(&id))),
            Request::Forecasts(reply) => drop(reply.send(Ok(self.forecast_record()))),
            Request::Follow(id, reply) => {
                let found = self.move_named(&id).map(|(_, one)| one.history.clone());
                drop(reply.send(found));
            }
            Request::Cancel(id, reply) => {
                let cancelled = self.cancel(&id)?;
                drop(reply.send(cancelled));
            }
        }
        Ok(())
    }
}
