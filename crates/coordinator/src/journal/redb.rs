//! The embedded journal: one redb file, one durable transaction per call.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ::redb::{
    Database, DatabaseError, Error, ReadableDatabase, ReadableTable, StorageBackend, Table, TableDefinition,
    WriteTransaction,
};
use transhume_model::{ClusterName, DrainId, Epoch, MigrationId};
use transhume_protocol::message::FleetId;
use transhume_protocol::migration::JournalEntry;

use super::fleet::{self, new_id};
use super::record::{seal, unseal};
use super::{ClusterRecord, DrainRecord, FORMAT, HostRecord, Journal, JournalError, Numbers};

const ENTRIES: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("entries");
const CLUSTERS: TableDefinition<&str, &[u8]> = TableDefinition::new("clusters");
const HOSTS: TableDefinition<&str, &[u8]> = TableDefinition::new("hosts");
const DRAINS: TableDefinition<u64, &[u8]> = TableDefinition::new("drains");
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
const TEXTS: TableDefinition<&str, &str> = TableDefinition::new("texts");
const FLEET: &str = "fleet";
const LAST_TERM: &str = "last-term";
const LAST_MIGRATION: &str = "last-migration";
const LAST_DRAIN: &str = "last-drain";
const LAST_EPOCH: &str = "last-epoch";
const FORMAT_KEY: &str = "format";

/// The embedded journal.
#[derive(Debug)]
pub struct RedbJournal {
    database: Database,
    path: PathBuf,
}

impl RedbJournal {
    /// Opens the journal, or begins one.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        Self::new(Database::create(path), path)
    }

    /// Opens a journal that is there; none is begun.
    pub fn open_existing(path: &Path) -> Result<Self, JournalError> {
        match path.try_exists() {
            Ok(false) => Err(JournalError::NotThere {
                path: path.to_owned(),
            }),
            // What is wrong with its directory, opening it says.
            Ok(true) | Err(_) => Self::new(Database::open(path), path),
        }
    }

    /// The same on any storage; `name` stands for the path in errors.
    pub fn on(storage: impl StorageBackend, name: &str) -> Result<Self, JournalError> {
        Self::new(Database::builder().create_with_backend(storage), Path::new(name))
    }

    fn new(database: Result<Database, DatabaseError>, path: &Path) -> Result<Self, JournalError> {
        let path = path.to_owned();
        let database = match database {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(JournalError::InUse { path }),
            Err(error) => {
                let source = Box::new(error.into());
                return Err(JournalError::Database { path, source });
            }
        };
        let journal = Self { database, path };
        journal.check_format()?;
        Ok(journal)
    }

    fn check_format(&self) -> Result<(), JournalError> {
        let found = self.write(|transaction| {
            transaction.open_table(ENTRIES)?;
            transaction.open_table(CLUSTERS)?;
            transaction.open_table(HOSTS)?;
            transaction.open_table(DRAINS)?;
            transaction.open_table(TEXTS)?;
            let mut numbers = transaction.open_table(NUMBERS)?;
            let found = numbers.get(FORMAT_KEY)?.map(|found| found.value());
            // Format 1 had no hosts, format 2 neither drains nor rules, format 3 no compressed
            // records; an older release would not know of what is kept there.
            if found.is_none_or(|found| found < FORMAT) {
                numbers.insert(FORMAT_KEY, FORMAT)?;
            }
            Ok(found.unwrap_or(FORMAT))
        })?;
        if found > FORMAT {
            let path = self.path.clone();
            return Err(JournalError::Format { path, found });
        }
        Ok(())
    }

    fn failed(&self, source: Error) -> JournalError {
        JournalError::Database {
            path: self.path.clone(),
            source: Box::new(source),
        }
    }

    /// One durable transaction.
    fn write<T>(&self, work: impl FnOnce(&WriteTransaction) -> Result<T, Error>) -> Result<T, JournalError> {
        let attempt = || -> Result<T, Error> {
            let transaction = self.database.begin_write()?;
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        attempt().map_err(|source| self.failed(source))
    }

    /// All rows of a table, copied.
    fn rows<K: ::redb::Key + 'static, O>(
        &self,
        table: TableDefinition<K, &'static [u8]>,
        own: impl Fn(K::SelfType<'_>) -> O,
    ) -> Result<Vec<(O, Vec<u8>)>, JournalError> {
        let read = || -> Result<Vec<(O, Vec<u8>)>, Error> {
            let table = self.database.begin_read()?.open_table(table)?;
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                rows.push((own(key.value()), value.value().to_vec()));
            }
            Ok(rows)
        };
        read().map_err(|source| self.failed(source))
    }

    /// The last numbers that were given out.
    pub(super) fn numbers(&self) -> Result<Numbers, JournalError> {
        let read = || -> Result<Numbers, Error> {
            let table = self.database.begin_read()?.open_table(NUMBERS)?;
            let last = |key| Ok::<_, Error>(table.get(key)?.map_or(0, |last| last.value()));
            Ok(Numbers {
                migration: last(LAST_MIGRATION)?,
                drain: last(LAST_DRAIN)?,
                epoch: last(LAST_EPOCH)?,
                term: last(LAST_TERM)?,
            })
        };
        read().map_err(|source| self.failed(source))
    }

    /// From here on numbers are above these.
    pub(super) fn set_numbers(&mut self, numbers: Numbers) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(NUMBERS)?;
            table.insert(LAST_MIGRATION, numbers.migration)?;
            table.insert(LAST_DRAIN, numbers.drain)?;
            table.insert(LAST_EPOCH, numbers.epoch)?;
            table.insert(LAST_TERM, numbers.term)?;
            Ok(())
        })
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

fn all_of(migration: MigrationId) -> std::ops::RangeInclusive<(u64, u64)> {
    (migration.0, 0)..=(migration.0, u64::MAX)
}

fn next_index(table: &Table<(u64, u64), &[u8]>, migration: MigrationId) -> Result<u64, Error> {
    let last = table.range(all_of(migration))?.next_back().transpose()?;
    Ok(last.map_or(0, |(key, _)| key.value().1 + 1))
}

fn put(transaction: &WriteTransaction, cluster: &ClusterRecord) -> Result<(), Error> {
    let mut table = transaction.open_table(CLUSTERS)?;
    table.insert(cluster.spec.name.as_str(), seal(cluster).as_slice())?;
    Ok(())
}

fn put_hosts(transaction: &WriteTransaction, hosts: &[HostRecord]) -> Result<(), Error> {
    let mut table = transaction.open_table(HOSTS)?;
    for record in hosts {
        table.insert(record.host.as_str(), seal(record).as_slice())?;
    }
    Ok(())
}

impl Journal for RedbJournal {
    fn fleet(&mut self) -> Result<FleetId, JournalError> {
        match self.known_fleet()? {
            Some(fleet) => Ok(fleet),
            None => {
                let fleet = new_id()?;
                self.set_fleet(&fleet)?;
                Ok(fleet)
            }
        }
    }

    fn known_fleet(&self) -> Result<Option<FleetId>, JournalError> {
        let read = || -> Result<Option<String>, Error> {
            let table = self.database.begin_read()?.open_table(TEXTS)?;
            Ok(table.get(FLEET)?.map(|text| text.value().to_owned()))
        };
        let text = read().map_err(|source| self.failed(source))?;
        let damaged = |_| JournalError::Damaged {
            path: self.path.clone(),
            record: "the fleet's id".to_owned(),
        };
        text.map(|text| text.parse().map_err(damaged)).transpose()
    }

    fn set_fleet(&mut self, fleet: &FleetId) -> Result<(), JournalError> {
        self.write(|transaction| {
            transaction.open_table(TEXTS)?.insert(FLEET, fleet.as_str())?;
            Ok(())
        })
    }

    fn new_terms(&mut self, count: u64) -> Result<u64, JournalError> {
        self.count_up(LAST_TERM, count).map(|first| first + count - 1)
    }

    fn begin_term(&mut self) -> Result<u64, JournalError> {
        let (found, led) = (self.new_terms(0)?, fleet::led(&self.path)?);
        if found < led {
            return Err(JournalError::OldCopy {
                path: self.path.clone(),
                found,
                led,
            });
        }
        let (fleet, term) = (self.fleet()?, self.new_terms(1)?);
        fleet::keep_term(&self.path, &fleet, term)?;
        Ok(term)
    }

    fn new_migration(&mut self) -> Result<MigrationId, JournalError> {
        self.count_up(LAST_MIGRATION, 1).map(MigrationId)
    }

    fn new_epochs(&mut self, count: u64) -> Result<Epoch, JournalError> {
        self.count_up(LAST_EPOCH, count).map(Epoch)
    }

    fn append_with(
        &mut self,
        migration: MigrationId,
        entries: &[JournalEntry],
        cluster: Option<&ClusterRecord>,
        hosts: &[HostRecord],
    ) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(ENTRIES)?;
            let first = next_index(&table, migration)?;
            for (index, entry) in (first..).zip(entries) {
                table.insert((migration.0, index), seal(entry).as_slice())?;
            }
            put_hosts(transaction, hosts)?;
            cluster.map_or(Ok(()), |cluster| put(transaction, cluster))
        })
    }

    fn put_hosts(
        &mut self,
        hosts: &[HostRecord],
        cluster: Option<&ClusterRecord>,
    ) -> Result<(), JournalError> {
        self.write(|transaction| {
            put_hosts(transaction, hosts)?;
            cluster.map_or(Ok(()), |cluster| put(transaction, cluster))
        })
    }

    fn hosts(&self) -> Result<Vec<HostRecord>, JournalError> {
        let rows = self.rows(HOSTS, str::to_owned)?;
        let records = rows
            .iter()
            .map(|(name, bytes)| unseal(&self.path, bytes, || format!("host {name}")));
        records.collect()
    }

    fn migrations(&self) -> Result<BTreeMap<MigrationId, Vec<JournalEntry>>, JournalError> {
        let mut migrations: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for ((migration, index), bytes) in self.rows(ENTRIES, |key| key)? {
            let name = || format!("entry {index} of migration {migration}");
            let entry = unseal(&self.path, &bytes, name)?;
            migrations.entry(MigrationId(migration)).or_default().push(entry);
        }
        Ok(migrations)
    }

    fn remove_migration(&mut self, migration: MigrationId) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(ENTRIES)?;
            table.retain_in(all_of(migration), |_, _| false)?;
            Ok(())
        })
    }

    fn put_cluster(&mut self, cluster: &ClusterRecord) -> Result<(), JournalError> {
        self.write(|transaction| put(transaction, cluster))
    }

    fn new_drain(&mut self) -> Result<DrainId, JournalError> {
        self.count_up(LAST_DRAIN, 1).map(DrainId)
    }

    fn put_drain(&mut self, drain: &DrainRecord, hosts: &[HostRecord]) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(DRAINS)?;
            table.insert(drain.drain.0, seal(drain).as_slice())?;
            put_hosts(transaction, hosts)
        })
    }

    fn remove_drain(&mut self, drain: DrainId) -> Result<(), JournalError> {
        self.write(|transaction| {
            transaction.open_table(DRAINS)?.remove(drain.0)?;
            Ok(())
        })
    }

    fn drains(&self) -> Result<Vec<DrainRecord>, JournalError> {
        let rows = self.rows(DRAINS, |key| key)?;
        let records = rows
            .iter()
            .map(|(number, bytes)| unseal(&self.path, bytes, || format!("drain {number}")));
        records.collect()
    }

    fn remove_cluster(&mut self, cluster: &ClusterName) -> Result<(), JournalError> {
        self.write(|transaction| {
            transaction.open_table(CLUSTERS)?.remove(cluster.as_str())?;
            Ok(())
        })
    }

    fn clusters(&self) -> Result<Vec<ClusterRecord>, JournalError> {
        let rows = self.rows(CLUSTERS, str::to_owned)?;
        let records = rows
            .iter()
            .map(|(name, bytes)| unseal(&self.path, bytes, || format!("cluster {name}")));
        records.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_record_is_named_and_a_newer_format_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.redb");
        let mut journal = RedbJournal::open(&path).unwrap();
        let entry = JournalEntry::CancelAsked {
            at: transhume_model::WallMicros(1),
        };
        journal.append(MigrationId(1), &[entry], None).unwrap();
        journal
            .write(|transaction| {
                let mut table = transaction.open_table(ENTRIES)?;
                let mut bytes = table.get((1, 0))?.expect("just appended").value().to_vec();
                *bytes.last_mut().expect("not empty") ^= 1;
                table.insert((1, 0), bytes.as_slice())?;
                transaction.open_table(NUMBERS)?.insert(FORMAT_KEY, FORMAT + 1)?;
                Ok(())
            })
            .unwrap();
        let error = journal.migrations().unwrap_err();
        assert!(error.to_string().contains("entry 0 of migration 1"), "{error}");
        drop(journal);
        let error = RedbJournal::open(&path).unwrap_err();
        assert!(matches!(error, JournalError::Format { found: 5, .. }), "{error}");
    }
}
