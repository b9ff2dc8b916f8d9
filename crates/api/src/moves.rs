//! Plans and moves.

use serde::{Deserialize, Serialize};
use transhume_model::{ClusterName, HostName, MigrationId, VmName};
use transhume_planner::Strategy;
use transhume_protocol::forecast::MoveForecast;
use transhume_protocol::migration::Converge;
use transhume_protocol::report::Ending;
use utoipa::ToSchema;

/// `POST /v1/clusters/{name}/plan` and `…/migrations`; for all clusters `POST /v1/drain-plan` and
/// `/v1/drains`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveOrder {
    /// S1: hosts to leave.
    pub from: Vec<String>,
    /// S2: hosts to go to. Empty for a drain: every other one that is fit for it.
    #[serde(default)]
    pub to: Vec<String>,
    /// k: VMs per batch; all in one where absent.
    #[serde(default)]
    pub batch: Option<usize>,
    /// Batches are cut by what links and guests bear, and anew while the move runs; k is then the
    /// most at once.
    #[serde(default)]
    pub adaptive: bool,
    /// Stop, copy, start.
    #[serde(default)]
    pub offline: bool,
    /// Budget for the predicted blackout, milliseconds; the coordinator's own where absent.
    #[serde(default)]
    pub blackout_ms_max: Option<u64>,
    /// How long the move may take in all, milliseconds: what is not committed by then rolls back.
    #[serde(default)]
    pub duration_ms_max: Option<u64>,
    /// What becomes of a VM that does not get ready; it is waited for where absent.
    #[serde(default)]
    pub converge: Option<Converge>,
    /// How targets are chosen; exactly where absent.
    #[serde(default)]
    pub strategy: Option<Strategy>,
    /// The hosts of S1 die after so many milliseconds: what matters most goes first.
    #[serde(default)]
    pub safe_by_ms: Option<u64>,
    /// VMs that have no place stay where they are, and the others go; without it nothing moves
    /// then.
    #[serde(default)]
    pub partial: bool,
    /// Refused where a group of the cluster would be broken for a while.
    #[serde(default)]
    pub strict: bool,
    /// A plan comes with a picture.
    #[serde(default)]
    pub draw: bool,
    /// Where the links are taken by other moves: begin when they are over, instead of being
    /// refused. A drain waits in any case.
    #[serde(default)]
    pub wait: bool,
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
    /// VMs that find no place, and stay.
    #[serde(default)]
    pub unplaced: Vec<StaysBehind>,
    /// What is worth knowing of it: groups that are broken for a while, VMs and hosts that have no
    /// part in it.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Why these hosts, this order, this k.
    #[serde(default)]
    pub explanation: Vec<String>,
    /// The hosts before and after, as SVG, where it was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
    /// What to expect of the move.
    pub forecast: MoveForecast,
}

/// VMs that find no place: one, or several that have to share a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StaysBehind {
    /// The VMs.
    pub vms: Vec<VmName>,
    /// They are in the way: their host was to be left.
    pub must_leave: bool,
    /// What is in the way of them.
    pub why: String,
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
    /// What is worth knowing of it before it ends: who stays, who is not safe in time, groups that
    /// are broken for a while.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
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
