//! What a virtual machine and a cluster of them are made of.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ClusterName, HostName, Mac, Mebibytes, PlacementRules, Vcpus, VmName};

/// A QEMU machine type with its version, like `pc-q35-10.0`. Both sides of a move must know the
/// same one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct MachineType(pub String);

impl fmt::Display for MachineType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One network interface (virtio-net on a tap).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NicSpec {
    /// Its address; stays the same wherever the VM runs.
    pub mac: Mac,
    /// Largest IP packet in bytes, 68 (RFC 791) to 9000.
    pub mtu: u16,
}

/// One block device (virtio-blk). The contents are shared storage: both hosts of a move reach the
/// same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Disk {
    /// An export of an NBD server, raw format.
    Nbd {
        /// Address of the server, as the host sees it.
        host: String,
        /// Its TCP port.
        port: u16,
        /// Name of the export.
        export: String,
    },
    /// A raw file on a file system that all hosts mount.
    File {
        /// Absolute path.
        #[schema(value_type = String)]
        path: PathBuf,
    },
}

/// Direct kernel boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// Kernel image, an absolute path on every host.
    #[schema(value_type = String)]
    pub kernel: PathBuf,
    /// Initial ramdisk, an absolute path on every host.
    #[schema(value_type = String)]
    pub initrd: PathBuf,
    /// Kernel command line.
    pub cmdline: String,
}

/// Everything needed to start a VM, or to receive it on another host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// Unique name.
    pub name: VmName,
    /// The cluster it belongs to.
    pub cluster: ClusterName,
    /// Virtual processors.
    pub vcpus: Vcpus,
    /// Memory of the guest.
    pub memory: Mebibytes,
    /// Machine type; filled in by the first host that starts it where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineType>,
    /// Network interfaces, at least one.
    pub nics: Vec<NicSpec>,
    /// Block devices.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// What it boots.
    pub boot: Boot,
}

impl VmSpec {
    /// What it asks of a host.
    pub fn demand(&self) -> Demand {
        Demand {
            vcpus: self.vcpus,
            memory: self.memory,
        }
    }
}

/// What a VM asks of a host (§3.2: the needed amount of resources).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Demand {
    /// Virtual processors.
    pub vcpus: Vcpus,
    /// Guest memory.
    pub memory: Mebibytes,
}

/// A VM and the host it is to run on first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlacedVm {
    /// Host that starts it.
    pub host: HostName,
    /// The VM.
    pub spec: VmSpec,
}

/// The virtual distributed system: `DS(V, S1, ID)` of §3.2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterSpec {
    /// Its id, independent of the hosts.
    pub name: ClusterName,
    /// Its VMs and where they start.
    pub vms: Vec<PlacedVm>,
    /// Where its VMs may be.
    #[serde(default, skip_serializing_if = "PlacementRules::is_empty")]
    pub rules: PlacementRules,
}
