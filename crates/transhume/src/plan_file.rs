//! `transhume plan --inventory FILE`: the planner alone, on a description of hosts and a cluster.
//! Nothing runs, nothing is changed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use transhume_model::VmName;
use transhume_planner::input::{self, InputError, PlanInput, TEXT_BYTES_MAX};
use transhume_planner::report::{Answer, ForecastMove, Interval, Plan};
use transhume_planner::words::{listed, some};
use transhume_planner::{Addition, Ended, Go, K, Options, PlanError, Unplaced, plan_while, svg};

use crate::args::{Batches, PlanArgs};
use crate::failure::{Failure, Kind};
use crate::moves::print_json;
use crate::table::Table;

pub fn run(file: &Path, args: &PlanArgs) -> Result<ExitCode, Failure> {
    if let Some(Batches::Auto { .. }) = args.how.batch {
        return Err(Failure::new(
            Kind::Refused,
            "--batch auto is for a move that runs: a file has nothing to measure".to_owned(),
            "without --batch k is chosen; --batch K gives it",
        ));
    }
    let input = read(file)?;
    let options = Options {
        strategy: args.how.strategy.into(),
        k: args
            .how
            .batch
            .and_then(Batches::at_most)
            .map_or(K::Chosen, K::AtMost),
        blackout_ms_max: args
            .how
            .max_blackout
            .map_or(Options::default().blackout_ms_max, |time| {
                u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
            }),
        strict: args.strict,
        safe_by_s: args.how.safe_by.map(|time| time.as_secs_f64()),
        ..Options::default()
    };
    let deadline = Instant::now() + Duration::from_secs(args.deadline_s);
    let mut ask = || match Instant::now() < deadline {
        true => Go::On,
        false => Go::Deadline,
    };
    let report = plan_while(&input, &options, &mut ask).map_err(unplanned)?;
    match (&args.svg, &report.answer) {
        (Some(path), Answer::Planned(plan)) => std::fs::write(path, svg(plan))
            .map_err(|error| Failure::other(format!("cannot write {}: {error}", path.display())))?,
        (Some(path), Answer::Impossible(_) | Answer::NotFound { .. }) => {
            eprintln!("{} is not written: there is no plan to draw", path.display());
        }
        (None, _) => {}
    }
    if args.how.json {
        print_json(&report)?;
    }
    let shown = !args.how.json;
    match &report.answer {
        Answer::Planned(plan) => {
            plan.notes.iter().for_each(|note| eprintln!("note: {note}"));
            if shown {
                show(plan, args.explain);
            }
            executable(plan)?;
            groups_kept(plan, args.strict)?;
            all_placed(plan)
        }
        Answer::Impossible(why) => Err(Failure::new(
            Kind::Refused,
            format!("impossible: {}", why.sentence()),
            why.hint(),
        )),
        Answer::NotFound { addition, .. } => {
            let message = report.not_found(args.deadline_s).unwrap_or_default();
            let hint = not_found_hint(report.ended, addition.as_ref());
            Err(Failure::new(Kind::Refused, message, hint))
        }
    }
}

/// What would help where no placement was found.
fn not_found_hint(ended: Ended, addition: Option<&Addition>) -> String {
    let more_time = matches!(ended, Ended::Deadline | Ended::Cancelled);
    let time = more_time.then(|| "allow more time with --deadline-s".to_owned());
    let more = addition.map(|more| format!("with {} more like {} one was found", more.count, more.like));
    let known: Vec<String> = time.into_iter().chain(more).collect();
    match known.is_empty() {
        true => "widen `from` or `to`, or loosen a group, a pin or a selector".to_owned(),
        false => known.join("; "),
    }
}

fn read(file: &Path) -> Result<PlanInput, Failure> {
    let content = read_text(file, "the inventory", "docs/inventory.example.yaml shows one")?;
    input::read(&file.display().to_string(), &content).map_err(refused)
}

/// The text of a file that people write; `what` and `hint` are for errors.
pub fn read_text(file: &Path, what: &str, hint: &str) -> Result<String, Failure> {
    let failed = |error: std::io::Error| {
        let message = format!("cannot read {what} {}: {error}", file.display());
        Failure::new(Kind::Refused, message, hint)
    };
    // The limit counts what is read: devices and pipes have no size.
    let mut bytes = Vec::new();
    let mut text = File::open(file).map_err(failed)?.take(TEXT_BYTES_MAX as u64 + 1);
    text.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > TEXT_BYTES_MAX {
        let message = format!("{what} {} has more than {TEXT_BYTES_MAX} bytes", file.display());
        return Err(Failure::new(Kind::Refused, message, "plan one cluster at a time"));
    }
    String::from_utf8(bytes).map_err(|_| {
        let message = format!("{what} {} is not UTF-8 text", file.display());
        Failure::new(Kind::Refused, message, "write it as YAML or JSON")
    })
}

fn unplanned(error: PlanError) -> Failure {
    match error {
        PlanError::Input(error) => refused(error),
        PlanError::Unsound(_) => Failure::other(error.to_string()),
    }
}

fn refused(error: InputError) -> Failure {
    let hint = error
        .hint
        .clone()
        .unwrap_or_else(|| "docs/inventory.schema.json describes every field".to_owned());
    Failure::new(Kind::Refused, error.to_string(), hint)
}

/// A plan with a cycle or a VM that cannot be carried is shown, and refused.
fn executable(plan: &Plan) -> Result<(), Failure> {
    if let Some(refused) = plan.refused.first() {
        let rate = refused.rate_needed_mbit_s;
        let hint = match rate {
            Some(rate) => format!("give its page stream {rate:.0} Mbit/s, or let it rest"),
            None => "no rate would do: move it offline, or let it rest".to_owned(),
        };
        return Err(Failure::new(Kind::Refused, refused.why.clone(), hint));
    }
    if let Some(waits) = plan.why_no_order() {
        let hint = match &plan.cycle_freed_by {
            Some(like) => format!("with one more host like {like} for the time of the move it can be done"),
            None => "one more host like any there is would not help: pins, selectors, groups or amounts leave them no other way".to_owned(),
        };
        return Err(Failure::new(Kind::Refused, waits, hint));
    }
    Ok(())
}

/// A group that is broken for a while is told, and refused where all or nothing is wanted.
fn groups_kept(plan: &Plan, strict: bool) -> Result<(), Failure> {
    let broken: Vec<String> = plan
        .broken_meanwhile
        .iter()
        .map(|broken| broken.sentence())
        .collect();
    if broken.is_empty() {
        return Ok(());
    }
    if !strict {
        broken.iter().for_each(|sentence| eprintln!("note: {sentence}"));
        return Ok(());
    }
    Err(Failure::new(
        Kind::Refused,
        listed(broken),
        "without --strict it is only told",
    ))
}

/// VMs that have to leave and cannot: the plan for the others is shown, and the answer is no.
fn all_placed(plan: &Plan) -> Result<ExitCode, Failure> {
    let stay = plan.unplaced.iter().filter(|unplaced| !unplaced.must_leave);
    stay.for_each(|unplaced| eprintln!("note: {}", unplaced.why));
    let left: Vec<&Unplaced> = plan.in_the_way().collect();
    if left.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let vms: usize = left.iter().map(|one| one.vms.len()).sum();
    let message = format!(
        "{} of {} cannot leave; the plan above is for the others: {}",
        vms,
        some(plan.placement.len(), "VM"),
        plan.why_some_stay()
    );
    let hint = match &plan.why_not_all {
        Some(why) => why.hint(),
        None => "whether all can go was not found out: allow more time with --deadline-s".to_owned(),
    };
    Err(Failure::new(Kind::Refused, message, hint))
}

fn range(interval: Interval) -> String {
    format!("{:.1}-{:.1}", interval.low, interval.high)
}

fn show(plan: &Plan, explain: bool) {
    let mut table = Table::new(&[
        "BATCH",
        "VM",
        "FROM",
        "TO",
        "Mbit/s",
        "MiB",
        "SECONDS",
        "BLACKOUT ms",
    ]);
    let unknown: BTreeSet<&VmName> = plan.memory_unknown.iter().collect();
    let known = |moved: &ForecastMove, interval: Interval| match unknown.contains(&moved.step.vm) {
        true => "unknown".to_owned(),
        false => range(interval),
    };
    for (number, batch) in plan.batches.iter().enumerate() {
        for moved in &batch.moves {
            let spare = if moved.step.spare { " (spare)" } else { "" };
            table.row([
                (number + 1).to_string(),
                moved.step.vm.to_string(),
                moved.step.source.to_string(),
                format!("{}{spare}", moved.step.target),
                format!("{:.0}", moved.rate_mbit_s),
                known(moved, moved.carried_mib),
                known(moved, moved.duration_s),
                known(moved, moved.blackout_ms),
            ]);
        }
    }
    out!("{}", table.text());
    let stay = plan
        .placement
        .iter()
        .filter(|placed| placed.source == placed.target)
        .count();
    outln!("targets: {}", plan.targets);
    match unknown.len() {
        0 => outln!("memory moved, MiB: {}", plan.memory_moved_mib),
        vms => outln!(
            "memory moved, MiB: {} and that of {}, which is unknown",
            plan.memory_moved_mib.value,
            some(vms, "VM")
        ),
    }
    outln!("traffic between hosts, Mbit/s: {}", plan.traffic_mbit_s);
    outln!(
        "{} of up to k = {}; {} {}; {}",
        some(plan.batches.len(), "batch"),
        plan.k,
        some(stay, "VM"),
        if stay == 1 { "stays" } else { "stay" },
        match unknown.is_empty() {
            true => format!("{} s in all", range(plan.duration_s)),
            false => "how long it takes is unknown".to_owned(),
        }
    );
    if let Some(links) = plan.fullest_links() {
        outln!("links at their fullest: {links}");
    }
    for assumed in plan.assumptions() {
        outln!("assumed, not measured: {assumed}");
    }
    if let Some(safe_by) = &plan.safe_by {
        safe_by.sentences().iter().for_each(|line| outln!("{line}"));
    }
    if explain {
        plan.explanation.iter().for_each(|line| outln!("{line}"));
    }
}
