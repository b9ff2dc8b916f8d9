//! What an agent says of its host and of the VMs there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use transhume_model::{
    BandRates, Capacity, Epoch, HostName, MachineType, Mebibytes, Version, VmName, VmSpec, WallMicros,
};
use utoipa::ToSchema;

use super::Fault;

/// Where in its move a VM is, as its agent sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VmRole {
    /// Lives here; no move under way.
    Home,
    /// Leaves; the copy here is primary.
    Source,
    /// Has left: committed, must never run here again.
    Left,
    /// Is to come: reserved, not yet prepared.
    Expected,
    /// Is coming: paused here.
    Target,
    /// Has come: committed and activated, buffers not yet closed.
    Arrived,
    /// Lives here, powered off.
    Off,
}

impl VmRole {
    /// All of them.
    pub const ALL: [VmRole; 7] = [
        VmRole::Home,
        VmRole::Source,
        VmRole::Left,
        VmRole::Expected,
        VmRole::Target,
        VmRole::Arrived,
        VmRole::Off,
    ];
}

/// What a VM's guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GuestState {
    /// Its processors run.
    #[default]
    Running,
    /// Stopped by its user, or by us for the switchover.
    Paused,
    /// Stopped by QEMU: a disk did not take what was written.
    DiskError,
    /// It panicked, and QEMU knows it.
    Panicked,
    /// There is no QEMU, or its guest is powered off.
    Off,
}

impl GuestState {
    /// All of them.
    pub const ALL: [GuestState; 5] = [
        GuestState::Running,
        GuestState::Paused,
        GuestState::DiskError,
        GuestState::Panicked,
        GuestState::Off,
    ];

    /// As the API and the command line say it.
    pub fn name(self) -> &'static str {
        match self {
            GuestState::Running => "running",
            GuestState::Paused => "paused",
            GuestState::DiskError => "disk-error",
            GuestState::Panicked => "panicked",
            GuestState::Off => "off",
        }
    }
}

/// Something that carries an agent's mark and that it cannot take over. It counts as occupied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stranded {
    /// The VM whose name it carries.
    pub vm: VmName,
    /// What it is and why it is left alone, in words: a process with its pid, an interface, a
    /// record.
    pub what: String,
    /// What would help.
    pub hint: String,
}

/// A VM as its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmState {
    /// The VM.
    pub spec: VmSpec,
    /// Where in its move.
    pub role: VmRole,
    /// Newest epoch held.
    pub epoch: Epoch,
    /// What its guest does.
    pub guest: GuestState,
    /// A target: the whole VM is here, as it was sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub whole: bool,
}

/// Message B of §3.2: what a host is, has and holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostState {
    /// Version of the messages that is spoken on this link: the newest that coordinator and agent
    /// have in common.
    pub protocol: u16,
    /// The agent's release; absent up to 0.3.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// The host.
    pub host: HostName,
    /// Differs after each start of the agent.
    pub agent_run: u64,
    /// What it may promise to VMs in all.
    pub capacity: Capacity,
    /// What is not promised yet.
    pub free: Capacity,
    /// Its QEMU; `None` with the reason when unusable.
    pub qemu: Option<QemuState>,
    /// Why `qemu` is `None`.
    pub qemu_error: Option<String>,
    /// Largest guest MTU its bridge carries.
    pub mtu_max: u16,
    /// VMs here.
    pub vms: Vec<VmState>,
    /// What is here and cannot be taken over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stranded: Vec<Stranded>,
    /// How its links are divided; `None` where nothing is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bands: Option<BandsState>,
    /// Why no guest can be slowed down here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_throttle: Option<String>,
    /// Its links are in the clear.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// Its certificate; `None` where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateState>,
    /// Dirty rates, of those VMs that were asked for and could be measured.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dirty: BTreeMap<VmName, DirtyRate>,
}

/// How long a part's certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateState {
    /// Until when.
    pub until: WallMicros,
    /// It is time to renew it: less than a third of its life is left.
    pub ends_soon: bool,
}

/// How a host's links are divided between the bands (§3.1).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BandsState {
    /// What VMCT has of its link, each way; `None` while nobody knows.
    pub vmct: Option<BandRates>,
    /// Times that somebody's change was undone since the agent started.
    pub put_back: u64,
    /// Why they are not as configured.
    pub trouble: Option<Fault>,
}

/// What became of a host's bands between two of its messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum BandsChange {
    /// Somebody changed them, and the agent put them back.
    PutBack,
    /// They are not as configured, and stay so.
    Trouble {
        /// Why.
        fault: Fault,
    },
    /// They are as configured again.
    AsConfigured,
}

impl BandsState {
    /// What is to be told, now that the same agent said something else before. An agent that
    /// started anew counts from 0.
    pub fn change_since(&self, before: &BandsState) -> Option<BandsChange> {
        match (&before.trouble, &self.trouble) {
            (before, Some(fault)) if before.as_ref() != Some(fault) => {
                Some(BandsChange::Trouble { fault: fault.clone() })
            }
            (Some(_), None) => Some(BandsChange::AsConfigured),
            _ if self.put_back > before.put_back => Some(BandsChange::PutBack),
            _ => None,
        }
    }
}

/// How fast a VM writes to its memory, as QEMU estimated it from a sample of its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirtyRate {
    /// Memory that changed in a second, in whole MiB, rounded down.
    pub per_second: Mebibytes,
    /// Pages that were looked at.
    pub sampled_pages: u64,
}

/// A host's usable QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QemuState {
    /// Its version.
    pub version: Version,
    /// Machine types it knows.
    pub machines: Vec<MachineType>,
    /// `kvm` or `tcg`.
    pub accel: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::FaultKind;

    #[test]
    fn a_change_of_the_bands_is_told_once() {
        let state = |put_back, trouble: Option<&str>| BandsState {
            vmct: None,
            put_back,
            trouble: trouble.map(|reason| Fault::new(FaultKind::Network, reason)),
        };
        let change = |now: &BandsState, before: &BandsState| now.change_since(before);
        let (whole, again) = (state(0, None), state(1, None));
        let broken = state(1, Some("no HTB"));
        let trouble = broken.trouble.clone().map(|fault| BandsChange::Trouble { fault });
        assert_eq!(change(&whole, &whole), None);
        assert_eq!(change(&again, &whole), Some(BandsChange::PutBack));
        assert_eq!(change(&whole, &again), None, "an agent that started anew");
        assert_eq!(change(&broken, &again), trouble);
        assert_eq!(change(&broken, &broken), None);
        assert_eq!(change(&again, &broken), Some(BandsChange::AsConfigured));
    }
}
