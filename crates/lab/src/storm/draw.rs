//! What happens in a round, drawn from the seed and the round's number alone. Pure.
//!
//! The same seed and round give the same plan. What the plan names by number (a batch, a VM) is
//! taken modulo what the move turns out to have.

use serde::{Deserialize, Serialize};
use transhume_protocol::step::Step;

use super::fault::Fault;
use crate::chance::Chance;

/// Most faults in one round.
const STRIKES_MAX: u64 = 3;
/// Longest time from a trigger to its strike; short ones are much more likely.
const DELAY_MS_MAX: u64 = 80;
/// A fault holds for a time between these.
const HOLD_MS_MIN: u64 = 20;
const HOLD_MS_MAX: u64 = 8_000;
/// A clock steps by at most this, ahead or back.
const CLOCK_STEP_MS_MAX: u64 = 3_600_000;

/// k of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BatchSize {
    /// So many at a time.
    Of(usize),
    /// All at once.
    All,
}

impl BatchSize {
    /// k where so many VMs move.
    pub fn of(self, vms: usize) -> usize {
        match self {
            BatchSize::Of(k) => k.clamp(1, vms.max(1)),
            BatchSize::All => vms.max(1),
        }
    }
}

/// What a strike waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// The batch entered this step.
    Entered(Step),
    /// The journal holds the batch's `Committed`.
    Committed,
}

/// When a strike falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Which batch, modulo their number.
    pub turn: usize,
    /// After what.
    pub trigger: Trigger,
    /// How long after it.
    pub delay_ms: u64,
}

/// One fault of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStrike {
    /// What.
    pub fault: Fault,
    /// When.
    pub moment: Moment,
    /// Which VM of the batch it is about, modulo their number.
    pub pick: usize,
    /// How long it holds: until a killed part is started again, a frozen one goes on, a cut is
    /// whole.
    pub hold_ms: u64,
    /// How far a clock steps.
    pub clock_step_ms: i64,
}

/// One round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundPlan {
    /// The storm's seed.
    pub seed: u64,
    /// The round's number, from 1.
    pub round: u64,
    /// k.
    pub batch: BatchSize,
    /// The faults; none in a calm round.
    pub strikes: Vec<PlannedStrike>,
}

impl RoundPlan {
    /// The plan of one round; `faults` are those to choose from, `batch` fixes k.
    pub fn draw(seed: u64, round: u64, faults: &[Fault], batch: Option<usize>) -> Self {
        let mut chance = Chance::of_round(seed, round);
        let drawn = match chance.below(3) {
            0 => BatchSize::Of(1),
            1 => BatchSize::Of(2),
            _ => BatchSize::All,
        };
        let count = match chance.below(20) {
            _ if faults.is_empty() => 0,
            0..=12 => 1,
            13..=17 => 2,
            _ => STRIKES_MAX,
        };
        RoundPlan {
            seed,
            round,
            batch: batch.map_or(drawn, BatchSize::Of),
            strikes: (0..count)
                .map(|_| PlannedStrike::draw(&mut chance, faults))
                .collect(),
        }
    }
}

impl PlannedStrike {
    fn draw(chance: &mut Chance, faults: &[Fault]) -> Self {
        let fault = *chance.weighted(faults, |fault| fault.weight());
        let trigger = draw_trigger(chance);
        let ahead = chance.below(2) == 0;
        let step = chance.spread(100, CLOCK_STEP_MS_MAX) as i64;
        PlannedStrike {
            fault,
            moment: Moment {
                turn: chance.below(64) as usize,
                trigger,
                delay_ms: chance.dense_near_zero(DELAY_MS_MAX),
            },
            pick: chance.below(64) as usize,
            hold_ms: chance.spread(HOLD_MS_MIN, HOLD_MS_MAX),
            clock_step_ms: if ahead { step } else { -step },
        }
    }
}

fn draw_trigger(chance: &mut Chance) -> Trigger {
    *chance.weighted(&TRIGGERS, |trigger| trigger.weight())
}

/// A moment as any fault's.
pub(super) fn draw_moment(chance: &mut Chance) -> Moment {
    Moment {
        trigger: draw_trigger(chance),
        turn: chance.below(64) as usize,
        delay_ms: chance.dense_near_zero(DELAY_MS_MAX),
    }
}

const TRIGGERS: [Trigger; 11] = [
    Trigger::Entered(Step::SelectBatch),
    Trigger::Entered(Step::StartPreCopy),
    Trigger::Entered(Step::CreateSourceBuffers),
    Trigger::Entered(Step::CreateTargetBuffers),
    Trigger::Entered(Step::Capture),
    Trigger::Entered(Step::StopAndCopy),
    Trigger::Entered(Step::Commit),
    Trigger::Committed,
    Trigger::Entered(Step::Activate),
    Trigger::Entered(Step::CloseBuffers),
    Trigger::Entered(Step::NextBatch),
];

impl Trigger {
    /// Dense around the switchover: steps 4 to 9.
    fn weight(&self) -> u64 {
        match self {
            Trigger::Committed => 4,
            Trigger::Entered(step) if (4..=9).contains(&step.number()) => 4,
            Trigger::Entered(_) => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plans() -> Vec<RoundPlan> {
        (1..=20_000)
            .map(|round| RoundPlan::draw(7, round, &Fault::ALL, None))
            .collect()
    }

    #[test]
    fn seed_and_round_alone_decide() {
        assert_eq!(plans(), plans());
        let of = |seed, round| RoundPlan::draw(seed, round, &Fault::ALL, None).strikes;
        assert_ne!(of(7, 1), of(7, 2));
        assert_ne!(of(7, 1), of(8, 1));
        assert_ne!(of(7, 2), of(8, 1), "no seed repeats its neighbour's rounds");
    }

    #[test]
    fn every_fault_at_every_moment_is_drawn_and_stays_in_its_limits() {
        let plans = plans();
        let strikes: Vec<_> = plans.iter().flat_map(|plan| &plan.strikes).collect();
        for fault in Fault::ALL {
            for trigger in TRIGGERS {
                let drawn = |s: &&&PlannedStrike| s.fault == fault && s.moment.trigger == trigger;
                assert!(strikes.iter().any(|s| drawn(&s)), "{fault} at {trigger:?}");
            }
        }
        for strike in &strikes {
            assert!(strike.moment.delay_ms <= DELAY_MS_MAX);
            assert!((HOLD_MS_MIN..=HOLD_MS_MAX).contains(&strike.hold_ms));
            assert!(strike.clock_step_ms.unsigned_abs() <= CLOCK_STEP_MS_MAX);
        }
        for plan in &plans {
            assert!((1..=STRIKES_MAX as usize).contains(&plan.strikes.len()));
        }
    }

    #[test]
    fn strikes_are_dense_around_the_switchover_and_right_after_their_trigger() {
        let plans = plans();
        let strikes: Vec<_> = plans.iter().flat_map(|plan| &plan.strikes).collect();
        let share = |what: &dyn Fn(&PlannedStrike) -> bool| {
            strikes.iter().filter(|strike| what(strike)).count() * 100 / strikes.len()
        };
        assert!(share(&|strike| strike.moment.trigger.weight() > 1) > 80);
        assert!(share(&|strike| strike.moment.delay_ms <= DELAY_MS_MAX / 8) >= 48);
    }

    #[test]
    fn k_is_drawn_or_fixed_and_never_more_than_what_moves() {
        let sizes = plans();
        for size in [BatchSize::Of(1), BatchSize::Of(2), BatchSize::All] {
            assert!(sizes.iter().any(|plan| plan.batch == size), "{size:?}");
        }
        assert_eq!(RoundPlan::draw(1, 1, &[], Some(3)).batch, BatchSize::Of(3));
        assert_eq!((BatchSize::Of(3).of(2), BatchSize::All.of(8)), (2, 8));
    }

    #[test]
    fn without_faults_nothing_strikes() {
        let calm = (1..=50).all(|round| RoundPlan::draw(1, round, &[], None).strikes.is_empty());
        assert!(calm);
    }
}
