//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use clap_complete::Shell;

mod apps;
mod lab;
mod measuring;
mod moves;
mod operators;

pub use apps::*;
pub use lab::*;
pub use measuring::*;
pub use moves::*;
pub use operators::*;

/// Moves a whole virtual cluster, live, from one set of hosts to another, and loses nothing.
///
/// Exit codes: 0 done; 1 something failed; 2 wrong usage; 3 refused, nothing changed; 4 rolled
/// back; 5 coordinator unreachable; 6 a VM is lost, or frames that went with a lost host; 130
/// Ctrl-C, a move under way goes on; 141 nobody reads the output any more.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// The coordinator: https://HOST:PORT or unix:PATH; http://HOST:PORT where it is insecure; of
    /// several, with commas between, the one that leads [default: the lab's]
    #[arg(long, global = true, env = "TRANSHUME_API")]
    pub api: Option<String>,
    /// Who asks, over https: NAME.pem as `ca issue` writes it, with NAME.key and ca.pem beside it
    #[arg(long, global = true, env = "TRANSHUME_CERTIFICATE", value_name = "FILE")]
    pub certificate: Option<PathBuf>,
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
    /// One VM of a cluster: start, stop or forget it; what to do where its host is lost
    Vm {
        #[command(subcommand)]
        command: VmCommand,
    },
    /// The same as `host list`: free resources, whether agents answer, what is stranded there,
    /// clocks that are off
    Hosts {
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Hosts one by one: what is left there, whether they are off, whether VMs may be put on them
    Host {
        #[command(subcommand)]
        command: HostCommand,
    },
    /// What something could do, tried before it is needed
    Check {
        #[command(subcommand)]
        command: CheckCommand,
    },
    /// A move that waits for an operator's decision
    Migration {
        #[command(subcommand)]
        command: MigrationCommand,
    },
    /// Show which VM would go where, in which batch; nothing is changed
    Plan(PlanArgs),
    /// The fleet's certificate authority: who is who
    Ca {
        /// Its directory
        #[arg(
            long,
            global = true,
            env = "TRANSHUME_CA",
            default_value = "/etc/transhume/ca"
        )]
        dir: PathBuf,
        #[command(subcommand)]
        command: CaCommand,
    },
    /// A coordinator's journal, as a file while no coordinator runs on it, or in etcd
    Journal {
        #[command(subcommand)]
        command: JournalCommand,
    },
    /// Inventories for `plan --inventory`
    Inventory {
        #[command(subcommand)]
        command: InventoryCommand,
    },
    /// Move a cluster
    Migrate(MoveArgs),
    /// Move every VM of every cluster off these hosts, by one plan
    Drain(DrainArgs),
    /// All drains so far, and what they wait for
    Drains(DrainsArgs),
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
    /// Run a host's agent, or look at its VMs where no coordinator is
    #[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
    Agent {
        /// Configuration file
        #[arg(long, required = true)]
        config: Option<PathBuf>,
        #[command(subcommand)]
        command: Option<AgentCommand>,
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

/// What is done with an authority.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Make one, for a new fleet
    Init {
        /// The fleet's name, for people
        #[arg(long, default_value = "transhume")]
        name: String,
    },
    /// Make a key and a certificate; where they are there, in their place
    Issue {
        /// coordinator, agent/HOST or user/NAME
        identity: String,
        /// How long it is good
        #[arg(long, default_value_t = transhume_trust::limits::CERTIFICATE_DAYS)]
        days: u32,
        /// Where NAME.pem, NAME.key, ca.pem and revoked.pem go
        #[arg(long, default_value = ".")]
        out: PathBuf,
    },
    /// Make a new key and certificate in place of these; no part needs a restart
    Renew {
        /// The certificate, as `issue` wrote it
        certificate: PathBuf,
        /// How long it is good
        #[arg(long, default_value_t = transhume_trust::limits::CERTIFICATE_DAYS)]
        days: u32,
    },
    /// A key is lost: its certificate is worth nothing once every host has the new revoked.pem
    Revoke {
        /// Whose, for all of that identity; or a serial number
        what: String,
    },
    /// What was issued, and how long it is good
    Show {
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
}

/// What is done with a journal's file.
#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    /// Read every record
    Verify {
        /// The journal; with --etcd the configuration of a coordinator
        file: PathBuf,
        /// The journal is in etcd, as FILE, the configuration of a coordinator, says
        #[arg(long)]
        etcd: bool,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
    /// Verify it and copy it
    Backup {
        /// The journal; with --etcd the configuration of a coordinator
        file: PathBuf,
        /// The copy; not there yet
        copy: PathBuf,
        /// The journal is in etcd, as FILE, the configuration of a coordinator, says; one may lead
        /// meanwhile
        #[arg(long)]
        etcd: bool,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// Make a copy a journal again, with epochs above all that agents have seen
    Restore {
        /// The copy
        copy: PathBuf,
        /// The journal; not there yet. With --etcd the configuration of a coordinator
        file: PathBuf,
        /// Into etcd, as FILE, the configuration of a coordinator, says: nothing is below its
        /// prefix yet
        #[arg(long)]
        etcd: bool,
        #[command(flatten)]
        deciding: Deciding,
    },
}

/// What is done about inventories.
#[derive(Debug, Subcommand)]
pub enum InventoryCommand {
    /// Turn what another system knows of hosts and VMs into an inventory, on stdout
    Import {
        #[command(subcommand)]
        from: ImportSource,
    },
}

/// Where an inventory comes from.
#[derive(Debug, Subcommand)]
pub enum ImportSource {
    /// Proxmox VE: the output of `pvesh get /cluster/resources --output-format json`
    Proxmox {
        /// The file; `-` for stdin
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// What the cluster is to be called
        #[arg(long, default_value = "imported")]
        cluster: String,
    },
    /// OpenStack: the `-f json` output of `openstack hypervisor list --long`, `server list
    /// --all-projects --long`, `flavor list --all`, and `server group list --long`
    Openstack {
        /// The files, in any order; `-` for stdin
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// What the cluster is to be called
        #[arg(long, default_value = "imported")]
        cluster: String,
    },
    /// Kubernetes with KubeVirt: the output of `kubectl get nodes,vmi -A -o json`
    Kubevirt {
        /// The file; `-` for stdin
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// What the cluster is to be called
        #[arg(long, default_value = "imported")]
        cluster: String,
    },
    /// libvirt: each host is asked through `virsh`, read only
    Libvirt {
        /// Where the hosts are reached, like qemu+ssh://root@h1/system
        #[arg(required = true)]
        uris: Vec<String>,
        /// What the cluster is to be called
        #[arg(long, default_value = "imported")]
        cluster: String,
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
    /// Forget a cluster whose hosts never come back: no VM of it may run anywhere
    Forget {
        /// The cluster
        name: String,
        #[command(flatten)]
        deciding: Deciding,
    },
    /// What its VMs ask of their hosts: groups, pins, labels; every move keeps to it
    Rules {
        /// The cluster
        name: String,
        /// Put what this file says (YAML or JSON) in its place
        #[arg(long, value_name = "FILE")]
        set: Option<PathBuf>,
        /// One JSON document
        #[arg(long)]
        json: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever a user decides can be asked for without being done, without being asked back, and
    /// by a program.
    #[test]
    fn every_verb_of_an_operator_has_a_dry_run_a_confirmation_and_json() {
        let verbs = [
            "host fence",
            "host cordon",
            "host uncordon",
            "host forget",
            "migration resolve",
            "vm start",
            "vm stop",
            "vm restart",
            "vm open-plug",
            "vm forget",
            "cluster forget",
            "journal backup",
            "journal restore",
            "agent vm resume",
            "agent vm kill",
        ];
        let args = <Args as clap::CommandFactory>::command();
        for verb in verbs {
            let mut command = &args;
            for word in verb.split(' ') {
                let found = command.get_subcommands().find(|sub| sub.get_name() == word);
                command = found.unwrap_or_else(|| panic!("there is no `{verb}`"));
            }
            for flag in ["dry-run", "yes", "json"] {
                let has = command.get_arguments().any(|arg| arg.get_long() == Some(flag));
                assert!(has, "`{verb}` has no --{flag}");
            }
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn an_option_that_means_nothing_there_is_refused() {
        let read = |line: &str| Args::try_parse_from(line.split(' ')).map(|_| ());
        read("transhume plan lab --from h1 --to h2").unwrap();
        read("transhume plan --inventory f --strict --batch 3 --deadline-s 5").unwrap();
        read("transhume plan lab --from h1 --to h2 --strict --explain --svg f --safe-by 9m").unwrap();
        read("transhume drain h1,h2 --to h3 --batch auto").unwrap();
        for line in [
            "transhume plan lab --from h1 --to h2 --deadline-s 5",
            "transhume migrate lab --from h1 --to h2 --safe-by 9m --batch 2",
            "transhume drain",
            "transhume inventory import proxmox",
        ] {
            assert!(read(line).is_err(), "{line}");
        }
        for option in ["--offline", "--max-time 5s", "--converge stop"] {
            let line = format!("transhume plan --inventory f {option}");
            assert!(read(&line).is_err(), "{line}");
        }
    }
}
