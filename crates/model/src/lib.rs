//! The nouns of Transhume: ids, quantities, and the descriptions of VMs, hosts and clusters.
//!
//! Everything that crosses a crate boundary is a type from here, never a bare `u64` or `String`.
//! Pure: no clock, no files, no sockets, no tokio.
#![forbid(unsafe_code)]

mod endpoint;
mod host;
mod id;
mod interval;
mod mac;
mod process;
mod quantity;
mod rate;
mod rules;
mod vm;

pub use endpoint::{Endpoint, Secret};
pub use host::{Band, BandAddresses, Capacity, HostSpec, Version};
pub use id::{
    ClusterName, DrainId, Epoch, HostName, IdError, MigrationId, NicIndex, OrderId, UserName, VmName,
};
pub use interval::Interval;
pub use mac::{Mac, MacError};
pub use process::ProcessId;
pub use quantity::{Bytes, Mebibytes, Millis, Vcpus, WallMicros};
pub use rate::{BandRates, BitRate, RateError};
pub use rules::{Group, GroupKind, PlacementRules, VmRules};
pub use vm::{Boot, ClusterSpec, Demand, Disk, MachineType, NicSpec, PlacedVm, VmSpec};
