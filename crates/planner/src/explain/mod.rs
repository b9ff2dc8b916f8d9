//! Why these hosts, this order, this k, in words. What a sentence claims was looked up in the plan
//! or proved by a bound.

mod fewer;
mod hosts;

use std::collections::{BTreeMap, BTreeSet};

use crate::input::PlanInput;
use crate::problem::Problem;
use crate::report::{Plan, Proof, Total};
use crate::solve::Solution;
use crate::words::{listed, some};

/// What the sentences are about, beside the plan.
pub(crate) struct Facts<'a> {
    pub input: &'a PlanInput,
    pub problem: &'a Problem,
    pub solution: &'a Solution,
    /// Every k that was tried, with its worst-case time and how many VMs it would refuse.
    pub tried: &'a [(usize, f64, usize)],
}

/// Sentences for a plan.
pub(crate) fn explain(facts: &Facts<'_>, plan: &Plan) -> Vec<String> {
    let input = facts.input;
    let mut sentences = vec![summary(input, facts.problem, plan)];
    sentences.push(fewer::why_not(facts.problem, input, facts.solution));
    sentences.extend(hosts::chosen_and_left_out(facts, plan));
    sentences.push(memory(input, plan));
    if !input.cluster.traffic.is_empty() {
        sentences.push(format!(
            "Traffic between hosts afterwards: {} Mbit/s.",
            plan.traffic_mbit_s
        ));
    }
    sentences.extend(order(input, plan));
    sentences.extend(
        plan.broken_meanwhile
            .iter()
            .map(|broken| format!("No order keeps it, as far as was sought: {}.", broken.sentence())),
    );
    sentences.extend(k(plan, facts.tried));
    sentences.extend(plan.refused.iter().map(|r| format!("Refused: {}.", r.why)));
    sentences
}

fn summary(input: &PlanInput, problem: &Problem, plan: &Plan) -> String {
    let placed = problem.items.iter().flat_map(|item| &item.vms);
    let before: BTreeSet<_> = placed.clone().map(|vm| &input.cluster.vms[*vm].host).collect();
    let one = plan.targets.value == Total::units(1);
    let (placed, all) = (placed.count(), plan.placement.len());
    let who = match placed == all {
        true => some(all, "VM"),
        false => format!("{placed} of {}", some(all, "VM")),
    };
    format!(
        "Cluster {} ({who}) goes from {} to {} {}.",
        input.cluster.name,
        some(before.len(), "host"),
        plan.targets,
        if one { "host" } else { "hosts" }
    )
}

fn memory(input: &PlanInput, plan: &Plan) -> String {
    let moving = plan.placement.iter().filter(|p| p.source != p.target).count();
    let stay = input.cluster.vms.len() - moving;
    let proof: &Proof = &plan.memory_moved_mib;
    let (moves, stays) = (verb(moving, "move"), verb(stay, "stay"));
    let carried = match plan.memory_carried_mib.0 > proof.value.0 {
        true => format!(
            ", {} MiB carried with the ways by spare hosts",
            plan.memory_carried_mib
        ),
        false => String::new(),
    };
    format!(
        "{} {moves} and {stay} {stays}; memory to move: {proof} MiB{carried}.",
        some(moving, "VM")
    )
}

fn verb(count: usize, plural: &str) -> String {
    match count {
        1 => format!("{plural}s"),
        _ => plural.to_owned(),
    }
}

fn order(input: &PlanInput, plan: &Plan) -> Vec<String> {
    let mut sentences = Vec::new();
    if !plan.batches.is_empty() {
        sentences.push("Each batch fits its targets beside what is still there.".to_owned());
        sentences.extend(talkers(input, plan));
    }
    let hops = plan
        .batches
        .iter()
        .flat_map(|b| &b.moves)
        .filter(|m| m.step.spare);
    for hop in hops {
        sentences.push(format!(
            "VM {} goes by way of {}: moves that waited for each other's room are freed so.",
            hop.step.vm, hop.step.target
        ));
    }
    if !plan.cycle.is_empty() {
        let names = listed(plan.cycle.iter().map(|s| s.vm.as_str()));
        sentences.push(match plan.cycle_states {
            None => format!(
                "Cannot be ordered: {names} wait for each other's room and no host is free for one of them meanwhile."
            ),
            Some(states) => format!("No order was found within {states} states: {names} wait for each other's room."),
        });
    }
    sentences
}

/// How near to each other the VMs move that talk to each other; nothing where no two of them move.
fn talkers(input: &PlanInput, plan: &Plan) -> Option<String> {
    let mut batch_of = BTreeMap::new();
    for (number, batch) in plan.batches.iter().enumerate() {
        for one in batch.moves.iter().filter(|one| !one.step.spare) {
            batch_of.insert(&one.step.vm, number + 1);
        }
    }
    let pairs: Vec<_> = input
        .cluster
        .traffic
        .iter()
        .filter_map(|traffic| {
            let [a, b] = &traffic.between;
            Some((a, *batch_of.get(a)?, b, *batch_of.get(b)?))
        })
        .collect();
    let far: Vec<String> = pairs
        .iter()
        .filter(|(_, first, _, second)| first.abs_diff(*second) > 1)
        .map(|(a, first, b, second)| format!("{a} (batch {first}) from {b} (batch {second})"))
        .collect();
    if pairs.is_empty() {
        return None;
    }
    Some(match far.is_empty() {
        true => "VMs that talk to each other move in the same or the next batch.".to_owned(),
        false => format!(
            "Of {} that talk to each other, {} more than one batch apart: {}.",
            some(pairs.len(), "pair"),
            match far.len() {
                1 => "1 moves".to_owned(),
                more => format!("{more} move"),
            },
            listed(&far)
        ),
    })
}

fn k(plan: &Plan, tried: &[(usize, f64, usize)]) -> Option<String> {
    if plan.batches.is_empty() {
        return None;
    }
    let chosen = format!(
        "k = {}: {}, {:.0} to {:.0} s",
        plan.k,
        some(plan.batches.len(), "batch"),
        plan.duration_s.low,
        plan.duration_s.high
    );
    let others: Vec<String> = tried
        .iter()
        .filter(|(k, _, _)| *k != plan.k)
        .map(|(k, seconds, refused)| match refused {
            0 => format!("k = {k}: up to {seconds:.0} s"),
            _ => format!("k = {k}: up to {seconds:.0} s, {} refused", some(*refused, "VM")),
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
