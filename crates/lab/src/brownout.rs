//! What guests notice of their own move beside the blackout: how long their peers heard nothing of
//! them, and when a process in them stood still. Rows, their CSV, and the processes in the guests.

use std::fmt::Write;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use serde::Serialize;
use transhume_guest::wire::{Op, Outcome, Stall};
use transhume_model::VmName;

use crate::plot::Mover;
use crate::state::Lab;
use crate::{Channel, LabError};

/// A guest may be in the middle of a move.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// One VM of one move, or of as long without one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Who moved it; nobody in the control.
    pub mover: Option<Mover>,
    /// Which of its kind, from 1.
    pub repetition: usize,
    /// The VM.
    pub vm: VmName,
    /// Its guest was stopped for so long.
    pub blackout_ms: f64,
    /// Longest silence that a peer heard from it; absent where the guests say nothing.
    pub gap_ms: Option<u64>,
    /// When a process that sleeps stood still, by the guest's clock.
    pub stalls: Vec<Stall>,
    /// The blackout's place on that clock, microseconds since boot; exact to the answer to a ping.
    /// Absent in the control, and for stock QEMU, which does not say.
    pub stopped_at_us: Option<u64>,
}

impl Row {
    /// As it stands in tables.
    pub fn mover_name(&self) -> String {
        self.mover.map_or("nobody".to_owned(), Mover::name)
    }

    /// Longest standing still of a process, the blackout apart.
    pub fn stall_ms(&self) -> f64 {
        let longest = self.stalls.iter().map(|stall| stall.micros).max();
        longest.unwrap_or(0) as f64 / 1e3
    }

    /// All of it together.
    pub fn stalls_ms(&self) -> f64 {
        self.stalls.iter().map(|stall| stall.micros).sum::<u64>() as f64 / 1e3
    }
}

/// One line per VM and move, with a header.
pub fn csv(rows: &[Row]) -> String {
    let mut text = "mover,repetition,vm,blackout_ms,gap_ms,stall_ms_longest,stall_ms_sum,stalls\n".to_owned();
    for row in rows {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{},{},{},{:.3},{},{:.3},{:.3},{}",
            row.mover_name(),
            row.repetition,
            row.vm,
            row.blackout_ms,
            row.gap_ms.map_or(String::new(), |gap| gap.to_string()),
            row.stall_ms(),
            row.stalls_ms(),
            row.stalls.len(),
        );
    }
    text
}

/// One line per standing still, from the stop on: what lies before it has a minus.
pub fn stalls_csv(rows: &[Row]) -> String {
    let mut text = "mover,repetition,vm,from_stop_ms,stall_ms\n".to_owned();
    for row in rows {
        for stall in &row.stalls {
            let from_stop = row.stopped_at_us.map_or(String::new(), |stop| {
                format!("{:.1}", (stall.at_us as f64 - stop as f64) / 1e3)
            });
            let _ = writeln!(
                text,
                "{},{},{},{from_stop},{:.3}",
                row.mover_name(),
                row.repetition,
                row.vm,
                stall.micros as f64 / 1e3,
            );
        }
    }
    text
}

/// Processes that sleep, one in every guest of a lab, until they are ended.
#[derive(Debug)]
pub struct Pulses(Vec<Pulse>);

#[derive(Debug)]
struct Pulse {
    vm: VmName,
    channel: Channel,
    /// An instant, and the guest's clock then.
    clock: (Instant, Duration),
}

/// What one of them saw.
#[derive(Debug)]
pub struct VmStalls {
    /// Where.
    pub vm: VmName,
    /// When it stood still.
    pub stalls: Vec<Stall>,
    /// An instant before the move, and the guest's clock then.
    clock: (Instant, Duration),
}

impl VmStalls {
    /// An instant on the guest's clock, if it was not stopped before.
    pub fn on_its_clock(&self, instant: Instant) -> u64 {
        let (then, uptime) = self.clock;
        (uptime + instant.saturating_duration_since(then)).as_micros() as u64
    }
}

impl Pulses {
    /// Starts them.
    pub async fn start(lab: &Lab) -> Result<Self, LabError> {
        let started = lab.state.vms.iter().map(|vm| async move {
            let channel = Channel::new(lab, vm);
            match channel.call(Op::PulseStart, CALL_LIMIT).await?.outcome {
                Outcome::PulseStarted => {}
                other => return Err(unexpected(&vm.name, &other)),
            }
            let clock = clock(&channel, &vm.name).await?;
            Ok(Pulse {
                vm: vm.name.clone(),
                channel,
                clock,
            })
        });
        Ok(Pulses(try_join_all(started).await?))
    }

    /// Ends them; by the order of the lab's VMs.
    pub async fn end(self) -> Result<Vec<VmStalls>, LabError> {
        try_join_all(self.0.into_iter().map(|pulse| async move {
            match pulse.channel.call(Op::PulseEnd, CALL_LIMIT).await?.outcome {
                Outcome::Pulse(stats) => Ok(VmStalls {
                    vm: pulse.vm,
                    stalls: stats.stalls,
                    clock: pulse.clock,
                }),
                other => Err(unexpected(&pulse.vm, &other)),
            }
        }))
        .await
    }
}

/// What the guest's clock says, by the quickest of a few answers.
async fn clock(channel: &Channel, vm: &VmName) -> Result<(Instant, Duration), LabError> {
    const ASKED: usize = 5;
    let mut quickest: Option<(Duration, Instant, Duration)> = None;
    for _ in 0..ASKED {
        let asked = Instant::now();
        let uptime_ms = match channel.call(Op::Ping, CALL_LIMIT).await?.outcome {
            Outcome::Pong { uptime_ms } => uptime_ms,
            other => return Err(unexpected(vm, &other)),
        };
        let took = asked.elapsed();
        if quickest.is_none_or(|(before, ..)| took < before) {
            quickest = Some((took, asked + took / 2, Duration::from_millis(uptime_ms)));
        }
    }
    let (_, instant, uptime) = quickest.expect("it was asked");
    Ok((instant, uptime))
}

fn unexpected(vm: &VmName, outcome: &Outcome) -> LabError {
    LabError::Guest {
        vm: vm.to_string(),
        said: format!("answered {outcome:?} to a pulse"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_its_longest_and_all_and_a_stall_its_place() {
        let stall = |at_us, micros| Stall { at_us, micros };
        let row = Row {
            mover: Some(Mover::Batch(1)),
            repetition: 2,
            vm: "vm1".parse().unwrap(),
            blackout_ms: 20.5,
            gap_ms: Some(130),
            stalls: vec![stall(1_960_000, 36_500), stall(2_001_000, 60_000)],
            stopped_at_us: Some(2_000_000),
        };
        let rows = [row];
        assert_eq!(
            csv(&rows).lines().nth(1),
            Some("k = 1,2,vm1,20.500,130,60.000,96.500,2")
        );
        let lines: Vec<_> = stalls_csv(&rows).lines().map(str::to_owned).collect();
        assert_eq!(lines[1..], ["k = 1,2,vm1,-40.0,36.500", "k = 1,2,vm1,1.0,60.000"]);
    }
}
