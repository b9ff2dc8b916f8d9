//! The journal, and the clusters as it holds them: what is kept here is durable, or the coordinator
//! stops.

use std::collections::BTreeMap;

use transhume_model::{ClusterName, DrainId, Epoch, HostName, MigrationId, VmName};
use transhume_protocol::migration::JournalEntry;

use crate::clusters::Clusters;
use crate::config::CrashAt;
use crate::journal::{ClusterRecord, DrainRecord, HostRecord, Journal, JournalError, Leftover};

/// VMs of a cluster and where they live from now on.
pub(crate) type Relocation = (ClusterName, BTreeMap<VmName, HostName>);

/// What a coordinator remembers.
pub(crate) struct Store {
    journal: Box<dyn Journal>,
    clusters: Clusters,
    hosts: BTreeMap<HostName, HostRecord>,
    crash_at: Option<CrashAt>,
}

impl Store {
    pub(crate) fn new(journal: Box<dyn Journal>, crash_at: Option<CrashAt>) -> Result<Self, JournalError> {
        Ok(Self {
            clusters: Clusters::new(journal.clusters()?),
            hosts: named(journal.hosts()?).collect(),
            journal,
            crash_at,
        })
    }

    pub(crate) fn clusters(&self) -> &Clusters {
        &self.clusters
    }

    /// The longest record that can be kept.
    pub(crate) fn record_bytes_max(&self) -> usize {
        self.journal.record_bytes_max()
    }

    /// What is remembered of a host.
    pub(crate) fn host(&self, host: &HostName) -> Option<&HostRecord> {
        self.hosts.get(host)
    }

    /// Whether nothing is to be put on it.
    pub(crate) fn is_cordoned(&self, host: &HostName) -> bool {
        self.host(host).is_some_and(|record| record.cordoned)
    }

    /// Whether it is off, by an operator's word.
    pub(crate) fn is_fenced(&self, host: &HostName) -> bool {
        self.host(host).is_some_and(|record| record.fenced_at.is_some())
    }

    pub(crate) fn keep_host(&mut self, record: HostRecord) -> Result<(), JournalError> {
        self.keep_hosts(vec![record], None)
    }

    /// Keeps these in place of what was kept of the same hosts and cluster.
    pub(crate) fn keep_hosts(
        &mut self,
        records: Vec<HostRecord>,
        cluster: Option<ClusterRecord>,
    ) -> Result<(), JournalError> {
        self.journal.put_hosts(&records, cluster.as_ref())?;
        self.hosts.extend(named(records));
        cluster.into_iter().for_each(|cluster| self.clusters.put(cluster));
        Ok(())
    }

    pub(crate) fn migrations(&self) -> Result<BTreeMap<MigrationId, Vec<JournalEntry>>, JournalError> {
        self.journal.migrations()
    }

    pub(crate) fn new_migration(&mut self) -> Result<MigrationId, JournalError> {
        self.journal.new_migration()
    }

    /// The first of `count` epochs in a row that nobody has had.
    pub(crate) fn new_epochs(&mut self, count: u64) -> Result<Epoch, JournalError> {
        self.journal.new_epochs(count)
    }

    /// Keeps a cluster in place of what was kept under its name.
    pub(crate) fn keep(&mut self, record: ClusterRecord) -> Result<(), JournalError> {
        self.journal.put_cluster(&record)?;
        self.clusters.put(record);
        Ok(())
    }

    pub(crate) fn drains(&self) -> Result<Vec<DrainRecord>, JournalError> {
        self.journal.drains()
    }

    pub(crate) fn new_drain(&mut self) -> Result<DrainId, JournalError> {
        self.journal.new_drain()
    }

    /// Keeps a drain in place of what was kept under its number, and these hosts.
    pub(crate) fn keep_drain(
        &mut self,
        drain: &DrainRecord,
        hosts: Vec<HostRecord>,
    ) -> Result<(), JournalError> {
        self.journal.put_drain(drain, &hosts)?;
        self.hosts.extend(named(hosts));
        Ok(())
    }

    /// Forgets a drain.
    pub(crate) fn forget_drain(&mut self, drain: DrainId) -> Result<(), JournalError> {
        self.journal.remove_drain(drain)
    }

    /// Forgets a cluster.
    pub(crate) fn forget(&mut self, cluster: &ClusterName) -> Result<(), JournalError> {
        self.journal.remove_cluster(cluster)?;
        self.clusters.remove(cluster);
        Ok(())
    }

    /// Appends entries of a move; where VMs live, and what is left behind on hosts, changes in the
    /// same transaction.
    pub(crate) fn append(
        &mut self,
        id: MigrationId,
        entries: &[JournalEntry],
        relocation: Option<Relocation>,
        left_behind: Vec<(HostName, Leftover)>,
    ) -> Result<(), JournalError> {
        let mut hosts: BTreeMap<HostName, HostRecord> = BTreeMap::new();
        for (host, leftover) in left_behind {
            let known = || self.hosts.get(&host).cloned();
            let record = hosts
                .entry(host.clone())
                .or_insert_with(|| known().unwrap_or_else(|| HostRecord::new(host.clone())));
            record.leftovers.push(leftover);
        }
        let hosts: Vec<HostRecord> = hosts.into_values().collect();
        let crash_at = self.crash_at.filter(|_| relocation.is_some());
        let cluster = relocation.and_then(|(cluster, places)| self.clusters.relocated(&cluster, &places));
        if crash_at == Some(CrashAt::BeforeCommitted) {
            std::process::abort();
        }
        self.journal.append_with(id, entries, cluster.as_ref(), &hosts)?;
        self.hosts.extend(named(hosts));
        if crash_at == Some(CrashAt::AfterCommitted) {
            std::process::abort();
        }
        cluster.into_iter().for_each(|cluster| self.clusters.put(cluster));
        Ok(())
    }

    /// Forgets a move and its entries.
    pub(crate) fn forget_move(&mut self, id: MigrationId) -> Result<(), JournalError> {
        self.journal.remove_migration(id)
    }
}

fn named(records: Vec<HostRecord>) -> impl Iterator<Item = (HostName, HostRecord)> {
    records.into_iter().map(|record| (record.host.clone(), record))
}
