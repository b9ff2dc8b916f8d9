//! Bin completion for tight packings: fill one host after another so that no more is wasted than
//! the number of hosts allows.
//!
//! For hosts of one kind and few VMs a host, where sums alone leave next to no slack (the hard
//! triplets). VMs taken by chance lead the first hosts, so that what remains is like what there
//! was, not only the sizes that nobody wanted; the VM with the fewest completions leads the last
//! ones. From the fullest filling some hosts are then emptied and searched anew, again and again:
//! no host is ever lost by that. It only finds placements; proofs come from the bounds. Groups are
//! ignored here and repaired after.

use std::collections::BTreeSet;

use super::dive::Rng;
use super::pattern::Pattern;
use super::watch::Watch;
use crate::problem::Problem;

/// VMs a host, on average; above, completions are too many to list.
const PER_HOST_MAX: u64 = 6;
/// Completions listed for one leading VM.
const COMPLETIONS_MAX: usize = 400;
/// VMs looked at for them: the list of one that has few VMs to a host ends long before.
const LISTING_WORK_MAX: u64 = 200_000;
/// Hosts that are searched at a time; while more are empty they are filled by chance.
const SEARCHED_HOSTS_MAX: usize = 20;
/// Leading VMs compared where one is taken by chance.
const LEADERS: usize = 4;
/// Hosts filled in one search before it is given up.
const VISITS_MAX: u64 = 500;
/// Searches from one start, and starts.
const SEARCHES_MAX: u64 = 500;
const STARTS_MAX: u64 = 1_000;

/// Tries to fill exactly `hosts` hosts with everything; returns the fullest that it found.
/// Different seeds take other chances.
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
    let mut best: Vec<Pattern> = Vec::new();
    for start in seed..seed + STARTS_MAX {
        let mut search = Search::new(problem, host, hosts, start)?;
        let found = search.run(watch);
        if search.fullest.len() > best.len() {
            let contents = search
                .fullest
                .iter()
                .map(|completion| search.contents(completion));
            best = contents.map(|contents| Pattern { host_kind, contents }).collect();
        }
        if found || search.is_beyond || watch.is_over() {
            break;
        }
    }
    Some(best)
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
    /// What fills the hosts filled so far.
    filled: Vec<Completion>,
    /// The longest that `filled` was, and the latest of those as long.
    fullest: Vec<Completion>,
    hosts: usize,
    visits: u64,
    /// The lists of all leading VMs were cut: what is left cannot be searched like this.
    is_beyond: bool,
    rng: Rng,
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
        // Of those as tight the one in which fewest VMs are alike.
        let different = |r: usize| -> usize {
            let kinds = problem.item_kinds.iter();
            let demands: BTreeSet<u64> = kinds.map(|items| problem.items[items[0]].demand[r]).collect();
            demands.len()
        };
        let different: Vec<usize> = (0..slack.len()).map(different).collect();
        let more = |a: &usize, b: &usize| different[*b].cmp(&different[*a]);
        let tight = (0..slack.len()).min_by(|a, b| share(a).total_cmp(&share(b)).then(more(a, b)))?;
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
            fullest: Vec::new(),
            hosts,
            visits: 0,
            is_beyond: false,
            rng: Rng::new(seed + 77),
        })
    }

    fn demand(&self, position: usize) -> &'a [u64] {
        &self.problem.items[self.problem.item_kinds[self.order[position]][0]].demand
    }

    /// Fills by chance and search, then searches some of the hosts anew, again and again; whether
    /// everything found its place.
    fn run(&mut self, watch: &mut Watch<'_>) -> bool {
        for _ in 0..SEARCHES_MAX {
            self.visits = 0;
            if self.descend(watch) {
                return true;
            }
            if self.is_beyond || watch.is_over() {
                break;
            }
            self.reopen();
        }
        false
    }

    /// Back to the fullest filling but for some of its hosts.
    fn reopen(&mut self) {
        while let Some(completion) = self.filled.last().cloned() {
            self.empty(&completion);
        }
        let mut kept = self.fullest.clone();
        for i in (1..kept.len()).rev() {
            kept.swap(i, (self.rng.next_unit() * (i + 1) as f64) as usize);
        }
        kept.truncate(self.hosts.saturating_sub(SEARCHED_HOSTS_MAX));
        for completion in &kept {
            self.fill(completion);
        }
    }

    /// Fills one host after another, taking back what leads nowhere; whether everything found its
    /// place.
    fn descend(&mut self, watch: &mut Watch<'_>) -> bool {
        if self.filled.len() >= self.fullest.len() {
            self.fullest.clone_from(&self.filled);
        }
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
            completions.swap(i, (self.rng.next_unit() * (i + 1) as f64) as usize);
        }
        for completion in completions {
            self.fill(&completion);
            if self.descend(watch) {
                return true;
            }
            self.empty(&completion);
            if self.visits > VISITS_MAX || watch.is_over() {
                return false;
            }
        }
        false
    }

    /// Those left when few hosts are, else some by chance.
    fn leaders(&mut self) -> Vec<usize> {
        if self.hosts - self.filled.len() <= SEARCHED_HOSTS_MAX {
            return (0..self.left.len()).filter(|p| self.left[*p] > 0).collect();
        }
        let mut leaders = Vec::with_capacity(LEADERS);
        for _ in 0..LEADERS {
            let mut before = (self.rng.next_unit() * self.items_left as f64) as u64;
            for (position, left) in self.left.iter().enumerate() {
                if before < *left {
                    leaders.push(position);
                    break;
                }
                before -= left;
            }
        }
        leaders
    }

    /// The completions of the leading VM that has fewest. `None` when the watch is over, or when
    /// there were too many VMs to look at for each.
    fn fewest_completions(&mut self, watch: &mut Watch<'_>) -> Option<Vec<Completion>> {
        let mut best: Option<Vec<Completion>> = None;
        for leader in self.leaders() {
            let most = best.as_ref().map_or(COMPLETIONS_MAX, Vec::len);
            let list = Listing::of(self, leader, most);
            if !watch.spend(list.work / 4 + 1) {
                return None;
            }
            // One that was not searched to its end may have more than were found.
            let is_known = list.work < LISTING_WORK_MAX || !list.found.is_empty();
            if is_known && best.as_ref().is_none_or(|b| list.found.len() < b.len()) {
                best = Some(list.found);
            }
            if best.as_ref().is_some_and(|b| b.len() <= 1) {
                break;
            }
        }
        self.is_beyond = best.is_none();
        best
    }

    /// Item kinds, and how many of each.
    fn contents(&self, completion: &Completion) -> Vec<(usize, u64)> {
        let mut contents: Vec<(usize, u64)> = Vec::new();
        for position in completion {
            let kind = self.order[*position];
            match contents.iter_mut().find(|(k, _)| *k == kind) {
                Some((_, n)) => *n += 1,
                None => contents.push((kind, 1)),
            }
        }
        contents
    }

    fn wasted(&self, completion: &Completion, resource: usize) -> u64 {
        let used: u64 = completion.iter().map(|p| self.demand(*p)[resource]).sum();
        self.capacity[resource] - used
    }

    fn fill(&mut self, completion: &Completion) {
        completion.iter().for_each(|p| self.left[*p] -= 1);
        self.items_left -= completion.len() as u64;
        for resource in 0..self.slack.len() {
            self.slack[resource] -= self.wasted(completion, resource);
        }
        self.filled.push(completion.clone());
    }

    /// Empties the host filled last.
    fn empty(&mut self, completion: &Completion) {
        completion.iter().for_each(|p| self.left[*p] += 1);
        self.items_left += completion.len() as u64;
        for resource in 0..self.slack.len() {
            self.slack[resource] += self.wasted(completion, resource);
        }
        self.filled.pop();
    }
}

/// Lists the completions of one host: with few VMs first.
struct Listing<'s, 'a> {
    search: &'s Search<'a>,
    left: Vec<u64>,
    /// Demand of the smallest VM that is left, of the tight resource.
    smallest: u64,
    chosen: Completion,
    found: Vec<Completion>,
    most: usize,
    work: u64,
}

impl<'s, 'a> Listing<'s, 'a> {
    /// Those with a leading VM, so many at most.
    fn of(search: &'s Search<'a>, leader: usize, most: usize) -> Self {
        let mut left = search.left.clone();
        left[leader] -= 1;
        let smallest = (0..left.len()).rev().find(|p| left[*p] > 0);
        let free = search.capacity.iter().zip(search.demand(leader));
        let free: Vec<u64> = free.map(|(c, d)| c - d).collect();
        let mut list = Self {
            search,
            left,
            smallest: smallest.map_or(0, |p| search.demand(p)[search.tight]),
            chosen: vec![leader],
            found: Vec::new(),
            most,
            work: 1,
        };
        let fitting = free[search.tight] / list.smallest.max(1);
        let others = (search.items_left - 1).min(fitting);
        for others in 0..=others as usize {
            if list.is_enough() {
                break;
            }
            list.extend(0, others, &free);
        }
        list
    }

    fn is_enough(&self) -> bool {
        self.found.len() >= self.most || self.work >= LISTING_WORK_MAX
    }

    /// With exactly so many VMs more, in the order from `from` on.
    fn extend(&mut self, from: usize, others: usize, free: &[u64]) {
        let search = self.search;
        if others == 0 {
            if free.iter().zip(&search.slack).all(|(f, s)| f <= s) {
                self.found.push(self.chosen.clone());
            }
            return;
        }
        let tight = search.tight;
        // What comes after one is no larger, so that it has to be large enough for its share of
        // what may not be wasted, and leave room for as many of the smallest.
        let least = free[tight]
            .saturating_sub(search.slack[tight])
            .div_ceil(others as u64);
        let after = (others as u64 - 1).saturating_mul(self.smallest);
        let largest = free[tight].saturating_sub(after);
        let size = |p: usize| search.demand(p)[tight];
        let fitting = search.order.partition_point(|k| {
            let demand = &search.problem.items[search.problem.item_kinds[*k][0]].demand;
            demand[tight] > largest
        });
        for position in from.max(fitting)..self.left.len() {
            if self.is_enough() || size(position) < least {
                return;
            }
            self.work += 1;
            let demand = search.demand(position);
            if self.left[position] == 0 || !crate::problem::fits(demand, free) {
                continue;
            }
            let rest: Vec<u64> = free.iter().zip(demand).map(|(f, d)| f - d).collect();
            self.left[position] -= 1;
            self.chosen.push(position);
            self.extend(position, others - 1, &rest);
            self.chosen.pop();
            self.left[position] += 1;
        }
    }
}
