//! `transhume lab figures`: message loss and blackout, beside stock QEMU, in one run. See
//! docs/design/figures.md.

use std::path::Path;
use std::process::ExitCode;

use transhume_api::{Client, MoveOrder};
use transhume_lab::boxes::Boxes;
use transhume_lab::plot::{Figure, Mover, Row, Spread, csv, kinds};
use transhume_lab::stock::{DOWNTIME_MS_DEFAULT, DOWNTIME_MS_TUNED, StockLab, accelerator};
use transhume_lab::{Figures, LabName, LabUp, Traffic, collect, down, up};
use transhume_protocol::report::{Ending, MigrationReport};

use crate::args::{FiguresArgs, StockArgs};
use crate::client;
use crate::clusters::cluster_name;
use crate::failure::{Failure, Kind};
use crate::follow;
use crate::labs::{progress, refuse_lab};
use crate::machine;
use crate::moves::print_json;
use crate::table::Table;

/// The largest of Ethernet, and the least that IPv4 allows (the paper says 64).
const MTUS: [u16; 2] = [1500, 68];
/// Moves of each mover before the other has its turn.
const BLOCK: usize = 4;
const HOSTS: u16 = 4;
/// Half of the hosts: the other half is so many places further.
const AWAY: usize = 2;
const REPETITIONS: std::ops::RangeInclusive<usize> = 1..=200;
const VMS: std::ops::RangeInclusive<u16> = 2..=64;
/// Traffic before the first move of a block.
const WARM_UP: std::time::Duration = std::time::Duration::from_secs(2);

fn options(vms: u16, rate: u32, mtu: u16) -> LabUp {
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

pub async fn figures(args: FiguresArgs) -> Result<ExitCode, Failure> {
    let wanted = wanted(&args)?;
    refuse_lab("measurement").await?;
    std::fs::create_dir_all(&args.out)
        .map_err(|error| Failure::other(format!("cannot create {}: {error}", args.out.display())))?;
    let mut rows = Vec::new();
    let measured = measure(&args, &mut rows).await;
    // Nothing stays, whatever happened; what was measured is written.
    let removed = down(&LabName::default(), &progress()).await;
    let machine = machine::description(accelerator(&options(args.vms, args.rate, MTUS[0])).await?);
    write(&args.out, &wanted, &rows, &machine)?;
    measured?;
    removed?;
    if args.json {
        return print_json(&rows);
    }
    print!("{}", summary(&rows));
    println!("written to {}", args.out.display());
    Ok(ExitCode::SUCCESS)
}

/// Refuses what cannot be measured.
fn wanted(args: &FiguresArgs) -> Result<Vec<(u8, Figure)>, Failure> {
    let refused = |message: String, hint: &str| Err(Failure::new(Kind::Refused, message, hint));
    if !REPETITIONS.contains(&args.reps) {
        return refused(
            format!("{} repetitions are not between 1 and 200", args.reps),
            "20 give a good picture",
        );
    }
    if !VMS.contains(&args.vms) {
        return refused(
            format!("{} VMs are not between 2 and 64", args.vms),
            "they talk to each other: 4 to 8 fit two cores",
        );
    }
    if let Some(batch) = args
        .batch
        .iter()
        .find(|batch| !(1..=usize::from(args.vms)).contains(*batch))
    {
        return refused(
            format!("a batch of {batch} is not between 1 and {}", args.vms),
            "k is at most the number of VMs",
        );
    }
    let figure = |number: &u8| match number {
        6 => Ok((6, Figure::Loss)),
        7 => Ok((7, Figure::Blackout)),
        other => Err(Failure::new(
            Kind::Refused,
            format!("figure {other} is not drawn"),
            "6 is message loss, 7 is blackout",
        )),
    };
    match args.figures.is_empty() {
        true => Ok(vec![(6, Figure::Loss), (7, Figure::Blackout)]),
        false => args.figures.iter().map(figure).collect(),
    }
}

async fn measure(args: &FiguresArgs, rows: &mut Vec<Row>) -> Result<(), Failure> {
    let all = usize::from(args.vms);
    let batches = match args.batch.is_empty() {
        true => vec![1, all],
        false => args.batch.clone(),
    };
    for mtu in MTUS {
        let mut done = 0;
        while done < args.reps {
            let block = BLOCK.min(args.reps - done);
            eprintln!(
                "MTU {mtu}, repetitions {} to {} of {}",
                done + 1,
                done + block,
                args.reps
            );
            let options = options(args.vms, args.rate, mtu);
            if !args.without_stock {
                stock_block(&options, done, block, rows).await?;
            }
            own_block(&options, &batches, done, block, rows).await?;
            done += block;
        }
    }
    Ok(())
}

async fn stock_block(
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
            let moves = stock.move_all(AWAY, downtime_ms).await?;
            let after = collect(&stock.lab, false).await?;
            for moved in moves {
                let blackout_ms = moved.blackout.as_secs_f64() * 1e3;
                let vm = Counted::between(&before, &after, moved.vm.as_str());
                rows.push(vm.row(mover, options.mtu, number + 1, moved.vm, blackout_ms, None));
            }
            before = after;
        }
    }
    down(&options.name, &options.progress).await?;
    Ok(())
}

async fn own_block(
    options: &LabUp,
    batches: &[usize],
    first: usize,
    count: usize,
    rows: &mut Vec<Row>,
) -> Result<(), Failure> {
    let lab = up(options).await?;
    let client = client::of_lab()?;
    tokio::time::sleep(WARM_UP).await;
    let mut before = collect(&lab, false).await?;
    let sides = [["h1", "h2"], ["h3", "h4"]];
    let moves = batches
        .iter()
        .flat_map(|&batch| (first..first + count).map(move |number| (batch, number)));
    for (place, (batch, number)) in moves.enumerate() {
        let mover = Mover::Batch(batch);
        let report = move_once(&client, &sides[place % 2], &sides[(place + 1) % 2], batch).await?;
        let after = collect(&lab, false).await?;
        for vm in report.vms {
            let ours = vm
                .blackout_parts
                .map(|parts| parts.capture_ms + parts.commit_ms + parts.resume_ms);
            let counted = Counted::between(&before, &after, vm.id.as_str());
            let blackout_ms = vm.blackout_ms.unwrap_or(0.0);
            rows.push(counted.row(mover, options.mtu, number + 1, vm.id, blackout_ms, ours));
        }
        before = after;
    }
    down(&options.name, &options.progress).await?;
    Ok(())
}

/// Moves the lab's cluster and waits for the end.
pub async fn move_once(
    client: &Client,
    from: &[&str],
    to: &[&str],
    batch: usize,
) -> Result<MigrationReport, Failure> {
    let order = MoveOrder {
        from: from.iter().map(ToString::to_string).collect(),
        to: to.iter().map(ToString::to_string).collect(),
        batch: Some(batch),
        ..MoveOrder::default()
    };
    let cluster = cluster_name("lab")?;
    let migration = client.migrate(&cluster, &order).await?;
    let report = follow::follow(client, migration, true, follow::Interrupts::listen()?).await?;
    match report.outcome {
        Ending::Committed => Ok(report),
        other => Err(Failure::other(format!(
            "migration {migration} ended as {other:?}: {:?}",
            report.trouble
        ))),
    }
}

/// What one VM missed between two accounts.
struct Counted {
    lost: u64,
    duplicated: u64,
    reordered: u64,
}

impl Counted {
    fn between(before: &Figures, after: &Figures, vm: &str) -> Self {
        let find = |figures: &Figures| figures.vms.iter().find(|row| row.id.as_str() == vm).cloned();
        let difference = |of: fn(&transhume_lab::VmFigures) -> u64| {
            let count = |figures| find(figures).map_or(0, |row| of(&row));
            count(after).saturating_sub(count(before))
        };
        Self {
            lost: difference(|row| row.lost),
            duplicated: difference(|row| row.duplicated),
            reordered: difference(|row| row.reordered),
        }
    }

    fn row(
        self,
        mover: Mover,
        mtu: u16,
        repetition: usize,
        vm: transhume_model::VmName,
        blackout_ms: f64,
        ours_ms: Option<f64>,
    ) -> Row {
        Row {
            mover,
            mtu,
            repetition,
            vm,
            lost: self.lost,
            duplicated: self.duplicated,
            reordered: self.reordered,
            blackout_ms,
            ours_ms,
        }
    }
}

fn summary(rows: &[Row]) -> String {
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

fn write(out: &Path, wanted: &[(u8, Figure)], rows: &[Row], machine: &str) -> Result<(), Failure> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut files = vec![
        ("figures.csv".to_owned(), csv(rows).into_bytes()),
        ("machine.txt".to_owned(), machine.as_bytes().to_vec()),
        ("summary.txt".to_owned(), summary(rows).into_bytes()),
    ];
    for (number, figure) in wanted {
        files.extend(drawn(&format!("figure-{number}"), &figure.boxes(rows))?);
    }
    for (name, content) in files {
        let path = out.join(name);
        std::fs::write(&path, content)
            .map_err(|error| Failure::other(format!("cannot write {}: {error}", path.display())))?;
    }
    Ok(())
}

/// A drawing's two files.
pub fn drawn(name: &str, boxes: &Boxes) -> Result<[(String, Vec<u8>); 2], Failure> {
    let png = boxes
        .png()
        .map_err(|error| Failure::other(format!("cannot draw {name}: {error}")))?;
    Ok([
        (format!("{name}.svg"), boxes.svg().into_bytes()),
        (format!("{name}.png"), png),
    ])
}

/// One move of the same cluster by stock QEMU, for comparison.
pub async fn stock(args: StockArgs) -> Result<ExitCode, Failure> {
    refuse_lab("comparison").await?;
    let mut rows = Vec::new();
    let done = stock_block(&options(args.vms, args.rate, args.mtu), 0, 1, &mut rows).await;
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
