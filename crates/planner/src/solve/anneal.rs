//! Packing into a given number of hosts by simulated annealing: everything is somewhere, and what
//! is too much shrinks.
//!
//! Moves and exchanges between hosts lower the overflow (the share by which hosts are overfull,
//! over all resources); a falling temperature lets some raise it. For many different VMs on a host,
//! where patterns are too many. Finds placements, proves nothing.

use super::dive::Rng;
use super::greedy::{host_order, item_order};
use super::load::{Load, size, weights};
use super::watch::Watch;
use crate::problem::Problem;

/// Temperatures, in shares of a host.
const WARM: f64 = 0.02;
const COLD: f64 = 0.0002;
/// Steps per VM for one annealing run.
const STEPS_PER_ITEM: u64 = 20_000;
/// With fewer VMs on a host patterns do better.
const PER_HOST_MIN: usize = 5;
/// Larger problems are not annealed.
const ITEMS_MAX: usize = 3_000;

struct State<'a> {
    problem: &'a Problem,
    hosts: Vec<usize>,
    /// Position in `hosts` of each item.
    at: Vec<usize>,
    on: Vec<Vec<usize>>,
    load: Vec<Vec<u64>>,
    overflow: f64,
}

/// Tries to put everything on the `count` hosts with most room.
pub(super) fn anneal<'a>(
    problem: &'a Problem,
    count: usize,
    seed: u64,
    watch: &mut Watch<'_>,
) -> Option<Load<'a>> {
    if problem.items.len() > ITEMS_MAX || count < 2 || problem.items.len() < PER_HOST_MIN * count {
        return None;
    }
    let hosts: Vec<usize> = host_order(problem, false).into_iter().take(count).collect();
    let reachable = |i: usize| hosts.iter().any(|h| problem.admits(i, *h));
    if !(0..problem.items.len()).all(reachable) {
        return None;
    }
    let mut rng = Rng::new(seed + 5);
    let mut state = State::spread(problem, hosts);
    let steps = STEPS_PER_ITEM * problem.items.len() as u64;
    let cooling = (COLD / WARM).powf(1.0 / steps as f64);
    let mut temperature = WARM;
    for step in 0..steps {
        if state.overflow <= 1e-12 {
            return state.load();
        }
        if step % 256 == 0 && !watch.spend(256) {
            return None;
        }
        state.step(&mut rng, temperature);
        temperature *= cooling;
    }
    None
}

impl<'a> State<'a> {
    /// Largest first, each to the host that is least full then.
    fn spread(problem: &'a Problem, hosts: Vec<usize>) -> Self {
        let count = hosts.len();
        let mut state = Self {
            problem,
            at: vec![0; problem.items.len()],
            on: vec![Vec::new(); count],
            load: vec![vec![0; problem.resources.len()]; count],
            overflow: 0.0,
            hosts,
        };
        let weights = weights(problem);
        for item in item_order(problem) {
            let room =
                |p: &usize| size(&problem.hosts[state.hosts[*p]], &weights) - size(&state.load[*p], &weights);
            let candidates = (0..count).filter(|p| problem.admits(item, state.hosts[*p]));
            let calm = |p: &usize| !state.clashes(item, *p, usize::MAX);
            let best = candidates.max_by(|a, b| calm(a).cmp(&calm(b)).then(room(a).total_cmp(&room(b))));
            let place = best.expect("every item has a host among these");
            state.put(item, place);
        }
        state.overflow = (0..count).map(|p| state.excess(p, &[], &[])).sum();
        state
    }

    fn put(&mut self, item: usize, place: usize) {
        let demand = &self.problem.items[item].demand;
        self.load[place].iter_mut().zip(demand).for_each(|(l, d)| *l += d);
        self.on[place].push(item);
        self.at[item] = place;
    }

    fn remove(&mut self, item: usize) {
        let place = self.at[item];
        let demand = &self.problem.items[item].demand;
        self.load[place].iter_mut().zip(demand).for_each(|(l, d)| *l -= d);
        let index = self.on[place].iter().position(|i| *i == item);
        self.on[place].swap_remove(index.expect("an item is on its host"));
    }

    /// How overfull a host is when `more` comes and `less` goes.
    fn excess(&self, place: usize, more: &[u64], less: &[u64]) -> f64 {
        let capacity = &self.problem.hosts[self.hosts[place]];
        let mut sum = 0.0;
        for (r, (load, has)) in self.load[place].iter().zip(capacity).enumerate() {
            let now = load + more.get(r).unwrap_or(&0) - less.get(r).unwrap_or(&0);
            if now > *has {
                sum += (now - has) as f64 / (*has).max(1) as f64;
            }
        }
        sum
    }

    /// Whether a member of one of the item's groups, other than `but`, is there.
    fn clashes(&self, item: usize, place: usize, but: usize) -> bool {
        let groups = &self.problem.items[item].groups;
        !groups.is_empty()
            && self.on[place].iter().any(|other| {
                *other != but
                    && groups
                        .iter()
                        .any(|g| self.problem.items[*other].groups.contains(g))
            })
    }

    fn step(&mut self, rng: &mut Rng, temperature: f64) {
        let pick = |rng: &mut Rng, n: usize| ((rng.next_unit() * n as f64) as usize).min(n - 1);
        let item = pick(rng, self.at.len());
        let (from, to) = (self.at[item], pick(rng, self.hosts.len()));
        if from == to || !self.problem.admits(item, self.hosts[to]) {
            return;
        }
        let other = match self.on[to].len() {
            0 => None,
            n => Some(pick(rng, n + 1)).filter(|i| *i < n).map(|i| self.on[to][i]),
        };
        if other.is_some_and(|o| !self.problem.admits(o, self.hosts[from]) || self.clashes(o, from, item)) {
            return;
        }
        if self.clashes(item, to, other.unwrap_or(usize::MAX)) {
            return;
        }
        let mine = &self.problem.items[item].demand;
        let theirs: &[u64] = other.map_or(&[], |o| &self.problem.items[o].demand);
        let change = self.excess(from, theirs, mine) + self.excess(to, mine, theirs)
            - self.excess(from, &[], &[])
            - self.excess(to, &[], &[]);
        if change > 0.0 && rng.next_unit() >= (-change / temperature).exp() {
            return;
        }
        self.remove(item);
        if let Some(other) = other {
            self.remove(other);
            self.put(other, from);
        }
        self.put(item, to);
        self.overflow = (self.overflow + change).max(0.0);
        if self.overflow < 1e-9 {
            // Sums of fractions drift: count anew before believing it.
            self.overflow = (0..self.hosts.len()).map(|p| self.excess(p, &[], &[])).sum();
        }
    }

    fn load(&self) -> Option<Load<'a>> {
        let mut load = Load::new(self.problem);
        for (item, place) in self.at.iter().enumerate() {
            let host = self.hosts[*place];
            // Groups that clashed from the start may still clash.
            if !load.accepts(item, host) {
                return None;
            }
            load.put(item, host);
        }
        Some(load)
    }
}
