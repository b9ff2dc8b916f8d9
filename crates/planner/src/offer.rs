//! The two lists of §3.2: what the hosts of S2 offer (message B), and what the VMs on S1 request.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use transhume_model::{Capacity, Demand, HostName, VmName};

/// Message B: what one host of S2 has free, without the VMs that are to move.
/// [`place()`](crate::place()) adds those of the cluster that run there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The host.
    pub host: HostName,
    /// Its free resources at this moment.
    pub free: Capacity,
}

/// The offers of all hosts of S2, each host once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offers(BTreeMap<HostName, Capacity>);

/// Why offers cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// A host offered twice.
    #[error("host {0} is named twice among the targets")]
    DuplicateHost(HostName),
}

impl Offers {
    /// Collects the answers to message A.
    pub fn new(answers: impl IntoIterator<Item = Offer>) -> Result<Self, OfferError> {
        let mut offers = BTreeMap::new();
        for Offer { host, free } in answers {
            if offers.insert(host.clone(), free).is_some() {
                return Err(OfferError::DuplicateHost(host));
            }
        }
        Ok(Self(offers))
    }

    /// What a host offers; `None` for a host outside S2.
    pub fn free(&self, host: &HostName) -> Option<Capacity> {
        self.0.get(host).copied()
    }

    /// Hosts with their offers, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&HostName, &Capacity)> {
        self.0.iter()
    }

    /// N(S2), the hosts offered.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no host offers anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One VM of the cluster that runs on S1 and needs a place on S2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The VM.
    pub vm: VmName,
    /// Where it runs now. When this host is in S2 too, the VM may stay.
    pub source: HostName,
    /// What it needs.
    pub demand: Demand,
}

/// A resource that can be short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// Virtual processors.
    Vcpus,
    /// Memory, in MiB.
    Memory,
}

impl Resource {
    /// All of them, in the order the search uses.
    pub(crate) const ALL: [Resource; 2] = [Resource::Vcpus, Resource::Memory];

    /// An amount with its unit, as messages show it.
    pub fn show(self, amount: u64) -> String {
        match self {
            Resource::Vcpus => format!("{amount} vCPU"),
            Resource::Memory => format!("{amount} MiB of memory"),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Resource::Vcpus => "vCPUs",
            Resource::Memory => "memory",
        })
    }
}
