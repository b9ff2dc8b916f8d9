//! What was seen of the machine, of a move and of the guests after a round.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use transhume_model::{HostName, VmName};

use super::ledger::Counts;
use super::strike::Struck;

/// A QEMU process of the lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QemuSight {
    /// Its process.
    pub pid: i32,
    /// Its VM.
    pub vm: VmName,
    /// The host whose namespace it lives in.
    pub host: HostName,
}

/// A network device of a host that is not the host's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapSight {
    /// The host.
    pub host: HostName,
    /// The device.
    pub name: String,
    /// QEMU processes that hold it.
    pub qemus: Vec<i32>,
}

/// What a host's agent keeps on its disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordSight {
    /// The host.
    pub host: HostName,
    /// The VM.
    pub vm: VmName,
}

/// A file of captured frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolSight {
    /// The host.
    pub host: HostName,
    /// The file.
    pub file: String,
}

/// A guest that answers on its console channel, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSight {
    /// The VM.
    pub vm: VmName,
    /// The host.
    pub host: HostName,
}

/// What the coordinator says of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSight {
    /// The VM.
    pub vm: VmName,
    /// Its host.
    pub host: HostName,
    /// Whether it runs.
    pub running: bool,
    /// The same in the coordinator's word.
    pub state: String,
    /// It still plays a part in a move.
    pub moving: bool,
}

/// What the coordinator says of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSight {
    /// The host.
    pub host: HostName,
    /// Its agent answers.
    pub connected: bool,
    /// VMs that its agent has.
    pub vms: Vec<VmName>,
}

/// The coordinator's view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSight {
    /// A move that it still counts as under way.
    pub migration: Option<u64>,
    /// VMs.
    pub vms: Vec<VmSight>,
    /// Hosts.
    pub hosts: Vec<HostSight>,
}

/// The machine and the coordinator after a round.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// QEMU processes of this lab.
    pub qemus: Vec<QemuSight>,
    /// Guests that answer; asked at every QEMU.
    pub guests: Vec<GuestSight>,
    /// Taps of all hosts.
    pub taps: Vec<TapSight>,
    /// Agents' records.
    pub records: Vec<RecordSight>,
    /// Spool files.
    pub spools: Vec<SpoolSight>,
    /// Namespaces of this lab's prefix that it does not know.
    pub strange_namespaces: Vec<String>,
    /// Namespaces of the lab that are gone.
    pub missing_namespaces: Vec<String>,
    /// Agents and coordinator that do not run.
    pub dead_parts: Vec<String>,
    /// What the coordinator says; `None` where it does not answer.
    pub cluster: Option<ClusterSight>,
}

/// Where a VM of the move came from and was to go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmPlace {
    /// The VM.
    pub vm: VmName,
    /// Its batch, from 1.
    pub batch: usize,
    /// Host it was on.
    pub source: HostName,
    /// Host it was to go to.
    pub target: HostName,
    /// Its blackout by the report.
    pub blackout_ms: Option<f64>,
    /// It went back to its source after commit, by a decision.
    pub reclaimed: bool,
}

/// The move by its report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MoveSight {
    /// It is over.
    pub ended: bool,
    /// How it ended, in the report's word.
    pub outcome: String,
    /// What it waits for, where it is not over and says so.
    pub waits_for: Option<String>,
    /// Its VMs.
    pub vms: Vec<VmPlace>,
    /// When each batch was committed, milliseconds of the wall clock.
    pub committed_at_ms: BTreeMap<usize, i64>,
    /// How long it took by the report.
    pub duration_ms: f64,
    /// The buffers' own account.
    pub frames: Counts,
    /// Frames that came by the old path when it was being closed.
    pub late: u64,
}

/// What the guests lost, doubled and reordered in this round, by their own account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Account {
    /// Counted to the end.
    Counted(Counts),
    /// Not to be had, and why.
    Missing(String),
}

/// All that is known of a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// What struck.
    pub struck: Vec<Struck>,
    /// The move; `None` where it was refused, with the reason.
    pub moved: Result<MoveSight, String>,
    /// The lab's VMs.
    pub vms: Vec<VmName>,
    /// VMs that were lost in this round and have been started again since.
    pub started_again: Vec<VmName>,
    /// Parts that ended without being killed by the storm.
    pub ended_by_themselves: Vec<String>,
    /// The machine.
    pub seen: Sighting,
    /// The guests.
    pub account: Account,
}
