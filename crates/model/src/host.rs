//! What a physical host is and offers.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Demand, HostName, Mebibytes, Vcpus};

/// The three kinds of network traffic (§3.1). Every socket knows its band.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Band {
    /// Cluster traffic: the guests' own frames, the buffers' tunnel and the coordinator's orders.
    Ct,
    /// Migration of memory contents.
    Vmct,
    /// Network-attached storage.
    Nast,
}

impl Band {
    /// All three, in the order of the paper.
    pub const ALL: [Band; 3] = [Band::Ct, Band::Vmct, Band::Nast];
}

impl fmt::Display for Band {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Band::Ct => "CT",
            Band::Vmct => "VMCT",
            Band::Nast => "NAST",
        })
    }
}

/// A host as the coordinator's configuration names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    /// Unique name.
    pub name: HostName,
    /// Where its agent listens for orders (CT band).
    pub control: SocketAddr,
    /// Speed of its migration link (VMCT band), Mbit/s in each direction, for forecasts; assumed
    /// where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmct_mbit_s: Option<u32>,
    /// What the selectors of VMs look at, like `zone = "a"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Command that switches it off, program and arguments; success means that it is off. None
    /// where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fence: Vec<String>,
}

/// Amounts of the two resources the first path accounts for (§2.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub struct Capacity {
    /// Virtual processors that may be promised to VMs.
    pub vcpus: Vcpus,
    /// Memory that may be promised to VMs.
    pub memory: Mebibytes,
}

impl Capacity {
    /// Whether a demand fits.
    pub fn holds(&self, demand: &Demand) -> bool {
        self.vcpus >= demand.vcpus && self.memory >= demand.memory
    }

    /// What is left after a demand; zero where it does not fit.
    pub fn minus(&self, demand: &Demand) -> Capacity {
        Capacity {
            vcpus: self.vcpus - demand.vcpus,
            memory: self.memory - demand.memory,
        }
    }

    /// What is there when a demand is given back.
    pub fn plus(&self, demand: &Demand) -> Capacity {
        Capacity {
            vcpus: self.vcpus + demand.vcpus,
            memory: self.memory + demand.memory,
        }
    }
}

/// A QEMU version; ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// Major number.
    pub major: u16,
    /// Minor number.
    pub minor: u16,
    /// Patch level.
    pub micro: u16,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// Where a host's agent binds, by band.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BandAddresses {
    /// Orders and tunnels.
    pub ct: IpAddr,
    /// Page streams.
    pub vmct: IpAddr,
}
