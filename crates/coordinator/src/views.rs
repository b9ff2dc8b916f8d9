//! Clusters as the API shows them: what the journal keeps beside what the hosts report.

use std::collections::BTreeSet;

use transhume_api::{ClusterLine, ClusterView, VmLife, VmView};
use transhume_model::{MigrationId, PlacedVm};

use crate::hosts::{Hosts, is_off};
use crate::journal::ClusterRecord;

/// A cluster in full. `migration` is its move under way.
pub(crate) fn cluster(record: &ClusterRecord, hosts: &Hosts, migration: Option<MigrationId>) -> ClusterView {
    ClusterView {
        name: record.spec.name.clone(),
        stage: record.stage,
        migration,
        vms: record.spec.vms.iter().map(|placed| vm(placed, hosts)).collect(),
    }
}

/// A cluster in short.
pub(crate) fn line(record: &ClusterRecord, migration: Option<MigrationId>) -> ClusterLine {
    let hosts: BTreeSet<_> = record.spec.vms.iter().map(|vm| vm.host.clone()).collect();
    ClusterLine {
        name: record.spec.name.clone(),
        stage: record.stage,
        vms: record.spec.vms.len(),
        hosts: hosts.into_iter().collect(),
        migration,
    }
}

fn vm(placed: &PlacedVm, hosts: &Hosts) -> VmView {
    let name = &placed.spec.name;
    VmView {
        id: name.clone(),
        host: placed.host.clone(),
        state: life(placed, hosts),
        role: hosts.vm(&placed.host, name).map(|state| state.role),
        demand: placed.spec.demand(),
    }
}

/// What a VM does, as far as it is known.
pub(crate) fn life(placed: &PlacedVm, hosts: &Hosts) -> VmLife {
    let name = &placed.spec.name;
    if !hosts.is_connected(&placed.host) {
        return VmLife::Unknown;
    }
    match hosts.vm(&placed.host, name) {
        Some(state) if is_off(state) => VmLife::Off,
        Some(state) => state.guest.into(),
        None if hosts.stranded().any(|(_, stranded)| stranded.vm == *name) => VmLife::Stranded,
        None => VmLife::Missing,
    }
}
