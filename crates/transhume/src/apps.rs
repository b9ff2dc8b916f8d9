//! `transhume lab app` and `transhume lab apps`: what clusters in the guests notice, of a move or
//! of none. See docs/design/apps.md.

use std::fmt::Write;
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Serialize;
use transhume_api::Client;
use transhume_lab::apps::{AppFigures, collect, options};
use transhume_lab::plot::Spread;
use transhume_lab::{App, AppStats, Lab, LabUp, down, up};
use transhume_protocol::report::MigrationReport;

use crate::args::{AppsArgs, Batches};
use crate::client;
use crate::failure::Failure;
use crate::follow::Interrupts;
use crate::labs::progress;
use crate::measurement::{self, Account, File, move_once, unless_interrupted};
use crate::moves::print_json;
use crate::table::Table;

const REPETITIONS: RangeInclusive<usize> = 1..=200;
/// Between the cluster's first service and the first move.
const WARM_UP: Duration = Duration::from_secs(5);
/// After a move: an operation that it delays ends in its span.
const AFTERWARDS: Duration = Duration::from_secs(3);
const SIDES: [[&str; 2]; 2] = [["h1", "h2"], ["h3", "h4"]];

/// One move, or one control.
#[derive(Debug, Clone, Serialize)]
struct Row {
    app: App,
    repetition: usize,
    /// VMs switched over at once; of a control those of the move before it.
    k: usize,
    /// Nothing moved.
    control: bool,
    /// What the clients saw.
    clients: AppStats,
    /// Longest of the move's VMs.
    blackout_ms: Option<f64>,
    /// Of the buffers.
    frames: Option<Account>,
}

/// What the checkers saw since the last look.
pub async fn app(lab: &Lab, json: bool) -> Result<ExitCode, Failure> {
    let figures = collect(lab).await?;
    if json {
        return print_json(&figures);
    }
    out!("{}", account(&figures));
    Ok(ExitCode::SUCCESS)
}

fn account(figures: &AppFigures) -> String {
    let mut table = Table::new(&[
        "VM",
        "OPERATIONS",
        "LATE",
        "FAILED",
        "WRONG",
        "SLOWEST ms",
        "ELECTIONS",
        "LINK BREAKS",
        "FULL COPIES",
    ]);
    let vms = figures.vms.iter().map(|vm| (vm.id.as_str(), &vm.stats));
    for (name, stats) in vms.chain([("all", &figures.total)]) {
        let [operations, late, failed, wrong] = counts(stats);
        let [elections, breaks, copies] = cluster(figures.app, stats);
        let slowest = stats.slowest_ms.to_string();
        table.row([
            name.to_owned(),
            operations,
            late,
            failed,
            wrong,
            slowest,
            elections,
            breaks,
            copies,
        ]);
    }
    let mut text = format!(
        "{} in {:.1} s\n{}",
        figures.app,
        figures.total.span_ms as f64 / 1e3,
        table.text()
    );
    if let Some(trouble) = &figures.total.trouble {
        // Writing to a string does not fail.
        let _ = writeln!(text, "first trouble: {trouble}");
    }
    text
}

fn counts(stats: &AppStats) -> [String; 4] {
    [stats.operations, stats.late, stats.failed, stats.wrong].map(|count| count.to_string())
}

/// What an app does not have is a dash.
fn cluster(app: App, stats: &AppStats) -> [String; 3] {
    let cluster = stats.cluster;
    let (elections, link_breaks, full_copies) = match app {
        App::Etcd => (Some(cluster.elections), None, None),
        App::Redis => (None, Some(cluster.link_breaks), Some(cluster.full_copies)),
        App::Postgres => (None, Some(cluster.link_breaks), None),
        App::Mpi => (None, None, None),
    };
    [elections, link_breaks, full_copies].map(|count| count.map_or("-".to_owned(), |count| count.to_string()))
}

/// Measures moves, each with a control beside it.
pub async fn apps(args: AppsArgs) -> Result<ExitCode, Failure> {
    measurement::check_count("repetitions", args.reps, &REPETITIONS, "5 give a median")?;
    let measure = async |ctrl_c: &mut Interrupts, rows: &mut Vec<Row>| measure(ctrl_c, &args, rows).await;
    let rows = measurement::conduct(&args.out, measure, |rows| Ok(files(rows))).await?;
    measurement::tell(&args.out, args.json, &rows, || summary(&rows))
}

async fn measure(ctrl_c: &mut Interrupts, args: &AppsArgs, rows: &mut Vec<Row>) -> Result<(), Failure> {
    for &app in &args.app {
        let options = LabUp {
            owner: Some(std::process::id()),
            progress: progress(),
            ..options(app)
        };
        let mut lab = Measured {
            app,
            lab: unless_interrupted(ctrl_c, up(&options)).await?,
            client: client::of_lab(),
            moves: 0,
        };
        let warm_up = async {
            tokio::time::sleep(WARM_UP).await;
            Ok::<_, Failure>(())
        };
        unless_interrupted(ctrl_c, warm_up).await?;
        for repetition in 1..=args.reps {
            for &together in &args.batch {
                let vms = usize::from(options.vms);
                let k = together.of(vms).min(vms);
                eprintln!("{app}, k = {k}, repetition {repetition} of {}", args.reps);
                lab.pair(ctrl_c, repetition, k, rows).await?;
            }
        }
        down(&options.name, &options.progress).await?;
    }
    Ok(())
}

/// A lab whose app is moved back and forth.
struct Measured {
    app: App,
    lab: Lab,
    client: Client,
    moves: usize,
}

impl Measured {
    /// A move, and as long without one.
    async fn pair(
        &mut self,
        ctrl_c: &mut Interrupts,
        repetition: usize,
        k: usize,
        rows: &mut Vec<Row>,
    ) -> Result<(), Failure> {
        unless_interrupted(ctrl_c, collect(&self.lab)).await?;
        let begun = Instant::now();
        let (from, to) = (&SIDES[self.moves % 2], &SIDES[(self.moves + 1) % 2]);
        self.moves += 1;
        let report = move_once(ctrl_c, &self.client, from, to, Some(Batches::Of(k))).await?;
        tokio::time::sleep(AFTERWARDS).await;
        let clients = unless_interrupted(ctrl_c, collect(&self.lab)).await?.total;
        let row = |control, clients, report: Option<&MigrationReport>| Row {
            app: self.app,
            repetition,
            k,
            control,
            clients,
            blackout_ms: report.and_then(worst_blackout_ms),
            frames: report.map(|report| Account::of(std::slice::from_ref(report))),
        };
        rows.push(row(false, clients, Some(&report)));
        let control = async {
            tokio::time::sleep(begun.elapsed()).await;
            collect(&self.lab).await
        };
        let clients = unless_interrupted(ctrl_c, control).await?.total;
        rows.push(row(true, clients, None));
        Ok(())
    }
}

fn worst_blackout_ms(report: &MigrationReport) -> Option<f64> {
    report.vms.iter().filter_map(|vm| vm.blackout_ms).reduce(f64::max)
}

fn files(rows: &[Row]) -> Vec<File> {
    if rows.is_empty() {
        return Vec::new();
    }
    vec![
        ("apps.csv".to_owned(), csv(rows).into_bytes()),
        ("summary.txt".to_owned(), summary(rows).into_bytes()),
    ]
}

fn csv(rows: &[Row]) -> String {
    let mut text =
        "app,repetition,k,kind,seconds,operations,late,failed,wrong,slowest_ms,elections,link_breaks,\
                    full_copies,blackout_ms,lost,duplicated,reordered\n"
            .to_owned();
    for row in rows {
        let clients = &row.clients;
        let [elections, breaks, copies] = cluster(row.app, clients).map(|cell| cell.replace('-', ""));
        let frames = row.frames.map_or(",,".to_owned(), |frames| {
            format!("{},{},{}", frames.lost, frames.duplicated, frames.reordered)
        });
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{},{},{},{},{:.1},{},{},{elections},{breaks},{copies},{},{frames}",
            row.app,
            row.repetition,
            row.k,
            kind(row),
            clients.span_ms as f64 / 1e3,
            counts(clients).join(","),
            clients.slowest_ms,
            row.blackout_ms
                .map_or(String::new(), |blackout| format!("{blackout:.1}")),
        );
    }
    text
}

fn kind(row: &Row) -> &'static str {
    if row.control { "control" } else { "move" }
}

/// A line for each app, k and kind.
fn summary(rows: &[Row]) -> String {
    let mut table = Table::new(&[
        "APP",
        "K",
        "KIND",
        "SPANS",
        "OPERATIONS",
        "LATE",
        "FAILED",
        "WRONG",
        "ELECTIONS",
        "LINK BREAKS",
        "FULL COPIES",
        "SLOWEST ms",
        "WORST ms",
        "BLACKOUT ms",
        "WORST ms",
        "LOST/DUP/REORD",
    ]);
    let mut kinds: Vec<(App, usize, bool)> = Vec::new();
    for row in rows {
        let kind = (row.app, row.k, row.control);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    for (app, k, control) in kinds {
        let of: Vec<&Row> = rows
            .iter()
            .filter(|row| (row.app, row.k, row.control) == (app, k, control))
            .collect();
        let sum = sum(&of);
        let [operations, late, failed, wrong] = counts(&sum);
        let [elections, breaks, copies] = cluster(app, &sum);
        let [slowest, slowest_worst] = middle_and_worst(of.iter().map(|row| row.clients.slowest_ms as f64));
        let [blackout, blackout_worst] = middle_and_worst(of.iter().filter_map(|row| row.blackout_ms));
        let frames = of.iter().filter_map(|row| row.frames).collect::<Vec<_>>();
        let frames = match frames.is_empty() {
            true => "-".to_owned(),
            false => frames.into_iter().sum::<Account>().text(),
        };
        table.row([
            app.to_string(),
            k.to_string(),
            kind(of[0]).to_owned(),
            of.len().to_string(),
            operations,
            late,
            failed,
            wrong,
            elections,
            breaks,
            copies,
            slowest,
            slowest_worst,
            blackout,
            blackout_worst,
            frames,
        ]);
    }
    table.text()
}

fn sum(rows: &[&Row]) -> AppStats {
    rows.iter().fold(AppStats::default(), |mut sum, row| {
        let clients = &row.clients;
        sum.operations += clients.operations;
        sum.late += clients.late;
        sum.failed += clients.failed;
        sum.wrong += clients.wrong;
        sum.cluster.elections += clients.cluster.elections;
        sum.cluster.link_breaks += clients.cluster.link_breaks;
        sum.cluster.full_copies += clients.cluster.full_copies;
        sum
    })
}

fn middle_and_worst(values: impl Iterator<Item = f64>) -> [String; 2] {
    let values: Vec<f64> = values.collect();
    let worst = values.iter().copied().reduce(f64::max);
    let middle = Spread::of(values).map(|spread| spread.median);
    [middle, worst].map(|value| value.map_or("-".to_owned(), |value| format!("{value:.0}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(control: bool, slowest_ms: u64) -> Row {
        Row {
            app: App::Redis,
            repetition: 1,
            k: 3,
            control,
            clients: AppStats {
                operations: 10,
                slowest_ms,
                ..AppStats::default()
            },
            blackout_ms: (!control).then_some(21.5),
            frames: (!control).then_some(Account::default()),
        }
    }

    #[test]
    fn every_line_of_the_csv_has_every_column() {
        let text = csv(&[row(false, 40), row(true, 9)]);
        let columns: Vec<usize> = text.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(columns, [17, 17, 17], "{text}");
    }

    #[test]
    fn moves_and_controls_have_a_line_each() {
        let text = summary(&[row(false, 40), row(true, 9), row(false, 60), row(true, 7)]);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[1][..5], ["redis", "3", "move", "2", "20"]);
        assert_eq!(lines[2][..5], ["redis", "3", "control", "2", "20"]);
        assert!(
            text.contains("50") && text.contains("60"),
            "median and worst: {text}"
        );
        assert_eq!(lines[2].last(), Some(&"-"));
    }
}
