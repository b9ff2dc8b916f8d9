//! The fewest hosts that would make it possible.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use transhume_model::HostName;

use super::{Addition, Known, is_feasible};
use crate::input::{Host, PlanInput};
use crate::problem::{Problem, Roles, fits, promised};
use crate::solve::{self, Ended, Watch};

/// Kinds of hosts tried as an addition; of more, the largest.
const ADDITION_KINDS_MAX: usize = 16;
/// Millionths: shares are compared in whole numbers.
const PARTS: u128 = 1_000_000;

/// The fewest additional hosts, over the kinds of hosts there are.
pub(crate) fn addition(
    input: &PlanInput,
    problem: &Problem,
    watch: &mut Watch<'_>,
) -> (Option<Addition>, Known) {
    let kinds = hopeful(problem, kinds(input));
    let of = kinds.len();
    let kinds = largest(input, kinds);
    let mut best: Option<Addition> = None;
    let mut known = match kinds.len() {
        tried if tried < of => Known::Part { tried, of },
        _ => Known::Proved,
    };
    for kind in kinds {
        let most = best.as_ref().map_or(input.cluster.vms.len(), |b| b.count - 1);
        match fewest(input, kind, most, watch) {
            Fewest::Would { count, open } => {
                best = Some(Addition {
                    like: kind.name.clone(),
                    count,
                    smallest: open.is_none(),
                });
                if count == 1 {
                    // Nothing is fewer, whatever was not tried or not answered.
                    return (best, Known::Proved);
                }
                if let Some(by) = open {
                    known = Known::Stopped { by };
                }
            }
            Fewest::NoneWould => {}
            Fewest::Unanswered(by) => known = Known::Stopped { by },
        }
    }
    (best, known)
}

/// One host of each kind, in the order of the input.
pub(crate) fn kinds(input: &PlanInput) -> Vec<&Host> {
    let mut seen = BTreeSet::new();
    let mut kinds = Vec::new();
    for host in &input.hosts {
        if seen.insert((&host.capacity, &host.overcommit, &host.labels, &host.cpu_model)) {
            kinds.push(host);
        }
    }
    kinds
}

/// Without kinds that cannot help: what fits nowhere now has to fit the new hosts.
fn hopeful<'a>(problem: &Problem, mut kinds: Vec<&'a Host>) -> Vec<&'a Host> {
    let nowhere = |item: &usize| !solve::is_placeable(problem, *item);
    let homeless: Vec<usize> = (0..problem.items.len()).filter(nowhere).collect();
    kinds.retain(|host| {
        let amounts = problem.promised(host);
        homeless
            .iter()
            .all(|item| fits(&problem.items[*item].demand, &amounts))
    });
    kinds
}

/// The kinds with most in all, by the shares of what the largest host has; in the order of the
/// input again.
pub(crate) fn largest<'a>(input: &PlanInput, mut kinds: Vec<&'a Host>) -> Vec<&'a Host> {
    if kinds.len() <= ADDITION_KINDS_MAX {
        return kinds;
    }
    let mut most: BTreeMap<&str, u128> = BTreeMap::new();
    for host in &input.hosts {
        for name in host.capacity.keys() {
            let most = most.entry(name).or_default();
            *most = promised(host, name).max(*most);
        }
    }
    let size = |host: &Host| -> u128 {
        let shares = host
            .capacity
            .keys()
            .map(|name| promised(host, name) * PARTS / most[name.as_str()].max(1));
        shares.sum()
    };
    let mut order: Vec<usize> = (0..kinds.len()).collect();
    order.sort_by_cached_key(|i| Reverse(size(kinds[*i])));
    let kept: BTreeSet<usize> = order.into_iter().take(ADDITION_KINDS_MAX).collect();
    let mut i = 0..;
    kinds.retain(|_| i.next().is_some_and(|i| kept.contains(&i)));
    kinds
}

/// How many hosts of a kind would do.
enum Fewest {
    /// So many; one less would not, unless that question was left open.
    Would { count: usize, open: Option<Ended> },
    /// Proved: as many as asked about would not, so fewer would not either.
    NoneWould,
    /// The question about the most was not answered.
    Unanswered(Ended),
}

/// The fewest hosts like this one that make it possible, at most `most`.
fn fewest(input: &PlanInput, kind: &Host, most: usize, watch: &mut Watch<'_>) -> Fewest {
    let mut would = |count: usize| is_feasible(&Problem::of(&with_added(input, kind, count)), watch);
    let (mut low, mut open, mut high) = (0, None, 1.min(most));
    let mut answer = Ok(false);
    while high > low {
        answer = would(high);
        if answer == Ok(true) {
            break;
        }
        open = answer.err();
        (low, high) = (high, (high * 2).min(most));
    }
    match answer {
        Ok(true) => {}
        Ok(false) => return Fewest::NoneWould,
        Err(by) => return Fewest::Unanswered(by),
    }
    while high - low > 1 {
        let middle = (low + high) / 2;
        match would(middle) {
            Ok(true) => high = middle,
            answer => {
                open = answer.err();
                low = middle;
            }
        }
    }
    Fewest::Would { count: high, open }
}

/// The input with so many more hosts of a kind, that are targets.
pub(crate) fn with_added(input: &PlanInput, kind: &Host, count: usize) -> PlanInput {
    let mut input = input.clone();
    let targets: Vec<HostName> = {
        let roles = Roles::of(&input);
        let names = input.hosts.iter().map(|h| &h.name);
        names.filter(|name| roles.receives(name)).cloned().collect()
    };
    let taken: BTreeSet<HostName> = input.hosts.iter().map(|h| h.name.clone()).collect();
    let fresh = (1..).map(|i| format!("added-{i}").parse().expect("letters, digits and a dash"));
    let fresh: Vec<HostName> = fresh.filter(|name| !taken.contains(name)).take(count).collect();
    if input.from.is_empty() {
        input.from = input.cluster.vms.iter().map(|v| v.host.clone()).collect();
    }
    input.to = targets.into_iter().chain(fresh.iter().cloned()).collect();
    for name in fresh {
        input.hosts.push(Host {
            name,
            used: Default::default(),
            maintenance: false,
            ..kind.clone()
        });
    }
    input
}
