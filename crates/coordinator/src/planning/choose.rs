//! The planner, asked about live hosts: targets and order, or what is in the way (§3.2, step 1 of
//! §3.3.2). Its own check has passed every plan that comes from here.

use std::time::{Duration, Instant};

use transhume_model::HostName;
use transhume_planner::input::PlanInput;
use transhume_planner::report::{Answer, Plan, PlanReport};
use transhume_planner::{Go, K, Options, PlanError, plan_while};
use transhume_protocol::message::Mode;

use super::scene::{Scene, list};
use crate::error::Refused;

/// The planner may search so long; the answer is then the best found. Whoever asked is held for a
/// minute at most.
const SEARCH_MAX: Duration = Duration::from_secs(10);
/// It works so much: a few seconds at most, and as much on every machine.
const WORK_MAX: u64 = 100_000_000;

/// Where each VM of the scene goes and in which order.
pub(super) fn choose(scene: &Scene, input: &PlanInput) -> Result<Plan, Refused> {
    let options = Options {
        strategy: scene.strategy,
        k: k(scene),
        offline: scene.mode == Mode::Offline,
        safe_by_s: scene.safe_by.map(|time| time.0 as f64 / 1e3),
        blackout_ms_max: u32::try_from(scene.blackout_max.0).unwrap_or(u32::MAX),
        ..Options::default()
    };
    let mut report = ask(input, &options);
    // Of a cluster that goes in part fewer may move than k: then all go at once.
    let fewer = |error: &PlanError| matches!(error, PlanError::Input(error) if error.place.path == "k");
    let sensible = scene
        .batch
        .is_some_and(|k| (1..=scene.leaving().count()).contains(&k));
    if scene.partial && sensible && report.as_ref().is_err_and(fewer) {
        let all = Options { k: K::All, ..options };
        report = ask(input, &all);
    }
    let report = report.map_err(|error| unusable(scene, error))?;
    let plan = planned(scene, report)?;
    on_its_way(scene, &plan)?;
    Ok(plan)
}

/// Asks the planner, within [`SEARCH_MAX`] and [`WORK_MAX`].
pub(super) fn ask(input: &PlanInput, options: &Options) -> Result<PlanReport, PlanError> {
    let options = Options {
        work_max: WORK_MAX,
        ..options.clone()
    };
    let deadline = Instant::now() + SEARCH_MAX;
    plan_while(input, &options, &mut || match Instant::now() < deadline {
        true => Go::On,
        false => Go::Deadline,
    })
}

/// Rounds of a move whose batches are cut later are as large as capacity allows.
fn k(scene: &Scene) -> K {
    match scene.batch {
        Some(k) if !scene.adaptive || k == 0 => K::AtMost(k),
        Some(_) | None => K::All,
    }
}

pub(super) fn unusable(scene: &Scene, error: PlanError) -> Refused {
    match error {
        PlanError::Input(error) if error.place.path == "k" => {
            let vms = scene.leaving().count();
            let hint = format!("omit --batch to move all {vms} at once");
            Refused::bad("bad-batch", error.what, hint)
        }
        PlanError::Input(error) if error.place.path == "safe_by_s" => {
            let hint = error.hint.unwrap_or_default();
            Refused::bad("bad-deadline", error.what, hint)
        }
        PlanError::Input(error) => {
            let hint = error.hint.unwrap_or_else(|| {
                let cluster = &scene.cluster.name;
                format!("`transhume cluster rules {cluster}` shows what its VMs ask of their hosts")
            });
            Refused::bad("bad-rules", error.what, hint)
        }
        PlanError::Unsound(_) => Refused::unsound(&error.to_string()),
    }
}

/// The plan, if all that must leave can.
fn planned(scene: &Scene, report: PlanReport) -> Result<Plan, Refused> {
    let plan = made(&scene.to, report)?;
    if scene.partial || plan.in_the_way().next().is_none() {
        return Ok(plan);
    }
    let others = "`--partial` moves the others".to_owned();
    let hint = match &plan.why_not_all {
        Some(why) => format!("{}; {others}", why.hint()),
        None => others,
    };
    let (to, why) = (list(&scene.to), plan.why_some_stay());
    let message = format!("no placement on {to} for all VMs: {why}");
    Err(Refused::conflict("no-solution", message, hint))
}

/// The plan, or why there is none.
pub(super) fn made(to: &[HostName], report: PlanReport) -> Result<Plan, Refused> {
    let not_found = report.not_found(SEARCH_MAX.as_secs()).unwrap_or_default();
    let to = list(to);
    match report.answer {
        Answer::Planned(plan) => Ok(*plan),
        Answer::Impossible(why) => Err(Refused::conflict(
            "no-solution",
            format!("no placement on {to} is possible: {}", why.sentence()),
            why.hint(),
        )),
        Answer::NotFound { addition, .. } => {
            let hint = match addition {
                Some(more) => format!("with {} more like {} one was found", more.count, more.like),
                None => "name more hosts after --to".to_owned(),
            };
            let message = format!("on {to} {not_found}");
            Err(Refused::conflict("no-placement-found", message, hint))
        }
    }
}

/// A move takes each VM once, in an order in which every target has room for both copies.
fn on_its_way(scene: &Scene, plan: &Plan) -> Result<(), Refused> {
    if let Some(waits) = plan.why_no_order() {
        let hint = match &plan.cycle_freed_by {
            Some(like) => format!("name a spare host like {like} after --to"),
            None => {
                "a spare host like those named would not help: look at pins, selectors and groups".to_owned()
            }
        };
        return Err(Refused::conflict("no-order", waits, hint));
    }
    let steps = || plan.batches.iter().flat_map(|batch| &batch.moves);
    if let Some(by_way) = steps().find(|one| one.step.spare) {
        let (vm, host) = (&by_way.step.vm, &by_way.step.target);
        let message =
            format!("VM {vm} would have to go by way of host {host}, and a move takes each VM once");
        let hint = format!(
            "empty one host after the other: first with fewer hosts after --from, and with {host} after --to"
        );
        return Err(Refused::conflict("no-order", message, hint));
    }
    match plan.broken_meanwhile.first().filter(|_| scene.strict) {
        None => Ok(()),
        Some(broken) => Err(Refused::conflict(
            "group-broken",
            broken.sentence(),
            "without --strict it is only told",
        )),
    }
}
