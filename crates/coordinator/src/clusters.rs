//! Clusters: what may be created, who is there, where each VM is and what it does. Starting and ending them is `jobs`.

use std::collections::BTreeSet;

use transhume_model::{ClusterName, ClusterSpec, Mac, PlacedVm, VmName, VmSpec};
use transhume_protocol::message::GuestState;

use crate::api::{ClusterLine, ClusterList, ClusterView, VmLife, VmView};
use crate::core::{Core, CoreError, Reply};
use crate::error::Refused;
use crate::jobs::Kind;
use crate::journal::{ClusterRecord, ClusterStage};

/// What a NIC's packets may measure: IPv4 demands 68 (RFC 791), jumbo frames end at 9 000.
const MTU_RANGE: std::ops::RangeInclusive<u16> = 68..=9_000;

impl Core {
    /// Starts every VM of a new cluster, or none.
    pub(crate) fn create_cluster(
        &mut self,
        spec: ClusterSpec,
        reply: Reply<ClusterView>,
    ) -> Result<(), CoreError> {
        if let Err(refused) = self.check_new(&spec) {
            // Whoever asked may have gone; that is no error.
            let _ = reply.send(Err(refused));
            return Ok(());
        }
        let stage = ClusterStage::Starting;
        self.begin_job(Kind::Start, ClusterRecord { spec, stage }, None, Some(reply))
    }

    fn check_new(&self, cluster: &ClusterSpec) -> Result<(), Refused> {
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
        for PlacedVm { host, spec } in &cluster.vms {
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
            let host = self.hosts.named(host.as_str())?;
            self.hosts.check_connected(&host)?;
        }
        Ok(())
    }

    /// Powers every VM of a cluster off and forgets it.
    pub(crate) fn delete_cluster(&mut self, name: &str, reply: Reply<ClusterView>) -> Result<(), CoreError> {
        let checked = self.live_cluster(name).cloned();
        let checked = checked.and_then(|spec| self.check_no_move(&spec.name).map(|()| spec));
        match checked {
            Ok(spec) => {
                let stage = ClusterStage::Ending;
                self.begin_job(Kind::End, ClusterRecord { spec, stage }, None, Some(reply))
            }
            Err(refused) => {
                let _ = reply.send(Err(refused));
                Ok(())
            }
        }
    }

    fn cluster(&self, name: &str) -> Result<&ClusterRecord, Refused> {
        let found = self.clusters.iter().find(|(own, _)| own.as_str() == name);
        found
            .map(|(_, cluster)| cluster)
            .ok_or_else(|| Refused::unknown("cluster", name, self.clusters.keys().map(ClusterName::as_str)))
    }

    /// A cluster that is all there.
    pub(crate) fn live_cluster(&self, name: &str) -> Result<&ClusterSpec, Refused> {
        let cluster = self.cluster(name)?;
        match cluster.stage {
            ClusterStage::Live => Ok(&cluster.spec),
            ClusterStage::Starting => Err(Refused::conflict(
                "cluster-starting",
                format!("cluster {name} is being started"),
                format!("`transhume cluster show {name}` tells when its VMs run"),
            )),
            ClusterStage::Ending => Err(Refused::conflict(
                "cluster-ending",
                format!("cluster {name} is being deleted"),
                "nothing else can be done with it; it goes when the agents of all its hosts have answered",
            )),
        }
    }

    /// Where a cluster's VMs are and what they do.
    pub(crate) fn show_cluster(&self, name: &str) -> Result<ClusterView, Refused> {
        let cluster = self.cluster(name)?;
        let vms = cluster.spec.vms.iter().map(|vm| self.show_vm(vm));
        Ok(ClusterView {
            name: cluster.spec.name.clone(),
            stage: cluster.stage,
            migration: self.move_of(&cluster.spec.name),
            vms: vms.collect(),
        })
    }

    fn show_vm(&self, placed: &PlacedVm) -> VmView {
        let seen = self.hosts.vm(&placed.host, &placed.spec.name);
        let state = match seen {
            _ if !self.hosts.is_connected(&placed.host) => VmLife::Unknown,
            None => VmLife::Missing,
            Some(state) if state.guest == GuestState::Running => VmLife::Running,
            Some(_) => VmLife::Paused,
        };
        VmView {
            id: placed.spec.name.clone(),
            host: placed.host.clone(),
            state,
            role: seen.map(|state| state.role),
            demand: placed.spec.demand(),
        }
    }

    pub(crate) fn list_clusters(&self) -> ClusterList {
        let clusters = self.clusters.values().map(|ClusterRecord { spec, stage }| {
            let hosts: BTreeSet<_> = spec.vms.iter().map(|vm| vm.host.clone()).collect();
            ClusterLine {
                name: spec.name.clone(),
                stage: *stage,
                vms: spec.vms.len(),
                hosts: hosts.into_iter().collect(),
                migration: self.move_of(&spec.name),
            }
        });
        ClusterList {
            clusters: clusters.collect(),
        }
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
