//! Messages A and B of §3.2: before a plan every host of S1 ∪ S2 is asked for its state, and answers or is in the way.
//!
//! ```text
//!  request ─names right─▶ asked ─all answered─▶ planned elsewhere ─▶ told, or the move begins
//!                           └── a host lost, or late ──▶ refused
//! ```

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use transhume_model::{Epoch, HostName, Millis, OrderId};
use transhume_protocol::message::Command;

use crate::api::{Accepted, MoveOrder, PlanView};
use crate::checks::{self, Plan, Scene};
use crate::core::{Alarm, Core, CoreError, Reply};
use crate::error::Refused;

/// Plans that wait at the same time.
const SURVEYS_MAX: usize = 64;

/// What the plan is for.
pub(crate) enum Purpose {
    Show(Reply<PlanView>),
    Move(Reply<Accepted>),
}

impl Purpose {
    fn refuse(self, refused: Refused) {
        // Whoever asked may have gone; that is no error.
        match self {
            Purpose::Show(reply) => drop(reply.send(Err(refused))),
            Purpose::Move(reply) => drop(reply.send(Err(refused))),
        }
    }
}

/// A plan that waits for message B of some hosts.
pub(crate) struct Survey {
    scene: Scene,
    waiting: BTreeMap<OrderId, HostName>,
    due: Millis,
    purpose: Purpose,
}

/// A plan that is made, or why there is none.
pub(crate) struct Planned {
    scene: Scene,
    plan: Result<Plan, Refused>,
    purpose: Purpose,
}

impl Core {
    /// Sends message A.
    pub(crate) fn survey(&mut self, cluster: &str, order: &MoveOrder, purpose: Purpose) {
        let scene = match checks::scene(self, cluster, order) {
            Ok(_) if self.surveys.len() == SURVEYS_MAX => return purpose.refuse(Refused::busy()),
            Ok(scene) => scene,
            Err(refused) => return purpose.refuse(refused),
        };
        let asked = scene.hosts().into_iter().map(|host| {
            let dirty_of = scene.dirty_of(&host);
            let id = self
                .hosts
                .ask(&host, Epoch::default(), Command::Inspect { dirty_of });
            (id, host)
        });
        let waiting = asked.collect();
        let due = self.now().mono + scene.answer_ms_max();
        self.alarms.insert((due, Alarm::Waiting));
        self.surveys.push(Survey {
            scene,
            waiting,
            due,
            purpose,
        });
    }

    /// Message B came. The planner may take seconds for a hard instance, so it works on a thread of its own.
    pub(crate) fn survey_answered(&mut self, order: OrderId) {
        let Some(index) = self
            .surveys
            .iter()
            .position(|survey| survey.waiting.contains_key(&order))
        else {
            return;
        };
        let survey = &mut self.surveys[index];
        if let Some(host) = survey.waiting.remove(&order)
            && let Some(state) = self.hosts.state(&host)
        {
            survey.scene.states.insert(host, state.clone());
        }
        if survey.waiting.is_empty() {
            let Survey { scene, purpose, .. } = self.surveys.swap_remove(index);
            plan_elsewhere(scene, purpose, self.planned.clone());
        }
    }

    /// Surveys that wait for a host that is gone.
    pub(crate) fn surveys_lose(&mut self, host: &HostName) {
        while let Some(index) = self
            .surveys
            .iter()
            .position(|survey| survey.waiting.values().any(|waited| waited == host))
        {
            let survey = self.surveys.swap_remove(index);
            survey.purpose.refuse(Refused::unreachable(host, None));
        }
    }

    /// Surveys whose time is over.
    pub(crate) fn surveys_due(&mut self, now: Millis) {
        while let Some(index) = self.surveys.iter().position(|survey| survey.due <= now) {
            let survey = self.surveys.swap_remove(index);
            let host = survey
                .waiting
                .values()
                .next()
                .expect("one is missing, or it would be done");
            let why = format!("no answer to message A within {}", survey.scene.answer_ms_max());
            survey.purpose.refuse(Refused::unreachable(host, Some(&why)));
        }
    }

    /// The planner is done. Meanwhile the cluster may have begun another move, or be gone.
    pub(crate) fn hear_plan(&mut self, planned: Planned) -> Result<(), CoreError> {
        let Planned { scene, plan, purpose } = planned;
        let plan = plan.and_then(|plan| self.check_unchanged(&scene).map(|()| plan));
        match (plan, purpose) {
            (Err(refused), purpose) => purpose.refuse(refused),
            (Ok(plan), Purpose::Show(reply)) => drop(reply.send(Ok(plan.view))),
            (Ok(plan), Purpose::Move(reply)) => {
                let accepted = self.begin_move(scene, plan)?;
                drop(reply.send(accepted));
            }
        }
        Ok(())
    }

    fn check_unchanged(&self, scene: &Scene) -> Result<(), Refused> {
        let name = &scene.cluster.name;
        let cluster = self.live_cluster(name.as_str())?;
        self.check_no_move(name)?;
        if *cluster != scene.cluster {
            return Err(Refused::conflict(
                "cluster-changed",
                format!("cluster {name} was changed while the plan was made"),
                "try again",
            ));
        }
        Ok(())
    }
}

fn plan_elsewhere(scene: Scene, purpose: Purpose, planned: mpsc::Sender<Planned>) {
    tokio::task::spawn_blocking(move || {
        let plan = checks::plan(&scene);
        // A core that is gone has nobody to answer.
        let _ = planned.blocking_send(Planned { scene, plan, purpose });
    });
}
