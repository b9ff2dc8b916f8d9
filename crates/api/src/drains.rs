//! Drains: every VM leaves some hosts.

use serde::{Deserialize, Serialize};
use transhume_model::{ClusterName, DrainId, HostName, MigrationId, VmName};
use transhume_planner::Strategy;
use transhume_protocol::migration::Converge;
use transhume_protocol::report::Ending;
use utoipa::ToSchema;

/// `POST /v1/drains` and `POST /v1/drain-plan`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainOrder {
    /// Hosts that every VM leaves; they are cordoned.
    pub hosts: Vec<String>,
    /// Hosts to go to; every other one that is fit for it where empty.
    #[serde(default)]
    pub to: Vec<String>,
    /// k: VMs of a cluster at once; all where absent.
    #[serde(default)]
    pub batch: Option<usize>,
    /// Batches are cut by what links and guests bear; k is then the most at once.
    #[serde(default)]
    pub adaptive: bool,
    /// Stop, copy, start.
    #[serde(default)]
    pub offline: bool,
    /// Budget for the predicted blackout, milliseconds; the coordinator's own where absent.
    #[serde(default)]
    pub blackout_ms_max: Option<u64>,
    /// How long each cluster's move may take, milliseconds.
    #[serde(default)]
    pub duration_ms_max: Option<u64>,
    /// What becomes of a VM that does not get ready; it is waited for where absent.
    #[serde(default)]
    pub converge: Option<Converge>,
    /// How targets are chosen; exactly where absent.
    #[serde(default)]
    pub strategy: Option<Strategy>,
}

/// How far a drain is, or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DrainStage {
    /// Under way.
    Running,
    /// No VM is left on its hosts.
    Done,
    /// VMs are left on its hosts that it cannot move.
    Partly,
    /// Cancelled; what had been moved stays where it is.
    Cancelled,
}

impl DrainStage {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            DrainStage::Running => "running",
            DrainStage::Done => "done",
            DrainStage::Partly => "partly",
            DrainStage::Cancelled => "cancelled",
        }
    }
}

/// A move that a drain began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainMove {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its number.
    pub migration: MigrationId,
    /// How it ended.
    #[serde(default)]
    pub outcome: Option<Ending>,
}

/// VMs that stay on a host that is drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainStay {
    /// Their cluster.
    pub cluster: ClusterName,
    /// The VMs; all of the cluster's that are there where empty.
    pub vms: Vec<VmName>,
    /// What is in the way.
    pub why: String,
}

/// A VM that is left on a host that is drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainLeft {
    /// Its cluster.
    pub cluster: ClusterName,
    /// The VM.
    pub vm: VmName,
    /// Its host.
    pub host: HostName,
}

/// `GET /v1/drains/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainView {
    /// Its number.
    pub drain: DrainId,
    /// Its hosts.
    pub hosts: Vec<HostName>,
    /// How far it is.
    pub stage: DrainStage,
    /// What it does now, in words; absent when it is over.
    #[serde(default)]
    pub doing: Option<String>,
    /// Its moves so far, oldest first.
    pub moves: Vec<DrainMove>,
    /// VMs that are on its hosts now.
    pub left: Vec<DrainLeft>,
    /// VMs that found no place in the last plan, and clusters that could not be moved.
    pub stays: Vec<DrainStay>,
}

/// `GET /v1/drains`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainList {
    /// Oldest first.
    pub drains: Vec<DrainView>,
}

/// What a drain would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainPlanView {
    /// Its hosts.
    pub hosts: Vec<HostName>,
    /// Targets used.
    pub targets_used: usize,
    /// No plan uses fewer.
    pub targets_min: usize,
    /// In the order in which clusters go.
    pub moves: Vec<DrainStep>,
    /// VMs that would stay.
    pub stays: Vec<DrainStay>,
    /// What is worth knowing of it.
    pub notes: Vec<String>,
}

/// One VM of a drain's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainStep {
    /// Its cluster.
    pub cluster: ClusterName,
    /// The VM.
    pub vm: VmName,
    /// Host it leaves.
    pub source: HostName,
    /// Host it goes to.
    pub target: HostName,
}
