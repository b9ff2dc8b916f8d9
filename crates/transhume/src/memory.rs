//! `transhume lab memory`: how memory is sent – bytes, time, processor, blackout – beside stock
//! QEMU's ways, in one run.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use transhume_lab::boxes::{Boxes, Group};
use transhume_lab::load::MemoryLoad;
use transhume_lab::plot::Spread;
use transhume_lab::stock::{StockLab, StockMode};
use transhume_lab::{LabUp, Meter, down, up};
use transhume_model::Band;
use transhume_protocol::message::{PageClasses, PlainBytes};
use transhume_protocol::report::VmReport;
use transhume_protocol::step::Phase;

use crate::args::{Batches, LinkSpeed, MemoryArgs};
use crate::client;
use crate::failure::{Failure, Kind};
use crate::follow::Interrupts;
use crate::labs::progress;
use crate::measurement::{self, File, drawn, move_once, unless_interrupted};
use crate::table::Table;

const REPETITIONS: std::ops::RangeInclusive<usize> = 1..=100;
const VMS: std::ops::RangeInclusive<u16> = 1..=32;
/// Between boot and the first move: a rewriting guest has written everything once.
const SETTLE: std::time::Duration = std::time::Duration::from_secs(4);
const OURS: &str = "transhume";
/// To a host that still keeps pages of an earlier visit.
const OURS_AGAIN: &str = "transhume again";

/// What is drawn, with its colour: the best of stock's ways, and ours.
const DRAWN: [(&str, &str); 3] = [
    ("stock multifd+zstd", "#c98a3c"),
    (OURS, "#4878a8"),
    (OURS_AGAIN, "#2f6f4f"),
];

/// One kind of guests and link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Case {
    load: MemoryLoad,
    link: String,
    vms: u16,
}

/// One move of all VMs.
#[derive(Debug, Clone, Serialize)]
struct Row {
    #[serde(flatten)]
    case: Case,
    mover: &'static str,
    repetition: usize,
    /// All bytes in the VMCT circuit, headers and the way back included.
    bytes: u64,
    /// Ours: pre-copy and stop-and-copy of the slowest VM. Stock: from `migrate` to the last
    /// arrival.
    seconds: f64,
    /// Median over the VMs.
    blackout_ms: f64,
    /// Processor time of the machine during the move.
    busy_s: f64,
    /// Ours only.
    #[serde(flatten)]
    ours: Option<Ours>,
}

/// What only our moves have, all VMs together.
#[derive(Debug, Clone, Serialize)]
struct Ours {
    /// Processor time of both agents.
    agents_s: f64,
    /// Bytes that the VMs' QEMUs wrote.
    stream_bytes: u64,
    /// What of it went unchanged.
    plain: PlainBytes,
    /// Pages by class.
    classes: PageClasses,
}

pub async fn memory(args: MemoryArgs) -> Result<ExitCode, Failure> {
    check(&args)?;
    let measure = async |ctrl_c: &mut Interrupts, rows: &mut Vec<Row>| {
        let scratch = args.out.join("scratch");
        measurement::prepare(&scratch)?;
        let measured = measure(ctrl_c, &args, &scratch, rows).await;
        // What it held was copied from this machine.
        let _ = std::fs::remove_dir_all(&scratch);
        measured
    };
    let rows = measurement::conduct(&args.out, measure, |rows| files(rows)).await?;
    measurement::tell(&args.out, args.json, &rows, || summary(&rows))
}

fn check(args: &MemoryArgs) -> Result<(), Failure> {
    measurement::check_count(
        "repetitions",
        args.reps,
        &REPETITIONS,
        "5 give a median with a spread",
    )?;
    let mut vms = args.vms.iter();
    vms.try_for_each(|vms| measurement::check_count("VMs", *vms, &VMS, "8 fit two cores"))
}

async fn measure(
    ctrl_c: &mut Interrupts,
    args: &MemoryArgs,
    scratch: &Path,
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    for load in args.loads.iter().copied() {
        for LinkSpeed(bits_per_s) in args.links.iter().copied() {
            for &vms in &args.vms {
                let case = Case {
                    load,
                    link: LinkSpeed(bits_per_s).to_string(),
                    vms,
                };
                let what = format!("{} guests, {}, {vms} at once", load.name(), case.link);
                eprintln!("{what}");
                let options = LabUp {
                    insecure: args.insecure,
                    pages_off: args.pages_off.clone(),
                    pages_on: args.pages_on.clone(),
                    owner: Some(std::process::id()),
                    progress: progress(),
                    ..load.lab(vms, bits_per_s, scratch)?
                };
                match one(ctrl_c, &options, &case, args.reps, rows).await {
                    Err(failure) if failure.kind == Kind::Refused => {
                        eprintln!("{what}: not measured, for it was refused: {}", failure.message);
                        down(&options.name, &options.progress).await?;
                    }
                    done => done?,
                }
            }
        }
    }
    Ok(())
}

/// Every way of one case. Ours first of all has to take it: guests that write faster than their
/// share of the link are refused.
async fn one(
    ctrl_c: &mut Interrupts,
    options: &LabUp,
    case: &Case,
    reps: usize,
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    for first in (1..=reps).step_by(2) {
        ours(ctrl_c, options, case, first, rows).await?;
    }
    stock(ctrl_c, options, case, reps, rows).await
}

/// Stock QEMU's ways in turn, so that no way has the machine's better minutes.
async fn stock(
    ctrl_c: &mut Interrupts,
    options: &LabUp,
    case: &Case,
    reps: usize,
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    let mut lab = StockLab::up(options).await?;
    tokio::time::sleep(SETTLE).await;
    for repetition in 1..=reps {
        for mode in StockMode::ALL {
            let moved = unless_interrupted(ctrl_c, lab.move_together(1, mode)).await?;
            let blackouts = moved
                .blackouts
                .iter()
                .map(|blackout| blackout.as_secs_f64() * 1e3);
            rows.push(Row {
                case: case.clone(),
                mover: mode.name(),
                repetition,
                bytes: moved.cost.bytes(Band::Vmct)?,
                seconds: moved.duration.as_secs_f64(),
                blackout_ms: median(blackouts),
                busy_s: moved.cost.busy.as_secs_f64(),
                ours: None,
            });
        }
    }
    down(&options.name, &options.progress).await?;
    Ok(())
}

/// To and fro in a new lab, to hosts that have seen nothing of the cluster; then once more to and
/// fro, to hosts that keep its pages.
async fn ours(
    ctrl_c: &mut Interrupts,
    options: &LabUp,
    case: &Case,
    first: usize,
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    let lab = up(options).await?;
    let client = client::of_lab();
    tokio::time::sleep(SETTLE).await;
    for (mover, repetition, from, to) in [
        (OURS, first, ["h1"], ["h2"]),
        (OURS, first + 1, ["h2"], ["h1"]),
        (OURS_AGAIN, first, ["h1"], ["h2"]),
        (OURS_AGAIN, first + 1, ["h2"], ["h1"]),
    ] {
        let before = Meter::read(&lab)?;
        let report = move_once(
            ctrl_c,
            &client,
            &from,
            &to,
            Some(Batches::Of(usize::from(case.vms))),
        )
        .await?;
        let cost = Meter::read(&lab)?.since(&before);
        let pages = || report.vms.iter().map(|vm| &vm.pages);
        let seconds = report.vms.iter().map(copying_ms).fold(0.0, f64::max) / 1e3;
        rows.push(Row {
            case: case.clone(),
            mover,
            repetition,
            bytes: cost.bytes(Band::Vmct)?,
            seconds,
            blackout_ms: median(report.vms.iter().filter_map(|vm| vm.blackout_ms)),
            busy_s: cost.busy.as_secs_f64(),
            ours: Some(Ours {
                agents_s: cost.agents.as_secs_f64(),
                stream_bytes: pages().map(|pages| pages.transferred.0).sum(),
                plain: pages().fold(PlainBytes::default(), |sum, pages| sum + pages.plain),
                classes: pages().fold(PageClasses::default(), |sum, pages| sum + pages.classes),
            }),
        });
    }
    down(&options.name, &options.progress).await?;
    Ok(())
}

fn copying_ms(vm: &VmReport) -> f64 {
    let copying = |phase| matches!(phase, Phase::PreCopy | Phase::StopAndCopy);
    let times = vm.phases.iter().filter(|time| copying(time.phase));
    times.map(|time| time.ms).sum()
}

fn median(sample: impl IntoIterator<Item = f64>) -> f64 {
    Spread::of(sample).map_or(f64::NAN, |spread| spread.median)
}

/// Cases in the order measured, and of each the movers.
fn kinds(rows: &[Row]) -> Vec<(&Case, &'static str)> {
    let mut kinds: Vec<(&Case, &'static str)> = Vec::new();
    for row in rows {
        if !kinds.contains(&(&row.case, row.mover)) {
            kinds.push((&row.case, row.mover));
        }
    }
    kinds
}

fn megabytes(row: &Row) -> f64 {
    row.bytes as f64 / 1e6
}

fn seconds(row: &Row) -> f64 {
    row.seconds
}

/// Processor seconds of both agents per GB of QEMU's stream; NaN for other movers.
fn agents_per_gb(row: &Row) -> f64 {
    row.ours
        .as_ref()
        .map_or(f64::NAN, |ours| ours.agents_s * 1e9 / ours.stream_bytes as f64)
}

/// Share of QEMU's stream that went unchanged; NaN for other movers.
fn plain_share(row: &Row) -> f64 {
    let share = |ours: &Ours| {
        let plain = ours.plain.named().map(|(_, bytes)| bytes.0).iter().sum::<u64>();
        plain as f64 / ours.stream_bytes as f64
    };
    row.ours.as_ref().map_or(f64::NAN, share)
}

fn summary(rows: &[Row]) -> String {
    let mut table = Table::new(&[
        "LOAD",
        "LINK",
        "VMS",
        "MOVER",
        "MOVES",
        "MB",
        "Q1-Q3",
        "OF STOCK",
        "SECONDS",
        "Q1-Q3",
        "OF STOCK",
        "BLACKOUT ms",
        "BUSY s",
        "AGENTS s/GB",
        "PLAIN",
    ]);
    for (case, mover) in kinds(rows) {
        let of = |mover: &'static str, value: fn(&Row) -> f64| {
            let rows = rows
                .iter()
                .filter(move |row| &row.case == case && row.mover == mover);
            Spread::of(rows.map(value).filter(|value| value.is_finite()))
        };
        let number = |spread: Option<Spread>| spread.map_or("-".to_owned(), |of| format!("{:.2}", of.median));
        let quartiles =
            |spread: Option<Spread>| spread.map_or("-".to_owned(), |of| format!("{:.2}-{:.2}", of.q1, of.q3));
        let ratio = |value: fn(&Row) -> f64| {
            let (own, stock) = (of(mover, value), of(StockMode::Precopy.name(), value));
            own.zip(stock).map_or("-".to_owned(), |(own, stock)| {
                format!("{:.2}", own.median / stock.median)
            })
        };
        table.row([
            case.load.name().to_owned(),
            case.link.clone(),
            case.vms.to_string(),
            mover.to_owned(),
            of(mover, seconds).map_or(0, |spread| spread.count).to_string(),
            number(of(mover, megabytes)),
            quartiles(of(mover, megabytes)),
            ratio(megabytes),
            number(of(mover, seconds)),
            quartiles(of(mover, seconds)),
            ratio(seconds),
            number(of(mover, |row| row.blackout_ms)),
            number(of(mover, |row| row.busy_s)),
            number(of(mover, agents_per_gb)),
            number(of(mover, plain_share)),
        ]);
    }
    table.text()
}

fn csv(rows: &[Row]) -> String {
    let mut text =
        "load,link,vms,mover,repetition,bytes,seconds,blackout_ms,busy_s,agents_s_per_gb,plain_share\n"
            .to_owned();
    for row in rows {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{},{},{},{},{},{},{:.3},{:.3},{:.3},{:.3},{:.3}",
            row.case.load.name(),
            row.case.link,
            row.case.vms,
            row.mover,
            row.repetition,
            row.bytes,
            row.seconds,
            row.blackout_ms,
            row.busy_s,
            agents_per_gb(row),
            plain_share(row)
        );
    }
    text
}

/// Boxes of one figure, each move over the median of stock's precopy in the same case.
fn boxes(rows: &[Row], measure: &str, value: fn(&Row) -> f64) -> Boxes {
    let mut groups = Vec::new();
    for (case, mover) in kinds(rows) {
        let Some((_, color)) = DRAWN.iter().find(|(name, _)| *name == mover) else {
            continue;
        };
        let of = |mover: &'static str| {
            let rows = rows
                .iter()
                .filter(move |row| &row.case == case && row.mover == mover);
            rows.map(value)
        };
        if let Some(stock) = Spread::of(of(StockMode::Precopy.name())) {
            groups.push(Group {
                label: format!("{} {} {}: {mover}", case.load.name(), case.link, case.vms),
                color,
                sample: of(mover).map(|own| own / stock.median).collect(),
            });
        }
    }
    Boxes {
        title: format!("{measure} of a move, beside stock precopy in the same case"),
        x_label: "load, link, VMs at once: mover".to_owned(),
        y_label: "share of stock precopy's median".to_owned(),
        groups,
    }
}

fn files(rows: &[Row]) -> Result<Vec<File>, Failure> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut files = vec![
        ("memory.csv".to_owned(), csv(rows).into_bytes()),
        ("memory.txt".to_owned(), summary(rows).into_bytes()),
    ];
    files.extend(drawn(
        "memory-bytes",
        &boxes(rows, "Bytes on the wire", megabytes),
    )?);
    files.extend(drawn("memory-seconds", &boxes(rows, "Time", seconds))?);
    Ok(files)
}
