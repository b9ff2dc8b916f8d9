//! The journal in etcd, which several coordinators share; one of them, by lease, leads and writes.
//!
//! Every write is one transaction that compares two things: that the key which this leader made is
//! there, and so its lease, and that the last write is its own last one. A write whose answer was
//! lost is asked again, and done once. `docs/design/journal-etcd.md` is this module's page.
//!
//! Deliberately absent: a cache that outlives its lead.

mod gateway;
mod keys;
mod lead;
mod lease;
mod members;
mod pieces;
mod port;
mod restore;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use tokio::sync::watch;
use transhume_model::MigrationId;
use transhume_protocol::message::FleetId;

use self::gateway::{Kv, Op};
use self::keys::{Bucket, Head, Keys, Number, WriteId, bucket_of};
use self::lead::{Candidate, Lead, Shared, json, parsed};
use self::members::{Failed, Members};
use self::pieces::{Divided, Division, Pieces, divide};
use self::write::{Background, Puts, write};
use super::record::unseal;
use super::{ClusterRecord, HostRecord, JournalError, Numbers};
use crate::etcd_spec::EtcdSpec;
use crate::standing::Standing;

/// All records of one write; etcd takes 1.5 MiB in a request, with their names. What is longer is
/// divided.
const WRITE_BYTES_MAX: usize = 1_400_000;
/// Records in one answer, when everything is read.
const PAGE_RECORDS_MAX: usize = 40;
/// Longest wait for a page of one record;
const PAGE_MAX: Duration = Duration::from_secs(10);
/// of several, before fewer are asked for.
const LONG_PAGE_MAX: Duration = Duration::from_secs(3);

/// For people.
fn place(spec: &EtcdSpec) -> PathBuf {
    PathBuf::from(format!("{} in etcd", spec.prefix))
}

fn broken(spec: &EtcdSpec, why: &impl fmt::Display) -> JournalError {
    JournalError::Etcd {
        place: place(spec).display().to_string(),
        why: why.to_string(),
    }
}

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
    pieces: Pieces,
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
        let (background, place) = (Self::background(spec)?, place(spec));
        let (own, files, address, to) = (spec.clone(), local.to_owned(), api.to_owned(), standing.clone());
        let at = place.clone();
        let led = background.runtime().spawn(async move {
            let (shared, candidate) = Self::candidate(&own, &at, &files, &address)?;
            let lead = candidate.lead(&to).await?;
            Ok::<_, JournalError>((shared, lead))
        });
        let led = led.await.map_err(|error| broken(spec, &error))?;
        let (shared, lead) = led?;
        Self::of(background, shared, place, lead)
    }

    /// What is there, to be read only, whoever leads.
    pub(super) fn read(spec: &EtcdSpec, local: &Path) -> Result<Self, JournalError> {
        let (background, place) = (Self::background(spec)?, place(spec));
        let (shared, candidate) = Self::candidate(spec, &place, local, "")?;
        let view = background.wait(async move { candidate.see().await })?;
        shared.lose("it is only read");
        let (Some(fleet), Some(head)) = (view.fleet, view.head) else {
            return Err(JournalError::NotThere { path: place });
        };
        let lead = Lead {
            fleet,
            term: view.term,
            revision: 0,
            head,
        };
        Self::of(background, shared, place, lead)
    }

    /// Whether nobody has written since it was read.
    pub(super) fn is_unchanged(&self, spec: &EtcdSpec, local: &Path) -> Result<bool, JournalError> {
        let (_, candidate) = Self::candidate(spec, &self.place, local, "")?;
        let view = self.background.wait(async move { candidate.see().await })?;
        Ok(view.head.as_ref() == Some(&self.head))
    }

    /// Whether [`EtcdJournal::begin_restore`] could be done; nothing is written.
    pub(super) fn check_free(spec: &EtcdSpec, local: &Path, fleet: &FleetId) -> Result<(), JournalError> {
        let background = Self::background(spec)?;
        let (_, candidate) = Self::candidate(spec, &place(spec), local, "")?;
        let fleet = fleet.clone();
        background.wait(async move { candidate.check_free(&fleet).await.map(drop) })
    }

    /// An empty journal of a fleet, where none is. Until [`EtcdJournal::end_restore`] no
    /// coordinator uses it.
    pub(super) fn begin_restore(
        spec: &EtcdSpec,
        local: &Path,
        fleet: &FleetId,
    ) -> Result<Self, JournalError> {
        let (background, place) = (Self::background(spec)?, place(spec));
        let (shared, candidate) = Self::candidate(spec, &place, local, "")?;
        let fleet = fleet.clone();
        let lead = background.wait(async move { candidate.begin_restore(&fleet).await })?;
        Self::of(background, shared, place, lead)
    }

    /// It is whole, and numbers go on above these.
    pub(super) fn end_restore(&mut self, numbers: Numbers) -> Result<(), JournalError> {
        let keys = &self.shared.keys;
        let last = [
            Op::Put(keys.number(Number::Migration), json(&numbers.migration)),
            Op::Put(keys.number(Number::Drain), json(&numbers.drain)),
            Op::Put(keys.number(Number::Epoch), json(&numbers.epoch)),
            Op::Put(keys.term(), json(&numbers.term)),
            Op::Remove(keys.restoring()),
            // Its lease runs out by itself; nobody need wait for that.
            Op::Remove(keys.leader()),
        ];
        self.transact(last.into())
    }

    /// The last numbers that were given out.
    pub(super) fn numbers(&self) -> Numbers {
        let last = |number| self.numbers.get(&number).copied().unwrap_or(0);
        Numbers {
            migration: last(Number::Migration),
            drain: last(Number::Drain),
            epoch: last(Number::Epoch),
            term: self.last_term,
        }
    }

    fn background(spec: &EtcdSpec) -> Result<Background, JournalError> {
        Background::new().map_err(|error| broken(spec, &error))
    }

    fn candidate(
        spec: &EtcdSpec,
        place: &Path,
        local: &Path,
        api: &str,
    ) -> Result<(Arc<Shared>, Candidate), JournalError> {
        let members = Members::new(spec)?;
        let shared = Arc::new(Shared::new(members, Keys::new(&spec.prefix)));
        let candidate = Candidate::new(shared.clone(), spec, place, local, api)?;
        Ok((shared, candidate))
    }

    fn of(
        background: Background,
        shared: Arc<Shared>,
        place: PathBuf,
        lead: Lead,
    ) -> Result<Self, JournalError> {
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
            pieces: Pieces::default(),
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
        for kv in self.all_below(self.shared.keys.pieces(), true)? {
            let record = self.shared.keys.record_of(&kv.key);
            let record = record.ok_or_else(|| self.damaged(kv.key.clone()))?;
            self.pieces.insert(record);
        }
        for kv in self.all_below(self.shared.keys.hosts(), false)? {
            let records: Bucket = self.unsealed(&kv, || kv.key.clone())?;
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

    /// Everything below a prefix, in the order of its keys, page by page. Where a page is so long
    /// that no member answers in time, shorter ones are asked for.
    fn all_below(&self, prefix: String, keys_only: bool) -> Result<Vec<Kv>, JournalError> {
        let (mut all, mut from) = (Vec::<Kv>::new(), prefix.clone().into_bytes());
        let mut records_max = PAGE_RECORDS_MAX;
        loop {
            let body = gateway::range(&from, &prefix, records_max, keys_only);
            let wait = if records_max > 1 { LONG_PAGE_MAX } else { PAGE_MAX };
            let (shared, until) = (self.shared.clone(), Instant::now() + wait);
            let read = async move { shared.members.range(|| until, &body).await };
            let page = match self.background.wait(read) {
                Ok(page) => page.kvs,
                Err(Failed::Away(_)) if records_max > 1 => {
                    records_max = 1;
                    continue;
                }
                Err(failed) => return Err(self.unread(failed)),
            };
            let whole = page.len() < records_max;
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
            self.unsealed(kv, || format!("{what} {name}"))
        };
        rows.iter().map(record).collect()
    }

    /// A record, from its pieces where it is in several.
    fn unsealed<T: DeserializeOwned>(&self, kv: &Kv, name: impl Fn() -> String) -> Result<T, JournalError> {
        let Some(divided) = Divided::of(&kv.value) else {
            return unseal(&self.place, &kv.value, name);
        };
        let below = self.shared.keys.pieces_by(&kv.key, divided.write);
        let pieces = self.all_below(below, false)?;
        let joined = divided.joined(pieces.into_iter().map(|piece| piece.value).collect());
        let joined =
            joined.ok_or_else(|| self.damaged(format!("{}, whose pieces are not all there", name())))?;
        unseal(&self.place, &joined, name)
    }

    /// All of it or nothing, durable, and only while this coordinator leads.
    fn write(&mut self, what: &str, mut operations: Vec<Op>, bytes: usize) -> Result<(), JournalError> {
        let with = self.pieces.removed_with(&self.shared.keys, &operations);
        operations.extend(with);
        if bytes > WRITE_BYTES_MAX {
            let write = WriteId {
                term: self.term,
                write: self.head.write + 1,
            };
            let Division { pieces, last } = divide(&self.shared.keys, write, what, operations)?;
            for piece in pieces {
                self.transact(vec![piece])?;
            }
            operations = last;
        }
        // Where the write fails, this leader writes nothing more.
        let stale = self.pieces.written(&self.shared.keys, &operations);
        self.transact(operations)?;
        match stale.is_empty() {
            true => Ok(()),
            false => self.transact(stale),
        }
    }

    /// One transaction.
    fn transact(&mut self, operations: Vec<Op>) -> Result<(), JournalError> {
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
