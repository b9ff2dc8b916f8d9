//! One drain, pure: what is the case goes in, what to do next comes out (`docs/design/drain.md`).

use std::collections::{BTreeMap, BTreeSet};

use transhume_api::{DrainMove, DrainStage, DrainStay, MoveOrder};
use transhume_model::{ClusterName, MigrationId, Millis};
use transhume_protocol::migration::words;
use transhume_protocol::report::Ending;

use crate::journal::DrainRecord;

/// Moves of one cluster that end in anything but commit before it is left where it is.
const TRIES_MAX: usize = 2;
/// How often hosts of which none answers are asked.
const ASKED_MAX: u32 = 24;
/// Time between two such tries.
const ASK_AGAIN: Millis = Millis(5_000);

/// Of so many clusters that stay it is kept why: a record has its bounds.
const STAYS_KEPT_MAX: usize = 4_096;

/// What a drain does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// What is next is to be found out.
    Nothing,
    /// A plan is being made.
    Planning,
    /// A move of it is under way.
    Moving(MigrationId),
    /// Until something else is over that a cluster, or the links, are in use for.
    WaitingForOthers,
    /// Until then: no host of it answers.
    WaitingForHosts(Millis),
}

/// What is the case.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// Clusters with VMs on the drain's hosts.
    pub(crate) left: BTreeSet<ClusterName>,
    /// Those of them that something else is going on with.
    pub(crate) busy: BTreeSet<ClusterName>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// Survey and plan for these clusters, as ordered.
    Plan(BTreeSet<ClusterName>, MoveOrder),
    /// The drain is over; its record is to be kept.
    End(Box<DrainRecord>),
}

/// What came of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Planned {
    /// A move began.
    Begun(ClusterName, MigrationId),
    /// Things changed meanwhile.
    Replan,
    /// Nothing can be begun until moves of others are over.
    LinksTaken,
    /// Nothing can be begun.
    Nothing,
    /// A host was in the way of the plan.
    Unreachable,
}

/// One drain.
#[derive(Debug)]
pub(crate) struct Drain {
    pub(crate) record: DrainRecord,
    doing: Doing,
    asked: u32,
    /// Whom the plan under way is for.
    planned_for: BTreeSet<ClusterName>,
}

impl Drain {
    /// One that begins, or is taken up from the journal. `outcome` knows of moves that are over,
    /// `Some(None)` of those under way, and `None` of those that never began.
    pub(crate) fn new(
        mut record: DrainRecord,
        outcome: impl Fn(MigrationId) -> Option<Option<Ending>>,
    ) -> Self {
        let mut doing = Doing::Nothing;
        record.moves.retain_mut(|one| match outcome(one.migration) {
            _ if one.outcome.is_some() => true,
            Some(ended) => {
                one.outcome = ended;
                if ended.is_none() {
                    doing = Doing::Moving(one.migration);
                }
                true
            }
            None => false,
        });
        Self {
            record,
            doing,
            asked: 0,
            planned_for: BTreeSet::new(),
        }
    }

    pub(crate) fn doing(&self) -> Doing {
        self.doing
    }

    pub(crate) fn is_over(&self) -> bool {
        self.record.stage != DrainStage::Running
    }

    /// What to do now, if anything.
    pub(crate) fn next(&mut self, world: &World) -> Option<Next> {
        if self.is_over() || self.doing != Doing::Nothing {
            return None;
        }
        let failed = self.failed();
        let out = |cluster: &&ClusterName| failed.get(*cluster).is_none_or(|tries| *tries < TRIES_MAX);
        let to_move: BTreeSet<&ClusterName> = world.left.iter().filter(out).collect();
        if self.record.cancelled {
            return Some(self.end(DrainStage::Cancelled));
        }
        if world.left.is_empty() {
            self.record.stays.clear();
            return Some(self.end(DrainStage::Done));
        }
        if to_move.is_empty() {
            return Some(self.end(DrainStage::Partly));
        }
        let free: BTreeSet<ClusterName> = to_move
            .into_iter()
            .filter(|cluster| !world.busy.contains(*cluster))
            .cloned()
            .collect();
        if free.is_empty() {
            self.doing = Doing::WaitingForOthers;
            return None;
        }
        self.doing = Doing::Planning;
        self.planned_for.clone_from(&free);
        Some(Next::Plan(free, self.record.order.clone()))
    }

    fn end(&mut self, stage: DrainStage) -> Next {
        self.record.stage = stage;
        Next::End(Box::new(self.record.clone()))
    }

    /// Clusters that may still go and that the plan was not for, and whether they are busy.
    fn others<'a>(&'a self, world: &'a World) -> impl Iterator<Item = (&'a ClusterName, bool)> {
        let failed = self.failed();
        let tries = move |cluster: &ClusterName| failed.get(cluster).copied().unwrap_or(0);
        let left = world
            .left
            .iter()
            .filter(move |cluster| tries(cluster) < TRIES_MAX);
        let left = left.filter(|cluster| !self.planned_for.contains(*cluster));
        left.map(|cluster| (cluster, world.busy.contains(cluster)))
    }

    /// Moves of each cluster that ended in anything but commit.
    fn failed(&self) -> BTreeMap<ClusterName, usize> {
        let mut failed: BTreeMap<ClusterName, usize> = BTreeMap::new();
        let over = self
            .record
            .moves
            .iter()
            .filter_map(|one| Some((one, one.outcome?)));
        for (one, _) in over.filter(|(_, outcome)| !committed(*outcome)) {
            *failed.entry(one.cluster.clone()).or_default() += 1;
        }
        failed
    }

    /// The plan is made: `stays` are the VMs and clusters that cannot be moved as things are.
    pub(crate) fn planned(&mut self, now: Millis, planned: Planned, stays: Vec<DrainStay>, world: &World) {
        if self.doing != Doing::Planning {
            return;
        }
        self.record.stays = kept(stays);
        if planned != Planned::Unreachable {
            self.asked = 0;
        }
        self.doing = match planned {
            Planned::Begun(cluster, migration) => {
                self.record.moves.push(DrainMove {
                    cluster,
                    migration,
                    outcome: None,
                });
                Doing::Moving(migration)
            }
            Planned::Replan => Doing::Nothing,
            Planned::LinksTaken => Doing::WaitingForOthers,
            // Who became free meanwhile was not planned for.
            Planned::Nothing if self.others(world).any(|(_, busy)| !busy) => Doing::Nothing,
            Planned::Nothing if self.others(world).any(|(_, busy)| busy) => Doing::WaitingForOthers,
            Planned::Nothing => {
                self.record.stage = DrainStage::Partly;
                Doing::Nothing
            }
            Planned::Unreachable if self.asked < ASKED_MAX => {
                self.asked += 1;
                Doing::WaitingForHosts(now + ASK_AGAIN)
            }
            Planned::Unreachable => {
                self.record.stage = DrainStage::Partly;
                Doing::Nothing
            }
        };
    }

    /// A move is over, of this drain or of others. Whether the record changed by it.
    pub(crate) fn move_over(&mut self, migration: MigrationId, outcome: Ending) -> bool {
        self.others_over();
        let mut moves = self.record.moves.iter_mut();
        let Some(own) = moves.find(|one| one.migration == migration) else {
            return false;
        };
        own.outcome = Some(outcome);
        if self.doing == Doing::Moving(migration) {
            self.doing = Doing::Nothing;
        }
        true
    }

    /// Something else is over that clusters, or the links, were in use for.
    pub(crate) fn others_over(&mut self) {
        if self.doing == Doing::WaitingForOthers {
            self.doing = Doing::Nothing;
        }
    }

    /// Nothing more is begun.
    pub(crate) fn cancel(&mut self) {
        self.record.cancelled = true;
        if matches!(self.doing, Doing::WaitingForOthers | Doing::WaitingForHosts(_)) {
            self.doing = Doing::Nothing;
        }
    }

    pub(crate) fn next_due(&self) -> Option<Millis> {
        match self.doing {
            Doing::WaitingForHosts(until) if !self.is_over() => Some(until),
            _ => None,
        }
    }

    pub(crate) fn due(&mut self, now: Millis) {
        if self.next_due().is_some_and(|until| until <= now) {
            self.doing = Doing::Nothing;
        }
    }
}

/// What is kept of those that stay. Who is left, the clusters' own records say.
fn kept(mut stays: Vec<DrainStay>) -> Vec<DrainStay> {
    stays.truncate(STAYS_KEPT_MAX);
    for stay in &mut stays {
        stay.why = words(&stay.why);
    }
    stays
}

/// Whether all that a move was to move is at its target.
fn committed(outcome: Ending) -> bool {
    match outcome {
        Ending::Committed | Ending::CommittedWithLoss => true,
        Ending::Running | Ending::RolledBack | Ending::PartlyCommitted | Ending::Refused => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transhume_model::{DrainId, WallMicros};
    use transhume_protocol::migration::WORDS_BYTES_MAX;

    fn name(text: &str) -> ClusterName {
        text.parse().unwrap()
    }

    fn names(list: &[&str]) -> BTreeSet<ClusterName> {
        list.iter().map(|text| name(text)).collect()
    }

    fn world(left: &[&str], busy: &[&str]) -> World {
        World {
            left: names(left),
            busy: names(busy),
        }
    }

    fn record() -> DrainRecord {
        DrainRecord::new(DrainId(1), Vec::new(), MoveOrder::default(), WallMicros(0))
    }

    fn drain() -> Drain {
        Drain::new(record(), |_| None)
    }

    #[track_caller]
    fn planned_for(next: Option<Next>) -> BTreeSet<ClusterName> {
        match next {
            Some(Next::Plan(clusters, _)) => clusters,
            other => panic!("not a plan: {other:?}"),
        }
    }

    const M: [MigrationId; 3] = [MigrationId(1), MigrationId(2), MigrationId(3)];
    const NOW: Millis = Millis(0);

    fn begun(drain: &mut Drain, world: &World, cluster: &str, migration: MigrationId) {
        assert!(matches!(drain.next(world), Some(Next::Plan(..))));
        assert_eq!(drain.next(world), None, "one plan at a time");
        drain.planned(
            NOW,
            Planned::Begun(name(cluster), migration),
            Vec::new(),
            &World::default(),
        );
        assert_eq!(drain.doing(), Doing::Moving(migration));
    }

    #[test]
    fn one_cluster_goes_after_the_other_until_none_is_left() {
        let mut drain = drain();
        begun(&mut drain, &world(&["a", "b"], &[]), "a", M[0]);
        assert!(!drain.move_over(M[2], Ending::Committed), "somebody else's");
        assert_eq!(drain.next(&world(&["b"], &[])), None, "its move is under way");
        assert!(drain.move_over(M[0], Ending::Committed));
        begun(&mut drain, &world(&["b"], &[]), "b", M[1]);
        drain.move_over(M[1], Ending::CommittedWithLoss);
        assert!(matches!(drain.next(&world(&[], &[])), Some(Next::End(_))));
        assert_eq!(drain.record.stage, DrainStage::Done);
        assert_eq!(drain.next(&world(&[], &[])), None);
    }

    #[test]
    fn a_cluster_whose_moves_fail_twice_stays_and_the_others_go() {
        let mut drain = drain();
        let both = world(&["a", "b"], &[]);
        for migration in [M[0], M[1]] {
            begun(&mut drain, &both, "a", migration);
            drain.move_over(migration, Ending::RolledBack);
        }
        assert_eq!(planned_for(drain.next(&both)), names(&["b"]));
        drain.planned(
            NOW,
            Planned::Begun(name("b"), M[2]),
            Vec::new(),
            &World::default(),
        );
        drain.move_over(M[2], Ending::Committed);
        assert!(matches!(drain.next(&world(&["a"], &[])), Some(Next::End(_))));
        assert_eq!(drain.record.stage, DrainStage::Partly);
    }

    #[test]
    fn what_others_use_is_waited_for() {
        let mut drain = drain();
        assert_eq!(drain.next(&world(&["a"], &["a"])), None);
        assert_eq!(drain.doing(), Doing::WaitingForOthers);
        drain.move_over(M[0], Ending::RolledBack);
        assert!(matches!(drain.next(&world(&["a"], &[])), Some(Next::Plan(..))));
        drain.planned(NOW, Planned::LinksTaken, Vec::new(), &World::default());
        assert_eq!(drain.doing(), Doing::WaitingForOthers);
        drain.move_over(M[1], Ending::Committed);
        assert!(matches!(
            drain.next(&world(&["a", "b"], &["b"])),
            Some(Next::Plan(..))
        ));
        drain.planned(NOW, Planned::Nothing, Vec::new(), &world(&["a", "b"], &["b"]));
        assert_eq!(drain.doing(), Doing::WaitingForOthers, "b may still go");
    }

    #[test]
    fn who_becomes_free_while_a_plan_is_made_is_planned_for_too() {
        let mut drain = drain();
        drain.next(&world(&["a", "b"], &["b"]));
        drain.planned(NOW, Planned::Nothing, Vec::new(), &world(&["a", "b"], &[]));
        assert_eq!(
            planned_for(drain.next(&world(&["a", "b"], &[]))),
            names(&["a", "b"])
        );
        drain.planned(NOW, Planned::Nothing, Vec::new(), &world(&["a", "b"], &[]));
        assert_eq!(drain.record.stage, DrainStage::Partly, "both were planned for");
    }

    #[test]
    fn where_nothing_can_be_begun_it_ends_and_says_why() {
        let mut drain = drain();
        drain.next(&world(&["a"], &[]));
        let stay = DrainStay {
            cluster: name("a"),
            vms: Vec::new(),
            why: "no room".to_owned(),
        };
        drain.planned(NOW, Planned::Nothing, vec![stay.clone()], &World::default());
        assert_eq!(
            (drain.record.stage, &drain.record.stays),
            (DrainStage::Partly, &vec![stay])
        );
        assert_eq!(drain.next(&world(&["a"], &[])), None);
    }

    #[test]
    fn of_very_many_that_stay_some_are_kept_with_short_reasons() {
        let mut drain = drain();
        drain.next(&world(&["a"], &[]));
        let stay = DrainStay {
            cluster: name("a"),
            vms: Vec::new(),
            why: "no room ".repeat(1_000),
        };
        let stays = vec![stay; STAYS_KEPT_MAX + 1];
        drain.planned(NOW, Planned::Nothing, stays, &World::default());
        assert_eq!(drain.record.stays.len(), STAYS_KEPT_MAX);
        let why = &drain.record.stays[0].why;
        assert!(
            why.len() <= WORDS_BYTES_MAX && why.starts_with("no room"),
            "{why}"
        );
    }

    #[test]
    fn hosts_that_do_not_answer_are_asked_again_and_not_for_ever() {
        let mut drain = drain();
        let one = world(&["a"], &[]);
        let stay = DrainStay {
            cluster: name("a"),
            vms: Vec::new(),
            why: "h1 does not answer".to_owned(),
        };
        for _ in 0..ASKED_MAX {
            assert!(matches!(drain.next(&one), Some(Next::Plan(..))));
            drain.planned(NOW, Planned::Unreachable, vec![stay.clone()], &World::default());
            assert_eq!(drain.next(&one), None);
            drain.due(NOW);
            assert_eq!(drain.next(&one), None, "it is not time yet");
            drain.due(drain.next_due().expect("it waits"));
        }
        assert!(matches!(drain.next(&one), Some(Next::Plan(..))));
        drain.planned(NOW, Planned::Unreachable, vec![stay.clone()], &World::default());
        assert_eq!(
            (drain.record.stage, &drain.record.stays),
            (DrainStage::Partly, &vec![stay])
        );
    }

    #[test]
    fn a_cancelled_drain_begins_nothing_more() {
        let mut drain = drain();
        let one = world(&["a", "b"], &[]);
        begun(&mut drain, &one, "a", M[0]);
        drain.cancel();
        assert_eq!(drain.next(&one), None, "its move goes on");
        drain.move_over(M[0], Ending::Committed);
        assert!(matches!(drain.next(&world(&["b"], &[])), Some(Next::End(_))));
        assert_eq!(drain.record.stage, DrainStage::Cancelled);
    }

    #[test]
    fn a_drain_is_taken_up_wherever_its_move_is() {
        let moved = |outcome| DrainMove {
            cluster: name("a"),
            migration: M[0],
            outcome,
        };
        let record = |outcome| DrainRecord {
            moves: vec![moved(outcome)],
            ..record()
        };
        let under_way = Drain::new(record(None), |_| Some(None));
        assert_eq!(under_way.doing(), Doing::Moving(M[0]));
        let over = Drain::new(record(None), |_| Some(Some(Ending::RolledBack)));
        assert_eq!(over.record.moves[0].outcome, Some(Ending::RolledBack));
        assert_eq!(over.doing(), Doing::Nothing);
        let never_began = Drain::new(record(None), |_| None);
        assert!(never_began.record.moves.is_empty());
        let long_over = Drain::new(record(Some(Ending::Committed)), |_| None);
        assert_eq!(long_over.record.moves.len(), 1);
    }
}
