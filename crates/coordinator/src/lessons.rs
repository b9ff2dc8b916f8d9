//! What a cluster's earlier moves teach about its next one: where in the model's ranges the truths lay.

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
        for vm in moves.iter().flat_map(|report| &report.vms) {
            let Some(forecast) = &vm.forecast else { continue };
            let told = &forecast.figures;
            let modelled = forecast.modelled.unwrap_or(Expected {
                bytes: told.bytes.forecast,
                duration_ms: told.duration_ms.forecast,
                blackout_ms: told.blackout_ms.forecast,
            });
            let mut add = |lesson: fn(&mut Self) -> &mut Lesson, modelled, figure: &ForecastVsActual| {
                if let Some(actual) = figure.actual {
                    lesson(&mut lessons).add(modelled, actual);
                }
            };
            add(|all| &mut all.bytes, modelled.bytes, &told.bytes);
            add(
                |all| &mut all.duration_ms,
                modelled.duration_ms,
                &told.duration_ms,
            );
            add(
                |all| &mut all.blackout_ms,
                modelled.blackout_ms,
                &told.blackout_ms,
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
