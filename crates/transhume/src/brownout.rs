//! `transhume lab brownout`: what guests notice of their own move beside the blackout, with as long
//! without a move before it, and stock QEMU in the same run.

use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use transhume_api::Client;
use transhume_lab::brownout::{Pulses, Row, VmStalls, csv, stalls_csv};
use transhume_lab::plot::{Mover, Spread};
use transhume_lab::stock::{DOWNTIME_MS_TUNED, StockLab};
use transhume_lab::{Figures, Lab, LabUp, Traffic, collect, down, up};
use transhume_model::VmName;
use transhume_protocol::event::Happening;
use transhume_protocol::report::MigrationReport;
use transhume_protocol::step::Phase;

use crate::args::{Batches, BrownoutArgs};
use crate::client;
use crate::failure::Failure;
use crate::follow::Interrupts;
use crate::labs::progress;
use crate::measurement::{self, File, move_once, unless_interrupted};
use crate::table::Table;

const REPETITIONS: RangeInclusive<usize> = 1..=100;
const VMS: RangeInclusive<u16> = 1..=32;
/// Between boot and the first control.
const WARM_UP: Duration = Duration::from_secs(4);
/// As long as a move of so many VMs, one after the other, and no shorter.
const CONTROL_PER_VM: Duration = Duration::from_millis(1500);
/// Between a move and what follows it.
const REST: Duration = Duration::from_secs(2);
const SIDES: [[&str; 2]; 2] = [["h1", "h2"], ["h3", "h4"]];
/// Half of the hosts: the other half is so many places further.
const AWAY: usize = 2;

pub async fn brownout(args: BrownoutArgs) -> Result<ExitCode, Failure> {
    check(&args)?;
    let measure = async |ctrl_c: &mut Interrupts, rows: &mut Vec<Row>| measure(ctrl_c, &args, rows).await;
    let rows = measurement::conduct(&args.out, measure, |rows| Ok(files(rows))).await?;
    measurement::tell(&args.out, args.json, &rows, || summary(&rows))
}

fn check(args: &BrownoutArgs) -> Result<(), Failure> {
    measurement::check_count(
        "repetitions",
        args.reps,
        &REPETITIONS,
        "5 give a median with a spread",
    )?;
    measurement::check_count("VMs", args.vms, &VMS, "6 leave two cores some time of their own")?;
    measurement::check_batches(&args.batch, args.vms)
}

fn options(args: &BrownoutArgs) -> LabUp {
    LabUp {
        hosts: 4,
        vms: args.vms,
        rate: args.rate,
        link_bits_per_s: args.link.0,
        traffic: if args.rate == 0 {
            Traffic::None
        } else {
            Traffic::Mesh
        },
        run: args.run.clone(),
        owner: Some(std::process::id()),
        progress: progress(),
        ..LabUp::default()
    }
}

async fn measure(ctrl_c: &mut Interrupts, args: &BrownoutArgs, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let options = options(args);
    own(ctrl_c, args, &options, rows).await?;
    if !args.without_stock {
        stock(ctrl_c, args, &options, rows).await?;
    }
    Ok(())
}

async fn own(
    ctrl_c: &mut Interrupts,
    args: &BrownoutArgs,
    options: &LabUp,
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    let lab = up(options).await?;
    let client = client::of_lab();
    tokio::time::sleep(WARM_UP).await;
    let all = usize::from(args.vms);
    let batches = args.batch.iter().map(|batch| batch.of(all));
    let moves = (1..=args.reps).flat_map(|number| batches.clone().map(move |batch| (number, batch)));
    for (place, (repetition, batch)) in moves.enumerate() {
        let watch = Watch::begin(ctrl_c, &lab, options).await?;
        unless_interrupted(ctrl_c, control(args.vms)).await?;
        watch
            .end(&lab, rows, None, repetition, |_| Arrival::default())
            .await?;
        let watch = Watch::begin(ctrl_c, &lab, options).await?;
        let [from, to] = [&SIDES[place % 2], &SIDES[(place + 1) % 2]];
        let report = move_once(ctrl_c, &client, from, to, Some(Batches::Of(batch))).await?;
        let stops = stops(&client, &report).await?;
        let arrival = |vm: &VmName| Arrival {
            blackout_ms: report
                .vms
                .iter()
                .find(|row| row.id == *vm)
                .and_then(|row| row.blackout_ms)
                .unwrap_or(0.0),
            stopped_at: stops.iter().find(|(name, _)| name == vm).map(|(_, at)| *at),
        };
        tokio::time::sleep(REST).await;
        watch
            .end(&lab, rows, Some(Mover::Batch(batch)), repetition, arrival)
            .await?;
    }
    down(&options.name, &options.progress).await?;
    Ok(())
}

async fn stock(
    ctrl_c: &mut Interrupts,
    args: &BrownoutArgs,
    options: &LabUp,
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    let mut stock = StockLab::up(options).await?;
    tokio::time::sleep(WARM_UP).await;
    for repetition in 1..=args.reps {
        let watch = Watch::begin(ctrl_c, &stock.lab, options).await?;
        let moves = unless_interrupted(ctrl_c, stock.move_all(AWAY, DOWNTIME_MS_TUNED)).await?;
        let arrival = |vm: &VmName| Arrival {
            blackout_ms: moves
                .iter()
                .find(|moved| moved.vm == *vm)
                .map_or(0.0, |moved| moved.blackout.as_secs_f64() * 1e3),
            stopped_at: None,
        };
        tokio::time::sleep(REST).await;
        watch
            .end(&stock.lab, rows, Some(Mover::StockTuned), repetition, arrival)
            .await?;
    }
    down(&options.name, &options.progress).await?;
    Ok(())
}

async fn control(vms: u16) -> Result<(), Failure> {
    tokio::time::sleep(CONTROL_PER_VM * u32::from(vms) + REST).await;
    Ok(())
}

/// When each VM's source was told to stop it. Of the lab's one clock.
async fn stops(client: &Client, report: &MigrationReport) -> Result<Vec<(VmName, Instant)>, Failure> {
    let (now, wall) = (Instant::now(), SystemTime::now());
    let since_epoch = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut events = client.events(report.migration, 0).await?;
    let mut stops = Vec::new();
    while let Some(event) = events.next().await? {
        if let Happening::PhaseEntered {
            vm,
            phase: Phase::StopAndCopy,
        } = event.what
        {
            let ago = since_epoch.saturating_sub(Duration::from_micros(event.at.0));
            stops.extend(now.checked_sub(ago).map(|at| (vm, at)));
        }
    }
    Ok(stops)
}

/// What became of one VM.
#[derive(Debug, Default)]
struct Arrival {
    blackout_ms: f64,
    stopped_at: Option<Instant>,
}

/// What all guests notice from here on.
struct Watch {
    pulses: Pulses,
    talks: bool,
}

impl Watch {
    /// Counting anew lets the guests' silences begin anew too.
    async fn begin(ctrl_c: &mut Interrupts, lab: &Lab, options: &LabUp) -> Result<Self, Failure> {
        let talks = options.traffic != Traffic::None;
        let begun = async {
            if talks {
                collect(lab, false).await?;
            }
            Pulses::start(lab).await
        };
        let pulses = unless_interrupted(ctrl_c, begun).await?;
        Ok(Watch { pulses, talks })
    }

    async fn end(
        self,
        lab: &Lab,
        rows: &mut Vec<Row>,
        mover: Option<Mover>,
        repetition: usize,
        arrival: impl Fn(&VmName) -> Arrival,
    ) -> Result<(), Failure> {
        let seen = self.pulses.end().await?;
        let figures = match self.talks {
            true => Some(collect(lab, false).await?),
            false => None,
        };
        rows.extend(seen.into_iter().map(|seen| {
            let arrived = arrival(&seen.vm);
            row(seen, mover, repetition, &arrived, figures.as_ref())
        }));
        Ok(())
    }
}

fn row(
    seen: VmStalls,
    mover: Option<Mover>,
    repetition: usize,
    arrived: &Arrival,
    figures: Option<&Figures>,
) -> Row {
    let own = figures.and_then(|figures| figures.vms.iter().find(|row| row.id == seen.vm));
    Row {
        mover,
        repetition,
        gap_ms: own.map(|own| own.gap_ms),
        blackout_ms: arrived.blackout_ms,
        stopped_at_us: arrived.stopped_at.map(|at| seen.on_its_clock(at)),
        vm: seen.vm,
        stalls: seen.stalls,
    }
}

fn files(rows: &[Row]) -> Vec<File> {
    if rows.is_empty() {
        return Vec::new();
    }
    vec![
        ("brownout.csv".to_owned(), csv(rows).into_bytes()),
        ("stalls.csv".to_owned(), stalls_csv(rows).into_bytes()),
        ("summary.txt".to_owned(), summary(rows).into_bytes()),
    ]
}

/// A line for each mover.
fn summary(rows: &[Row]) -> String {
    let mut table = Table::new(&[
        "MOVER",
        "VMS",
        "BLACKOUT ms",
        "GAP ms",
        "Q1-Q3",
        "MAX",
        "STALL ms",
        "Q1-Q3",
        "MAX",
        "STALLS ms",
    ]);
    let mut movers: Vec<Option<Mover>> = rows.iter().map(|row| row.mover).collect();
    movers.sort_unstable();
    movers.dedup();
    for mover in movers {
        let of: Vec<&Row> = rows.iter().filter(|row| row.mover == mover).collect();
        let spread = |value: fn(&Row) -> Option<f64>| Spread::of(of.iter().filter_map(|row| value(row)));
        let median =
            |spread: Option<Spread>| spread.map_or("-".to_owned(), |spread| format!("{:.0}", spread.median));
        let quartiles = |spread: Option<Spread>| {
            spread.map_or("-".to_owned(), |spread| {
                format!("{:.0}-{:.0}", spread.q1, spread.q3)
            })
        };
        let max =
            |spread: Option<Spread>| spread.map_or("-".to_owned(), |spread| format!("{:.0}", spread.max));
        let gap = spread(|row| row.gap_ms.map(|gap| gap as f64));
        let stall = spread(|row| Some(row.stall_ms()));
        table.row([
            of.first().map_or(String::new(), |row| row.mover_name()),
            of.len().to_string(),
            median(spread(|row| Some(row.blackout_ms))),
            median(gap),
            quartiles(gap),
            max(gap),
            median(stall),
            quartiles(stall),
            max(stall),
            median(spread(|row| Some(row.stalls_ms()))),
        ]);
    }
    table.text()
}
