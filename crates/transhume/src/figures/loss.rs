//! Figures 6 and 7: message loss and blackout, Transhume and stock QEMU in turn.

use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::time::Duration;

use transhume_lab::plot::{Figure, Mover, Row, Spread, csv, kinds, of_by_hand};
use transhume_lab::stock::{DOWNTIME_MS_DEFAULT, DOWNTIME_MS_TUNED, HandMove, HandRow, StockLab, hand_csv};
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

/// What figures 6 and 7 are made of.
#[derive(Debug, Default)]
pub struct Loss {
    /// Every VM of every move.
    pub rows: Vec<Row>,
    /// Where the blackouts of the moves by hand went.
    pub by_hand: Vec<HandRow>,
}

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
    measured: &mut Loss,
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
                stock_block(ctrl_c, &options, &batches, done, block, measured).await?;
            }
            own_block(ctrl_c, &options, &batches, done, block, &mut measured.rows).await?;
            done += block;
        }
    }
    Ok(())
}

/// One after the other as people do it, then in these batches by hand.
async fn stock_block(
    ctrl_c: &mut Interrupts,
    options: &LabUp,
    batches: &[usize],
    first: usize,
    count: usize,
    measured: &mut Loss,
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
                measured.rows.push(row(
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
    for &k in batches {
        for number in first..first + count {
            let moves = unless_interrupted(ctrl_c, stock.move_by_hand(AWAY, k)).await?;
            let after = collect(&stock.lab, false).await?;
            for moved in moves {
                let vm = Account::between(&before, &after, |row| row.id == moved.vm);
                measured.rows.push(row(
                    vm,
                    Mover::ByHand(k),
                    options.mtu,
                    number + 1,
                    moved.vm.clone(),
                    moved.blackout_ms(),
                    None,
                ));
                measured.by_hand.push(HandRow {
                    k,
                    mtu: options.mtu,
                    repetition: number + 1,
                    moved,
                });
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

/// A line for each mover and MTU, and one for the parts of each batch by hand.
pub fn summary(measured: &Loss) -> String {
    let rows = &measured.rows;
    // Without them, as beside the demo, there is nothing to compare with.
    let is_compared = rows.iter().any(|row| matches!(row.mover, Mover::ByHand(_)));
    let mut head = vec![
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
    ];
    head.extend(is_compared.then_some("OF BY HAND"));
    let mut table = Table::new(&head);
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
        let of_by_hand = match mover {
            Mover::Batch(k) => of_by_hand(rows, k, mtu),
            Mover::Stock | Mover::StockTuned | Mover::ByHand(_) => None,
        };
        let mut cells = vec![
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
        ];
        cells.extend(is_compared.then(|| of_by_hand.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"))));
        table.row(cells);
    }
    table.text() + &parts(&measured.by_hand)
}

/// Medians of the parts of a blackout by hand; nothing where none was measured.
fn parts(rows: &[HandRow]) -> String {
    let mut kinds: Vec<(std::cmp::Reverse<u16>, usize)> = rows
        .iter()
        .map(|row| (std::cmp::Reverse(row.mtu), row.k))
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.is_empty() {
        return String::new();
    }
    let [memory, state, wait, resume] = HandMove::PARTS.map(|part| format!("{} ms", part.to_uppercase()));
    let mut table = Table::new(&[
        "BY HAND",
        "MTU",
        "VMS",
        &memory,
        &state,
        &wait,
        &resume,
        "CONT ANSWERED ms",
        "SOURCE COMPLETED ms",
        "BATCH ms",
    ]);
    for (std::cmp::Reverse(mtu), k) in kinds {
        let of: Vec<&HandMove> = rows
            .iter()
            .filter(|row| row.mtu == mtu && row.k == k)
            .map(|row| &row.moved)
            .collect();
        let median = |value: &dyn Fn(&HandMove) -> f64| {
            let spread = Spread::of(of.iter().map(|moved| value(moved)));
            spread.map_or("-".to_owned(), |spread| format!("{:.1}", spread.median))
        };
        let part = |part: usize| median(&|moved| moved.parts_ms()[part]);
        table.row([
            format!("k = {k}"),
            mtu.to_string(),
            of.len().to_string(),
            part(0),
            part(1),
            part(2),
            part(3),
            median(&HandMove::cont_ms),
            median(&HandMove::source_ms),
            median(&|moved| moved.batch_ms),
        ]);
    }
    table.text()
}

/// The files of the figures wanted.
pub fn files(measured: &Loss, wanted: &[u8]) -> Result<Vec<File>, Failure> {
    let rows = &measured.rows;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut files = vec![
        ("figures.csv".to_owned(), csv(rows).into_bytes()),
        ("summary.txt".to_owned(), summary(measured).into_bytes()),
    ];
    if !measured.by_hand.is_empty() {
        let parts = hand_csv(&measured.by_hand).into_bytes();
        files.push(("by-hand.csv".to_owned(), parts));
    }
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
    let mut measured = Loss::default();
    let mut ctrl_c = Interrupts::listen()?;
    let done = stock_block(
        &mut ctrl_c,
        &options(args.vms, args.rate, args.mtu),
        &[],
        0,
        1,
        &mut measured,
    )
    .await;
    if done.is_err() {
        down(&LabName::default(), &progress()).await?;
    }
    done?;
    if args.json {
        return print_json(&measured.rows);
    }
    outln!("the same cluster by stock QEMU, one VM after the other:");
    out!("{}", summary(&measured));
    Ok(ExitCode::SUCCESS)
}
