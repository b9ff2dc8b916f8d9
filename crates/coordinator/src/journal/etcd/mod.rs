//! The journal in etcd, which several coordinators share; one of them, by lease, leads and writes.
//!
//! Every write is one transaction that compares two things: that the key which this leader made is
//! there, and so its lease, and that the last write is its own last one. A write whose answer was
//! lost is asked again, and done once. `docs/design/journal-etcd.md` is this module's page.
//!
//! Deliberately absent: reading by anybody but the leader; a cache that outlives its lead.

mod gateway;
mod keys;
mod lead;
mod lease;
mod members;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use tokio::sync::watch;
use transhume_model::{ClusterName, DrainId, Epoch, MigrationId};
use transhume_protocol::message::FleetId;
use transhume_protocol::migration::JournalEntry;

use self::gateway::{Kv, Op};
use self::keys::{Bucket, Head, Keys, Number, bucket_of};
use self::lead::{Candidate, Lead, Shared, json, parsed};
use self::members::{Failed, Members};
use self::write::{Background, Puts, write};
use super::record::unseal;
use super::{ClusterRecord, DrainRecord, HostRecord, Journal, JournalError, LostJournal};
use crate::etcd_spec::EtcdSpec;
use crate::standing::Standing;

/// All records of one write; etcd takes 1.5 MiB in a request, with their names.
const WRITE_BYTES_MAX: usize = 1_400_000;
/// A cluster is written together with entries of its moves.
const RECORD_BYTES_MAX: usize = 1_000_000;
/// Records in one answer, when everything is read.
const PAGE_RECORDS_MAX: usize = 40;
/// Longest wait for a page.
const PAGE_MAX: Duration = Duration::from_secs(10);

/// The journal of whoever leads.
#[derive(Debug)]
pub struct EtcdJournal {
    background: Background,
    shared: Arc<Shared>,
    place: PathBuf,
    fleet: FleetId,
    term: u64,
    /// The last that was given out.
    last_term: u64,
    /// At which this leader's key was made.
    revision: i64,
    head: Head,
    numbers: BTreeMap<Number, u64>,
    /// The next part of each move.
    parts: BTreeMap<MigrationId, u64>,
    buckets: BTreeMap<u8, Bucket>,
}

impl EtcdJournal {
    /// Waits until this coordinator leads, however long, and says meanwhile what it waits for.
    /// `local` names files of this machine: `FILE.fleet`, as beside an embedded journal. `api` is
    /// where others send whoever asks them. Nothing is written where it is refused.
    pub async fn lead(
        spec: &EtcdSpec,
        local: &Path,
        api: &str,
        standing: &watch::Sender<Standing>,
    ) -> Result<Self, JournalError> {
        let place = PathBuf::from(format!("{} in etcd", spec.prefix));
        let broken = |why: String| JournalError::Etcd {
            place: place.display().to_string(),
            why,
        };
        let background = Background::new().map_err(|error| broken(error.to_string()))?;
        let (own, files, address, to) = (spec.clone(), local.to_owned(), api.to_owned(), standing.clone());
        let at = place.clone();
        let led = background.runtime().spawn(async move {
            let members = Members::new(&own)?;
            let shared = Arc::new(Shared::new(members, Keys::new(&own.prefix)));
            let candidate = Candidate::new(shared.clone(), &own, &at, &files, &address)?;
            let lead = candidate.lead(&to).await?;
            Ok::<_, JournalError>((shared, lead))
        });
        let (shared, lead) = led.await.map_err(|error| broken(error.to_string()))??;
        let Lead {
            fleet,
            term,
            revision,
            head,
        } = lead;
        let mut journal = Self {
            background,
            shared,
            place,
            fleet,
            term,
            last_term: term,
            revision,
            head,
            numbers: BTreeMap::new(),
            parts: BTreeMap::new(),
            buckets: BTreeMap::new(),
        };
        journal.load()?;
        Ok(journal)
    }

    /// What later writes build on.
    fn load(&mut self) -> Result<(), JournalError> {
        let kept = self.all_below(self.shared.keys.numbers(), false)?;
        for number in Number::ALL {
            let key = self.shared.keys.number(number);
            let kept = kept.iter().find(|kv| kv.key == key);
            let value = match kept {
                None => 0,
                Some(kv) => parsed(&kv.value).ok_or_else(|| self.damaged(key))?,
            };
            self.numbers.insert(number, value);
        }
        for kv in self.all_below(self.shared.keys.entries(), true)? {
            let (migration, part) = self.part_of(&kv)?;
            self.parts.insert(migration, part + 1);
        }
        for kv in self.all_below(self.shared.keys.hosts(), false)? {
            let records: Bucket = unseal(&self.place, &kv.value, || kv.key.clone())?;
            let bucket = records.keys().next().map(bucket_of);
            bucket.map(|bucket| self.buckets.insert(bucket, records));
        }
        Ok(())
    }

    fn damaged(&self, record: String) -> JournalError {
        JournalError::Damaged {
            path: self.place.clone(),
            record,
        }
    }

    fn part_of(&self, kv: &Kv) -> Result<(MigrationId, u64), JournalError> {
        let part = self.shared.keys.part_of(&kv.key);
        part.ok_or_else(|| self.damaged(kv.key.clone()))
    }

    /// Everything below a prefix, in the order of its keys, page by page.
    fn all_below(&self, prefix: String, keys_only: bool) -> Result<Vec<Kv>, JournalError> {
        let (mut all, mut from) = (Vec::<Kv>::new(), prefix.clone().into_bytes());
        loop {
            let body = gateway::range(&from, &prefix, PAGE_RECORDS_MAX, keys_only);
            let (shared, until) = (self.shared.clone(), Instant::now() + PAGE_MAX);
            let read = async move { shared.members.range(|| until, &body).await };
            let page = self
                .background
                .wait(read)
                .map_err(|failed| self.unread(failed))?
                .kvs;
            let whole = page.len() < PAGE_RECORDS_MAX;
            if let Some(last) = page.last() {
                from = [last.key.as_bytes(), b"\0"].concat();
            }
            all.extend(page);
            if whole {
                return Ok(all);
            }
        }
    }

    fn unread(&self, failed: Failed) -> JournalError {
        let (Failed::Away(why) | Failed::Refused(why)) = failed;
        JournalError::Etcd {
            place: self.place.display().to_string(),
            why,
        }
    }

    /// All records below a prefix.
    fn records<T: DeserializeOwned>(&self, prefix: String, what: &str) -> Result<Vec<T>, JournalError> {
        let rows = self.all_below(prefix.clone(), false)?;
        let record = |kv: &Kv| {
            let name = kv.key.strip_prefix(&prefix).unwrap_or(&kv.key);
            unseal(&self.place, &kv.value, || format!("{what} {name}"))
        };
        rows.iter().map(record).collect()
    }

    /// One durable transaction: all of it or nothing, and only while this coordinator leads.
    fn write(&mut self, what: &str, operations: Vec<Op>, bytes: usize) -> Result<(), JournalError> {
        if bytes > WRITE_BYTES_MAX {
            return Err(JournalError::TooLarge {
                what: what.to_owned(),
                bytes,
                bytes_max: WRITE_BYTES_MAX,
            });
        }
        let next = Head {
            term: self.term,
            write: self.head.write + 1,
            at: crate::wall(),
        };
        let work = write(
            self.shared.clone(),
            self.revision,
            json(&self.head),
            json(&next),
            operations,
        );
        let written = self.background.wait(work);
        if let Err(error) = &written {
            // What became of it is unknown: nothing is written behind it.
            self.shared.lose(&error.to_string());
            return written;
        }
        self.head = next;
        Ok(())
    }

    fn count_up(&mut self, number: Number, by: u64) -> Result<u64, JournalError> {
        let last = self.numbers.get(&number).copied().unwrap_or(0);
        let put = Op::Put(self.shared.keys.number(number), json(&(last + by)));
        self.write("a number", vec![put], 0)?;
        self.numbers.insert(number, last + by);
        Ok(last + 1)
    }

    fn put_all(
        &mut self,
        what: &str,
        mut puts: Puts,
        cluster: Option<&ClusterRecord>,
        hosts: &[HostRecord],
    ) -> Result<(), JournalError> {
        if let Some(cluster) = cluster {
            puts.put(self.shared.keys.cluster(cluster.spec.name.as_str()), cluster);
        }
        let mut changed: BTreeMap<u8, Bucket> = BTreeMap::new();
        for record in hosts {
            let bucket = bucket_of(&record.host);
            let known = || self.buckets.get(&bucket).cloned().unwrap_or_default();
            let records = changed.entry(bucket).or_insert_with(known);
            records.insert(record.host.clone(), record.clone());
        }
        for (bucket, records) in &changed {
            puts.put(self.shared.keys.bucket(*bucket), records);
        }
        if puts.operations.is_empty() {
            return Ok(());
        }
        self.write(what, puts.operations, puts.bytes)?;
        self.buckets.extend(changed);
        Ok(())
    }
}

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
        RECORD_BYTES_MAX
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
            let entries: Vec<JournalEntry> = unseal(&self.place, &kv.value, name)?;
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
