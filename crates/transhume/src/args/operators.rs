//! The command line of operators' decisions: hosts that are lost, and what becomes of their VMs.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use transhume_protocol::migration::RunOn;

use super::DrainArgs;

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
pub enum CheckCommand {
    /// What the link from one host to another and both agents can do, and what limits it: two
    /// seconds of page stream without a VM
    Link {
        /// Whose agent sends
        from: String,
        /// Whose agent receives
        to: String,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
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
    /// Move every VM of every cluster off these hosts; the same as `drain`
    Drain(DrainArgs),
    /// Say that a host is off, or have its fence agent switch it off: only then may a VM that could
    /// still run there be run elsewhere
    Fence {
        /// The host
        host: String,
        /// It is, by your word; nobody checks. Without it the command is run that the coordinator's
        /// configuration names as the host's `fence`
        #[arg(long)]
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

/// What is done at a host, without a coordinator.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// VMs of this host, by its agent's records
    Vm {
        #[command(subcommand)]
        command: LocalVmCommand,
    },
}

#[derive(Debug, Subcommand)]
pub enum LocalVmCommand {
    /// All VMs of this host: what they are here, their QEMU, what their guests do
    List {
        /// The agent's configuration file
        #[arg(long)]
        config: PathBuf,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Let a guest that stands still go on; refused where it may run on another host
    Resume {
        /// The VM
        vm: String,
        /// The agent's configuration file
        #[arg(long)]
        config: PathBuf,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Kill the QEMU of a VM
    Kill {
        /// The VM
        vm: String,
        /// The agent's configuration file
        #[arg(long)]
        config: PathBuf,
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
        /// Run it on its source although it may have run on its target and written its disks
        #[arg(long)]
        although_it_may_have_run: bool,
        #[command(flatten)]
        deciding: Deciding,
    },
}

/// Where a VM is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RunSide {
    /// On its source again, from the copy that it left there
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
    /// Boot a VM that is powered off or missing
    Start {
        /// The cluster
        cluster: String,
        /// The VM
        vm: String,
        /// Another host than its own, for a VM that its own host does not know any more
        #[arg(long)]
        host: Option<String>,
        #[command(flatten)]
        deciding: Deciding,
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
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Take a VM that is powered off or missing out of its cluster; the last one takes the cluster
    /// along
    Forget {
        /// The cluster
        cluster: String,
        /// The VM
        vm: String,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Boot a VM from its disks on another host, its own being fenced
    Restart {
        /// The cluster
        cluster: String,
        /// The VM
        vm: String,
        /// The other host
        #[arg(long, value_name = "HOST")]
        on: String,
        #[command(flatten)]
        deciding: Deciding,
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
}
