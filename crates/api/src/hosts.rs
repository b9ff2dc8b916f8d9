//! Hosts.

use serde::{Deserialize, Serialize};
use transhume_model::{Capacity, HostName, VmName, WallMicros};
use transhume_protocol::message::{BandsState, CertificateState, QemuState, Stranded};
use transhume_protocol::migration::RunOn;
use utoipa::ToSchema;

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
    /// Its agent's release; `None` up to 0.3.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Version of the messages that its agent and the coordinator speak.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u16>,
    /// What it may promise in all; as last reported.
    pub capacity: Option<Capacity>,
    /// What is not promised yet; as last reported.
    pub free: Option<Capacity>,
    /// Its QEMU.
    pub qemu: Option<QemuState>,
    /// Why there is none.
    pub qemu_error: Option<String>,
    /// VMs there.
    pub vms: Vec<VmName>,
    /// What is there and its agent cannot take over.
    #[serde(default)]
    pub stranded: Vec<Stranded>,
    /// How its links are divided; `None` where nothing is configured.
    #[serde(default)]
    pub bands: Option<BandsState>,
    /// Its agent's links are in the clear.
    #[serde(default)]
    pub insecure: bool,
    /// Its agent's certificate; `None` where it has none.
    #[serde(default)]
    pub certificate: Option<CertificateState>,
    /// Its clock beside the coordinator's; `None` until it was measured.
    #[serde(default)]
    pub clock: Option<ClockView>,
    /// Since when it counts as powered off, by an operator's word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced_at: Option<WallMicros>,
    /// Nothing is put on it.
    #[serde(default)]
    pub cordoned: bool,
    /// VMs of which something is to be cleaned away there before it is used again.
    #[serde(default)]
    pub leftovers: Vec<VmName>,
}

/// `POST /v1/hosts/{name}/fence`: the host is off, or is switched off by its fence agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostFence {
    /// The operator's word that it is. Without it the host's fence agent is run, the command that
    /// the coordinator's configuration names, and its success says so.
    #[serde(default)]
    pub powered_off: bool,
    /// Although its agent answers.
    #[serde(default)]
    pub force: bool,
    /// Only says what would follow.
    #[serde(default)]
    pub dry_run: bool,
}

/// A decision without anything to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Decision {
    /// Only says what would follow.
    pub dry_run: bool,
}

/// `POST /v1/migrations/{id}/resolve`: where a VM runs whose other host is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveResolution {
    /// The VM; all that wait for a decision where absent.
    #[serde(default)]
    pub vm: Option<String>,
    /// Where.
    pub run_on: RunOn,
    /// On its source although it may have run on its target and written its disks.
    #[serde(default)]
    pub although_it_may_have_run: bool,
    /// Only says what would follow.
    #[serde(default)]
    pub dry_run: bool,
}

/// What an operator's decision does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Verdict {
    /// Whether it is done, or only was asked for.
    pub done: bool,
    /// What.
    pub what: String,
    /// What may be lost by it.
    pub may_be_lost: Vec<String>,
}

impl Verdict {
    /// Not done yet.
    pub fn planned(what: String, may_be_lost: Vec<String>) -> Self {
        Verdict {
            done: false,
            what,
            may_be_lost,
        }
    }
}

/// A host's clock beside the coordinator's, as measured over the link to its agent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClockView {
    /// How far it is ahead, milliseconds; negative: behind.
    pub offset_ms: f64,
    /// How far off that may be at most, milliseconds.
    pub uncertainty_ms: f64,
}
