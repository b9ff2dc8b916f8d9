//! Drains that are under way or kept, and what the API shows of them.

mod machine;

use std::collections::{BTreeMap, BTreeSet};

use transhume_api::{DrainLeft, DrainList, DrainStay, DrainView};
use transhume_model::{DrainId, HostName, MigrationId, Millis};
use transhume_protocol::report::Ending;

pub(crate) use self::machine::{Doing, Drain, Next, Planned, World};
use crate::clusters::Clusters;
use crate::error::Refused;
use crate::journal::DrainRecord;

/// Drains under way at the same time.
pub(crate) const DRAINS_MAX: usize = 64;
/// Drains that are over and kept.
const KEPT_MAX: usize = 100;

/// All drains.
#[derive(Debug, Default)]
pub(crate) struct Drains {
    drains: BTreeMap<DrainId, Drain>,
    /// Something happened since they were last looked at.
    stale: bool,
}

impl Drains {
    /// Takes a drain up, or begins one. See [`Drain::new`] for `outcome`.
    pub(crate) fn take(
        &mut self,
        record: DrainRecord,
        outcome: impl Fn(MigrationId) -> Option<Option<Ending>>,
    ) {
        self.drains.insert(record.drain, Drain::new(record, outcome));
        self.stale = true;
    }

    /// Those under way, if anything happened that may matter to them.
    pub(crate) fn take_stale(&mut self) -> Vec<DrainId> {
        match std::mem::take(&mut self.stale) {
            true => self.under_way().map(|(id, _)| id).collect(),
            false => Vec::new(),
        }
    }

    /// Something else is over that clusters were in use for.
    pub(crate) fn others_over(&mut self) {
        self.stale = true;
        self.drains.values_mut().for_each(Drain::others_over);
    }

    fn under_way(&self) -> impl Iterator<Item = (DrainId, &Drain)> {
        let all = self.drains.iter().map(|(id, drain)| (*id, drain));
        all.filter(|(_, drain)| !drain.is_over())
    }

    pub(crate) fn len_under_way(&self) -> usize {
        self.under_way().count()
    }

    pub(crate) fn record(&self, id: DrainId) -> Option<&DrainRecord> {
        self.drains.get(&id).map(|drain| &drain.record)
    }

    /// What one of them wants next.
    pub(crate) fn next(&mut self, id: DrainId, world: &World) -> Option<Next> {
        self.drains.get_mut(&id)?.next(world)
    }

    /// What came of its plan; the record that is to be kept.
    pub(crate) fn planned(
        &mut self,
        id: DrainId,
        now: Millis,
        planned: Planned,
        stays: Vec<DrainStay>,
        world: &World,
    ) -> Option<DrainRecord> {
        self.stale = true;
        let drain = self.drains.get_mut(&id)?;
        drain.planned(now, planned, stays, world);
        Some(drain.record.clone())
    }

    /// Nothing more of it is begun; the record that is to be kept, `None` where it is over.
    pub(crate) fn cancel(&mut self, id: DrainId) -> Option<DrainRecord> {
        self.stale = true;
        let drain = self.drains.get_mut(&id).filter(|drain| !drain.is_over())?;
        drain.cancel();
        Some(drain.record.clone())
    }

    /// The drain under way of exactly these hosts; refused where one has some of them.
    pub(crate) fn of_hosts(&self, hosts: &[HostName]) -> Result<Option<DrainId>, Refused> {
        let wanted: BTreeSet<&HostName> = hosts.iter().collect();
        for (id, drain) in self.under_way() {
            let own: BTreeSet<&HostName> = drain.record.hosts.iter().collect();
            if own == wanted && !drain.record.cancelled {
                return Ok(Some(id));
            }
            if let Some(host) = own.intersection(&wanted).next() {
                return Err(Refused::conflict(
                    "drain-under-way",
                    format!("host {host} is being drained by drain {id}"),
                    format!(
                        "`transhume drains` shows how far it is, `transhume drains --cancel {id}` ends it"
                    ),
                ));
            }
        }
        Ok(None)
    }

    /// A move is over: records that changed by it.
    pub(crate) fn move_over(&mut self, migration: MigrationId, outcome: Ending) -> Vec<DrainRecord> {
        self.stale = true;
        let drains = self.drains.values_mut();
        let changed =
            drains.filter_map(|drain| drain.move_over(migration, outcome).then(|| drain.record.clone()));
        changed.collect()
    }

    pub(crate) fn next_due(&self) -> Option<Millis> {
        self.under_way().filter_map(|(_, drain)| drain.next_due()).min()
    }

    pub(crate) fn due(&mut self, now: Millis) {
        if self.next_due().is_some_and(|due| due <= now) {
            self.stale = true;
            self.drains.values_mut().for_each(|drain| drain.due(now));
        }
    }

    /// Forgets what is long over; which is returned.
    pub(crate) fn forget_old(&mut self) -> Vec<DrainId> {
        let over = self.drains.iter().filter(|(_, drain)| drain.is_over());
        let over: Vec<DrainId> = over.map(|(id, _)| *id).collect();
        let forgotten = over[..over.len().saturating_sub(KEPT_MAX)].to_vec();
        for id in &forgotten {
            self.drains.remove(id);
        }
        forgotten
    }

    pub(crate) fn named(&self, text: &str) -> Result<DrainId, Refused> {
        let id = text.parse().ok().map(DrainId);
        let found = id.filter(|id| self.drains.contains_key(id));
        found.ok_or_else(|| {
            let newest: Vec<String> = self.drains.keys().rev().map(ToString::to_string).collect();
            Refused::unknown("drain", text, newest.iter().map(String::as_str))
        })
    }

    /// What the API shows of one that is there.
    pub(crate) fn view(&self, id: DrainId, clusters: &Clusters) -> Option<DrainView> {
        let drain = self.drains.get(&id)?;
        let record = &drain.record;
        let left = clusters.all().flat_map(|cluster| {
            let there = cluster.spec.vms.iter();
            let there = there.filter(|placed| record.hosts.contains(&placed.host));
            there.map(|placed| DrainLeft {
                cluster: cluster.spec.name.clone(),
                vm: placed.spec.name.clone(),
                host: placed.host.clone(),
            })
        });
        Some(DrainView {
            drain: id,
            hosts: record.hosts.clone(),
            stage: record.stage,
            doing: (!drain.is_over()).then(|| in_words(drain.doing())),
            moves: record.moves.clone(),
            left: left.collect(),
            stays: record.stays.clone(),
        })
    }

    pub(crate) fn list(&self, clusters: &Clusters) -> DrainList {
        let all = self.drains.keys();
        DrainList {
            drains: all.filter_map(|id| self.view(*id, clusters)).collect(),
        }
    }
}

fn in_words(doing: Doing) -> String {
    match doing {
        Doing::Nothing | Doing::Planning => "plans".to_owned(),
        Doing::Moving(migration) => format!("migration {migration} is under way"),
        Doing::WaitingForOthers => "waits for others: its cluster, or the links, are in use".to_owned(),
        Doing::WaitingForHosts(_) => "waits for a host that does not answer".to_owned(),
    }
}
