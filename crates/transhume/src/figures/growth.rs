//! Figure 8: the time to move a whole cluster, by its VMs and their memory.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Instant;

use transhume_lab::growth::{ClusterMove, Way, by_memory, by_way, csv, memories};
use transhume_lab::plot::Spread;
use transhume_lab::stock::{DOWNTIME_MS_DEFAULT, StockLab, StockMode};
use transhume_lab::{Figures, Lab, LabUp, Profile, collect, down, renew, up};
use transhume_model::{Mebibytes, Vcpus};
use transhume_protocol::report::MigrationReport;

use super::loss::WARM_UP;
use crate::args::{Batches, FiguresArgs, LinkSpeed};
use crate::client;
use crate::failure::Failure;
use crate::follow::Interrupts;
use crate::labs::progress;
use crate::measurement::{self, Account, File, drawn, move_once, unless_interrupted};
use crate::table::Table;

const REPETITIONS_DEFAULT: usize = 3;
const VMS: RangeInclusive<u16> = 1..=64;
/// The least that a guest boots with, and what 40 guests leave of a machine.
const MEMORY_MIB: RangeInclusive<u64> = 80..=1024;
/// The hosts of the paper's testbed that are left, and those gone to.
const SIDES: [[&str; 4]; 2] = [["h1", "h2", "h3", "h4"], ["h5", "h6", "h7", "h8"]];
/// Larger clusters people do not move with loops, and two cores do not carry.
const STOCK_VMS_MAX: u16 = 10;

/// What guests do whose cluster is unequal, by the last digit of their names: MiB that they go
/// through again and again, and MiB a second.
const UNEQUAL_LOADS: &str = "case $(hostname) in
*2|*6) /init load compressible 16 4 ;;
*4) /init load random 8 1 ;;
*8) /init load random 16 3 ;;
esac";

/// Refuses what cannot be measured.
pub fn check(args: &FiguresArgs) -> Result<(), Failure> {
    for vms in &args.vm_counts {
        measurement::check_count("VMs", *vms, &VMS, "40 as in the paper fit two cores")?;
    }
    for size in &args.memory_mib {
        measurement::check_count("MiB", *size, &MEMORY_MIB, "a guest boots with 80 MiB")?;
    }
    Ok(())
}

/// The paper's testbed with so many VMs. A host holds its share and no more: a cluster that is
/// packed onto fewer hosts has fewer links than the one that a loop moves.
fn options(args: &FiguresArgs, vms: u16, memory: Mebibytes) -> LabUp {
    let testbed = Profile::Paper.options();
    let share = u64::from(vms.div_ceil(testbed.hosts / 2));
    let LinkSpeed(link_bits_per_s) = args.link;
    LabUp {
        vms,
        memory,
        host_vcpus: Some(Vcpus(share)),
        host_memory: Some(Mebibytes(share * memory.0)),
        link_bits_per_s,
        rate: args.rate.unwrap_or(testbed.rate),
        owner: Some(std::process::id()),
        progress: progress(),
        ..testbed
    }
}

pub async fn measure(
    ctrl_c: &mut Interrupts,
    args: &FiguresArgs,
    moves: &mut Vec<ClusterMove>,
) -> Result<(), Failure> {
    let reps = args.reps.unwrap_or(REPETITIONS_DEFAULT);
    for &vms in &args.vm_counts {
        if args.unequal {
            let options = unequal(args, vms);
            eprintln!("{vms} unequal VMs: {reps} moves each way");
            both(ctrl_c, args, &options, reps, moves).await?;
            continue;
        }
        for memory in args.memory_mib.iter().copied().map(Mebibytes) {
            let options = options(args, vms, memory);
            eprintln!("{vms} VMs of {} MiB: {reps} moves each way", memory.0);
            both(ctrl_c, args, &options, reps, moves).await?;
        }
    }
    Ok(())
}

async fn both(
    ctrl_c: &mut Interrupts,
    args: &FiguresArgs,
    options: &LabUp,
    reps: usize,
    moves: &mut Vec<ClusterMove>,
) -> Result<(), Failure> {
    ours(ctrl_c, options, reps, moves).await?;
    if options.vms <= STOCK_VMS_MAX && !args.without_stock {
        stock(ctrl_c, options, reps, moves).await?;
    }
    Ok(())
}

/// Memory in turn from the sizes that were named, and every second VM rewrites some of it.
fn unequal(args: &FiguresArgs, vms: u16) -> LabUp {
    let sizes: Vec<Mebibytes> = args.memory_mib.iter().copied().map(Mebibytes).collect();
    let largest = sizes.iter().max().copied().unwrap_or(Mebibytes(0));
    let mean = sizes.iter().map(|size| size.0).sum::<u64>() / sizes.len().max(1) as u64;
    LabUp {
        memory: Mebibytes(mean),
        memory_in_turn: sizes,
        run: Some(UNEQUAL_LOADS.to_owned()),
        ..options(args, vms, largest)
    }
}

/// The ways in turn, another one first each time, so that none has the machine's better minutes.
fn in_turn<const N: usize>(ways: [Way; N], reps: usize) -> impl Iterator<Item = (usize, Way)> {
    (0..reps).flat_map(move |number| {
        let mut order = ways;
        order.rotate_left(number % N);
        order.map(|way| (number + 1, way))
    })
}

/// Before each move agents and coordinator are new: no host knows pages of an earlier one.
async fn ours(
    ctrl_c: &mut Interrupts,
    options: &LabUp,
    reps: usize,
    moves: &mut Vec<ClusterMove>,
) -> Result<(), Failure> {
    let mut lab = up(options).await?;
    let client = client::of_lab();
    tokio::time::sleep(WARM_UP).await;
    for (place, (repetition, way)) in in_turn(Way::OURS, reps).enumerate() {
        let told = LabUp {
            links_told: way != Way::Parallel,
            ..options.clone()
        };
        lab = renew(lab, &told).await?;
        let before = collect(&lab, false).await?;
        let batch = match way {
            Way::Serial => Some(Batches::Of(1)),
            Way::Parallel => Some(Batches::Of(usize::from(options.vms))),
            Way::Auto => Some(Batches::Auto { max: None }),
            Way::Governed | Way::StockSerial | Way::StockParallel => None,
        };
        let report = move_once(ctrl_c, &client, &SIDES[place % 2], &SIDES[(place + 1) % 2], batch).await?;
        let blackouts = report.vms.iter().filter_map(|vm| vm.blackout_ms);
        let moved = Moved {
            way,
            batch: report.batch,
            repetition,
            seconds: report.duration_ms / 1e3,
            blackout_ms_worst: blackouts.fold(0.0, f64::max),
            ready_spread: ready_spread(&report),
        };
        moves.push(moved.counted(options, &lab, &before).await?);
    }
    down(&options.name, &options.progress).await?;
    Ok(())
}

async fn stock(
    ctrl_c: &mut Interrupts,
    options: &LabUp,
    reps: usize,
    moves: &mut Vec<ClusterMove>,
) -> Result<(), Failure> {
    let mut stock = StockLab::up(options).await?;
    tokio::time::sleep(WARM_UP).await;
    let away = SIDES[0].len();
    for (repetition, way) in in_turn(Way::STOCK, reps) {
        let before = collect(&stock.lab, false).await?;
        let begun = Instant::now();
        let (batch, blackouts) = match way {
            Way::StockSerial => {
                let moved = unless_interrupted(ctrl_c, stock.move_all(away, DOWNTIME_MS_DEFAULT)).await?;
                (1, moved.iter().map(|vm| vm.blackout).collect::<Vec<_>>())
            }
            _ => {
                let moved = unless_interrupted(ctrl_c, stock.move_together(away, StockMode::Precopy)).await?;
                (usize::from(options.vms), moved.blackouts)
            }
        };
        let moved = Moved {
            way,
            batch,
            repetition,
            seconds: begun.elapsed().as_secs_f64(),
            blackout_ms_worst: blackouts
                .iter()
                .map(|of| of.as_secs_f64() * 1e3)
                .fold(0.0, f64::max),
            ready_spread: None,
        };
        moves.push(moved.counted(options, &stock.lab, &before).await?);
    }
    down(&options.name, &options.progress).await?;
    Ok(())
}

/// See [`ClusterMove::ready_spread`].
fn ready_spread(report: &MigrationReport) -> Option<f64> {
    let mut batches: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for vm in &report.vms {
        batches.entry(vm.batch).or_default().extend(vm.ready_ms);
    }
    let spread = |ready: &Vec<f64>| {
        let (first, last) = ready.iter().fold((f64::INFINITY, 0.0_f64), |(first, last), ms| {
            (first.min(*ms), last.max(*ms))
        });
        (ready.len() > 1 && last > 0.0).then(|| (last - first) / last)
    };
    batches.values().filter_map(spread).reduce(f64::max)
}

/// A move before its guests were asked.
struct Moved {
    way: Way,
    batch: usize,
    repetition: usize,
    seconds: f64,
    blackout_ms_worst: f64,
    ready_spread: Option<f64>,
}

impl Moved {
    async fn counted(self, options: &LabUp, lab: &Lab, before: &Figures) -> Result<ClusterMove, Failure> {
        let counted = Account::between(before, &collect(lab, false).await?, |_| true);
        Ok(ClusterMove {
            vms: options.vms,
            memory_mib: options.memory,
            ready_spread: self.ready_spread,
            way: self.way,
            batch: self.batch,
            repetition: self.repetition,
            seconds: self.seconds,
            blackout_ms_worst: self.blackout_ms_worst,
            lost: counted.lost,
            duplicated: counted.duplicated,
            reordered: counted.reordered,
        })
    }
}

/// Medians, a line for each number, memory and way.
pub fn summary(moves: &[ClusterMove]) -> String {
    let mut table = Table::new(&[
        "VMS",
        "MIB",
        "MOVER",
        "MOVES",
        "SECONDS",
        "MIN-MAX",
        "WORST BLACKOUT ms",
        "READY WITHIN",
        "LOST",
        "DUPLICATED",
        "REORDERED",
    ]);
    let mut kinds: Vec<_> = moves
        .iter()
        .map(|row| (row.vms, row.memory_mib, row.way))
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    for (vms, memory, way) in kinds {
        let of: Vec<&ClusterMove> = moves
            .iter()
            .filter(|row| (row.vms, row.memory_mib, row.way) == (vms, memory, way))
            .collect();
        let Some(seconds) = Spread::of(of.iter().map(|row| row.seconds)) else {
            continue;
        };
        let sum = |count: fn(&ClusterMove) -> u64| of.iter().map(|row| count(row)).sum::<u64>().to_string();
        let blackout = of.iter().map(|row| row.blackout_ms_worst).fold(0.0, f64::max);
        table.row([
            vms.to_string(),
            memory.0.to_string(),
            way.name().to_owned(),
            seconds.count.to_string(),
            format!("{:.2}", seconds.median),
            format!("{:.2}-{:.2}", seconds.min, seconds.max),
            format!("{blackout:.1}"),
            Spread::of(of.iter().filter_map(|row| row.ready_spread))
                .map_or("-".to_owned(), |spread| format!("{:.0} %", spread.median * 100.0)),
            sum(|row| row.lost),
            sum(|row| row.duplicated),
            sum(|row| row.reordered),
        ]);
    }
    table.text()
}

/// The table, the picture as the paper has it, and one for each size of memory with every way.
pub fn files(moves: &[ClusterMove]) -> Result<Vec<File>, Failure> {
    if moves.is_empty() {
        return Ok(Vec::new());
    }
    let mut files = vec![
        ("figure-8.csv".to_owned(), csv(moves).into_bytes()),
        ("figure-8.txt".to_owned(), summary(moves).into_bytes()),
    ];
    // A line needs two points.
    if moves.iter().all(|row| row.vms == moves[0].vms) {
        return Ok(files);
    }
    let all = by_memory(moves);
    files.extend(drawn("figure-8", &all)?);
    for memory in memories(moves) {
        files.extend(drawn(
            &format!("figure-8-{}mib", memory.0),
            &by_way(moves, memory),
        )?);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_first_once() {
        let order: Vec<(usize, Way)> = in_turn(Way::OURS, 4).collect();
        let first: Vec<Way> = order.iter().step_by(4).map(|(_, way)| *way).collect();
        assert_eq!(first, Way::OURS);
        for way in Way::OURS {
            let numbers: Vec<usize> = order
                .iter()
                .filter(|(_, of)| *of == way)
                .map(|(n, _)| *n)
                .collect();
            assert_eq!(numbers, [1, 2, 3, 4]);
        }
    }
}
