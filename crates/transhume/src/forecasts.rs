//! Forecasts as people read them: in a plan, beside the actual figures in a report, and how good
//! all of them have been.

use std::process::ExitCode;

use transhume_api::{Client, ForecastRecord, PlanView, Score};
use transhume_model::Interval;
use transhume_protocol::forecast::{Comparison, Expected, ForecastVsActual};
use transhume_protocol::report::MigrationReport;

use crate::failure::Failure;
use crate::moves::print_json;
use crate::table::Table;

const BYTES_PER_MB: f64 = 1e6;
const MS_PER_S: f64 = 1e3;

fn range(interval: Interval) -> String {
    format!("{:.1}-{:.1}", interval.low, interval.high)
}

/// Blackout and gap ms, MB and seconds.
fn expected(expected: &Expected) -> [String; 4] {
    [
        range(expected.blackout_ms),
        expected.gap_ms.map_or("-".to_owned(), range),
        range(expected.bytes.map(|bytes| bytes / BYTES_PER_MB)),
        range(expected.duration_ms.map(|ms| ms / MS_PER_S)),
    ]
}

/// A plan's moves, each with what to expect of it.
pub fn show_plan(view: &PlanView) {
    let head = [
        "BATCH",
        "VM",
        "FROM",
        "TO",
        "DIRTY MiB/s",
        "Mbit/s",
        "BLACKOUT ms",
        "GAP ms",
        "MB",
        "SECONDS",
    ];
    let mut table = Table::new(&head);
    for step in &view.moves {
        let mut row = vec![
            step.batch.to_string(),
            step.vm.to_string(),
            step.source.to_string(),
            step.target.to_string(),
        ];
        if let Some(forecast) = view.forecast.of(&step.vm) {
            row.push(forecast.dirty_mib_s.map_or("-".to_owned(), range));
            row.push(format!("{:.0}", forecast.rate_mbit_s));
            row.extend(expected(&forecast.expected));
        }
        table.row(row);
    }
    out!("{}", table.text());
    let [blackout, gap, megabytes, seconds] = expected(&view.forecast.expected);
    let gap = match view.forecast.expected.gap_ms {
        None => String::new(),
        Some(_) => format!(", longest gap {gap} ms"),
    };
    outln!("to expect: {seconds} s, {megabytes} MB, longest blackout {blackout} ms{gap}");
    if view.forecast.learnt_from > 0 {
        outln!("learnt from: {} VMs of earlier moves", view.forecast.learnt_from);
    }
    let mut assumed: Vec<&String> = view.forecast.vms.iter().flat_map(|vm| &vm.assumed).collect();
    assumed.sort();
    assumed.dedup();
    assumed.iter().for_each(|what| outln!("assumed: {what}"));
}

/// Actual figure and forecast; `!` marks an actual figure outside.
fn beside(figure: &ForecastVsActual, unit: f64) -> [String; 2] {
    let actual = figure
        .actual
        .map_or("-".to_owned(), |actual| format!("{:.1}", actual / unit));
    let mark = if figure.inside == Some(false) { " !" } else { "" };
    let forecast = range(figure.forecast.map(|end| end / unit));
    [actual, format!("{forecast}{mark}")]
}

fn compared(name: String, figures: &Comparison) -> Vec<String> {
    let mut row = vec![name];
    row.extend(beside(&figures.blackout_ms, 1.0));
    row.extend(match &figures.gap_ms {
        None => ["-", "-"].map(str::to_owned),
        Some(gap) => beside(gap, 1.0),
    });
    row.extend(beside(&figures.bytes, BYTES_PER_MB));
    row.extend(beside(&figures.duration_ms, MS_PER_S));
    row
}

fn table(of: &str) -> Table {
    Table::new(&[
        of,
        "BLACKOUT ms",
        "FORECAST",
        "GAP ms",
        "FORECAST",
        "MB",
        "FORECAST",
        "SECONDS",
        "FORECAST",
    ])
}

/// What was expected of a move, with what came of it.
pub fn show_report(report: &MigrationReport) {
    let mut table = table("VM");
    let forecasts = report
        .vms
        .iter()
        .filter_map(|vm| Some((vm, vm.forecast.as_ref()?)));
    for (vm, forecast) in forecasts {
        table.row(compared(vm.id.to_string(), &forecast.figures));
    }
    let Some(figures) = &report.forecast else { return };
    table.row(compared("all".to_owned(), figures));
    out!("{}", table.text());
}

fn score(score: Score) -> String {
    format!("{} of {}", score.inside, score.of)
}

fn summary(record: &ForecastRecord) -> String {
    format!(
        "forecasts of {} moves so far, VMs inside: blackout {}, gap {}, bytes {}, time {}",
        record.migrations.len(),
        score(record.blackout_ms),
        score(record.gap_ms),
        score(record.bytes),
        score(record.duration_ms)
    )
}

/// One line below a report.
pub async fn show_record(client: &Client) -> Result<(), Failure> {
    let record = client.forecasts().await?;
    if !record.migrations.is_empty() {
        outln!("{}", summary(&record));
    }
    Ok(())
}

/// `transhume report --all`.
pub async fn all(client: &Client, json: bool) -> Result<ExitCode, Failure> {
    let record = client.forecasts().await?;
    if json {
        return print_json(&record);
    }
    let mut table = table("MIGRATION");
    for line in &record.migrations {
        table.row(compared(line.migration.to_string(), &line.figures));
    }
    out!("{}", table.text());
    outln!("{}", summary(&record));
    Ok(ExitCode::SUCCESS)
}
