//! A journal whose durable writes are counted and timed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use transhume_metrics::{Histogram, Samples, coordinator as names};
use transhume_model::{ClusterName, DrainId, Epoch, MigrationId};
use transhume_protocol::message::FleetId;
use transhume_protocol::migration::JournalEntry;

use crate::journal::{ClusterRecord, DrainRecord, HostRecord, Journal, JournalError, LostJournal};

/// Entries that were appended.
#[derive(Debug, Clone, Default)]
pub(super) struct Entries(Arc<AtomicU64>);

impl Entries {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// See [`super::Metrics::measured`].
pub(super) struct Measured {
    journal: Box<dyn Journal>,
    entries: Entries,
    appends: Histogram,
    clusters: Histogram,
    numbers: Histogram,
    removals: Histogram,
}

impl Measured {
    pub(super) fn new(journal: Box<dyn Journal>, counted: &mut Samples, entries: Entries) -> Self {
        let mut of = |what| counted.histogram(&names::JOURNAL_WRITE, [what]);
        Self {
            journal,
            entries,
            appends: of("entries"),
            clusters: of("cluster"),
            numbers: of("number"),
            removals: of("removal"),
        }
    }
}

/// One that failed ends the coordinator: nobody scrapes it any more.
fn timed<A>(times: &Histogram, write: impl FnOnce() -> Result<A, JournalError>) -> Result<A, JournalError> {
    let begun = Instant::now();
    let written = write()?;
    times.observe(begun.elapsed().as_secs_f64());
    Ok(written)
}

impl Journal for Measured {
    fn lost(&self) -> LostJournal {
        self.journal.lost()
    }

    fn record_bytes_max(&self) -> usize {
        self.journal.record_bytes_max()
    }

    fn fleet(&mut self) -> Result<FleetId, JournalError> {
        self.journal.fleet()
    }

    fn known_fleet(&self) -> Result<Option<FleetId>, JournalError> {
        self.journal.known_fleet()
    }

    fn set_fleet(&mut self, fleet: &FleetId) -> Result<(), JournalError> {
        self.journal.set_fleet(fleet)
    }

    fn new_terms(&mut self, count: u64) -> Result<u64, JournalError> {
        timed(&self.numbers, || self.journal.new_terms(count))
    }

    fn new_migration(&mut self) -> Result<MigrationId, JournalError> {
        timed(&self.numbers, || self.journal.new_migration())
    }

    fn new_epochs(&mut self, count: u64) -> Result<Epoch, JournalError> {
        timed(&self.numbers, || self.journal.new_epochs(count))
    }

    fn append_with(
        &mut self,
        migration: MigrationId,
        entries: &[JournalEntry],
        cluster: Option<&ClusterRecord>,
        hosts: &[HostRecord],
    ) -> Result<(), JournalError> {
        timed(&self.appends, || {
            self.journal.append_with(migration, entries, cluster, hosts)
        })?;
        self.entries.0.fetch_add(entries.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn put_hosts(
        &mut self,
        hosts: &[HostRecord],
        cluster: Option<&ClusterRecord>,
    ) -> Result<(), JournalError> {
        timed(&self.clusters, || self.journal.put_hosts(hosts, cluster))
    }

    fn hosts(&self) -> Result<Vec<HostRecord>, JournalError> {
        self.journal.hosts()
    }

    fn migrations(&self) -> Result<BTreeMap<MigrationId, Vec<JournalEntry>>, JournalError> {
        self.journal.migrations()
    }

    fn remove_migration(&mut self, migration: MigrationId) -> Result<(), JournalError> {
        timed(&self.removals, || self.journal.remove_migration(migration))
    }

    fn put_cluster(&mut self, cluster: &ClusterRecord) -> Result<(), JournalError> {
        timed(&self.clusters, || self.journal.put_cluster(cluster))
    }

    fn new_drain(&mut self) -> Result<DrainId, JournalError> {
        timed(&self.numbers, || self.journal.new_drain())
    }

    fn put_drain(&mut self, drain: &DrainRecord, hosts: &[HostRecord]) -> Result<(), JournalError> {
        timed(&self.clusters, || self.journal.put_drain(drain, hosts))
    }

    fn remove_drain(&mut self, drain: DrainId) -> Result<(), JournalError> {
        timed(&self.removals, || self.journal.remove_drain(drain))
    }

    fn drains(&self) -> Result<Vec<DrainRecord>, JournalError> {
        self.journal.drains()
    }

    fn remove_cluster(&mut self, cluster: &ClusterName) -> Result<(), JournalError> {
        timed(&self.removals, || self.journal.remove_cluster(cluster))
    }

    fn clusters(&self) -> Result<Vec<ClusterRecord>, JournalError> {
        self.journal.clusters()
    }
}
