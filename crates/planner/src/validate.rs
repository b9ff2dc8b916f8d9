//! Whether a plan keeps every rule, checked from the input and the report alone.
//!
//! Shares no code with the solver: it works on names, reads the rules anew from the input and
//! recomputes every total. [`plan()`](crate::plan()) returns no plan that it has not passed.
//!
//! Judged is what was to be placed: a host is overfull by the VMs that were put there, a group is
//! broken by them. What stays may be as it is, but it counts.

use std::collections::{BTreeMap, BTreeSet};

use transhume_model::{HostName, VmName};

use crate::input::{Group, GroupKind, Host, PlanInput, Vm};
use crate::report::{Plan, Total};

type Where<'a> = BTreeMap<&'a VmName, &'a HostName>;
type Hosts<'a> = BTreeMap<&'a HostName, &'a Host>;

/// S1 and S2 as the input names them.
struct Roles<'a> {
    from: BTreeSet<&'a HostName>,
    to: BTreeSet<&'a HostName>,
}

/// Every rule that the plan breaks, in words; empty for a valid plan.
pub fn validate(input: &PlanInput, plan: &Plan) -> Vec<String> {
    let mut broken = Vec::new();
    let after: Where<'_> = plan.placement.iter().map(|p| (&p.vm, &p.target)).collect();
    let before: Where<'_> = input.cluster.vms.iter().map(|v| (&v.name, &v.host)).collect();
    if plan.placement.len() != before.len() || !before.keys().all(|vm| after.contains_key(vm)) {
        broken.push("not every VM is placed exactly once".to_owned());
        return broken;
    }
    for placed in &plan.placement {
        if before[&placed.vm] != &placed.source {
            broken.push(format!("VM {} does not run on {}", placed.vm, placed.source));
        }
    }
    let hosts: Hosts<'_> = input.hosts.iter().map(|h| (&h.name, h)).collect();
    let roles = Roles {
        from: input.from.iter().collect(),
        to: input.to.iter().collect(),
    };
    let left: BTreeSet<&VmName> = plan.unplaced.iter().flat_map(|u| &u.vms).collect();
    let mut placed: BTreeSet<&VmName> = BTreeSet::new();
    for vm in &input.cluster.vms {
        match (hosts.get(&vm.host), hosts.get(after[&vm.name])) {
            (Some(_), Some(host)) if left.contains(&vm.name) || !roles.leaves(vm) => {
                if host.name != vm.host {
                    broken.push(format!(
                        "VM {} on host {}: it was not to be moved",
                        vm.name, host.name
                    ));
                }
            }
            (Some(_), Some(host)) => {
                placed.insert(&vm.name);
                broken.extend(limits(&roles, vm, host));
            }
            (None, _) => broken.push(format!("VM {} is on an unknown host", vm.name)),
            (Some(_), None) => broken.push(format!("VM {} is sent to an unknown host", vm.name)),
        }
    }
    broken.extend(overfull(input, &hosts, &after, &placed));
    broken.extend(groups(input, &after, &placed));
    broken.extend(totals(input, plan, &before, &after, &placed));
    broken.extend(carried(input, plan));
    broken.extend(on_the_way(input, plan, before.clone()));
    broken.extend(batches(input, plan, &hosts, before, &after));
    broken
}

impl Roles<'_> {
    /// Whether a VM is to be placed.
    fn leaves(&self, vm: &Vm) -> bool {
        self.from.is_empty() || self.from.contains(&vm.host)
    }
}

fn limits(roles: &Roles<'_>, vm: &Vm, host: &Host) -> Vec<String> {
    let mut broken = Vec::new();
    let mut rule = |kept: bool, what: &str| {
        if !kept {
            broken.push(format!("VM {} on host {}: {what}", vm.name, host.name));
        }
    };
    let is_target = match (roles.to.is_empty(), roles.from.is_empty()) {
        (true, true) => true,
        (true, false) => !roles.from.contains(&host.name),
        (false, _) => roles.to.contains(&host.name),
    };
    rule(is_target, "the host is no target");
    rule(!host.maintenance, "the host is in maintenance");
    let empty = host.capacity.values().all(|amount| amount.parts() == 0);
    rule(!empty, "the host has nothing of any resource");
    rule(
        vm.pin.is_empty() || vm.pin.contains(&host.name),
        "its pin forbids it",
    );
    let labels_match = vm
        .selector
        .iter()
        .all(|(k, v)| host.labels.get(k).is_some_and(|have| have == v));
    rule(labels_match, "its selector forbids it");
    let model_known = host
        .cpu_model
        .as_ref()
        .is_some_and(|m| vm.cpu_models.iter().any(|ok| ok == m));
    rule(
        vm.cpu_models.is_empty() || model_known,
        "its processor models forbid it",
    );
    broken
}

/// What a host offers of a resource to the cluster, in parts of a unit; below zero where others use
/// more than there is.
fn offered(host: &Host, resource: &str) -> i128 {
    let Some(capacity) = host.capacity.get(resource) else {
        return 0;
    };
    let promised = match host.overcommit.get(resource) {
        Some(ratio) => ratio.of(*capacity),
        None => capacity.parts(),
    };
    let used = host.used.get(resource).map_or(0, |u| u.parts());
    signed(promised) - signed(used)
}

/// Amounts are below 2^80 parts.
fn signed(parts: u128) -> i128 {
    i128::try_from(parts).unwrap_or(i128::MAX)
}

fn load<'a>(input: &'a PlanInput, place: &Where<'a>) -> BTreeMap<(&'a HostName, &'a str), i128> {
    load_of(input, place, |_| true)
}

fn load_of<'a>(
    input: &'a PlanInput,
    place: &Where<'a>,
    counts: impl Fn(&VmName) -> bool,
) -> BTreeMap<(&'a HostName, &'a str), i128> {
    let mut load = BTreeMap::new();
    for vm in input.cluster.vms.iter().filter(|vm| counts(&vm.name)) {
        for (resource, amount) in &vm.demand {
            *load.entry((place[&vm.name], resource.as_str())).or_insert(0) += signed(amount.parts());
        }
    }
    load
}

fn overfull(
    input: &PlanInput,
    hosts: &Hosts<'_>,
    place: &Where<'_>,
    placed: &BTreeSet<&VmName>,
) -> Vec<String> {
    let load = load(input, place);
    let put = load_of(input, place, |vm| placed.contains(vm));
    let judged = put.iter().filter(|(_, sum)| **sum > 0);
    let too_much = judged.filter(|((host, resource), _)| {
        let sum = load[&(*host, *resource)];
        hosts.get(host).is_none_or(|h| sum > offered(h, resource))
    });
    let excesses = too_much.map(|((host, resource), _)| {
        let there = place
            .iter()
            .filter(|(_, at)| *at == host)
            .map(|(vm, _)| vm.as_str());
        let there: Vec<&str> = there.collect();
        format!(
            "host {host} holds more {resource} than it has, with VMs {}",
            there.join(", ")
        )
    });
    excesses.collect()
}

fn groups(input: &PlanInput, after: &Where<'_>, placed: &BTreeSet<&VmName>) -> Vec<String> {
    let mut broken = Vec::new();
    for group in &input.cluster.groups {
        let (put, stay): (Vec<&VmName>, Vec<&VmName>) = group.vms.iter().partition(|vm| placed.contains(vm));
        let on: BTreeSet<&HostName> = put.iter().map(|vm| after[vm]).collect();
        let staying_on: BTreeSet<&HostName> = stay.iter().map(|vm| after[vm]).collect();
        let kept = match group.kind {
            GroupKind::Affinity => on.len() <= 1 && (stay.is_empty() || on.is_subset(&staying_on)),
            GroupKind::AntiAffinity => on.len() == put.len() && on.is_disjoint(&staying_on),
        };
        if !kept {
            let members = group.vms.iter().map(|v| format!("{v} on {}", after[v]));
            let members: Vec<String> = members.collect();
            broken.push(format!(
                "group {} is broken: VMs {}",
                group.name,
                members.join(", ")
            ));
        }
    }
    broken
}

fn totals(
    input: &PlanInput,
    plan: &Plan,
    before: &Where<'_>,
    after: &Where<'_>,
    placed: &BTreeSet<&VmName>,
) -> Vec<String> {
    let used: BTreeSet<&&HostName> = placed.iter().map(|vm| &after[vm]).collect();
    let moving = input
        .cluster
        .vms
        .iter()
        .filter(|v| before[&v.name] != after[&v.name]);
    let memory: u128 = moving
        .filter_map(|v| v.demand.get("memory"))
        .map(|a| a.parts())
        .sum();
    let crossing = input
        .cluster
        .traffic
        .iter()
        .filter(|t| after[&t.between[0]] != after[&t.between[1]]);
    let traffic: u128 = crossing.map(|t| t.mbit_s.parts()).sum();
    let claims = [
        ("targets", plan.targets, Total::units(used.len()).0),
        ("memory moved", plan.memory_moved_mib, memory),
        ("traffic", plan.traffic_mbit_s, traffic),
    ];
    let mut broken = Vec::new();
    for (what, proof, actual) in claims {
        if proof.value.0 != actual {
            broken.push(format!("{what} is {}, not {}", Total(actual), proof.value));
        }
        if proof.at_least > proof.value {
            broken.push(format!("the bound of {what} is above its value"));
        }
    }
    broken
}

fn carried(input: &PlanInput, plan: &Plan) -> Option<String> {
    let memory: BTreeMap<&VmName, u128> = input
        .cluster
        .vms
        .iter()
        .filter_map(|v| Some((&v.name, v.demand.get("memory")?.parts())))
        .collect();
    let steps = plan.batches.iter().flat_map(|b| &b.moves).map(|m| &m.step);
    let sum: u128 = steps.filter_map(|step| memory.get(&step.vm)).sum();
    let claimed = plan.memory_carried_mib;
    (claimed.0 != sum).then(|| format!("memory carried is {}, not {claimed}", Total(sum)))
}

/// Replays the batches: a group that holds before them and not after one of them is told of.
fn on_the_way<'a>(input: &'a PlanInput, plan: &'a Plan, mut place: Where<'a>) -> Vec<String> {
    let holds = |group: &Group, place: &Where<'_>| {
        let hosts: BTreeSet<&HostName> = group.vms.iter().filter_map(|vm| place.get(vm).copied()).collect();
        match group.kind {
            GroupKind::Affinity => hosts.len() == 1,
            GroupKind::AntiAffinity => hosts.len() == group.vms.len(),
        }
    };
    let whole: Vec<&Group> = input
        .cluster
        .groups
        .iter()
        .filter(|group| holds(group, &place))
        .collect();
    let mut untold = Vec::new();
    for (number, batch) in (1..).zip(&plan.batches) {
        for step in batch.moves.iter().map(|one| &one.step) {
            place.insert(&step.vm, &step.target);
        }
        let moved: BTreeSet<&VmName> = batch.moves.iter().map(|one| &one.step.vm).collect();
        let touched = whole
            .iter()
            .filter(|group| group.vms.iter().any(|vm| moved.contains(vm)));
        for group in touched.filter(|group| !holds(group, &place)) {
            let told = plan.broken_meanwhile.iter().any(|told| {
                told.group == group.name && (told.after_batch..told.until_batch).contains(&number)
            });
            if !told {
                untold.push(format!(
                    "group {} is broken after batch {number}, untold",
                    group.name
                ));
            }
        }
    }
    untold
}

/// Replays the batches: no host ever holds more than it offers of what comes to it, both copies
/// counted, and all arrive.
fn batches<'a>(
    input: &'a PlanInput,
    plan: &'a Plan,
    hosts: &Hosts<'_>,
    mut place: Where<'a>,
    after: &Where<'_>,
) -> Vec<String> {
    let mut broken = Vec::new();
    let vms: BTreeMap<&VmName, &Vm> = input.cluster.vms.iter().map(|v| (&v.name, v)).collect();
    let mut load = load(input, &place);
    for (number, batch) in plan.batches.iter().enumerate() {
        if batch.moves.is_empty() || batch.moves.len() > plan.k.max(1) {
            broken.push(format!(
                "batch {number} has {} moves, k is {}",
                batch.moves.len(),
                plan.k
            ));
        }
        let mut moved = BTreeSet::new();
        for step in batch.moves.iter().map(|m| &m.step) {
            let (Some(vm), Some(target)) = (vms.get(&step.vm), hosts.get(&step.target)) else {
                broken.push(format!(
                    "batch {number}: VM {} or host {} is not known",
                    step.vm, step.target
                ));
                return broken;
            };
            if place[&step.vm] != &step.source || !moved.insert(&step.vm) {
                broken.push(format!(
                    "batch {number}: VM {} is not on {}",
                    step.vm, step.source
                ));
            }
            for (resource, amount) in &vm.demand {
                let sum = load.entry((&step.target, resource.as_str())).or_insert(0);
                *sum += signed(amount.parts());
                if amount.parts() > 0 && *sum > offered(target, resource) {
                    broken.push(format!(
                        "batch {number}: host {} cannot hold both copies of {resource} with VM {}",
                        step.target, step.vm
                    ));
                }
            }
        }
        // The batch commits: what its VMs left is free.
        for step in batch.moves.iter().map(|m| &m.step) {
            let left = place.insert(&step.vm, &step.target);
            for (resource, amount) in &vms[&step.vm].demand {
                let at = left.and_then(|host| load.get_mut(&(host, resource.as_str())));
                at.into_iter().for_each(|sum| *sum -= signed(amount.parts()));
            }
        }
    }
    if plan.cycle.is_empty() {
        let lost = after.iter().filter(|(vm, host)| place[*vm] != **host);
        broken.extend(lost.map(|(vm, host)| format!("VM {vm} never reaches {host}")));
    }
    broken
}
