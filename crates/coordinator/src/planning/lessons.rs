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
