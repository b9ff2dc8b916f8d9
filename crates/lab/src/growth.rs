//! How the time to move a whole cluster grows with its VMs and their memory (§4.3, figure 8): a row
//! for each move, a CSV, lines. Pure but for the strings.

use std::fmt::Write;

use serde::Serialize;
use transhume_model::Mebibytes;

use crate::lines::{Line, Lines};
use crate::plot::Spread;

/// How a whole cluster is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Transhume, k = 1: one VM after the other.
    Serial,
    /// Transhume, k = N, by a coordinator that does not know what the links carry: no rates are
    /// set, the page streams share the links as TCP does.
    Parallel,
    /// Transhume as it comes: the coordinator chooses k and sets each stream's rate.
    Governed,
    /// The same with `--batch auto`: batches are cut by what links and guests bear.
    Auto,
    /// Plain QEMU in a loop, one VM after the other.
    StockSerial,
    /// Plain QEMU, all VMs at once.
    StockParallel,
}

impl Way {
    /// Transhume's.
    pub const OURS: [Way; 4] = [Way::Serial, Way::Parallel, Way::Governed, Way::Auto];
    /// The opponent's.
    pub const STOCK: [Way; 2] = [Way::StockSerial, Way::StockParallel];

    /// As it stands in the CSV and the legend.
    pub fn name(self) -> &'static str {
        match self {
            Way::Serial => "serial",
            Way::Parallel => "parallel",
            Way::Governed => "governed",
            Way::Auto => "auto",
            Way::StockSerial => "stock serial",
            Way::StockParallel => "stock parallel",
        }
    }

    fn color(self) -> &'static str {
        match self {
            Way::Serial => "#4878a8",
            Way::Parallel => "#8a6bb1",
            Way::Governed => "#2f6f4f",
            Way::Auto => "#5aa37a",
            Way::StockSerial => "#b0413e",
            Way::StockParallel => "#c98a3c",
        }
    }

    fn is_stock(self) -> bool {
        Way::STOCK.contains(&self)
    }
}

/// One move of a whole cluster.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterMove {
    /// VMs of the cluster.
    pub vms: u16,
    /// Memory of each.
    pub memory_mib: Mebibytes,
    /// How it was moved.
    pub way: Way,
    /// k as it was.
    pub batch: usize,
    /// Which move of this way, number and memory, from 1.
    pub repetition: usize,
    /// From the order to the end of the last source, the start of the targets included.
    pub seconds: f64,
    /// The longest that a guest stood still.
    pub blackout_ms_worst: f64,
    /// From the first VM of a batch that was ready to the last, as a share of the time of the last:
    /// the largest of all batches with more than one VM. Stock QEMU waits for nobody.
    pub ready_spread: Option<f64>,
    /// Messages sent around the move that never came, by the guests' own account.
    pub lost: u64,
    /// Messages that came twice.
    pub duplicated: u64,
    /// Messages that came after a later one.
    pub reordered: u64,
}

/// One line per move, with a header.
pub fn csv(moves: &[ClusterMove]) -> String {
    let mut text =
        "vms,memory_mib,mover,k,repetition,seconds,blackout_ms_worst,ready_spread,lost,duplicated,reordered\n".to_owned();
    for row in moves {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{},{},{},{},{},{:.3},{:.3},{},{},{},{}",
            row.vms,
            row.memory_mib.0,
            row.way.name(),
            row.batch,
            row.repetition,
            row.seconds,
            row.blackout_ms_worst,
            row.ready_spread
                .map_or(String::new(), |spread| format!("{spread:.3}")),
            row.lost,
            row.duplicated,
            row.reordered
        );
    }
    text
}

/// The sizes of memory that were measured, from small to large.
pub fn memories(moves: &[ClusterMove]) -> Vec<Mebibytes> {
    let mut sizes: Vec<Mebibytes> = moves.iter().map(|row| row.memory_mib).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// Colours of the sizes of memory, from small to large; from the first on again where they do not
/// suffice.
const MEMORY_COLORS: [&str; 5] = ["#4878a8", "#c98a3c", "#2f6f4f", "#b0413e", "#8a6bb1"];

/// As the paper has it: a colour for each size of memory; Transhume as it comes, and beside it the
/// loop that people use.
pub fn by_memory(moves: &[ClusterMove]) -> Lines {
    let sizes = memories(moves).into_iter().zip(MEMORY_COLORS.iter().cycle());
    let lines = sizes.flat_map(|(memory, color)| {
        [Way::Governed, Way::StockSerial].map(|way| {
            let label = format!("{} MiB, {}", memory.0, way.name());
            line(moves, memory, way, label, color)
        })
    });
    drawing("Time to move a cluster".to_owned(), lines.collect())
}

/// Every way, for one size of memory.
pub fn by_way(moves: &[ClusterMove], memory: Mebibytes) -> Lines {
    let ways = Way::OURS.into_iter().chain(Way::STOCK);
    let lines = ways.map(|way| line(moves, memory, way, way.name().to_owned(), way.color()));
    let title = format!("Time to move a cluster of VMs with {} MiB each", memory.0);
    drawing(title, lines.collect())
}

fn drawing(title: String, lines: Vec<Line>) -> Lines {
    Lines {
        title,
        x_label: "VMs of the cluster".to_owned(),
        y_label: "time to move all of them, s".to_owned(),
        lines,
    }
}

/// Through the medians, with every move as a point.
fn line(moves: &[ClusterMove], memory: Mebibytes, way: Way, label: String, color: &'static str) -> Line {
    let points: Vec<(f64, f64)> = moves
        .iter()
        .filter(|row| row.memory_mib == memory && row.way == way)
        .map(|row| (f64::from(row.vms), row.seconds))
        .collect();
    let mut counts: Vec<f64> = points.iter().map(|(vms, _)| *vms).collect();
    counts.sort_by(f64::total_cmp);
    counts.dedup();
    let median = |vms: f64| {
        let sample = points.iter().filter(|(other, _)| *other == vms);
        Some((vms, Spread::of(sample.map(|(_, seconds)| *seconds))?.median))
    };
    Line {
        label,
        color,
        dashed: way.is_stock(),
        path: counts.into_iter().filter_map(median).collect(),
        points,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(vms: u16, memory: u64, way: Way, repetition: usize, seconds: f64) -> ClusterMove {
        ClusterMove {
            vms,
            memory_mib: Mebibytes(memory),
            way,
            batch: 1,
            repetition,
            seconds,
            blackout_ms_worst: 30.25,
            ready_spread: None,
            lost: 0,
            duplicated: 0,
            reordered: 0,
        }
    }

    #[test]
    fn a_line_goes_through_the_medians_from_few_vms_to_many() {
        let moves = [
            row(2, 96, Way::Governed, 1, 5.0),
            row(1, 96, Way::Governed, 1, 1.0),
            row(1, 96, Way::Governed, 2, 9.0),
            row(1, 96, Way::Governed, 3, 2.0),
            row(1, 128, Way::Governed, 1, 70.0),
            row(1, 96, Way::Serial, 1, 80.0),
        ];
        let drawn = by_way(&moves, Mebibytes(96));
        let governed = drawn.lines.iter().find(|line| line.label == "governed").unwrap();
        assert_eq!(governed.path, [(1.0, 2.0), (2.0, 5.0)]);
        assert_eq!(governed.points.len(), 4);
        assert!(!governed.dashed);
    }

    #[test]
    fn every_size_of_memory_has_a_colour_of_its_own() {
        let moves = [
            row(1, 128, Way::Governed, 1, 2.0),
            row(1, 80, Way::Governed, 1, 1.0),
            row(1, 80, Way::StockSerial, 1, 3.0),
        ];
        let labels: Vec<_> = by_memory(&moves)
            .lines
            .into_iter()
            .filter(|line| !line.path.is_empty())
            .map(|line| (line.label, line.color, line.dashed))
            .collect();
        assert_eq!(
            labels,
            [
                ("80 MiB, governed".to_owned(), "#4878a8", false),
                ("80 MiB, stock serial".to_owned(), "#4878a8", true),
                ("128 MiB, governed".to_owned(), "#c98a3c", false),
            ]
        );
    }

    #[test]
    fn the_table_has_a_line_for_each_move() {
        let text = csv(&[row(5, 96, Way::StockParallel, 2, 7.5)]);
        assert_eq!(
            text.lines().nth(1),
            Some("5,96,stock parallel,1,2,7.500,30.250,,0,0,0")
        );
    }
}
