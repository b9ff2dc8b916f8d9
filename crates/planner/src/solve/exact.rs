//! Depth-first branch and bound over the whole lexicographic objective; complete when its work
//! suffices.
//!
//! Symmetry: of unused hosts that do not differ only the first is tried; of items that
//! do not differ each goes to the same or a later host than the one before. Both keep the
//! lexicographically first of equivalent placements, so together they lose none.

use super::bound::traffic_min;
use super::greedy::item_order;
use super::load::{Cost, Load, NOWHERE};
use super::watch::Watch;
use crate::problem::Problem;

/// Deeper searches would not end and would strain the stack.
pub(crate) const ITEMS_MAX: usize = 2_000;

/// What the search knows before it starts.
pub(crate) struct Start {
    /// The best placement known, if any.
    pub best: Option<(Cost, Vec<usize>)>,
    /// Nothing can be better than this.
    pub least: Cost,
    /// Stop at the first placement.
    pub first_only: bool,
}

/// What it found.
pub(crate) struct Found {
    /// The best placement known at the end.
    pub best: Option<(Cost, Vec<usize>)>,
    /// Everything was tried or excluded: the best is the optimum, and none means there is none.
    pub complete: bool,
}

/// Searches until complete, stopped by the watch, or at `least`.
pub(crate) fn search(problem: &Problem, start: Start, watch: &mut Watch<'_>) -> Found {
    let order = item_order(problem);
    let mut search = Search {
        tables: Tables::new(problem, &order),
        order,
        load: Load::new(problem),
        best: start.best,
        least: start.least,
        first_only: start.first_only,
        stopped: false,
    };
    if search.best.as_ref().is_none_or(|(cost, _)| *cost > search.least) {
        search.descend(0, watch);
    }
    Found {
        best: search.best,
        complete: !search.stopped,
    }
}

/// Numbers that the bound looks up.
struct Tables {
    /// For each position, what all items from there on need, by resource.
    needed: Vec<Vec<u128>>,
    /// For each position, memory that has to move from there on.
    moved: Vec<u128>,
    /// For each resource, sums of the largest hosts.
    largest: Vec<Vec<u128>>,
    /// For each position, whether the item is the twin of the one before.
    twin: Vec<bool>,
    /// For each host, the hosts with lower numbers that do not differ from it have this
    /// class.
    class: Vec<usize>,
    classes: usize,
    traffic_min: u128,
}

impl Tables {
    fn new(problem: &Problem, order: &[usize]) -> Self {
        let kinds = problem.resources.len();
        let mut needed = vec![vec![0; kinds]; order.len() + 1];
        let mut moved = vec![0; order.len() + 1];
        for (p, &i) in order.iter().enumerate().rev() {
            let demand = &problem.items[i].demand;
            needed[p] = needed[p + 1]
                .iter()
                .zip(demand)
                .map(|(n, d)| n + u128::from(*d))
                .collect();
            let item = &problem.items[i];
            let stays = item
                .homes
                .iter()
                .filter(|(h, _)| problem.admits(i, *h))
                .map(|(_, m)| *m);
            moved[p] = moved[p + 1] + item.memory - stays.max().unwrap_or(0);
        }
        let largest = (0..kinds).map(|r| {
            let mut amounts: Vec<u64> = problem.hosts.iter().map(|h| h[r]).collect();
            amounts.sort_unstable_by(|a, b| b.cmp(a));
            let mut sums = vec![0u128];
            amounts
                .iter()
                .for_each(|a| sums.push(sums[sums.len() - 1] + u128::from(*a)));
            sums
        });
        let twin = (0..order.len()).map(|p| p > 0 && are_twins(problem, order[p - 1], order[p]));
        let mut is_home = vec![false; problem.hosts.len()];
        for item in &problem.items {
            let near = item.homes.iter().chain(&item.peers_staying);
            near.for_each(|(h, _)| is_home[*h] = true);
        }
        let kinds = problem.kinds.len();
        // A host that is somebody's home, or where a peer stays, is like no other.
        let class = (0..problem.hosts.len()).map(|h| {
            if is_home[h] {
                kinds + h
            } else {
                problem.host_kind[h]
            }
        });
        Self {
            needed,
            moved,
            largest: largest.collect(),
            twin: twin.collect(),
            class: class.collect(),
            classes: kinds + problem.hosts.len(),
            traffic_min: traffic_min(problem),
        }
    }
}

fn are_twins(problem: &Problem, a: usize, b: usize) -> bool {
    let (x, y) = (&problem.items[a], &problem.items[b]);
    x.kind == y.kind
        && x.groups == y.groups
        && x.homes == y.homes
        && x.peers_staying == y.peers_staying
        && x.peers.is_empty()
        && y.peers.is_empty()
}

struct Search<'a> {
    tables: Tables,
    order: Vec<usize>,
    load: Load<'a>,
    best: Option<(Cost, Vec<usize>)>,
    least: Cost,
    first_only: bool,
    stopped: bool,
}

impl Search<'_> {
    fn descend(&mut self, position: usize, watch: &mut Watch<'_>) {
        if !watch.spend(self.load.problem.hosts.len() as u64 / 8 + 1) {
            self.stopped = true;
            return;
        }
        if !self.can_improve(position) {
            return;
        }
        let Some(&item) = self.order.get(position) else {
            self.best = Some((self.load.cost, self.load.host_of.clone()));
            return;
        };
        for host in self.candidates(position, item) {
            self.load.put(item, host);
            self.descend(position + 1, watch);
            self.load.take(item);
            if self.stopped || self.is_done() {
                return;
            }
        }
    }

    fn is_done(&self) -> bool {
        match &self.best {
            Some((cost, _)) => self.first_only || *cost <= self.least,
            None => false,
        }
    }

    fn can_improve(&self, position: usize) -> bool {
        let Some(more) = self.more_hosts(position) else {
            return false;
        };
        match &self.best {
            None => true,
            Some((best, _)) => {
                let bound = Cost {
                    hosts: (self.load.cost.hosts + more).max(self.least.hosts),
                    memory: self.load.cost.memory + self.tables.moved[position],
                    traffic: self.load.cost.traffic.max(self.tables.traffic_min),
                };
                bound < *best
            }
        }
    }

    /// Hosts that must still be opened for what is not placed; `None` when all of them would not
    /// do.
    fn more_hosts(&self, position: usize) -> Option<usize> {
        let mut more = 0;
        for (r, needed) in self.tables.needed[position].iter().enumerate() {
            let hosts = self.load.free.iter().enumerate();
            let (mut open, mut shut) = (0u128, 0u128);
            for (h, free) in hosts {
                match self.load.is_used(h) {
                    true => open += u128::from(free[r]),
                    false => shut += u128::from(free[r]),
                }
            }
            let missing = needed.saturating_sub(open);
            if missing > shut {
                return None;
            }
            more = more.max(self.tables.largest[r].partition_point(|sum| *sum < missing));
        }
        Some(more)
    }

    /// Hosts to try: where it lives, hosts in use from the fullest, then one unused of each class
    /// from the largest.
    fn candidates(&self, position: usize, item: usize) -> Vec<usize> {
        let earliest = match self.tables.twin[position] {
            true => self.load.host_of[self.order[position - 1]],
            false => 0,
        };
        debug_assert_ne!(earliest, NOWHERE);
        let mut seen = vec![false; self.tables.classes];
        let mut hosts: Vec<usize> = Vec::new();
        for host in 0..self.load.free.len() {
            let used = self.load.is_used(host);
            // The first unused host of a class stands for all, also where the item may not go below
            // `earliest`.
            if !used && std::mem::replace(&mut seen[self.tables.class[host]], true) {
                continue;
            }
            if host >= earliest && self.load.accepts(item, host) {
                hosts.push(host);
            }
        }
        let homes = &self.load.problem.items[item].homes;
        hosts.sort_by_cached_key(|h| {
            let used = self.load.is_used(*h);
            let away = !homes.iter().any(|(home, _)| home == h);
            let free: u128 = self.load.free[*h].iter().map(|f| u128::from(*f)).sum();
            (!used, away, if used { free } else { u128::MAX - free })
        });
        hosts
    }
}
