//! How long a VM's move takes and how long it is dark: pre-copy as a geometric model (§1.2 phase
//! 3, §2.2.2).
//!
//! ```text
//! round 0 carries the touched memory M;  round i carries what was dirtied meanwhile:  min(W, D · t(i-1))
//! ready when what is left passes in the time allowed for the blackout; offline at once, all of M in the blackout
//! held until the whole batch is ready: rounds go on, and what is written all the time is carried again
//! ```
//!
//! A batch commits as one: each of its VMs waits for the slowest, and those that share a host share
//! what switching costs it.
//!
//! M, the dirty rate D, the writable working set W and the share c that compression leaves are
//! intervals: measured where figures are given, else assumed and named. The ends of each result are
//! the model at the ends of its inputs; it is monotone in each of them.

use serde::{Deserialize, Serialize};
use transhume_model::Mebibytes;

use crate::input::{MEMORY, Vm};
use crate::report::Interval;

/// Highest rate that a refusal suggests, Mbit/s.
pub const RATE_MBIT_S_MAX: f64 = 400_000.0;
/// More rounds than this do not converge any more.
pub const ROUNDS_MAX: u32 = 30;

/// Where nothing is measured: share of the memory that is in use.
const TOUCHED: Interval = Interval { low: 0.3, high: 1.0 };
/// Where nothing is measured: dirty rate, MiB/s.
const DIRTY_MIB_S: Interval = Interval { low: 0.0, high: 50.0 };
/// Where nothing is measured: share of the bytes that compression and deduplication leave.
const COMPRESSED: Interval = Interval { low: 0.3, high: 1.0 };
/// Share of its rate that a page stream reaches.
pub(crate) const REACHED: Interval = Interval { low: 0.8, high: 1.0 };
/// Device state, switching plugs, loading: part of every blackout, milliseconds. The high end is
/// what emulated guests on two shared cores took.
const SWITCH_MS: Interval = Interval {
    low: 5.0,
    high: 120.0,
};
/// The same for each further VM that a host switches at once, at worst.
const SWITCH_NEXT_MS: f64 = 60.0;
/// How long a VM that is ready waits at worst for buffers and for the rest of its batch, while its
/// stream may fill its share of the link, seconds.
const HELD_S: f64 = 2.0;
/// Preparing the target and closing the buffers, seconds.
const OVERHEAD_S: Interval = Interval { low: 0.5, high: 5.0 };
/// Milliseconds in a second.
const MS_PER_S: f64 = 1_000.0;
/// Mbit in a MiB.
const MBIT_PER_MIB: f64 = 8.388_608;
/// Standard deviations of sampling that a measured dirty rate is given on either side.
const SAMPLING_SIGMAS: f64 = 2.0;

/// How the VMs go.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Memory is copied while they run, until what is left passes in this time, milliseconds.
    Live {
        /// The budget for the predicted blackout.
        blackout_ms_max: f64,
    },
    /// Stop, copy, start.
    Offline,
}

/// A dirty rate that was estimated from a sample of the pages, MiB/s: what it may be in truth.
/// `per_second` is what was seen in one second, in whole MiB/s rounded down, as QEMU reports it.
pub fn sampled_dirty_mib_s(per_second: Mebibytes, sampled_pages: u64, memory: Mebibytes) -> Interval {
    let (whole, samples) = (memory.0.max(1) as f64, sampled_pages.max(1) as f64);
    // One sampled page more than was seen is what the next sample might have had.
    let error = |mib_s: f64| {
        let share = (mib_s / whole).clamp(0.0, 1.0);
        SAMPLING_SIGMAS * whole * (share * (1.0 - share) / samples).sqrt() + whole / samples
    };
    let (low, high) = (per_second.0 as f64, per_second.0 as f64 + 1.0);
    Interval {
        low: (low - error(low)).max(0.0),
        high: (high + error(high)).min(whole),
    }
}

/// One VM's figures, measured or assumed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figures {
    memory_mib: Interval,
    dirty_mib_s: Interval,
    working_set_mib: Interval,
    compressed: Interval,
    /// Whether a refusal stands on measured figures.
    pub dirty_known: bool,
    assumed: Vec<String>,
    /// What matters only while the VM runs.
    assumed_live: Vec<String>,
}

/// One VM's forecast at a rate.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Forecast {
    pub carried_mib: Interval,
    pub duration_s: Interval,
    pub blackout_ms: Interval,
    pub rounds: Interval,
    /// The worst case does not get to the blackout allowed.
    pub diverges: bool,
}

fn ends(measured: &[f64]) -> Option<Interval> {
    let low = measured.iter().copied().reduce(f64::min)?;
    let high = measured.iter().copied().reduce(f64::max)?;
    Some(Interval { low, high })
}

impl Figures {
    pub fn of(vm: &Vm) -> Self {
        let whole = vm.demand.get(MEMORY).map_or(0.0, |a| a.as_f64());
        let (mut assumed, mut assumed_live) = (Vec::new(), Vec::new());
        let or_assume =
            |list: &mut Vec<String>, known: Option<Interval>, assumption: Interval, what: &str| {
                known.unwrap_or_else(|| {
                    list.push(what.to_owned());
                    assumption
                })
            };
        let touched = vm.memory.touched_mib.map(|mib| {
            let mib = mib.min(whole);
            Interval { low: mib, high: mib }
        });
        let memory_mib = or_assume(
            &mut assumed,
            touched,
            TOUCHED.map(|s| s * whole),
            "30 to 100 % of the memory is in use",
        );
        let dirty_mib_s = or_assume(
            &mut assumed_live,
            ends(&vm.memory.dirty_mib_s),
            DIRTY_MIB_S,
            "0 to 50 MiB/s are dirtied",
        );
        let known = vm
            .memory
            .working_set_mib
            .map(|mib| Interval { low: mib, high: mib });
        let all = Interval {
            low: 0.0,
            high: memory_mib.high,
        };
        let working_set_mib = or_assume(
            &mut assumed_live,
            known,
            all,
            "any part of the memory may be written",
        );
        let compressed = or_assume(
            &mut assumed,
            ends(&vm.memory.compressed_to),
            COMPRESSED,
            "compression leaves 30 to 100 %",
        );
        Self {
            memory_mib,
            dirty_mib_s,
            working_set_mib,
            compressed,
            dirty_known: !vm.memory.dirty_mib_s.is_empty(),
            assumed,
            assumed_live,
        }
    }

    /// What was not measured, in words.
    pub fn assumed(&self, mode: Mode) -> Vec<String> {
        let live: &[String] = match mode {
            Mode::Live { .. } => &self.assumed_live,
            Mode::Offline => &[],
        };
        self.assumed.iter().chain(live).cloned().collect()
    }

    /// What to expect at a rate of a VM that goes alone.
    pub fn at(&self, rate_mbit_s: f64, mode: Mode) -> Forecast {
        let best = self.run(true, rate_mbit_s, mode);
        let worst = self.run(false, rate_mbit_s, mode);
        let interval = |low, high| Interval { low, high };
        let held_mib = match mode {
            Mode::Live { .. } => HELD_S * rate_mbit_s * REACHED.high / MBIT_PER_MIB,
            Mode::Offline => 0.0,
        };
        Forecast {
            carried_mib: interval(best.carried, worst.carried + held_mib),
            duration_s: interval(best.seconds, worst.seconds).plus(OVERHEAD_S),
            blackout_ms: interval(best.least_ms, worst.most_ms).plus(SWITCH_MS),
            rounds: interval(f64::from(best.rounds), f64::from(worst.rounds)),
            diverges: !worst.converged,
        }
    }

    /// The least rate at which even the worst case converges.
    pub fn rate_needed(&self, mode: Mode) -> Option<f64> {
        let does = |rate| self.run(false, rate, mode).converged;
        if !does(RATE_MBIT_S_MAX) {
            return None;
        }
        let (mut low, mut high) = (0.0, RATE_MBIT_S_MAX);
        while high - low > 1.0 {
            let middle = (low + high) / 2.0;
            if does(middle) { high = middle } else { low = middle }
        }
        Some(high.ceil())
    }

    fn run(&self, best: bool, rate_mbit_s: f64, mode: Mode) -> Run {
        let end = |i: Interval| if best { i.low } else { i.high };
        let reached = if best { REACHED.high } else { REACHED.low };
        let mib_s = (rate_mbit_s * reached / MBIT_PER_MIB).max(1e-9);
        let shrink = end(self.compressed);
        let seconds = |mib: f64| mib * shrink / mib_s;
        let all = end(self.memory_mib);
        let dirtied = |in_s: f64| {
            (end(self.dirty_mib_s) * in_s)
                .min(end(self.working_set_mib))
                .min(all)
        };
        let Mode::Live { blackout_ms_max } = mode else {
            return Run::stopped(all * shrink, seconds(all));
        };
        let ready = |left: f64| seconds(left) * MS_PER_S <= blackout_ms_max;
        let mut run = Run::default();
        let mut left = all;
        // The first round carries everything, however little that is.
        while run.rounds == 0 || !ready(left) && run.rounds < ROUNDS_MAX {
            run.carried += left * shrink;
            run.seconds += seconds(left);
            run.rounds += 1;
            let next = dirtied(seconds(left));
            let stuck = next >= left * (1.0 - 1e-9) && !ready(next);
            left = next;
            if stuck && run.rounds > 1 {
                break;
            }
        }
        run.converged = ready(left);
        run.carried += left * shrink;
        run.seconds += seconds(left);
        // Where the rounds happen to end says little: at most what the longest of them, the first,
        // left behind, within the budget; at least what is left when rounds have gone on for long.
        let most = match run.converged {
            true => dirtied(seconds(all)),
            false => left,
        };
        run.most_ms = seconds(most) * MS_PER_S;
        if run.converged {
            run.most_ms = run.most_ms.min(blackout_ms_max);
        }
        let least = (0..ROUNDS_MAX).fold(left, |left, _| dirtied(seconds(left)));
        run.least_ms = seconds(least) * MS_PER_S;
        run
    }
}

/// What a batch makes of the forecasts of its VMs. `at_once`: the most of them that leave or reach
/// one host.
pub(crate) fn together(forecasts: &mut [Forecast], at_once: usize) {
    let of_the_slowest = |figure: fn(&Forecast) -> Interval, all: &[Forecast]| {
        all.iter()
            .map(figure)
            .fold(Interval::default(), Interval::slowest)
    };
    let duration_s = of_the_slowest(|one| one.duration_s, forecasts);
    let mut blackout_ms = of_the_slowest(|one| one.blackout_ms, forecasts);
    blackout_ms.high += SWITCH_NEXT_MS * at_once.saturating_sub(1) as f64;
    for forecast in forecasts {
        (forecast.duration_s, forecast.blackout_ms) = (duration_s, blackout_ms);
    }
}

#[derive(Default)]
struct Run {
    carried: f64,
    seconds: f64,
    /// Memory that passes in the blackout: the least and the most of it, milliseconds.
    least_ms: f64,
    most_ms: f64,
    rounds: u32,
    converged: bool,
}

impl Run {
    /// Everything passes while the VM is stopped.
    fn stopped(carried: f64, seconds: f64) -> Self {
        Self {
            carried,
            seconds,
            least_ms: seconds * MS_PER_S,
            most_ms: seconds * MS_PER_S,
            rounds: 0,
            converged: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::MemoryFigures;

    fn figures(memory_mib: u64, dirty: &[f64], working_set: Option<f64>) -> Figures {
        let mut input = crate::generate::small(1);
        let mut vm = input.cluster.vms.remove(0);
        vm.demand = [(MEMORY.to_owned(), crate::input::Amount::units(memory_mib))].into();
        vm.memory = MemoryFigures {
            dirty_mib_s: dirty.to_vec(),
            working_set_mib: working_set,
            touched_mib: Some(memory_mib as f64),
            compressed_to: vec![1.0],
        };
        Figures::of(&vm)
    }

    fn live(blackout_ms_max: f64) -> Mode {
        Mode::Live { blackout_ms_max }
    }

    #[test]
    fn offline_all_of_the_memory_passes_in_the_blackout() {
        let forecast = figures(1000, &[500.0], None).at(8388.608, Mode::Offline);
        // 1000 MiB/s at best, 800 at worst, and the switch.
        assert!((forecast.blackout_ms.low - 1005.0).abs() < 1e-6, "{forecast:?}");
        assert!((forecast.blackout_ms.high - 1370.0).abs() < 1e-6, "{forecast:?}");
        assert_eq!(forecast.carried_mib.high, 1000.0);
        assert!(!forecast.diverges);
    }

    #[test]
    fn a_batch_is_as_slow_as_its_slowest() {
        let mut batch = [
            figures(100, &[0.0], None).at(800.0, live(300.0)),
            figures(4000, &[10.0], None).at(800.0, live(300.0)),
        ];
        let slow = batch[1].clone();
        together(&mut batch, 2);
        assert_eq!(batch[0].duration_s, slow.duration_s);
        assert_eq!(batch[0].blackout_ms.low, slow.blackout_ms.low);
        assert_eq!(batch[0].blackout_ms.high, slow.blackout_ms.high + SWITCH_NEXT_MS);
        assert!(
            batch[0].carried_mib.high < slow.carried_mib.low,
            "bytes are each VM's own"
        );
    }

    #[test]
    fn a_sample_tells_a_range_that_narrows_with_its_size() {
        let memory = Mebibytes(1000);
        let seen = |mib_s, samples| sampled_dirty_mib_s(Mebibytes(mib_s), samples, memory);
        assert_eq!(seen(0, 1000).low, 0.0);
        assert!(
            seen(0, 1000).high > 1.0 && seen(0, 1000).high < 10.0,
            "{:?}",
            seen(0, 1000)
        );
        let (few, many) = (seen(100, 500), seen(100, 50_000));
        assert!(few.low < many.low && many.low < 100.0 && 101.0 < many.high && many.high < few.high);
        assert_eq!(seen(1000, 500).high, 1000.0, "no more than there is");
    }

    #[test]
    fn an_idle_vm_is_carried_once() {
        let forecast = figures(2048, &[0.0], None).at(8388.608, live(100.0));
        // Held, it may fill its share of the link.
        assert_eq!(
            (forecast.carried_mib.low, forecast.carried_mib.high),
            (2048.0, 2048.0 + HELD_S * 1000.0)
        );
        assert_eq!(forecast.blackout_ms, SWITCH_MS);
        // 1000 MiB/s at best, 800 at worst.
        assert!(
            (forecast.duration_s.low - 2.548).abs() < 1e-9 && (forecast.duration_s.high - 7.56).abs() < 1e-9
        );
        assert!(!forecast.diverges);
    }

    /// "the difference of memory content between the migrating and migrated machine stays the same,
    /// or even gets larger" (§2.2.2)
    #[test]
    fn a_dirty_rate_above_the_band_diverges_and_names_the_rate_that_would_do() {
        let busy = figures(4096, &[90.0, 120.0], None);
        let forecast = busy.at(1000.0, live(300.0));
        assert!(forecast.diverges);
        let needed = busy.rate_needed(live(300.0)).unwrap();
        assert!(!busy.at(needed, live(300.0)).diverges);
        assert!(
            busy.at(needed - 2.0, live(300.0)).diverges,
            "{needed} is the least rate"
        );
    }

    #[test]
    fn the_working_set_caps_what_is_left() {
        // 120 MiB/s would not converge, but only 20 MiB are ever dirty: 20 MiB pass in 300 ms at
        // 95 MiB/s.
        assert!(
            !figures(4096, &[120.0], Some(20.0))
                .at(1000.0, live(300.0))
                .diverges
        );
    }

    #[test]
    fn every_end_of_the_interval_grows_with_the_dirty_rate() {
        let mut before = figures(4096, &[0.0], None).at(5000.0, live(300.0));
        for dirty in 1..60 {
            let next = figures(4096, &[f64::from(dirty * 5)], None).at(5000.0, live(300.0));
            assert!(
                next.duration_s.high >= before.duration_s.high,
                "at {} MiB/s",
                dirty * 5
            );
            assert!(next.blackout_ms.high >= before.blackout_ms.high || next.diverges);
            for interval in [next.duration_s, next.blackout_ms, next.carried_mib] {
                assert!(interval.low <= interval.high, "at {} MiB/s: {next:?}", dirty * 5);
            }
            before = next;
        }
    }
}
