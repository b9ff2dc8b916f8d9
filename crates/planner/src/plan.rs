//! The whole planner in one call: input in, report out.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use transhume_model::{HostName, VmName};

use crate::bars;
use crate::by_paper;
use crate::detour::{Shortened, shorten};
use crate::explain;
use crate::infeasible;
use crate::input::{InputError, MEMORY, PlanInput, check};
use crate::order::Moves;
use crate::place::Strategy;
use crate::problem::Problem;
use crate::report::{Answer, Placed, Plan, PlanReport, Proof, Total};
use crate::schedule::{Schedule, schedule};
use crate::solve::{self, Go, Solution, Watch};
use crate::validate::validate;
use crate::words::some;

/// Broken rules listed of an unsound plan; one mistake may break the rule for thousands of VMs.
const BROKEN_LISTED_MAX: usize = 8;

/// What the caller chooses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Options {
    /// How targets are chosen.
    pub strategy: Strategy,
    /// Bound on the search; a unit is about one candidate host examined, tens of millions pass in
    /// a second.
    pub work_max: u64,
    /// k; chosen where absent.
    pub k: Option<usize>,
    /// Longest blackout wanted, without the fixed part of switching, milliseconds.
    pub blackout_ms_max: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            strategy: Strategy::Exact,
            work_max: 2_000_000_000,
            k: None,
            blackout_ms_max: 300,
        }
    }
}

/// Why there is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The input cannot be used.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The plan broke rules: a mistake of the planner, found by [`validate()`](crate::validate())
    /// before the plan was returned.
    #[error("internal error: the planner's own check refused its plan: {}", .0.join("; "))]
    Unsound(Vec<String>),
}

/// Plans with no deadline but the bound on work.
pub fn plan(input: &PlanInput, options: &Options) -> Result<PlanReport, PlanError> {
    plan_while(input, options, &mut || Go::On)
}

/// Plans as long as `ask` says so; it is asked several thousand times a second. The answer is then
/// the best found, with its gap.
pub fn plan_while(
    input: &PlanInput,
    options: &Options,
    ask: &mut dyn FnMut() -> Go,
) -> Result<PlanReport, PlanError> {
    check(input)?;
    if options.k == Some(0) {
        let what = "k = 0 moves nothing: choose k from 1 on (§3.3.2 step 1)";
        return Err(InputError::at("k", what).into());
    }
    let mut watch = Watch::new(options.work_max, ask);
    let problem = Problem::of(input);
    let solution = match options.strategy {
        Strategy::Exact => solve::solve(&problem, &mut watch),
        Strategy::Paper => by_paper::solve(input, &problem)?,
    };
    let answer = match &solution.host_of {
        Some(host_of) => {
            let plan = assemble(input, &problem, &solution, host_of, options);
            k_is_possible(options.k, &plan)?;
            Answer::Planned(Box::new(sound(input, plan)?))
        }
        None if solution.impossible => {
            let why = infeasible::explain(input, &problem, solution.least.hosts, &mut watch);
            Answer::Impossible(Box::new(why))
        }
        None => Answer::NotFound {
            hosts_min: solution.least.hosts,
        },
    };
    Ok(PlanReport {
        cluster: input.cluster.name.clone(),
        answer,
        ended: solution.ended,
        work: watch.spent().max(solution.work),
    })
}

/// The plan, if it keeps every rule.
fn sound(input: &PlanInput, plan: Plan) -> Result<Plan, PlanError> {
    let mut broken = validate(input, &plan);
    if broken.is_empty() {
        return Ok(plan);
    }
    broken.truncate(BROKEN_LISTED_MAX);
    Err(PlanError::Unsound(broken))
}

/// As in [`batches`](crate::batches): k is at most the VMs that move; where all stay any k will do.
fn k_is_possible(k: Option<usize>, plan: &Plan) -> Result<(), InputError> {
    let moving = plan.placement.iter().filter(|p| p.source != p.target).count();
    let Some(k) = k.filter(|k| 0 < moving && moving < *k) else {
        return Ok(());
    };
    let does = if moving == 1 { "moves" } else { "move" };
    let vms = some(moving, "VM");
    let mut error = InputError::at(
        "k",
        &format!("k = {k} is more than the {vms} that {does} (§3.3.2 step 1)"),
    );
    error.hint = Some(match moving {
        1 => "choose k = 1, or none".to_owned(),
        _ => format!("choose k from 1 to {moving}, or none for the best one"),
    });
    Err(error)
}

fn assemble(
    input: &PlanInput,
    problem: &Problem,
    solution: &Solution,
    host_of: &[usize],
    options: &Options,
) -> Plan {
    let moves_of = |host_of: &[usize]| moves(input, problem, host_of);
    let Shortened { moves, cost } = shorten(problem, host_of.to_vec(), solution.cost, options.k, moves_of);
    let Schedule {
        k,
        batches,
        carried,
        cycle,
        states,
        refused,
        duration_s,
        split_mbit,
        tried,
    } = schedule(input, &moves, options.k, f64::from(options.blackout_ms_max));
    let placed = input.cluster.vms.iter().zip(&moves.target);
    let least = solution.least;
    let hosts_optimal = cost.hosts == least.hosts;
    let memory_optimal = hosts_optimal && cost.memory == least.memory;
    let mut plan = Plan {
        placement: placed
            .map(|(vm, target)| Placed {
                vm: vm.name.clone(),
                source: vm.host.clone(),
                target: input.hosts[*target].name.clone(),
            })
            .collect(),
        targets: Proof {
            value: Total::units(cost.hosts),
            at_least: Total::units(least.hosts),
            optimal: hosts_optimal,
        },
        memory_moved_mib: Proof {
            value: Total(cost.memory),
            at_least: Total(least.memory),
            optimal: memory_optimal,
        },
        memory_carried_mib: Total(carried),
        traffic_mbit_s: Proof {
            value: Total(cost.traffic),
            at_least: Total(least.traffic),
            optimal: memory_optimal && cost.traffic == least.traffic,
        },
        k,
        batches,
        cycle,
        cycle_states: states,
        refused,
        duration_s,
        split_mbit,
        explanation: Vec::new(),
        bars: bars::bars(input, problem, &moves),
    };
    let facts = explain::Facts {
        input,
        problem,
        solution,
        tried: &tried,
    };
    plan.explanation = explain::explain(&facts, &plan);
    plan
}

/// The moves by VM.
fn moves<'a>(input: &PlanInput, problem: &'a Problem, host_of: &[usize]) -> Moves<'a> {
    let vms = &input.cluster.vms;
    let hosts: BTreeMap<&HostName, usize> = input
        .hosts
        .iter()
        .enumerate()
        .map(|(i, h)| (&h.name, i))
        .collect();
    let index: BTreeMap<&VmName, usize> = vms.iter().enumerate().map(|(i, v)| (&v.name, i)).collect();
    let mut item_of = vec![0; vms.len()];
    for (i, item) in problem.items.iter().enumerate() {
        item.vms.iter().for_each(|vm| item_of[*vm] = i);
    }
    let mut peers = vec![Vec::new(); vms.len()];
    for traffic in &input.cluster.traffic {
        let [a, b] = [0, 1].map(|end| index[&traffic.between[end]]);
        let amount = u128::from(traffic.mbit_s.thousandths());
        peers[a].push((b, amount));
        peers[b].push((a, amount));
    }
    let demand = vms.iter().map(|vm| {
        let amounts = problem
            .resources
            .iter()
            .map(|r| vm.demand.get(r).map_or(0, |a| a.thousandths()));
        amounts.collect()
    });
    let memory = vms
        .iter()
        .map(|vm| vm.demand.get(MEMORY).map_or(0, |a| u128::from(a.thousandths())));
    Moves {
        problem,
        memory: memory.collect(),
        demand: demand.collect(),
        source: vms.iter().map(|v| hosts[&v.host]).collect(),
        target: item_of.iter().map(|item| host_of[*item]).collect(),
        item_of,
        peers,
        sequence: OnceCell::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate;

    #[test]
    fn a_plan_that_breaks_a_rule_is_not_given_out() {
        let input = (0..).map(generate::small).find(|input| {
            let report = plan(input, &Options::default());
            report.is_ok_and(|r| matches!(r.answer, Answer::Planned(p) if p.placement.len() > 1))
        });
        let input = input.expect("many small instances are planned");
        let Answer::Planned(good) = plan(&input, &Options::default()).unwrap().answer else {
            panic!("it was planned before");
        };
        assert_eq!(sound(&input, *good.clone()).as_ref(), Ok(&*good));
        let mut bad = *good;
        bad.placement[0].target = "nowhere".parse().unwrap();
        let vm = bad.placement[0].vm.clone();
        let said = sound(&input, bad).unwrap_err().to_string();
        assert!(
            said.contains(&format!("VM {vm} is sent to an unknown host")),
            "{said}"
        );
    }
}
