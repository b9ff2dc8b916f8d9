//! Why fewer targets than the proved bound cannot do: sums, VMs that exclude each other, what fits
//! together, or constraints.

use std::collections::BTreeSet;

use crate::input::{GroupKind, PlanInput};
use crate::problem::{Problem, Without};
use crate::solve::{self, Ended, Go, Solution, Watch};
use crate::words::{listed, some};

/// Work for one question "would fewer do without that?".
const QUESTION_WORK: u64 = 200_000;
/// Larger clusters are asked such questions by bounds alone, not by searches.
const QUESTION_VMS_MAX: usize = 500;
/// With more constraints than this none is singled out by questions.
const CONSTRAINTS_MAX: usize = 32;
/// Sets of allowed hosts among which some are sought that exclude each other.
const ALLOWED_SETS_MAX: usize = 500;

/// One sentence on the bound, and how the search ended.
pub(super) fn why_not(problem: &Problem, input: &PlanInput, solution: &Solution) -> String {
    let end = match solution.ended {
        Ended::Complete => "",
        Ended::WorkBound => " The bound on work ended the search.",
        Ended::Deadline => " The deadline ended the search.",
        Ended::Cancelled => " The search was cancelled.",
    };
    let n = solution.least.hosts;
    if n == 0 {
        return format!("No VM has to be placed.{end}");
    }
    if n == 1 {
        return format!("One host is the least there can be.{end}");
    }
    let why = by_sums(problem, n)
        .or_else(|| by_group(problem, n))
        .or_else(|| by_homes(problem, input, n))
        .unwrap_or_else(|| by_arrangement(input, n));
    format!("Fewer than {n} cannot do: {why}.{end}")
}

/// The n - 1 targets with most of a resource hold less of it than is needed. Amounts, not
/// percentages: those would round.
fn by_sums(problem: &Problem, n: usize) -> Option<String> {
    let targets: Vec<usize> = targets(problem).collect();
    let short = (0..problem.resources.len()).filter_map(|r| {
        let needed: u128 = problem.items.iter().map(|i| u128::from(i.demand[r])).sum();
        let mut has: Vec<u64> = targets.iter().map(|h| problem.hosts[*h][r]).collect();
        has.sort_unstable_by(|a, b| b.cmp(a));
        let most: u128 = has.iter().take(n - 1).map(|a| u128::from(*a)).sum();
        (most < needed).then_some((r, most, needed))
    });
    // The resource that is shortest, by the share of what is needed.
    let share = |(_, most, needed): &(usize, u128, u128)| *most as f64 / *needed as f64;
    let (r, most, needed) = short.min_by(|a, b| share(a).total_cmp(&share(b)))?;
    let resource = &problem.resources[r];
    let hosts = match n - 1 {
        1 => format!("the host with most {resource} holds"),
        more => format!("the {more} hosts with most {resource} hold"),
    };
    let told = |steps| problem.total(r, steps);
    Some(format!("{hosts} {} of the {} needed", told(most), told(needed)))
}

fn targets(problem: &Problem) -> impl Iterator<Item = usize> {
    (0..problem.hosts.len()).filter(|h| problem.allow.iter().any(|set| set[*h]))
}

fn by_group(problem: &Problem, n: usize) -> Option<String> {
    let groups = problem.groups.iter().zip(&problem.group_names);
    let (members, name) = groups.max_by_key(|(members, _)| members.len())?;
    (members.len() >= n).then(|| format!("group {name} keeps {} apart", some(members.len(), "VM")))
}

/// n VMs of which no two have a host in common that is allowed to both.
fn by_homes(problem: &Problem, input: &PlanInput, n: usize) -> Option<String> {
    let width = |set: &usize| problem.allow[*set].iter().filter(|allowed| **allowed).count();
    let mut narrow: Vec<usize> = (0..problem.allow.len().min(ALLOWED_SETS_MAX)).collect();
    narrow.sort_by_cached_key(width);
    let mut apart: Vec<usize> = Vec::new();
    for set in narrow {
        let meet = |other: &usize| {
            let both = problem.allow[*other].iter().zip(&problem.allow[set]);
            both.into_iter().any(|(a, b)| *a && *b)
        };
        if !apart.iter().any(meet) {
            apart.push(set);
        }
    }
    (apart.len() >= n).then(|| {
        let vms = apart
            .iter()
            .filter_map(|set| problem.items.iter().find(|item| item.allow == *set))
            .map(|item| input.cluster.vms[item.vms[0]].name.as_str());
        format!(
            "no two of VMs {} have an allowed host in common (pins, selectors, processor models, `from` and `to`)",
            listed(vms)
        )
    })
}

/// Sums would allow fewer, and no single constraint forbids it by counting: what fits together
/// does, or constraints do.
fn by_arrangement(input: &PlanInput, n: usize) -> String {
    let together = "sums would allow it, but not what fits together on a host".to_owned();
    let constraints = constraints(input);
    if constraints.is_empty() {
        return together;
    }
    let all = constraints.iter().fold(Without::default(), |mut all, (_, one)| {
        all.groups.extend(one.groups.iter().cloned());
        all.limits_of.extend(&one.limits_of);
        all
    });
    let bare = Problem::without(input, &all);
    if solve::hosts_min(&bare) >= n {
        return together;
    }
    let small = input.cluster.vms.len() <= QUESTION_VMS_MAX;
    if !small || !fewer_would_do(&bare, n) {
        return "sums would allow it, but not what fits together on a host under the constraints".to_owned();
    }
    let guilty: Vec<&str> = match constraints.len() <= CONSTRAINTS_MAX {
        true => constraints
            .iter()
            .filter(|(_, one)| fewer_would_do(&Problem::without(input, one), n))
            .map(|(name, _)| name.as_str())
            .collect(),
        false => Vec::new(),
    };
    match guilty.as_slice() {
        [] => "amounts would allow it, but not the constraints together: groups, pins, selectors or processor models"
            .to_owned(),
        [one] => format!("amounts would allow it, but not {one}"),
        several => format!(
            "amounts would allow it, but not these constraints; it would do without any one of {}",
            listed(several)
        ),
    }
}

/// Every constraint with what leaving it out means.
fn constraints(input: &PlanInput) -> Vec<(String, Without)> {
    let groups = input.cluster.groups.iter().map(|group| {
        let kind = match group.kind {
            GroupKind::Affinity => "affinity",
            GroupKind::AntiAffinity => "anti-affinity",
        };
        let without = Without {
            groups: BTreeSet::from([group.name.clone()]),
            ..Without::default()
        };
        (format!("group {} ({kind})", group.name), without)
    });
    let limited = input.cluster.vms.iter().enumerate().filter_map(|(i, vm)| {
        let what: Vec<&str> = [
            (!vm.pin.is_empty()).then_some("pin"),
            (!vm.selector.is_empty()).then_some("selector"),
            (!vm.cpu_models.is_empty()).then_some("processor models"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let without = Without {
            limits_of: BTreeSet::from([i]),
            ..Without::default()
        };
        (!what.is_empty()).then(|| (format!("the {} of VM {}", listed(what), vm.name), without))
    });
    groups.chain(limited).collect()
}

/// Whether a placement on fewer than n was found; its not being found proves nothing.
fn fewer_would_do(problem: &Problem, n: usize) -> bool {
    let mut ask = || Go::On;
    let mut watch = Watch::new(QUESTION_WORK, &mut ask);
    let found = solve::solve(problem, &mut watch);
    found.host_of.is_some() && found.cost.hosts < n
}
