//! Everything that is found before anything moves (G3, §2.2.1): names, sets, k, compatibility, capacity.
//!
//! Two halves: [`scene`] reads names against what the core knows; [`plan`] is pure, works on the answers to message A, and may take
//! its time elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use transhume_model::{ClusterName, ClusterSpec, HostName, Millis, PlacedVm, VmName};
use transhume_planner::{
    BatchError, Move, NoSolution, Offer, Offers, Placement, Request, Strategy, batches, place,
};
use transhume_protocol::forecast::MoveForecast;
use transhume_protocol::message::{DIRTY_RATE_MS_MAX, HostState, Mode, QemuState};
use transhume_protocol::migration::MoveVm;

use crate::api::{MoveOrder, PlanView, PlannedMove};
use crate::core::Core;
use crate::error::Refused;
use crate::forecasts;
use crate::lessons::Lessons;

/// A host answers message A within this, and [`DIRTY_RATE_MS_MAX`] where it measures.
const ANSWER_MS_MAX: Millis = Millis(2_000);

/// What a plan is made of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scene {
    pub(crate) cluster: ClusterSpec,
    /// S1.
    pub(crate) from: Vec<HostName>,
    /// S2.
    pub(crate) to: Vec<HostName>,
    /// k; all VMs that move where absent.
    pub(crate) batch: Option<usize>,
    /// Live or offline.
    pub(crate) mode: Mode,
    /// Budget for the predicted blackout.
    pub(crate) blackout_max: Millis,
    /// How targets are chosen.
    pub(crate) strategy: Strategy,
    /// Speeds of migration links that the configuration names, Mbit/s.
    pub(crate) vmct_mbit_s: BTreeMap<HostName, u32>,
    /// What earlier moves of the cluster teach.
    pub(crate) lessons: Lessons,
    /// Messages B of S1 ∪ S2.
    pub(crate) states: BTreeMap<HostName, HostState>,
}

/// A move that can be begun.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) batches: Vec<Vec<MoveVm>>,
    pub(crate) view: PlanView,
}

impl Scene {
    /// S1 ∪ S2.
    pub(crate) fn hosts(&self) -> BTreeSet<HostName> {
        self.from.iter().chain(&self.to).cloned().collect()
    }

    /// VMs of a host whose dirty rates matter: live, those that may leave it (§2.2.2).
    pub(crate) fn dirty_of(&self, host: &HostName) -> Vec<VmName> {
        let live = self.mode == Mode::Live;
        let here = self.leaving().filter(|vm| live && vm.host == *host);
        here.map(|vm| vm.spec.name.clone()).collect()
    }

    /// A host that has not answered message A by then is in the way.
    pub(crate) fn answer_ms_max(&self) -> Millis {
        match self.mode {
            Mode::Live => ANSWER_MS_MAX + DIRTY_RATE_MS_MAX,
            Mode::Offline => ANSWER_MS_MAX,
        }
    }

    /// The cluster's VMs on S1.
    pub(crate) fn leaving(&self) -> impl Iterator<Item = &PlacedVm> {
        self.cluster.vms.iter().filter(|vm| self.from.contains(&vm.host))
    }
}

/// The names of an order, read; message A is not answered yet.
pub(crate) fn scene(core: &Core, cluster: &str, order: &MoveOrder) -> Result<Scene, Refused> {
    let cluster = core.live_cluster(cluster)?;
    let mode = if order.offline { Mode::Offline } else { Mode::Live };
    let scene = Scene {
        cluster: cluster.clone(),
        from: hosts(core, "from", &order.from)?,
        to: hosts(core, "to", &order.to)?,
        batch: order.batch,
        mode,
        blackout_max: order
            .blackout_ms_max
            .map_or(core.config.limits.blackout_ms_max, Millis),
        strategy: order.strategy.unwrap_or_default(),
        vmct_mbit_s: core
            .config
            .hosts
            .iter()
            .filter_map(|host| Some((host.name.clone(), host.vmct_mbit_s?)))
            .collect(),
        lessons: Lessons::of(core.reports().rev(), &cluster.name, mode),
        states: BTreeMap::new(),
    };
    let (s1, s2): (BTreeSet<_>, BTreeSet<_>) = (scene.from.iter().collect(), scene.to.iter().collect());
    if s1 == s2 {
        return Err(Refused::bad(
            "same-hosts",
            format!(
                "the cluster is to leave {} for the very same hosts",
                list(&scene.from)
            ),
            "name other hosts after --to",
        ));
    }
    if order.blackout_ms_max == Some(0) {
        return Err(Refused::bad(
            "bad-budget",
            "a blackout of 0 ms is not possible: no VM would ever be ready to be switched over".to_owned(),
            "allow at least 1 ms after --blackout-ms-max, or leave it away",
        ));
    }
    if scene.leaving().next().is_none() {
        let live_on: BTreeSet<_> = cluster.vms.iter().map(|vm| &vm.host).collect();
        return Err(Refused::bad(
            "nothing-to-move",
            format!("cluster {} has no VM on {}", cluster.name, list(&scene.from)),
            format!("its VMs are on {}", list(live_on)),
        ));
    }
    core.check_no_move(&cluster.name)?;
    for host in scene.hosts() {
        core.hosts.check_connected(&host)?;
    }
    Ok(scene)
}

/// Names of one set: not empty, each known, none twice.
fn hosts(core: &Core, set: &str, names: &[String]) -> Result<Vec<HostName>, Refused> {
    if names.is_empty() {
        return Err(Refused::bad(
            "empty-set",
            format!("the set of hosts `{set}` is empty"),
            format!("name at least one host after --{set}"),
        ));
    }
    let mut hosts = Vec::new();
    for name in names {
        let host = core.hosts.named(name)?;
        if hosts.contains(&host) {
            return Err(Refused::bad(
                "host-twice",
                format!("host {name} is named twice in `{set}`"),
                "name each host once",
            ));
        }
        hosts.push(host);
    }
    Ok(hosts)
}

fn list<'a>(hosts: impl IntoIterator<Item = &'a HostName>) -> String {
    hosts
        .into_iter()
        .map(HostName::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Which VM goes where, in which batch, or the first thing that is in the way. All hosts of the scene have answered.
pub(crate) fn plan(scene: &Scene) -> Result<Plan, Refused> {
    for vm in scene.leaving() {
        present(scene, vm)?;
    }
    for host in &scene.to {
        usable_qemu(host, &scene.states[host])?;
    }
    let placement = choose(scene)?;
    let moves = placement.moves.iter().filter(|planned| !planned.stays()).count();
    let k = scene.batch.unwrap_or(moves);
    if moves == 0 && scene.batch != Some(0) {
        return Err(Refused::bad(
            "nothing-to-move",
            format!(
                "every VM of cluster {} on {} may stay where it is",
                scene.cluster.name,
                list(&scene.from)
            ),
            "name fewer hosts after --to",
        ));
    }
    let chosen = batches(&placement, k).map_err(batch_refused)?;
    let rounds: Vec<Vec<MoveVm>> = chosen
        .iter()
        .map(|round| {
            round
                .moves
                .iter()
                .map(|planned| move_vm(scene, planned))
                .collect()
        })
        .collect();
    for vm in rounds.iter().flatten() {
        compatible(scene, vm)?;
    }
    let view = PlanView {
        forecast: forecasts::make(scene, &chosen)?,
        ..view(&scene.cluster.name, k, &placement, &rounds)
    };
    Ok(Plan {
        batches: rounds,
        view,
    })
}

/// A VM that its host's agent does not know cannot leave it.
fn present(scene: &Scene, vm: &PlacedVm) -> Result<(), Refused> {
    let (name, host) = (&vm.spec.name, &vm.host);
    let known = &scene.states[host].vms;
    if known.iter().any(|state| state.spec.name == *name) {
        return Ok(());
    }
    Err(Refused::conflict(
        "vm-missing",
        format!("VM {name} is not on host {host}: its agent does not know it"),
        "it ended by itself, or was killed; the agent's log and the VM's console tell more",
    ))
}

fn move_vm(scene: &Scene, planned: &Move) -> MoveVm {
    let placed = scene.leaving().find(|placed| placed.spec.name == planned.vm);
    MoveVm {
        powered_off: false,
        spec: placed
            .expect("the planner places what it was asked to place")
            .spec
            .clone(),
        source: planned.source.clone(),
        target: planned.target.clone(),
    }
}

/// §3.2: from messages B, the fewest targets.
fn choose(scene: &Scene) -> Result<Placement, Refused> {
    let offers = scene.to.iter().map(|host| Offer {
        host: host.clone(),
        free: scene.states[host].free,
    });
    let offers = Offers::new(offers).expect("each host of S2 is named once");
    let requests: Vec<Request> = scene
        .leaving()
        .map(|vm| Request {
            vm: vm.spec.name.clone(),
            source: vm.host.clone(),
            demand: vm.spec.demand(),
        })
        .collect();
    place(&offers, &requests, scene.strategy).map_err(|error| no_solution(scene, &error))
}

fn no_solution(scene: &Scene, error: &NoSolution) -> Refused {
    let hint = match error {
        NoSolution::VmTooLarge { .. } => "name a target with more after --to, or free resources on one",
        NoSolution::Total { .. } | NoSolution::NoTargets { .. } => {
            "name more target hosts after --to, or free resources on them"
        }
        NoSolution::Fragmented { .. } | NoSolution::WorkBound { .. } => {
            "one more target host after --to would help"
        }
        NoSolution::DuplicateVm(_) => "VM names are unique across all clusters",
    };
    let message = format!("no placement on {}: {error}", list(&scene.to));
    Refused::conflict("no-solution", message, hint)
}

fn batch_refused(error: BatchError) -> Refused {
    match &error {
        BatchError::Zero { vms } | BatchError::TooLarge { vms, .. } => Refused::bad(
            "bad-batch",
            error.to_string(),
            format!("leave --batch away to move all {vms} at once"),
        ),
        BatchError::Ring { .. } => {
            Refused::conflict("no-order", error.to_string(), "name a spare host after --to")
        }
    }
}

fn usable_qemu<'a>(host: &HostName, state: &'a HostState) -> Result<&'a QemuState, Refused> {
    state.qemu.as_ref().ok_or_else(|| {
        let why = state.qemu_error.as_deref().unwrap_or("it does not say why");
        Refused::conflict(
            "no-qemu",
            format!("host {host} has no usable QEMU: {why}"),
            "install QEMU 8.2 or newer (9.2 without KVM) there, or name another target",
        )
    })
}

/// Whether the target can run what the source runs. The target's agent checks disks and files at reservation.
fn compatible(scene: &Scene, vm: &MoveVm) -> Result<(), Refused> {
    let (source, target) = (&scene.states[&vm.source], &scene.states[&vm.target]);
    let (name, host) = (&vm.spec.name, &vm.target);
    let qemu = usable_qemu(host, target)?;
    let newer = source.qemu.as_ref().filter(|ours| ours.version > qemu.version);
    if let Some(ours) = newer {
        return Err(Refused::conflict(
            "older-qemu",
            format!(
                "VM {name} runs on QEMU {} and host {host} has {}",
                ours.version, qemu.version
            ),
            "a move to an older QEMU is not safe: upgrade the target, or name another one",
        ));
    }
    let machine = vm.spec.machine.as_ref();
    if let Some(machine) = machine.filter(|machine| !qemu.machines.contains(machine)) {
        return Err(Refused::conflict(
            "machine-type",
            format!(
                "host {host} (QEMU {}) does not know the machine type {machine} of VM {name}",
                qemu.version
            ),
            "move to a host whose QEMU is at least as new as the source's",
        ));
    }
    if let Some(nic) = vm.spec.nics.iter().find(|nic| nic.mtu > target.mtu_max) {
        return Err(Refused::conflict(
            "mtu",
            format!(
                "VM {name} sends packets of up to {} bytes, the network of host {host} carries {}",
                nic.mtu, target.mtu_max
            ),
            "raise the MTU of the target's bridge, or name another target",
        ));
    }
    Ok(())
}

fn view(cluster: &ClusterName, k: usize, placement: &Placement, rounds: &[Vec<MoveVm>]) -> PlanView {
    let moves = rounds.iter().zip(1..).flat_map(|(round, batch)| {
        round.iter().map(move |vm| PlannedMove {
            vm: vm.spec.name.clone(),
            batch,
            source: vm.source.clone(),
            target: vm.target.clone(),
        })
    });
    let stay = placement.moves.iter().filter(|planned| planned.stays());
    PlanView {
        cluster: cluster.clone(),
        batch: k,
        hosts_used: placement.hosts_used,
        hosts_min: placement.hosts_min,
        moves: moves.collect(),
        stay: stay.map(|planned| planned.vm.clone()).collect(),
        forecast: MoveForecast::default(),
    }
}
