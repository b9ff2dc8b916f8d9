//! `transhume lab storm --lost-hosts`: in each round one host loses its power for good, in the
//! midst of a move. The storm decides as an operator would: fence, resolve, restart. Then the
//! cluster is moved again. A lab of its own for each round: what is lost stays lost.

mod aftermath;
mod operator;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use transhume_lab::storm::{Counts, Ledger, PowerPlan, Round, Trigger, Victim, keep, lose_power};
use transhume_lab::{LabName, down};
use transhume_model::{HostName, MigrationId, VmName};
use transhume_protocol::event::{Event, Happening};
use transhume_protocol::report::MigrationReport;

use super::scene::{Scene, word};
use crate::args::StormArgs;
use crate::failure::Failure;
use crate::labs::progress;

/// A move without a fault, and VMs that boot again.
const CALM_MAX: Duration = Duration::from_secs(150);
const POLL: Duration = Duration::from_millis(250);

/// One round, as the log keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LostLine {
    /// As drawn.
    pub plan: PowerPlan,
    /// The host that was lost; absent where its moment did not come.
    pub lost: Option<HostName>,
    /// The step that the move was in, and whether its batch was committed.
    pub step: u8,
    /// Whether it was.
    pub committed: bool,
    /// From the loss until the move was over or asked somebody, milliseconds.
    pub asked_ms: Option<u64>,
    /// From the loss until it was over, milliseconds.
    pub over_ms: Option<u64>,
    /// What was decided.
    pub decided: Vec<String>,
    /// How it ended.
    pub outcome: String,
    /// VMs that the report calls lost.
    pub lost_vms: Vec<VmName>,
    /// What the guests that live counted of each other, from before the move until it was over.
    #[serde(default)]
    pub guests: Counts,
    /// VMs that were booted from their disks elsewhere.
    pub restarted: Vec<VmName>,
    /// How the move after it ended.
    pub again: String,
    /// What was not kept.
    pub violations: Vec<String>,
}

impl Round for LostLine {
    fn seed(&self) -> u64 {
        self.plan.seed
    }

    fn round(&self) -> u64 {
        self.plan.round
    }
}

/// Sums of a log.
#[derive(Debug, Default, Serialize)]
pub struct LostSummary {
    pub rounds: usize,
    pub violated: usize,
    pub hosts_lost: usize,
    pub by_victim: BTreeMap<String, usize>,
    pub by_step: BTreeMap<u8, usize>,
    pub outcomes: BTreeMap<String, usize>,
    pub decisions: usize,
    pub asked_ms_max: u64,
    pub over_ms_max: u64,
}

impl LostSummary {
    pub fn of(lines: &[LostLine]) -> Self {
        let mut sum = LostSummary::default();
        for line in lines {
            sum.rounds += 1;
            sum.violated += usize::from(!line.violations.is_empty());
            sum.decisions += line.decided.len();
            if line.lost.is_some() {
                sum.hosts_lost += 1;
                *sum.by_victim.entry(word(&line.plan.victim)).or_default() += 1;
                *sum.by_step.entry(line.step).or_default() += 1;
            }
            *sum.outcomes.entry(line.outcome.clone()).or_default() += 1;
            sum.asked_ms_max = sum.asked_ms_max.max(line.asked_ms.unwrap_or_default());
            sum.over_ms_max = sum.over_ms_max.max(line.over_ms.unwrap_or_default());
        }
        sum
    }
}

/// Logs added up.
pub fn summary(logs: &[PathBuf]) -> Result<LostSummary, Failure> {
    let lines: Vec<Vec<LostLine>> = logs
        .iter()
        .map(|log| Ledger::read(log))
        .collect::<Result<_, _>>()?;
    Ok(LostSummary::of(&lines.concat()))
}

/// The rounds of this run, those that the log has already included; none begins after `stop`.
pub async fn rounds(args: &StormArgs, stop: &AtomicBool) -> Result<LostSummary, Failure> {
    let mut ledger = Ledger::<LostLine>::open(args.log.as_deref())?;
    let done = ledger.done(args.seed);
    for round in (1..=args.rounds).filter(|round| !done.contains(round)) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let plan = PowerPlan::draw(args.seed, round, args.batch);
        let mut scene = Scene::raise(args).await?;
        let line = one(&mut scene, &plan).await?;
        eprintln!("{}", sentence(&line));
        let violated = !line.violations.is_empty();
        if violated {
            let dir = args.keep.join(format!("lost-seed-{}-round-{round}", args.seed));
            let kept = keep(&scene.lab(), &dir, &line)?;
            outln!("seed {}, round {round}; logs in {}", args.seed, kept.display());
        }
        ledger.add(line)?;
        down(&LabName::default(), &progress()).await?;
        if violated && !args.keep_going {
            break;
        }
    }
    let own = |line: &&LostLine| line.plan.seed == args.seed && line.plan.round <= args.rounds;
    let lines: Vec<LostLine> = ledger.rounds().iter().filter(own).cloned().collect();
    Ok(LostSummary::of(&lines))
}

fn sentence(line: &LostLine) -> String {
    let host = line
        .lost
        .as_ref()
        .map_or("no host".to_owned(), ToString::to_string);
    let verdict = match line.violations.as_slice() {
        [] => "kept".to_owned(),
        violations => format!("VIOLATED: {}", violations.join("; ")),
    };
    format!(
        "round {}: {host} ({}) in step {}: {}, asked or over after {} ms, over after {} ms, decided: [{}], lost: {:?}, guests that live: {}, then {}: {verdict}",
        line.plan.round,
        word(&line.plan.victim),
        line.step,
        line.outcome,
        line.asked_ms.unwrap_or_default(),
        line.over_ms.unwrap_or_default(),
        line.decided.join(", "),
        line.lost_vms.iter().map(VmName::as_str).collect::<Vec<_>>(),
        line.guests,
        line.again,
    )
}

/// From which hosts to which, and one that has no part in it.
struct Way {
    from: Vec<HostName>,
    to: Vec<HostName>,
    bystander: Option<HostName>,
}

fn way(scene: &Scene) -> Way {
    let hosts = scene.lab().state.hosts;
    let names: Vec<HostName> = hosts.iter().map(|host| host.name.clone()).collect();
    let (from, to) = names.split_at(names.len() / 2);
    let (bystander, to) = match to.split_last() {
        Some((last, rest)) if rest.len() >= 2 => (Some(last.clone()), rest.to_vec()),
        _ => (None, to.to_vec()),
    };
    Way {
        from: from.to_vec(),
        to,
        bystander,
    }
}

async fn one(scene: &mut Scene, plan: &PowerPlan) -> Result<LostLine, Failure> {
    let way = way(scene);
    let vms = scene.cluster().await?.vms.len();
    let k = plan.batch.of(vms);
    let migration = scene.migrate(&way.from, &way.to, k).await?;
    let mut line = LostLine {
        plan: *plan,
        lost: None,
        step: 0,
        committed: false,
        asked_ms: None,
        over_ms: None,
        decided: Vec::new(),
        outcome: String::new(),
        lost_vms: Vec::new(),
        guests: Counts::default(),
        restarted: Vec::new(),
        again: String::new(),
        violations: Vec::new(),
    };
    let lost_at = follow_to_the_loss(scene, migration, plan, &way, &mut line).await?;
    let report = operator::decide(scene, migration, plan, lost_at, &mut line).await?;
    line.outcome = word(&report.outcome);
    line.lost_vms = lost_vms(&report);
    aftermath::check(scene, &report, &mut line).await?;
    Ok(line)
}

fn lost_vms(report: &MigrationReport) -> Vec<VmName> {
    let lost = report.vms.iter().filter(|vm| vm.lost.is_some());
    lost.map(|vm| vm.id.clone()).collect()
}

/// Listens to the move until the host is lost, or the move is over.
async fn follow_to_the_loss(
    scene: &Scene,
    migration: MigrationId,
    plan: &PowerPlan,
    way: &Way,
    line: &mut LostLine,
) -> Result<Instant, Failure> {
    let places = scene.client.report(migration).await?.vms;
    let batches = places.iter().map(|vm| vm.batch).max().unwrap_or(1);
    let mut events = scene.client.events(migration, 0).await?;
    let mut committed = Vec::new();
    while let Some(event) = events.next().await? {
        match event.what {
            Happening::StepEntered { step, .. } => line.step = step.number(),
            Happening::Committed { batch } => committed.push(batch),
            Happening::Ended { .. } => return Ok(Instant::now()),
            _ => {}
        }
        if !is_moment(plan, &event, batches) {
            continue;
        }
        tokio::time::sleep(Duration::from_millis(plan.moment.delay_ms)).await;
        let batch = plan.moment.turn % batches.max(1) + 1;
        let in_batch: Vec<_> = places.iter().filter(|vm| vm.batch == batch).collect();
        let Some(vm) = in_batch.get(plan.pick % in_batch.len().max(1)) else {
            continue;
        };
        let victim = match plan.victim {
            Victim::Source => Some(vm.source.clone()),
            Victim::Target => Some(vm.target.clone()),
            Victim::Bystander => way.bystander.clone(),
        };
        line.committed = committed.contains(&batch);
        if let Some(host) = victim {
            let lab = scene.lab();
            let name = host.clone();
            let done = tokio::task::spawn_blocking(move || lose_power(&lab, &name)).await;
            done.map_err(Failure::other)?.map_err(Failure::from)?;
            line.lost = Some(host);
        }
        return Ok(Instant::now());
    }
    Ok(Instant::now())
}

fn is_moment(plan: &PowerPlan, event: &Event, batches: usize) -> bool {
    let (batch, trigger) = match event.what {
        Happening::StepEntered { batch, step } => (batch, Trigger::Entered(step)),
        Happening::Committed { batch } => (batch, Trigger::Committed),
        _ => return false,
    };
    plan.moment.turn % batches.max(1) + 1 == batch && plan.moment.trigger == trigger
}
