//! The journal's port, over etcd.

use std::collections::BTreeMap;

use transhume_model::{ClusterName, DrainId, Epoch, MigrationId};
use transhume_protocol::message::FleetId;
use transhume_protocol::migration::JournalEntry;

use super::super::record::JSON_BYTES_MAX;
use super::super::{ClusterRecord, DrainRecord, HostRecord, Journal, JournalError, LostJournal};
use super::EtcdJournal;
use super::gateway::Op;
use super::keys::{Bucket, Number};
use super::lead::json;
use super::write::Puts;

impl Journal for EtcdJournal {
    fn lost(&self) -> LostJournal {
        let mut lost = self.shared.watch();
        Box::pin(async move {
            let why = match lost.wait_for(Option::is_some).await {
                Ok(why) => why.clone().unwrap_or_default(),
                Err(_) => "nobody renews it any more".to_owned(),
            };
            JournalError::LeaseLost { why }
        })
    }

    fn record_bytes_max(&self) -> usize {
        JSON_BYTES_MAX
    }

    fn fleet(&mut self) -> Result<FleetId, JournalError> {
        Ok(self.fleet.clone())
    }

    fn known_fleet(&self) -> Result<Option<FleetId>, JournalError> {
        Ok(Some(self.fleet.clone()))
    }

    fn set_fleet(&mut self, fleet: &FleetId) -> Result<(), JournalError> {
        let put = Op::Put(self.shared.keys.fleet(), fleet.as_str().into());
        self.write("the fleet's id", vec![put], 0)?;
        self.fleet = fleet.clone();
        Ok(())
    }

    fn new_terms(&mut self, count: u64) -> Result<u64, JournalError> {
        let last = self.last_term + count;
        let put = Op::Put(self.shared.keys.term(), json(&last));
        self.write("the term", vec![put], 0)?;
        self.last_term = last;
        Ok(last)
    }

    /// The one that it has taken together with the lead.
    fn begin_term(&mut self) -> Result<u64, JournalError> {
        Ok(self.last_term)
    }

    fn new_migration(&mut self) -> Result<MigrationId, JournalError> {
        self.count_up(Number::Migration, 1).map(MigrationId)
    }

    fn new_epochs(&mut self, count: u64) -> Result<Epoch, JournalError> {
        self.count_up(Number::Epoch, count).map(Epoch)
    }

    fn append_with(
        &mut self,
        migration: MigrationId,
        entries: &[JournalEntry],
        cluster: Option<&ClusterRecord>,
        hosts: &[HostRecord],
    ) -> Result<(), JournalError> {
        let part = self.parts.get(&migration).copied().unwrap_or(0);
        let mut puts = Puts::default();
        if !entries.is_empty() {
            puts.put(self.shared.keys.part(migration, part), &entries);
        }
        let what = format!("entries of migration {migration}");
        self.put_all(&what, puts, cluster, hosts)?;
        if !entries.is_empty() {
            self.parts.insert(migration, part + 1);
        }
        Ok(())
    }

    fn put_hosts(
        &mut self,
        hosts: &[HostRecord],
        cluster: Option<&ClusterRecord>,
    ) -> Result<(), JournalError> {
        self.put_all("hosts", Puts::default(), cluster, hosts)
    }

    fn hosts(&self) -> Result<Vec<HostRecord>, JournalError> {
        let all = self.buckets.values().flat_map(Bucket::values).cloned();
        let mut all: Vec<HostRecord> = all.collect();
        all.sort_by(|one, other| one.host.cmp(&other.host));
        Ok(all)
    }

    fn migrations(&self) -> Result<BTreeMap<MigrationId, Vec<JournalEntry>>, JournalError> {
        let mut migrations: BTreeMap<MigrationId, (u64, Vec<JournalEntry>)> = BTreeMap::new();
        for kv in self.all_below(self.shared.keys.entries(), false)? {
            let (migration, part) = self.part_of(&kv)?;
            let name = || format!("part {part} of migration {migration}");
            let entries: Vec<JournalEntry> = self.unsealed(&kv, name)?;
            let (next, all) = migrations.entry(migration).or_default();
            if part != *next {
                return Err(self.damaged(format!("part {next} of migration {migration}, which is missing")));
            }
            *next += 1;
            all.extend(entries);
        }
        let of_all = migrations.into_iter();
        Ok(of_all
            .map(|(migration, (_, entries))| (migration, entries))
            .collect())
    }

    fn remove_migration(&mut self, migration: MigrationId) -> Result<(), JournalError> {
        let all = self.shared.keys.entries_of(migration);
        let remove = Op::RemoveBelow(all);
        self.write("a removal", vec![remove], 0)?;
        self.parts.remove(&migration);
        Ok(())
    }

    fn put_cluster(&mut self, cluster: &ClusterRecord) -> Result<(), JournalError> {
        let what = format!("cluster {}", cluster.spec.name);
        self.put_all(&what, Puts::default(), Some(cluster), &[])
    }

    fn new_drain(&mut self) -> Result<DrainId, JournalError> {
        self.count_up(Number::Drain, 1).map(DrainId)
    }

    fn put_drain(&mut self, drain: &DrainRecord, hosts: &[HostRecord]) -> Result<(), JournalError> {
        let mut puts = Puts::default();
        puts.put(self.shared.keys.drain(drain.drain), drain);
        let what = format!("drain {}", drain.drain);
        self.put_all(&what, puts, None, hosts)
    }

    fn remove_drain(&mut self, drain: DrainId) -> Result<(), JournalError> {
        let remove = Op::Remove(self.shared.keys.drain(drain));
        self.write("a removal", vec![remove], 0)
    }

    fn drains(&self) -> Result<Vec<DrainRecord>, JournalError> {
        self.records(self.shared.keys.drains(), "drain")
    }

    fn remove_cluster(&mut self, cluster: &ClusterName) -> Result<(), JournalError> {
        let remove = Op::Remove(self.shared.keys.cluster(cluster.as_str()));
        self.write("a removal", vec![remove], 0)
    }

    fn clusters(&self) -> Result<Vec<ClusterRecord>, JournalError> {
        self.records(self.shared.keys.clusters(), "cluster")
    }
}
