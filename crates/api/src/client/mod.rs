//! A client of a coordinator, or of several of which one leads: over a Unix socket, TLS, or plain
//! TCP; one call per route.

mod error;
mod events;
mod places;
pub(crate) mod sse;
mod transport;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use transhume_model::{ClusterName, ClusterSpec, DrainId, HostName, MigrationId, PlacementRules, VmName};
use transhume_protocol::report::MigrationReport;
use transhume_trust::Trust;

pub use error::ClientError;
pub use events::Events;

use self::places::Places;
use self::transport::{Answer, TransportError};
use crate::{
    Accepted, ClusterList, ClusterView, Decision, DrainList, DrainPlanView, DrainView, ForecastRecord,
    HostFence, HostList, HostView, LinkView, MigrationList, MoveOrder, MoveResolution, PlanView, Verdict,
    VmCheck, VmRestart, VmStart, VmStop,
};

/// Longest wait for an answer that is not a stream.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Longest wait for work of the agents to be done: the coordinator works on a request for 300 s,
/// and says so when they are over.
const WORK_MAX: Duration = Duration::from_secs(310);

/// A coordinator, from the user's side. Nothing is connected until something is asked.
#[derive(Debug, Clone)]
pub struct Client {
    places: Places,
}

impl Client {
    /// The coordinator at `https://HOST:PORT` or `unix:PATH`, or an insecure one at
    /// `http://HOST:PORT`; of several, with commas between, the one that leads. `trust` says who
    /// asks; only the first needs it.
    pub fn new(addresses: &str, trust: Option<Arc<Trust>>) -> Result<Self, ClientError> {
        let places = Places::new(addresses, trust)?;
        Ok(Self { places })
    }

    /// The coordinator behind a Unix socket.
    pub fn unix(path: &Path) -> Self {
        Self::sockets(&[path.to_owned()])
    }

    /// The one that leads of those behind Unix sockets; at least one.
    pub fn sockets(paths: &[PathBuf]) -> Self {
        let places = Places::sockets(paths);
        Self { places }
    }

    /// Where it is looked for.
    pub fn address(&self) -> &str {
        &self.places.address
    }

    /// All hosts.
    pub async fn hosts(&self) -> Result<HostList, ClientError> {
        self.get("/v1/hosts").await
    }

    /// One host.
    pub async fn host(&self, name: &HostName) -> Result<HostView, ClientError> {
        self.get(&format!("/v1/hosts/{name}")).await
    }

    /// Measures the link from one host to another.
    pub async fn check_link(&self, from: &HostName, to: &HostName) -> Result<LinkView, ClientError> {
        let path = format!("/v1/hosts/{from}/links/{to}/check");
        self.send(Method::POST, &path, &(), ANSWER_MAX).await
    }

    /// The host is off.
    pub async fn fence_host(&self, name: &HostName, fence: &HostFence) -> Result<Verdict, ClientError> {
        let path = format!("/v1/hosts/{name}/fence");
        self.work(Method::POST, &path, fence).await
    }

    /// `cordon`, `uncordon` or `forget`.
    pub async fn decide_host(
        &self,
        name: &HostName,
        verb: &str,
        decision: Decision,
    ) -> Result<Verdict, ClientError> {
        let path = format!("/v1/hosts/{name}/{verb}");
        self.send(Method::POST, &path, &decision, ANSWER_MAX).await
    }

    /// Where VMs run whose other host is lost.
    pub async fn resolve(
        &self,
        migration: MigrationId,
        resolution: &MoveResolution,
    ) -> Result<Verdict, ClientError> {
        let path = format!("/v1/migrations/{migration}/resolve");
        self.send(Method::POST, &path, resolution, ANSWER_MAX).await
    }

    /// Opens the plug of a VM whose source is lost.
    pub async fn open_plug(
        &self,
        cluster: &ClusterName,
        vm: &VmName,
        decision: Decision,
    ) -> Result<Verdict, ClientError> {
        let path = format!("/v1/clusters/{cluster}/vms/{vm}/open-plug");
        self.send(Method::POST, &path, &decision, ANSWER_MAX).await
    }

    /// Boots a VM from its disks on another host, its own being fenced.
    pub async fn restart_vm(
        &self,
        cluster: &ClusterName,
        vm: &VmName,
        restart: &VmRestart,
    ) -> Result<ClusterView, ClientError> {
        let path = format!("/v1/clusters/{cluster}/vms/{vm}/restart");
        self.work(Method::POST, &path, restart).await
    }

    /// Which VM would go where, were these hosts drained.
    pub async fn plan_drain(&self, order: &MoveOrder) -> Result<DrainPlanView, ClientError> {
        self.send(Method::POST, "/v1/drain-plan", order, ANSWER_MAX).await
    }

    /// Begins to move every VM off these hosts; it goes on whoever listens.
    pub async fn drain(&self, order: &MoveOrder) -> Result<DrainView, ClientError> {
        self.send(Method::POST, "/v1/drains", order, ANSWER_MAX).await
    }

    /// Drains that are under way or kept, oldest first.
    pub async fn drains(&self) -> Result<DrainList, ClientError> {
        self.get("/v1/drains").await
    }

    /// One drain.
    pub async fn show_drain(&self, drain: DrainId) -> Result<DrainView, ClientError> {
        self.get(&format!("/v1/drains/{drain}")).await
    }

    /// Begins nothing more; a move under way goes on.
    pub async fn cancel_drain(&self, drain: DrainId) -> Result<DrainView, ClientError> {
        let path = format!("/v1/drains/{drain}/cancel");
        self.send(Method::POST, &path, &(), ANSWER_MAX).await
    }

    /// All clusters.
    pub async fn clusters(&self) -> Result<ClusterList, ClientError> {
        self.get("/v1/clusters").await
    }

    /// One cluster.
    pub async fn cluster(&self, name: &ClusterName) -> Result<ClusterView, ClientError> {
        self.get(&format!("/v1/clusters/{name}")).await
    }

    /// Starts a cluster; the answer comes when every VM runs.
    pub async fn create_cluster(&self, spec: &ClusterSpec) -> Result<ClusterView, ClientError> {
        self.work(Method::POST, "/v1/clusters", spec).await
    }

    /// Powers a cluster off and forgets it.
    pub async fn delete_cluster(&self, name: &ClusterName) -> Result<ClusterView, ClientError> {
        let path = format!("/v1/clusters/{name}");
        self.work(Method::DELETE, &path, &()).await
    }

    /// Forgets a cluster whose hosts never come back.
    pub async fn forget_cluster(
        &self,
        name: &ClusterName,
        decision: Decision,
    ) -> Result<Verdict, ClientError> {
        let path = format!("/v1/clusters/{name}/forget");
        self.send(Method::POST, &path, &decision, ANSWER_MAX).await
    }

    /// What a cluster's VMs ask of their hosts.
    pub async fn rules(&self, name: &ClusterName) -> Result<PlacementRules, ClientError> {
        self.get(&format!("/v1/clusters/{name}/rules")).await
    }

    /// Puts these in place of what they asked.
    pub async fn set_rules(
        &self,
        name: &ClusterName,
        rules: &PlacementRules,
    ) -> Result<PlacementRules, ClientError> {
        let path = format!("/v1/clusters/{name}/rules");
        self.send(Method::PUT, &path, rules, ANSWER_MAX).await
    }

    /// Boots a VM that is powered off or missing.
    pub async fn start_vm(
        &self,
        cluster: &ClusterName,
        vm: &VmName,
        start: &VmStart,
    ) -> Result<ClusterView, ClientError> {
        let path = format!("/v1/clusters/{cluster}/vms/{vm}/start");
        self.work(Method::POST, &path, start).await
    }

    /// Powers a VM off; its place stays.
    pub async fn stop_vm(
        &self,
        cluster: &ClusterName,
        vm: &VmName,
        stop: &VmStop,
    ) -> Result<ClusterView, ClientError> {
        let path = format!("/v1/clusters/{cluster}/vms/{vm}/stop");
        self.work(Method::POST, &path, stop).await
    }

    /// What a verb of a VM would do, and what may be lost by it; nothing is changed.
    pub async fn check_vm(
        &self,
        cluster: &ClusterName,
        vm: &VmName,
        check: &VmCheck,
    ) -> Result<Verdict, ClientError> {
        let path = format!("/v1/clusters/{cluster}/vms/{vm}/check");
        self.send(Method::POST, &path, check, ANSWER_MAX).await
    }

    /// Takes a VM that is off or missing out of its cluster.
    pub async fn forget_vm(&self, cluster: &ClusterName, vm: &VmName) -> Result<ClusterView, ClientError> {
        let path = format!("/v1/clusters/{cluster}/vms/{vm}");
        self.work(Method::DELETE, &path, &()).await
    }

    /// Which VM would go where; nothing is changed.
    pub async fn plan(&self, cluster: &ClusterName, order: &MoveOrder) -> Result<PlanView, ClientError> {
        let path = format!("/v1/clusters/{cluster}/plan");
        self.send(Method::POST, &path, order, ANSWER_MAX).await
    }

    /// Begins a move; it goes on whoever listens. One that may wait for its links is answered when
    /// it begins, or as too slow.
    pub async fn migrate(&self, cluster: &ClusterName, order: &MoveOrder) -> Result<Accepted, ClientError> {
        let path = format!("/v1/clusters/{cluster}/migrations");
        let limit = if order.wait { WORK_MAX } else { ANSWER_MAX };
        self.send(Method::POST, &path, order, limit).await
    }

    /// All moves that are kept, oldest first.
    pub async fn migrations(&self) -> Result<MigrationList, ClientError> {
        self.get("/v1/migrations").await
    }

    /// The report of a move; of one under way, as of now.
    pub async fn report(&self, migration: MigrationId) -> Result<MigrationReport, ClientError> {
        self.get(&format!("/v1/migrations/{migration}")).await
    }

    /// The events of a move numbered above `after`, then live until it is over.
    pub async fn events(&self, migration: MigrationId, after: u64) -> Result<Events, ClientError> {
        let path = format!("/v1/migrations/{migration}/events?after={after}");
        let response = self.answer(Method::GET, &path, None).await?;
        Ok(Events::new(response, self.places.address.clone()))
    }

    /// Before commit the batch rolls back; after it, no further batch begins.
    pub async fn cancel(&self, migration: MigrationId) -> Result<Accepted, ClientError> {
        let path = format!("/v1/migrations/{migration}/cancel");
        self.send(Method::POST, &path, &(), ANSWER_MAX).await
    }

    /// How good the forecasts of all moves that are kept have been.
    pub async fn forecasts(&self) -> Result<ForecastRecord, ClientError> {
        self.get("/v1/forecasts").await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.parsed(Method::GET, path, None, ANSWER_MAX).await
    }

    async fn work<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.send(method, path, body, WORK_MAX).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        answer_max: Duration,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).expect("orders have string keys");
        self.parsed(method, path, Some(body), answer_max).await
    }

    async fn parsed<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        answer_max: Duration,
    ) -> Result<T, ClientError> {
        let answered = async {
            let mut answer = self.answer(method, path, body).await?;
            answer.bytes().await.map_err(|source| self.unreachable(source))
        };
        let late = |_| Err(self.unreachable(io::Error::from(io::ErrorKind::TimedOut).into()));
        let body = timeout(answer_max, answered).await.unwrap_or_else(late)?;
        serde_json::from_slice(&body).map_err(|source| ClientError::Document {
            address: self.places.address.clone(),
            source,
        })
    }

    /// The head of an answer that is a success.
    async fn answer(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Answer, ClientError> {
        self.places.ask(&method, path, body.as_deref()).await
    }

    fn unreachable(&self, source: TransportError) -> ClientError {
        ClientError::Unreachable {
            address: self.places.address.clone(),
            source: source.into(),
        }
    }
}
