//! From the pattern programme's relaxation to a placement: fix the patterns it is surest of, solve again for the rest, and so on.

use super::greedy::{insert_rest, member};
use super::load::Load;
use super::pattern::{Pattern, Pool, Relaxed, Residue};
use super::watch::Watch;
use crate::problem::Problem;

/// Below this part of a pattern the dive does not take it for sure.
const SURE: f64 = 0.999;

/// A small deterministic generator: dives differ by seed, results do not differ by machine.
pub(crate) struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below one.
    pub fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// One dive. Gives the patterns that cover everything with at most `hosts_max` hosts, or what it had when it could not.
pub(super) fn dive(
    problem: &Problem,
    pool: &mut Pool,
    root: &Relaxed,
    hosts_max: usize,
    seed: u64,
    watch: &mut Watch<'_>,
) -> Vec<Pattern> {
    let mut dice = Dice::new(seed + 1);
    let mut residue = Residue::of(problem);
    let mut fixed: Vec<Pattern> = Vec::new();
    let mut used = root.used.clone();
    while residue.items_total() > 0 {
        let before = fixed.len();
        for (pattern, amount) in &used {
            for _ in 0..(amount + 1.0 - SURE).floor() as u64 {
                fix(&mut residue, &mut fixed, pattern);
            }
        }
        if fixed.len() == before {
            // The largest part, by a little chance so that dives differ.
            let blur = if seed == 0 { 0.0 } else { 0.3 };
            let keyed = used
                .iter()
                .map(|(p, amount)| (amount.fract() + blur * dice.roll(), p));
            match keyed.max_by(|a, b| a.0.total_cmp(&b.0)) {
                Some((_, pattern)) => fix(&mut residue, &mut fixed, pattern),
                None => break,
            }
        }
        if residue.items_total() == 0 || fixed.len() == before {
            break;
        }
        match pool.relax(problem, &residue, false, watch) {
            // A fraction more is lost in floating point.
            Some(next) if fixed.len() as f64 + next.hosts <= hosts_max as f64 + 1e-3 => used = next.used,
            Some(_) | None => break,
        }
    }
    fixed
}

/// Takes one host of the pattern off what is left, with as much of the contents as is left.
fn fix(residue: &mut Residue, fixed: &mut Vec<Pattern>, pattern: &Pattern) {
    if residue.hosts[pattern.host_kind] == 0 {
        return;
    }
    let mut contents = Vec::new();
    for (kind, count) in &pattern.contents {
        let taken = (*count).min(residue.items[*kind]);
        if taken > 0 {
            residue.items[*kind] -= taken;
            contents.push((*kind, taken));
        }
    }
    if !contents.is_empty() {
        residue.hosts[pattern.host_kind] -= 1;
        fixed.push(Pattern {
            host_kind: pattern.host_kind,
            contents,
        });
    }
}

/// Puts the patterns on hosts, each where most of what it holds lives already, and the rest wherever it fits.
pub(super) fn realize<'a>(problem: &'a Problem, patterns: &[Pattern], watch: &mut Watch<'_>) -> Load<'a> {
    let mut load = Load::new(problem);
    let mut waiting = problem.item_kinds.clone();
    let order = super::greedy::host_order(problem, true);
    let mut unused: Vec<Vec<usize>> = vec![Vec::new(); problem.kinds.len()];
    for host in order.into_iter().rev() {
        unused[problem.host_kind[host]].push(host);
    }
    for pattern in patterns {
        let Some(host) = unused[pattern.host_kind].pop() else {
            continue;
        };
        for (kind, count) in &pattern.contents {
            for _ in 0..*count {
                if let Some(at) = member(&load, &waiting[*kind], host) {
                    let item = waiting[*kind].swap_remove(at);
                    load.put(item, host);
                }
            }
        }
    }
    insert_rest(&mut load, watch);
    load
}
