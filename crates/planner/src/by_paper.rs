//! [`Strategy::Paper`](crate::Strategy::Paper) on a whole input: §3.2 as written, for inputs that
//! need no more than amounts.

use std::collections::BTreeMap;

use crate::input::{InputError, PlanInput, Vm};
use crate::paper::{self, Lists, Outcome};
use crate::problem::{Problem, Roles};
use crate::solve::{self, Cost, Ended, Solution};

/// The placement that the paper's algorithm finds.
pub(crate) fn solve(input: &PlanInput, problem: &Problem) -> Result<Solution, InputError> {
    amounts_only(input)?;
    let roles = Roles::of(input);
    let mut solution = Solution {
        host_of: None,
        cost: Cost::default(),
        least: Cost::default(),
        impossible: true,
        ended: Ended::Complete,
        work: 0,
    };
    // Without groups every item is one VM with one home.
    let homes: Vec<usize> = problem.items.iter().map(|item| item.homes[0].0).collect();
    let targets: Vec<usize> = (0..input.hosts.len())
        .filter(|h| roles.receives(&input.hosts[*h].name))
        .collect();
    if homes.is_empty() {
        (solution.cost, solution.least) = solve::costs(problem, &[], 0);
        solution.host_of = Some(Vec::new());
        return Ok(solution);
    }
    if targets.is_empty() {
        return Ok(solution);
    }
    let place_of: BTreeMap<usize, usize> = targets.iter().enumerate().map(|(i, h)| (*h, i)).collect();
    let outcome = paper::map(&Lists {
        hosts: targets.iter().map(|h| problem.hosts[*h].clone()).collect(),
        requests: problem.items.iter().map(|item| item.demand.clone()).collect(),
        home: homes.iter().map(|home| place_of.get(home).copied()).collect(),
    });
    match outcome {
        Outcome::Mapped {
            host_of: mapped,
            hosts_min,
            ..
        } => {
            let host_of: Vec<usize> = mapped.into_iter().map(|target| targets[target]).collect();
            (solution.cost, solution.least) = solve::costs(problem, &host_of, hosts_min);
            solution.host_of = Some(host_of);
        }
        Outcome::Unmapped { exhausted, .. } => {
            solution.least.hosts = solve::hosts_min(problem);
            solution.impossible = exhausted;
            if !exhausted {
                solution.ended = Ended::WorkBound;
            }
        }
    }
    Ok(solution)
}

fn amounts_only(input: &PlanInput) -> Result<(), InputError> {
    let limits = |vm: &Vm| {
        [
            (!vm.pin.is_empty(), "pin"),
            (!vm.selector.is_empty(), "selector"),
            (!vm.cpu_models.is_empty(), "cpu-models"),
        ]
        .into_iter()
        .find_map(|(has, what)| has.then_some(what))
    };
    let vms = input.cluster.vms.iter().enumerate();
    let limited = vms.filter_map(|(i, vm)| {
        let what = limits(vm)?;
        Some((
            format!("cluster.vms[{i}].{what}"),
            format!("the {what} of VM {}", vm.name),
        ))
    });
    let groups = input.cluster.groups.iter().enumerate();
    let mut asked = groups
        .map(|(i, group)| (format!("cluster.groups[{i}]"), format!("group {}", group.name)))
        .chain(limited);
    match asked.next() {
        None => Ok(()),
        Some((path, what)) => {
            let mut error = InputError::at(
                &path,
                &format!("the paper's strategy knows amounts only, not {what}"),
            );
            error.hint = Some("use the exact strategy".to_owned());
            Err(error)
        }
    }
}
