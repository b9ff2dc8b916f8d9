//! Why each host is a target or is not.

use std::collections::{BTreeMap, BTreeSet};

use transhume_model::HostName;

use super::Facts;
use crate::problem::Roles;
use crate::report::Plan;
use crate::words::{listed, some};

/// Targets that are explained one by one; the rest are counted.
const TARGETS_TOLD_MAX: usize = 20;

/// A sentence for each target, and one for each reason to leave hosts out.
pub(super) fn chosen_and_left_out(facts: &Facts<'_>, plan: &Plan) -> Vec<String> {
    let hosts = facts.input.hosts.iter().enumerate();
    let index: BTreeMap<&HostName, usize> = hosts.map(|(h, host)| (&host.name, h)).collect();
    let mut items_on: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, item) in facts.problem.items.iter().enumerate() {
        let host = index[&plan.placement[item.vms[0]].target];
        items_on.entry(host).or_default().push(i);
    }
    let mut sentences: Vec<String> = items_on
        .iter()
        .take(TARGETS_TOLD_MAX)
        .map(|(host, items)| chosen(facts, *host, items))
        .collect();
    if items_on.len() > TARGETS_TOLD_MAX {
        let more = some(items_on.len() - TARGETS_TOLD_MAX, "more target");
        sentences.push(format!("And {more}, chosen by the same search."));
    }
    let used: BTreeSet<usize> = items_on.keys().copied().collect();
    sentences.extend(left_out(facts, &used));
    sentences
}

fn chosen(facts: &Facts<'_>, host: usize, items: &[usize]) -> String {
    let (input, problem) = (facts.input, facts.problem);
    let vms: Vec<usize> = items
        .iter()
        .flat_map(|i| problem.items[*i].vms.iter().copied())
        .collect();
    let name = &input.hosts[host].name;
    let stay = vms
        .iter()
        .filter(|v| input.cluster.vms[**v].host == *name)
        .count();
    let nowhere_else = items
        .iter()
        .filter(|i| only_host(facts, **i))
        .flat_map(|i| problem.items[*i].vms.iter())
        .map(|v| input.cluster.vms[*v].name.as_str());
    let nowhere_else: Vec<&str> = nowhere_else.collect();
    let why = match (nowhere_else.is_empty(), stay) {
        (false, _) => format!("{} can run nowhere else", listed(nowhere_else)),
        (true, 0) => "its room is needed".to_owned(),
        (true, 1) => "1 of them is there already".to_owned(),
        (true, stay) => format!("{stay} of them are there already"),
    };
    let fill = |r: &usize| {
        let demand: u128 = items
            .iter()
            .map(|i| u128::from(problem.items[*i].demand[*r]))
            .sum();
        demand * 100 / u128::from(problem.hosts[host][*r]).max(1)
    };
    // The first of equally full ones.
    let fullest = (0..problem.resources.len()).rev().max_by_key(fill);
    let fullest = fullest.map_or(String::new(), |r| {
        format!(
            "; fullest is {}, {} % of what is free there",
            problem.resources[r],
            fill(&r)
        )
    });
    format!("Target {name} holds {}: {why}{fullest}.", some(vms.len(), "VM"))
}

/// Whether an item may be on one host only, or fits only one, others aside.
fn only_host(facts: &Facts<'_>, item: usize) -> bool {
    let hosts = facts.problem.kinds.iter();
    let hosts = hosts.filter(|kind| facts.problem.admits(item, kind[0]));
    hosts.map(Vec::len).sum::<usize>() == 1
}

fn left_out(facts: &Facts<'_>, used: &BTreeSet<usize>) -> Vec<String> {
    let (input, problem) = (facts.input, facts.problem);
    let roles = Roles::of(input);
    let mut by_reason: [(Vec<&str>, &str); 5] = [
        (Vec::new(), "in maintenance"),
        (Vec::new(), "not among the targets that `from` and `to` leave"),
        (
            Vec::new(),
            "excluded by pins, selectors or processor models of every VM",
        ),
        (Vec::new(), "too small for any VM that may run there"),
        (Vec::new(), "not needed"),
    ];
    let fits_one: Vec<bool> = problem
        .kinds
        .iter()
        .map(|kind| item_kinds(facts).any(|item| problem.admits(item, kind[0])))
        .collect();
    let allowed: Vec<bool> = problem
        .kinds
        .iter()
        .map(|kind| problem.allow.iter().any(|set| set[kind[0]]))
        .collect();
    for (h, host) in input.hosts.iter().enumerate().filter(|(h, _)| !used.contains(h)) {
        let kind = problem.host_kind[h];
        let reason = match () {
            () if host.maintenance => 0,
            () if !roles.receives(&host.name) => 1,
            () if !allowed[kind] => 2,
            () if !fits_one[kind] => 3,
            () => 4,
        };
        by_reason[reason].0.push(host.name.as_str());
    }
    by_reason
        .iter()
        .filter(|(names, _)| !names.is_empty())
        .map(|(names, why)| format!("Left out, {why}: {}.", listed(names)))
        .collect()
}

/// One item of each kind.
fn item_kinds<'a>(facts: &Facts<'a>) -> impl Iterator<Item = usize> + use<'a> {
    facts.problem.item_kinds.iter().map(|members| members[0])
}
