//! Bodies of requests to the API, by whoever has a role: what is understood survives being written,
//! and a cluster in which no fault is found has names that fit a socket's path, addresses of its
//! own, and packets of a possible size. First byte: which body.

use std::collections::BTreeSet;

use serde::Serialize;
use serde::de::DeserializeOwned;
use transhume_api::{Decision, HostFence, MoveOrder, MoveResolution, VmCheck, VmRestart, VmStart, VmStop};
use transhume_coordinator::testing::cluster_fault;
use transhume_model::{ClusterSpec, PlacementRules};

use super::survives;
use crate::Choices;

pub(super) fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let kind = choices.byte();
    let body = choices.0;
    match kind % 10 {
        0 => understood::<MoveOrder>(body),
        1 => understood::<PlacementRules>(body),
        2 => understood::<VmStart>(body),
        3 => understood::<VmRestart>(body),
        4 => understood::<VmStop>(body),
        5 => understood::<VmCheck>(body),
        6 => understood::<HostFence>(body),
        7 => understood::<Decision>(body),
        8 => understood::<MoveResolution>(body),
        _ => cluster(body),
    }
}

fn understood<T: Serialize + DeserializeOwned + PartialEq>(body: &[u8]) {
    if let Ok(understood) = serde_json::from_slice::<T>(body) {
        survives(&understood);
    }
}

fn cluster(body: &[u8]) {
    let Ok(cluster) = serde_json::from_slice::<ClusterSpec>(body) else {
        return;
    };
    survives(&cluster);
    if cluster_fault(&cluster).is_some() {
        return;
    }
    let specs = || cluster.vms.iter().map(|placed| &placed.spec);
    let names: BTreeSet<_> = specs().map(|spec| &spec.name).collect();
    assert!(names.len() == cluster.vms.len() && names.iter().all(|name| name.is_plain()));
    let nics = || specs().flat_map(|spec| &spec.nics);
    let macs: BTreeSet<_> = nics().map(|nic| nic.mac).collect();
    assert!(macs.len() == nics().count() && nics().all(|nic| (68..=9000).contains(&nic.mtu)));
}
