//! Clusters as the journal keeps them: which there are, what may become one, where its VMs live.
//! Starting and ending them is `jobs`; what their VMs do is what the hosts report.

use std::collections::{BTreeMap, BTreeSet};

use transhume_api::ClusterStage;
use transhume_model::{ClusterName, ClusterSpec, HostName, Mac, PlacedVm, PlacementRules, VmName, VmSpec};

use crate::error::Refused;
use crate::journal::ClusterRecord;

/// What a NIC's packets may measure: IPv4 demands 68 (RFC 791), jumbo frames end at 9 000.
const MTU_RANGE: std::ops::RangeInclusive<u16> = 68..=9_000;

/// All clusters.
#[derive(Debug, Default)]
pub(crate) struct Clusters {
    clusters: BTreeMap<ClusterName, ClusterRecord>,
}

impl Clusters {
    /// As the journal holds them.
    pub(crate) fn new(records: Vec<ClusterRecord>) -> Self {
        let named = records
            .into_iter()
            .map(|record| (record.spec.name.clone(), record));
        Self {
            clusters: named.collect(),
        }
    }

    /// In place of what was kept under its name; the journal holds it already.
    pub(crate) fn put(&mut self, record: ClusterRecord) {
        self.clusters.insert(record.spec.name.clone(), record);
    }

    pub(crate) fn remove(&mut self, name: &ClusterName) {
        self.clusters.remove(name);
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &ClusterRecord> {
        self.clusters.values()
    }

    /// Clusters with VMs on any of these hosts.
    pub(crate) fn with_vms_on(&self, hosts: &[HostName]) -> BTreeSet<ClusterName> {
        let there = |record: &&ClusterRecord| {
            let mut vms = record.spec.vms.iter();
            vms.any(|placed| hosts.contains(&placed.host))
        };
        let all = self.all().filter(there);
        all.map(|record| record.spec.name.clone()).collect()
    }

    /// Those that a restarted coordinator finds neither there nor gone.
    pub(crate) fn half_done(&self) -> Vec<ClusterRecord> {
        let all = self.clusters.values();
        all.filter(|record| record.stage != ClusterStage::Live)
            .cloned()
            .collect()
    }

    pub(crate) fn named(&self, name: &str) -> Result<&ClusterRecord, Refused> {
        let found = self.clusters.iter().find(|(own, _)| own.as_str() == name);
        let known = self.clusters.keys().map(ClusterName::as_str);
        found
            .map(|(_, cluster)| cluster)
            .ok_or_else(|| Refused::unknown("cluster", name, known))
    }

    /// A cluster that is all there.
    pub(crate) fn live(&self, name: &str) -> Result<&ClusterSpec, Refused> {
        let cluster = self.named(name)?;
        match cluster.stage {
            ClusterStage::Live => Ok(&cluster.spec),
            ClusterStage::Starting => Err(Refused::conflict(
                "cluster-starting",
                format!("cluster {name} is being started"),
                format!("`transhume cluster show {name}` shows when its VMs run"),
            )),
            ClusterStage::Ending => Err(Refused::conflict(
                "cluster-ending",
                format!("cluster {name} is being deleted"),
                "nothing else can be done with it; it goes when the agents of all its hosts have answered",
            )),
        }
    }

    /// A VM of a cluster that is all there.
    pub(crate) fn vm(&self, cluster: &str, vm: &str) -> Result<&PlacedVm, Refused> {
        let vms = &self.live(cluster)?.vms;
        let found = vms.iter().find(|placed| placed.spec.name.as_str() == vm);
        let known = vms.iter().map(|placed| placed.spec.name.as_str());
        found.ok_or_else(|| Refused::unknown("vm", vm, known))
    }

    /// The record of a cluster once these VMs of it live on these hosts.
    pub(crate) fn relocated(
        &self,
        name: &ClusterName,
        places: &BTreeMap<VmName, HostName>,
    ) -> Option<ClusterRecord> {
        let mut record = self.clusters.get(name)?.clone();
        for vm in &mut record.spec.vms {
            if let Some(host) = places.get(&vm.spec.name) {
                vm.host = host.clone();
            }
        }
        Some(record)
    }

    /// The record of a cluster once a VM of it is as its agent started it.
    pub(crate) fn with_spec(&self, name: &ClusterName, spec: &VmSpec) -> Option<ClusterRecord> {
        let mut record = self.clusters.get(name)?.clone();
        let mut vms = record.spec.vms.iter_mut();
        let vm = vms.find(|placed| placed.spec.name == spec.name)?;
        vm.spec = spec.clone();
        Some(record)
    }

    /// The record of a cluster without one of its VMs.
    pub(crate) fn without(&self, name: &ClusterName, vm: &VmName) -> Option<ClusterRecord> {
        let mut record = self.clusters.get(name)?.clone();
        record.spec.vms.retain(|placed| placed.spec.name != *vm);
        record.spec.rules.forget(vm);
        Some(record)
    }

    /// The record of a cluster whose VMs ask this of their hosts.
    pub(crate) fn with_rules(&self, name: &ClusterName, rules: PlacementRules) -> Option<ClusterRecord> {
        let mut record = self.clusters.get(name)?.clone();
        record.spec.rules = rules;
        Some(record)
    }

    /// Whether a cluster may come to be, as far as its description shows.
    pub(crate) fn check_new(&self, cluster: &ClusterSpec) -> Result<(), Refused> {
        if self.clusters.contains_key(&cluster.name) {
            return Err(Refused::conflict(
                "cluster-exists",
                format!("there is a cluster named `{}` already", cluster.name),
                "choose another name, or delete that one first",
            ));
        }
        if cluster.vms.is_empty() {
            return Err(Refused::bad(
                "empty-cluster",
                format!("cluster {} has no VM", cluster.name),
                "give it at least one",
            ));
        }
        let others = || self.clusters.values().flat_map(|other| &other.spec.vms);
        let mut names: BTreeSet<&VmName> = others().map(|vm| &vm.spec.name).collect();
        let mut macs: BTreeSet<&Mac> = others().flat_map(|vm| macs_of(&vm.spec)).collect();
        for PlacedVm { spec, .. } in &cluster.vms {
            check_vm(cluster, spec)?;
            if !names.insert(&spec.name) {
                return Err(Refused::bad(
                    "vm-twice",
                    format!("there are two VMs named `{}`", spec.name),
                    "VM names are unique across all clusters",
                ));
            }
            if let Some(twice) = macs_of(spec).find(|mac| !macs.insert(mac)) {
                return Err(Refused::bad(
                    "address-in-use",
                    format!(
                        "VM {}: the address {twice} belongs to another network interface",
                        spec.name
                    ),
                    "give each network interface its own address",
                ));
            }
        }
        Ok(())
    }
}

fn macs_of(spec: &VmSpec) -> impl Iterator<Item = &Mac> {
    spec.nics.iter().map(|nic| &nic.mac)
}

/// What is wrong with one VM by itself.
fn check_vm(cluster: &ClusterSpec, vm: &VmSpec) -> Result<(), Refused> {
    let name = &vm.name;
    if vm.cluster != cluster.name {
        return Err(Refused::bad(
            "other-cluster",
            format!(
                "VM {name} says it belongs to cluster {}, and is given for {}",
                vm.cluster, cluster.name
            ),
            "write the same cluster in both places",
        ));
    }
    if !name.is_plain() {
        return Err(Refused::bad(
            "vm-name",
            format!("VM {name}: a VM that Transhume starts needs a name that fits a socket path"),
            "use 1 to 40 of a-z, 0-9 and `-`, starting with a letter or digit",
        ));
    }
    if vm.vcpus.0 == 0 || vm.memory.0 == 0 {
        return Err(Refused::bad(
            "no-resources",
            format!("VM {name} asks for {} and {}", vm.vcpus, vm.memory),
            "give it at least one processor and some memory",
        ));
    }
    if vm.nics.is_empty() {
        return Err(Refused::bad(
            "no-nic",
            format!("VM {name} has no network interface"),
            "give it at least one",
        ));
    }
    match vm.nics.iter().find(|nic| !MTU_RANGE.contains(&nic.mtu)) {
        None => Ok(()),
        Some(nic) => Err(Refused::bad(
            "mtu-range",
            format!("VM {name}: an MTU of {} is not possible", nic.mtu),
            format!("choose one from {} to {}", MTU_RANGE.start(), MTU_RANGE.end()),
        )),
    }
}
