//! The journal: the only thing that remembers (G6). A port with two answers, redb and memory; one contract suite for both.
//!
//! Records are JSON behind eight bytes of BLAKE3, so that a damaged one is an error and never a wrong decision.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use transhume_model::{ClusterName, ClusterSpec, Epoch, MigrationId};
use transhume_protocol::migration::JournalEntry;

const ENTRIES: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("entries");
const CLUSTERS: TableDefinition<&str, &[u8]> = TableDefinition::new("clusters");
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
const LAST_MIGRATION: &str = "last-migration";
const LAST_EPOCH: &str = "last-epoch";
const CHECKSUM_BYTES: usize = 8;

/// A row of [`ENTRIES`].
type EntryRow = ((u64, u64), Vec<u8>);

/// Why the journal cannot be used. The coordinator stops: without a journal it must not decide anything.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The database refused an operation.
    #[error("the journal {path} cannot be used")]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// A record does not match its checksum, or is not what belongs there.
    #[error(
        "the journal {path} holds a damaged record: {record}; restore it from a copy, or move it away to begin anew"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which record.
        record: String,
    },
}

/// What a coordinator remembers. Everything that returns `Ok` is durable.
pub trait Journal: Send {
    /// The number of a new migration.
    fn new_migration(&mut self) -> Result<MigrationId, JournalError>;

    /// The first of `count` epochs that nobody has had.
    fn new_epochs(&mut self, count: u64) -> Result<Epoch, JournalError>;

    /// Appends entries of one move and, in the same breath, where its cluster's VMs live now.
    fn append(
        &mut self,
        migration: MigrationId,
        entries: &[JournalEntry],
        cluster: Option<&ClusterSpec>,
    ) -> Result<(), JournalError>;

    /// All moves with their entries, in order.
    fn migrations(&self) -> Result<BTreeMap<MigrationId, Vec<JournalEntry>>, JournalError>;

    /// Keeps a cluster, with the host of each VM.
    fn put_cluster(&mut self, cluster: &ClusterSpec) -> Result<(), JournalError>;

    /// Forgets a cluster.
    fn remove_cluster(&mut self, cluster: &ClusterName) -> Result<(), JournalError>;

    /// All clusters.
    fn clusters(&self) -> Result<Vec<ClusterSpec>, JournalError>;
}

/// The embedded journal.
#[derive(Debug)]
pub struct RedbJournal {
    database: Database,
    path: PathBuf,
}

fn seal(value: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_vec(value).expect("journal records have string keys and finite numbers");
    let mut bytes = blake3::hash(&json).as_bytes()[..CHECKSUM_BYTES].to_vec();
    bytes.extend(json);
    bytes
}

impl RedbJournal {
    /// Opens the journal, or begins one.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let wrap = |source: redb::Error| JournalError::Database {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let database = Database::create(path).map_err(|error| wrap(error.into()))?;
        let journal = Self {
            database,
            path: path.to_owned(),
        };
        journal.write(|transaction| {
            transaction.open_table(ENTRIES)?;
            transaction.open_table(CLUSTERS)?;
            transaction.open_table(NUMBERS)?;
            Ok(())
        })?;
        Ok(journal)
    }

    fn failed(&self, source: redb::Error) -> JournalError {
        JournalError::Database {
            path: self.path.clone(),
            source: Box::new(source),
        }
    }

    fn unseal<T: DeserializeOwned>(
        &self,
        bytes: &[u8],
        record: impl FnOnce() -> String,
    ) -> Result<T, JournalError> {
        let sound = bytes
            .split_at_checked(CHECKSUM_BYTES)
            .filter(|(checksum, json)| blake3::hash(json).as_bytes()[..CHECKSUM_BYTES] == **checksum)
            .and_then(|(_, json)| serde_json::from_slice(json).ok());
        sound.ok_or_else(|| JournalError::Damaged {
            path: self.path.clone(),
            record: record(),
        })
    }

    /// One durable transaction.
    fn write<T>(
        &self,
        work: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, JournalError> {
        let attempt = || -> Result<T, redb::Error> {
            let transaction = self.database.begin_write()?;
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        attempt().map_err(|source| self.failed(source))
    }

    fn count_up(&self, key: &str, by: u64) -> Result<u64, JournalError> {
        self.write(|transaction| {
            let mut numbers = transaction.open_table(NUMBERS)?;
            let last = numbers.get(key)?.map_or(0, |last| last.value());
            numbers.insert(key, last + by)?;
            Ok(last + 1)
        })
    }
}

impl Journal for RedbJournal {
    fn new_migration(&mut self) -> Result<MigrationId, JournalError> {
        self.count_up(LAST_MIGRATION, 1).map(MigrationId)
    }

    fn new_epochs(&mut self, count: u64) -> Result<Epoch, JournalError> {
        self.count_up(LAST_EPOCH, count).map(Epoch)
    }

    fn append(
        &mut self,
        migration: MigrationId,
        entries: &[JournalEntry],
        cluster: Option<&ClusterSpec>,
    ) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(ENTRIES)?;
            let range = (migration.0, 0)..=(migration.0, u64::MAX);
            let first = table
                .range(range)?
                .next_back()
                .transpose()?
                .map_or(0, |(key, _)| key.value().1 + 1);
            for (index, entry) in (first..).zip(entries) {
                table.insert((migration.0, index), seal(entry).as_slice())?;
            }
            if let Some(cluster) = cluster {
                transaction
                    .open_table(CLUSTERS)?
                    .insert(cluster.name.as_str(), seal(cluster).as_slice())?;
            }
            Ok(())
        })
    }

    fn migrations(&self) -> Result<BTreeMap<MigrationId, Vec<JournalEntry>>, JournalError> {
        let read = || -> Result<Vec<EntryRow>, redb::Error> {
            let table = self.database.begin_read()?.open_table(ENTRIES)?;
            let rows = table
                .iter()?
                .map(|row| row.map(|(key, value)| (key.value(), value.value().to_vec())));
            Ok(rows.collect::<Result<_, _>>()?)
        };
        let mut migrations: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for ((migration, index), bytes) in read().map_err(|source| self.failed(source))? {
            let entry = self.unseal(&bytes, || format!("entry {index} of migration {migration}"))?;
            migrations.entry(MigrationId(migration)).or_default().push(entry);
        }
        Ok(migrations)
    }

    fn put_cluster(&mut self, cluster: &ClusterSpec) -> Result<(), JournalError> {
        self.write(|transaction| {
            transaction
                .open_table(CLUSTERS)?
                .insert(cluster.name.as_str(), seal(cluster).as_slice())?;
            Ok(())
        })
    }

    fn remove_cluster(&mut self, cluster: &ClusterName) -> Result<(), JournalError> {
        self.write(|transaction| {
            transaction.open_table(CLUSTERS)?.remove(cluster.as_str())?;
            Ok(())
        })
    }

    fn clusters(&self) -> Result<Vec<ClusterSpec>, JournalError> {
        let read = || -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
            let table = self.database.begin_read()?.open_table(CLUSTERS)?;
            let rows = table
                .iter()?
                .map(|row| row.map(|(key, value)| (key.value().to_owned(), value.value().to_vec())));
            Ok(rows.collect::<Result<_, _>>()?)
        };
        let rows = read().map_err(|source| self.failed(source))?;
        rows.into_iter()
            .map(|(name, bytes)| self.unseal(&bytes, || format!("cluster {name}")))
            .collect()
    }
}

/// A journal that forgets with the process; for tests of what stands above it.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    entries: BTreeMap<MigrationId, Vec<JournalEntry>>,
    clusters: BTreeMap<ClusterName, ClusterSpec>,
    last_migration: u64,
    last_epoch: u64,
}

impl Journal for MemoryJournal {
    fn new_migration(&mut self) -> Result<MigrationId, JournalError> {
        self.last_migration += 1;
        Ok(MigrationId(self.last_migration))
    }

    fn new_epochs(&mut self, count: u64) -> Result<Epoch, JournalError> {
        let first = self.last_epoch + 1;
        self.last_epoch += count;
        Ok(Epoch(first))
    }

    fn append(
        &mut self,
        migration: MigrationId,
        entries: &[JournalEntry],
        cluster: Option<&ClusterSpec>,
    ) -> Result<(), JournalError> {
        self.entries
            .entry(migration)
            .or_default()
            .extend_from_slice(entries);
        cluster.map_or(Ok(()), |cluster| self.put_cluster(cluster))
    }

    fn migrations(&self) -> Result<BTreeMap<MigrationId, Vec<JournalEntry>>, JournalError> {
        Ok(self.entries.clone())
    }

    fn put_cluster(&mut self, cluster: &ClusterSpec) -> Result<(), JournalError> {
        self.clusters.insert(cluster.name.clone(), cluster.clone());
        Ok(())
    }

    fn remove_cluster(&mut self, cluster: &ClusterName) -> Result<(), JournalError> {
        self.clusters.remove(cluster);
        Ok(())
    }

    fn clusters(&self) -> Result<Vec<ClusterSpec>, JournalError> {
        Ok(self.clusters.values().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transhume_model::WallMicros;

    fn cancel(at: u64) -> JournalEntry {
        JournalEntry::CancelAsked { at: WallMicros(at) }
    }

    fn cluster(name: &str) -> ClusterSpec {
        ClusterSpec {
            name: name.parse().unwrap(),
            vms: Vec::new(),
        }
    }

    /// What every journal promises.
    fn contract(journal: &mut dyn Journal) {
        let (first, second) = (journal.new_migration().unwrap(), journal.new_migration().unwrap());
        assert!(first < second);
        let epoch = journal.new_epochs(3).unwrap();
        assert!(
            journal.new_epochs(1).unwrap().0 >= epoch.0 + 3,
            "epochs never repeat"
        );
        journal.append(first, &[cancel(1), cancel(2)], None).unwrap();
        journal.append(second, &[cancel(9)], None).unwrap();
        journal
            .append(first, &[cancel(3)], Some(&cluster("moved")))
            .unwrap();
        let all = journal.migrations().unwrap();
        assert_eq!(all[&first], [cancel(1), cancel(2), cancel(3)]);
        assert_eq!(all[&second], [cancel(9)]);
        journal.put_cluster(&cluster("lab")).unwrap();
        assert_eq!(journal.clusters().unwrap(), [cluster("lab"), cluster("moved")]);
        journal.remove_cluster(&"lab".parse().unwrap()).unwrap();
        assert_eq!(journal.clusters().unwrap(), [cluster("moved")]);
    }

    #[test]
    fn memory_keeps_the_contract() {
        contract(&mut MemoryJournal::default());
    }

    #[test]
    fn redb_keeps_the_contract_and_remembers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.redb");
        contract(&mut RedbJournal::open(&path).unwrap());
        let mut journal = RedbJournal::open(&path).unwrap();
        assert_eq!(journal.migrations().unwrap().len(), 2);
        assert_eq!(journal.new_migration().unwrap(), MigrationId(3));
        assert_eq!(journal.new_epochs(1).unwrap(), Epoch(5));
    }

    #[test]
    fn a_damaged_record_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = RedbJournal::open(&directory.path().join("journal.redb")).unwrap();
        let migration = journal.new_migration().unwrap();
        journal.append(migration, &[cancel(1)], None).unwrap();
        journal
            .write(|transaction| {
                let mut bytes = seal(&cancel(1));
                bytes[12] ^= 1;
                transaction
                    .open_table(ENTRIES)?
                    .insert((migration.0, 0), bytes.as_slice())?;
                Ok(())
            })
            .unwrap();
        let error = journal.migrations().unwrap_err();
        assert!(error.to_string().contains("entry 0 of migration 1"), "{error}");
    }
}
