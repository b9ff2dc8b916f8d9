//! Follows one move, lets the round's faults fall at their moments, and decides what it waits for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use transhume_api::ClientError;
use transhume_lab::storm::{
    Boldness, Fault, Pair, PlannedStrike, RoundPlan, Struck, Trigger, VmPlace, strike,
};
use transhume_model::{MigrationId, VmName};
use transhume_protocol::event::{Event, Happening};

use super::resolve::resolve;
use super::scene::Scene;
use crate::failure::Failure;

/// A move that takes longer hangs. Faults hold for seconds; the slowest wait of the product is a
/// minute.
pub const MOVE_MAX: Duration = Duration::from_secs(120);
/// Pause before a coordinator that was killed is asked for events again.
const RECONNECT: Duration = Duration::from_millis(50);

/// What was seen of a move while it ran.
#[derive(Debug, Default)]
pub struct Course {
    pub events: Vec<Event>,
    pub struck: Vec<Struck>,
    pub missed: Vec<Fault>,
    /// Decisions that the move waited for, with what was decided.
    pub decided: Vec<String>,
    pub ended: bool,
}

impl Course {
    /// The step that the move was in at a time: 0 before the first and after the end.
    pub fn step_at(&self, at_ms: i64) -> u8 {
        let before = self.events.iter().take_while(|event| event_ms(event) <= at_ms);
        before.fold(0, |step, event| match event.what {
            Happening::StepEntered { step, .. } => step.number(),
            Happening::Ended { .. } => 0,
            _ => step,
        })
    }

    /// When the journal held each batch's `Committed`.
    pub fn committed_at_ms(&self) -> BTreeMap<usize, i64> {
        let committed = self.events.iter().filter_map(|event| match event.what {
            Happening::Committed { batch } => Some((batch, event_ms(event))),
            _ => None,
        });
        committed.collect()
    }
}

fn event_ms(event: &Event) -> i64 {
    event.at.0 as i64 / 1000
}

/// Faults that have not fallen yet.
struct Waiting<'a> {
    strikes: Vec<PlannedStrike>,
    places: &'a [VmPlace],
    batches: usize,
}

impl Waiting<'_> {
    /// Takes those whose moment this event is, each with its VM.
    fn due(&mut self, event: &Event) -> Vec<(PlannedStrike, Pair)> {
        let (batch, trigger) = match event.what {
            Happening::StepEntered { batch, step } => (batch, Trigger::Entered(step)),
            Happening::Committed { batch } => (batch, Trigger::Committed),
            _ => return Vec::new(),
        };
        let batches = self.batches.max(1);
        let is_due = |strike: &PlannedStrike| {
            strike.moment.turn % batches + 1 == batch && strike.moment.trigger == trigger
        };
        let (due, later) = self.strikes.drain(..).partition(is_due);
        self.strikes = later;
        let with_pair = |strike: PlannedStrike| Some((strike, self.pair(batch, strike.pick)?));
        Vec::into_iter(due).filter_map(with_pair).collect()
    }

    fn pair(&self, batch: usize, pick: usize) -> Option<Pair> {
        let vms: Vec<_> = self.places.iter().filter(|place| place.batch == batch).collect();
        let place = vms.get(pick % vms.len().max(1))?;
        Some(Pair {
            vm: place.vm.clone(),
            source: place.source.clone(),
            target: place.target.clone(),
        })
    }
}

/// Follows the move until it is over or takes too long; returns when every fault that fell is
/// undone.
pub async fn follow(
    scene: &Scene,
    migration: MigrationId,
    plan: &RoundPlan,
    places: &[VmPlace],
) -> Result<Course, Failure> {
    let mut waiting = Waiting {
        strikes: plan.strikes.clone(),
        places,
        batches: places.iter().map(|place| place.batch).max().unwrap_or(1),
    };
    let mut course = Course::default();
    let mut falling = JoinSet::new();
    let deadline = Instant::now() + MOVE_MAX;
    while !course.ended && Instant::now() < deadline {
        let after = course.events.last().map_or(0, |event| event.number);
        let left = deadline.saturating_duration_since(Instant::now());
        // Without a coordinator there are no events; it is started again by the strike that killed
        // it.
        let listened = tokio::time::timeout(
            left,
            listen(scene, migration, after, &mut waiting, &mut course, &mut falling),
        );
        if let Ok(Err(_)) = listened.await {
            tokio::time::sleep(RECONNECT).await;
        }
    }
    while let Some(struck) = falling.join_next().await {
        course.struck.push(struck.map_err(|error| Failure::of(&error))?);
    }
    course
        .missed
        .extend(waiting.strikes.iter().map(|strike| strike.fault));
    Ok(course)
}

/// One connection's events.
async fn listen(
    scene: &Scene,
    migration: MigrationId,
    after: u64,
    waiting: &mut Waiting<'_>,
    course: &mut Course,
    falling: &mut JoinSet<Struck>,
) -> Result<(), Failure> {
    let mut events = scene.client.events(migration, after).await?;
    while let Some(event) = events.next().await? {
        for (planned, pair) in waiting.due(&event) {
            let lab = scene.shared();
            falling.spawn_blocking(move || {
                std::thread::sleep(Duration::from_millis(planned.moment.delay_ms));
                strike(&lab, &planned, &pair)
            });
        }
        if let Happening::DecisionWanted { vm, .. } = &event.what {
            decide(scene, migration, vm, course).await?;
        }
        course.ended |= matches!(event.what, Happening::Ended { .. });
        course.events.push(event);
        if course.ended {
            return Ok(());
        }
    }
    Err(Failure::other("the events end before the move"))
}

/// A VM that may have run on its target is given up: the storm's guests count what they received,
/// and a copy that was put back would count it again.
async fn decide(
    scene: &Scene,
    migration: MigrationId,
    vm: &VmName,
    course: &mut Course,
) -> Result<(), Failure> {
    match resolve(scene, migration, vm, Boldness::GivesUp).await {
        Ok(what) => course.decided.push(format!("{vm} {what}")),
        // It is decided, and the coordinator was struck before it said so.
        Err(ClientError::Problem(_)) => {}
        // The event comes again.
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
