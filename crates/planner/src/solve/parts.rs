//! Hosts that no item can choose between are solved apart: islands of a large site do not share
//! bounds, time or luck.

use std::collections::BTreeMap;

use super::load::Cost;
use super::watch::{Ended, Watch};
use super::{Solution, bound, solve_whole};
use crate::problem::{Item, Problem, join, root};

/// One island: a problem of its own, with where its hosts and items stand in the whole.
struct Part {
    problem: Problem,
    hosts: Vec<usize>,
    items: Vec<usize>,
}

/// Solves each island for itself; `None` where there is only one, or none.
pub(super) fn solve(problem: &Problem, watch: &mut Watch<'_>) -> Option<Solution> {
    let parts = split(problem)?;
    let mut whole = Solution {
        host_of: Some(vec![usize::MAX; problem.items.len()]),
        cost: Cost {
            traffic: problem.traffic_staying,
            ..Cost::default()
        },
        least: Cost {
            traffic: problem.traffic_staying,
            ..Cost::default()
        },
        impossible: false,
        ended: Ended::Complete,
        work: 0,
    };
    let count = parts.len();
    for (done, part) in parts.into_iter().enumerate() {
        let share = watch.left() / (count - done) as u64;
        let found = watch.part(share, |part_watch| solve_whole(&part.problem, part_watch));
        for (sum, one) in [(&mut whole.cost, found.cost), (&mut whole.least, found.least)] {
            sum.hosts += one.hosts;
            sum.memory += one.memory;
            sum.traffic += one.traffic;
        }
        whole.impossible |= found.impossible;
        if found.ended != Ended::Complete {
            whole.ended = found.ended;
        }
        whole.host_of = match (whole.host_of, found.host_of) {
            (Some(mut all), Some(some)) => {
                let pairs = part.items.iter().zip(some);
                pairs.for_each(|(item, host)| all[*item] = part.hosts[host]);
                Some(all)
            }
            (_, _) => None,
        };
    }
    // As long as hosts and memory are not proved, islands may share them out otherwise.
    if whole.cost.hosts > whole.least.hosts {
        whole.least.memory = bound::memory_min(problem, whole.cost.hosts);
    }
    if (whole.cost.hosts, whole.cost.memory) > (whole.least.hosts, whole.least.memory) {
        whole.least.traffic = bound::traffic_min(problem);
    }
    whole.work = watch.spent();
    Some(whole)
}

fn split(problem: &Problem) -> Option<Vec<Part>> {
    let mut leader: Vec<usize> = (0..problem.hosts.len()).collect();
    let mut first_of: Vec<usize> = Vec::new();
    for set in &problem.allow {
        let mut hosts = (0..set.len()).filter(|h| set[*h]);
        let first = hosts.next()?;
        for other in hosts {
            join(&mut leader, first, other);
        }
        first_of.push(first);
    }
    let mut items_of: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, item) in problem.items.iter().enumerate() {
        let at = root(&mut leader, first_of[item.allow]);
        items_of.entry(at).or_default().push(i);
    }
    if items_of.len() < 2 {
        return None;
    }
    let mut hosts_of: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for host in 0..problem.hosts.len() {
        hosts_of.entry(root(&mut leader, host)).or_default().push(host);
    }
    let parts = items_of.into_iter();
    Some(
        parts
            .map(|(at, items)| part(problem, items, hosts_of[&at].clone()))
            .collect(),
    )
}

/// Homes and peers outside of the island only count as traffic that crosses and memory that moves.
fn part(whole: &Problem, items: Vec<usize>, hosts: Vec<usize>) -> Part {
    let item_at: BTreeMap<usize, usize> = items.iter().enumerate().map(|(i, at)| (*at, i)).collect();
    let host_at: BTreeMap<usize, usize> = hosts.iter().enumerate().map(|(i, at)| (*at, i)).collect();
    let mut allow_at: BTreeMap<usize, usize> = BTreeMap::new();
    let mut group_at: BTreeMap<usize, usize> = BTreeMap::new();
    let mut problem = Problem {
        resources: whole.resources.clone(),
        hosts: hosts.iter().map(|h| whole.hosts[*h].clone()).collect(),
        ..Problem::default()
    };
    for (i, at) in items.iter().enumerate() {
        let of = &whole.items[*at];
        let next = allow_at.len();
        let allow = *allow_at.entry(of.allow).or_insert(next);
        if allow == next {
            let set = &whole.allow[of.allow];
            problem.allow.push(hosts.iter().map(|h| set[*h]).collect());
        }
        let mut item = Item {
            vms: of.vms.clone(),
            demand: of.demand.clone(),
            allow,
            memory: of.memory,
            ..Item::default()
        };
        let homes = of.homes.iter();
        item.homes = homes.filter_map(|(h, m)| Some((*host_at.get(h)?, *m))).collect();
        for group in &of.groups {
            let next = group_at.len();
            let at = *group_at.entry(*group).or_insert(next);
            if at == next {
                problem.groups.push(Vec::new());
                problem.group_names.push(whole.group_names[*group].clone());
            }
            problem.groups[at].push(i);
            item.groups.push(at);
        }
        for (peer, amount) in &of.peers {
            match item_at.get(peer) {
                Some(peer) => item.peers.push((*peer, *amount)),
                // Counted by one of the two islands.
                None if at < peer => problem.traffic_staying += amount,
                None => {}
            }
        }
        for (host, amount) in &of.peers_staying {
            match host_at.get(host) {
                Some(host) => item.peers_staying.push((*host, *amount)),
                None => problem.traffic_staying += amount,
            }
        }
        problem.items.push(item);
    }
    problem.sort_into_kinds();
    Part {
        problem,
        hosts,
        items,
    }
}
