//! Figures 6 and 7: message loss and blackout, Transhume and stock QEMU in turn.

use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::time::Duration;

use transhume_lab::plot::{Figure, Mover, Row, Spread, csv, kinds};
use transhume_lab::stock::{DOWNTIME_MS_DEFAULT, DOWNTIME_MS_TUNED, StockLab};
use transhume_lab::{LabName, LabUp, Traffic, collect, down, up};
use transhume_model::VmName;

use crate::args::{Batches, FiguresArgs, StockArgs};
use crate::client;
use crate::failure::Failure;
use crate::follow::Interrupts;
use crate::labs::{progress, refuse_lab};
use crate::measurement::{self, Account, File, drawn, move_once, unless_interrupted};
use crate::moves::print_json;
use crate::table::Table;

/// The largest of Ethernet, and the least that IPv4 allows (the paper says 64).
const MTUS: [u16; 2] = [1500, 68];
/// Moves of each mover before the other has its turn.
const BLOCK: usize = 4;
const HOSTS: u16 = 4;
/// Half of the hosts: the other half is so many places further.
const AWAY: usize = 2;
const VMS: RangeInclusive<u16> = 2..=64;
/// Traffic before the first move of a block.
pub const WARM_UP: Duration = Duration::from_secs(2);
const REPETITIONS_DEFAULT: usize = 20;

/// The lab of figures 6 and 7; also of 9.
pub fn options(vms: u16, rate: u32, mtu: u16) -> LabUp {
    LabUp {
        hosts: HOSTS,
        vms,
        rate,
        mtu,
        traffic: Traffic::Mesh,
        owner: Some(std::process::id()),
        progress: progress(),
        ..LabUp::default()
    }
}

/// Refuses what cannot be measured; also for what else moves such a cluster.
pub fn check(args: &FiguresArgs) -> Result<(), Failure> {
    let hint = "they talk to each other: 4 to 8 fit two cores";
    measurement::check_count("VMs", args.vms, &VMS, hint)?;
    measurement::check_batches(&args.batch, args.vms)
}

/// Blocks of stock QEMU and of Transhume, in turn.
pub async fn measure(
    ctrl_c: &mut Interrupts,
    args: &FiguresArgs,
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    let all = usize::from(args.vms);
    let reps = args.reps.unwrap_or(REPETITIONS_DEFAULT);
    let batches = match args.batch.is_empty() {
        true => vec![1, all],
        false => args.batch.iter().map(|batch| batch.of(all)).collect(),
    };
    for mtu in MTUS {
        let mut done = 0;
        while done < reps {
            let block = BLOCK.min(reps - done);
            eprintln!(
                "MTU {mtu}, repetitions {} to {} of {}",
                done + 1,
                done + block,
                reps
            );
            let options = options(args.vms, args.rate(), mtu);
            if !args.without_stock {
                stock_block(ctrl_c, &options, done, block, rows).await?;
            }
            own_block(ctrl_c, &options, &batches, done, block, rows).await?;
            done += block;
        }
    }
    Ok(())
}

async fn stock_block(
    ctrl_c: &mut Interrupts,
    options: &LabUp,
    first: usize,
    count: usize,
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    let mut stock = StockLab::up(options).await?;
    tokio::time::sleep(WARM_UP).await;
    let mut before = collect(&stock.lab, false).await?;
    for (mover, downtime_ms) in [
        (Mover::Stock, DOWNTIME_MS_DEFAULT),
        (Mover::StockTuned, DOWNTIME_MS_TUNED),
    ] {
        for number in first..first + count {
            let moves = unless_interrupted(ctrl_c, stock.move_all(AWAY, downtime_ms)).await?;
            let after = collect(&stock.lab, false).await?;
            for moved in moves {
                let blackout_ms = moved.blackout.as_secs_f64() * 1e3;
                let vm = Account::between(&before, &after, |row| row.id == moved.vm);
                rows.push(row(
                    vm,
                    mover,
                    options.mtu,
                    number + 1,
                    moved.vm,
                    blackout_ms,
                    None,
                ));
            }
            before = after;
        }
    }
    down(&options.name, &options.progress).await?;
    Ok(())
}

async fn own_block(
    ctrl_c: &mut Interrupts,
    options: &LabUp,
    batches: &[usize],
    first: usize,
    count: usize,
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    let lab = up(options).await?;
    let client = client::of_lab();
    tokio::time::sleep(WARM_UP).await;
    let mut before = collect(&lab, false).await?;
    let sides = [["h1", "h2"], ["h3", "h4"]];
    let moves = batches
        .iter()
        .flat_map(|&batch| (first..first + count).map(move |number| (batch, number)));
    for (place, (batch, number)) in moves.enumerate() {
        let mover = Mover::Batch(batch);
        let report = move_once(
            ctrl_c,
            &client,
            &sides[place % 2],
            &sides[(place + 1) % 2],
            Some(Batches::Of(batch)),
        )
        .await?;
        let after = collect(&lab, false).await?;
        for vm in report.vms {
            let ours = vm
                .blackout_parts
                .map(|parts| parts.capture_ms + parts.commit_ms + parts.resume_ms);
            let counted = Account::between(&before, &after, |row| row.id == vm.id);
            let blackout_ms = vm.blackout_ms.unwrap_or(0.0);
            rows.push(row(
                counted,
                mover,
                options.mtu,
                number + 1,
                vm.id,
                blackout_ms,
                ours,
            ));
        }
        before = after;
    }
    down(&options.name, &options.progress).await?;
    Ok(())
}

fn row(
    counted: Account,
    mover: Mover,
    mtu: u16,
    repetition: usize,
    vm: VmName,
    blackout_ms: f64,
    ours_ms: Option<f64>,
) -> Row {
    Row {
        mover,
        mtu,
        repetition,
        vm,
        lost: counted.lost,
        duplicated: counted.duplicated,
        reordered: counted.reordered,
        blackout_ms,
        ours_ms,
    }
}

/// A line for each mover and MTU.
pub fn summary(rows: &[Row]) -> String {
    let mut table = Table::new(&[
        "MOVER",
        "MTU",
        "MOVES",
        "LOST",
        "DUPLICATED",
        "REORDERED",
        "LOST/MOVE",
        "BLACKOUT ms",
        "Q1-Q3",
        "OURS ms",
    ]);
    for (mover, mtu) in kinds(rows) {
        let of: Vec<&Row> = rows
            .iter()
            .filter(|row| row.mover == mover && row.mtu == mtu)
            .collect();
        let sum = |count: fn(&Row) -> u64| of.iter().map(|row| count(row)).sum::<u64>().to_string();
        let loss = Spread::of(Figure::Loss.sample(rows, mover, mtu));
        let blackout = Spread::of(Figure::Blackout.sample(rows, mover, mtu));
        let ours = Spread::of(of.iter().filter_map(|row| row.ours_ms));
        let number =
            |spread: Option<Spread>| spread.map_or("-".to_owned(), |spread| format!("{:.1}", spread.median));
        table.row([
            mover.name(),
            mtu.to_string(),
            loss.map_or(0, |loss| loss.count).to_string(),
            sum(|row| row.lost),
            sum(|row| row.duplicated),
            sum(|row| row.reordered),
            number(loss),
            number(blackout),
            blackout.map_or("-".to_owned(), |spread| {
                format!("{:.1}-{:.1}", spread.q1, spread.q3)
            }),
            number(ours),
        ]);
    }
    table.text()
}

/// The files of the figures wanted.
pub fn files(rows: &[Row], wanted: &[u8]) -> Result<Vec<File>, Failure> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut files = vec![
        ("figures.csv".to_owned(), csv(rows).into_bytes()),
        ("summary.txt".to_owned(), summary(rows).into_bytes()),
    ];
    for (number, figure) in [(6, Figure::Loss), (7, Figure::Blackout)] {
        if wanted.contains(&number) {
            files.extend(drawn(&format!("figure-{number}"), &figure.boxes(rows))?);
        }
    }
    Ok(files)
}

/// One move of the same cluster by stock QEMU, for comparison.
pub async fn stock(args: StockArgs) -> Result<ExitCode, Failure> {
    refuse_lab("comparison").await?;
    let mut rows = Vec::new();
    let mut ctrl_c = Interrupts::listen()?;
    let done = stock_block(
        &mut ctrl_c,
        &options(args.vms, args.rate, args.mtu),
        0,
        1,
        &mut rows,
    )
    .await;
    if done.is_err() {
        down(&LabName::default(), &progress()).await?;
    }
    done?;
    if args.json {
        return print_json(&rows);
    }
    println!("the same cluster by stock QEMU, one VM after the other:");
    print!("{}", summary(&rows));
    Ok(ExitCode::SUCCESS)
}
