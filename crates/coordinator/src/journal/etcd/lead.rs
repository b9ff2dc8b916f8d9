//! Who leads: a coordinator looks who does, takes the lead where nobody has it, and keeps it.
//!
//! ```text
//!            ┌────────── somebody leads ─────────┐
//!            ▼                                   │
//!  start ─▶ looks ─ nobody leads ─▶ lease, one transaction ─ won ─▶ leads ─ lease lost ─▶ ends
//!            ▲                                   │
//!            └────────────── lost ───────────────┘
//! ```

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};
use transhume_model::WallMicros;
use transhume_protocol::message::FleetId;

use super::super::fleet::{self, new_id};
use super::super::{FORMAT, JournalError};
use super::gateway::{Compare, Done, Kv, Op, Txn};
use super::keys::{Head, Keys, LeaderRecord};
use super::lease::{ClockWatch, Lease};
use super::members::{Failed, Members};
use crate::etcd_spec::EtcdSpec;
use crate::standing::Standing;

/// A follower looks so often whether somebody leads.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A look that finds no etcd is told after this, and repeated.
pub(super) const LOOK_MAX: Duration = Duration::from_secs(3);
/// The lease is renewed so many times in its length.
const RENEWALS_PER_LEASE: u32 = 10;
/// The leader writes its clock down so often.
const BEAT_EVERY: Duration = Duration::from_secs(2);
/// A lease that nobody leads with is given back in this time, or runs out.
const GIVE_BACK_MAX: Duration = Duration::from_secs(1);

/// What a leader's writes, its renewals and its watchers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) members: Members,
    pub(super) keys: Keys,
    lease: Mutex<Option<Lease>>,
    lost: watch::Sender<Option<String>>,
}

impl Shared {
    pub(super) fn new(members: Members, keys: Keys) -> Self {
        Self {
            members,
            keys,
            lease: Mutex::new(None),
            lost: watch::Sender::new(None),
        }
    }

    /// When the lease ends if nothing more is heard; now where there is none.
    pub(super) fn lease_ends(&self) -> Instant {
        let lease = self.lease.lock().expect("no holder panics");
        lease.map_or_else(Instant::now, |lease| lease.ends())
    }

    pub(super) fn lease_is_over(&self) -> bool {
        let lease = self.lease.lock().expect("no holder panics");
        lease.is_none_or(|lease| lease.is_over(Instant::now()))
    }

    fn renewed(&self, sent: Instant) {
        let mut lease = self.lease.lock().expect("no holder panics");
        if let Some(lease) = lease.as_mut() {
            lease.renewed(sent);
        }
    }

    /// From here on nothing is written any more. The first reason stays.
    pub(super) fn lose(&self, why: &str) {
        self.lost.send_if_modified(|lost| {
            let first = lost.is_none();
            if first {
                *lost = Some(why.to_owned());
            }
            first
        });
    }

    /// Why nothing may be written any more.
    pub(super) fn why_lost(&self) -> Option<String> {
        self.lost.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<String>> {
        self.lost.subscribe()
    }
}

/// What a look shows.
pub(super) struct View {
    pub(super) leader: Option<LeaderRecord>,
    pub(super) term: u64,
    term_revision: i64,
    pub(super) fleet: Option<FleetId>,
    fleet_revision: i64,
    format: Option<u64>,
    pub(super) head: Option<Head>,
    head_revision: i64,
    beat: Option<WallMicros>,
    pub(super) restoring: bool,
}

/// Taken in one transaction.
#[derive(Debug)]
pub(super) struct Lead {
    pub(super) fleet: FleetId,
    pub(super) term: u64,
    /// At which the leader's key was made: nobody else's has it.
    pub(super) revision: i64,
    pub(super) head: Head,
}

/// A coordinator that would lead.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) shared: Arc<Shared>,
    spec: EtcdSpec,
    pub(super) place: PathBuf,
    fleet_beside: PathBuf,
    api: String,
    run: String,
    clocks: ClockWatch,
    /// Said once.
    told: String,
}

impl Candidate {
    pub(super) fn new(
        shared: Arc<Shared>,
        spec: &EtcdSpec,
        place: &Path,
        fleet_beside: &Path,
        api: &str,
    ) -> Result<Self, JournalError> {
        Ok(Self {
            shared,
            spec: spec.clone(),
            place: place.to_owned(),
            fleet_beside: fleet_beside.to_owned(),
            api: api.to_owned(),
            run: new_id()?.to_string(),
            clocks: ClockWatch::default(),
            told: String::new(),
        })
    }

    /// Waits until it leads, however long; `standing` says for what.
    pub(super) async fn lead(mut self, standing: &watch::Sender<Standing>) -> Result<Lead, JournalError> {
        loop {
            let began = crate::wall();
            let view = match self.look().await {
                Ok(view) => view,
                Err(Failed::Refused(why)) => return Err(self.unusable(why)),
                Err(Failed::Away(why)) => {
                    self.wait(standing, format!("no majority of etcd answers ({why})"));
                    continue;
                }
            };
            let view = self.read(view)?;
            self.check(&view)?;
            self.check_clocks(&view, began)?;
            match &view.leader {
                None if view.restoring => return Err(self.half_restored()),
                Some(_) if view.restoring => self.wait(standing, "a backup is being restored".to_owned()),
                Some(leader) if leader.api == self.api && leader.run != self.run => {
                    self.wait(standing, "this machine led until a moment ago".to_owned());
                }
                Some(leader) => {
                    let leader = leader.api.clone();
                    if self.tell(&leader) {
                        info!(%leader, "follows");
                    }
                    standing.send_replace(Standing::Follows { leader });
                }
                None => {
                    self.check_term(&view)?;
                    self.wait(standing, "one is being chosen".to_owned());
                    if let Some(lead) = self.take(&view, None).await? {
                        return Ok(lead);
                    }
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Whether it was not said last.
    fn tell(&mut self, what: &str) -> bool {
        let new = self.told != what;
        self.told = what.to_owned();
        new
    }

    fn wait(&mut self, standing: &watch::Sender<Standing>, what: String) {
        if self.tell(&what) {
            warn!("no coordinator leads: {what}");
        }
        standing.send_replace(Standing::Waits { what });
    }

    pub(super) fn half_restored(&self) -> JournalError {
        JournalError::HalfRestored {
            place: self.place.display().to_string(),
        }
    }

    pub(super) fn unusable(&self, why: String) -> JournalError {
        JournalError::Etcd {
            place: self.place.display().to_string(),
            why,
        }
    }

    pub(super) async fn look(&self) -> Result<Done, Failed> {
        let keys = &self.shared.keys;
        let wanted = [
            keys.leader(),
            keys.term(),
            keys.fleet(),
            keys.format(),
            keys.head(),
            keys.beat(),
            keys.restoring(),
        ];
        let look = Txn {
            then: wanted.map(Op::Get).into(),
            ..Txn::default()
        };
        let until = Instant::now() + LOOK_MAX;
        self.shared.members.txn(|| until, &look).await
    }

    pub(super) fn read(&self, found: Done) -> Result<View, JournalError> {
        let at = |index: usize| found.got.get(index).and_then(Option::as_ref);
        let revision = |index| at(index).map_or(0, |kv: &Kv| kv.mod_revision);
        let damaged = |record: &str| JournalError::Damaged {
            path: self.place.clone(),
            record: record.to_owned(),
        };
        let fleet = match at(2) {
            None => None,
            Some(kv) => {
                let text = std::str::from_utf8(&kv.value).ok();
                let fleet = text.and_then(|text| text.parse().ok());
                Some(fleet.ok_or_else(|| damaged("the fleet's id"))?)
            }
        };
        let leader = match at(0) {
            None => None,
            Some(kv) => {
                let record = parsed(&kv.value).ok_or_else(|| damaged("the leader"))?;
                Some(record)
            }
        };
        let number = |index: usize, name: &str| match at(index) {
            None => Ok(None),
            Some(kv) => parsed::<u64>(&kv.value).map(Some).ok_or_else(|| damaged(name)),
        };
        Ok(View {
            leader,
            term: number(1, "the last term")?.unwrap_or(0),
            term_revision: revision(1),
            fleet,
            fleet_revision: revision(2),
            format: number(3, "the format")?,
            head: match at(4) {
                None => None,
                Some(kv) => Some(parsed(&kv.value).ok_or_else(|| damaged("the last write"))?),
            },
            head_revision: revision(4),
            beat: number(5, "the leader's clock")?.map(WallMicros),
            restoring: at(6).is_some(),
        })
    }

    /// Whether this is a place where this coordinator may lead or follow.
    pub(super) fn check(&self, view: &View) -> Result<(), JournalError> {
        if let Some(found) = view.format.filter(|found| *found > FORMAT) {
            let path = self.place.clone();
            return Err(JournalError::Format { path, found });
        }
        match (&view.fleet, fleet::beside(&self.fleet_beside)?) {
            (Some(found), Some(expected)) if *found != expected => Err(JournalError::OtherFleet {
                path: self.place.clone(),
                found: found.clone(),
                expected,
            }),
            _ => Ok(()),
        }
    }

    /// As for a file: one that was lost and begun anew, or put back from an old copy, is not led
    /// with, for agents would not obey.
    fn check_term(&self, view: &View) -> Result<(), JournalError> {
        let led = fleet::led(&self.fleet_beside)?;
        match view.term < led {
            true => Err(JournalError::OldCopy {
                path: self.place.clone(),
                found: view.term,
                led,
            }),
            false => Ok(()),
        }
    }

    /// This machine is the fleet's from here on, and its clock is the leader's.
    fn check_clocks(&mut self, view: &View, began: WallMicros) -> Result<(), JournalError> {
        if let (Some(found), None) = (&view.fleet, fleet::beside(&self.fleet_beside)?) {
            fleet::write(&self.fleet_beside, found)?;
        }
        let last = view.head.as_ref().map(|head| head.at);
        let latest = view.beat.max(last);
        let ahead_us = latest.and_then(|latest| self.clocks.seen(latest, began, crate::wall()));
        match ahead_us {
            None => Ok(()),
            Some(ahead_us) => Err(JournalError::ClocksApart {
                ahead_ms: ahead_us / 1_000,
            }),
        }
    }

    /// A lease, then everything that makes a leader, in one transaction that compares that nobody
    /// was quicker; `None` where somebody was. `restored` is the fleet of a backup that is to be
    /// put there.
    pub(super) async fn take(
        &mut self,
        view: &View,
        restored: Option<&FleetId>,
    ) -> Result<Option<Lead>, JournalError> {
        let keys = &self.shared.keys;
        let until = Instant::now() + LOOK_MAX;
        let granted = self.shared.members.grant(|| until, self.spec.lease_s);
        let (sent, granted) = match granted.await {
            Ok(granted) => granted,
            Err(Failed::Refused(why)) => return Err(self.unusable(why)),
            Err(Failed::Away(_)) => return Ok(None),
        };
        let lease = granted.id;
        let own = Duration::from_secs(u64::try_from(granted.ttl).unwrap_or(0));
        let own = own.min(Duration::from_secs(u64::from(self.spec.lease_s)));
        *self.shared.lease.lock().expect("no holder panics") = Some(Lease::granted(own, sent));
        let known = restored.or(view.fleet.as_ref());
        let fleet = match (known, fleet::beside(&self.fleet_beside)?) {
            (Some(fleet), _) => fleet.clone(),
            (None, Some(beside)) => beside,
            (None, None) => new_id()?,
        };
        let term = view.term + 1;
        let leader = LeaderRecord {
            term,
            api: self.api.clone(),
            run: self.run.clone(),
        };
        let head = Head {
            term,
            write: 0,
            at: crate::wall(),
        };
        let mut then = vec![
            Op::PutWith(keys.leader(), json(&leader), lease),
            Op::Put(keys.term(), json(&term)),
            Op::Put(keys.fleet(), fleet.as_str().into()),
            Op::Put(keys.format(), json(&FORMAT)),
            Op::Put(keys.head(), json(&head)),
        ];
        if restored.is_some() {
            let records = [
                keys.entries(),
                keys.clusters(),
                keys.hosts(),
                keys.drains(),
                keys.numbers(),
                keys.pieces(),
            ];
            then.push(Op::Put(keys.restoring(), json(&crate::wall())));
            then.extend(records.map(Op::RemoveBelow));
        }
        let take = Txn {
            when: vec![
                Compare::Created(keys.leader(), 0),
                Compare::Modified(keys.term(), view.term_revision),
                Compare::Modified(keys.fleet(), view.fleet_revision),
                Compare::Modified(keys.head(), view.head_revision),
            ],
            then,
            otherwise: vec![Op::Get(keys.leader())],
        };
        let taken = self.shared.members.txn(|| self.shared.lease_ends(), &take);
        let revision = match taken.await {
            Ok(taken) if taken.succeeded => Some(taken.revision),
            // An attempt whose answer was lost may have taken it.
            Ok(found) => {
                let leader = found.got.into_iter().next().flatten();
                let own = leader.filter(|leader| leader.lease == lease);
                own.map(|own| own.create_revision)
            }
            // Where this machine stalled meanwhile, the lease is gone.
            Err(Failed::Refused(why)) if !self.shared.lease_is_over() => return Err(self.unusable(why)),
            Err(Failed::Refused(_) | Failed::Away(_)) => None,
        };
        let Some(revision) = revision else {
            self.give_back(lease).await;
            return Ok(None);
        };
        // An embedded journal that this fleet had here before would be an old copy.
        fleet::keep_term(
            &self.fleet_beside,
            &fleet,
            term.max(fleet::led(&self.fleet_beside)?),
        )?;
        tokio::spawn(renew(self.shared.clone(), lease, own / RENEWALS_PER_LEASE));
        tokio::spawn(beat(self.shared.clone(), revision));
        Ok(Some(Lead {
            fleet,
            term,
            revision,
            head,
        }))
    }

    async fn give_back(&self, lease: i64) {
        let until = Instant::now() + GIVE_BACK_MAX;
        // One that is not given back runs out.
        drop(self.shared.members.revoke(|| until, lease).await);
    }
}

/// Renews the lease until it is lost.
async fn renew(shared: Arc<Shared>, lease: i64, every: Duration) {
    loop {
        sleep(every).await;
        let renewed = shared.members.renew(|| shared.lease_ends(), lease);
        match renewed.await {
            Ok(sent) => shared.renewed(sent),
            Err(Failed::Refused(why)) => return shared.lose(&format!("etcd ended it ({why})")),
            Err(Failed::Away(why)) => {
                return shared.lose(&format!("it was not renewed in its time ({why})"));
            }
        }
        if shared.why_lost().is_some() {
            return;
        }
    }
}

/// Writes the clock down, and so notices a leader's key that somebody removed.
async fn beat(shared: Arc<Shared>, revision: i64) {
    loop {
        let txn = Txn {
            when: vec![Compare::Created(shared.keys.leader(), revision)],
            then: vec![Op::Put(shared.keys.beat(), json(&crate::wall()))],
            ..Txn::default()
        };
        let written = shared.members.txn(|| shared.lease_ends(), &txn);
        match written.await {
            Ok(written) if written.succeeded => {}
            Ok(_) => return shared.lose("its key is gone"),
            Err(Failed::Refused(why)) => return shared.lose(&format!("etcd takes no writes ({why})")),
            // Whoever renews the lease says so.
            Err(Failed::Away(_)) => return,
        }
        sleep(BEAT_EVERY).await;
    }
}

pub(super) fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("records have string keys and finite numbers")
}

pub(super) fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}
