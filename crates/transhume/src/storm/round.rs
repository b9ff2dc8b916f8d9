//! One round: a move with its faults, then the question whether every promise was kept.

use std::time::{Duration, Instant};

use serde::Serialize;
use transhume_lab::PairFigures;
use transhume_lab::storm::{
    Account, Counts, Facts, MoveSight, RoundLine, RoundPlan, RoundVerdict, Sighting, StruckLine, Verdict,
    VmPlace, judge, look, may_be_lost, revive,
};
use transhume_model::{HostName, MigrationId, VmName};
use transhume_protocol::event::Event;
use transhume_protocol::report::{Ending, MigrationReport, Wait};

use super::moving::{self, Course};
use super::scene::{Scene, word};
use crate::failure::Failure;

/// Agents are connected again, and what a move left is cleared away, within this time after its
/// end.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// A lost VM that is started again boots, on a machine whose others go on.
const BOOT_MAX: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(500);

/// A round, and everything known of it.
#[derive(Debug, Serialize)]
pub struct Told {
    pub line: RoundLine,
    plan: RoundPlan,
    facts: Facts,
    report: Option<MigrationReport>,
    events: Vec<Event>,
    /// Since the lab was raised.
    pairs: Vec<PairFigures>,
}

/// Where the cluster goes from where it is.
struct Way {
    from: Vec<HostName>,
    to: Vec<HostName>,
    vms: usize,
}

/// One move of a round, as the coordinator tells it.
struct Moved {
    k: usize,
    vms: usize,
    course: Course,
    /// The move, or why it was refused.
    migration: Result<MigrationId, String>,
}

/// A round's moves go there and back; the first that did not end as a calm move should is the
/// last. The last one is judged, and the guests' account is of all.
pub async fn run(scene: &mut Scene, plan: &RoundPlan, moves: u32) -> Result<Told, Failure> {
    let begun = Instant::now();
    let mut earlier = 0;
    let mut left = moves;
    loop {
        let moved = one_move(scene, plan).await?;
        left = left.saturating_sub(1);
        if left == 0 || !calm(scene, &moved).await? {
            return last(scene, plan, moved, earlier, begun).await;
        }
        earlier += moved.vms;
    }
}

async fn one_move(scene: &Scene, plan: &RoundPlan) -> Result<Moved, Failure> {
    let way = way(scene).await?;
    let k = plan.batch.of(way.vms);
    let mut course = Course::default();
    let migration = match scene.migrate(&way.from, &way.to, k).await {
        Err(failure) => Err(failure.message),
        Ok(migration) => {
            let places = places(&scene.client.report(migration).await?);
            course = moving::follow(scene, migration, plan, &places).await?;
            Ok(migration)
        }
    };
    Ok(Moved {
        k,
        vms: way.vms,
        course,
        migration,
    })
}

/// Committed as a whole, and every frame accounted for.
async fn calm(scene: &Scene, moved: &Moved) -> Result<bool, Failure> {
    let Ok(migration) = moved.migration else {
        return Ok(false);
    };
    let report = scene.client.report(migration).await?;
    let frames = sight(&report, &moved.course).frames;
    Ok(report.outcome == Ending::Committed && frames == Counts::default())
}

/// Judges a round by its last move; `earlier` VMs changed their host before it.
async fn last(
    scene: &mut Scene,
    plan: &RoundPlan,
    moved: Moved,
    earlier: usize,
    begun: Instant,
) -> Result<Told, Failure> {
    let Moved {
        k,
        vms,
        course,
        migration,
    } = moved;
    let ended_by_themselves = ended_by_themselves(scene, &course);
    let shared = scene.shared();
    let dead = tokio::task::spawn_blocking(move || revive(&shared))
        .await
        .map_err(|error| Failure::of(&error))?;
    let report = match migration {
        Ok(migration) => scene.client.report(migration).await.ok(),
        Err(_) => None,
    };
    let sighted = |_| {
        report
            .as_ref()
            .map_or_else(MoveSight::default, |report| sight(report, &course))
    };
    let moved = migration.map(sighted);
    let mut facts = Facts {
        struck: course.struck.clone(),
        moved,
        vms: scene.lab().state.vms.iter().map(|vm| vm.name.clone()).collect(),
        started_again: Vec::new(),
        ended_by_themselves,
        seen: Sighting::default(),
        account: Account::Counted(Counts::default()),
    };
    settle(scene, &mut facts, &dead, SETTLE_MAX).await?;
    facts.account = match scene.count(&gone(&facts)).await {
        Ok(counts) => Account::Counted(counts),
        Err(failure) => Account::Missing(failure.message),
    };
    let mut line = line(plan, (k, vms), &course, &facts, begun.elapsed());
    line.switchovers += earlier;
    if line.verdict == RoundVerdict::LostAndReported {
        start_lost(scene, &mut facts, &mut line).await?;
    }
    Ok(Told {
        line,
        plan: plan.clone(),
        facts,
        report,
        events: course.events,
        pairs: scene.pairs.clone(),
    })
}

/// From the half of the hosts that has most of the VMs to the other.
async fn way(scene: &Scene) -> Result<Way, Failure> {
    let hosts: Vec<HostName> = scene
        .lab()
        .state
        .hosts
        .iter()
        .map(|host| host.name.clone())
        .collect();
    let (first, second) = hosts.split_at(hosts.len() / 2);
    let cluster = scene.cluster().await?;
    let on = |half: &[HostName]| cluster.vms.iter().filter(|vm| half.contains(&vm.host)).count();
    let (from, to) = if on(first) >= on(second) {
        (first, second)
    } else {
        (second, first)
    };
    Ok(Way {
        vms: on(from),
        from: from.to_vec(),
        to: to.to_vec(),
    })
}

fn places(report: &MigrationReport) -> Vec<VmPlace> {
    let place = |vm: &transhume_protocol::report::VmReport| VmPlace {
        vm: vm.id.clone(),
        batch: vm.batch,
        source: vm.source.clone(),
        target: vm.target.clone(),
        blackout_ms: vm.blackout_ms,
        reclaimed: vm.reclaimed.is_some(),
    };
    report.vms.iter().map(place).collect()
}

fn sight(report: &MigrationReport, course: &Course) -> MoveSight {
    MoveSight {
        ended: report.outcome != Ending::Running,
        outcome: word(&report.outcome),
        waits_for: waits_for(report),
        vms: places(report),
        committed_at_ms: course.committed_at_ms(),
        duration_ms: report.duration_ms,
        frames: Counts {
            lost: report.frames.lost,
            duplicated: report.frames.duplicated,
            reordered: report.frames.reordered,
            ..Counts::default()
        },
        late: report.frames.late,
    }
}

/// Every open order of the move, as its report names them.
fn waits_for(report: &MigrationReport) -> Option<String> {
    let wait = |wait: &Wait| {
        format!(
            "{} of VM {} on host {} ({})",
            wait.order,
            wait.vm,
            wait.host,
            word(&wait.why)
        )
    };
    let waits: Vec<String> = report.waiting.iter().map(wait).collect();
    (!waits.is_empty()).then(|| waits.join("; "))
}

/// Parts that do not run although no strike killed them, or left them dead.
fn ended_by_themselves(scene: &Scene, course: &Course) -> Vec<String> {
    let lab = scene.lab();
    let dead = lab.state.processes.iter().filter(|process| !process.alive());
    let killed = |what: &str| {
        let mut struck = course.struck.iter();
        struck.any(|strike| strike.hit && strike.victim == what && strike.trouble.is_some())
    };
    dead.map(|process| process.what.clone())
        .filter(|what| !killed(what))
        .collect()
}

/// Looks until nothing is wrong any more, or for as long as things may take to come right.
async fn settle(scene: &Scene, facts: &mut Facts, dead: &[String], within: Duration) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        let cluster = scene.cluster().await.ok();
        let mut seen = look(&scene.lab()).await?;
        // With the reason why it does not start.
        seen.dead_parts = if seen.dead_parts.is_empty() {
            Vec::new()
        } else {
            dead.to_vec()
        };
        facts.seen = Sighting { cluster, ..seen };
        if !matches!(judge(facts), Verdict::Violated(_)) || begun.elapsed() > within {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Lost VMs can be started again, and then everything is as it should be.
async fn start_lost(scene: &Scene, facts: &mut Facts, line: &mut RoundLine) -> Result<(), Failure> {
    for vm in &line.lost_vms {
        if let Err(failure) = scene.start(vm).await {
            line.violations.push(format!(
                "VM {vm} is lost and cannot be started: {}",
                failure.message
            ));
        }
    }
    if line.violations.is_empty() {
        facts.started_again = line.lost_vms.clone();
        settle(scene, facts, &[], BOOT_MAX).await?;
        if let Verdict::Violated(found) = judge(facts) {
            line.violations.extend(
                found
                    .iter()
                    .map(|found| format!("after the start of a lost VM: {found}")),
            );
        }
    }
    if !line.violations.is_empty() {
        line.verdict = RoundVerdict::Violated;
    }
    Ok(())
}

/// VMs without a QEMU: their guests cannot be asked.
fn gone(facts: &Facts) -> Vec<VmName> {
    let there = |vm: &VmName| facts.seen.qemus.iter().any(|qemu| &qemu.vm == vm);
    facts.vms.iter().filter(|vm| !there(vm)).cloned().collect()
}

/// `k` VMs at a time of so many.
fn line(
    plan: &RoundPlan,
    (k, vms): (usize, usize),
    course: &Course,
    facts: &Facts,
    took: Duration,
) -> RoundLine {
    let nothing = MoveSight::default();
    let moved = facts.moved.as_ref().unwrap_or(&nothing);
    let (verdict, violations, lost_vms) = match judge(facts) {
        Verdict::Kept => (RoundVerdict::Kept, Vec::new(), Vec::new()),
        Verdict::LostAndReported(vms) => (RoundVerdict::LostAndReported, Vec::new(), vms),
        Verdict::Violated(found) => {
            let may: Vec<VmName> = may_be_lost(&facts.struck, moved).into_iter().collect();
            let texts = found.iter().map(ToString::to_string).collect();
            let lost = gone(facts).into_iter().filter(|vm| may.contains(vm)).collect();
            (RoundVerdict::Violated, texts, lost)
        }
    };
    let missed = course
        .struck
        .iter()
        .filter(|strike| !strike.hit)
        .map(|strike| strike.fault);
    let arrived = |place: &&VmPlace| {
        let mut qemus = facts.seen.qemus.iter();
        qemus.any(|qemu| qemu.vm == place.vm && qemu.host == place.target)
    };
    RoundLine {
        seed: plan.seed,
        round: plan.round,
        k,
        vms,
        struck: struck_lines(course, moved),
        missed: course.missed.iter().copied().chain(missed).collect(),
        decided: course.decided.clone(),
        outcome: match &facts.moved {
            Err(_) => "refused".to_owned(),
            Ok(moved) => moved.outcome.clone(),
        },
        switchovers: moved.vms.iter().filter(arrived).count(),
        verdict,
        violations,
        lost_vms,
        guests: match &facts.account {
            Account::Counted(counts) => *counts,
            Account::Missing(_) => Counts::default(),
        },
        duration_ms: took.as_millis() as u64,
    }
}

fn struck_lines(course: &Course, moved: &MoveSight) -> Vec<StruckLine> {
    let hit = course.struck.iter().filter(|strike| strike.hit);
    hit.map(|strike| {
        let batch = moved
            .vms
            .iter()
            .find(|place| Some(&place.vm) == strike.vm.as_ref())
            .map(|place| place.batch);
        let committed = batch.and_then(|batch| moved.committed_at_ms.get(&batch));
        StruckLine {
            fault: strike.fault,
            victim: strike.victim.clone(),
            step: course.step_at(strike.at_ms),
            committed: committed.is_some_and(|committed| *committed <= strike.at_ms),
        }
    })
    .collect()
}
