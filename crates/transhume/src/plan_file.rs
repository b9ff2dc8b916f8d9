//! `transhume plan --inventory FILE`: the planner alone, on a description of hosts and a cluster. Nothing runs, nothing is changed.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use transhume_planner::input::{self, InputError, PlanInput, TEXT_BYTES_MAX};
use transhume_planner::report::{Answer, Interval, Plan};
use transhume_planner::{Constraint, Go, Impossible, Options, PlanError, Reason, Strategy, plan_while, svg};

use crate::args::{PlanArgs, PlanStrategy};
use crate::failure::{Failure, Kind};
use crate::moves::print_json;
use crate::table::Table;

pub fn run(file: &Path, args: &PlanArgs) -> Result<ExitCode, Failure> {
    let input = read(file)?;
    let options = Options {
        strategy: match args.strategy {
            PlanStrategy::Exact => Strategy::Exact,
            PlanStrategy::Paper => Strategy::Paper,
        },
        k: args.how.batch,
        blackout_ms_max: args
            .how
            .blackout_ms_max
            .map_or(Options::default().blackout_ms_max, |ms| {
                u32::try_from(ms).unwrap_or(u32::MAX)
            }),
        ..Options::default()
    };
    let deadline = Instant::now() + Duration::from_secs(args.deadline_s);
    let mut ask = || match Instant::now() < deadline {
        true => Go::On,
        false => Go::Deadline,
    };
    let report = plan_while(&input, &options, &mut ask).map_err(unplanned)?;
    if let (Some(path), Answer::Planned(plan)) = (&args.svg, &report.answer) {
        std::fs::write(path, svg(plan))
            .map_err(|error| Failure::other(format!("cannot write {}: {error}", path.display())))?;
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
        Answer::Impossible(why) => Err(impossible(why)),
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
    let size = std::fs::metadata(file).map_err(failed)?.len();
    if size > TEXT_BYTES_MAX as u64 {
        let message = format!(
            "the inventory {} has {size} bytes, more than {TEXT_BYTES_MAX}",
            file.display()
        );
        return Err(Failure::new(Kind::Refused, message, "plan one cluster at a time"));
    }
    let bytes = std::fs::read(file).map_err(failed)?;
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

fn impossible(why: &Impossible) -> Failure {
    let mut reasons: Vec<String> = why.reasons.iter().map(Reason::sentence).collect();
    if !why.conflict.is_empty() {
        let constraints: Vec<String> = why.conflict.iter().map(constraint).collect();
        reasons.push(format!("these cannot all be kept: {}", constraints.join(", ")));
    }
    let hint = match &why.addition {
        Some(more) => {
            let least = if more.smallest { "" } else { " at most" };
            format!("{} more{least} like {} would do", more.count, more.like)
        }
        None => "no number of hosts like these would do: loosen a constraint".to_owned(),
    };
    Failure::new(Kind::Refused, format!("impossible: {}", reasons.join("; ")), hint)
}

fn constraint(constraint: &Constraint) -> String {
    match constraint {
        Constraint::Group(name) => format!("group {name}"),
        Constraint::LimitsOf(vm) => format!("pin, labels or processor models of VM {vm}"),
    }
}

/// A plan with a ring or a VM that cannot be carried is shown, and refused.
fn executable(plan: &Plan) -> Result<ExitCode, Failure> {
    if let Some(refused) = plan.refused.first() {
        let rate = refused.rate_needed_mbit_s;
        let hint = match rate {
            Some(rate) => format!("give its page stream {rate:.0} Mbit/s, or let it rest"),
            None => "no rate would do: move it offline, or let it rest".to_owned(),
        };
        return Err(Failure::new(
            Kind::Refused,
            format!("VM {}: {}", refused.vm, refused.why),
            hint,
        ));
    }
    if !plan.ring.is_empty() {
        let vms: Vec<&str> = plan.ring.iter().map(|step| step.vm.as_str()).collect();
        let why = match plan.ring_states {
            None => "no host is free to break the ring".to_owned(),
            Some(states) => format!("no order was found within {states} states"),
        };
        let message = format!("VMs {} wait for each other's places, and {why}", vms.join(", "));
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
        "{} batches of up to k = {}; {stay} VMs stay; {} s in all",
        plan.batches.len(),
        plan.k,
        range(plan.duration_s)
    );
    if explain {
        plan.explanation.iter().for_each(|line| println!("{line}"));
    }
}
