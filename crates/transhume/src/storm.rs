//! `transhume lab storm`: rounds of moves with faults, each judged by looking, all in one log.
//!
//! ```text
//!  raise ─▶ [ draw ─▶ move, strike ─▶ wait ─▶ look, count ─▶ judge ─▶ log ]* ─▶ down ─▶ summary
//!             ▲                                                │
//!             └── a new lab after a lost VM or a violation ◀───┘
//! ```

mod lost;
mod moving;
mod resolve;
mod round;
mod scene;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use transhume_lab::storm::{Fault, Ledger, LedgerError, RoundLine, RoundPlan, RoundVerdict, Summary, keep};
use transhume_lab::{LabName, down};

use crate::args::StormArgs;
use crate::failure::{Failure, Kind};
use crate::labs::{progress, refuse_lab};
use crate::moves::print_json;
use round::Told;
use scene::Scene;

/// Rounds without faults.
const NONE: &str = "none";
/// As if no faults were named.
const ALL: &str = "all";

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        let refused = matches!(error, LedgerError::Line { .. });
        let hint = if refused {
            "name another file with --log"
        } else {
            "is there room, and may you write there?"
        };
        let kind = if refused { Kind::Refused } else { Kind::Other };
        Failure::new(kind, crate::failure::chain(&error), hint)
    }
}

pub async fn storm(args: StormArgs) -> Result<ExitCode, Failure> {
    match (args.lost_hosts, args.summary.is_empty()) {
        (true, true) => return lost_hosts(&args).await,
        (true, false) => return print_json(&lost::summary(&args.summary)?),
        (false, false) => return summarise(&args.summary, args.json),
        (false, true) => {}
    }
    let faults = chosen(&args.faults)?;
    check(&args, &faults)?;
    let mut ledger = Ledger::open(args.log.as_deref())?;
    refuse_lab("storm").await?;
    let stop = stop_at_interrupt()?;
    let weathered = rounds(&args, &faults, &mut ledger, &stop).await;
    let lowered = down(&LabName::default(), &progress()).await;
    let lines = weathered?;
    lowered?;
    let sum = Summary::of(&lines);
    if args.json {
        print_json(&sum)?;
    } else {
        out!("{}", sum.markdown());
    }
    Ok(ExitCode::from(u8::from(sum.violated > 0)))
}

/// Rounds in which a host is lost for good.
async fn lost_hosts(args: &StormArgs) -> Result<ExitCode, Failure> {
    check(args, &Fault::ALL)?;
    refuse_lab("storm").await?;
    let stop = stop_at_interrupt()?;
    let weathered = lost::rounds(args, &stop).await;
    let lowered = down(&LabName::default(), &progress()).await;
    let sum = weathered?;
    lowered?;
    print_json(&sum)?;
    Ok(ExitCode::from(u8::from(sum.violated > 0)))
}

fn summarise(files: &[PathBuf], json: bool) -> Result<ExitCode, Failure> {
    let lines: Vec<Vec<RoundLine>> = files
        .iter()
        .map(|file| Ledger::read(file))
        .collect::<Result<_, _>>()?;
    let sum = Summary::of(&lines.concat());
    if json {
        return print_json(&sum);
    }
    out!("{}", sum.markdown());
    Ok(ExitCode::SUCCESS)
}

fn refused(message: String, hint: &str) -> Failure {
    Failure::new(Kind::Refused, message, hint)
}

fn chosen(names: &[String]) -> Result<Vec<Fault>, Failure> {
    match names {
        [] => Ok(Fault::ALL.to_vec()),
        [only] if only == ALL => Ok(Fault::ALL.to_vec()),
        [only] if only == NONE => Ok(Vec::new()),
        names => Fault::selection(names).map_err(|message| {
            let all: Vec<_> = Fault::ALL.iter().map(|fault| fault.name()).collect();
            refused(message, &format!("`all`, `none`, or some of: {}", all.join(", ")))
        }),
    }
}

fn check(args: &StormArgs, faults: &[Fault]) -> Result<(), Failure> {
    if args.hosts < 2 || !args.hosts.is_multiple_of(2) {
        let message = format!("{} hosts cannot be halved", args.hosts);
        return Err(refused(
            message,
            "the cluster moves from one half of the hosts to the other",
        ));
    }
    if args.vms < 2 {
        return Err(refused(
            format!("--vms {} leaves nobody to send to", args.vms),
            "two VMs at least",
        ));
    }
    if args.moves > 1 && !faults.is_empty() {
        return Err(refused(
            format!("--moves {} with faults", args.moves),
            "a round with faults has one move; several go with `--faults none`",
        ));
    }
    Ok(())
}

/// Ctrl-C ends the storm after the round under way.
fn stop_at_interrupt() -> Result<Arc<AtomicBool>, Failure> {
    let mut interrupts = signal(SignalKind::interrupt()).map_err(|error| Failure::of(&error))?;
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    tokio::spawn(async move {
        while interrupts.recv().await.is_some() {
            asked.store(true, Ordering::Relaxed);
            eprintln!("the storm ends after this round");
        }
    });
    Ok(stop)
}

/// The rounds of this run, those that the log held already included where they belong to it.
async fn rounds(
    args: &StormArgs,
    faults: &[Fault],
    ledger: &mut Ledger,
    stop: &AtomicBool,
) -> Result<Vec<RoundLine>, Failure> {
    let done = ledger.done(args.seed);
    let mut scene = None;
    for round in (1..=args.rounds).filter(|round| !done.contains(round)) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let mut current = match scene.take() {
            Some(scene) => scene,
            None => Scene::raise(args).await?,
        };
        let plan = RoundPlan::draw(args.seed, round, faults, args.batch);
        let told_of = round::run(&mut current, &plan, args.moves).await?;
        eprintln!("{}", sentence(&told_of.line));
        let verdict = told_of.line.verdict;
        if verdict == RoundVerdict::Violated {
            accuse(args, &current, &told_of)?;
        }
        ledger.add(told_of.line)?;
        match verdict {
            RoundVerdict::Kept => scene = Some(current),
            RoundVerdict::Violated if !args.keep_going => break,
            RoundVerdict::Violated | RoundVerdict::LostAndReported => {
                _ = down(&LabName::default(), &progress()).await?
            }
        }
    }
    let own = |line: &&RoundLine| line.seed == args.seed && line.round <= args.rounds;
    Ok(ledger.rounds().iter().filter(own).cloned().collect())
}

fn accuse(args: &StormArgs, scene: &Scene, told_of: &Told) -> Result<(), Failure> {
    let line = &told_of.line;
    let dir = args.keep.join(format!("seed-{}-round-{}", line.seed, line.round));
    let kept = keep(&scene.lab(), &dir, told_of)?;
    for violation in &line.violations {
        eprintln!("violated: {violation}");
    }
    outln!(
        "seed {}, round {}; logs in {}",
        line.seed,
        line.round,
        kept.display()
    );
    Ok(())
}

fn sentence(line: &RoundLine) -> String {
    let struck: Vec<_> = line
        .struck
        .iter()
        .map(|strike| format!("{} ({}) in step {}", strike.fault, strike.victim, strike.step))
        .collect();
    let verdict = match line.verdict {
        RoundVerdict::Kept => "kept".to_owned(),
        RoundVerdict::LostAndReported => {
            let lost: Vec<_> = line.lost_vms.iter().map(ToString::to_string).collect();
            format!("VM lost, reported: {}", lost.join(", "))
        }
        RoundVerdict::Violated => "VIOLATED".to_owned(),
    };
    let decided: Vec<_> = line.decided.iter().map(|what| format!("; {what}")).collect();
    format!(
        "round {}: k {}, {}{}; {}; {}; {verdict}; {:.1} s",
        line.round,
        line.k,
        if struck.is_empty() {
            "nothing fell".to_owned()
        } else {
            struck.join(", ")
        },
        decided.concat(),
        line.outcome,
        line.guests,
        Duration::from_millis(line.duration_ms).as_secs_f64(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_all_none_or_those_named() {
        let names = |text: &[&str]| text.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(chosen(&[]).unwrap(), Fault::ALL);
        assert_eq!(chosen(&names(&["all"])).unwrap(), Fault::ALL);
        assert_eq!(chosen(&names(&["none"])).unwrap(), []);
        assert_eq!(
            chosen(&names(&["kill-coordinator"])).unwrap(),
            [Fault::KillCoordinator]
        );
        let failure = chosen(&names(&["none", "kill"])).unwrap_err();
        assert!(
            failure.message.contains("`none`") && failure.hint.is_some(),
            "none stands alone"
        );
    }
}
