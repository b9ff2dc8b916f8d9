//! The one plan of a drain: all VMs that are left on its hosts, of all clusters, and each cluster's
//! part of it as an ordinary plan of a move (`docs/design/drain.md`). Under a deadline a part is
//! what goes of a cluster before another one's turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use transhume_api::{DrainPlanView, DrainStay, DrainStep};
use transhume_model::{ClusterName, HostName, Interval, Millis, PlacedVm, VmName};
use transhume_planner::report::{Plan as Chosen, SafeBy};
use transhume_planner::{K, Options, Strategy, svg};
use transhume_protocol::message::HostState;

use super::checks::{bound, stuck, why_unplaced};
use super::choose::{ask, made, unusable};
use super::input::{Bound, Parts};
use super::scene::Scene;
use super::{Plan, forecasts, plan};
use crate::error::Refused;

/// What a drain's plan is made of.
#[derive(Debug, Clone)]
pub(crate) struct DrainScene {
    /// The hosts to be emptied, as ordered.
    pub(crate) hosts: Vec<HostName>,
    /// One for each cluster that may go now; all leave the same hosts for the same targets.
    pub(crate) scenes: Vec<Scene>,
    /// Messages B, until they are shared among the scenes.
    pub(crate) states: BTreeMap<HostName, HostState>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct DrainPlan {
    /// The parts that can be begun, in order.
    pub(crate) parts: Vec<(Scene, Plan)>,
    pub(crate) view: DrainPlanView,
}

impl DrainScene {
    /// Hosts to be asked.
    pub(crate) fn hosts(&self) -> BTreeSet<HostName> {
        self.scenes.iter().flat_map(Scene::hosts).collect()
    }

    /// VMs of a host whose dirty rates matter.
    pub(crate) fn dirty_of(&self, host: &HostName) -> Vec<VmName> {
        let scenes = self.scenes.iter();
        scenes.flat_map(|scene| scene.dirty_of(host)).collect()
    }

    /// A host that has not answered message A by then is in the way.
    pub(crate) fn answer_ms_max(&self) -> Millis {
        let all = self.scenes.iter().map(Scene::answer_ms_max);
        all.max().unwrap_or_default()
    }

    /// All have answered.
    pub(crate) fn share_states(&mut self) {
        let states = Arc::new(std::mem::take(&mut self.states));
        for scene in &mut self.scenes {
            scene.states = states.clone();
        }
    }

    /// Every cluster stays, for the same reason.
    pub(crate) fn all_stay(&self, why: &str) -> Vec<DrainStay> {
        let stay = |scene: &Scene| DrainStay {
            cluster: scene.cluster.name.clone(),
            vms: Vec::new(),
            why: why.to_owned(),
        };
        self.scenes.iter().map(stay).collect()
    }

    /// Its clusters are moved one after the other.
    fn part_of(&self) -> BTreeMap<VmName, usize> {
        let scenes = self.scenes.iter().enumerate();
        scenes
            .flat_map(|(part, scene)| {
                scene
                    .leaving()
                    .map(move |placed| (placed.spec.name.clone(), part))
            })
            .collect()
    }

    fn leaving(&self) -> impl Iterator<Item = (&Scene, &PlacedVm)> {
        let scenes = self.scenes.iter();
        scenes.flat_map(|scene| scene.leaving().map(move |placed| (scene, placed)))
    }
}

/// Plans a drain. All its hosts have answered.
pub(crate) fn plan_drain(drain: &DrainScene) -> Result<DrainPlan, Refused> {
    let Some(one) = drain.scenes.first() else {
        let view = empty(&drain.hosts);
        let parts = Vec::new();
        return Ok(DrainPlan { parts, view });
    };
    if let Some(stays) = all_stuck(drain) {
        let view = DrainPlanView {
            stays,
            ..empty(&drain.hosts)
        };
        let parts = Vec::new();
        return Ok(DrainPlan { parts, view });
    }
    let chosen = choose(drain, one)?;
    let mut view = view(drain, &chosen);
    let mut parts = Vec::new();
    for cluster in in_order(&view.moves) {
        let Some(scene) = drain.scenes.iter().find(|scene| scene.cluster.name == cluster) else {
            continue;
        };
        let scene = part(scene, &chosen, turn(scene, &view.moves).as_ref());
        match plan(&scene) {
            Ok(plan) => parts.push((scene, plan)),
            Err(refused) => {
                view.moves.retain(|step| step.cluster != cluster);
                view.stays.push(DrainStay {
                    cluster,
                    vms: Vec::new(),
                    why: refused.in_one_line(),
                });
            }
        }
    }
    Ok(DrainPlan { parts, view })
}

/// VMs of a cluster that go when it is first its turn, under a deadline: those before another
/// cluster's. Without one all do.
fn turn(scene: &Scene, moves: &[DrainStep]) -> Option<BTreeSet<VmName>> {
    let own = |step: &&DrainStep| step.cluster == scene.cluster.name;
    let turn = moves.iter().skip_while(|step| !own(step)).take_while(own);
    let turn = turn.map(|step| step.vm.clone()).collect();
    scene.safe_by.map(|_| turn)
}

/// One cluster's part: its targets are chosen. A VM whose turn it is not, or that has no place, is
/// bound to where it is, and stays; k is at most the VMs that move.
fn part(scene: &Scene, chosen: &Chosen, turn: Option<&BTreeSet<VmName>>) -> Scene {
    let own: BTreeSet<&VmName> = scene.cluster.vms.iter().map(|placed| &placed.spec.name).collect();
    let placed = || chosen.placement.iter().filter(|placed| own.contains(&placed.vm));
    let goes = |vm: &VmName| turn.is_none_or(|turn| turn.contains(vm));
    let moving = placed().filter(|placed| placed.source != placed.target && goes(&placed.vm));
    let moving = moving.count();
    let targets = placed().map(|placed| {
        let target = match goes(&placed.vm) {
            true => &placed.target,
            false => &placed.source,
        };
        (placed.vm.clone(), target.clone())
    });
    Scene {
        chosen: Some(targets.collect()),
        partial: true,
        batch: scene.batch.map(|k| k.min(moving)),
        strategy: Strategy::Exact,
        ..scene.clone()
    }
}

/// Why each VM stays, where none could go anywhere whatever room there is.
fn all_stuck(drain: &DrainScene) -> Option<Vec<DrainStay>> {
    let why = drain.leaving().map(|(scene, placed)| {
        let refused = stuck(scene, placed).err()?;
        Some(DrainStay {
            cluster: scene.cluster.name.clone(),
            vms: vec![placed.spec.name.clone()],
            why: refused.in_one_line(),
        })
    });
    why.collect()
}

/// Targets for all VMs that are left.
fn choose(drain: &DrainScene, one: &Scene) -> Result<Chosen, Refused> {
    let mut dirty: BTreeMap<VmName, Interval> = BTreeMap::new();
    let mut all_bound = Bound::new();
    for scene in &drain.scenes {
        dirty.extend(forecasts::dirty_rates(scene));
        all_bound.extend(bound(scene));
    }
    let name: ClusterName = "drain".parse().expect("a plain name");
    let parts = Parts {
        name: &name,
        clusters: drain.scenes.iter().map(|scene| &scene.cluster).collect(),
        from: &drain.hosts,
        to: &one.to,
        states: &one.states,
        labels: &one.labels,
        vmct_mbit_s: &one.vmct_mbit_s,
        dirty: &dirty,
        bound: &all_bound,
    };
    let options = Options {
        strategy: one.strategy,
        k: K::All,
        safe_by_s: one.safe_by.map(|time| time.0 as f64 / 1e3),
        part_of: drain.part_of(),
        ..Options::default()
    };
    let report = ask(&parts.input(), &options).map_err(|error| unusable(one, error))?;
    made(&one.to, report)
}

fn empty(hosts: &[HostName]) -> DrainPlanView {
    DrainPlanView {
        hosts: hosts.to_vec(),
        targets_used: 0,
        targets_min: 0,
        moves: Vec::new(),
        stays: Vec::new(),
        notes: Vec::new(),
        picture: None,
    }
}

fn view(drain: &DrainScene, chosen: &Chosen) -> DrainPlanView {
    let cluster_of: BTreeMap<&VmName, &ClusterName> = drain
        .leaving()
        .map(|(scene, placed)| (&placed.spec.name, &scene.cluster.name))
        .collect();
    let steps = chosen.batches.iter().flat_map(|batch| &batch.moves);
    let moves = steps.filter_map(|one| {
        Some(DrainStep {
            cluster: (*cluster_of.get(&one.step.vm)?).clone(),
            vm: one.step.vm.clone(),
            source: one.step.source.clone(),
            target: one.step.target.clone(),
        })
    });
    let scene_of = |cluster: &ClusterName| {
        let mut scenes = drain.scenes.iter();
        scenes.find(|scene| scene.cluster.name == *cluster)
    };
    let stays = chosen.unplaced.iter().filter_map(|one| {
        let cluster = cluster_of.get(one.vms.first()?)?;
        Some(DrainStay {
            cluster: (*cluster).clone(),
            vms: one.vms.clone(),
            why: scene_of(cluster).map_or_else(|| one.why.clone(), |scene| why_unplaced(scene, one)),
        })
    });
    let wanted = drain.scenes.iter().any(|scene| scene.draw);
    let in_time = chosen.safe_by.iter().flat_map(SafeBy::sentences);
    DrainPlanView {
        targets_used: chosen.targets.value.as_f64() as usize,
        targets_min: chosen.targets.at_least.as_f64() as usize,
        moves: moves.collect(),
        stays: stays.collect(),
        notes: in_time.chain(chosen.notes.iter().cloned()).collect(),
        picture: wanted.then(|| svg(chosen)),
        ..empty(&drain.hosts)
    }
}

/// Clusters in the order in which the plan first moves one of their VMs.
fn in_order(moves: &[DrainStep]) -> Vec<ClusterName> {
    let mut seen = BTreeSet::new();
    let clusters = moves.iter().map(|step| &step.cluster);
    clusters
        .filter(|cluster| seen.insert(*cluster))
        .cloned()
        .collect()
}
