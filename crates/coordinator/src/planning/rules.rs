//! Whether the rules of a cluster make sense: names that are there, groups that do not contradict
//! each other. What is merely impossible to keep is found when a move is planned.

use std::collections::BTreeMap;

use transhume_model::{ClusterSpec, HostName, VmName};
use transhume_planner::input::check;

use super::input::Parts;
use super::scene::labels;
use crate::config::Config;
use crate::error::Refused;

/// Refuses rules that name what is not there, or that contradict each other.
pub(crate) fn check_rules(cluster: &ClusterSpec, config: &Config) -> Result<(), Refused> {
    let vms = || cluster.vms.iter().map(|placed| placed.spec.name.as_str());
    let unknown = |vm: &&VmName| !vms().any(|known| known == vm.as_str());
    let named = cluster.rules.groups.iter().flat_map(|group| &group.vms);
    if let Some(vm) = named.chain(cluster.rules.vms.keys()).find(unknown) {
        return Err(Refused::unknown("vm", vm.as_str(), vms()));
    }
    let labels = labels(config);
    let hosts = || labels.keys().map(HostName::as_str);
    let pins = cluster.rules.vms.values().flat_map(|rules| &rules.pin);
    if let Some(host) = pins.into_iter().find(|host| !labels.contains_key(*host)) {
        return Err(Refused::unknown("host", host.as_str(), hosts()));
    }
    let parts = Parts {
        name: &cluster.name,
        clusters: vec![cluster],
        from: &[],
        to: &[],
        states: &BTreeMap::new(),
        labels: &labels,
        vmct_mbit_s: &BTreeMap::new(),
        dirty: &BTreeMap::new(),
        bound: &BTreeMap::new(),
    };
    check(&parts.input()).map_err(|error| {
        let hint = error
            .hint
            .unwrap_or_else(|| "docs/cli.md describes the rules of a cluster".to_owned());
        Refused::bad("bad-rules", error.what, hint)
    })
}
