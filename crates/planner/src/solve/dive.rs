//! From the relaxed column-generation LP to a placement: fix the patterns it is surest of, solve
//! again for the rest, and so on.

use super::greedy::{insert_rest, member};
use super::load::Load;
use super::pattern::{Pattern, Pool, Relaxed, Residue};
use super::watch::Watch;
use crate::problem::Problem;

/// Below this part of a pattern the dive does not take it for sure.
const SURE: f64 = 0.999;

/// A small deterministic generator: dives differ by seed, results do not differ by machine.
pub(crate) struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below one.
    pub fn next_unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// One dive. Gives patterns that cover everything with at most `hosts_max` hosts, or those of its
/// deepest point when it fails.
///
/// Where rounding a pattern up makes the relaxation need more than `hosts_max`, the next pattern is
/// tried instead, a few at each depth; what every depth has left to try is kept, so the dive climbs
/// back where all fail.
pub(super) fn dive(
    problem: &Problem,
    pool: &mut Pool,
    root: &Relaxed,
    hosts_max: usize,
    seed: u64,
    watch: &mut Watch<'_>,
) -> Vec<Pattern> {
    let mut rng = Rng::new(seed + 1);
    let mut levels = vec![Level::new(
        problem,
        Residue::of(problem),
        Vec::new(),
        &root.used,
        &mut rng,
        seed,
    )];
    let mut deepest: Vec<Pattern> = Vec::new();
    for _ in 0..RELAXATIONS_MAX {
        let Some(level) = levels.last_mut() else {
            break;
        };
        if level.fixed.len() > deepest.len() {
            deepest.clone_from(&level.fixed);
        }
        if level.residue.items_total() == 0 {
            return level.fixed.clone();
        }
        let Some(next) = level.choices.pop() else {
            levels.pop();
            continue;
        };
        let (mut residue, mut fixed) = (level.residue.clone(), level.fixed.clone());
        fix(&mut residue, &mut fixed, &next);
        if residue.items_total() == 0 {
            return fixed;
        }
        // A fraction more is lost in floating point.
        let left = hosts_max as f64 - fixed.len() as f64 + 1e-3;
        let enough = left.min(root.hosts_min as f64 - fixed.len() as f64 + 1e-3);
        match pool.relax(problem, &residue, enough, watch) {
            Some(relaxed) if relaxed.hosts <= left => {
                levels.push(Level::new(problem, residue, fixed, &relaxed.used, &mut rng, seed));
            }
            Some(_) => {}
            None => break,
        }
    }
    deepest
}

/// Relaxations solved in one dive.
const RELAXATIONS_MAX: usize = 1_500;
/// Patterns tried at one depth.
const CHOICES_MAX: usize = 3;

/// A depth of the dive: what is fixed, and which patterns to try next, the best last.
struct Level {
    residue: Residue,
    fixed: Vec<Pattern>,
    choices: Vec<Pattern>,
}

impl Level {
    /// Fixes what the relaxation is sure of, and lists what to round up next.
    fn new(
        problem: &Problem,
        mut residue: Residue,
        mut fixed: Vec<Pattern>,
        used: &[(Pattern, f64)],
        rng: &mut Rng,
        seed: u64,
    ) -> Self {
        debug_assert_eq!(residue.items.len(), problem.item_kinds.len());
        let mut parts: Vec<(f64, &Pattern)> = Vec::new();
        for (pattern, amount) in used {
            let sure = (amount + 1.0 - SURE).floor();
            for _ in 0..sure as u64 {
                fix(&mut residue, &mut fixed, pattern);
            }
            if amount - sure > 1.0 - SURE {
                // By a little chance, so that dives differ.
                let blur = if seed == 0 { 0.0 } else { BLUR };
                parts.push((amount - sure + blur * rng.next_unit(), pattern));
            }
        }
        parts.sort_by(|a, b| b.0.total_cmp(&a.0));
        let choices = parts.into_iter().take(CHOICES_MAX).rev().map(|(_, p)| p.clone());
        Self {
            choices: choices.collect(),
            residue,
            fixed,
        }
    }
}

/// How far chance may move a pattern's part.
const BLUR: f64 = 0.3;

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

/// Puts the patterns on hosts, each where most of what it holds lives already, and the rest
/// wherever it fits.
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
