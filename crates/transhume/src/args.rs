//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use transhume_model::VmName;
use transhume_planner::Strategy;

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

#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Raise a lab
    Up(UpArgs),
    /// Remove the lab, or what a crashed one left
    Down,
    /// Run a command on a host, or inside a VM
    Exec {
        /// A host or a VM
        name: String,
        /// Longest run, seconds
        #[arg(long, default_value_t = 60)]
        limit_s: u64,
        /// One JSON document
        #[arg(long)]
        json: bool,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Print the log of a VM's own workload, or of a host, the coordinator, the storage
    Logs {
        /// A VM, a host, `coordinator` or `storage`
        name: String,
        /// A VM's console instead of its workload
        #[arg(long)]
        console: bool,
    },
    /// Draw figures 6 (message loss) and 7 (blackout) of the paper anew, stock QEMU beside
    /// Transhume, in labs of their own
    Figures(FiguresArgs),
    /// Measure how memory is sent: bytes, time and processor beside stock QEMU's ways, every VM at
    /// once
    Memory(MemoryArgs),
    /// Move a cluster once as people do today, with stock QEMU, and say what its guests lost
    Stock(StockArgs),
    /// Move a cluster back and forth while parts die, hang and lose their links, and look whether
    /// every promise is kept
    Storm(StormArgs),
    /// The guests' own account of their messages
    Workload {
        /// Read every block of the disks again
        #[arg(long)]
        verify_disks: bool,
        /// VMs that are left out, since they do not answer; so is what others sent them
        #[arg(long, value_name = "VM,..", value_delimiter = ',')]
        without: Vec<VmName>,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
}

/// What to measure of the page path.
#[derive(Debug, ClapArgs)]
pub struct MemoryArgs {
    /// What the guests do: idle, cache, compressible, random
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "idle,cache,compressible,random"
    )]
    pub loads: Vec<Load>,
    /// Link speeds
    #[arg(long, value_delimiter = ',', default_value = "200mbit,1gbit,unlimited", value_parser = link_speed)]
    pub links: Vec<LinkSpeed>,
    /// Numbers of VMs moved at once
    #[arg(long, value_delimiter = ',', default_value = "1,4,8")]
    pub vms: Vec<u16>,
    /// Moves of each kind
    #[arg(long, default_value_t = 5)]
    pub reps: usize,
    /// Page classes that are not used
    #[arg(long, value_name = "CLASS,..", value_delimiter = ',', value_parser = PAGE_CLASSES_OPTIONAL)]
    pub pages_off: Vec<String>,
    /// Page streams are not encrypted
    #[arg(long)]
    pub no_tls: bool,
    /// Where memory.csv, its summary and the machine's description go
    #[arg(long)]
    pub out: PathBuf,
    /// One JSON document instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Page classes that can be switched off, as an agent's configuration names them.
const PAGE_CLASSES_OPTIONAL: [&str; 6] = ["fill", "known", "delta", "wkdm", "lz4", "zstd"];

/// What the guests of `lab memory` do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Load {
    /// Nothing
    Idle,
    /// The same files in every page cache
    Cache,
    /// Rewrite memory that compresses well
    Compressible,
    /// Rewrite memory that does not
    Random,
}

/// What to measure and draw.
#[derive(Debug, ClapArgs)]
pub struct FiguresArgs {
    /// 6, 7 [default: both]
    pub figures: Vec<u8>,
    /// Where CSV, SVG, PNG and the machine's description go
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Moves of each kind and MTU
    #[arg(long, default_value_t = 20)]
    pub reps: usize,
    /// VMs of the cluster
    #[arg(long, default_value_t = 4)]
    pub vms: u16,
    /// k, comma-separated for several [default: 1 and all]
    #[arg(long, value_delimiter = ',', value_name = "K")]
    pub batch: Vec<usize>,
    /// Transhume alone
    #[arg(long)]
    pub without_stock: bool,
    /// Messages a second into each VM
    #[arg(long, default_value_t = 1000)]
    pub rate: u32,
    /// One JSON document: every VM of every move
    #[arg(long)]
    pub json: bool,
}

/// How to storm.
#[derive(Debug, ClapArgs)]
pub struct StormArgs {
    /// Rounds of this seed, from 1; those that the log holds are not repeated
    #[arg(long, default_value_t = 10)]
    pub rounds: u64,
    /// What everything drawn comes from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// VMs of the cluster
    #[arg(long, default_value_t = 4)]
    pub vms: u16,
    /// Hosts; the cluster moves from one half to the other
    #[arg(long, default_value_t = 4)]
    pub hosts: u16,
    /// k: VMs per batch [default: drawn of 1, 2 and all]
    #[arg(long)]
    pub batch: Option<usize>,
    /// Faults to draw from, by name or kind (kill, freeze, cut, fill, step), or none [default: all]
    #[arg(long, value_delimiter = ',', value_name = "FAULT,..")]
    pub faults: Vec<String>,
    /// Memory of each VM
    #[arg(long, default_value_t = 96, value_name = "MIB")]
    pub memory_mib: u64,
    /// Messages a second into each VM
    #[arg(long, default_value_t = 200)]
    pub rate: u32,
    /// One JSON line a round is added here, and rounds that are here are not repeated
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Where the logs of a violated round go
    #[arg(long, value_name = "DIR", default_value = "storm-violations")]
    pub keep: PathBuf,
    /// Raise a new lab after a violation and go on; the exit code still tells
    #[arg(long)]
    pub keep_going: bool,
    /// A process that the lab belongs to [default: this one]
    #[arg(long, value_name = "PID")]
    pub owner: Option<u32>,
    /// Print the table of the rounds in these logs, and nothing else
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub summary: Vec<PathBuf>,
    /// One JSON document: the summary
    #[arg(long)]
    pub json: bool,
}

/// The opponent alone.
#[derive(Debug, ClapArgs)]
pub struct StockArgs {
    /// VMs of the cluster
    #[arg(long, default_value_t = 6)]
    pub vms: u16,
    /// Messages a second into each VM
    #[arg(long, default_value_t = 1000)]
    pub rate: u32,
    /// Largest IP packet of the VMs
    #[arg(long, default_value_t = 1500)]
    pub mtu: u16,
    /// One JSON document: every VM of the move
    #[arg(long)]
    pub json: bool,
}

/// What the guests do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Every VM sends to every other (§2.1.2)
    Mesh,
    /// The first VM serves the others (§2.1.1)
    ClientServer,
    /// Nothing
    None,
}

#[derive(Debug, ClapArgs)]
pub struct UpArgs {
    /// Number of hosts; the VMs start on the first half
    #[arg(long, default_value_t = 4)]
    pub hosts: u16,
    /// Number of VMs
    #[arg(long, default_value_t = 4)]
    pub vms: u16,
    /// Memory of each VM
    #[arg(long, default_value_t = 96, value_name = "MIB")]
    pub memory_mib: u64,
    /// Speed of each host's links, like 200mbit, 1gbit or unlimited
    #[arg(long, default_value = "1gbit", value_parser = link_speed)]
    pub link: LinkSpeed,
    /// Largest IP packet of the VMs
    #[arg(long, default_value_t = 1500)]
    pub mtu: u16,
    /// A directory laid into every guest
    #[arg(long, value_name = "DIR")]
    pub overlay: Option<PathBuf>,
    /// A command run in every guest; it sees VM_NAME, VM_INDEX (from 0), VM_IP, VM_COUNT and
    /// VM_PEERS (the addresses of all VMs by index, its own too)
    #[arg(long, value_name = "CMD")]
    pub run: Option<String>,
    /// What the guests do by themselves
    #[arg(long, value_enum, default_value_t = Workload::Mesh)]
    pub workload: Workload,
    /// Messages a second into each VM
    #[arg(long, default_value_t = 1000)]
    pub rate: u32,
    /// auto, kvm or tcg
    #[arg(long, default_value = "auto")]
    pub accel: String,
    /// Limit of a VM's network buffer; reaching it before commit rolls the batch back
    #[arg(long, value_name = "BYTES")]
    pub buffer_bytes_max: Option<u64>,
    /// Page classes that are not used
    #[arg(long, value_name = "CLASS,..", value_delimiter = ',', value_parser = PAGE_CLASSES_OPTIONAL)]
    pub pages_off: Vec<String>,
    /// Page streams are not encrypted
    #[arg(long)]
    pub no_tls: bool,
    /// A process that the lab belongs to: once it has ended, the next `lab up` removes the lab
    #[arg(long, value_name = "PID")]
    pub owner: Option<u32>,
}

/// Bits per second; absent: unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkSpeed(pub Option<u64>);

impl std::fmt::Display for LinkSpeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            None => f.write_str("unlimited"),
            Some(speed) if speed % 1_000_000_000 == 0 => write!(f, "{}gbit", speed / 1_000_000_000),
            Some(speed) => write!(f, "{}mbit", speed / 1_000_000),
        }
    }
}

fn link_speed(text: &str) -> Result<LinkSpeed, String> {
    if text == "unlimited" {
        return Ok(LinkSpeed(None));
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match &text[digits.len()..] {
        "kbit" => 1_000,
        "mbit" => 1_000_000,
        "gbit" => 1_000_000_000,
        _ => return Err("write it like 200mbit, 1gbit or unlimited".to_owned()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "write a whole number, like 200mbit".to_owned())?;
    number
        .checked_mul(factor)
        .filter(|speed| *speed > 0)
        .map(|speed| LinkSpeed(Some(speed)))
        .ok_or_else(|| "out of range".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn link_speeds_are_read() {
        assert_eq!(link_speed("200mbit"), Ok(LinkSpeed(Some(200_000_000))));
        assert_eq!(link_speed("unlimited"), Ok(LinkSpeed(None)));
        for bad in ["", "1", "gbit", "0mbit", "-1gbit", "99999999999gbit", "1 gbit"] {
            assert!(link_speed(bad).is_err(), "{bad}");
        }
    }
}
