//! What is worth knowing and no reason to refuse: what stays may be overfull, break a group, or
//! sit on a host that is to be serviced.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use transhume_model::{HostName, VmName};

use crate::input::{GroupKind, MEMORY, PlanInput, Vm, nearest};
use crate::order::Moves;
use crate::problem::promised;
use crate::report::Total;
use crate::words::{listed, some};

/// Notes of one kind given one by one; the rest are counted.
const NOTES_MAX: usize = 5;

/// VMs that move and whose `memory` is not given.
pub(crate) fn memory_unknown(input: &PlanInput, moves: &Moves<'_>) -> Vec<VmName> {
    let moving = moves.vms.iter().zip(moves.source.iter().zip(&moves.target));
    let moving = moving.filter(|(_, (source, target))| source != target);
    let vms = moving.map(|(vm, _)| &input.cluster.vms[*vm]);
    vms.filter(|vm| !vm.demand.contains_key(MEMORY))
        .map(|vm| vm.name.clone())
        .collect()
}

/// Everything to note, in a fixed order.
pub(crate) fn notes(input: &PlanInput, moves: &Moves<'_>, memory_unknown: &[VmName]) -> Vec<String> {
    let mut notes = Vec::new();
    notes.extend(no_memory(input, memory_unknown));
    let placed: BTreeSet<usize> = moves.vms.iter().copied().collect();
    some_of(&mut notes, overfull(input, &placed));
    some_of(&mut notes, broken_groups(input, &placed));
    some_of(&mut notes, in_maintenance(input, &placed));
    notes.extend(not_in_maintenance(input, moves));
    notes
}

/// Where hosts are in maintenance and `from` is empty, VMs of other hosts may move too, which is
/// not what everybody expects.
fn not_in_maintenance(input: &PlanInput, moves: &Moves<'_>) -> Option<String> {
    if !input.from.is_empty() || !input.hosts.iter().any(|host| host.maintenance) {
        return None;
    }
    let ends = moves.source.iter().zip(&moves.target);
    let moving = ends.filter(|(source, target)| source != target && !input.hosts[**source].maintenance);
    let moving = moving.count();
    (moving > 0).then(|| {
        format!(
            "{} {} a host that is not in maintenance, for a better placement: `from` is empty, so that every host is placed anew",
            some(moving, "VM"),
            if moving == 1 { "leaves" } else { "leave" }
        )
    })
}

fn some_of(notes: &mut Vec<String>, of_a_kind: Vec<String>) {
    let more = of_a_kind.len().saturating_sub(NOTES_MAX);
    notes.extend(of_a_kind.into_iter().take(NOTES_MAX));
    if more > 0 {
        notes.push(format!("and {more} more like this"));
    }
}

fn no_memory(input: &PlanInput, unknown: &[VmName]) -> Option<String> {
    if unknown.is_empty() {
        return None;
    }
    let has = if unknown.len() == 1 { "has" } else { "have" };
    let names: BTreeSet<&str> = input
        .hosts
        .iter()
        .flat_map(|h| h.capacity.keys())
        .map(String::as_str)
        .collect();
    let meant = match nearest(MEMORY, names.iter().copied()) {
        Some(name) if name != MEMORY => format!("; is it `{name}`?"),
        _ => match names.contains("ram") || names.contains("mem") {
            true => "; is it what is called `ram` or `mem`?".to_owned(),
            false => String::new(),
        },
    };
    Some(format!(
        "{} that {} ({}) {has} no resource `{MEMORY}` (MiB): what is carried, how long it takes and the blackout are not known{meant}",
        some(unknown.len(), "VM"),
        if unknown.len() == 1 { "moves" } else { "move" },
        listed(unknown.iter().map(VmName::as_str)),
    ))
}

fn staying<'a>(input: &'a PlanInput, placed: &BTreeSet<usize>) -> impl Iterator<Item = &'a Vm> {
    let vms = input.cluster.vms.iter().enumerate();
    vms.filter(|(i, _)| !placed.contains(i)).map(|(_, vm)| vm)
}

/// Hosts where what stays takes more than there is.
fn overfull(input: &PlanInput, placed: &BTreeSet<usize>) -> Vec<String> {
    let mut needs: HashMap<&HostName, BTreeMap<&str, u128>> = HashMap::new();
    for vm in staying(input, placed) {
        let of_host = needs.entry(&vm.host).or_default();
        for (resource, amount) in &vm.demand {
            *of_host.entry(resource).or_default() += amount.parts();
        }
    }
    let mut notes = Vec::new();
    for host in &input.hosts {
        for (resource, needed) in needs.get(&host.name).into_iter().flatten() {
            let used = host.used.get(*resource).map_or(0, |used| used.parts());
            let has = promised(host, resource).saturating_sub(used);
            if *needed > has {
                notes.push(format!(
                    "host {} is overfull already: VMs that stay there need {} of {resource}, it has {}",
                    host.name,
                    Total(*needed),
                    Total(has)
                ));
            }
        }
    }
    notes
}

/// Groups that VMs break which stay.
fn broken_groups(input: &PlanInput, placed: &BTreeSet<usize>) -> Vec<String> {
    let vms = input.cluster.vms.iter().enumerate();
    let staying: HashMap<&VmName, &HostName> = vms
        .filter(|(i, _)| !placed.contains(i))
        .map(|(_, vm)| (&vm.name, &vm.host))
        .collect();
    let mut notes = Vec::new();
    for group in &input.cluster.groups {
        let mut on: BTreeMap<&HostName, Vec<&str>> = BTreeMap::new();
        for vm in group.vms.iter().filter(|vm| staying.contains_key(vm)) {
            on.entry(staying[vm]).or_default().push(vm.as_str());
        }
        let broken = match group.kind {
            GroupKind::Affinity if on.len() > 1 => {
                let places = on.iter().map(|(host, vms)| format!("{} on {host}", listed(vms)));
                listed(places)
            }
            GroupKind::AntiAffinity => match on.iter().find(|(_, vms)| vms.len() > 1) {
                Some((host, vms)) => format!("{} on {host}", listed(vms)),
                None => continue,
            },
            GroupKind::Affinity => continue,
        };
        notes.push(format!(
            "group {} is broken already: {broken} stay there",
            group.name
        ));
    }
    notes
}

/// Hosts in maintenance whose VMs stay because `from` does not name them.
fn in_maintenance(input: &PlanInput, placed: &BTreeSet<usize>) -> Vec<String> {
    if input.from.is_empty() {
        return Vec::new();
    }
    let mut on: HashMap<&HostName, Vec<&str>> = HashMap::new();
    staying(input, placed).for_each(|vm| on.entry(&vm.host).or_default().push(vm.name.as_str()));
    let hosts = input
        .hosts
        .iter()
        .filter(|host| host.maintenance && !input.from.contains(&host.name));
    let hosts = hosts.filter_map(|host| Some((&host.name, on.get(&host.name)?)));
    hosts
        .map(|(host, vms)| {
            format!(
                "host {host} is in maintenance and keeps {}: `from` does not name it",
                listed(vms)
            )
        })
        .collect()
}
