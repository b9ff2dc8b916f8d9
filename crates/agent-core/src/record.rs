//! What an agent remembers of a VM across its own death. Written before what it announces is done.

use serde::{Deserialize, Serialize};
use transhume_model::{Endpoint, Epoch, MigrationId, ProcessId, VmName, VmSpec};
use transhume_protocol::message::{ActivationTimes, GuestState, SourceFrames, TargetFrames};

/// Version of the records that this agent writes. It reads the one before as well, but for VMs that
/// were on their way: their streams had no secret, and go with the agent that had them.
pub const RECORD_VERSION: u16 = 3;
const OLDEST_VERSION: u16 = 2;

/// A VM as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`RECORD_VERSION`] of the agent that wrote it.
    pub version: u16,
    /// The VM.
    pub spec: VmSpec,
    /// Newest epoch held: orders of an older one are refused.
    pub epoch: Epoch,
    /// Where in its life, and in a move, it is.
    pub place: Place,
}

/// The role of a VM on this host, with what a later agent needs to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "role")]
pub enum Place {
    /// About to be started. A QEMU with its mark never ran: it is to be ended.
    Booting {
        /// Why it was off before, if it was here before.
        off: Option<String>,
    },
    /// Lives here.
    Home {
        /// Its QEMU.
        process: ProcessId,
        /// Whether its guest was told to run once.
        started: bool,
        /// What was answered when it came.
        arrival: Option<Arrival>,
    },
    /// Lives here, powered off.
    Off {
        /// Why.
        why: String,
        /// What was answered when it came.
        arrival: Option<Arrival>,
    },
    /// Leaves; the copy here is primary.
    Source {
        /// Its QEMU.
        process: ProcessId,
        /// Which move.
        migration: MigrationId,
        /// What its guest did before it was stopped for the move.
        guest: GuestState,
        /// Frames are, or were, being captured: they lie in the spool.
        capturing: bool,
        /// Frames are being put back; the guest may run already.
        restoring: bool,
        /// The target's tunnel ends, by NIC.
        tunnels: Vec<Endpoint>,
    },
    /// Has left: committed, must never run here again unless a `Reclaim` order says so.
    Left {
        /// Its QEMU; absent where it was powered off.
        process: Option<ProcessId>,
        /// Which move.
        #[serde(default)]
        migration: MigrationId,
        /// What its guest did before it was stopped for the move.
        #[serde(default)]
        guest: GuestState,
        /// The target's tunnel ends, by NIC.
        tunnels: Vec<Endpoint>,
        /// What was answered to `CloseSourceBuffer`.
        closed: Option<SourceFrames>,
    },
    /// Is to come: room is promised.
    Expected {
        /// Which move.
        migration: MigrationId,
        /// Only its place comes.
        powered_off: bool,
    },
    /// About to be prepared. A QEMU with its mark never ran: it is to be ended.
    Preparing {
        /// Which move.
        migration: MigrationId,
    },
    /// Is coming: paused here.
    Target {
        /// Its QEMU.
        process: ProcessId,
        /// Which move.
        migration: MigrationId,
        /// Its own tunnel ends, by NIC.
        tunnels: Vec<Endpoint>,
        /// What its guest did until its source stopped it, as far as that was told.
        #[serde(default)]
        guest: GuestState,
    },
    /// Has come: committed, told to run or about to be.
    Arrived {
        /// Its QEMU.
        process: ProcessId,
        /// Which move.
        migration: MigrationId,
        /// Whether its guest is to run.
        run: bool,
        /// Its own tunnel ends, by NIC.
        tunnels: Vec<Endpoint>,
        /// What was answered to `Activate`.
        activated: Option<ActivationTimes>,
    },
}

/// What was answered to the orders of a move that brought a VM here, for orders that are given
/// again after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// Its own tunnel ends, by NIC.
    pub tunnels: Vec<Endpoint>,
    /// Whether its guest may have been told to run here.
    #[serde(default = "maybe")]
    pub told_to_run: bool,
    /// To `Activate`; `None` where the VM was lost before it ran.
    pub activated: Option<ActivationTimes>,
    /// To `CloseTargetBuffer`; `None` where its buffers were lost with it.
    pub closed: Option<TargetFrames>,
}

/// Of a record that does not say so.
fn maybe() -> bool {
    true
}

/// Why a record cannot be read. It is set aside and reported; the others go on.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Written by another version of this program.
    #[error("the record has version {found}, this agent reads {OLDEST_VERSION} to {RECORD_VERSION}")]
    Version {
        /// As written; 0 where none is.
        found: u64,
    },
    /// It is not a record.
    #[error("the record cannot be understood")]
    Syntax(#[source] serde_json::Error),
}

impl Record {
    /// As it is written.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record has string keys and no failing parts")
    }

    /// Reads what an agent wrote.
    pub fn read(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut value: serde_json::Value = serde_json::from_slice(bytes).map_err(RecordError::Syntax)?;
        let found = value
            .get("version")
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(0);
        if !(u64::from(OLDEST_VERSION)..=u64::from(RECORD_VERSION)).contains(&found) {
            return Err(RecordError::Version { found });
        }
        if found < u64::from(RECORD_VERSION) {
            forget_ends(&mut value);
        }
        serde_json::from_value(value).map_err(RecordError::Syntax)
    }

    /// The recorded QEMU, once there is one.
    pub fn process(&self) -> Option<&ProcessId> {
        match &self.place {
            Place::Booting { .. } | Place::Off { .. } | Place::Expected { .. } | Place::Preparing { .. } => {
                None
            }
            Place::Home { process, .. }
            | Place::Source { process, .. }
            | Place::Target { process, .. }
            | Place::Arrived { process, .. } => Some(process),
            Place::Left { process, .. } => process.as_ref(),
        }
    }
}

/// A record of the version before tells where the tunnels of the move ended that once brought its
/// VM, without their secrets. That move is over; a VM that was on its way keeps what cannot be
/// read.
fn forget_ends(record: &mut serde_json::Value) {
    if let Some(ends) = record.pointer_mut("/place/arrival/tunnels") {
        *ends = serde_json::Value::Array(Vec::new());
    }
}

/// What is to become of a VM's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It takes the place of the old one, durably.
    Write(Box<Record>),
    /// Nothing of the VM is here any more.
    Remove,
}

/// Name of the tap of a VM's NIC. Interface names are short and VM names are not: a hash (FNV-1a)
/// stands for the name.
pub fn tap_name(vm: &VmName, nic: usize) -> String {
    let hash = vm.as_str().bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("th{:010x}n{nic}", hash >> 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tap_names_fit_the_kernel_and_differ() {
        let long = "x".repeat(40);
        let names: Vec<String> = ["vm1", "vm2", &long]
            .iter()
            .map(|name| tap_name(&name.parse().unwrap(), 12))
            .collect();
        assert!(names.iter().all(|name| name.len() <= 15), "{names:?}");
        assert_ne!(names[0], names[1]);
    }

    #[test]
    fn a_record_of_another_version_is_named_as_such() {
        for (text, version) in [("{}", 0), (r#"{"version":1}"#, 1), (r#"{"version":77}"#, 77)] {
            let error = Record::read(text.as_bytes()).unwrap_err();
            assert!(
                matches!(error, RecordError::Version { found } if found == version),
                "{error}"
            );
        }
        assert!(matches!(Record::read(b"{\"ver"), Err(RecordError::Syntax(_))));
        assert!(matches!(
            Record::read(br#"{"version":2,"spec":7}"#),
            Err(RecordError::Syntax(_))
        ));
    }

    /// An agent of the release before wrote addresses alone, and keeps them of a VM at home that
    /// came by a move.
    #[test]
    fn a_vm_at_home_is_read_from_the_version_before_wherever_it_came_from() {
        let spec = serde_json::json!({
            "name": "vm1", "cluster": "lab", "vcpus": 1, "memory": 96, "disks": [],
            "nics": [{ "mac": "52:54:00:00:10:01", "mtu": 1500 }],
            "boot": { "kernel": "/srv/vmlinuz", "initrd": "/srv/initrd.img", "cmdline": "" },
        });
        let spec: VmSpec = serde_json::from_value(spec).unwrap();
        let record = Record {
            version: RECORD_VERSION,
            spec,
            epoch: Epoch(4),
            place: Place::Off {
                why: "it powered itself off".to_owned(),
                arrival: Some(Arrival {
                    tunnels: Vec::new(),
                    told_to_run: true,
                    activated: None,
                    closed: None,
                }),
            },
        };
        let mut older: serde_json::Value = serde_json::from_slice(&record.to_bytes()).unwrap();
        older["version"] = 2.into();
        older["place"]["arrival"]["tunnels"] = serde_json::json!(["10.0.0.2:40001"]);
        let read = Record::read(older.to_string().as_bytes()).unwrap();
        assert_eq!(read.place, record.place);
    }
}
