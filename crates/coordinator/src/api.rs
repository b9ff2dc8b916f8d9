//! What goes over the HTTP API; the CLI uses these very types.

use serde::{Deserialize, Serialize};
use transhume_model::{Capacity, ClusterName, Demand, HostName, MigrationId, VmName};
use transhume_planner::Strategy;
use transhume_protocol::forecast::{Comparison, MoveForecast};
use transhume_protocol::message::{QemuState, VmRole};
use transhume_protocol::report::Ending;
use utoipa::ToSchema;

pub use crate::journal::ClusterStage;

/// Any answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// For programs; stable.
    pub code: String,
    /// For people: names the thing.
    pub message: String,
    /// What would help.
    pub hint: String,
}

/// `GET /v1/hosts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostList {
    /// By name.
    pub hosts: Vec<HostView>,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostView {
    /// Its name.
    pub name: HostName,
    /// Whether its agent answers.
    pub connected: bool,
    /// Why it does not.
    #[serde(default)]
    pub away: Option<String>,
    /// What it may promise in all; as last heard.
    pub capacity: Option<Capacity>,
    /// What is not promised yet; as last heard.
    pub free: Option<Capacity>,
    /// Its QEMU.
    pub qemu: Option<QemuState>,
    /// Why there is none.
    pub qemu_error: Option<String>,
    /// VMs there.
    pub vms: Vec<VmName>,
}

/// `GET /v1/clusters`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterList {
    /// By name.
    pub clusters: Vec<ClusterLine>,
}

/// A cluster in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterLine {
    /// Its name.
    pub name: ClusterName,
    /// Where in its life it is.
    pub stage: ClusterStage,
    /// Number of VMs.
    pub vms: usize,
    /// Hosts it lives on.
    pub hosts: Vec<HostName>,
    /// The move under way.
    pub migration: Option<MigrationId>,
}

/// `GET /v1/clusters/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterView {
    /// Its name.
    pub name: ClusterName,
    /// Where in its life it is.
    pub stage: ClusterStage,
    /// The move under way.
    pub migration: Option<MigrationId>,
    /// Its VMs.
    pub vms: Vec<VmView>,
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmView {
    /// Its name.
    pub id: VmName,
    /// Where the journal says it lives.
    pub host: HostName,
    /// What the host's agent says of it.
    pub state: VmLife,
    /// Where in a move it is.
    pub role: Option<VmRole>,
    /// What it needs of a host.
    pub demand: Demand,
}

/// Whether a VM runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VmLife {
    /// Its processors run.
    Running,
    /// They do not.
    Paused,
    /// The host's agent does not know it.
    Missing,
    /// The host's agent does not answer.
    Unknown,
}

/// `POST /v1/clusters/{name}/plan` and `…/migrations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveOrder {
    /// S1: hosts to leave.
    pub from: Vec<String>,
    /// S2: hosts to go to.
    pub to: Vec<String>,
    /// k: VMs per batch; all in one where absent.
    #[serde(default)]
    pub batch: Option<usize>,
    /// Stop, copy, start.
    #[serde(default)]
    pub offline: bool,
    /// Budget for the predicted blackout, milliseconds; the coordinator's own where absent.
    #[serde(default)]
    pub blackout_ms_max: Option<u64>,
    /// How targets are chosen; exactly where absent.
    #[serde(default)]
    pub strategy: Option<Strategy>,
}

/// Answer to a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    /// The cluster.
    pub cluster: ClusterName,
    /// k.
    pub batch: usize,
    /// N(S2).
    pub hosts_used: usize,
    /// No placement can use fewer.
    pub hosts_min: usize,
    /// VMs in the order in which they go.
    pub moves: Vec<PlannedMove>,
    /// VMs that stay where they are.
    pub stay: Vec<VmName>,
    /// What to expect of the move.
    pub forecast: MoveForecast,
}

/// One VM of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedMove {
    /// The VM.
    pub vm: VmName,
    /// Its batch, from 1.
    pub batch: usize,
    /// Host it leaves.
    pub source: HostName,
    /// Host it goes to.
    pub target: HostName,
}

/// Answer to a request to move, and to a cancel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    /// The move's number.
    pub migration: MigrationId,
}

/// `GET /v1/migrations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrationList {
    /// Oldest first.
    pub migrations: Vec<MigrationLine>,
}

/// A move in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrationLine {
    /// Its number.
    pub migration: MigrationId,
    /// The cluster.
    pub cluster: ClusterName,
    /// How it ended, or that it runs.
    pub outcome: Ending,
    /// Number of VMs.
    pub vms: usize,
}

/// `GET /v1/forecasts`: how good forecasts have been.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct ForecastRecord {
    /// Committed moves that had a forecast, oldest first.
    pub migrations: Vec<ForecastLine>,
    /// Bytes of each VM.
    pub bytes: Score,
    /// Time of each VM's move.
    pub duration_ms: Score,
    /// Blackout of each VM.
    pub blackout_ms: Score,
}

/// Forecast and truth of a move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ForecastLine {
    /// Its number.
    pub migration: MigrationId,
    /// The cluster.
    pub cluster: ClusterName,
    /// Number of VMs.
    pub vms: usize,
    /// The whole move.
    pub figures: Comparison,
}

/// How often the truth was inside the forecast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Score {
    /// So often.
    pub inside: usize,
    /// Of so many VMs.
    pub of: usize,
}
