//! The command line of what the lab measures.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;
use transhume_lab::load::MemoryLoad;

use super::lab::{CircuitsArg, LinkSpeed, link_speed};

/// What to measure of the page path.
#[derive(Debug, ClapArgs)]
pub struct MemoryArgs {
    /// What the guests do: nothing (idle), hold the same files in every page cache (cache), rewrite
    /// memory that compresses well or not (compressible, random)
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LOAD,..",
        default_value = "idle,cache,compressible,random",
        value_parser = memory_load()
    )]
    pub loads: Vec<MemoryLoad>,
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
    /// Page classes that are used beside the usual ones
    #[arg(long, value_name = "CLASS,..", value_delimiter = ',', value_parser = PAGE_CLASSES_MORE)]
    pub pages_on: Vec<String>,
    /// Every link in the clear, for comparison: no certificates
    #[arg(long)]
    pub insecure: bool,
    /// Where memory.csv, its summary and the machine's description go
    #[arg(long)]
    pub out: PathBuf,
    /// One JSON document instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Page classes that can be switched off, as an agent's configuration names them.
pub(super) const PAGE_CLASSES_OPTIONAL: [&str; 6] = ["fill", "known", "delta", "wkdm", "lz4", "zstd"];
pub(super) const PAGE_CLASSES_MORE: [&str; 1] = ["lzo"];

fn memory_load() -> impl TypedValueParser<Value = MemoryLoad> {
    PossibleValuesParser::new(MemoryLoad::ALL.map(MemoryLoad::name)).map(|name| {
        let mut all = MemoryLoad::ALL.into_iter();
        all.find(|load| load.name() == name)
            .expect("it is one of the names")
    })
}

/// How many VMs of a cluster go at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Together {
    /// So many.
    Of(usize),
    /// All of them.
    All,
}

impl Together {
    /// Of a cluster of so many.
    pub fn of(self, vms: usize) -> usize {
        match self {
            Together::Of(k) => k,
            Together::All => vms,
        }
    }
}

pub(super) fn together(text: &str) -> Result<Together, String> {
    match (text, text.parse::<usize>()) {
        ("all", _) => Ok(Together::All),
        (_, Ok(k)) if k > 0 => Ok(Together::Of(k)),
        _ => Err("a number of VMs, or all".to_owned()),
    }
}

/// What to measure of those who stay.
#[derive(Debug, ClapArgs)]
pub struct NeighboursArgs {
    /// Of these only [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART,..")]
    pub parts: Vec<Part>,
    /// How cluster traffic, migrations and storage reach the hosts, each form in turn
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "CIRCUITS,..",
        default_value = "shared,separate,undivided"
    )]
    pub circuits: Vec<CircuitsArg>,
    /// Speed of each host's links
    #[arg(long, default_value = "100mbit", value_parser = link_speed)]
    pub link: LinkSpeed,
    /// Moves of each kind, which are pairs; 5 at most where there is nothing to pair
    #[arg(long, default_value_t = 20)]
    pub reps: usize,
    /// VMs that move; two more stay
    #[arg(long, default_value_t = 2)]
    pub vms: u16,
    /// Random memory of each VM: how long a move takes
    #[arg(long, default_value_t = 48, value_name = "MIB")]
    pub random_mib: u64,
    /// Where neighbours.csv, its tables and boxes and the machine's description go
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// One JSON document instead of tables: every move
    #[arg(long)]
    pub json: bool,
}

/// What to measure of those who move.
#[derive(Debug, ClapArgs)]
pub struct BrownoutArgs {
    /// VMs of the cluster
    #[arg(long, default_value_t = 6)]
    pub vms: u16,
    /// Messages a second into each VM; 0 for guests that say nothing
    #[arg(long, default_value_t = 1000)]
    pub rate: u32,
    /// k: VMs that are switched over at once, or all
    #[arg(long, value_delimiter = ',', value_name = "K,..", default_value = "1", value_parser = together)]
    pub batch: Vec<Together>,
    /// Moves of each kind
    #[arg(long, default_value_t = 5)]
    pub reps: usize,
    /// Speed of each host's links
    #[arg(long, default_value = "1gbit", value_parser = link_speed)]
    pub link: LinkSpeed,
    /// A command run in every guest
    #[arg(long, value_name = "CMD")]
    pub run: Option<String>,
    /// Transhume alone
    #[arg(long)]
    pub without_stock: bool,
    /// Where brownout.csv, stalls.csv, their summary and the machine's description go
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// One JSON document instead of a table: every VM of every move
    #[arg(long)]
    pub json: bool,
}

/// A part of `lab neighbours`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// What probes see while nothing moves
    Rest,
    /// What probes see while memory is copied
    Latency,
    /// What a greedy flow of cluster traffic gets meanwhile
    Bulk,
    /// What memory gets of a link that nobody else wants
    Alone,
    /// Two moves at once over one link
    Two,
}

/// What to measure and draw.
#[derive(Debug, ClapArgs)]
pub struct FiguresArgs {
    /// 6, 7, 8, 9 [default: 6 7]
    pub figures: Vec<u8>,
    /// Where CSV, SVG, PNG and the machine's description go
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Moves of each kind: with each MTU, number and memory [default: 20, of figure 8 3, of 9 5]
    #[arg(long)]
    pub reps: Option<usize>,
    /// VMs of the cluster of figures 6, 7 and 9
    #[arg(long, default_value_t = 4)]
    pub vms: u16,
    /// Numbers of VMs of figure 8; stock QEMU moves up to 10
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "N,..",
        default_value = "1,2,5,10,20,40"
    )]
    pub vm_counts: Vec<u16>,
    /// Memory of each VM of figure 8
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "MIB,..",
        default_value = "80,96,128"
    )]
    pub memory_mib: Vec<u64>,
    /// Figure 8 of VMs that are not alike: memory in turn from these sizes, and some rewrite theirs
    #[arg(long)]
    pub unequal: bool,
    /// Speed of each host's links in figure 8
    #[arg(long, default_value = "200mbit", value_parser = link_speed)]
    pub link: LinkSpeed,
    /// k, comma-separated for several; of figure 9 the first [default: 1 and all, of 9 all]
    #[arg(long, value_delimiter = ',', value_name = "K,..", value_parser = together)]
    pub batch: Vec<Together>,
    /// Transhume alone
    #[arg(long)]
    pub without_stock: bool,
    /// Messages a second into each VM [default: 1000, of figure 8 4]
    #[arg(long)]
    pub rate: Option<u32>,
    /// One JSON document: every VM of every move of figures 6 and 7
    #[arg(long)]
    pub json: bool,
}

impl FiguresArgs {
    /// Of figures 6, 7 and 9.
    pub fn rate(&self) -> u32 {
        self.rate.unwrap_or(1000)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k_is_a_number_or_all() {
        assert_eq!(together("all"), Ok(Together::All));
        assert_eq!(together("2"), Ok(Together::Of(2)));
        assert!(together("0").is_err() && together("some").is_err());
    }
}
