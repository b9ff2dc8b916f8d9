//! Clusters and their VMs.

use serde::{Deserialize, Serialize};
use transhume_model::{ClusterName, Demand, HostName, MigrationId, VmName};
use transhume_protocol::message::{GuestState, VmRole};
use utoipa::ToSchema;

/// Where in its life a cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterStage {
    /// Its VMs are being started, all or none.
    Starting,
    /// It is there.
    Live,
    /// Its VMs are being powered off; nothing else can be done with it.
    Ending,
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

/// `GET /v1/clusters/{name}`, and the answer to whatever changes a cluster or one of its VMs.
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

/// What a VM does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VmLife {
    /// Its processors run.
    Running,
    /// They do not: its user paused it, or a switchover is under way.
    Paused,
    /// Stopped by QEMU: a disk did not take what was written.
    DiskError,
    /// Its guest panicked.
    Panicked,
    /// Powered off; its place is kept.
    Off,
    /// The host's agent does not know it.
    Missing,
    /// Something of it is left on a host, and no agent can take it over.
    Stranded,
    /// The host's agent does not answer.
    Unknown,
}

impl VmLife {
    /// All of them.
    pub const ALL: [VmLife; 8] = [
        VmLife::Running,
        VmLife::Paused,
        VmLife::DiskError,
        VmLife::Panicked,
        VmLife::Off,
        VmLife::Missing,
        VmLife::Stranded,
        VmLife::Unknown,
    ];

    /// As JSON and the command line write it.
    pub fn name(self) -> &'static str {
        match self {
            VmLife::Running => GuestState::Running.name(),
            VmLife::Paused => GuestState::Paused.name(),
            VmLife::DiskError => GuestState::DiskError.name(),
            VmLife::Panicked => GuestState::Panicked.name(),
            VmLife::Off => GuestState::Off.name(),
            VmLife::Missing => "missing",
            VmLife::Stranded => "stranded",
            VmLife::Unknown => "unknown",
        }
    }
}

impl From<GuestState> for VmLife {
    fn from(guest: GuestState) -> Self {
        match guest {
            GuestState::Running => VmLife::Running,
            GuestState::Paused => VmLife::Paused,
            GuestState::DiskError => VmLife::DiskError,
            GuestState::Panicked => VmLife::Panicked,
            GuestState::Off => VmLife::Off,
        }
    }
}

/// `POST /v1/clusters/{name}/vms/{vm}/start`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmStart {
    /// Another host than its own, for a VM that its own host does not know any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// `POST /v1/clusters/{name}/vms/{vm}/restart`: on another host, from its disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmRestart {
    /// The host; the VM's own must be fenced.
    pub on: String,
}

/// `POST /v1/clusters/{name}/vms/{vm}/stop`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmStop {
    /// At once, as if its plug were pulled; otherwise its guest is asked.
    #[serde(default)]
    pub force: bool,
}

/// `POST /v1/clusters/{name}/vms/{vm}/check`: what one of the verbs of a VM would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "verb", deny_unknown_fields)]
pub enum VmCheck {
    /// To boot it, on another host than its own where that is named.
    Start {
        /// The other host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
    /// To boot it from its disks on another host.
    Restart {
        /// The host.
        on: String,
    },
    /// To power it off.
    Stop {
        /// At once.
        #[serde(default)]
        force: bool,
    },
    /// To take it out of its cluster.
    Forget,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_has_one_name_for_programs_and_people() {
        for life in VmLife::ALL {
            assert_eq!(serde_json::to_value(life).unwrap(), life.name());
        }
    }
}
