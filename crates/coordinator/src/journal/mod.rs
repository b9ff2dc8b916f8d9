//! The journal: the only thing that remembers (G6). A port with three answers, redb, etcd and
//! memory; one contract suite for all (`tests/journal.rs`).
//!
//! Deliberately absent: any knowledge of what entries mean. Whoever reads them back is the
//! protocol's `Migration::recover`.

mod etcd;
mod etcd_upkeep;
mod fleet;
mod memory;
pub(crate) mod record;
mod redb;
mod upkeep;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;

use serde::{Deserialize, Serialize};
use transhume_api::{ClusterStage, DrainMove, DrainStage, DrainStay, MoveOrder};
use transhume_model::{
    ClusterName, ClusterSpec, DrainId, Epoch, HostName, MigrationId, Millis, VmName, WallMicros,
};
use transhume_protocol::message::{FleetId, Leader};
use transhume_protocol::migration::{Cleaning, JournalEntry};

pub use self::etcd::EtcdJournal;
pub use self::etcd_upkeep::{
    backup_from_etcd, check_backup_from_etcd, check_restore_into_etcd, restore_into_etcd, verify_in_etcd,
};
pub use self::fleet::check_fleet;
pub use self::memory::MemoryJournal;
pub use self::redb::RedbJournal;
pub use self::upkeep::{Summary, backup, check_backup, check_restore, restore, verify};

/// Version of the tables and records. A journal of a newer one is refused by name.
pub const FORMAT: u64 = 4;

/// Why the journal cannot be used. The coordinator stops: without a journal it must not decide
/// anything.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Somebody else has it open.
    #[error("the journal {path} is in use by another process; is another coordinator running?")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The database refused an operation.
    #[error("the journal {path} cannot be used")]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<::redb::Error>,
    },
    /// There is no such file.
    #[error("there is no journal {path}")]
    NotThere {
        /// The file.
        path: PathBuf,
    },
    /// A backup that was made in the midst of a move: what became of that only agents know.
    #[error("the backup {path} holds {moves} moves that were not over, and nobody knows how they ended")]
    UnderWay {
        /// The backup.
        path: PathBuf,
        /// How many.
        moves: usize,
    },
    /// The file beside it, or whoever restores it, names another fleet.
    #[error("the journal {path} is that of fleet {found}, and not of fleet {expected}")]
    OtherFleet {
        /// The journal.
        path: PathBuf,
        /// Its fleet.
        found: FleetId,
        /// The one that it should be of.
        expected: FleetId,
    },
    /// A later term than its last has been led from where it lies.
    #[error(
        "the journal {path} has come to term {found} of its fleet, and term {led} has been led from here: it is an old \
         copy, or was begun anew, and agents obey neither"
    )]
    OldCopy {
        /// The journal.
        path: PathBuf,
        /// Its last term.
        found: u64,
        /// By the file beside it.
        led: u64,
    },
    /// The file beside it that names the fleet cannot be used.
    #[error("the file {path}, which names the fleet, cannot be used")]
    FleetFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No id could be made.
    #[error("the system has no random numbers for the fleet's id")]
    Random(#[source] std::io::Error),
    /// A copy of it cannot be made.
    #[error("the journal cannot be copied to {path}")]
    Copy {
        /// The copy.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// etcd does not do what it is asked for.
    #[error("etcd cannot be used at {place}: {why}")]
    Etcd {
        /// Prefix, member or file.
        place: String,
        /// As it says.
        why: String,
    },
    /// Something is there where a backup is to be put.
    #[error("{place} holds a journal already")]
    NotEmpty {
        /// The prefix.
        place: String,
    },
    /// A backup was not put there whole.
    #[error("{place} holds a part of a backup: whoever restored it did not come to an end")]
    HalfRestored {
        /// The prefix.
        place: String,
    },
    /// It is written to so often that no whole copy of it could be read.
    #[error("{place} is being written to all the time: none of {tries} copies was of one instant")]
    Changing {
        /// The prefix.
        place: String,
        /// How often it was tried.
        tries: usize,
    },
    /// Another coordinator leads, or may.
    #[error("the lease in etcd is lost: {why}; this coordinator decides nothing more")]
    LeaseLost {
        /// How that is known.
        why: String,
    },
    /// No majority of etcd takes a write.
    #[error("etcd took no write in {waited_ms} ms: {why}")]
    Unwritten {
        /// How long was waited.
        waited_ms: u64,
        /// What the last member said.
        why: String,
    },
    /// A write that etcd would refuse.
    #[error("{what} takes {bytes} bytes, and etcd holds {bytes_max} in one write")]
    TooLarge {
        /// What was to be written.
        what: String,
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Two coordinators' clocks.
    #[error(
        "the clock of the coordinator that leads, or led last, is {} ms {} this machine's; nothing was changed",
        .ahead_ms.unsigned_abs(),
        if *.ahead_ms < 0 { "behind" } else { "ahead of" }
    )]
    ClocksApart {
        /// By how much.
        ahead_ms: i64,
    },
    /// It was written by a newer release.
    #[error(
        "the journal {path} has format {found}, this release knows up to {FORMAT}; start the newer release again"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// As written.
        found: u64,
    },
    /// A record does not match its checksum.
    #[error(
        "the journal {path} holds a damaged record: {record}; move it away and put a backup in its place with `transhume journal restore`"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which record.
        record: String,
    },
    /// A record that says what cannot be: whoever wrote it was no coordinator.
    #[error("the journal {path} holds a compressed record that cannot be expanded: {record}: {why}")]
    NotExpanded {
        /// The file.
        path: PathBuf,
        /// Which record.
        record: String,
        /// What is wrong with it.
        why: String,
    },
    /// A sound record that this release cannot read.
    #[error("the journal {path} holds a record that this release does not understand: {record}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Which record.
        record: String,
        /// Where it stops making sense.
        #[source]
        source: serde_json::Error,
    },
}

impl JournalError {
    /// What would help, where the text does not say it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            JournalError::OtherFleet { .. } => Some(
                "name this fleet's own journal or prefix; a machine that changes fleets has its `.fleet` file removed first",
            ),
            JournalError::Etcd { .. } => {
                Some("look at etcd, and at endpoints, prefix and certificates of `[etcd]`")
            }
            JournalError::LeaseLost { .. } | JournalError::Unwritten { .. } => {
                Some("start it again: it follows whoever leads by then, or leads and goes on")
            }
            JournalError::ClocksApart { .. } => {
                Some("let both machines take the time from one source, then start it again")
            }
            JournalError::TooLarge { .. } => Some("move fewer VMs at once"),
            JournalError::HalfRestored { .. } => {
                Some("restore it again with `transhume journal restore --etcd`")
            }
            _ => None,
        }
    }
}

/// A cluster as the journal keeps it; each VM with the host it lives on now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// The cluster.
    pub spec: ClusterSpec,
    /// Where in its life.
    pub stage: ClusterStage,
}

/// What is remembered of a host beside its place in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// The host.
    pub host: HostName,
    /// Since when it is off, by an operator's word; until it is back and clean.
    #[serde(default)]
    pub fenced_at: Option<WallMicros>,
    /// Nothing new is put on it.
    #[serde(default)]
    pub cordoned: bool,
    /// What is to be cleaned away there before anything else is done with it.
    #[serde(default)]
    pub leftovers: Vec<Leftover>,
}

impl HostRecord {
    /// Of a host of which nothing is to be remembered.
    pub fn new(host: HostName) -> Self {
        HostRecord {
            host,
            fenced_at: None,
            cordoned: false,
            leftovers: Vec::new(),
        }
    }
}

/// What a host that was given up still has of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leftover {
    /// The VM.
    pub vm: VmName,
    /// The move that left it behind; absent where the VM was started elsewhere.
    #[serde(default)]
    pub migration: Option<MigrationId>,
    /// How it is cleaned away.
    pub clean: Cleaning,
    /// Since when.
    pub at: WallMicros,
}

/// A drain: what was ordered, and what came of it so far. What is left to be done stands in the
/// records of the clusters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRecord {
    /// Its number.
    pub drain: DrainId,
    /// Its hosts.
    pub hosts: Vec<HostName>,
    /// As ordered.
    pub order: MoveOrder,
    /// How far it is.
    pub stage: DrainStage,
    /// Nothing more is to be begun.
    pub cancelled: bool,
    /// Its moves, oldest first.
    pub moves: Vec<DrainMove>,
    /// Who found no place in the last plan.
    pub stays: Vec<DrainStay>,
    /// When its hosts die, where that is known.
    #[serde(default)]
    pub dies: Option<WallMicros>,
}

impl DrainRecord {
    /// One that begins.
    pub fn new(drain: DrainId, hosts: Vec<HostName>, order: MoveOrder, now: WallMicros) -> Self {
        let in_ms = order.safe_by_ms;
        DrainRecord {
            dies: in_ms.map(|ms| WallMicros(now.0.saturating_add(ms.saturating_mul(1_000)))),
            drain,
            hosts,
            order,
            stage: DrainStage::Running,
            cancelled: false,
            moves: Vec::new(),
            stays: Vec::new(),
        }
    }

    /// How long its hosts live on, where that is known and they do.
    pub fn dies_in(&self, now: WallMicros) -> Option<Millis> {
        let left = self.dies?.0.saturating_sub(now.0) / 1_000;
        (left > 0).then_some(Millis(left))
    }
}

/// The last numbers that a journal gave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Numbers {
    migration: u64,
    drain: u64,
    epoch: u64,
    term: u64,
}

/// Comes when a journal may not be written any more, with the reason.
pub type LostJournal = Pin<Box<dyn Future<Output = JournalError> + Send>>;

/// What a coordinator remembers. Everything that returns `Ok` is durable, and all of it or nothing
/// is there after a crash.
pub trait Journal: Send {
    /// Comes when this coordinator may not decide any more though no write has failed; never where
    /// the journal is its own.
    fn lost(&self) -> LostJournal {
        Box::pin(std::future::pending())
    }

    /// The longest record that it takes, bytes of JSON.
    fn record_bytes_max(&self) -> usize {
        usize::MAX
    }

    /// Which fleet this is the journal of: made by chance where it has none yet.
    fn fleet(&mut self) -> Result<FleetId, JournalError>;

    /// The same, where it has one.
    fn known_fleet(&self) -> Result<Option<FleetId>, JournalError>;

    /// Makes it that fleet's journal.
    fn set_fleet(&mut self, fleet: &FleetId) -> Result<(), JournalError>;

    /// `count` leadership terms further; the last of them.
    fn new_terms(&mut self, count: u64) -> Result<u64, JournalError>;

    /// Begins a term that nobody has had.
    fn begin_term(&mut self) -> Result<u64, JournalError> {
        self.new_terms(1)
    }

    /// A coordinator begins to lead.
    fn lead(&mut self) -> Result<Leader, JournalError> {
        Ok(Leader {
            fleet: self.fleet()?,
            term: self.begin_term()?,
            life: fleet::chance()?,
        })
    }

    /// The number of a new migration.
    fn new_migration(&mut self) -> Result<MigrationId, JournalError>;

    /// The first of `count` epochs in a row that nobody has had.
    fn new_epochs(&mut self, count: u64) -> Result<Epoch, JournalError>;

    /// Appends entries of one move and, in the same transaction, where its cluster's VMs live now
    /// and what is left behind on hosts.
    fn append_with(
        &mut self,
        migration: MigrationId,
        entries: &[JournalEntry],
        cluster: Option<&ClusterRecord>,
        hosts: &[HostRecord],
    ) -> Result<(), JournalError>;

    /// The same, where nothing is left behind.
    fn append(
        &mut self,
        migration: MigrationId,
        entries: &[JournalEntry],
        cluster: Option<&ClusterRecord>,
    ) -> Result<(), JournalError> {
        self.append_with(migration, entries, cluster, &[])
    }

    /// Keeps these in place of what was kept of the same hosts and cluster, all or none.
    fn put_hosts(
        &mut self,
        hosts: &[HostRecord],
        cluster: Option<&ClusterRecord>,
    ) -> Result<(), JournalError>;

    /// Everything that is remembered of hosts, by name.
    fn hosts(&self) -> Result<Vec<HostRecord>, JournalError>;

    /// All moves with their entries, in order.
    fn migrations(&self) -> Result<BTreeMap<MigrationId, Vec<JournalEntry>>, JournalError>;

    /// Forgets a move and its entries.
    fn remove_migration(&mut self, migration: MigrationId) -> Result<(), JournalError>;

    /// Keeps a cluster in place of what was kept under its name.
    fn put_cluster(&mut self, cluster: &ClusterRecord) -> Result<(), JournalError>;

    /// The number of a new drain.
    fn new_drain(&mut self) -> Result<DrainId, JournalError>;

    /// Keeps a drain in place of what was kept under its number and, in the same transaction, these
    /// hosts.
    fn put_drain(&mut self, drain: &DrainRecord, hosts: &[HostRecord]) -> Result<(), JournalError>;

    /// Forgets a drain.
    fn remove_drain(&mut self, drain: DrainId) -> Result<(), JournalError>;

    /// All drains, by number.
    fn drains(&self) -> Result<Vec<DrainRecord>, JournalError>;

    /// Forgets a cluster.
    fn remove_cluster(&mut self, cluster: &ClusterName) -> Result<(), JournalError>;

    /// All clusters, by name.
    fn clusters(&self) -> Result<Vec<ClusterRecord>, JournalError>;
}
