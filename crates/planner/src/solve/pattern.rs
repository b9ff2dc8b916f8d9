//! The column-generation LP (Gilmore and Gomory): how many hosts of each kind with which contents.
//!
//! ```text
//! min  Σ hosts      each item kind covered, no more hosts of a kind than there are
//! ```
//!
//! Its relaxation, solved by column generation, gives a strong bound and, rounded again and again
//! ([`super::dive`]), good placements. The bound is Lagrangian and computed in whole numbers: for
//! any prices π, with v the worth of a host kind's best contents,
//! `Σ π·demand − Σ (hosts of the kind)·max(0, v − 1)` hosts are needed. It ignores groups and
//! traffic, which only add to it.

use super::knapsack::{Choice, Packed, pack};
use super::simplex::{Column, Master};
use super::watch::Watch;
use crate::problem::Problem;

/// More item kinds than this are not given to the programme: a pivot costs the square of it.
pub(crate) const ITEM_KINDS_MAX: usize = 700;
/// More host kinds than this are not given to the programme.
pub(crate) const HOST_KINDS_MAX: usize = 200;
/// Rounds of pricing for one solution.
const ROUNDS_MAX: usize = 400;
/// Candidates for one host's contents while columns are still found easily, and when they are not.
const PACK_WORK_QUICK: u64 = 4_000;
const PACK_WORK_FULL: u64 = 1_000_000;
/// One in the whole-number prices.
const ONE: u64 = 1 << 24;
/// Highest price of one item, in hosts: [`VMS_MAX`](crate::input::VMS_MAX) items at this price
/// still add up in 64 bits.
const PRICE_MAX: f64 = 1e6;

/// Contents of one host of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    pub host_kind: usize,
    /// `(item kind, count)`.
    pub contents: Vec<(usize, u64)>,
}

/// What is left to cover.
#[derive(Debug, Clone)]
pub(super) struct Residue {
    /// Items of each kind.
    pub items: Vec<u64>,
    /// Hosts of each kind.
    pub hosts: Vec<u64>,
}

impl Residue {
    pub fn of(problem: &Problem) -> Self {
        Self {
            items: problem.item_kinds.iter().map(|k| k.len() as u64).collect(),
            hosts: problem.kinds.iter().map(|k| k.len() as u64).collect(),
        }
    }

    /// Items of all kinds together.
    pub fn items_total(&self) -> u64 {
        self.items.iter().sum()
    }
}

/// Whether the programme is small enough to be worth it.
pub(super) fn is_suited(problem: &Problem) -> bool {
    problem.item_kinds.len() <= ITEM_KINDS_MAX && problem.kinds.len() <= HOST_KINDS_MAX
}

/// The relaxation's solution over a residue.
pub(super) struct Relaxed {
    /// Patterns used and how many of each, as far as the relaxation goes.
    pub used: Vec<(Pattern, f64)>,
    /// Its objective: hosts, not whole.
    pub hosts: f64,
    /// At least so many hosts are needed; proved.
    pub hosts_min: usize,
}

/// Patterns found so far, kept across solutions.
#[derive(Default)]
pub(super) struct Pool {
    patterns: Vec<Pattern>,
}

impl Pool {
    /// Solves the relaxation over what is left: to its end, or until it needs no more than `enough`
    /// hosts. `None` when the watch ended it.
    pub fn relax(
        &mut self,
        problem: &Problem,
        residue: &Residue,
        enough: f64,
        watch: &mut Watch<'_>,
    ) -> Option<Relaxed> {
        let rows: Vec<usize> = (0..residue.items.len())
            .filter(|k| residue.items[*k] > 0)
            .collect();
        let kinds: Vec<usize> = (0..residue.hosts.len())
            .filter(|t| residue.hosts[*t] > 0)
            .collect();
        let mut row_of = vec![usize::MAX; residue.items.len()];
        rows.iter().enumerate().for_each(|(row, k)| row_of[*k] = row);
        let mut kind_row = vec![usize::MAX; residue.hosts.len()];
        kinds
            .iter()
            .enumerate()
            .for_each(|(i, t)| kind_row[*t] = rows.len() + i);
        let cover: Vec<f64> = rows.iter().map(|k| residue.items[*k] as f64).collect();
        let available: Vec<f64> = kinds.iter().map(|t| residue.hosts[*t] as f64).collect();
        let mut master = Master::new(&cover, &available);
        let column = |pattern: &Pattern| Column {
            cost: 1.0,
            rows: (pattern.contents.iter().map(|(k, n)| (row_of[*k], *n as f64)))
                .chain([(kind_row[pattern.host_kind], 1.0)])
                .collect(),
        };
        let fits = |p: &Pattern| {
            residue.hosts[p.host_kind] > 0 && p.contents.iter().all(|(k, n)| *n <= residue.items[*k])
        };
        let mut listed: Vec<usize> = (0..self.patterns.len())
            .filter(|i| fits(&self.patterns[*i]))
            .collect();
        listed.iter().for_each(|i| master.add(column(&self.patterns[*i])));
        let mut hosts_min = 0;
        for _ in 0..ROUNDS_MAX {
            if !master.optimize(|work| watch.spend(work)) {
                return None;
            }
            if master.objective() <= enough {
                break;
            }
            let prices = whole_prices(master.prices(), &rows, residue);
            let found = self.price(
                problem,
                residue,
                &prices,
                &kinds,
                &kind_row,
                master.prices(),
                watch,
            )?;
            hosts_min = hosts_min.max(found.hosts_min);
            // Rounded up, the relaxation cannot rise any more.
            let closed = found.hosts_min as f64 >= master.objective() - 1e-6;
            if found.added == 0 || closed {
                break;
            }
            for i in self.patterns.len() - found.added..self.patterns.len() {
                listed.push(i);
                master.add(column(&self.patterns[i]));
            }
        }
        let used = master.solution().filter(|(_, amount)| *amount > 1e-6);
        Some(Relaxed {
            used: used
                .map(|(j, amount)| (self.patterns[listed[j]].clone(), amount))
                .collect(),
            hosts: master.objective(),
            hosts_min,
        })
    }

    /// Looks for contents worth more than they cost, on every kind of host; new ones go to the end
    /// of the pool.
    #[expect(
        clippy::too_many_arguments,
        reason = "one step of one loop, split only to be readable"
    )]
    fn price(
        &mut self,
        problem: &Problem,
        residue: &Residue,
        prices: &[u64],
        kinds: &[usize],
        kind_row: &[usize],
        all_prices: &[f64],
        watch: &mut Watch<'_>,
    ) -> Option<Priced> {
        let before = self.patterns.len();
        let mut worth = Vec::new();
        for work_max in [PACK_WORK_QUICK, PACK_WORK_FULL] {
            worth.clear();
            for &t in kinds {
                let packed = contents(problem, residue, prices, t, work_max);
                if !watch.spend(packed.work) {
                    return None;
                }
                worth.push((residue.hosts[t], packed.value_max));
                // Availability makes a host of a scarce kind dearer than one.
                let cost = ONE as f64 * (1.0 - all_prices[kind_row[t]].min(0.0));
                let pattern = Pattern {
                    host_kind: t,
                    contents: packed.contents,
                };
                if packed.value as f64 > cost * (1.0 + 1e-6) && !self.patterns[before..].contains(&pattern) {
                    self.patterns.push(pattern);
                }
            }
            // Only when the quick look finds nothing is the full one worth it.
            if self.patterns.len() > before {
                break;
            }
        }
        let covered = prices
            .iter()
            .zip(&residue.items)
            .map(|(p, n)| u128::from(*p) * u128::from(*n));
        let excess = worth
            .iter()
            .map(|(hosts, v)| u128::from(*hosts) * u128::from(v.saturating_sub(ONE)));
        let bound = covered.sum::<u128>().saturating_sub(excess.sum());
        Some(Priced {
            added: self.patterns.len() - before,
            hosts_min: bound.div_ceil(u128::from(ONE)) as usize,
        })
    }
}

struct Priced {
    added: usize,
    hosts_min: usize,
}

/// Prices of the cover rows in whole parts of [`ONE`], by item kind.
fn whole_prices(prices: &[f64], rows: &[usize], residue: &Residue) -> Vec<u64> {
    let mut whole = vec![0; residue.items.len()];
    for (row, k) in rows.iter().enumerate() {
        whole[*k] = (prices[row].clamp(0.0, PRICE_MAX) * ONE as f64) as u64;
    }
    whole
}

fn contents(problem: &Problem, residue: &Residue, prices: &[u64], host_kind: usize, work_max: u64) -> Packed {
    let host = problem.kinds[host_kind][0];
    let choices = problem.item_kinds.iter().enumerate().filter_map(|(k, members)| {
        let item = &problem.items[members[0]];
        (residue.items[k] > 0 && problem.allow[item.allow][host]).then(|| Choice {
            id: k,
            value: prices[k],
            demand: item.demand.clone(),
            count: residue.items[k],
        })
    });
    pack(choices.collect(), &problem.hosts[host], work_max)
}
