//! What is in the way of a plan (§2.2.1): presence, compatibility, capacity, k.

use transhume_api::{PlanView, PlannedMove};
use transhume_model::{ClusterName, HostName, PlacedVm};
use transhume_planner::{BatchError, Move, NoSolution, Offer, Offers, Placement, Request, batches, place};
use transhume_protocol::forecast::MoveForecast;
use transhume_protocol::message::{HostState, QemuState};
use transhume_protocol::migration::{Converge, MoveVm};

use super::scene::{Scene, list};
use super::{auto, forecasts};
use crate::error::Refused;

/// A move that can be begun.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) batches: Vec<Vec<MoveVm>>,
    /// See [`transhume_protocol::migration::MoveRequest::batch_max`].
    pub(crate) batch_max: Option<usize>,
    pub(crate) view: PlanView,
}

/// Which VM goes where, in which batch, or the first thing that is in the way. All hosts of the
/// scene have answered.
pub(crate) fn plan(scene: &Scene) -> Result<Plan, Refused> {
    for vm in scene.leaving() {
        present(scene, vm)?;
    }
    for (host, state) in &scene.states {
        bands_as_configured(host, state)?;
    }
    for host in &scene.to {
        usable_qemu(host, &scene.states[host])?;
    }
    if matches!(scene.converge, Converge::Throttle { .. }) {
        scene
            .from
            .iter()
            .try_for_each(|host| can_throttle(host, &scene.states[host]))?;
    }
    let placement = choose(scene)?;
    let moves = placement.moves.iter().filter(|planned| !planned.stays()).count();
    // Rounds of a move whose batches are cut later are as large as capacity allows.
    let k = match scene.adaptive {
        true if scene.batch != Some(0) => moves,
        _ => scene.batch.unwrap_or(moves),
    };
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
        .zip(0..)
        .map(|(round, number)| {
            let moves = round.moves.iter();
            moves.map(|planned| move_vm(scene, planned, number)).collect()
        })
        .collect();
    for vm in rounds.iter().flatten() {
        compatible(scene, vm)?;
    }
    let batch_max = scene.adaptive.then(|| scene.batch.unwrap_or(moves).min(moves));
    let (batches, forecast) = match batch_max {
        Some(max) => auto::batches(scene, &rounds, &chosen, max)?,
        None => {
            let forecast = forecasts::make(scene, &chosen)?;
            (rounds, forecast)
        }
    };
    let view = PlanView {
        forecast,
        ..view(&scene.cluster.name, &placement, &batches)
    };
    Ok(Plan {
        batches,
        batch_max,
        view,
    })
}

/// A VM that is stranded anywhere, or that its host's agent does not know, cannot leave it.
fn present(scene: &Scene, vm: &PlacedVm) -> Result<(), Refused> {
    let (name, host) = (&vm.spec.name, &vm.host);
    if let Some((host, stranded)) = scene.stranded(name) {
        return Err(Refused::stranded(host, stranded));
    }
    if scene.vm(vm).is_some() {
        return Ok(());
    }
    let cluster = &scene.cluster.name;
    Err(Refused::conflict(
        "vm-missing",
        format!("VM {name} is not on host {host}: its agent does not know it"),
        format!(
            "its record was lost there; `transhume vm start {cluster} {name}` boots it again, \
             `transhume vm forget {cluster} {name}` takes it out of the cluster"
        ),
    ))
}

fn move_vm(scene: &Scene, planned: &Move, round: usize) -> MoveVm {
    let mut leaving = scene.leaving();
    let placed = leaving.find(|placed| placed.spec.name == planned.vm);
    let placed = placed.expect("the planner places what it was asked to place");
    MoveVm {
        spec: placed.spec.clone(),
        source: planned.source.clone(),
        target: planned.target.clone(),
        powered_off: scene.is_off(placed),
        need: forecasts::need(scene, placed),
        // Batches that stay as they are have none.
        round: if scene.adaptive { round } else { 0 },
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
            format!("omit --batch to move all {vms} at once"),
        ),
        BatchError::Cycle { .. } => {
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

/// Where a host's links are not divided as configured, nobody keeps his share (G5).
fn bands_as_configured(host: &HostName, state: &HostState) -> Result<(), Refused> {
    let Some(fault) = state.bands.as_ref().and_then(|bands| bands.trouble.as_ref()) else {
        return Ok(());
    };
    let hint = fault
        .hint
        .as_deref()
        .unwrap_or("`transhume bands show` there shows what is");
    Err(Refused::conflict(
        "bands-in-trouble",
        format!(
            "the links of host {host} are not divided as configured: {}",
            fault.reason
        ),
        format!("{hint}; to move without bands, take [bands] out of its agent's configuration"),
    ))
}

/// A policy that a source cannot follow is refused before anything moves.
fn can_throttle(host: &HostName, state: &HostState) -> Result<(), Refused> {
    match &state.no_throttle {
        None => Ok(()),
        Some(why) => Err(Refused::conflict(
            "no-throttle",
            format!("host {host} cannot slow a guest down: {why}"),
            "give its agent the right to make control groups there, or choose another --converge",
        )),
    }
}

/// Whether the target can run what the source runs. The target's agent checks disks and files at
/// reservation.
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

fn view(cluster: &ClusterName, placement: &Placement, rounds: &[Vec<MoveVm>]) -> PlanView {
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
        batch: rounds.iter().map(Vec::len).max().unwrap_or_default(),
        hosts_used: placement.hosts_used,
        hosts_min: placement.hosts_min,
        moves: moves.collect(),
        stay: stay.map(|planned| planned.vm.clone()).collect(),
        forecast: MoveForecast::default(),
    }
}
