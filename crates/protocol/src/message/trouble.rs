//! Why an order was not carried out, and what broke.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why an order was refused, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// The epoch is older than the one held for the VM.
    StaleEpoch,
    /// No such VM here.
    UnknownVm,
    /// A VM of that name is here already.
    AlreadyHere,
    /// The VM is in another step than the order expects.
    WrongState,
    /// Too little CPU or memory is free.
    NoCapacity,
    /// QEMU is missing, too old, or lacks a capability.
    Qemu,
    /// The machine type is not known to this QEMU.
    MachineType,
    /// The host's network carries smaller packets than the VM's MTU.
    Mtu,
    /// A disk cannot be reached from here.
    Disk,
    /// An address or name is taken.
    AddressInUse,
    /// A file the VM boots from is missing.
    BootFile,
    /// Something of the VM is here that the agent cannot take over: nobody may use its name or
    /// disks until that is resolved.
    Stranded,
    /// The VM is powered off.
    PoweredOff,
    /// The host belongs to another fleet.
    OtherFleet,
    /// A newer coordinator of the fleet has been obeyed here.
    OldTerm,
    /// The agent does not understand the order: it is of a newer release.
    UnknownOrder,
}

impl RefusalKind {
    /// All of them.
    pub const ALL: [RefusalKind; 16] = [
        RefusalKind::StaleEpoch,
        RefusalKind::UnknownVm,
        RefusalKind::AlreadyHere,
        RefusalKind::WrongState,
        RefusalKind::NoCapacity,
        RefusalKind::Qemu,
        RefusalKind::MachineType,
        RefusalKind::Mtu,
        RefusalKind::Disk,
        RefusalKind::AddressInUse,
        RefusalKind::BootFile,
        RefusalKind::Stranded,
        RefusalKind::PoweredOff,
        RefusalKind::OtherFleet,
        RefusalKind::OldTerm,
        RefusalKind::UnknownOrder,
    ];
}

/// An order that was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people: what, with names and amounts.
    pub reason: String,
    /// What would help.
    pub hint: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// What broke, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// The buffer is about to exceed `buffer_bytes_max`.
    BufferLimit,
    /// The buffers' tunnel broke.
    Tunnel,
    /// The page stream broke.
    PageStream,
    /// A QEMU process ended or stopped answering.
    Qemu,
    /// The network of the host refused an operation.
    Network,
    /// The agent restarted and cannot go on with this step.
    AgentRestarted,
    /// The agent cannot write its records: its state directory is full or read-only.
    Record,
    /// The guest powered itself off.
    PoweredOff,
    /// A host is lost for good.
    HostLost,
    /// What a source had captured went with its host's memory: the host was started anew.
    SpoolLost,
    /// What had come of a VM is gone, and it was never told to run: its disks are as they were.
    NeverRan,
    /// Anything else.
    Internal,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [FaultKind; 12] = [
        FaultKind::BufferLimit,
        FaultKind::Tunnel,
        FaultKind::PageStream,
        FaultKind::Qemu,
        FaultKind::Network,
        FaultKind::AgentRestarted,
        FaultKind::Record,
        FaultKind::PoweredOff,
        FaultKind::HostLost,
        FaultKind::SpoolLost,
        FaultKind::NeverRan,
        FaultKind::Internal,
    ];
}

/// Something broke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// For programs.
    pub kind: FaultKind,
    /// For people.
    pub reason: String,
    /// What would help, where whoever met the trouble knows better than its kind says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Fault {
    /// A fault whose kind says well enough what would help.
    pub fn new(kind: FaultKind, reason: impl Into<String>) -> Self {
        Fault {
            kind,
            reason: reason.into(),
            hint: None,
        }
    }

    /// The same, with what would help.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
