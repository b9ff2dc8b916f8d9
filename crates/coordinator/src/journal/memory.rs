//! A journal that forgets with the process; for tests of what stands above it.

use std::collections::BTreeMap;

use transhume_model::{ClusterName, DrainId, Epoch, HostName, MigrationId};
use transhume_protocol::message::FleetId;
use transhume_protocol::migration::JournalEntry;

use super::fleet::new_id;
use super::{ClusterRecord, DrainRecord, HostRecord, Journal, JournalError};

/// A journal in memory.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    entries: BTreeMap<MigrationId, Vec<JournalEntry>>,
    clusters: BTreeMap<ClusterName, ClusterRecord>,
    hosts: BTreeMap<HostName, HostRecord>,
    drains: BTreeMap<DrainId, DrainRecord>,
    last_migration: u64,
    last_drain: u64,
    last_epoch: u64,
    last_term: u64,
    fleet: Option<FleetId>,
    record_bytes_max: Option<usize>,
}

impl MemoryJournal {
    /// One that takes no longer record, bytes of JSON.
    pub fn taking(record_bytes_max: usize) -> Self {
        MemoryJournal {
            record_bytes_max: Some(record_bytes_max),
            ..Self::default()
        }
    }
}

impl Journal for MemoryJournal {
    fn record_bytes_max(&self) -> usize {
        self.record_bytes_max.unwrap_or(usize::MAX)
    }

    fn fleet(&mut self) -> Result<FleetId, JournalError> {
        match &self.fleet {
            Some(fleet) => Ok(fleet.clone()),
            None => Ok(self.fleet.insert(new_id()?).clone()),
        }
    }

    fn known_fleet(&self) -> Result<Option<FleetId>, JournalError> {
        Ok(self.fleet.clone())
    }

    fn set_fleet(&mut self, fleet: &FleetId) -> Result<(), JournalError> {
        self.fleet = Some(fleet.clone());
        Ok(())
    }

    fn new_terms(&mut self, count: u64) -> Result<u64, JournalError> {
        self.last_term += count;
        Ok(self.last_term)
    }

    fn new_migration(&mut self) -> Result<MigrationId, JournalError> {
        self.last_migration += 1;
        Ok(MigrationId(self.last_migration))
    }

    fn new_epochs(&mut self, count: u64) -> Result<Epoch, JournalError> {
        let first = self.last_epoch + 1;
        self.last_epoch += count;
        Ok(Epoch(first))
    }

    fn append_with(
        &mut self,
        migration: MigrationId,
        entries: &[JournalEntry],
        cluster: Option<&ClusterRecord>,
        hosts: &[HostRecord],
    ) -> Result<(), JournalError> {
        if !entries.is_empty() {
            let kept = self.entries.entry(migration).or_default();
            kept.extend_from_slice(entries);
        }
        self.put_hosts(hosts, cluster)
    }

    fn put_hosts(
        &mut self,
        hosts: &[HostRecord],
        cluster: Option<&ClusterRecord>,
    ) -> Result<(), JournalError> {
        let named = hosts.iter().map(|record| (record.host.clone(), record.clone()));
        self.hosts.extend(named);
        cluster.map_or(Ok(()), |cluster| self.put_cluster(cluster))
    }

    fn hosts(&self) -> Result<Vec<HostRecord>, JournalError> {
        Ok(self.hosts.values().cloned().collect())
    }

    fn migrations(&self) -> Result<BTreeMap<MigrationId, Vec<JournalEntry>>, JournalError> {
        Ok(self.entries.clone())
    }

    fn remove_migration(&mut self, migration: MigrationId) -> Result<(), JournalError> {
        self.entries.remove(&migration);
        Ok(())
    }

    fn put_cluster(&mut self, cluster: &ClusterRecord) -> Result<(), JournalError> {
        self.clusters.insert(cluster.spec.name.clone(), cluster.clone());
        Ok(())
    }

    fn new_drain(&mut self) -> Result<DrainId, JournalError> {
        self.last_drain += 1;
        Ok(DrainId(self.last_drain))
    }

    fn put_drain(&mut self, drain: &DrainRecord, hosts: &[HostRecord]) -> Result<(), JournalError> {
        self.drains.insert(drain.drain, drain.clone());
        self.put_hosts(hosts, None)
    }

    fn remove_drain(&mut self, drain: DrainId) -> Result<(), JournalError> {
        self.drains.remove(&drain);
        Ok(())
    }

    fn drains(&self) -> Result<Vec<DrainRecord>, JournalError> {
        Ok(self.drains.values().cloned().collect())
    }

    fn remove_cluster(&mut self, cluster: &ClusterName) -> Result<(), JournalError> {
        self.clusters.remove(cluster);
        Ok(())
    }

    fn clusters(&self) -> Result<Vec<ClusterRecord>, JournalError> {
        Ok(self.clusters.values().cloned().collect())
    }
}
