//! Drains: every VM of every cluster leaves some hosts. What is ordered is a
//! [`MoveOrder`](crate::MoveOrder) that names no cluster.

use serde::{Deserialize, Serialize};
use transhume_model::{ClusterName, DrainId, HostName, MigrationId, VmName};
use transhume_protocol::report::Ending;
use utoipa::ToSchema;

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
    /// The hosts before and after, as SVG, where it was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
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
