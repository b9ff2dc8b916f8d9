//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use transhume_planner::Strategy;
use transhume_protocol::migration::{Converge, RunOn};

mod lab;

pub use lab::*;

/// Moves a whole virtual cluster, live, from one set of hosts to another, and loses nothing.
///
/// Exit codes: 0 done; 1 something failed; 2 wrong usage; 3 refused, nothing changed; 4 rolled
/// back; 5 coordinator unreachable; 6 committed, and a VM is lost; 130 Ctrl-C, a move under way
/// goes on.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// The coordinator: http://HOST:PORT or unix:PATH [default: the lab's]
    #[arg(long, global = true, env = "TRANSHUME_API")]
    pub api: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// A whole data centre on this machine: hosts as network namespaces, real guests
    Lab {
        #[command(subcommand)]
        command: LabCommand,
    },
    /// Clusters and where their VMs run
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// One VM of a cluster: start, stop or forget it
    Vm {
        #[command(subcommand)]
        command: VmCommand,
    },
    /// Hosts: free resources, whether their agents answer, what is stranded there, clocks that are
    /// off
    Hosts {
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// One host: what is left there, whether it is off, whether VMs may be put on it
    Host {
        #[command(subcommand)]
        command: HostCommand,
    },
    /// A move that waits for an operator's decision
    Migration {
        #[command(subcommand)]
        command: MigrationCommand,
    },
    /// Show which VM would go where, in which batch; nothing is changed
    Plan(PlanArgs),
    /// Move a cluster
    Migrate(MoveArgs),
    /// All moves so far
    Migrations {
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// The report of a move: blackout, gap, the account of frames of each VM, what was expected,
    /// and what a move under way waits for
    Report {
        /// Number of the move [default: the newest]
        migration: Option<u64>,
        /// Forecast and actual figures of all moves instead, and how good the forecasts have been
        #[arg(long, conflicts_with = "migration")]
        all: bool,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Follow a move until it is over
    Follow {
        /// Number of the move [default: the newest]
        migration: Option<u64>,
        /// One JSON document, the report, at the end
        #[arg(long)]
        json: bool,
    },
    /// Cancel a move: before commit the batch rolls back, after it no further batch begins
    Cancel {
        /// Number of the move
        migration: u64,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// How this host's links are divided between the bands (§3.1)
    Bands {
        #[command(subcommand)]
        command: BandsCommand,
    },
    /// Run a host's agent
    Agent {
        /// Configuration file
        #[arg(long)]
        config: PathBuf,
    },
    /// Run the coordinator
    Coordinator {
        /// Configuration file
        #[arg(long, required_unless_present = "openapi")]
        config: Option<PathBuf>,
        /// Print the OpenAPI document of its API instead
        #[arg(long, conflicts_with = "config")]
        openapi: bool,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// The bands of the host that the command runs on.
#[derive(Debug, Subcommand)]
pub enum BandsCommand {
    /// What each band has and has carried, and whether it is as configured
    Show(BandsArgs),
    /// What `apply` would do
    Plan(BandsArgs),
    /// Divide the links as configured; a running agent has done so already
    Apply(BandsArgs),
    /// Put back what the links had before
    Clear(BandsArgs),
}

/// Whose bands.
#[derive(Debug, ClapArgs)]
pub struct BandsArgs {
    /// Configuration file of the host's agent
    #[arg(long)]
    pub config: PathBuf,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

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
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cluster", "from", "to", "offline"])]
    pub inventory: Option<PathBuf>,
    /// Say why these hosts, this order, this k
    #[arg(long, requires = "inventory")]
    pub explain: bool,
    /// Draw the hosts before and after
    #[arg(long, value_name = "FILE", requires = "inventory")]
    pub svg: Option<PathBuf>,
    /// All or nothing: no plan for the others where a VM has no place
    #[arg(long, requires = "inventory")]
    pub strict: bool,
    /// Search at most so long; the answer is then the best found, with its gap
    #[arg(long, value_name = "SECONDS", default_value_t = 30, requires = "inventory",
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

#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// All clusters
    List {
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// One cluster's VMs
    Show {
        /// The cluster
        name: String,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
}

/// How an operator's decision is taken.
#[derive(Debug, ClapArgs)]
pub struct Deciding {
    /// Only say what would be done, and what may be lost by it
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask back
    #[arg(long)]
    pub yes: bool,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// All hosts
    List {
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// One host
    Show {
        /// The host
        host: String,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Say that a host is off: only then may a VM that could still run there be run elsewhere
    Fence {
        /// The host
        host: String,
        /// It is; nobody checks
        #[arg(long, required = true)]
        powered_off: bool,
        /// Although its agent answers
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Put nothing on a host any more
    Cordon {
        /// The host
        host: String,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Let VMs be put on a host again
    Uncordon {
        /// The host
        host: String,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Forget what is remembered of a host that never comes back
    Forget {
        /// The host
        host: String,
        #[command(flatten)]
        deciding: Deciding,
    },
}

#[derive(Debug, Subcommand)]
pub enum MigrationCommand {
    /// Decide where VMs run whose other host is lost and fenced
    Resolve {
        /// Number of the move
        migration: u64,
        /// One VM [default: all that wait for a decision]
        #[arg(long)]
        vm: Option<String>,
        /// Where
        #[arg(long, value_enum)]
        run_on: RunSide,
        #[command(flatten)]
        deciding: Deciding,
    },
}

/// Where a VM is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RunSide {
    /// On its source
    Source,
    /// On its target, from its loaded copy
    Target,
    /// Nowhere: it is given up, and can be restarted from its disks
    Nowhere,
}

impl From<RunSide> for RunOn {
    fn from(side: RunSide) -> Self {
        match side {
            RunSide::Source => RunOn::Source,
            RunSide::Target => RunOn::Target,
            RunSide::Nowhere => RunOn::Nowhere,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// Boot a VM from its disks on another host, its own being fenced
    Restart {
        /// The cluster
        cluster: String,
        /// The VM
        vm: String,
        /// The other host
        #[arg(long, value_name = "HOST")]
        on: String,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Open the plug of a VM that has come and whose source is lost, without waiting any longer
    OpenPlug {
        /// The cluster
        cluster: String,
        /// The VM
        vm: String,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Boot a VM that is powered off or missing
    Start {
        /// The cluster
        cluster: String,
        /// The VM
        vm: String,
        /// Another host than its own, for a VM that its own host does not know any more
        #[arg(long)]
        host: Option<String>,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Power a VM off; its place stays, and it moves with its cluster
    Stop {
        /// The cluster
        cluster: String,
        /// The VM
        vm: String,
        /// At once, as if its plug were pulled [default: its guest is asked]
        #[arg(long)]
        force: bool,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Take a VM that is powered off or missing out of its cluster; the last one takes the cluster
    /// along
    Forget {
        /// The cluster
        cluster: String,
        /// The VM
        vm: String,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }
}
