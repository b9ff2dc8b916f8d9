//! How long a VM's move takes and how long it is dark: pre-copy as a geometric model (§1.2 phase 3, §2.2.2).
//!
//! ```text
//! round 0 carries the touched memory M;  round i carries what was dirtied meanwhile:  min(W, D · t(i-1))
//! ends when what is left passes in the time allowed for the blackout
//! ```
//!
//! M, the dirty rate D, the writable working set W and the share c that compression leaves are intervals: measured where figures are
//! given, else assumed and named. The ends of each result are the model at the ends of its inputs; it is monotone in each of them.

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
const REACHED: Interval = Interval { low: 0.8, high: 1.0 };
/// Device state, switching plugs, loading: part of every blackout, milliseconds.
const SWITCH_MS: Interval = Interval { low: 5.0, high: 60.0 };
/// Preparing the target and closing the buffers, seconds.
const OVERHEAD_S: Interval = Interval { low: 0.5, high: 5.0 };
/// Mbit in a MiB.
const MBIT_PER_MIB: f64 = 8.388_608;

/// One VM's figures, measured or assumed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figures {
    memory_mib: Interval,
    dirty_mib_s: Interval,
    working_set_mib: Interval,
    compressed: Interval,
    /// Whether a refusal stands on measured figures.
    pub dirty_known: bool,
    pub assumed: Vec<String>,
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
        let mut assumed = Vec::new();
        let mut or_assume = |known: Option<Interval>, assumption: Interval, what: String| {
            known.unwrap_or_else(|| {
                assumed.push(what);
                assumption
            })
        };
        let touched = vm.memory.touched_mib.map(|mib| {
            let mib = mib.min(whole);
            Interval { low: mib, high: mib }
        });
        let memory_mib = or_assume(
            touched,
            TOUCHED.map(|s| s * whole),
            "30 to 100 % of the memory is in use".into(),
        );
        let dirty_mib_s = or_assume(
            ends(&vm.memory.dirty_mib_s),
            DIRTY_MIB_S,
            "0 to 50 MiB/s are dirtied".into(),
        );
        let known = vm
            .memory
            .working_set_mib
            .map(|mib| Interval { low: mib, high: mib });
        let all = Interval {
            low: 0.0,
            high: memory_mib.high,
        };
        let working_set_mib = or_assume(known, all, "any part of the memory may be written".into());
        let compressed = or_assume(
            ends(&vm.memory.compressed_to),
            COMPRESSED,
            "compression leaves 30 to 100 %".into(),
        );
        Self {
            memory_mib,
            dirty_mib_s,
            working_set_mib,
            compressed,
            dirty_known: !vm.memory.dirty_mib_s.is_empty(),
            assumed,
        }
    }

    /// What to expect at a rate, with the blackout wanted.
    pub fn at(&self, rate_mbit_s: f64, blackout_ms_max: f64) -> Forecast {
        let best = self.run(true, rate_mbit_s, blackout_ms_max);
        let worst = self.run(false, rate_mbit_s, blackout_ms_max);
        let interval = |low, high| Interval { low, high };
        Forecast {
            carried_mib: interval(best.carried, worst.carried),
            duration_s: interval(best.seconds, worst.seconds).plus(OVERHEAD_S),
            blackout_ms: interval(best.blackout_ms, worst.blackout_ms).plus(SWITCH_MS),
            rounds: interval(f64::from(best.rounds), f64::from(worst.rounds)),
            diverges: !worst.converged,
        }
    }

    /// The least rate at which even the worst case converges.
    pub fn rate_needed(&self, blackout_ms_max: f64) -> Option<f64> {
        let does = |rate| self.run(false, rate, blackout_ms_max).converged;
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

    fn run(&self, best: bool, rate_mbit_s: f64, blackout_ms_max: f64) -> Run {
        let end = |i: Interval| if best { i.low } else { i.high };
        let reached = if best { REACHED.high } else { REACHED.low };
        let mib_s = (rate_mbit_s * reached / MBIT_PER_MIB).max(1e-9);
        let left_max = mib_s * blackout_ms_max / 1000.0;
        let shrink = end(self.compressed);
        let mut run = Run::default();
        let mut left = end(self.memory_mib);
        while left * shrink > left_max && run.rounds < ROUNDS_MAX {
            let seconds = left * shrink / mib_s;
            run.carried += left * shrink;
            run.seconds += seconds;
            run.rounds += 1;
            let dirtied = (end(self.dirty_mib_s) * seconds)
                .min(end(self.working_set_mib))
                .min(end(self.memory_mib));
            let stuck = dirtied >= left * (1.0 - 1e-9) && dirtied * shrink > left_max;
            left = dirtied;
            if stuck && run.rounds > 1 {
                break;
            }
        }
        run.converged = left * shrink <= left_max;
        run.carried += left * shrink;
        run.seconds += left * shrink / mib_s;
        run.blackout_ms = left * shrink / mib_s * 1000.0;
        run
    }
}

#[derive(Default)]
struct Run {
    carried: f64,
    seconds: f64,
    blackout_ms: f64,
    rounds: u32,
    converged: bool,
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

    #[test]
    fn an_idle_vm_is_carried_once() {
        let forecast = figures(2048, &[0.0], None).at(8388.608, 100.0);
        assert_eq!(
            (forecast.carried_mib.low, forecast.carried_mib.high),
            (2048.0, 2048.0)
        );
        // 1000 MiB/s at best, 800 at worst.
        assert!(
            (forecast.duration_s.low - 2.548).abs() < 1e-9 && (forecast.duration_s.high - 7.56).abs() < 1e-9
        );
        assert!(!forecast.diverges);
    }

    /// "the difference of memory content between the migrating and migrated machine stays the same, or even gets larger" (§2.2.2)
    #[test]
    fn a_dirty_rate_above_the_band_diverges_and_names_the_rate_that_would_do() {
        let busy = figures(4096, &[90.0, 120.0], None);
        let forecast = busy.at(1000.0, 300.0);
        assert!(forecast.diverges);
        let needed = busy.rate_needed(300.0).unwrap();
        assert!(!busy.at(needed, 300.0).diverges);
        assert!(
            busy.at(needed - 2.0, 300.0).diverges,
            "{needed} is the least rate"
        );
    }

    #[test]
    fn the_working_set_caps_what_is_left() {
        // 120 MiB/s would not converge, but only 20 MiB are ever dirty: 20 MiB pass in 300 ms at 95 MiB/s.
        assert!(!figures(4096, &[120.0], Some(20.0)).at(1000.0, 300.0).diverges);
    }

    #[test]
    fn every_end_of_the_interval_grows_with_the_dirty_rate() {
        let mut before = figures(4096, &[0.0], None).at(5000.0, 300.0);
        for dirty in 1..60 {
            let next = figures(4096, &[f64::from(dirty * 5)], None).at(5000.0, 300.0);
            assert!(
                next.duration_s.high >= before.duration_s.high,
                "at {} MiB/s",
                dirty * 5
            );
            assert!(next.duration_s.low <= next.duration_s.high);
            before = next;
        }
    }
}
