//! Where the VMs of a cluster may be, and which of them must, or must not, share a host.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{HostName, VmName};

/// What a group asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GroupKind {
    /// All its VMs on one host.
    Affinity,
    /// No two of its VMs on one host.
    AntiAffinity,
}

/// VMs that must, or must not, share a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Group {
    /// Unique name.
    pub name: String,
    /// What it asks.
    pub kind: GroupKind,
    /// Its VMs, at least two.
    #[schemars(with = "Vec<String>")]
    pub vms: Vec<VmName>,
}

/// Where one VM may be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct VmRules {
    /// Hosts it may run on; empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pin: Vec<HostName>,
    /// Labels that its host must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    /// How much it matters that it is safe in time, where a host has a deadline; 1 where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// Where the VMs of a cluster may be. They bind every move of the cluster; where a VM is started by
/// name, its user has chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct PlacementRules {
    /// Who must, or must not, share a host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// What single VMs ask of their hosts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub vms: BTreeMap<VmName, VmRules>,
}

impl PlacementRules {
    /// Whether any host will do for any VM.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.vms.is_empty()
    }

    /// What is left of the rules once a VM is no more: a group of one asks for nothing.
    pub fn forget(&mut self, vm: &VmName) {
        self.vms.remove(vm);
        for group in &mut self.groups {
            group.vms.retain(|member| member != vm);
        }
        self.groups.retain(|group| group.vms.len() > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_that_is_forgotten_leaves_no_rule() {
        let vm = |name: &str| -> VmName { name.parse().unwrap() };
        let group = |name: &str, vms: &[&str]| Group {
            name: name.to_owned(),
            kind: GroupKind::AntiAffinity,
            vms: vms.iter().map(|name| vm(name)).collect(),
        };
        let mut rules = PlacementRules {
            groups: vec![
                group("pair", &["vm1", "vm2"]),
                group("three", &["vm1", "vm2", "vm3"]),
            ],
            vms: [(vm("vm1"), VmRules::default())].into(),
        };
        rules.forget(&vm("vm1"));
        assert_eq!(rules.groups, [group("three", &["vm2", "vm3"])]);
        assert!(rules.vms.is_empty());
    }
}
