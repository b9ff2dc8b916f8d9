//! A partial assignment: what is free where, and what it costs so far.

use crate::problem::{Problem, fits};

/// The lexicographic objective: fewest targets, then least memory moved, then least traffic between
/// hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Cost {
    pub hosts: usize,
    pub memory: u128,
    pub traffic: u128,
}

/// No host yet.
pub(crate) const NOWHERE: usize = usize::MAX;

/// Items on hosts.
#[derive(Clone)]
pub(crate) struct Load<'a> {
    pub problem: &'a Problem,
    pub free: Vec<Vec<u64>>,
    pub on: Vec<Vec<usize>>,
    pub host_of: Vec<usize>,
    pub cost: Cost,
    pub placed: usize,
}

impl<'a> Load<'a> {
    pub fn new(problem: &'a Problem) -> Self {
        Self {
            problem,
            free: problem.hosts.clone(),
            on: vec![Vec::new(); problem.hosts.len()],
            host_of: vec![NOWHERE; problem.items.len()],
            cost: Cost {
                traffic: problem.traffic_staying,
                ..Cost::default()
            },
            placed: 0,
        }
    }

    pub fn from_assignment(problem: &'a Problem, host_of: &[usize]) -> Self {
        let mut load = Self::new(problem);
        for (item, host) in host_of.iter().enumerate() {
            if *host != NOWHERE {
                load.put(item, *host);
            }
        }
        load
    }

    /// Whether the item may go there now.
    pub fn accepts(&self, item: usize, host: usize) -> bool {
        let it = &self.problem.items[item];
        self.problem.allow[it.allow][host] && fits(&it.demand, &self.free[host]) && !self.clashes(item, host)
    }

    /// Whether a member of one of the item's anti-affinity groups is there.
    pub fn clashes(&self, item: usize, host: usize) -> bool {
        let groups = &self.problem.items[item].groups;
        !groups.is_empty()
            && self.on[host].iter().any(|other| {
                let theirs = &self.problem.items[*other].groups;
                *other != item && groups.iter().any(|g| theirs.contains(g))
            })
    }

    pub fn is_used(&self, host: usize) -> bool {
        !self.on[host].is_empty()
    }

    pub fn put(&mut self, item: usize, host: usize) {
        debug_assert_eq!(self.host_of[item], NOWHERE);
        let it = &self.problem.items[item];
        for (free, d) in self.free[host].iter_mut().zip(&it.demand) {
            *free -= d;
        }
        self.cost.hosts += usize::from(self.on[host].is_empty());
        self.cost.memory += it.moved(host);
        self.cost.traffic += self.crossing(item, host);
        self.on[host].push(item);
        self.host_of[item] = host;
        self.placed += 1;
    }

    pub fn take(&mut self, item: usize) -> usize {
        let host = self.host_of[item];
        let it = &self.problem.items[item];
        for (free, d) in self.free[host].iter_mut().zip(&it.demand) {
            *free += d;
        }
        self.host_of[item] = NOWHERE;
        let at = self.on[host].iter().rposition(|i| *i == item);
        self.on[host].swap_remove(at.expect("a placed item is on its host"));
        self.cost.hosts -= usize::from(self.on[host].is_empty());
        self.cost.memory -= it.moved(host);
        self.cost.traffic -= self.crossing(item, host);
        self.placed -= 1;
        host
    }

    /// Traffic of the item with placed peers, and with VMs that stay, elsewhere, if it were on
    /// `host`.
    pub fn crossing(&self, item: usize, host: usize) -> u128 {
        let it = &self.problem.items[item];
        let placed = it.peers.iter();
        let placed = placed.filter(|(peer, _)| self.host_of[*peer] != NOWHERE && self.host_of[*peer] != host);
        let staying = it.peers_staying.iter().filter(|(there, _)| *there != host);
        placed.chain(staying).map(|(_, amount)| amount).sum()
    }

    pub fn is_complete(&self) -> bool {
        self.placed == self.problem.items.len()
    }
}

/// Share of each resource's total that one unit of it is; weighs resources against each other in
/// heuristics only.
pub(crate) fn weights(problem: &Problem) -> Vec<f64> {
    (0..problem.resources.len())
        .map(|r| {
            let offered: f64 = problem.hosts.iter().map(|h| h[r] as f64).sum();
            let needed: f64 = problem.items.iter().map(|i| i.demand[r] as f64).sum();
            // What is scarce weighs more.
            if offered > 0.0 {
                needed / offered / offered
            } else {
                0.0
            }
        })
        .collect()
}

/// A demand or an offer as one number.
pub(crate) fn size(amounts: &[u64], weights: &[f64]) -> f64 {
    amounts.iter().zip(weights).map(|(a, w)| *a as f64 * w).sum()
}
