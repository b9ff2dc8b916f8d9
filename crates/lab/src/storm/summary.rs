//! The table of a storm's rounds by step and fault, and what they add up to. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Serialize;

use super::fault::Fault;
use super::ledger::{Counts, RoundLine, RoundVerdict};

/// Steps of the table; 0 is before the first step or after the move.
const STEPS: std::ops::RangeInclusive<u8> = 0..=10;

/// What rounds add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Rounds.
    pub rounds: usize,
    /// Seeds that they were drawn from.
    pub seeds: usize,
    /// VMs that changed their host.
    pub switchovers: usize,
    /// Moves by how they ended.
    pub outcomes: BTreeMap<String, usize>,
    /// Rounds in which nothing fell.
    pub calm: usize,
    /// Rounds in which a VM lost its only copy to a fault and that was reported.
    pub lost_and_reported: usize,
    /// Rounds that broke a promise.
    pub violated: usize,
    /// The guests' accounts together.
    pub guests: Counts,
    /// The same of rounds in which the fabric itself lost guests' frames, which are not in
    /// `guests`.
    pub fabric: Counts,
    /// All rounds' time, milliseconds.
    pub duration_ms: u64,
    /// Strikes by fault and step.
    pub strikes: BTreeMap<Fault, BTreeMap<u8, usize>>,
    /// Faults whose moment did not come.
    pub missed: usize,
}

impl Summary {
    /// Of these rounds; one that is there twice counts once, the later one.
    pub fn of(lines: &[RoundLine]) -> Self {
        let by_round: BTreeMap<(u64, u64), &RoundLine> =
            lines.iter().map(|line| ((line.seed, line.round), line)).collect();
        let seeds: BTreeSet<u64> = by_round.keys().map(|(seed, _)| *seed).collect();
        let mut sum = Summary {
            rounds: by_round.len(),
            seeds: seeds.len(),
            ..Summary::default()
        };
        by_round.into_values().for_each(|line| sum.add(line));
        sum
    }

    fn add(&mut self, line: &RoundLine) {
        self.switchovers += line.switchovers;
        *self.outcomes.entry(line.outcome.clone()).or_default() += 1;
        self.calm += usize::from(line.struck.is_empty());
        self.missed += line.missed.len();
        match line.verdict {
            RoundVerdict::Kept => {}
            RoundVerdict::LostAndReported => self.lost_and_reported += 1,
            RoundVerdict::Violated => self.violated += 1,
        }
        let fabric_lost = line.struck.iter().any(|strike| strike.fault.loses_frames());
        let counts = if fabric_lost {
            &mut self.fabric
        } else {
            &mut self.guests
        };
        *counts = counts.plus(&line.guests);
        self.duration_ms += line.duration_ms;
        for strike in &line.struck {
            *self
                .strikes
                .entry(strike.fault)
                .or_default()
                .entry(strike.step)
                .or_default() += 1;
        }
    }

    /// As markdown: one sentence, then the table, where anything struck.
    pub fn markdown(&self) -> String {
        let hours = self.duration_ms as f64 / 3_600_000.0;
        let outcomes: Vec<_> = self
            .outcomes
            .iter()
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        let mut text = format!(
            "{} rounds of {} seeds, {} switchovers, {hours:.2} h: {} violated, {} with a VM lost and reported; moves: {}; guests: {}.\n",
            self.rounds,
            self.seeds,
            self.switchovers,
            self.violated,
            self.lost_and_reported,
            if outcomes.is_empty() {
                "none".to_owned()
            } else {
                outcomes.join(", ")
            },
            self.guests,
        );
        if self.fabric != Counts::default() {
            let _ = writeln!(
                text,
                "Guests in rounds whose CT circuit was cut: {}.",
                self.fabric
            );
        }
        if !self.strikes.is_empty() {
            text.push('\n');
            self.table(&mut text);
        }
        text
    }

    fn table(&self, text: &mut String) {
        let head: Vec<String> = STEPS
            .map(|step| {
                if step == 0 {
                    "outside".to_owned()
                } else {
                    step.to_string()
                }
            })
            .collect();
        let _ = writeln!(text, "| fault \\ step | {} | sum |", head.join(" | "));
        let _ = writeln!(text, "|---|{}", "---:|".repeat(head.len() + 1));
        let mut sums: BTreeMap<u8, usize> = BTreeMap::new();
        for (fault, by_step) in &self.strikes {
            by_step
                .iter()
                .for_each(|(step, count)| *sums.entry(*step).or_default() += count);
            let _ = writeln!(text, "{}", row(fault.name(), by_step));
        }
        let _ = writeln!(text, "{}", row("sum", &sums));
        if self.missed > 0 {
            let _ = writeln!(text, "\n{} more whose moment did not come.", self.missed);
        }
    }
}

fn row(name: &str, by_step: &BTreeMap<u8, usize>) -> String {
    let cells: Vec<String> = STEPS
        .map(|step| by_step.get(&step).map_or(String::new(), usize::to_string))
        .collect();
    let sum: usize = by_step.values().sum();
    format!("| {name} | {} | {sum} |", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::super::ledger::{StruckLine, sample};
    use super::*;

    #[test]
    fn rounds_add_up_by_step_and_fault_and_a_repeated_one_counts_once() {
        let mut broken = sample(1, 2);
        broken.verdict = RoundVerdict::Violated;
        broken.guests.lost = 3;
        broken.switchovers = 4;
        broken.struck.push(StruckLine {
            fault: Fault::KillCoordinator,
            victim: "coordinator".to_owned(),
            step: 8,
            committed: true,
        });
        let sum = Summary::of(&[sample(1, 1), sample(1, 1), broken, sample(2, 1)]);
        assert_eq!(
            (sum.rounds, sum.seeds, sum.violated, sum.switchovers),
            (3, 2, 1, 4)
        );
        assert_eq!(sum.guests.lost, 3);
        assert_eq!(sum.strikes[&Fault::KillTargetAgent][&6], 3);
        let text = sum.markdown();
        assert!(
            text.starts_with("3 rounds of 2 seeds, 4 switchovers, 0.01 h: 1 violated"),
            "{text}"
        );
        assert!(
            text.contains("| kill-coordinator |  |  |  |  |  |  |  |  | 1 |  |  | 1 |"),
            "{text}"
        );
        assert!(
            text.contains("| sum |  |  |  |  |  |  | 3 |  | 1 |  |  | 4 |"),
            "{text}"
        );
    }

    #[test]
    fn what_the_fabric_lost_stands_apart() {
        let mut cut = sample(1, 1);
        cut.struck[0].fault = Fault::CutTargetCt;
        cut.guests.lost = 9;
        let sum = Summary::of(&[cut]);
        assert_eq!((sum.guests.lost, sum.fabric.lost), (0, 9));
        assert!(sum.markdown().contains("whose CT circuit was cut: 9 lost"));
    }

    #[test]
    fn calm_rounds_have_no_table() {
        let mut calm = sample(1, 1);
        calm.struck.clear();
        let text = Summary::of(&[calm]).markdown();
        assert!(
            text.contains("0 lost, 0 duplicated, 0 reordered") && !text.contains('|'),
            "{text}"
        );
    }
}
