//! Where not all VMs can go: who stays behind, and the best plan for all others.
//!
//! ```text
//! fits nowhere, others aside ──stays──▶ again, until all that are left fit somewhere
//! all of these together? else packed greedily, who finds no place stays
//!                                  └──▶ each of those once more: is there a placement with it too?
//! ```
//!
//! A VM that stays occupies its host and counts for its groups, as VMs do that were never to move.

use std::collections::BTreeSet;

use crate::input::PlanInput;
use crate::problem::{Problem, Without};
use crate::solve::{self, Solution, Watch};

/// VMs that a greedy packing left out and that are asked about one by one.
const QUESTIONS_MAX: usize = 32;
/// Work for one such question.
const QUESTION_WORK: u64 = 3_000_000;

/// VMs that stay though they were to be placed: one, or several tied together by affinity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Behind {
    pub vms: Vec<usize>,
    /// Proved: there is no placement of all the others with these too.
    pub proved: bool,
}

/// A placement of a part of the VMs.
pub(crate) struct Partial {
    pub problem: Problem,
    pub solution: Solution,
    pub behind: Vec<Behind>,
}

/// The most that can be placed, as far as the watch allows; `None` where nothing can.
pub(crate) fn find(input: &PlanInput, watch: &mut Watch<'_>) -> Option<Partial> {
    let mut behind = Vec::new();
    let mut without = Without::default();
    let problem = without_homeless(input, &mut without, &mut behind);
    if problem.items.is_empty() {
        return None;
    }
    // Where nobody was left out, all of them together were asked for before.
    if !behind.is_empty() {
        let solution = solve::solve(&problem, watch);
        if solution.host_of.is_some() {
            return Some(Partial {
                problem,
                solution,
                behind,
            });
        }
    }
    let (packed, host_of) = packed(input, &problem, &mut without, &mut behind)?;
    if ask_again(input, &mut without, &mut behind, watch) {
        let problem = Problem::without(input, &without);
        let solution = solve::solve(&problem, watch);
        if solution.host_of.is_some() {
            behind.retain(|left| left.vms.iter().all(|vm| without.moving.contains(vm)));
            return Some(Partial {
                problem,
                solution,
                behind,
            });
        }
        behind.iter_mut().for_each(|left| left.proved = false);
    }
    let mut solution = solve::solve(&packed, watch);
    if solution.host_of.is_none() {
        (solution.cost, solution.least) = solve::costs(&packed, &host_of, 0);
        solution.host_of = Some(host_of);
        solution.impossible = false;
    }
    Some(Partial {
        problem: packed,
        solution,
        behind,
    })
}

/// Leaves out what fits nowhere; what stays takes room and closes hosts, so that it is asked again.
fn without_homeless(input: &PlanInput, without: &mut Without, behind: &mut Vec<Behind>) -> Problem {
    loop {
        let problem = Problem::without(input, without);
        let homeless: Vec<Vec<usize>> = (0..problem.items.len())
            .filter(|item| !solve::is_placeable(&problem, *item))
            .map(|item| problem.items[item].vms.clone())
            .collect();
        if homeless.is_empty() {
            return problem;
        }
        for vms in homeless {
            without.moving.extend(&vms);
            behind.push(Behind { vms, proved: true });
        }
    }
}

/// The better of two greedy packings that still holds when those without a place stay.
fn packed(
    input: &PlanInput,
    problem: &Problem,
    without: &mut Without,
    behind: &mut Vec<Behind>,
) -> Option<(Problem, Vec<usize>)> {
    let placed_vms = |packing: &Vec<Option<usize>>| -> (usize, u128) {
        let items = problem.items.iter().zip(packing);
        let placed = items.filter(|(_, host)| host.is_some());
        placed.fold((0, 0), |(vms, memory), (item, _)| {
            (vms + item.vms.len(), memory + item.memory)
        })
    };
    let mut packings: Vec<Vec<Option<usize>>> = [true, false]
        .map(|smallest| solve::pack(problem, smallest))
        .into();
    packings.sort_by_key(placed_vms);
    while let Some(packing) = packings.pop() {
        let items = problem.items.iter().zip(&packing);
        let (placed, left): (Vec<_>, Vec<_>) = items.partition(|(_, host)| host.is_some());
        let mut tried = without.clone();
        tried.moving.extend(left.iter().flat_map(|(item, _)| &item.vms));
        let smaller = Problem::without(input, &tried);
        let host_of: Vec<usize> = placed.iter().filter_map(|(_, host)| **host).collect();
        // Items keep their order when some are left out.
        let same = smaller.items.len() == placed.len();
        if !placed.is_empty() && same && solve::holds(&smaller, &host_of) {
            behind.extend(left.iter().map(|(item, _)| Behind {
                vms: item.vms.clone(),
                proved: false,
            }));
            *without = tried;
            return Some((smaller, host_of));
        }
    }
    None
}

/// Asks for each VM that the packing left out whether there is a placement with it too. True where
/// some may come along.
fn ask_again(input: &PlanInput, without: &mut Without, behind: &mut [Behind], watch: &mut Watch<'_>) -> bool {
    let mut more = false;
    let asked = behind.iter_mut().filter(|left| !left.proved);
    let mut asked: Vec<&mut Behind> = asked.take(QUESTIONS_MAX).collect();
    for at in 0..asked.len() {
        if watch.is_over() {
            break;
        }
        let mut tried = without.clone();
        let vms: BTreeSet<usize> = asked[at].vms.iter().copied().collect();
        tried.moving.retain(|vm| !vms.contains(vm));
        let problem = Problem::without(input, &tried);
        match watch.part(QUESTION_WORK, |part| solve::feasible(&problem, part)) {
            Some(true) => {
                *without = tried;
                more = true;
                // What was proved of others was proved beside this one where it was.
                asked[..at].iter_mut().for_each(|left| left.proved = false);
            }
            answer => asked[at].proved = answer == Some(false),
        }
    }
    more
}
