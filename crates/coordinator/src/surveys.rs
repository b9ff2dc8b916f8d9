//! Messages A and B of §3.2: before a plan every host of S1 ∪ S2 is asked for its state, and
//! answers or is in the way.
//!
//! ```text
//!  request ─names right─▶ asked ─all answered─▶ planned elsewhere ─▶ shown, or the move begins
//!                           └── a host lost, or late ──▶ refused
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;
use transhume_api::{Accepted, DrainPlanView, DrainStay, MoveOrder, PlanView};
use transhume_model::{DrainId, Epoch, HostName, Millis, OrderId, VmName};
use transhume_protocol::message::{Command, HostState};

use crate::error::Refused;
use crate::hosts::Hosts;
use crate::planning::{DrainPlan, DrainScene, Plan, Scene, plan, plan_drain};
use crate::requests::Reply;

/// Plans that wait for answers at the same time.
const SURVEYS_MAX: usize = 64;
/// Plans that are made and not yet taken.
const MADE_WAITING_MAX: usize = 64;

/// What the plan of a move is for.
#[derive(Debug)]
pub(crate) enum Purpose {
    Show(Reply<PlanView>),
    Move(Reply<Accepted>, Option<Box<Waiting>>),
}

/// What the plan of a drain is for.
#[derive(Debug)]
pub(crate) enum DrainPurpose {
    Show(Reply<DrainPlanView>),
    Go(DrainId),
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

/// What is planned.
#[derive(Debug)]
pub(crate) enum Asked {
    Move(Box<Scene>, Purpose),
    Drain(DrainScene, DrainPurpose),
}

impl Asked {
    fn hosts(&self) -> BTreeSet<HostName> {
        match self {
            Asked::Move(scene, _) => scene.hosts(),
            Asked::Drain(scene, _) => scene.hosts(),
        }
    }

    fn dirty_of(&self, host: &HostName) -> Vec<VmName> {
        match self {
            Asked::Move(scene, _) => scene.dirty_of(host),
            Asked::Drain(scene, _) => scene.dirty_of(host),
        }
    }

    fn answer_ms_max(&self) -> Millis {
        match self {
            Asked::Move(scene, _) => scene.answer_ms_max(),
            Asked::Drain(scene, _) => scene.answer_ms_max(),
        }
    }

    fn heard(&mut self, host: HostName, state: &HostState) {
        match self {
            Asked::Move(scene, _) => {
                Arc::make_mut(&mut scene.states).insert(host, state.clone());
            }
            Asked::Drain(scene, _) => {
                scene.states.insert(host, state.clone());
            }
        }
    }

    fn plan(self) -> Made {
        match self {
            Asked::Move(scene, purpose) => {
                let plan = plan(&scene);
                let scene = *scene;
                Made::Move(Box::new(Planned { scene, plan, purpose }))
            }
            Asked::Drain(mut scene, purpose) => {
                scene.share_states();
                let plan = plan_drain(&scene);
                Made::Drain(DrainPlanned::new(&scene, plan, purpose))
            }
        }
    }
}

/// A plan that waits for message B of some hosts.
#[derive(Debug)]
struct Survey {
    asked: Asked,
    waiting: BTreeMap<OrderId, HostName>,
    due: Millis,
}

/// A plan that is made, or why there is none.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) scene: Scene,
    pub(crate) plan: Result<Plan, Refused>,
    pub(crate) purpose: Purpose,
}

/// The same of a drain.
#[derive(Debug)]
pub(crate) struct DrainPlanned {
    pub(crate) plan: Result<DrainPlan, Refused>,
    /// Where there is none, every cluster stays.
    pub(crate) stays: Vec<DrainStay>,
    pub(crate) purpose: DrainPurpose,
}

impl DrainPlanned {
    fn new(scene: &DrainScene, plan: Result<DrainPlan, Refused>, purpose: DrainPurpose) -> Self {
        let why = plan.as_ref().err().map(Refused::in_one_line);
        Self {
            stays: why.map_or(Vec::new(), |why| scene.all_stay(&why)),
            plan,
            purpose,
        }
    }
}

/// What a planner made.
#[derive(Debug)]
pub(crate) enum Made {
    Move(Box<Planned>),
    Drain(DrainPlanned),
}

/// All plans that are being made.
#[derive(Debug)]
pub(crate) struct Surveys {
    waiting: Vec<Survey>,
    /// Drains whose plan cannot be made: there is nobody else to tell.
    refused: VecDeque<DrainPlanned>,
    /// Where planners leave their work.
    made: mpsc::Sender<Made>,
    taken: mpsc::Receiver<Made>,
}

impl Surveys {
    pub(crate) fn new() -> Self {
        let (made, taken) = mpsc::channel(MADE_WAITING_MAX);
        Self {
            waiting: Vec::new(),
            refused: VecDeque::new(),
            made,
            taken,
        }
    }

    /// Sends message A.
    pub(crate) fn begin(&mut self, asked: Asked, now: Millis, hosts: &mut Hosts) {
        if self.waiting.len() == SURVEYS_MAX {
            return self.refuse(asked, Refused::busy());
        }
        let waiting = asked.hosts().into_iter().map(|host| {
            let dirty_of = asked.dirty_of(&host);
            let command = Command::Inspect { dirty_of };
            (hosts.ask(&host, Epoch::default(), command), host)
        });
        let survey = Survey {
            waiting: waiting.collect(),
            due: now + asked.answer_ms_max(),
            asked,
        };
        match survey.waiting.is_empty() {
            true => plan_elsewhere(survey.asked, self.made.clone()),
            false => self.waiting.push(survey),
        }
    }

    /// Message B came. The planner may take seconds for a hard instance, so it works on a thread of
    /// its own.
    pub(crate) fn answered(&mut self, from: &HostName, order: OrderId, state: &HostState) {
        let asked = |survey: &Survey| survey.waiting.get(&order) == Some(from);
        let Some(index) = self.waiting.iter().position(asked) else {
            return;
        };
        let survey = &mut self.waiting[index];
        if let Some(host) = survey.waiting.remove(&order) {
            survey.asked.heard(host, state);
        }
        if survey.waiting.is_empty() {
            let survey = self.waiting.swap_remove(index);
            plan_elsewhere(survey.asked, self.made.clone());
        }
    }

    /// A host went away: no plan that waits for it can be made.
    pub(crate) fn host_lost(&mut self, host: &HostName) {
        let waits = |survey: &mut Survey| survey.waiting.values().any(|waited| waited == host);
        let lost: Vec<Survey> = self.waiting.extract_if(.., waits).collect();
        for survey in lost {
            self.refuse(survey.asked, Refused::unreachable(host, None));
        }
    }

    /// Refuses what has waited too long.
    pub(crate) fn due(&mut self, now: Millis) {
        let late: Vec<Survey> = self.waiting.extract_if(.., |survey| survey.due <= now).collect();
        for survey in late {
            let mut missing = survey.waiting.values();
            let host = missing.next().expect("one is missing, or it would be done");
            let why = format!("no answer to message A within {}", survey.asked.answer_ms_max());
            let refused = Refused::unreachable(host, Some(&why));
            self.refuse(survey.asked, refused);
        }
    }

    fn refuse(&mut self, asked: Asked, refused: Refused) {
        match asked {
            Asked::Move(_, purpose) => purpose.refuse(refused),
            Asked::Drain(_, DrainPurpose::Show(reply)) => reply.send(Err(refused)),
            Asked::Drain(scene, purpose) => {
                self.refused
                    .push_back(DrainPlanned::new(&scene, Err(refused), purpose));
            }
        }
    }

    /// When [`Surveys::due`] has something to do next.
    pub(crate) fn next_due(&self) -> Option<Millis> {
        self.waiting.iter().map(|survey| survey.due).min()
    }

    /// The next plan that is made. May be dropped before it is there.
    pub(crate) async fn planned(&mut self) -> Made {
        if let Some(refused) = self.refused.pop_front() {
            return Made::Drain(refused);
        }
        let planned = self.taken.recv().await;
        planned.expect("a sender is kept")
    }
}

fn plan_elsewhere(asked: Asked, made: mpsc::Sender<Made>) {
    tokio::task::spawn_blocking(move || {
        // A core that is gone has nobody to answer.
        let _ = made.blocking_send(asked.plan());
    });
}
