//! [`Strategy::Paper`](crate::Strategy::Paper) on a whole input: §3.2 as written, for inputs that
//! need no more than amounts.

use std::collections::BTreeMap;

use crate::input::{InputError, PlanInput, Vm};
use crate::paper::{self, Lists, Outcome};
use crate::problem::{Problem, Roles};
use crate::solve::{self, Cost, Ended, Solution};

/// The placement that the paper's algorithm finds. VMs outside S1 are not requested: they stay, and
/// what they occupy is not free.
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
    let mut host_of: Vec<usize> = problem.items.iter().map(|item| item.homes[0].0).collect();
    let leaves = |item: &usize| roles.leaves(&input.hosts[host_of[*item]].name);
    let (requested, stay): (Vec<usize>, Vec<usize>) = (0..host_of.len()).partition(leaves);
    let mut free = problem.hosts.clone();
    for item in stay {
        let demand = &problem.items[item].demand;
        for (free, demand) in free[host_of[item]].iter_mut().zip(demand) {
            match free.checked_sub(*demand) {
                Some(left) => *free = left,
                // What stays does not fit where it is.
                None => return Ok(solution),
            }
        }
    }
    let targets: Vec<usize> = (0..input.hosts.len())
        .filter(|h| roles.receives(&input.hosts[*h].name))
        .collect();
    if requested.is_empty() {
        (solution.cost, solution.least) = solve::costs(problem, &host_of, 0);
        solution.host_of = Some(host_of);
        return Ok(solution);
    }
    if targets.is_empty() {
        return Ok(solution);
    }
    let place_of: BTreeMap<usize, usize> = targets.iter().enumerate().map(|(i, h)| (*h, i)).collect();
    let outcome = paper::map(&Lists {
        hosts: targets.iter().map(|h| free[*h].clone()).collect(),
        requests: requested
            .iter()
            .map(|i| problem.items[*i].demand.clone())
            .collect(),
        home: requested
            .iter()
            .map(|i| place_of.get(&host_of[*i]).copied())
            .collect(),
    });
    match outcome {
        Outcome::Mapped {
            host_of: mapped,
            hosts_min,
            ..
        } => {
            for (item, target) in requested.iter().zip(mapped) {
                host_of[*item] = targets[target];
            }
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
