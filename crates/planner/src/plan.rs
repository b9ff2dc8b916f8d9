//! The whole planner in one call: input in, report out.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use transhume_model::{HostName, VmName};
use utoipa::ToSchema;

use crate::bars;
use crate::by_paper;
use crate::detour::{Shortened, shorten};
use crate::explain;
use crate::forecast::Mode;
use crate::infeasible;
use crate::input::{Host, InputError, MEMORY, PlanInput, check};
use crate::notes;
use crate::order::{Moves, Sends, order};
use crate::partial::{self, Partial};
use crate::problem::{Problem, Without};
use crate::report::{Answer, Placed, Plan, PlanReport, Proof, SafeBy, Total};
use crate::schedule::{InTime, Schedule, schedule};
use crate::solve::{self, Ended, Go, Solution, Watch};
use crate::validate::validate;
use crate::words::some;

/// Broken rules listed of an unsound plan; one mistake may break the rule for thousands of VMs.
const BROKEN_LISTED_MAX: usize = 8;

/// How the targets are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The paper's sorted lists and recursive selection (§3.2). Knows amounts only.
    Paper,
    /// Bounds, patterns, branch and bound: fewest targets with a proof or a gap, then least memory
    /// moved, then least traffic.
    #[default]
    Exact,
}

/// k, the most VMs in one batch (§3.3.2 step 1). The paper writes 0 < k < N(V); k = N(V) is allowed
/// here: it is the whole cluster as one batch, "the simplest solution" of §3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum K {
    /// The planner chooses.
    #[default]
    Chosen,
    /// As many as there is room for beside what is still there.
    All,
    /// So many; refused where fewer move.
    AtMost(usize),
}

impl K {
    /// The most at once, where that is asked for.
    pub(crate) fn asked(self) -> Option<usize> {
        match self {
            K::Chosen => None,
            K::All => Some(usize::MAX),
            K::AtMost(k) => Some(k),
        }
    }
}

/// What the caller chooses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Options {
    /// How targets are chosen.
    pub strategy: Strategy,
    /// Bound on the search; a unit is about one candidate host examined, tens of millions pass in
    /// a second.
    pub work_max: u64,
    /// How many VMs go at once.
    pub k: K,
    /// Longest blackout wanted, without the fixed part of switching, milliseconds.
    pub blackout_ms_max: u32,
    /// All or nothing: no plan where a VM has no place.
    pub strict: bool,
    /// The VMs are stopped, copied and started.
    pub offline: bool,
    /// The hosts that are left die after so many seconds: the order is such that most weight is
    /// safe by then. `k` is not asked for then.
    pub safe_by_s: Option<f64>,
    /// With that: the move that each VM is a part of, where they are several, one after the other.
    /// Those that are not named are all of one.
    pub part_of: BTreeMap<VmName, usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            strategy: Strategy::Exact,
            work_max: 2_000_000_000,
            k: K::Chosen,
            blackout_ms_max: 300,
            strict: false,
            offline: false,
            safe_by_s: None,
            part_of: BTreeMap::new(),
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
    if options.k == K::AtMost(0) {
        let what = "k = 0 moves nothing: choose k from 1 on (§3.3.2 step 1)";
        return Err(InputError::at("k", what).into());
    }
    safe_by_is_possible(input, options)?;
    let mut watch = Watch::new(options.work_max, ask);
    let problem = Problem::of(input);
    let solution = match options.strategy {
        Strategy::Exact => solve::solve(&problem, &mut watch),
        Strategy::Paper => by_paper::solve(input, &problem)?,
    };
    let mut ended = solution.ended;
    let answer = match &solution.host_of {
        Some(host_of) => {
            let plan = assemble(input, &problem, &solution, host_of, options);
            k_is_possible(options.k, &plan)?;
            Answer::Planned(Box::new(sound(input, plan)?))
        }
        None => {
            let (answer, ended_by) = without_all(input, options, &problem, &solution, &mut watch)?;
            ended = ended_by;
            answer
        }
    };
    Ok(PlanReport {
        cluster: input.cluster.name.clone(),
        answer,
        ended,
        work: watch.spent().max(solution.work),
    })
}

/// Not all VMs have a place: the plan for the others, or why there is none.
fn without_all(
    input: &PlanInput,
    options: &Options,
    problem: &Problem,
    solution: &Solution,
    watch: &mut Watch<'_>,
) -> Result<(Answer, Ended), PlanError> {
    let in_part = !options.strict && options.strategy == Strategy::Exact;
    let partial = in_part.then(|| partial::find(input, watch)).flatten();
    let hosts_min = solution.least.hosts;
    let why = solution
        .impossible
        .then(|| Box::new(infeasible::explain(input, problem, hosts_min, watch)));
    let Some(partial) = partial else {
        let answer = match why {
            Some(why) => Answer::Impossible(why),
            None => {
                let (addition, _) = infeasible::addition(input, problem, watch);
                Answer::NotFound { hosts_min, addition }
            }
        };
        return Ok((answer, solution.ended));
    };
    let Partial {
        problem, solution, ..
    } = &partial;
    let host_of = solution.host_of.as_deref().unwrap_or_default();
    let mut plan = assemble(input, problem, solution, host_of, options);
    k_is_possible(options.k, &plan)?;
    plan.unplaced = infeasible::unplaced(input, &partial);
    plan.why_not_all = why;
    Ok((Answer::Planned(Box::new(sound(input, plan)?)), solution.ended))
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

/// A host that dies is no target, and one VM of each goes at a time.
fn safe_by_is_possible(input: &PlanInput, options: &Options) -> Result<(), InputError> {
    let Some(safe_by_s) = options.safe_by_s else {
        return Ok(());
    };
    let refused = |what: &str, hint: &str| InputError {
        hint: Some(hint.to_owned()),
        ..InputError::at("safe_by_s", what)
    };
    if !(safe_by_s.is_finite() && safe_by_s > 0.0) {
        return Err(refused("no VM is safe in no time", "give a time above 0"));
    }
    if input.from.is_empty() {
        return Err(refused(
            "nothing says which hosts die then",
            "name them in `from`",
        ));
    }
    if let Some(host) = input.to.iter().find(|host| input.from.contains(host)) {
        let what = format!("host {host} dies then, and is among the targets");
        return Err(refused(&what, "take it out of `to`"));
    }
    match options.k {
        K::AtMost(_) => Err(refused(
            "with a deadline one VM of each host goes at a time, whatever k is",
            "leave k out",
        )),
        K::Chosen | K::All => Ok(()),
    }
}

/// k is at most the VMs that move; where all stay any k will do.
fn k_is_possible(k: K, plan: &Plan) -> Result<(), InputError> {
    let moving = plan.placement.iter().filter(|p| p.source != p.target).count();
    let k = match k {
        K::AtMost(k) if 0 < moving && moving < k => k,
        K::AtMost(_) | K::Chosen | K::All => return Ok(()),
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
    let asked = options.k.asked();
    let mode = match options.offline {
        true => Mode::Offline,
        false => Mode::Live {
            blackout_ms_max: f64::from(options.blackout_ms_max),
        },
    };
    let in_time = options.safe_by_s.map(|safe_by_s| InTime {
        safe_by_s,
        part_of: &options.part_of,
    });
    let moves = moves(input, problem, host_of);
    let Shortened { moves, cost } = shorten(problem, host_of.to_vec(), solution.cost, asked, moves);
    let Schedule {
        k,
        batches,
        carried,
        cycle,
        states,
        refused,
        duration_s,
        split_mbit,
        broken,
        tried,
    } = schedule(input, &moves, asked, mode, in_time.as_ref());
    let freed_by = match cycle.is_empty() {
        true => None,
        false => freed_by(input, problem, &moves),
    };
    let goes: BTreeMap<usize, usize> = moves
        .vms
        .iter()
        .copied()
        .zip(moves.target.iter().copied())
        .collect();
    let placed = input.cluster.vms.iter().enumerate().map(|(i, vm)| {
        let target = goes.get(&i).map_or(&vm.host, |host| &input.hosts[*host].name);
        Placed {
            vm: vm.name.clone(),
            source: vm.host.clone(),
            target: target.clone(),
        }
    });
    let least = solution.least;
    let hosts_optimal = cost.hosts == least.hosts;
    let memory_optimal = hosts_optimal && cost.memory == least.memory;
    let memory_unknown = notes::memory_unknown(input, &moves);
    let memory_optimal = memory_optimal && memory_unknown.is_empty();
    let mut plan = Plan {
        placement: placed.collect(),
        unplaced: Vec::new(),
        why_not_all: None,
        broken_meanwhile: broken,
        notes: notes::notes(input, &moves, &memory_unknown),
        memory_unknown,
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
        cycle_freed_by: freed_by,
        refused,
        duration_s,
        split_mbit,
        safe_by: None,
        explanation: Vec::new(),
        bars: bars::bars(input, problem, &moves),
    };
    plan.safe_by = options
        .safe_by_s
        .map(|safe_by_s| SafeBy::of(input, &plan, safe_by_s));
    let facts = explain::Facts {
        input,
        problem,
        solution,
        tried: &tried,
    };
    plan.explanation = explain::explain(&facts, &plan);
    plan
}

/// A host of which one more would free moves that wait for each other, their targets as they are.
fn freed_by(input: &PlanInput, problem: &Problem, now: &Moves<'_>) -> Option<HostName> {
    let mut host_of = vec![0; problem.items.len()];
    let ends = now.item_of.iter().zip(&now.target);
    ends.for_each(|(item, host)| host_of[*item] = *host);
    let stay: BTreeSet<usize> = (0..input.cluster.vms.len()).collect();
    let stay = &stay - &now.vms.iter().copied().collect();
    let without = Without {
        moving: stay,
        ..Without::default()
    };
    let would = |kind: &&Host| {
        let more = infeasible::with_added(input, kind, 1);
        let problem = Problem::without(&more, &without);
        let moves = moves(&more, &problem, &host_of);
        order(&moves, usize::MAX).cycle.is_empty()
    };
    let kinds = infeasible::largest(input, infeasible::kinds(input));
    kinds.into_iter().find(would).map(|kind| kind.name.clone())
}

/// The moves by VM.
fn moves<'a>(input: &PlanInput, problem: &'a Problem, host_of: &[usize]) -> Moves<'a> {
    let vms = &input.cluster.vms;
    let hosts: HashMap<&HostName, usize> = input
        .hosts
        .iter()
        .enumerate()
        .map(|(i, h)| (&h.name, i))
        .collect();
    let mut item_of: BTreeMap<usize, usize> = BTreeMap::new();
    for (i, item) in problem.items.iter().enumerate() {
        item_of.extend(item.vms.iter().map(|vm| (*vm, i)));
    }
    let placed: Vec<usize> = item_of.keys().copied().collect();
    let memory = |vm: &usize| vms[*vm].demand.get(MEMORY).map_or(0, |amount| amount.parts());
    let mut vms_of = vec![Vec::new(); problem.items.len()];
    let items = item_of.values().enumerate();
    items.for_each(|(vm, item)| vms_of[*item].push(vm));
    let mut moves = Moves {
        problem,
        vms_of,
        memory: placed.iter().map(memory).collect(),
        demand: placed.iter().map(|vm| problem.demand(&vms[*vm])).collect(),
        source: placed.iter().map(|vm| hosts[&vms[*vm].host]).collect(),
        target: item_of.values().map(|item| host_of[*item]).collect(),
        item_of: item_of.values().copied().collect(),
        peers: vec![Vec::new(); placed.len()],
        peers_staying: vec![Vec::new(); placed.len()],
        staying: vec![Sends::default(); input.hosts.len()],
        vms: placed,
        sequence: OnceCell::new(),
    };
    talk(input, &hosts, &mut moves);
    moves
}

/// Who talks to whom, and what the VMs that stay send.
fn talk(input: &PlanInput, hosts: &HashMap<&HostName, usize>, moves: &mut Moves<'_>) {
    let vms = &input.cluster.vms;
    let index: HashMap<&VmName, usize> = vms.iter().enumerate().map(|(i, v)| (&v.name, i)).collect();
    let mut mover: Vec<Option<usize>> = vec![None; vms.len()];
    moves
        .vms
        .iter()
        .enumerate()
        .for_each(|(i, vm)| mover[*vm] = Some(i));
    let home = |vm: usize| hosts[&vms[vm].host];
    for traffic in &input.cluster.traffic {
        let ends = [0, 1].map(|end| index[&traffic.between[end]]);
        let amount = traffic.mbit_s.parts();
        match ends.map(|vm| mover[vm]) {
            [Some(a), Some(b)] => {
                moves.peers[a].push((b, amount));
                moves.peers[b].push((a, amount));
            }
            [Some(moving), None] => moves.peers_staying[moving].push((home(ends[1]), amount)),
            [None, Some(moving)] => moves.peers_staying[moving].push((home(ends[0]), amount)),
            [None, None] if home(ends[0]) != home(ends[1]) => {
                let mbit_s = traffic.mbit_s.as_f64();
                ends.iter().for_each(|vm| moves.staying[home(*vm)].ct += mbit_s);
            }
            [None, None] => {}
        }
    }
    for (vm, mover) in vms.iter().zip(mover) {
        if mover.is_none() {
            moves.staying[hosts[&vm.host]].nast += vm.storage_mbit_s.as_f64();
        }
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
