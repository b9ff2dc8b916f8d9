//! Plans and moves.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};
use transhume_planner::Strategy;
use transhume_protocol::migration::Converge;

/// What to move where.
#[derive(Debug, ClapArgs)]
pub struct MoveArgs {
    /// The cluster
    pub cluster: String,
    /// Hosts to leave, comma-separated
    #[arg(long, value_delimiter = ',', required = true)]
    pub from: Vec<String>,
    /// Hosts to go to, comma-separated
    #[arg(long, value_delimiter = ',', required = true)]
    pub to: Vec<String>,
    #[command(flatten)]
    pub how: How,
    /// Where other moves have the links: begin when they are over, instead of being refused
    #[arg(long)]
    pub wait: bool,
    /// VMs that have no place stay, and the others go; without it nothing moves then
    #[arg(long)]
    pub partial: bool,
    /// Refuse a move on whose way a group of VMs is broken for a while
    #[arg(long)]
    pub strict: bool,
}

/// Which hosts every VM leaves.
#[derive(Debug, ClapArgs)]
pub struct DrainArgs {
    /// The hosts, comma-separated; they stay cordoned
    #[arg(value_delimiter = ',', required = true)]
    pub hosts: Vec<String>,
    /// Hosts to go to, comma-separated [default: every other one that may take VMs]
    #[arg(long, value_delimiter = ',')]
    pub to: Vec<String>,
    /// Only show which VM would go where
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub how: How,
}

/// Drains so far.
#[derive(Debug, ClapArgs)]
pub struct DrainsArgs {
    /// Begin nothing more of this one; a move under way goes on
    #[arg(long, value_name = "DRAIN")]
    pub cancel: Option<u64>,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

/// How to move.
#[derive(Debug, ClapArgs)]
pub struct How {
    /// k: VMs per batch; or auto: as many as links and guests bear, found anew before each batch
    /// (auto=N: N at most) [default: all at once; with --inventory: chosen]
    #[arg(long, value_name = "K", value_parser = batches)]
    pub batch: Option<Batches>,
    /// Stop, copy, start: the VMs do not run meanwhile
    #[arg(long)]
    pub offline: bool,
    /// A VM may be switched over when its predicted blackout is at most this: 300ms, 2s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub max_blackout: Option<Duration>,
    /// What is not committed after this time rolls back, and no further batch begins: 90s, 20m, 2h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub max_time: Option<Duration>,
    /// What becomes of a VM that dirties its memory as fast as it can be sent: wait, stop (its
    /// batch rolls back), shrink (it goes last, alone), throttle or throttle=PERCENT (its guest
    /// gets less processor time, this share at least [20])
    #[arg(long, value_name = "POLICY", value_parser = converge, default_value = "wait")]
    pub converge: Converge,
    /// How targets are chosen
    #[arg(long, value_enum, default_value_t = PlanStrategy::Exact)]
    pub strategy: PlanStrategy,
    /// The hosts that are left die after this time: what matters most is moved first, so that most
    /// is safe by then, and what will not be is said before: 20m
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "batch")]
    pub safe_by: Option<Duration>,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

/// How many VMs go at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batches {
    /// So many.
    Of(usize),
    /// As many as links and guests bear.
    Auto {
        /// At most.
        max: Option<usize>,
    },
}

impl Batches {
    /// VMs at once at most, where that is said.
    pub fn at_most(self) -> Option<usize> {
        match self {
            Batches::Of(k) => Some(k),
            Batches::Auto { max } => max,
        }
    }
}

fn batches(text: &str) -> Result<Batches, String> {
    let number = |text: &str| text.parse::<usize>().ok();
    let read = match text.split_once('=') {
        None if text == "auto" => Some(Batches::Auto { max: None }),
        None => number(text).map(Batches::Of),
        Some(("auto", most)) => number(most).map(|most| Batches::Auto { max: Some(most) }),
        Some(_) => None,
    };
    read.ok_or_else(|| "a number of VMs, auto, or auto=N for N at most".to_owned())
}

/// Share of its processors that a guest keeps where none is named, hundredths.
const THROTTLE_PERCENT: u8 = 20;

/// A length of time: a whole number and ms, s, m or h.
fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let parsed = units.iter().find_map(|(unit, factor)| {
        let number = text.strip_suffix(unit)?;
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| number.parse::<u64>().ok()?.checked_mul(*factor))?
    });
    match parsed {
        Some(ms) if ms > 0 => Ok(Duration::from_millis(ms)),
        Some(_) | None => Err("write a whole number above 0 and ms, s, m or h, like 300ms or 20m".to_owned()),
    }
}

/// A convergence policy.
fn converge(text: &str) -> Result<Converge, String> {
    let percent = |text: &str| text.parse().ok().filter(|percent| (1..100).contains(percent));
    match text.split_once('=') {
        None if text == "wait" => Ok(Converge::Wait),
        None if text == "stop" => Ok(Converge::Stop),
        None if text == "shrink" => Ok(Converge::Shrink),
        None if text == "throttle" => Ok(Converge::Throttle {
            percent: THROTTLE_PERCENT,
        }),
        Some(("throttle", share)) => match percent(share) {
            Some(percent) => Ok(Converge::Throttle { percent }),
            None => Err(format!(
                "`{share}` is no share of a guest's processors: write 1 to 99"
            )),
        },
        _ => Err("one of: wait, stop, shrink, throttle, throttle=PERCENT".to_owned()),
    }
}

/// Longest search for a plan: a week.
pub const DEADLINE_S_MAX: u64 = 7 * 24 * 3600;

/// What to plan: a move of a cluster that runs, or one described in a file.
#[derive(Debug, ClapArgs)]
pub struct PlanArgs {
    /// The cluster
    #[arg(required_unless_present = "inventory")]
    pub cluster: Option<String>,
    /// Hosts to leave, comma-separated
    #[arg(long, value_delimiter = ',', required_unless_present = "inventory")]
    pub from: Vec<String>,
    /// Hosts to go to, comma-separated
    #[arg(long, value_delimiter = ',', required_unless_present = "inventory")]
    pub to: Vec<String>,
    #[command(flatten)]
    pub how: How,
    /// Plan hosts and a cluster described in this file (YAML or JSON); no coordinator is asked
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cluster", "from", "to", "offline", "max_time", "converge"])]
    pub inventory: Option<PathBuf>,
    /// Say why these hosts, this order, this k
    #[arg(long)]
    pub explain: bool,
    /// Draw the hosts before and after
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// All or nothing: no plan for the others where a VM has no place, none that breaks a group on
    /// the way
    #[arg(long)]
    pub strict: bool,
    /// Search at most so long; the answer is then the best found, with its gap
    #[arg(long, value_name = "SECONDS", default_value_t = 30, requires = "inventory", conflicts_with = "cluster",
        value_parser = clap::value_parser!(u64).range(..=DEADLINE_S_MAX))]
    pub deadline_s: u64,
}

/// How targets are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlanStrategy {
    /// Fewest targets with a proof or a gap, then least memory moved, then least traffic
    Exact,
    /// The paper's sorted lists and recursive selection (§3.2)
    Paper,
}

impl From<PlanStrategy> for Strategy {
    fn from(named: PlanStrategy) -> Self {
        match named {
            PlanStrategy::Exact => Strategy::Exact,
            PlanStrategy::Paper => Strategy::Paper,
        }
    }
}
