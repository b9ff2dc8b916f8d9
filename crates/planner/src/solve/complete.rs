//! Bin completion for tight packings: fill one host after another so that no more is wasted than the number of hosts allows.
//!
//! For hosts of one kind and few VMs a host, where sums alone leave next to no slack (the hard triplets). The host to fill next is the one
//! whose leading VM has the fewest completions. It only finds placements; proofs come from the bounds. Groups are ignored here and repaired after.

use super::dive::Dice;
use super::pattern::Pattern;
use super::watch::Watch;
use crate::problem::Problem;

/// VMs on one host, at most; above, completions are too many to list.
const PER_HOST_MAX: u64 = 6;
/// Completions listed for one leading VM.
const COMPLETIONS_MAX: usize = 400;
/// Leading VMs compared at one depth.
const LEADERS_MAX: usize = 8;
/// Depths visited before the search starts again with other chances.
const VISITS_MAX: u64 = 3_000;
/// Starts.
const STARTS_MAX: u64 = 2_000;

/// Tries to fill exactly `hosts` hosts with everything. Different seeds take other chances.
pub(super) fn complete(
    problem: &Problem,
    hosts: usize,
    seed: u64,
    watch: &mut Watch<'_>,
) -> Option<Vec<Pattern>> {
    let host_kind = (0..problem.kinds.len()).max_by_key(|t| problem.kinds[*t].len())?;
    let host = problem.kinds[host_kind][0];
    let suited = problem.kinds[host_kind].len() >= hosts
        && problem.items.iter().all(|i| problem.allow[i.allow][host])
        && problem.items.len() as u64 <= PER_HOST_MAX * hosts as u64;
    if !suited {
        return None;
    }
    (seed..seed + STARTS_MAX).find_map(|start| {
        let mut search = Search::new(problem, host, hosts, start)?;
        let found = !watch.is_over() && search.descend(watch);
        found.then(|| {
            let contents = search.filled.into_iter();
            contents.map(|contents| Pattern { host_kind, contents }).collect()
        })
    })
}

struct Search<'a> {
    problem: &'a Problem,
    capacity: &'a [u64],
    /// The resource with least slack; kinds are sorted by it.
    tight: usize,
    /// Item kinds, largest first.
    order: Vec<usize>,
    /// How many of each are left, in that order.
    left: Vec<u64>,
    items_left: u64,
    /// What may still be wasted, by resource.
    slack: Vec<u64>,
    filled: Vec<Vec<(usize, u64)>>,
    visits: u64,
    dice: Dice,
}

/// Positions in the order, one for each VM of a host, ascending.
type Completion = Vec<usize>;

impl<'a> Search<'a> {
    /// `None` when the sums exceed the hosts.
    fn new(problem: &'a Problem, host: usize, hosts: usize, seed: u64) -> Option<Self> {
        let capacity = &problem.hosts[host];
        let slack: Option<Vec<u64>> = (0..capacity.len())
            .map(|r| {
                let needed: u128 = problem.items.iter().map(|i| u128::from(i.demand[r])).sum();
                let has = u128::from(capacity[r]) * hosts as u128;
                has.checked_sub(needed).and_then(|s| u64::try_from(s).ok())
            })
            .collect();
        let slack = slack?;
        let share = |r: &usize| slack[*r] as f64 / capacity[*r].max(1) as f64;
        let tight = (0..slack.len()).min_by(|a, b| share(a).total_cmp(&share(b)))?;
        let demand = |k: usize| &problem.items[problem.item_kinds[k][0]].demand;
        let mut order: Vec<usize> = (0..problem.item_kinds.len()).collect();
        order.sort_by(|a, b| demand(*b)[tight].cmp(&demand(*a)[tight]).then(a.cmp(b)));
        Some(Self {
            problem,
            capacity,
            tight,
            left: order
                .iter()
                .map(|k| problem.item_kinds[*k].len() as u64)
                .collect(),
            items_left: problem.items.len() as u64,
            order,
            slack,
            filled: Vec::new(),
            visits: 0,
            dice: Dice::new(seed + 77),
        })
    }

    fn demand(&self, position: usize) -> &'a [u64] {
        &self.problem.items[self.problem.item_kinds[self.order[position]][0]].demand
    }

    fn descend(&mut self, watch: &mut Watch<'_>) -> bool {
        if self.items_left == 0 {
            return true;
        }
        self.visits += 1;
        if self.visits > VISITS_MAX {
            return false;
        }
        let Some(mut completions) = self.fewest_completions(watch) else {
            return false;
        };
        for i in (1..completions.len()).rev() {
            completions.swap(i, (self.dice.roll() * (i + 1) as f64) as usize);
        }
        for completion in completions {
            let wasted = self.fill(&completion);
            if self.descend(watch) {
                return true;
            }
            self.empty(&completion, &wasted);
            if self.visits > VISITS_MAX || watch.is_over() {
                return false;
            }
        }
        false
    }

    /// The completions of that leading VM, among the largest left, that has fewest. `None` when the watch is over.
    fn fewest_completions(&self, watch: &mut Watch<'_>) -> Option<Vec<Completion>> {
        let mut best: Option<Vec<Completion>> = None;
        let leaders = (0..self.left.len())
            .filter(|p| self.left[*p] > 0)
            .take(LEADERS_MAX);
        for leader in leaders {
            let mut list = Listing {
                search: self,
                left: self.left.clone(),
                chosen: vec![leader],
                found: Vec::new(),
                most: best.as_ref().map_or(COMPLETIONS_MAX, Vec::len),
                work: 1,
            };
            list.left[leader] -= 1;
            let free: Vec<u64> = self
                .capacity
                .iter()
                .zip(self.demand(leader))
                .map(|(c, d)| c - d)
                .collect();
            list.extend(0, &free);
            if !watch.spend(list.work / 4 + 1) {
                return None;
            }
            if best.as_ref().is_none_or(|b| list.found.len() < b.len()) {
                best = Some(list.found);
            }
            if best.as_ref().is_some_and(|b| b.len() <= 1) {
                break;
            }
        }
        best
    }

    /// Fills a host; returns what it wastes.
    fn fill(&mut self, completion: &Completion) -> Vec<u64> {
        let mut wasted = self.capacity.to_vec();
        let mut contents: Vec<(usize, u64)> = Vec::new();
        for position in completion {
            self.left[*position] -= 1;
            self.items_left -= 1;
            wasted
                .iter_mut()
                .zip(self.demand(*position))
                .for_each(|(w, d)| *w -= d);
            let kind = self.order[*position];
            match contents.iter_mut().find(|(k, _)| *k == kind) {
                Some((_, n)) => *n += 1,
                None => contents.push((kind, 1)),
            }
        }
        self.slack.iter_mut().zip(&wasted).for_each(|(s, w)| *s -= w);
        self.filled.push(contents);
        wasted
    }

    fn empty(&mut self, completion: &Completion, wasted: &[u64]) {
        for position in completion {
            self.left[*position] += 1;
            self.items_left += 1;
        }
        self.slack.iter_mut().zip(wasted).for_each(|(s, w)| *s += w);
        self.filled.pop();
    }
}

/// Lists the completions of one host.
struct Listing<'s, 'a> {
    search: &'s Search<'a>,
    left: Vec<u64>,
    chosen: Completion,
    found: Vec<Completion>,
    most: usize,
    work: u64,
}

impl Listing<'_, '_> {
    fn extend(&mut self, from: usize, free: &[u64]) {
        if free.iter().zip(&self.search.slack).all(|(f, s)| f <= s) {
            self.found.push(self.chosen.clone());
        }
        let tight = self.search.tight;
        let size = |p: usize| self.search.demand(p)[tight];
        let smallest = (0..self.left.len())
            .rev()
            .find(|p| self.left[*p] > 0)
            .map_or(0, size);
        // Where only one more can come, it must fill what may not be wasted.
        let last = smallest > 0 && 2 * smallest > free[tight];
        let least = if last {
            free[tight].saturating_sub(self.search.slack[tight])
        } else {
            0
        };
        let fitting = self.search.order.partition_point(|k| {
            let demand = &self.search.problem.items[self.search.problem.item_kinds[*k][0]].demand;
            demand[tight] > free[tight]
        });
        for position in from.max(fitting)..self.left.len() {
            if self.found.len() >= self.most || size(position) < least {
                return;
            }
            self.work += 1;
            let demand = self.search.demand(position);
            if self.left[position] == 0 || !crate::problem::fits(demand, free) {
                continue;
            }
            let rest: Vec<u64> = free.iter().zip(demand).map(|(f, d)| f - d).collect();
            self.left[position] -= 1;
            self.chosen.push(position);
            self.extend(position, &rest);
            self.chosen.pop();
            self.left[position] += 1;
        }
    }
}
