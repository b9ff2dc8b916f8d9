//! Fast placements to start from: first fit and best fit decreasing, and filling host after host.

use super::load::{Load, NOWHERE, size, weights};
use super::watch::Watch;
use crate::problem::Problem;

/// Where an item goes among the hosts that accept it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// The first in the order.
    First,
    /// The one it leaves least free.
    Best,
    /// Its own host when it is in use or can be, then the best.
    Stay,
}

/// Members of one kind looked at for one that clashes with nothing.
const MEMBERS_TRIED_MAX: usize = 32;

/// Items, largest first; those with few hosts to go to before equal ones with many.
pub(crate) fn item_order(problem: &Problem) -> Vec<usize> {
    let weights = weights(problem);
    let freedom: Vec<usize> = problem
        .allow
        .iter()
        .map(|set| set.iter().filter(|a| **a).count())
        .collect();
    let mut order: Vec<usize> = (0..problem.items.len()).collect();
    let key = |i: usize| {
        (
            freedom[problem.items[i].allow] > 1,
            size(&problem.items[i].demand, &weights),
        )
    };
    order.sort_by(|a, b| {
        let ((free_a, size_a), (free_b, size_b)) = (key(*a), key(*b));
        (free_a.cmp(&free_b))
            .then(size_b.total_cmp(&size_a))
            .then(problem.items[*a].kind.cmp(&problem.items[*b].kind))
            .then(a.cmp(b))
    });
    order
}

/// Hosts to open, most room first; among equal ones the host where most of the cluster's memory
/// already is.
pub(crate) fn host_order(problem: &Problem, by_home: bool) -> Vec<usize> {
    let weights = weights(problem);
    let mut home = vec![0u128; problem.hosts.len()];
    for item in &problem.items {
        for (host, memory) in &item.homes {
            if problem.allow[item.allow][*host] {
                home[*host] += memory;
            }
        }
    }
    let mut order: Vec<usize> = (0..problem.hosts.len()).collect();
    order.sort_by(|a, b| {
        let sizes = size(&problem.hosts[*b], &weights).total_cmp(&size(&problem.hosts[*a], &weights));
        let homes = home[*b].cmp(&home[*a]);
        let first = if by_home {
            homes.then(sizes)
        } else {
            sizes.then(homes)
        };
        first.then(a.cmp(b))
    });
    order
}

/// Item after item, largest first, onto hosts in use; a new host is opened only when none accepts
/// it.
pub(crate) fn fit<'a>(problem: &'a Problem, rule: Fit, watch: &mut Watch<'_>) -> Load<'a> {
    fit_in_order(problem, rule, &item_order(problem), watch)
}

/// The same in an order of the caller's.
pub(crate) fn fit_in_order<'a>(
    problem: &'a Problem,
    rule: Fit,
    order: &[usize],
    watch: &mut Watch<'_>,
) -> Load<'a> {
    let weights = weights(problem);
    let hosts = host_order(problem, rule == Fit::Stay);
    let mut load = Load::new(problem);
    let mut open: Vec<usize> = Vec::new();
    for &item in order {
        if !watch.spend(open.len() as u64 / 4 + 1) {
            break;
        }
        let host = choose(&load, item, rule, &open, &weights).or_else(|| {
            let mut unused = hosts.iter().filter(|h| !load.is_used(**h));
            unused.find(|h| load.accepts(item, **h)).copied()
        });
        if let Some(host) = host {
            if !load.is_used(host) {
                open.push(host);
            }
            load.put(item, host);
        }
    }
    load
}

fn choose(load: &Load<'_>, item: usize, rule: Fit, open: &[usize], weights: &[f64]) -> Option<usize> {
    let mut accepting = open.iter().copied().filter(|h| load.accepts(item, *h));
    match rule {
        Fit::First => accepting.next(),
        Fit::Best | Fit::Stay => {
            let homes = &load.problem.items[item].homes;
            let key = |host: &usize| {
                let away = rule == Fit::Stay && !homes.iter().any(|(h, _)| h == host);
                (away, size(&load.free[*host], weights))
            };
            accepting.min_by(|a, b| {
                let (a, b) = (key(a), key(b));
                a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
            })
        }
    }
}

/// Host after host: each is filled with what points most in the direction of what it has left.
pub(crate) fn fill<'a>(problem: &'a Problem, watch: &mut Watch<'_>) -> Load<'a> {
    let weights = weights(problem);
    let mut load = Load::new(problem);
    let mut waiting = problem.item_kinds.clone();
    for host in host_order(problem, false) {
        if load.is_complete() || watch.is_over() {
            break;
        }
        fill_host(&mut load, host, &mut waiting, &weights, watch);
    }
    insert_rest(&mut load, watch);
    load
}

fn fill_host(
    load: &mut Load<'_>,
    host: usize,
    waiting: &mut [Vec<usize>],
    weights: &[f64],
    watch: &mut Watch<'_>,
) {
    loop {
        if !watch.spend(waiting.len() as u64 / 4 + 1) {
            return;
        }
        let direction = |kind: usize, load: &Load<'_>| -> f64 {
            let demand = &load.problem.items[load.problem.item_kinds[kind][0]].demand;
            let parts = demand.iter().zip(&load.free[host]).zip(weights);
            parts.map(|((d, f), w)| (*d as f64 * w) * (*f as f64 * w)).sum()
        };
        let best = (0..waiting.len())
            .filter(|k| !waiting[*k].is_empty())
            .filter_map(|k| member(load, &waiting[k], host).map(|at| (k, at)))
            .max_by(|a, b| {
                direction(a.0, load)
                    .total_cmp(&direction(b.0, load))
                    .then(b.0.cmp(&a.0))
            });
        let Some((kind, at)) = best else {
            return;
        };
        let item = waiting[kind].swap_remove(at);
        load.put(item, host);
    }
}

/// The position of a waiting member that the host accepts, one that lives there first.
pub(crate) fn member(load: &Load<'_>, waiting: &[usize], host: usize) -> Option<usize> {
    let tried = waiting.len().min(MEMBERS_TRIED_MAX);
    let first = waiting.first()?;
    let it = &load.problem.items[*first];
    // All members share demand and allowed hosts; only their groups differ.
    if !load.problem.allow[it.allow][host] || !crate::problem::fits(&it.demand, &load.free[host]) {
        return None;
    }
    let lives_here = |item: usize| load.problem.items[item].homes.iter().any(|(h, _)| *h == host);
    let tail = waiting.len() - tried;
    let usable = |at: &usize| !load.clashes(waiting[*at], host);
    (tail..waiting.len())
        .filter(usable)
        .max_by_key(|at| lives_here(waiting[*at]))
}

/// Puts what is not placed yet wherever it fits, opening hosts as needed.
pub(crate) fn insert_rest(load: &mut Load<'_>, watch: &mut Watch<'_>) {
    if load.is_complete() {
        return;
    }
    let problem = load.problem;
    let weights = weights(problem);
    let hosts = host_order(problem, false);
    let mut open: Vec<usize> = (0..problem.hosts.len()).filter(|h| load.is_used(*h)).collect();
    for item in item_order(problem) {
        if load.host_of[item] != NOWHERE {
            continue;
        }
        if !watch.spend(open.len() as u64 / 4 + 1) {
            return;
        }
        let host = choose(load, item, Fit::Best, &open, &weights).or_else(|| {
            hosts
                .iter()
                .copied()
                .find(|h| !load.is_used(*h) && load.accepts(item, *h))
        });
        if let Some(host) = host {
            if !load.is_used(host) {
                open.push(host);
            }
            load.put(item, host);
        }
    }
}
