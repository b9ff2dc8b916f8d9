//! The figures of the picture: how full each host is before and after.

use transhume_model::VmName;

use crate::input::PlanInput;
use crate::order::Moves;
use crate::problem::Problem;
use crate::report::Bar;

/// Thousandths in a whole bar.
const WHOLE: u128 = 1000;

/// Hosts that hold or held a VM that was to be placed, with what others (those of the cluster that
/// stay too) and each VM take of the resource that is fullest.
pub(crate) fn bars(input: &PlanInput, problem: &Problem, moves: &Moves<'_>) -> Vec<Bar> {
    let mut on: Vec<[Vec<usize>; 2]> = vec![[Vec::new(), Vec::new()]; problem.hosts.len()];
    for vm in 0..moves.source.len() {
        on[moves.source[vm]][0].push(vm);
        on[moves.target[vm]][1].push(vm);
    }
    let used = on
        .iter()
        .enumerate()
        .filter(|(_, sides)| sides.iter().any(|vms| !vms.is_empty()));
    used.map(|(host, sides)| bar(input, problem, moves, host, sides))
        .collect()
}

fn bar(input: &PlanInput, problem: &Problem, moves: &Moves<'_>, host: usize, sides: &[Vec<usize>; 2]) -> Bar {
    let described = &input.hosts[host];
    let promised = problem.promised(described);
    let whole = |r: usize| u128::from(promised[r]);
    // The free rest is never more than what is promised.
    let others = |r: usize| whole(r).saturating_sub(u128::from(problem.hosts[host][r]));
    let share = |amount: u128, r: usize| (amount * WHOLE / whole(r).max(1)).min(WHOLE) as u32;
    let fill = |r: &usize| {
        let of = |vms: &Vec<usize>| vms.iter().map(|v| u128::from(moves.demand[*v][*r])).sum::<u128>();
        let most = sides.iter().map(of).max().unwrap_or(0);
        (others(*r) + most) * WHOLE / whole(*r).max(1)
    };
    // The first of equally full ones.
    let fullest = (0..problem.resources.len()).rev().max_by_key(fill).unwrap_or(0);
    let shares = |vms: &Vec<usize>| -> Vec<(VmName, u32)> {
        let shares = vms.iter().map(|v| {
            let demand = u128::from(moves.demand[*v][fullest]);
            (
                input.cluster.vms[moves.vms[*v]].name.clone(),
                share(demand, fullest),
            )
        });
        shares.collect()
    };
    Bar {
        host: described.name.clone(),
        resource: problem.resources[fullest].clone(),
        whole: problem.total(fullest, whole(fullest)),
        others: share(others(fullest), fullest),
        before: shares(&sides[0]),
        after: shares(&sides[1]),
    }
}
