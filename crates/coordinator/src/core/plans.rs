//! From an order to a move: survey, plan, the check that nothing has changed, the beginning.

use tracing::info;
use transhume_api::{Accepted, MoveOrder};
use transhume_model::{Epoch, MigrationId};
use transhume_protocol::event::Happening;
use transhume_protocol::migration::{Input, Limits, MoveRequest};

use super::{Core, CoreError};
use crate::error::Refused;
use crate::governing;
use crate::planning::{self, Known, Lessons, Plan, Scene};
use crate::requests::Reply;
use crate::surveys::{Asked, Planned, Purpose, Waiting};

/// Moves that wait for bandwidth.
const MOVES_WAITING_MAX: usize = 64;

impl Core {
    pub(super) fn scene(&self, cluster: &str, order: &MoveOrder) -> Result<Scene, Refused> {
        let cluster = self.store.clusters().live(cluster)?;
        let newest = self.moves.reports().rev();
        let known = Known {
            cluster,
            hosts: &self.hosts,
            config: &self.config,
            lessons: Lessons::of(newest, &cluster.name, planning::mode_of(order)),
        };
        let scene = planning::scene(order, known)?;
        self.check_idle(&cluster.name)?;
        scene
            .to
            .iter()
            .try_for_each(|host| self.check_not_cordoned(host))?;
        scene
            .hosts()
            .iter()
            .try_for_each(|host| self.hosts.check_connected(host))?;
        Ok(scene)
    }

    pub(super) fn survey(&mut self, scene: Result<Scene, Refused>, purpose: Purpose) {
        let now = self.now().mono;
        match scene {
            Ok(scene) => {
                let asked = Asked::Move(Box::new(scene), purpose);
                self.surveys.begin(asked, now, &mut self.hosts);
            }
            Err(refused) => purpose.refuse(refused),
        }
    }

    /// The planner is done. Meanwhile the cluster may have begun another move, or be gone.
    pub(super) fn take_plan(&mut self, planned: Planned) -> Result<(), CoreError> {
        let Planned { scene, plan, purpose } = planned;
        let checked = |plan: Plan| {
            self.check_unchanged(&scene)?;
            self.check_fits(&scene, &plan).map(|()| plan)
        };
        let plan = plan.and_then(checked);
        match (plan, purpose) {
            (Err(refused), purpose) => purpose.refuse(refused),
            (Ok(plan), Purpose::Show(reply)) => reply.send(Ok(plan.view)),
            (Ok(plan), Purpose::Move(reply, waiting)) => self.admit_move(scene, plan, reply, waiting)?,
        }
        Ok(())
    }

    /// Plans a move. One that may wait is tried again when another is over.
    pub(super) fn order_move(&mut self, cluster: String, order: MoveOrder, reply: Reply<Accepted>) {
        let scene = self.scene(&cluster, &order);
        let waiting = order.wait.then(|| Box::new(Waiting { cluster, order }));
        self.survey(scene, Purpose::Move(reply, waiting));
    }

    /// Phase 2 for the links (§2.2.2): a move begins if they have what it needs.
    fn admit_move(
        &mut self,
        scene: Scene,
        plan: Plan,
        reply: Reply<Accepted>,
        waiting: Option<Box<Waiting>>,
    ) -> Result<(), CoreError> {
        let network = governing::network(&self.hosts, &self.config);
        match (self.governing.admit(&network, &plan.batches), waiting) {
            (Ok(()), _) => {
                let id = self.store.new_migration()?;
                let accepted = self.begin_move(id, &scene, &plan)?;
                reply.send(accepted);
            }
            (Err(short), Some(waiting)) if short.is_for_now() => {
                if self.waiting.len() == MOVES_WAITING_MAX {
                    reply.send(Err(Refused::busy()));
                } else {
                    info!(cluster = waiting.cluster, "waits for bandwidth: {short}");
                    self.waiting.push((waiting, reply));
                }
            }
            (Err(short), _) => reply.send(Err(Refused::no_bandwidth(&short))),
        }
        Ok(())
    }

    /// A move is over: others may begin. Whoever no longer waits for an answer is left out.
    pub(super) fn try_waiting(&mut self) {
        for (waiting, reply) in std::mem::take(&mut self.waiting) {
            if !reply.is_forsaken() {
                let Waiting { cluster, order } = *waiting;
                self.order_move(cluster, order, reply);
            }
        }
    }

    pub(super) fn check_unchanged(&self, scene: &Scene) -> Result<(), Refused> {
        let name = &scene.cluster.name;
        let cluster = self.store.clusters().live(name.as_str())?;
        self.check_idle(name)?;
        if *cluster != scene.cluster {
            return Err(Refused::conflict(
                "cluster-changed",
                format!("cluster {name} was changed while the plan was made"),
                "try again",
            ));
        }
        Ok(())
    }

    // Moves.

    fn request(&self, id: MigrationId, scene: &Scene, plan: &Plan) -> MoveRequest {
        MoveRequest {
            migration: id,
            cluster: scene.cluster.name.clone(),
            mode: scene.mode,
            epoch: Epoch::default(),
            from: scene.from.clone(),
            to: scene.to.clone(),
            batches: plan.batches.clone(),
            limits: Limits {
                blackout_ms_max: scene.blackout_max,
                ..self.config.limits.clone()
            },
            duration_ms_max: scene.duration_max,
            converge: scene.converge,
            batch_max: plan.batch_max,
            forecast: Some(plan.view.forecast.clone()),
        }
    }

    /// One whose report the journal would not take would stop the coordinator when it is over.
    pub(super) fn check_fits(&self, scene: &Scene, plan: &Plan) -> Result<(), Refused> {
        let most = self.store.record_bytes_max();
        let request = self.request(MigrationId(u64::MAX), scene, plan);
        let (bytes, vms) = (
            request.write_bytes_max(),
            request.batches.iter().flatten().count(),
        );
        match bytes <= most {
            true => Ok(()),
            false => Err(Refused::bad(
                "move-too-large",
                format!(
                    "the report of a move of {vms} VMs of cluster {} may take {bytes} bytes, and this coordinator's journal takes {most}",
                    scene.cluster.name
                ),
                "move it in several moves, from some of its hosts at a time with --from, or keep the journal in a file",
            )),
        }
    }

    pub(super) fn begin_move(
        &mut self,
        id: MigrationId,
        scene: &Scene,
        plan: &Plan,
    ) -> Result<Result<Accepted, Refused>, CoreError> {
        let notes = plan.view.notes.iter().cloned();
        let notes = notes.chain(plan.view.unplaced.iter().map(|one| one.why.clone()));
        let notes: Vec<String> = notes.collect();
        let mut request = self.request(id, scene, plan);
        request.epoch = self.store.new_epochs(request.epochs())?;
        match self.moves.begin(self.now(), request) {
            Ok(ready) => {
                self.reserve(id);
                self.carry_out(id, ready)?;
                self.feed_clocks(id)?;
                Ok(Ok(Accepted { migration: id, notes }))
            }
            Err(error) => {
                let hint = "this is a mistake of the coordinator's own checks; please report it";
                Ok(Err(Refused::conflict("impossible-move", error.to_string(), hint)))
            }
        }
    }

    pub(super) fn cancel(&mut self, id: &str) -> Result<Result<Accepted, Refused>, CoreError> {
        let id = match self.moves.cancellable(id) {
            Ok(id) => id,
            Err(refused) => return Ok(Err(refused)),
        };
        let Some(ready) = self.moves.handle(self.now(), id, Input::Cancel) else {
            return Ok(Ok(Accepted {
                migration: id,
                notes: Vec::new(),
            }));
        };
        let already = |what: &Happening| matches!(what, Happening::AlreadyRollingBack { .. });
        let already = ready.events.iter().any(already);
        self.carry_out(id, ready)?;
        if already {
            return Ok(Err(self.moves.rolling_back(self.now(), id)));
        }
        Ok(Ok(Accepted {
            migration: id,
            notes: Vec::new(),
        }))
    }
}
