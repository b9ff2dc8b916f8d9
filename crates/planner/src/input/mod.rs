//! What the planner is given: hosts with their resources, the cluster, and how its VMs may be
//! placed.
//!
//! [`read()`] turns YAML or JSON text into a [`PlanInput`]; the live coordinator builds the same
//! type itself. Amounts are exact decimals ([`Amount`]), so equal inputs give equal plans on every
//! machine.

mod amount;
mod anchors;
mod check;
mod decode;
mod near;
mod steps;
mod text;
mod together;
mod units;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use transhume_model::{ClusterName, HostName, VmName};

pub use amount::{Amount, Ratio};
pub(crate) use amount::{UNIT, as_f64, decimal};
pub use check::check;
pub use near::nearest;
pub(crate) use steps::Steps;
pub use text::{read, read_document};
pub use transhume_model::{Group, GroupKind};

/// Longest accepted text of an inventory, bytes.
pub const TEXT_BYTES_MAX: usize = 64 << 20;
/// Deepest accepted nesting of an inventory.
pub const NESTING_MAX: usize = 16;
/// Most different resources of all hosts together: every host has a figure for each.
pub const RESOURCES_MAX: usize = 64;

/// Most VMs in a cluster: as many times the highest price of one still add up in 64 bits.
pub const VMS_MAX: usize = 1_000_000;

/// Largest weight of a VM.
pub const WEIGHT_MAX: u32 = 1_000_000;

/// The resource whose amount, in MiB, is what a move has to carry.
pub const MEMORY: &str = "memory";

/// Amounts by the name of the resource: `vcpus`, `memory` (MiB), `nic` (Mbit/s), `hugepages`, or
/// any name of the user's.
pub type Amounts = BTreeMap<String, Amount>;

/// Hosts and the cluster to place on them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PlanInput {
    /// All hosts that are a source or may be a target.
    pub hosts: Vec<Host>,
    /// The cluster.
    pub cluster: Cluster,
    /// S1: hosts to leave. Empty: every host that runs a VM of the cluster, those in maintenance
    /// for good. VMs elsewhere keep their hosts, and nothing is asked of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub from: Vec<HostName>,
    /// S2: hosts that may be targets; may overlap with `from`. Hosts in maintenance are never
    /// targets. Empty: every other host, without those that `from` names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub to: Vec<HostName>,
}

/// A physical host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Host {
    /// Unique name.
    #[schemars(with = "String")]
    pub name: HostName,
    /// What it has of each resource; a host with nothing is no target.
    #[serde(deserialize_with = "amount::amounts")]
    pub capacity: Amounts,
    /// How many times over a resource may be promised; 1 where absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub overcommit: BTreeMap<String, Ratio>,
    /// What is promised to others than this cluster, after overcommit.
    #[serde(
        default,
        deserialize_with = "amount::amounts",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub used: Amounts,
    /// What selectors look at.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Processor model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// A host in maintenance is never a target, and its VMs leave where `from` is empty or names
    /// it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub maintenance: bool,
    /// Bandwidth of its links.
    #[serde(default)]
    pub bands: Bands,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Bandwidth of a host's link in each band (§3.1), Mbit/s in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Bands {
    /// Cluster traffic.
    pub ct_mbit_s: u32,
    /// Migration; at least 1.
    #[schemars(range(min = 1))]
    pub vmct_mbit_s: u32,
    /// Storage.
    pub nast_mbit_s: u32,
}

impl Default for Bands {
    /// A 10 Gbit/s link in the three parts of the paper's Figure 3 that leave most to migration.
    fn default() -> Self {
        Self {
            ct_mbit_s: 2_500,
            vmct_mbit_s: 5_000,
            nast_mbit_s: 2_500,
        }
    }
}

/// The virtual distributed system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Cluster {
    /// Its id (§3.2).
    #[schemars(with = "String")]
    pub name: ClusterName,
    /// Its VMs.
    pub vms: Vec<Vm>,
    /// Who must, or must not, share a host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// Who talks to whom. Pairs not named do not talk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<Traffic>,
}

/// A VM of the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Vm {
    /// Unique name.
    #[schemars(with = "String")]
    pub name: VmName,
    /// Where it runs now.
    #[schemars(with = "String")]
    pub host: HostName,
    /// What it needs of each resource.
    #[serde(deserialize_with = "amount::amounts")]
    pub demand: Amounts,
    /// Hosts it may run on; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub pin: Vec<HostName>,
    /// Labels that its host must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    /// Processor models it can run on; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpu_models: Vec<String>,
    /// How much it matters that it is safe in time, where its host has a deadline; 1 where absent.
    #[serde(default = "weight", skip_serializing_if = "is_common")]
    #[schemars(range(max = WEIGHT_MAX))]
    pub weight: u32,
    /// Traffic to its disks, Mbit/s.
    #[serde(default)]
    pub storage_mbit_s: Amount,
    /// What is known of its memory, for the forecast.
    #[serde(default)]
    pub memory: MemoryFigures,
}

/// Weight of a VM that is not given one.
fn weight() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_common(given: &u32) -> bool {
    *given == weight()
}

/// What is known of how a VM writes to its memory. What is absent is assumed, and the forecast says
/// so.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct MemoryFigures {
    /// Measured dirty rates, MiB/s, in any order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dirty_mib_s: Vec<f64>,
    /// The writable working set: the most that is dirty at any time, MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_set_mib: Option<f64>,
    /// Memory in use (not zero), MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub touched_mib: Option<f64>,
    /// Measured share of the bytes that compression and deduplication leave, 0 to 1.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub compressed_to: Vec<f64>,
}

/// Traffic between two VMs, both directions together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Traffic {
    /// The two VMs.
    #[schemars(with = "[String; 2]")]
    pub between: [VmName; 2],
    /// Mbit/s.
    pub mbit_s: Amount,
}

/// A place in the input: line where it came as text, and the path of fields down to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Place {
    /// File name as the caller gave it.
    pub file: Option<String>,
    /// Line, from 1.
    pub line: Option<usize>,
    /// Like `hosts[3].capacity.memory`.
    pub path: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
        }
        if let Some(line) = self.line {
            write!(f, "{line}: ")?;
        } else if self.file.is_some() {
            f.write_str(" ")?;
        }
        if self.path.is_empty() {
            f.write_str("input")
        } else {
            f.write_str(&self.path)
        }
    }
}

/// Why an input was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize)]
#[error("{place}: {what}")]
pub struct InputError {
    /// Where.
    pub place: Place,
    /// What is wrong, with the names and amounts.
    pub what: String,
    /// What would help.
    pub hint: Option<String>,
}

impl InputError {
    /// A refusal of what is asked, at a path of the input or an option.
    pub(crate) fn at(path: &str, what: &str) -> Self {
        Self {
            place: Place {
                path: path.to_owned(),
                ..Place::default()
            },
            what: what.to_owned(),
            hint: None,
        }
    }
}

/// The JSON Schema of [`PlanInput`].
pub fn json_schema() -> serde_json::Value {
    schemars::schema_for!(PlanInput).into()
}
