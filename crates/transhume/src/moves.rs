//! Plans, moves and their reports.

use std::process::ExitCode;

use serde::Serialize;
use transhume_api::{
    Accepted, Client, ClientError, MoveOrder, NO_BANDWIDTH, PlanView, StaysBehind, TOO_SLOW,
};
use transhume_model::{ClusterName, MigrationId};
use transhume_planner::words::some;
use transhume_protocol::report::{Ending, MigrationReport, VmReport};

use crate::args::{Batches, How, MoveArgs, PlanArgs};
use crate::clusters::cluster_name;
use crate::failure::{Failure, Kind};
use crate::follow;
use crate::forecasts;
use crate::report;
use crate::table::Table;

/// One JSON document on stdout.
pub fn print_json(document: &impl Serialize) -> Result<ExitCode, Failure> {
    let text = serde_json::to_string_pretty(document).map_err(|error| Failure::of(&error))?;
    outln!("{text}");
    Ok(ExitCode::SUCCESS)
}

/// An order as the command line gives it.
pub fn order(from: Vec<String>, to: Vec<String>, how: &How) -> MoveOrder {
    MoveOrder {
        from,
        to,
        batch: how.batch.and_then(Batches::at_most),
        adaptive: matches!(how.batch, Some(Batches::Auto { .. })),
        offline: how.offline,
        blackout_ms_max: how.max_blackout.map(|time| time.as_millis() as u64),
        duration_ms_max: how.max_time.map(|time| time.as_millis() as u64),
        converge: Some(how.converge),
        strategy: Some(how.strategy.into()),
        safe_by_ms: how.safe_by.map(|time| time.as_millis() as u64),
        partial: false,
        strict: false,
        draw: false,
        wait: false,
    }
}

pub async fn plan(client: &Client, args: PlanArgs) -> Result<ExitCode, Failure> {
    let cluster = cluster_name(args.cluster.as_deref().unwrap_or_default())?;
    let order = MoveOrder {
        partial: !args.strict,
        strict: args.strict,
        draw: args.svg.is_some(),
        ..order(args.from, args.to, &args.how)
    };
    let view = client.plan(&cluster, &order).await?;
    if let (Some(path), Some(picture)) = (&args.svg, &view.picture) {
        std::fs::write(path, picture)
            .map_err(|error| Failure::other(format!("cannot write {}: {error}", path.display())))?;
    }
    if args.how.json {
        print_json(&view)?;
    } else {
        show_plan(&view, args.explain);
    }
    view.notes.iter().for_each(|note| eprintln!("note: {note}"));
    all_placed(&view)
}

fn show_plan(view: &PlanView, explain: bool) {
    forecasts::show_plan(view);
    let bound = match view.hosts_used == view.hosts_min {
        true => "proved to be the fewest".to_owned(),
        false => format!("no fewer than {} are possible", view.hosts_min),
    };
    outln!(
        "{} target hosts, {bound}; {} VMs stay",
        view.hosts_used,
        view.stay.len()
    );
    if explain {
        view.explanation.iter().for_each(|line| outln!("{line}"));
    }
}

/// VMs that have to leave and cannot: the plan for the others is shown, and the answer is no.
fn all_placed(view: &PlanView) -> Result<ExitCode, Failure> {
    let stay = view.unplaced.iter().filter(|one| !one.must_leave);
    stay.for_each(|one| eprintln!("note: {}", one.why));
    let left: Vec<&StaysBehind> = view.unplaced.iter().filter(|one| one.must_leave).collect();
    if left.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let vms: usize = left.iter().map(|one| one.vms.len()).sum();
    let why: Vec<&str> = left.iter().map(|one| one.why.as_str()).collect();
    Err(Failure::new(
        Kind::Refused,
        format!(
            "{} cannot leave; the plan above is for the others: {}",
            some(vms, "VM"),
            why.join("; ")
        ),
        "`transhume migrate --partial` moves the others; --explain says more",
    ))
}

pub async fn migrate(client: &Client, args: MoveArgs) -> Result<ExitCode, Failure> {
    let cluster = cluster_name(&args.cluster)?;
    let json = args.how.json;
    let order = MoveOrder {
        wait: args.wait,
        partial: args.partial,
        strict: args.strict,
        ..order(args.from, args.to, &args.how)
    };
    // Before the order is given: Ctrl-C in between waits for its number, to say which move goes on.
    let mut interrupts = follow::Interrupts::listen()?;
    let Accepted { migration, notes } = begin(client, &cluster, &order).await?;
    notes.iter().for_each(|note| eprintln!("note: {note}"));
    finish(
        follow::follow(client, migration, json, &mut interrupts).await?,
        json,
    )
}

/// One that waits for others asks at first as if it did not, so that its user reads why it waits;
/// and again where the coordinator has held its request for as long as it holds any.
async fn begin(client: &Client, cluster: &ClusterName, order: &MoveOrder) -> Result<Accepted, ClientError> {
    if order.wait {
        let now = MoveOrder {
            wait: false,
            ..order.clone()
        };
        match client.migrate(cluster, &now).await {
            Err(ClientError::Problem(problem)) if problem.code == NO_BANDWIDTH => {
                eprintln!("it cannot begin yet: {}", problem.message);
            }
            Err(ClientError::Problem(problem)) if problem.code == TOO_SLOW => {}
            answered => return answered,
        }
    }
    loop {
        match client.migrate(cluster, order).await {
            Err(ClientError::Problem(problem)) if order.wait && problem.code == TOO_SLOW => {}
            answered => return answered,
        }
    }
}

pub async fn follow(client: &Client, migration: Option<u64>, json: bool) -> Result<ExitCode, Failure> {
    let mut interrupts = follow::Interrupts::listen()?;
    // Only a coordinator that was there once is waited for.
    let migration = asked(client, migration).await?.migration;
    finish(
        follow::follow(client, migration, json, &mut interrupts).await?,
        json,
    )
}

/// Prints a report and says by the exit code how the move ended.
fn finish(report: MigrationReport, json: bool) -> Result<ExitCode, Failure> {
    if json {
        print_json(&report)?;
    } else {
        report::show(&report);
    }
    for (what, hint) in report::troubles(&report) {
        eprintln!("error: {what}");
        eprintln!("hint: {hint}");
    }
    Ok(code(&report))
}

/// Whether a VM, or frames, went with a host or a QEMU that is lost.
pub fn is_something_lost(report: &MigrationReport) -> bool {
    let mut vms = report.vms.iter();
    report.outcome == Ending::CommittedWithLoss || vms.any(is_less)
}

fn is_less(vm: &VmReport) -> bool {
    let ran_elsewhere = vm.reclaimed.as_ref().is_some_and(|back| back.may_have_run);
    vm.lost.is_some() || vm.source_lost.is_some() || ran_elsewhere
}

fn code(report: &MigrationReport) -> ExitCode {
    let kind = match report.outcome {
        _ if is_something_lost(report) => Kind::Lost,
        Ending::Committed | Ending::Running | Ending::CommittedWithLoss => return ExitCode::SUCCESS,
        Ending::RolledBack | Ending::PartlyCommitted => Kind::RolledBack,
        Ending::Refused => Kind::Refused,
    };
    ExitCode::from(kind as u8)
}

pub async fn report(client: &Client, migration: Option<u64>, json: bool) -> Result<ExitCode, Failure> {
    let report = asked(client, migration).await?;
    if json {
        return print_json(&report);
    }
    report::show(&report);
    for (what, hint) in report::troubles(&report) {
        outln!("trouble: {what}");
        outln!("hint: {hint}");
    }
    forecasts::show_record(client).await?;
    Ok(ExitCode::SUCCESS)
}

/// The report of the move asked for, or of the newest.
async fn asked(client: &Client, migration: Option<u64>) -> Result<MigrationReport, Failure> {
    let migration = match migration {
        Some(number) => MigrationId(number),
        None => {
            let list = client.migrations().await?;
            let newest = list.migrations.last().map(|line| line.migration);
            newest.ok_or_else(|| {
                let hint = "`transhume migrate` begins one";
                Failure::new(Kind::Refused, "there was no migration yet", hint)
            })?
        }
    };
    Ok(client.report(migration).await?)
}

pub async fn migrations(client: &Client, json: bool) -> Result<ExitCode, Failure> {
    let list = client.migrations().await?;
    if json {
        return print_json(&list);
    }
    let mut table = Table::new(&["MIGRATION", "CLUSTER", "VMS", "OUTCOME"]);
    for line in list.migrations {
        table.row([
            line.migration.to_string(),
            line.cluster.to_string(),
            line.vms.to_string(),
            line.outcome.name().to_owned(),
        ]);
    }
    out!("{}", table.text());
    Ok(ExitCode::SUCCESS)
}

pub async fn cancel(client: &Client, migration: u64, json: bool) -> Result<ExitCode, Failure> {
    let accepted = client.cancel(MigrationId(migration)).await?;
    if json {
        return print_json(&accepted);
    }
    outln!("migration {migration} is being cancelled; `transhume follow {migration}` shows how it ends");
    Ok(ExitCode::SUCCESS)
}
