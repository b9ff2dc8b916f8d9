//! `transhume plan --inventory FILE`: the planner alone, on a description of hosts and a cluster.
//! Nothing runs, nothing is changed.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use transhume_planner::input::{self, InputError, PlanInput, TEXT_BYTES_MAX};
use transhume_planner::report::{Answer, Interval, Plan};
use transhume_planner::words::{listed, some};
use transhume_planner::{Go, Options, PlanError, plan_while, svg};

use crate::args::{Batches, PlanArgs};
use crate::failure::{Failure, Kind};
use crate::moves::print_json;
use crate::table::Table;

pub fn run(file: &Path, args: &PlanArgs) -> Result<ExitCode, Failure> {
    let input = read(file)?;
    let options = Options {
        strategy: args.how.strategy.into(),
        k: args.how.batch.and_then(Batches::at_most),
        blackout_ms_max: args
            .how
            .max_blackout
            .map_or(Options::default().blackout_ms_max, |time| {
                u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
            }),
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
            if shown {
                show(plan, args.explain);
            }
            executable(plan)
        }
        Answer::Impossible(why) => Err(Failure::new(
            Kind::Refused,
            format!("impossible: {}", why.sentence()),
            why.hint(),
        )),
        Answer::NotFound { hosts_min } => Err(Failure::new(
            Kind::Refused,
            format!(
                "no placement was found in {} s; one would need at least {hosts_min} targets",
                args.deadline_s
            ),
            "allow more time with --deadline-s, or add a host",
        )),
    }
}

fn read(file: &Path) -> Result<PlanInput, Failure> {
    let failed = |error: std::io::Error| {
        let message = format!("cannot read the inventory {}: {error}", file.display());
        Failure::new(Kind::Refused, message, "docs/inventory.example.yaml shows one")
    };
    // The limit counts what is read: devices and pipes have no size.
    let mut bytes = Vec::new();
    let mut text = File::open(file).map_err(failed)?.take(TEXT_BYTES_MAX as u64 + 1);
    text.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > TEXT_BYTES_MAX {
        let message = format!(
            "the inventory {} has more than {TEXT_BYTES_MAX} bytes",
            file.display()
        );
        return Err(Failure::new(Kind::Refused, message, "plan one cluster at a time"));
    }
    let content = String::from_utf8(bytes).map_err(|_| {
        let message = format!("the inventory {} is not UTF-8 text", file.display());
        Failure::new(Kind::Refused, message, "write it as YAML or JSON")
    })?;
    input::read(&file.display().to_string(), &content).map_err(refused)
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
fn executable(plan: &Plan) -> Result<ExitCode, Failure> {
    if let Some(refused) = plan.refused.first() {
        let rate = refused.rate_needed_mbit_s;
        let hint = match rate {
            Some(rate) => format!("give its page stream {rate:.0} Mbit/s, or let it rest"),
            None => "no rate would do: move it offline, or let it rest".to_owned(),
        };
        return Err(Failure::new(Kind::Refused, refused.why.clone(), hint));
    }
    if !plan.cycle.is_empty() {
        let why = match plan.cycle_states {
            None => "no host is free to break the cycle".to_owned(),
            Some(states) => format!("no order was found within {states} states"),
        };
        let vms = listed(plan.cycle.iter().map(|step| step.vm.as_str()));
        let message = format!("VMs {vms} wait for each other's places, and {why}");
        return Err(Failure::new(
            Kind::Refused,
            message,
            "add a host for the time of the move",
        ));
    }
    Ok(ExitCode::SUCCESS)
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
    for (number, batch) in plan.batches.iter().enumerate() {
        for moved in &batch.moves {
            let spare = if moved.step.spare { " (spare)" } else { "" };
            table.row([
                (number + 1).to_string(),
                moved.step.vm.to_string(),
                moved.step.source.to_string(),
                format!("{}{spare}", moved.step.target),
                format!("{:.0}", moved.rate_mbit_s),
                range(moved.carried_mib),
                range(moved.duration_s),
                range(moved.blackout_ms),
            ]);
        }
    }
    print!("{}", table.text());
    let stay = plan
        .placement
        .iter()
        .filter(|placed| placed.source == placed.target)
        .count();
    println!("targets: {}", plan.targets);
    println!("memory moved, MiB: {}", plan.memory_moved_mib);
    println!("traffic between hosts, Mbit/s: {}", plan.traffic_mbit_s);
    println!(
        "{} of up to k = {}; {} {}; {} s in all",
        some(plan.batches.len(), "batch"),
        plan.k,
        some(stay, "VM"),
        if stay == 1 { "stays" } else { "stay" },
        range(plan.duration_s)
    );
    if let Some(links) = plan.fullest_links() {
        println!("links at their fullest: {links}");
    }
    for assumed in plan.assumptions() {
        println!("assumed, not measured: {assumed}");
    }
    if explain {
        plan.explanation.iter().for_each(|line| println!("{line}"));
    }
}
