//! Drains: begin one and watch it, list them, cancel one.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use transhume_api::{Client, ClientError, DrainPlanView, DrainStage, DrainStay, DrainView};
use transhume_model::{DrainId, MigrationId};
use transhume_planner::words::{listed, some};

use crate::args::{DrainArgs, DrainsArgs};
use crate::failure::{Failure, Kind};
use crate::follow::{self, AWAY_MAX, Interrupts};
use crate::moves::{is_something_lost, order, print_json};
use crate::report;
use crate::table::Table;

/// A drain that is watched is asked about this often.
const ASK_EVERY: Duration = Duration::from_millis(500);

pub async fn drain(client: &Client, args: DrainArgs) -> Result<ExitCode, Failure> {
    let json = args.how.json;
    let order = order(args.hosts, args.to, &args.how);
    if args.dry_run {
        return show_plan(&client.plan_drain(&order).await?, json);
    }
    let mut interrupts = Interrupts::listen()?;
    if order.safe_by_ms.is_some() {
        // Who will not be safe is said before anything moves.
        let plan = client.plan_drain(&order).await?;
        plan.notes.iter().for_each(|note| eprintln!("note: {note}"));
    }
    let begun = client.drain(&order).await?;
    let hosts = listed(begun.hosts.iter().map(|host| host.as_str()));
    if !json {
        eprintln!(
            "drain {}: {hosts}; cordoned until `transhume host uncordon`",
            begun.drain
        );
    }
    let over = watch(client, begun.drain, json, &mut interrupts).await?;
    if json {
        print_json(&over)?;
    } else {
        out!("{}", moves_text(&over));
    }
    let lost = losses(client, &over).await?;
    ended(&over, &lost)
}

/// Moves of a drain by which something was lost, each with its troubles told.
async fn losses(client: &Client, over: &DrainView) -> Result<Vec<MigrationId>, Failure> {
    let mut lost = Vec::new();
    for one in &over.moves {
        let report = client.report(one.migration).await?;
        for (what, hint) in report::troubles(&report) {
            eprintln!("error: {what}");
            eprintln!("hint: {hint}");
        }
        if is_something_lost(&report) {
            lost.push(one.migration);
        }
    }
    Ok(lost)
}

pub async fn drains(client: &Client, args: DrainsArgs) -> Result<ExitCode, Failure> {
    if let Some(drain) = args.cancel {
        let view = client.cancel_drain(DrainId(drain)).await?;
        if args.json {
            return print_json(&view);
        }
        outln!(
            "drain {drain} begins nothing more{}",
            match under_way(&view) {
                Some(migration) =>
                    format!("; migration {migration} goes on, `transhume cancel {migration}` cancels it"),
                None => String::new(),
            }
        );
        return Ok(ExitCode::SUCCESS);
    }
    let list = client.drains().await?;
    if args.json {
        return print_json(&list);
    }
    let mut table = Table::new(&["DRAIN", "HOSTS", "STAGE", "MOVES", "LEFT", "DOING"]);
    for view in &list.drains {
        let hosts: Vec<&str> = view.hosts.iter().map(|host| host.as_str()).collect();
        table.row([
            view.drain.to_string(),
            hosts.join(","),
            view.stage.name().to_owned(),
            view.moves.len().to_string(),
            view.left.len().to_string(),
            view.doing.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    out!("{}", table.text());
    Ok(ExitCode::SUCCESS)
}

/// The move of a drain that has no outcome yet.
fn under_way(view: &DrainView) -> Option<MigrationId> {
    let last = view.moves.last().filter(|one| one.outcome.is_none());
    last.map(|one| one.migration)
}

/// Watches a drain, and its moves one after the other, until it is over.
async fn watch(
    client: &Client,
    drain: DrainId,
    quiet: bool,
    interrupts: &mut Interrupts,
) -> Result<DrainView, Failure> {
    let mut away: Option<Instant> = None;
    let mut doing = None;
    let mut seen: Vec<MigrationId> = Vec::new();
    loop {
        match client.show_drain(drain).await {
            Ok(view) if view.stage != DrainStage::Running => return Ok(view),
            Ok(view) => {
                away = None;
                if let Some(migration) = under_way(&view).filter(|id| !seen.contains(id)) {
                    seen.push(migration);
                    let followed = follow::follow(client, migration, quiet, interrupts).await;
                    followed.map_err(|failure| goes_on(drain, failure))?;
                    continue;
                }
                if !quiet && view.doing != doing {
                    view.doing
                        .iter()
                        .for_each(|what| eprintln!("drain {drain} {what}"));
                    doing = view.doing;
                }
            }
            Err(error) if error.is_away() => still_away(client, &mut away, error)?,
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            biased;
            () = interrupts.heard() => return Err(goes_on(drain, Failure::new(Kind::Detached, "", ""))),
            () = sleep(ASK_EVERY) => {}
        }
    }
}

fn still_away(client: &Client, away: &mut Option<Instant>, error: ClientError) -> Result<(), Failure> {
    match away {
        None => {
            eprintln!(
                "the coordinator at {} does not answer; trying again for {} s",
                client.address(),
                AWAY_MAX.as_secs()
            );
            *away = Some(Instant::now());
            Ok(())
        }
        Some(since) if since.elapsed() < AWAY_MAX => Ok(()),
        Some(_) => Err(error.into()),
    }
}

/// Ctrl-C ends the watching, never the drain.
fn goes_on(drain: DrainId, failure: Failure) -> Failure {
    match failure.kind {
        Kind::Detached => Failure::new(
            Kind::Detached,
            format!("no longer watching; drain {drain} goes on"),
            format!("the same command watches it again, `transhume drains --cancel {drain}` ends it"),
        ),
        _ => failure,
    }
}

fn show_plan(view: &DrainPlanView, json: bool) -> Result<ExitCode, Failure> {
    if json {
        print_json(view)?;
    } else {
        let mut table = Table::new(&["CLUSTER", "VM", "FROM", "TO"]);
        for step in &view.moves {
            table.row([
                step.cluster.to_string(),
                step.vm.to_string(),
                step.source.to_string(),
                step.target.to_string(),
            ]);
        }
        out!("{}", table.text());
        outln!(
            "{} to {}, {}",
            some(view.moves.len(), "VM"),
            some(view.targets_used, "host"),
            match view.targets_used == view.targets_min {
                true => "proved to be the fewest".to_owned(),
                false => format!("no fewer than {} are possible", view.targets_min),
            }
        );
        view.notes.iter().for_each(|note| eprintln!("note: {note}"));
    }
    if view.stays.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::new(
        Kind::Refused,
        format!("not all VMs can leave: {}", reasons(&view.stays)),
        "`transhume drain` moves the others",
    ))
}

fn reasons(stays: &[DrainStay]) -> String {
    let one = |stay: &DrainStay| format!("cluster {}: {}", stay.cluster, stay.why);
    let all: Vec<String> = stays.iter().map(one).collect();
    all.join("; ")
}

fn moves_text(view: &DrainView) -> String {
    let mut table = Table::new(&["CLUSTER", "MIGRATION", "OUTCOME"]);
    for one in &view.moves {
        let outcome = one.outcome.map_or("-", |outcome| outcome.name());
        table.row([
            one.cluster.to_string(),
            one.migration.to_string(),
            outcome.to_owned(),
        ]);
    }
    table.text()
}

/// Says by the exit code how a drain ended.
fn ended(view: &DrainView, lost: &[MigrationId]) -> Result<ExitCode, Failure> {
    let hosts = listed(view.hosts.iter().map(|host| host.as_str()));
    let left = listed(
        view.left
            .iter()
            .map(|left| format!("{} on {}", left.vm, left.host)),
    );
    match view.stage {
        _ if !lost.is_empty() => Err(Failure::new(
            Kind::Lost,
            format!("drain {} is over, and something is lost", view.drain),
            format!("`transhume report {}` says what", lost[0]),
        )),
        DrainStage::Running | DrainStage::Done => {
            eprintln!("no VM is left on {hosts}");
            Ok(ExitCode::SUCCESS)
        }
        DrainStage::Cancelled => Err(Failure::new(
            Kind::Other,
            format!("drain {} was cancelled; left: {left}", view.drain),
            "the same command goes on with it",
        )),
        DrainStage::Partly => {
            let failed = view
                .moves
                .iter()
                .rev()
                .find(|one| one.outcome.is_some_and(|how| how.name() != "committed"));
            let why = match (view.stays.is_empty(), failed) {
                (false, _) => reasons(&view.stays),
                (true, Some(one)) => format!("`transhume report {}` says why", one.migration),
                (true, None) => "`transhume drains --json` says more".to_owned(),
            };
            Err(Failure::new(
                Kind::Other,
                format!("not all VMs could leave; left: {left}: {why}"),
                "mend that, then the same command goes on",
            ))
        }
    }
}
