//! Messages A and B of §3.2: before a plan every host of S1 ∪ S2 is asked for its state, and
//! answers or is in the way.
//!
//! ```text
//!  request ─names right─▶ asked ─all answered─▶ planned elsewhere ─▶ shown, or the move begins
//!                           └── a host lost, or late ──▶ refused
//! ```

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use transhume_api::{Accepted, MoveOrder, PlanView};
use transhume_model::{Epoch, HostName, Millis, OrderId};
use transhume_protocol::message::{Command, HostState};

use crate::error::Refused;
use crate::hosts::Hosts;
use crate::planning::{Plan, Scene, plan};
use crate::requests::Reply;

/// Plans that wait for answers at the same time.
const SURVEYS_MAX: usize = 64;
/// Plans that are made and not yet taken.
const MADE_WAITING_MAX: usize = 64;

/// What the plan is for.
#[derive(Debug)]
pub(crate) enum Purpose {
    Show(Reply<PlanView>),
    Move(Reply<Accepted>, Option<Box<Waiting>>),
}

/// An order that may wait for others to end, to be tried again.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) cluster: String,
    pub(crate) order: MoveOrder,
}

impl Purpose {
    pub(crate) fn refuse(self, refused: Refused) {
        match self {
            Purpose::Show(reply) => reply.send(Err(refused)),
            Purpose::Move(reply, _) => reply.send(Err(refused)),
        }
    }
}

/// A plan that waits for message B of some hosts.
#[derive(Debug)]
struct Survey {
    scene: Scene,
    waiting: BTreeMap<OrderId, HostName>,
    due: Millis,
    purpose: Purpose,
}

/// A plan that is made, or why there is none.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) scene: Scene,
    pub(crate) plan: Result<Plan, Refused>,
    pub(crate) purpose: Purpose,
}

/// All plans that are being made.
#[derive(Debug)]
pub(crate) struct Surveys {
    waiting: Vec<Survey>,
    /// Where planners leave their work.
    made: mpsc::Sender<Planned>,
    taken: mpsc::Receiver<Planned>,
}

impl Surveys {
    pub(crate) fn new() -> Self {
        let (made, taken) = mpsc::channel(MADE_WAITING_MAX);
        Self {
            waiting: Vec::new(),
            made,
            taken,
        }
    }

    /// Sends message A.
    pub(crate) fn begin(&mut self, scene: Scene, purpose: Purpose, now: Millis, hosts: &mut Hosts) {
        if self.waiting.len() == SURVEYS_MAX {
            return purpose.refuse(Refused::busy());
        }
        let asked = scene.hosts().into_iter().map(|host| {
            let dirty_of = scene.dirty_of(&host);
            let command = Command::Inspect { dirty_of };
            (hosts.ask(&host, Epoch::default(), command), host)
        });
        self.waiting.push(Survey {
            waiting: asked.collect(),
            due: now + scene.answer_ms_max(),
            scene,
            purpose,
        });
    }

    /// Message B came. The planner may take seconds for a hard instance, so it works on a thread of
    /// its own.
    pub(crate) fn answered(&mut self, order: OrderId, state: &HostState) {
        let asked = |survey: &Survey| survey.waiting.contains_key(&order);
        let Some(index) = self.waiting.iter().position(asked) else {
            return;
        };
        let survey = &mut self.waiting[index];
        if let Some(host) = survey.waiting.remove(&order) {
            survey.scene.states.insert(host, state.clone());
        }
        if survey.waiting.is_empty() {
            let Survey { scene, purpose, .. } = self.waiting.swap_remove(index);
            plan_elsewhere(scene, purpose, self.made.clone());
        }
    }

    /// A host went away: no plan that waits for it can be made.
    pub(crate) fn host_lost(&mut self, host: &HostName) {
        let waits = |survey: &mut Survey| survey.waiting.values().any(|waited| waited == host);
        for survey in self.waiting.extract_if(.., waits) {
            survey.purpose.refuse(Refused::unreachable(host, None));
        }
    }

    /// Refuses what has waited too long.
    pub(crate) fn due(&mut self, now: Millis) {
        for survey in self.waiting.extract_if(.., |survey| survey.due <= now) {
            let mut missing = survey.waiting.values();
            let host = missing.next().expect("one is missing, or it would be done");
            let why = format!("no answer to message A within {}", survey.scene.answer_ms_max());
            survey.purpose.refuse(Refused::unreachable(host, Some(&why)));
        }
    }

    /// When [`Surveys::due`] has something to do next.
    pub(crate) fn next_due(&self) -> Option<Millis> {
        self.waiting.iter().map(|survey| survey.due).min()
    }

    /// The next plan that is made. May be dropped before it is there.
    pub(crate) async fn planned(&mut self) -> Planned {
        let planned = self.taken.recv().await;
        planned.expect("a sender is kept")
    }
}

fn plan_elsewhere(scene: Scene, purpose: Purpose, made: mpsc::Sender<Planned>) {
    tokio::task::spawn_blocking(move || {
        let plan = plan(&scene);
        // A core that is gone has nobody to answer.
        let _ = made.blocking_send(Planned { scene, plan, purpose });
    });
}
