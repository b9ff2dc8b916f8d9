//! Hosts.

use serde::{Deserialize, Serialize};
use transhume_model::{Capacity, HostName, VmName};
use transhume_protocol::message::{BandsState, QemuState, Stranded};
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
    /// Its clock beside the coordinator's; `None` until it was measured.
    #[serde(default)]
    pub clock: Option<ClockView>,
}

/// A host's clock beside the coordinator's, as measured over the link to its agent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClockView {
    /// How far it is ahead, milliseconds; negative: behind.
    pub offset_ms: f64,
    /// How far off that may be at most, milliseconds.
    pub uncertainty_ms: f64,
}
