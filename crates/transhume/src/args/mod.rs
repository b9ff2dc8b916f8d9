//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use transhume_planner::Strategy;

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
}

/// How to move.
#[derive(Debug, ClapArgs)]
pub struct How {
    /// k: VMs per batch [default: all at once; with --inventory: chosen]
    #[arg(long)]
    pub batch: Option<usize>,
    /// Stop, copy, start: the VMs do not run meanwhile
    #[arg(long)]
    pub offline: bool,
    /// A VM may be switched over when its predicted blackout is at most this, milliseconds
    #[arg(long, value_name = "MS")]
    pub blackout_ms_max: Option<u64>,
    /// How targets are chosen
    #[arg(long, value_enum, default_value_t = PlanStrategy::Exact)]
    pub strategy: PlanStrategy,
    /// One JSON document
    #[arg(long)]
    pub json: bool,
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

#[derive(Debug, Subcommand)]
pub enum VmCommand {
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
