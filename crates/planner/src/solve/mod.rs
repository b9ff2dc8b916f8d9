//! From a [`Problem`] to the best placement that could be found, with what is proved about it.
//!
//! ```text
//! bounds ─▶ starts (first fit, best fit, fill) ─▶ local search ─▶ small? branch and bound over everything
//!                                                    │ hosts above the bound
//!                                                    ▼
//!                    column-generation LP: bound, dives ─▶ local search ─▶ branch and bound with the work left
//! ```
//!
//! Anytime: whatever stage the watch stops, the best so far is the answer, with the bounds proved
//! so far.

mod anneal;
mod bound;
mod complete;
mod dive;
mod exact;
mod greedy;
mod improve;
mod knapsack;
mod load;
mod parts;
mod pattern;
mod simplex;
mod watch;

use crate::problem::Problem;
pub(crate) use load::Cost;
pub use watch::{Ended, Go, Watch};

/// Up to so many items, branch and bound is given a good part of the work before anything else.
const SMALL_ITEMS_MAX: usize = 14;
/// Work for one dive into the column-generation LP, and how many there are at most.
const DIVES_MAX: u64 = 400;
/// Work of branch and bound: on small problems, and where it only may find a proof of the lesser
/// objectives.
const EXACT_WORK_SMALL: u64 = 200_000_000;
const EXACT_WORK: u64 = 5_000_000;
/// Work of bin completion, before and after the first dive.
const COMPLETE_WORK_FIRST: u64 = 100_000_000;
const COMPLETE_WORK: u64 = 1_000_000_000;
/// Annealing runs that may fail.
const ANNEALING_RUNS_MAX: u64 = 4;
/// Work of one round of local search.
const IMPROVE_WORK: u64 = 100_000_000;

/// The placement and what is known about it.
#[derive(Debug, Clone)]
pub(crate) struct Solution {
    /// Host of each item; `None` when no placement was found.
    pub host_of: Option<Vec<usize>>,
    /// Its cost; zero without one.
    pub cost: Cost,
    /// Proved: no placement has fewer hosts; none with as few hosts moves less; none of those has
    /// less traffic.
    pub least: Cost,
    /// Proved that there is no placement at all.
    pub impossible: bool,
    /// Why the search ended.
    pub ended: Ended,
    /// Candidates examined.
    pub work: u64,
}

/// What the stages share.
struct State<'a> {
    problem: &'a Problem,
    best: Option<(Cost, Vec<usize>)>,
    hosts_min: usize,
    complete: bool,
}

/// Solves as well as the watch allows.
pub(crate) fn solve(problem: &Problem, watch: &mut Watch<'_>) -> Solution {
    // One item that fits nowhere is known before any island is solved.
    let parted = match is_hopeful(problem) {
        true => parts::solve(problem, watch),
        false => None,
    };
    match parted {
        Some(solution) => solution,
        None => solve_whole(problem, watch),
    }
}

fn solve_whole(problem: &Problem, watch: &mut Watch<'_>) -> Solution {
    let mut state = State {
        problem,
        best: None,
        hosts_min: bound::hosts_min(problem),
        complete: false,
    };
    if !is_hopeful(problem) || state.hosts_min > problem.hosts.len() {
        return state.finish(true, watch);
    }
    state.start(watch);
    if problem.items.len() <= SMALL_ITEMS_MAX {
        state.exact(EXACT_WORK_SMALL, false, watch);
    }
    if !state.complete {
        state.anneal(watch);
    }
    if !state.complete && !state.is_hosts_proved() && pattern::is_suited(problem) {
        state.patterns(watch);
    }
    if !state.complete && problem.items.len() <= exact::ITEMS_MAX && state.hosts_min <= problem.hosts.len() {
        state.exact(EXACT_WORK, false, watch);
    }
    let impossible = state.hosts_min > problem.hosts.len() || (state.complete && state.best.is_none());
    state.finish(impossible, watch)
}

/// Whether each item fits somewhere, others aside. Items of a kind fit the same hosts.
fn is_hopeful(problem: &Problem) -> bool {
    let mut kinds = problem.item_kinds.iter();
    kinds.all(|items| is_placeable(problem, items[0]))
}

/// Whether an item fits anywhere, others aside.
pub(crate) fn is_placeable(problem: &Problem, item: usize) -> bool {
    problem.kinds.iter().any(|kind| problem.admits(item, kind[0]))
}

/// A host for each item that finds one, largest or smallest first; nothing is moved for it.
pub(crate) fn pack(problem: &Problem, smallest_first: bool) -> Vec<Option<usize>> {
    let mut order = greedy::item_order(problem);
    if smallest_first {
        order.reverse();
    }
    let mut go_on = || Go::On;
    let load = greedy::fit_in_order(
        problem,
        greedy::Fit::Best,
        &order,
        &mut Watch::new(u64::MAX, &mut go_on),
    );
    let hosts = load.host_of.iter();
    hosts
        .map(|host| (*host != load::NOWHERE).then_some(*host))
        .collect()
}

/// Whether a placement that was made for another problem holds in this one.
pub(crate) fn holds(problem: &Problem, host_of: &[usize]) -> bool {
    let mut load = load::Load::new(problem);
    (0..host_of.len()).all(|item| {
        let accepts = load.accepts(item, host_of[item]);
        if accepts {
            load.put(item, host_of[item]);
        }
        accepts
    })
}

/// What each host has left beside a placement.
pub(crate) fn left_free(problem: &Problem, host_of: &[usize]) -> Vec<Vec<u64>> {
    load::Load::from_assignment(problem, host_of).free
}

/// Whether there is any placement: `None` when that was not found out.
pub(crate) fn feasible(problem: &Problem, watch: &mut Watch<'_>) -> Option<bool> {
    let mut state = State {
        problem,
        best: None,
        hosts_min: bound::hosts_min(problem),
        complete: false,
    };
    if !is_hopeful(problem) || state.hosts_min > problem.hosts.len() {
        return Some(false);
    }
    state.start(watch);
    if state.best.is_none() && problem.items.len() <= exact::ITEMS_MAX {
        state.exact(EXACT_WORK, true, watch);
    }
    if state.best.is_none() && !state.complete && pattern::is_suited(problem) {
        state.patterns(watch);
    }
    match state.best {
        Some(_) => Some(true),
        None if state.complete || state.hosts_min > problem.hosts.len() => Some(false),
        None => None,
    }
}

/// The lower bound on targets that takes no search.
pub(crate) fn hosts_min(problem: &Problem) -> usize {
    bound::hosts_min(problem)
}

/// Cost and bounds of a placement that came from elsewhere.
pub(crate) fn costs(problem: &Problem, host_of: &[usize], hosts_min: usize) -> (Cost, Cost) {
    let cost = load::Load::from_assignment(problem, host_of).cost;
    let least = Cost {
        hosts: hosts_min.max(bound::hosts_min(problem)),
        memory: bound::memory_min(problem, cost.hosts),
        traffic: bound::traffic_min(problem),
    };
    (cost, least)
}

/// What a placement costs with one item on another host; `None` where it may not be there.
pub(crate) fn cost_if_moved(problem: &Problem, host_of: &[usize], item: usize, host: usize) -> Option<Cost> {
    let mut load = load::Load::from_assignment(problem, host_of);
    load.take(item);
    load.accepts(item, host).then(|| {
        load.put(item, host);
        load.cost
    })
}

/// The baselines that the table in the documentation compares with.
pub(crate) fn baseline(problem: &Problem, best_fit: bool, watch: &mut Watch<'_>) -> Option<usize> {
    let rule = if best_fit {
        greedy::Fit::Best
    } else {
        greedy::Fit::First
    };
    let load = greedy::fit(problem, rule, watch);
    load.is_complete().then_some(load.cost.hosts)
}

impl<'a> State<'a> {
    fn is_hosts_proved(&self) -> bool {
        self.best
            .as_ref()
            .is_some_and(|(cost, _)| cost.hosts <= self.hosts_min)
    }

    fn offer(&mut self, load: &load::Load<'_>) {
        if load.is_complete() && self.best.as_ref().is_none_or(|(cost, _)| load.cost < *cost) {
            self.best = Some((load.cost, load.host_of.clone()));
        }
    }

    /// The starts, and local search on each.
    fn start(&mut self, watch: &mut Watch<'_>) {
        for which in 0..4 {
            let mut load = match which {
                0 => greedy::fit(self.problem, greedy::Fit::Stay, watch),
                1 => greedy::fill(self.problem, watch),
                2 => greedy::fit(self.problem, greedy::Fit::Best, watch),
                _ => greedy::fit(self.problem, greedy::Fit::First, watch),
            };
            if load.is_complete() {
                watch.part(IMPROVE_WORK, |part| improve::improve(&mut load, part));
            }
            self.offer(&load);
        }
    }

    /// Bound and dives of the column-generation LP.
    fn patterns(&mut self, watch: &mut Watch<'_>) {
        // Where the sums are tight the bound is known already, and filling hosts exactly is faster
        // than patterns.
        self.complete(COMPLETE_WORK_FIRST, 0, watch);
        if self.is_hosts_proved() {
            return;
        }
        let mut pool = pattern::Pool::default();
        let residue = pattern::Residue::of(self.problem);
        let Some(root) = pool.relax(self.problem, &residue, 0.0, watch) else {
            return;
        };
        self.hosts_min = self.hosts_min.max(root.hosts_min);
        for seed in 0..DIVES_MAX {
            if seed == 1 {
                self.complete(COMPLETE_WORK, 1 << 32, watch);
            }
            if self.is_hosts_proved() || self.hosts_min > self.problem.hosts.len() || watch.is_over() {
                break;
            }
            let hosts_max = match &self.best {
                Some((cost, _)) if seed > 0 => (cost.hosts - 1).max(self.hosts_min),
                Some(_) | None => self.problem.hosts.len(),
            };
            let patterns = dive::dive(self.problem, &mut pool, &root, hosts_max, seed, watch);
            self.realize(&patterns, watch);
        }
    }

    /// Bin completion with as many hosts as the bound says.
    fn complete(&mut self, work_max: u64, seed: u64, watch: &mut Watch<'_>) {
        if self.is_hosts_proved() {
            return;
        }
        let complete = watch.part(work_max, |part| {
            complete::complete(self.problem, self.hosts_min, seed, part)
        });
        if let Some(patterns) = complete {
            self.realize(&patterns, watch);
        }
    }

    /// One host fewer, as long as annealing finds a placement.
    fn anneal(&mut self, watch: &mut Watch<'_>) {
        let mut seed = 0;
        while let Some(hosts) = self.best.as_ref().map(|(cost, _)| cost.hosts) {
            if hosts <= self.hosts_min || seed >= ANNEALING_RUNS_MAX || watch.is_over() {
                return;
            }
            match anneal::anneal(self.problem, hosts - 1, seed, watch) {
                Some(mut load) => {
                    watch.part(IMPROVE_WORK, |part| improve::improve(&mut load, part));
                    self.offer(&load);
                }
                None => seed += 1,
            }
        }
    }

    fn realize(&mut self, patterns: &[pattern::Pattern], watch: &mut Watch<'_>) {
        let mut load = dive::realize(self.problem, patterns, watch);
        let hosts = self.best.as_ref().map_or(usize::MAX, |(cost, _)| cost.hosts);
        // Local search rarely saves more than a few hosts.
        if load.is_complete() && load.cost.hosts <= hosts.saturating_add(2) {
            watch.part(IMPROVE_WORK, |part| improve::improve(&mut load, part));
            self.offer(&load);
        }
    }

    fn least(&self) -> Cost {
        let hosts = self.hosts_min;
        let most = self.best.as_ref().map_or(hosts, |(cost, _)| cost.hosts);
        Cost {
            hosts,
            memory: bound::memory_min(self.problem, most),
            traffic: bound::traffic_min(self.problem),
        }
    }

    fn exact(&mut self, work_max: u64, first_only: bool, watch: &mut Watch<'_>) {
        let start = exact::Start {
            best: self.best.take(),
            // Lexicographic: what moves more than this at the fewest hosts is dearer, what uses
            // more hosts is dearer anyway.
            least: Cost {
                memory: bound::memory_min(self.problem, self.hosts_min),
                ..self.least()
            },
            first_only,
        };
        let found = watch.part(work_max, |part| exact::search(self.problem, start, part));
        self.best = found.best;
        self.complete = found.complete && !(first_only && self.best.is_some());
    }

    fn finish(self, impossible: bool, watch: &Watch<'_>) -> Solution {
        let mut least = self.least();
        let cost = self.best.as_ref().map_or(Cost::default(), |(cost, _)| *cost);
        if self.complete && self.best.is_some() {
            least = cost;
        }
        Solution {
            cost,
            least,
            impossible,
            host_of: self.best.map(|(_, host_of)| host_of),
            ended: watch.ended(),
            work: watch.spent(),
        }
    }
}
