//! What the figures are made of: one row per VM and move, its summary, a CSV, boxes. Pure but for
//! the strings.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use transhume_model::VmName;

use crate::boxes::{Boxes, Group};

/// Who moved the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mover {
    /// Plain QEMU, one VM after the other, with the downtime limit it comes with.
    Stock,
    /// The same with the downtime limit that serves it best.
    StockTuned,
    /// Plain QEMUs by hand over QMP, k at once: the floor of such a batch.
    ByHand(usize),
    /// Transhume, batches of k.
    Batch(usize),
}

impl Mover {
    /// As it stands in the CSV and under the boxes.
    pub fn name(self) -> String {
        match self {
            Mover::Stock => "stock".to_owned(),
            Mover::StockTuned => "stock tuned".to_owned(),
            Mover::ByHand(k) => format!("by hand k = {k}"),
            Mover::Batch(k) => format!("k = {k}"),
        }
    }

    fn color(self) -> &'static str {
        match self {
            Mover::Stock => "#b0413e",
            Mover::StockTuned => "#c98a3c",
            Mover::ByHand(_) => "#8a6bb1",
            Mover::Batch(1) => "#4878a8",
            Mover::Batch(_) => "#2f6f4f",
        }
    }
}

/// One VM of one move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Who moved it.
    pub mover: Mover,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Which move of this mover and MTU, from 1.
    pub repetition: usize,
    /// The VM.
    pub vm: VmName,
    /// Messages sent to it around the move that it never got.
    pub lost: u64,
    /// Messages that came twice.
    pub duplicated: u64,
    /// Messages that came after a later one.
    pub reordered: u64,
    /// Its guest stood still for so long.
    pub blackout_ms: f64,
    /// Of that, what is ours and not QEMU's: capture, commit, resume. Absent for stock.
    pub ours_ms: Option<f64>,
}

/// Five numbers of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Size.
    pub count: usize,
    /// Least.
    pub min: f64,
    /// First quartile.
    pub q1: f64,
    /// Median.
    pub median: f64,
    /// Third quartile.
    pub q3: f64,
    /// Greatest.
    pub max: f64,
}

impl Spread {
    /// Of a sample; `None` where it is empty. Quartiles lie between neighbours in proportion
    /// (Hyndman and Fan, type 7).
    pub fn of(sample: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = sample.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (sorted.len() - 1) as f64;
            let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
            low + (high - low) * place.fract()
        };
        (!sorted.is_empty()).then(|| Self {
            count: sorted.len(),
            min: at(0.0),
            q1: at(0.25),
            median: at(0.5),
            q3: at(0.75),
            max: at(1.0),
        })
    }
}

/// One figure of the paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Message loss (§4.1, figure 6): a value per move.
    Loss,
    /// Downtime (§4.2, figure 7): a value per VM and move.
    Blackout,
}

impl Figure {
    /// The sample of one box.
    pub fn sample(self, rows: &[Row], mover: Mover, mtu: u16) -> Vec<f64> {
        let rows = rows.iter().filter(|row| row.mover == mover && row.mtu == mtu);
        match self {
            Figure::Blackout => rows.map(|row| row.blackout_ms).collect(),
            Figure::Loss => {
                let mut per_move = std::collections::BTreeMap::<usize, u64>::new();
                rows.for_each(|row| *per_move.entry(row.repetition).or_default() += row.lost);
                per_move.into_values().map(|lost| lost as f64).collect()
            }
        }
    }

    /// The drawing.
    pub fn boxes(self, rows: &[Row]) -> Boxes {
        let (title, unit) = match self {
            Figure::Loss => ("Messages lost while a cluster moves", "messages per move"),
            Figure::Blackout => ("Blackout of a VM while its cluster moves", "ms"),
        };
        let group = |(mover, mtu): (Mover, u16)| Group {
            label: format!("{} / {mtu}", mover.name()),
            color: mover.color(),
            sample: self.sample(rows, mover, mtu),
        };
        Boxes {
            title: title.to_owned(),
            x_label: "mover / MTU, bytes".to_owned(),
            y_label: unit.to_owned(),
            groups: kinds(rows).into_iter().map(group).collect(),
        }
    }
}

/// The median blackout of our batches of k over that of the same by hand; `None` where either was
/// not measured.
pub fn of_by_hand(rows: &[Row], k: usize, mtu: u16) -> Option<f64> {
    let median = |mover| {
        let spread = Spread::of(Figure::Blackout.sample(rows, mover, mtu))?;
        Some(spread.median)
    };
    Some(median(Mover::Batch(k))? / median(Mover::ByHand(k))?)
}

/// Every mover and MTU that has rows, in order.
pub fn kinds(rows: &[Row]) -> Vec<(Mover, u16)> {
    let mut kinds: Vec<_> = rows.iter().map(|row| (row.mover, row.mtu)).collect();
    kinds.sort_by_key(|(mover, mtu)| (std::cmp::Reverse(*mtu), *mover));
    kinds.dedup();
    kinds
}

/// One line per row, with a header.
pub fn csv(rows: &[Row]) -> String {
    let mut text = "mover,mtu,repetition,vm,lost,duplicated,reordered,blackout_ms,ours_ms\n".to_owned();
    for row in rows {
        let ours = row.ours_ms.map_or(String::new(), |ms| format!("{ms:.3}"));
        let (mover, mtu, repetition, vm) = (row.mover.name(), row.mtu, row.repetition, &row.vm);
        let (lost, duplicated, reordered) = (row.lost, row.duplicated, row.reordered);
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{mover},{mtu},{repetition},{vm},{lost},{duplicated},{reordered},{:.3},{ours}",
            row.blackout_ms
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing::Drawing;

    fn row(mover: Mover, repetition: usize, lost: u64, blackout_ms: f64) -> Row {
        Row {
            mover,
            mtu: 1500,
            repetition,
            vm: "vm1".parse().unwrap(),
            lost,
            duplicated: 0,
            reordered: 0,
            blackout_ms,
            ours_ms: None,
        }
    }

    #[test]
    fn quartiles_lie_between_neighbours() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.q1, spread.median, spread.q3), (1.75, 2.5, 3.25));
        assert_eq!((spread.min, spread.max, spread.count), (1.0, 4.0, 4));
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([7.0]).unwrap().q3, 7.0);
    }

    #[test]
    fn loss_is_summed_over_a_move_and_blackout_is_not() {
        let rows = [
            row(Mover::Stock, 1, 3, 100.0),
            row(Mover::Stock, 1, 4, 120.0),
            row(Mover::Stock, 2, 5, 110.0),
            row(Mover::Batch(4), 1, 0, 90.0),
        ];
        assert_eq!(Figure::Loss.sample(&rows, Mover::Stock, 1500), [7.0, 5.0]);
        assert_eq!(
            Figure::Blackout.sample(&rows, Mover::Stock, 1500),
            [100.0, 120.0, 110.0]
        );
        assert_eq!(kinds(&rows), [(Mover::Stock, 1500), (Mover::Batch(4), 1500)]);
    }

    #[test]
    fn a_batch_is_compared_with_the_same_batch_by_hand() {
        let rows = [
            row(Mover::ByHand(1), 1, 9, 10.0),
            row(Mover::ByHand(4), 1, 9, 40.0),
            row(Mover::Batch(1), 1, 0, 12.0),
            row(Mover::Batch(4), 1, 0, 60.0),
            row(Mover::Batch(2), 1, 0, 60.0),
        ];
        let ratios = [1, 4, 2, 3].map(|k| of_by_hand(&rows, k, 1500));
        assert_eq!(ratios, [Some(1.2), Some(1.5), None, None]);
        assert_eq!(of_by_hand(&rows, 4, 68), None);
        // Names go into a CSV and JSON as they are.
        assert!(csv(&rows).contains("\nby hand k = 4,1500,1,vm1,9,"));
        assert_eq!(
            serde_json::to_string(&Mover::ByHand(4)).unwrap(),
            r#"{"by-hand":4}"#
        );
    }

    #[test]
    fn the_pictures_and_the_table_hold_every_kind() {
        let rows = [row(Mover::Stock, 1, 3, 100.0), row(Mover::Batch(1), 1, 0, 90.5)];
        for figure in [Figure::Loss, Figure::Blackout] {
            let boxes = figure.boxes(&rows);
            let svg = boxes.svg();
            assert!(boxes.png().unwrap().starts_with(b"\x89PNG"));
            assert!(svg.starts_with("<svg") && svg.contains("stock / 1500"), "{svg}");
        }
        assert_eq!(csv(&rows).lines().nth(2), Some("k = 1,1500,1,vm1,0,0,0,90.500,"));
    }
}
