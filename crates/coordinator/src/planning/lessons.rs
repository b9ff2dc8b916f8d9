//! What a cluster's earlier moves teach about its next one: where in the model's ranges the actual
//! figures lay. A figure that is missing or cannot be true teaches nothing.

use transhume_model::{ClusterName, Interval};
use transhume_planner::lesson::{Lesson, PLACES_MIN};
use transhume_protocol::forecast::{Expected, ForecastVsActual};
use transhume_protocol::message::Mode;
use transhume_protocol::report::{Ending, MigrationReport};

/// The latest moves count; what is older says little of the guests' load of today.
const MOVES_MAX: usize = 8;
/// One move is one state of guests and machines, however many VMs it has.
const MOVES_MIN: usize = 3;

/// One lesson for each figure of a forecast.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Lessons {
    bytes: Lesson,
    duration_ms: Lesson,
    blackout_ms: Lesson,
    /// Of the gap beside what the model says of the blackout: no model knows how often a guest
    /// sends.
    gap_ms: Lesson,
    /// VMs of earlier moves.
    vms: usize,
}

impl Lessons {
    /// From reports, the newest first: of this cluster's committed moves the same way.
    pub(crate) fn of<'a>(
        newest: impl Iterator<Item = &'a MigrationReport>,
        cluster: &ClusterName,
        mode: Mode,
    ) -> Self {
        let alike = |report: &&MigrationReport| {
            report.outcome == Ending::Committed && report.cluster == *cluster && report.mode == mode
        };
        let moves: Vec<&MigrationReport> = newest.filter(alike).take(MOVES_MAX).collect();
        let mut lessons = Self::default();
        if moves.len() < MOVES_MIN {
            return lessons;
        }
        for (report, vm) in moves
            .iter()
            .flat_map(|report| report.vms.iter().map(move |vm| (report, vm)))
        {
            let Some(forecast) = &vm.forecast else { continue };
            let figures = &forecast.figures;
            let modelled = forecast.modelled.unwrap_or(Expected {
                bytes: figures.bytes.forecast,
                duration_ms: figures.duration_ms.forecast,
                blackout_ms: figures.blackout_ms.forecast,
                gap_ms: None,
            });
            let add = |lesson: &mut Lesson, modelled, figure: &ForecastVsActual, max: f64| {
                if let Some(actual) = figure.actual.filter(|actual| (0.0..=max).contains(actual)) {
                    lesson.add(modelled, actual);
                }
            };
            // A blackout spans two hosts and is as wrong as their clocks; the whole move is
            // measured by the coordinator's alone.
            let (bytes_max, ms_max) = (f64::MAX, report.duration_ms);
            add(&mut lessons.bytes, modelled.bytes, &figures.bytes, bytes_max);
            add(
                &mut lessons.duration_ms,
                modelled.duration_ms,
                &figures.duration_ms,
                ms_max,
            );
            add(
                &mut lessons.blackout_ms,
                modelled.blackout_ms,
                &figures.blackout_ms,
                ms_max,
            );
            let gap_ms = vm.gap_ms.filter(|gap_ms| (0.0..=ms_max).contains(gap_ms));
            if let Some(gap_ms) = gap_ms {
                lessons.gap_ms.add(modelled.blackout_ms, gap_ms);
            }
            lessons.vms += 1;
        }
        lessons
    }

    /// What the model says, as earlier moves correct it.
    pub(crate) fn apply(&self, modelled: Expected) -> Expected {
        Expected {
            bytes: self.bytes.applied_to(modelled.bytes),
            duration_ms: self.duration_ms.applied_to(modelled.duration_ms),
            blackout_ms: self.blackout_ms.applied_to(modelled.blackout_ms),
            gap_ms: (self.gap_ms.is_taught() && modelled.blackout_ms.low > 0.0)
                .then(|| self.gap_ms.applied_to(modelled.blackout_ms)),
        }
    }

    /// The same for how long a whole move takes.
    pub(crate) fn duration_ms(&self, modelled: Interval) -> Interval {
        self.duration_ms.applied_to(modelled)
    }

    /// VMs of earlier moves behind the ranges; 0 while the model stands alone.
    pub(crate) fn vms(&self) -> usize {
        if self.vms < PLACES_MIN { 0 } else { self.vms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use transhume_protocol::forecast::{Actual, Comparison};

    const FORECAST: Interval = Interval {
        low: 10.0,
        high: 20.0,
    };

    /// A committed move of 5 s with one VM, whose blackout was this.
    fn report(blackout_ms: Option<f64>) -> MigrationReport {
        let expected = Expected {
            bytes: FORECAST,
            duration_ms: FORECAST,
            blackout_ms: FORECAST,
            gap_ms: None,
        };
        let actual = Actual {
            bytes: Some(12.0),
            duration_ms: Some(12.0),
            blackout_ms,
            gap_ms: None,
        };
        let vm = json!({
            "id": "vm1", "batch": 1, "source": "h1", "target": "h2", "host": "h2",
            "phase": "activation", "blackout_ms": null, "blackout_parts": null, "gap_ms": null,
            "frames": null, "old_path": null, "buffer_peak_bytes": 0, "phases": [],
            "pages": transhume_protocol::message::PageProgress::default(),
            "forecast": { "rate_mbit_s": 1.0, "dirty_mib_s": null, "assumed": [],
                "figures": Comparison::of(&expected, actual) },
        });
        let report = json!({
            "migration": 1, "cluster": "lab", "outcome": "committed", "mode": "live",
            "from": ["h1"], "to": ["h2"], "used": ["h2"], "batch": 1, "started_at": 1,
            "duration_ms": 5_000.0, "trouble": null, "vms": [vm],
            "frames": transhume_protocol::report::Frames::default(),
        });
        serde_json::from_value(report).expect("a report")
    }

    #[test]
    fn a_figure_that_cannot_be_true_teaches_nothing() {
        let taught = |blackout_ms| {
            let reports = vec![report(blackout_ms); MOVES_MAX];
            Lessons::of(reports.iter(), &"lab".parse().unwrap(), Mode::Live)
        };
        let none = taught(None);
        assert_eq!(none.blackout_ms, Lesson::default());
        assert_ne!(none.bytes, Lesson::default(), "the other figures are good");
        let hour_ms = 3_600_056.0;
        for impossible in [hour_ms, -hour_ms, 5_000.1, -0.1] {
            assert_eq!(taught(Some(impossible)), none, "{impossible}");
        }
        assert_ne!(taught(Some(15.0)), none);
    }

    #[test]
    fn gaps_are_learnt_beside_the_modelled_blackout() {
        let taught = |gap_ms: Option<f64>| {
            let mut reports = vec![report(Some(15.0)); MOVES_MAX];
            reports
                .iter_mut()
                .for_each(|report| report.vms[0].gap_ms = gap_ms);
            Lessons::of(reports.iter(), &"lab".parse().unwrap(), Mode::Live)
        };
        let modelled = Expected {
            bytes: FORECAST,
            duration_ms: FORECAST,
            blackout_ms: FORECAST,
            gap_ms: None,
        };
        for unknown in [None, Some(-1.0), Some(5_000.1)] {
            assert_eq!(taught(unknown).apply(modelled).gap_ms, None, "{unknown:?}");
        }
        let gap_ms = taught(Some(60.0)).apply(modelled).gap_ms.expect("it is known");
        assert!(
            gap_ms.holds(60.0) && gap_ms.low > FORECAST.high && gap_ms.high < 65.0,
            "{gap_ms:?}"
        );
        let powered_off = Expected::default();
        assert_eq!(taught(Some(60.0)).apply(powered_off).gap_ms, None);
    }
}
