//! The command line of `transhume lab`.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use transhume_coordinator::{LEASE_S_MAX, LEASE_S_MIN};
use transhume_lab::{App, Circuits, JournalKind, Profile, Traffic};
use transhume_model::{BitRate, RateError, VmName};

use super::apps::{AppsArgs, app};
use super::measuring::{
    BrownoutArgs, FiguresArgs, MemoryArgs, NeighboursArgs, PAGE_CLASSES_MORE, PAGE_CLASSES_OPTIONAL,
    StockArgs,
};

const LEASE_S: RangeInclusive<i64> = LEASE_S_MIN as i64..=LEASE_S_MAX as i64;

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
    /// Draw figures of the paper anew, in labs of their own: 6 (message loss), 7 (blackout),
    /// 8 (time to move a cluster, by its VMs and their memory), 9 (what the network buffers hold
    /// through a move); stock QEMU beside Transhume in 6, 7 and 8
    Figures(FiguresArgs),
    /// Measure how memory is sent: bytes, time and processor beside stock QEMU's ways, every VM at
    /// once
    Memory(MemoryArgs),
    /// Measure what those who stay notice of a move on their links: shared, separate and undivided
    /// circuits in turn
    Neighbours(NeighboursArgs),
    /// Measure what guests notice of their own move: how long peers heard nothing of them, how long
    /// a process stood still; beside as long without a move, and stock QEMU
    Brownout(BrownoutArgs),
    /// Move a cluster once as people do today, with stock QEMU, and say what its guests lost
    Stock(StockArgs),
    /// Move a cluster back and forth while parts die, hang and lose their links, and look whether
    /// every promise is kept
    Storm(StormArgs),
    /// What the clients of the cluster in the guests saw since the last look (`lab up --app`)
    App {
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Measure what real clusters notice of moves: failed and late operations, elections, broken
    /// replication; each move beside a control in which nothing moves
    Apps(AppsArgs),
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

/// A violation in a longer round would be hard to place.
const MOVES_OF_A_ROUND_MAX: i64 = 100;

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
    /// One host loses its power for good in each round, and the storm decides as an operator would;
    /// a lab of its own for each round
    #[arg(long, conflicts_with_all = ["faults", "moves"])]
    pub lost_hosts: bool,
    /// Faults to draw from, by name or kind (kill, freeze, cut, fill, step), or none [default: all]
    #[arg(long, value_delimiter = ',', value_name = "FAULT,..")]
    pub faults: Vec<String>,
    /// Moves of a round, there and back, before its guests are counted; more than one needs
    /// `--faults none`
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MOVES_OF_A_ROUND_MAX))]
    pub moves: u32,
    /// How cluster traffic, migrations and storage reach the hosts
    #[arg(long, value_enum, default_value_t = CircuitsArg::Separate)]
    pub circuits: CircuitsArg,
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

/// What the guests do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Every VM sends to every other (§2.1.2)
    Mesh,
    /// The first VM serves the others (§2.1.1)
    ClientServer,
    /// Every VM sends to the one before it and the one behind it: for many VMs on few cores
    Ring,
    /// Nothing
    None,
}

/// How the bands reach the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CircuitsArg {
    /// A link for each band
    Separate,
    /// One link for all, divided by the agents and the fabric
    Shared,
    /// One link for all, first come, first served
    Undivided,
}

/// What the journal is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum JournalArg {
    /// A file of the coordinator's
    Redb,
    /// Three members of etcd on machines of their own
    Etcd,
}

/// What the lab is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProfileArg {
    /// 4 VMs on 4 hosts, each speaks to each, 1000 messages a second
    Demo,
    /// The testbed of the paper (§4): 40 VMs on 4 of 8 hosts, in a ring, 4 messages a second
    Paper,
}

#[derive(Debug, ClapArgs)]
pub struct UpArgs {
    /// What hosts, VMs, memory, workload and rate are where they are not said
    #[arg(long, value_enum, default_value_t = ProfileArg::Demo)]
    pub profile: ProfileArg,
    /// Number of hosts; the VMs start on the first half
    #[arg(long)]
    pub hosts: Option<u16>,
    /// Number of VMs
    #[arg(long)]
    pub vms: Option<u16>,
    /// Run a real cluster in the guests, from the distribution's packages; the guests do nothing
    /// else, unless --workload says so
    #[arg(long, value_name = "APP", conflicts_with_all = ["run", "profile"], value_parser = app())]
    pub app: Option<App>,
    /// Put the last N of them into a second cluster, `stay`, in turn on the first host and on the
    /// first of the other half
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub staying: u16,
    /// Memory of each VM [default: 96, of an app as much as it needs]
    #[arg(long, value_name = "MIB")]
    pub memory_mib: Option<u64>,
    /// How cluster traffic, migrations and storage reach the hosts
    #[arg(long, value_enum, default_value_t = CircuitsArg::Separate)]
    pub circuits: CircuitsArg,
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
    #[arg(long, value_enum)]
    pub workload: Option<Workload>,
    /// Messages a second into each VM
    #[arg(long)]
    pub rate: Option<u32>,
    /// auto, kvm or tcg
    #[arg(long, default_value = "auto")]
    pub accel: String,
    /// Limit of a VM's network buffer; reaching it before commit rolls the batch back
    #[arg(long, value_name = "BYTES")]
    pub buffer_bytes_max: Option<u64>,
    /// Page classes that are not used
    #[arg(long, value_name = "CLASS,..", value_delimiter = ',', value_parser = PAGE_CLASSES_OPTIONAL)]
    pub pages_off: Vec<String>,
    /// Page classes that are used beside the usual ones
    #[arg(long, value_name = "CLASS,..", value_delimiter = ',', value_parser = PAGE_CLASSES_MORE)]
    pub pages_on: Vec<String>,
    /// What agents and coordinator are, for instance another release [default: this program]
    #[arg(long, value_name = "PROGRAM")]
    pub program: Option<PathBuf>,
    /// Every link in the clear, for comparison: no certificates
    #[arg(long)]
    pub insecure: bool,
    /// What the journal is in: a file, or three members of etcd
    #[arg(long, value_enum, default_value_t = JournalArg::Redb)]
    pub journal: JournalArg,
    /// Number of coordinators, of which one leads; more than one take --journal etcd
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub coordinators: u16,
    /// How long a coordinator that does not reach etcd leads on; takes --journal etcd [default: 3]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(LEASE_S))]
    pub lease: Option<u32>,
    /// A process that the lab belongs to: once it has ended, the next `lab up` removes the lab
    #[arg(long, value_name = "PID")]
    pub owner: Option<u32>,
}

impl From<Workload> for Traffic {
    fn from(workload: Workload) -> Self {
        match workload {
            Workload::Mesh => Traffic::Mesh,
            Workload::ClientServer => Traffic::ClientServer,
            Workload::Ring => Traffic::Ring,
            Workload::None => Traffic::None,
        }
    }
}

impl From<CircuitsArg> for Circuits {
    fn from(circuits: CircuitsArg) -> Self {
        match circuits {
            CircuitsArg::Separate => Circuits::Separate,
            CircuitsArg::Shared => Circuits::Shared,
            CircuitsArg::Undivided => Circuits::Undivided,
        }
    }
}

impl From<JournalArg> for JournalKind {
    fn from(journal: JournalArg) -> Self {
        match journal {
            JournalArg::Redb => JournalKind::Redb,
            JournalArg::Etcd => JournalKind::Etcd,
        }
    }
}

impl From<ProfileArg> for Profile {
    fn from(profile: ProfileArg) -> Self {
        match profile {
            ProfileArg::Demo => Profile::Demo,
            ProfileArg::Paper => Profile::Paper,
        }
    }
}

/// Bits per second; absent: unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkSpeed(pub Option<u64>);

impl std::fmt::Display for LinkSpeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.and_then(BitRate::from_bits_per_s) {
            None => f.write_str("unlimited"),
            Some(rate) => rate.fmt(f),
        }
    }
}

pub(super) fn link_speed(text: &str) -> Result<LinkSpeed, RateError> {
    match text {
        "unlimited" => Ok(LinkSpeed(None)),
        rate => Ok(LinkSpeed(Some(rate.parse::<BitRate>()?.bits_per_s()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_speeds_are_read() {
        assert_eq!(link_speed("200mbit"), Ok(LinkSpeed(Some(200_000_000))));
        assert_eq!(link_speed("unlimited"), Ok(LinkSpeed(None)));
        assert!(link_speed("1gb").is_err());
    }
}
