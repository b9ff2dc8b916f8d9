//! Why these hosts, this order, this k, in words.

use crate::input::PlanInput;
use crate::problem::Problem;
use crate::report::{Plan, Proof};
use crate::solve::Ended;

/// Sentences for a plan.
pub(crate) fn explain(
    input: &PlanInput,
    problem: &Problem,
    plan: &Plan,
    ended: Ended,
    tried: &[(usize, f64, usize)],
    asked_k: Option<usize>,
) -> Vec<String> {
    let mut told = vec![hosts(input, plan)];
    told.push(why_not_fewer(problem, plan, ended));
    told.push(memory(input, plan));
    if !input.cluster.traffic.is_empty() {
        told.push(format!(
            "Traffic between hosts afterwards: {} Mbit/s.",
            plan.traffic_mbit_s
        ));
    }
    told.extend(order(plan));
    if let Some(asked) = asked_k.filter(|asked| *asked > plan.k) {
        told.push(format!(
            "k = {asked} was asked for, but only {} VMs move.",
            plan.k
        ));
    }
    told.extend(k(plan, tried));
    told.extend(plan.refused.iter().map(|r| format!("Refused: {}.", r.why)));
    told
}

fn hosts(input: &PlanInput, plan: &Plan) -> String {
    let before: std::collections::BTreeSet<_> = plan.placement.iter().map(|p| &p.source).collect();
    format!(
        "Cluster {} ({} VMs) goes from {} hosts to {} hosts.",
        input.cluster.name,
        plan.placement.len(),
        before.len(),
        plan.targets
    )
}

fn why_not_fewer(problem: &Problem, plan: &Plan, ended: Ended) -> String {
    let n = plan.targets.at_least.0 / 1000;
    // The resource whose sums come nearest to the bound.
    let need = |r: usize| -> f64 {
        let needed: u128 = problem.items.iter().map(|i| u128::from(i.demand[r])).sum();
        let mut has: Vec<u64> = problem.hosts.iter().map(|h| h[r]).collect();
        has.sort_unstable_by(|a, b| b.cmp(a));
        let most: u128 = has
            .iter()
            .take((n as usize).saturating_sub(1))
            .map(|a| u128::from(*a))
            .sum();
        needed as f64 / (most as f64).max(1e-9)
    };
    let tightest = (0..problem.resources.len()).max_by(|a, b| need(*a).total_cmp(&need(*b)));
    let end = match ended {
        Ended::Complete => "",
        Ended::WorkBound => " The bound on work ended the search.",
        Ended::Deadline => " The deadline ended the search.",
        Ended::Cancelled => " The search was cancelled.",
    };
    match tightest {
        Some(r) if n > 1 && need(r) > 1.0 => format!(
            "Fewer than {n} cannot do: the {} hosts with most {} hold {:.0} % of the {} needed.{end}",
            n - 1,
            problem.resources[r],
            100.0 / need(r),
            problem.resources[r],
        ),
        Some(_) if n > 1 => {
            format!(
                "Fewer than {n} cannot do: sums would allow it, but not what fits together on a host.{end}"
            )
        }
        Some(_) | None => format!("One host is the least there can be.{end}"),
    }
}

fn memory(input: &PlanInput, plan: &Plan) -> String {
    let moving = plan.placement.iter().filter(|p| p.source != p.target).count();
    let stay = input.cluster.vms.len() - moving;
    let proof: &Proof = &plan.memory_moved_mib;
    let carried = match plan.memory_carried_mib.0 > proof.value.0 {
        true => format!(
            ", {} MiB carried with the ways by spare hosts",
            plan.memory_carried_mib
        ),
        false => String::new(),
    };
    format!("{moving} VMs move and {stay} stay; memory to move: {proof} MiB{carried}.")
}

fn order(plan: &Plan) -> Vec<String> {
    let mut told = Vec::new();
    if !plan.batches.is_empty() {
        told.push(
        "Each batch fits its targets beside what is still there; VMs that talk to each other move in the same or the next batch."
            .to_owned(),
    );
    }
    let hops = plan
        .batches
        .iter()
        .flat_map(|b| &b.moves)
        .filter(|m| m.step.spare);
    for hop in hops {
        told.push(format!(
            "VM {} goes by way of {}: moves that waited for each other's room are freed so.",
            hop.step.vm, hop.step.target
        ));
    }
    if !plan.ring.is_empty() {
        let names: Vec<&str> = plan.ring.iter().map(|s| s.vm.as_str()).collect();
        let names = names.join(", ");
        told.push(match plan.ring_states {
            None => format!(
                "Cannot be ordered: {names} wait for each other's room and no host is free for one of them meanwhile."
            ),
            Some(states) => format!("No order was found within {states} states: {names} wait for each other's room."),
        });
    }
    told
}

fn k(plan: &Plan, tried: &[(usize, f64, usize)]) -> Option<String> {
    if plan.batches.is_empty() {
        return None;
    }
    let chosen = format!(
        "k = {}: {} batches, {:.0} to {:.0} s",
        plan.k,
        plan.batches.len(),
        plan.duration_s.low,
        plan.duration_s.high
    );
    let others: Vec<String> = tried
        .iter()
        .filter(|(k, _, _)| *k != plan.k)
        .map(|(k, seconds, refused)| match refused {
            0 => format!("k = {k}: up to {seconds:.0} s"),
            _ => format!("k = {k}: up to {seconds:.0} s, {refused} VMs refused"),
        })
        .collect();
    let is_faster = |(_, seconds, refused): &(usize, f64, usize)| {
        *refused <= plan.refused.len() && *seconds < plan.duration_s.high * 0.99
    };
    let why = match tried.iter().any(is_faster) {
        true => " It is not the fastest, but carries less memory or keeps VMs that talk apart for less time.",
        false => "",
    };
    Some(match others.is_empty() {
        true => format!("{chosen}."),
        false => format!("{chosen} (others: {}).{why}", others.join("; ")),
    })
}
