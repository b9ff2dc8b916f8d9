//! Clusters, hosts, plans, moves and their reports.

use std::process::ExitCode;

use serde::Serialize;
use transhume_coordinator::api::{
    Accepted, ClusterList, ClusterView, HostList, MigrationList, MoveOrder, PlanView,
};
use transhume_model::{ClusterName, IdError};
use transhume_protocol::report::{Ending, MigrationReport, Trouble};

use crate::args::{ClusterCommand, How, MoveArgs, PlanArgs};
use crate::client::Client;
use crate::failure::{Failure, Kind};
use crate::follow;
use crate::forecasts;
use crate::table::Table;

/// One JSON document on stdout.
pub fn print_json(document: &impl Serialize) -> Result<ExitCode, Failure> {
    let text = serde_json::to_string_pretty(document).map_err(|error| Failure::of(&error))?;
    println!("{text}");
    Ok(ExitCode::SUCCESS)
}

pub async fn cluster(client: &Client, command: ClusterCommand) -> Result<ExitCode, Failure> {
    match command {
        ClusterCommand::List { json } => {
            let list: ClusterList = client.get("/v1/clusters").await?;
            if json {
                return print_json(&list);
            }
            let mut table = Table::new(&["CLUSTER", "VMS", "HOSTS", "MIGRATION"]);
            for line in list.clusters {
                let hosts: Vec<String> = line.hosts.iter().map(ToString::to_string).collect();
                let migration = line.migration.map_or("-".to_owned(), |id| id.to_string());
                table.row([
                    line.name.to_string(),
                    line.vms.to_string(),
                    hosts.join(","),
                    migration,
                ]);
            }
            print!("{}", table.text());
        }
        ClusterCommand::Show { name, json } => {
            let view: ClusterView = client
                .get(&format!("/v1/clusters/{}", cluster_name(&name)?))
                .await?;
            if json {
                return print_json(&view);
            }
            let mut table = Table::new(&["VM", "HOST", "STATE", "VCPUS", "MIB"]);
            for vm in view.vms {
                let state = format!("{:?}", vm.state).to_lowercase();
                let (vcpus, memory) = (vm.demand.vcpus.0.to_string(), vm.demand.memory.0.to_string());
                table.row([vm.id.to_string(), vm.host.to_string(), state, vcpus, memory]);
            }
            print!("{}", table.text());
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn hosts(client: &Client, json: bool) -> Result<ExitCode, Failure> {
    let list: HostList = client.get("/v1/hosts").await?;
    if json {
        return print_json(&list);
    }
    let mut table = Table::new(&["HOST", "AGENT", "FREE VCPUS", "FREE MIB", "QEMU", "VMS"]);
    for host in list.hosts {
        let free = |amount: Option<u64>| amount.map_or("-".to_owned(), |amount| amount.to_string());
        let qemu = host
            .qemu
            .map_or("-".to_owned(), |qemu| format!("{} {}", qemu.version, qemu.accel));
        let vms: Vec<String> = host.vms.iter().map(ToString::to_string).collect();
        table.row([
            host.name.to_string(),
            if host.connected { "answers" } else { "away" }.to_owned(),
            free(host.free.map(|free| free.vcpus.0)),
            free(host.free.map(|free| free.memory.0)),
            qemu,
            vms.join(","),
        ]);
    }
    print!("{}", table.text());
    Ok(ExitCode::SUCCESS)
}

/// Becomes part of a path: what is no name never leaves this machine.
fn cluster_name(text: &str) -> Result<ClusterName, Failure> {
    let hint = "`transhume cluster list` tells which clusters there are";
    text.parse()
        .map_err(|error: IdError| Failure::new(Kind::Refused, error.to_string(), hint))
}

fn order(from: Vec<String>, to: Vec<String>, how: &How) -> MoveOrder {
    MoveOrder {
        from,
        to,
        batch: how.batch,
        offline: how.offline,
        blackout_ms_max: how.blackout_ms_max,
        strategy: Some(how.strategy.into()),
    }
}

pub async fn plan(client: &Client, args: PlanArgs) -> Result<ExitCode, Failure> {
    let cluster = cluster_name(args.cluster.as_deref().unwrap_or_default())?;
    let order = order(args.from, args.to, &args.how);
    let view: PlanView = client
        .post(&format!("/v1/clusters/{cluster}/plan"), &order)
        .await?;
    if args.how.json {
        return print_json(&view);
    }
    forecasts::show_plan(&view);
    let bound = match view.hosts_used == view.hosts_min {
        true => "proved to be the fewest".to_owned(),
        false => format!("no fewer than {} are possible", view.hosts_min),
    };
    println!(
        "{} target hosts, {bound}; {} VMs stay",
        view.hosts_used,
        view.stay.len()
    );
    Ok(ExitCode::SUCCESS)
}

pub async fn migrate(client: &Client, args: MoveArgs) -> Result<ExitCode, Failure> {
    let path = format!("/v1/clusters/{}/migrations", cluster_name(&args.cluster)?);
    let json = args.how.json;
    let order = order(args.from, args.to, &args.how);
    // Before the order is given: Ctrl-C in between waits for its number, to say which move goes on.
    let interrupts = follow::Interrupts::listen()?;
    let Accepted { migration } = client.post(&path, &order).await?;
    finish(follow::follow(client, migration.0, json, interrupts).await?, json)
}

pub async fn follow(client: &Client, migration: Option<u64>, json: bool) -> Result<ExitCode, Failure> {
    let migration = number(client, migration).await?;
    let interrupts = follow::Interrupts::listen()?;
    finish(follow::follow(client, migration, json, interrupts).await?, json)
}

/// Prints a report and says by the exit code how the move ended.
fn finish(report: MigrationReport, json: bool) -> Result<ExitCode, Failure> {
    if json {
        print_json(&report)?;
    } else {
        show(&report);
    }
    if let Some(trouble) = &report.trouble {
        eprintln!("error: {}", what(trouble));
        eprintln!("hint: {}", trouble.hint);
    }
    let kind = match report.outcome {
        Ending::Committed | Ending::Running => return Ok(ExitCode::SUCCESS),
        Ending::RolledBack | Ending::PartlyCommitted | Ending::CommittedWithLoss => Kind::RolledBack,
        Ending::Refused => Kind::Refused,
    };
    Ok(ExitCode::from(kind as u8))
}

pub async fn report(client: &Client, migration: Option<u64>, json: bool) -> Result<ExitCode, Failure> {
    let migration = number(client, migration).await?;
    let report: MigrationReport = client.get(&format!("/v1/migrations/{migration}")).await?;
    if json {
        return print_json(&report);
    }
    show(&report);
    if let Some(trouble) = &report.trouble {
        println!("trouble {}", what(trouble));
        println!("hint: {}", trouble.hint);
    }
    forecasts::show_record(client).await?;
    Ok(ExitCode::SUCCESS)
}

fn what(trouble: &Trouble) -> String {
    let (number, step) = (trouble.step.number(), trouble.step);
    format!("in step {number} ({step}): {}", trouble.reason)
}

/// The move asked for, or the newest.
async fn number(client: &Client, migration: Option<u64>) -> Result<u64, Failure> {
    if let Some(migration) = migration {
        return Ok(migration);
    }
    let list: MigrationList = client.get("/v1/migrations").await?;
    list.migrations
        .last()
        .map(|line| line.migration.0)
        .ok_or_else(|| {
            Failure::new(
                Kind::Refused,
                "there was no migration yet",
                "`transhume migrate` begins one",
            )
        })
}

pub async fn migrations(client: &Client, json: bool) -> Result<ExitCode, Failure> {
    let list: MigrationList = client.get("/v1/migrations").await?;
    if json {
        return print_json(&list);
    }
    let mut table = Table::new(&["MIGRATION", "CLUSTER", "VMS", "OUTCOME"]);
    for line in list.migrations {
        table.row([
            line.migration.to_string(),
            line.cluster.to_string(),
            line.vms.to_string(),
            ending(line.outcome).to_owned(),
        ]);
    }
    print!("{}", table.text());
    Ok(ExitCode::SUCCESS)
}

pub async fn cancel(client: &Client, migration: u64, json: bool) -> Result<ExitCode, Failure> {
    let accepted: Accepted = client
        .post(&format!("/v1/migrations/{migration}/cancel"), &())
        .await?;
    if json {
        return print_json(&accepted);
    }
    println!("migration {migration} is being cancelled; `transhume follow {migration}` tells how it ends");
    Ok(ExitCode::SUCCESS)
}

fn ending(outcome: Ending) -> &'static str {
    match outcome {
        Ending::Running => "running",
        Ending::Committed => "committed",
        Ending::CommittedWithLoss => "committed-with-loss",
        Ending::RolledBack => "rolled-back",
        Ending::PartlyCommitted => "partly-committed",
        Ending::Refused => "refused",
    }
}

fn ms(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.1}"))
}

/// The report as a table.
fn show(report: &MigrationReport) {
    let mut table = Table::new(&[
        "VM",
        "FROM",
        "TO",
        "BLACKOUT ms",
        "GAP ms",
        "CAPTURED",
        "DELIVERED",
        "LOST",
        "DUPLICATED",
        "REORDERED",
        "LATE",
        "MB",
    ]);
    for vm in &report.vms {
        let count = |of: fn(&transhume_protocol::report::Frames) -> u64| {
            vm.frames
                .as_ref()
                .map_or("-".to_owned(), |frames| of(frames).to_string())
        };
        table.row([
            vm.id.to_string(),
            vm.source.to_string(),
            vm.target.to_string(),
            ms(vm.blackout_ms),
            ms(vm.gap_ms),
            count(|frames| frames.captured),
            count(|frames| frames.delivered),
            count(|frames| frames.lost),
            count(|frames| frames.duplicated),
            count(|frames| frames.reordered),
            count(|frames| frames.late),
            format!("{:.1}", vm.pages.wire.0 as f64 / 1e6),
        ]);
    }
    print!("{}", table.text());
    let frames = &report.frames;
    println!(
        "migration {} {}: {} VMs in {:.2} s; lost {}, duplicated {}, reordered {}",
        report.migration,
        ending(report.outcome),
        report.vms.len(),
        report.duration_ms / 1e3,
        frames.lost,
        frames.duplicated,
        frames.reordered
    );
    forecasts::show_report(report);
}
