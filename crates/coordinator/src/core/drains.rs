//! Drains: what each wants next, made durable and begun (`docs/design/drain.md`).

use std::collections::{BTreeMap, BTreeSet};

use tracing::info;
use transhume_api::{DrainPlanView, DrainStay, DrainView, MoveOrder};
use transhume_model::{ClusterName, DrainId, HostName, MigrationId};
use transhume_protocol::message::HostState;
use transhume_protocol::report::Ending;

use super::{Core, CoreError};
use crate::drains::{DRAINS_MAX, Next, Planned, World};
use crate::error::Refused;
use crate::governing;
use crate::journal::{DrainRecord, HostRecord};
use crate::planning::{self, DrainPlan, DrainScene, Known, Lessons, Plan, Scene};
use crate::requests::Reply;
use crate::surveys::{Asked, DrainPlanned, DrainPurpose};

impl Core {
    /// Takes up what the journal holds.
    pub(super) fn take_up_drains(&mut self) -> Result<(), CoreError> {
        for record in self.store.drains()? {
            let outcome = |id| self.moves.outcome(id);
            self.drains.take(record, outcome);
        }
        Ok(())
    }

    /// Which VM would go where.
    pub(super) fn plan_drain(&mut self, order: &MoveOrder, reply: Reply<DrainPlanView>) {
        let hosts = match self.hosts_to_drain(order) {
            Ok(hosts) => hosts,
            Err(refused) => return reply.send(Err(refused)),
        };
        let clusters = self.store.clusters().with_vms_on(&hosts);
        match self.drain_scene(order, &clusters) {
            Ok(scene) => {
                let asked = Asked::Drain(scene, DrainPurpose::Show(reply));
                let now = self.now().mono;
                self.surveys.begin(asked, now, &mut self.hosts);
            }
            Err(refused) => reply.send(Err(refused)),
        }
    }

    /// Begins a drain, or finds the one under way of the same hosts.
    pub(super) fn begin_drain(&mut self, order: MoveOrder) -> Result<Result<DrainView, Refused>, CoreError> {
        let hosts = match planning::named(&self.hosts, "from", &order.from) {
            Ok(hosts) => hosts,
            Err(refused) => return Ok(Err(refused)),
        };
        match self.drains.of_hosts(&hosts) {
            Ok(None) => {}
            Ok(Some(id)) => return Ok(self.drain_view(id)),
            Err(refused) => return Ok(Err(refused)),
        }
        if let Err(refused) = self.hosts_to_drain(&order) {
            return Ok(Err(refused));
        }
        if self.drains.len_under_way() == DRAINS_MAX {
            return Ok(Err(Refused::busy()));
        }
        let id = self.store.new_drain()?;
        let cordoned = hosts.iter().map(|host| HostRecord {
            cordoned: true,
            ..self.record_of(host)
        });
        let record = DrainRecord::new(id, hosts.clone(), order, self.now().wall);
        self.store.keep_drain(&record, cordoned.collect())?;
        info!(target: "audit", drain = %id, ?hosts, "drain begins; its hosts are cordoned");
        self.drains.take(record, |_| None);
        Ok(self.drain_view(id))
    }

    pub(super) fn drain_view(&self, id: DrainId) -> Result<DrainView, Refused> {
        let view = self.drains.view(id, self.store.clusters());
        view.ok_or_else(|| Refused::unknown("drain", &id.to_string(), std::iter::empty()))
    }

    /// Nothing more is begun; a move under way goes on.
    pub(super) fn cancel_drain(&mut self, text: &str) -> Result<Result<DrainView, Refused>, CoreError> {
        let id = match self.drains.named(text) {
            Ok(id) => id,
            Err(refused) => return Ok(Err(refused)),
        };
        let Some(record) = self.drains.cancel(id) else {
            return Ok(Err(Refused::conflict(
                "drain-over",
                format!("drain {id} is over"),
                "`transhume drains` shows how it ended; `transhume host uncordon` puts its hosts to use again",
            )));
        };
        self.store.keep_drain(&record, Vec::new())?;
        info!(target: "audit", drain = %id, "cancelled");
        self.work_on_drains()?;
        Ok(self.drain_view(id))
    }

    /// Looks after all drains, if anything happened that may matter to them.
    pub(super) fn work_on_drains(&mut self) -> Result<(), CoreError> {
        for id in self.drains.take_stale() {
            self.work_on_drain(id)?;
        }
        Ok(())
    }

    fn work_on_drain(&mut self, id: DrainId) -> Result<(), CoreError> {
        let world = self.world(id);
        match self.drains.next(id, &world) {
            None => Ok(()),
            Some(Next::End(record)) => {
                info!(target: "audit", drain = %id, stage = record.stage.name(), "drain is over");
                self.store.keep_drain(&record, Vec::new())?;
                let forgotten = self.drains.forget_old();
                let mut forgotten = forgotten.into_iter();
                Ok(forgotten.try_for_each(|old| self.store.forget_drain(old))?)
            }
            Some(Next::Plan(clusters, mut order)) => {
                // Of a deadline that has passed nothing is left to keep; who is still there may go.
                order.safe_by_ms = self
                    .drains
                    .record(id)
                    .and_then(|record| record.dies_in(self.now().wall))
                    .map(|left| left.0);
                match self.drain_scene(&order, &clusters) {
                    Ok(scene) => {
                        let asked = Asked::Drain(scene, DrainPurpose::Go(id));
                        let now = self.now().mono;
                        self.surveys.begin(asked, now, &mut self.hosts);
                        Ok(())
                    }
                    Err(refused) => self.drain_not_planned(id, &refused, all_stay(&clusters, &refused)),
                }
            }
        }
    }

    fn drain_not_planned(
        &mut self,
        id: DrainId,
        refused: &Refused,
        stays: Vec<DrainStay>,
    ) -> Result<(), CoreError> {
        let planned = match refused.may_pass() {
            true => Planned::Unreachable,
            false => self.nothing_or_wait(id),
        };
        self.drain_planned(id, planned, stays)
    }

    fn drain_planned(
        &mut self,
        id: DrainId,
        planned: Planned,
        stays: Vec<DrainStay>,
    ) -> Result<(), CoreError> {
        let now = self.now().mono;
        let world = self.world(id);
        if let Some(record) = self.drains.planned(id, now, planned, stays, &world) {
            self.store.keep_drain(&record, Vec::new())?;
        }
        Ok(())
    }

    /// The planner is done with a drain.
    pub(super) fn take_drain_plan(&mut self, planned: DrainPlanned) -> Result<(), CoreError> {
        let DrainPlanned { plan, stays, purpose } = planned;
        let id = match purpose {
            DrainPurpose::Show(reply) => {
                reply.send(plan.map(|plan| plan.view));
                return Ok(());
            }
            DrainPurpose::Go(id) => id,
        };
        let DrainPlan { parts, view } = match plan {
            Ok(plan) => plan,
            Err(refused) => return self.drain_not_planned(id, &refused, stays),
        };
        // Meanwhile it may have been cancelled, or a cluster may have begun another move.
        let cancelled = self.drains.record(id).is_none_or(|record| record.cancelled);
        let changed = |scene: &Scene| self.check_unchanged(scene).is_err();
        if cancelled || parts.iter().any(|(scene, _)| changed(scene)) {
            return self.drain_planned(id, Planned::Replan, view.stays);
        }
        let network = governing::network(&self.hosts, &self.config);
        let mut stays = view.stays;
        let mut links_taken = false;
        for (scene, plan) in parts {
            if let Err(refused) = self.check_fits(&scene, &plan) {
                stays.extend(all_stay(&BTreeSet::from([scene.cluster.name]), &refused));
                continue;
            }
            match self.governing.admit(&network, &plan.batches) {
                Ok(()) => return self.begin_drain_move(id, scene, plan, stays),
                Err(short) if short.is_for_now() => links_taken = true,
                Err(short) => {
                    let cluster = BTreeSet::from([scene.cluster.name]);
                    stays.extend(all_stay(&cluster, &Refused::no_bandwidth(&short)));
                }
            }
        }
        let planned = match links_taken {
            true => Planned::LinksTaken,
            false => self.nothing_or_wait(id),
        };
        self.drain_planned(id, planned, stays)
    }

    /// The drain knows of its move before that begins: one that never began is forgotten.
    fn begin_drain_move(
        &mut self,
        id: DrainId,
        scene: Scene,
        plan: Plan,
        stays: Vec<DrainStay>,
    ) -> Result<(), CoreError> {
        let migration = self.store.new_migration()?;
        let begun = Planned::Begun(scene.cluster.name.clone(), migration);
        self.drain_planned(id, begun, stays)?;
        if self.begin_move(migration, &scene, &plan)?.is_err() {
            self.drain_move_over(migration, Ending::Refused)?;
        }
        Ok(())
    }

    /// Where hosts are away that VMs could leave or go to, it is not over yet.
    fn nothing_or_wait(&self, id: DrainId) -> Planned {
        let Some(record) = self.drains.record(id) else {
            return Planned::Nothing;
        };
        let (hosts, to) = (&record.hosts, &record.order.to);
        let holds = |host: &HostName| {
            let there = self.store.clusters().with_vms_on(std::slice::from_ref(host));
            !there.is_empty()
        };
        let may_take = |host: &HostName| {
            let named = to.is_empty() || to.iter().any(|name| name == host.as_str());
            named && !hosts.contains(host) && !self.store.is_cordoned(host)
        };
        let away = |host: &HostName| !self.hosts.is_connected(host) && !self.store.is_fenced(host);
        let mut all = self.config.hosts.iter().map(|host| &host.name);
        let waits = all.any(|host| away(host) && (may_take(host) || (hosts.contains(host) && holds(host))));
        match waits {
            true => Planned::Unreachable,
            false => Planned::Nothing,
        }
    }

    /// A move is over, of a drain or not.
    pub(super) fn drain_move_over(&mut self, id: MigrationId, outcome: Ending) -> Result<(), CoreError> {
        for record in self.drains.move_over(id, outcome) {
            self.store.keep_drain(&record, Vec::new())?;
        }
        Ok(())
    }

    fn world(&self, id: DrainId) -> World {
        let hosts = self.drains.record(id).map_or(&[][..], |record| &record.hosts);
        let left = self.store.clusters().with_vms_on(hosts);
        // One that is being started or deleted is waited for too.
        let busy = |cluster: &&ClusterName| {
            let live = self.store.clusters().live(cluster.as_str());
            live.is_err() || self.check_idle(cluster).is_err()
        };
        World {
            busy: left.iter().filter(busy).cloned().collect(),
            left,
        }
    }

    fn hosts_to_drain(&self, order: &MoveOrder) -> Result<Vec<HostName>, Refused> {
        let hosts = planning::named(&self.hosts, "from", &order.from)?;
        planning::check_limits(order)?;
        if order.safe_by_ms == Some(0) {
            return Err(Refused::bad(
                "bad-deadline",
                "no VM is safe in no time".to_owned(),
                "give a time above 0 after --safe-by",
            ));
        }
        if order.safe_by_ms.is_some() && order.batch.is_some() {
            return Err(Refused::bad(
                "bad-deadline",
                "with a deadline one VM of each host goes at a time, whatever k is".to_owned(),
                "leave --batch out",
            ));
        }
        if order.batch == Some(0) {
            return Err(Refused::bad(
                "bad-batch",
                "k = 0 moves nothing".to_owned(),
                "omit --batch to move all VMs of a cluster at once",
            ));
        }
        if order.to.is_empty() {
            return Ok(hosts);
        }
        let to = planning::named(&self.hosts, "to", &order.to)?;
        for host in &to {
            self.check_not_cordoned(host)?;
            self.hosts.check_connected(host)?;
        }
        match to.iter().find(|host| hosts.contains(host)) {
            None => Ok(hosts),
            Some(host) => Err(Refused::bad(
                "same-hosts",
                format!("host {host} is to be drained, and cannot take VMs"),
                "name other hosts after --to",
            )),
        }
    }

    /// Hosts that may take VMs now.
    fn targets(&self, order: &MoveOrder) -> Vec<String> {
        let is = |names: &[String], host: &HostName| names.iter().any(|name| name == host.as_str());
        let named = |host: &HostName| is(&order.to, host);
        // Of hosts that nobody named, those that could not be used are passed over.
        let usable = |host: &HostName| self.hosts.state(host).is_some_and(takes_vms);
        let fit = |host: &&HostName| {
            !is(&order.from, host)
                && (named(host) || (order.to.is_empty() && usable(host)))
                && self.hosts.check_connected(host).is_ok()
                && !self.store.is_cordoned(host)
                && !self.store.is_fenced(host)
        };
        let hosts = self.config.hosts.iter().map(|host| &host.name);
        hosts.filter(fit).map(ToString::to_string).collect()
    }

    /// One scene for each cluster. Refused where no host of the drain answers, or none may take
    /// VMs.
    fn drain_scene(
        &self,
        order: &MoveOrder,
        clusters: &BTreeSet<ClusterName>,
    ) -> Result<DrainScene, Refused> {
        let hosts = planning::named(&self.hosts, "from", &order.from)?;
        let to = self.targets(order);
        if to.is_empty() && !clusters.is_empty() {
            return Err(Refused::conflict(
                "no-targets",
                "no host may take VMs: each is cordoned, away, fenced or drained itself".to_owned(),
                "`transhume host list` shows them; `transhume host uncordon HOST` lets VMs be put on one",
            ));
        }
        let mut scenes = Vec::new();
        let mut away = None;
        for cluster in clusters {
            let cluster = self.store.clusters().live(cluster.as_str());
            let Ok(cluster) = cluster else { continue };
            let mut from = Vec::new();
            for host in hosts
                .iter()
                .filter(|host| cluster.vms.iter().any(|vm| vm.host == **host))
            {
                match self.hosts.check_connected(host) {
                    Ok(()) => from.push(host.to_string()),
                    Err(refused) => away = Some(refused),
                }
            }
            if from.is_empty() {
                continue;
            }
            let order = MoveOrder {
                from,
                to: to.clone(),
                partial: true,
                ..order.clone()
            };
            let known = Known {
                cluster,
                hosts: &self.hosts,
                config: &self.config,
                lessons: Lessons::of(
                    self.moves.reports().rev(),
                    &cluster.name,
                    planning::mode_of(&order),
                ),
            };
            scenes.push(planning::scene(&order, known)?);
        }
        match away {
            Some(refused) if scenes.is_empty() => Err(refused),
            Some(_) | None => Ok(DrainScene {
                hosts,
                scenes,
                states: BTreeMap::new(),
            }),
        }
    }
}

/// Whether VMs could run there at all.
fn takes_vms(state: &HostState) -> bool {
    let in_trouble = state.bands.as_ref().is_some_and(|bands| bands.trouble.is_some());
    state.qemu.is_some() && !in_trouble
}

fn all_stay(clusters: &BTreeSet<ClusterName>, refused: &Refused) -> Vec<DrainStay> {
    let why = refused.in_one_line();
    let stay = |cluster: &ClusterName| DrainStay {
        cluster: cluster.clone(),
        vms: Vec::new(),
        why: why.clone(),
    };
    clusters.iter().map(stay).collect()
}
