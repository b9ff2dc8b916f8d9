//! What is in the way of a plan (§2.2.1): presence, compatibility, capacity, k.

use std::collections::BTreeSet;

use transhume_api::{PlanView, PlannedMove, StaysBehind};
use transhume_model::{HostName, PlacedVm, VmName, VmSpec};
use transhume_planner::report::{Placed, Plan as Chosen, SafeBy, Step, Total};
use transhume_planner::{Strategy, Unplaced, svg};
use transhume_protocol::forecast::MoveForecast;
use transhume_protocol::message::{GuestState, HostState, QemuState};
use transhume_protocol::migration::{Converge, MoveVm};

use super::choose::choose;
use super::input::Bound;
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
    if !scene.partial {
        scene.leaving().try_for_each(|vm| present(scene, vm))?;
    }
    for host in scene.hosts() {
        bands_as_configured(&host, &scene.states[&host])?;
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
    let whys: Option<Vec<Refused>> = scene.leaving().map(|vm| stuck(scene, vm).err()).collect();
    if let Some(first) = whys.into_iter().flatten().next().filter(|_| scene.partial) {
        return Err(first);
    }
    let dirty = forecasts::dirty_rates(scene);
    let input = scene.input(&dirty);
    let chosen = choose(scene, &input)?;
    let moves: usize = chosen.batches.iter().map(|batch| batch.moves.len()).sum();
    if moves == 0 {
        return Err(nothing_moves(scene, &chosen));
    }
    let rounds: Vec<Vec<MoveVm>> = chosen
        .batches
        .iter()
        .zip(0..)
        .map(|(round, number)| {
            let moves = round.moves.iter();
            moves
                .map(|planned| move_vm(scene, &planned.step, number))
                .collect()
        })
        .collect();
    for vm in rounds.iter().flatten() {
        compatible(scene, vm)?;
    }
    let batch_max = scene.adaptive.then(|| scene.batch.unwrap_or(moves).min(moves));
    let (batches, forecast) = match batch_max {
        Some(max) => auto::batches(scene, &input, &rounds, max)?,
        None => {
            let forecast = forecasts::make(scene, &input, &auto::steps(&rounds))?;
            (rounds, forecast)
        }
    };
    let view = view(scene, &chosen, &batches, forecast);
    Ok(Plan {
        batches,
        batch_max,
        view,
    })
}

fn nothing_moves(scene: &Scene, chosen: &Chosen) -> Refused {
    if chosen.in_the_way().next().is_some() {
        let message = format!("no VM can leave: {}", chosen.why_some_stay());
        let hint = chosen.why_not_all.as_ref().map(|why| why.hint());
        let hint = hint.unwrap_or_else(|| "name more hosts after --to".to_owned());
        return Refused::conflict("no-solution", message, hint);
    }
    Refused::bad(
        "nothing-to-move",
        format!(
            "every VM of cluster {} on {} may stay where it is",
            scene.cluster.name,
            list(&scene.from)
        ),
        "name fewer hosts after --to",
    )
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

fn move_vm(scene: &Scene, planned: &Step, round: usize) -> MoveVm {
    let mut leaving = scene.leaving();
    let placed = leaving.find(|placed| placed.spec.name == planned.vm);
    let placed = placed.expect("the planner moves what it was asked to move");
    MoveVm {
        spec: placed.spec.clone(),
        source: planned.source.clone(),
        target: planned.target.clone(),
        powered_off: scene.is_off(placed),
        guest: scene.vm(placed).map_or(GuestState::Running, |vm| vm.guest),
        need: forecasts::need(scene, placed),
        // Batches that stay as they are have none.
        round: if scene.adaptive { round } else { 0 },
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

/// VMs for which not every target will do: those that are bound to a chosen one, those that only
/// some can run, and, where the others may go without it, one that can go nowhere at all, which is
/// bound to where it is.
pub(super) fn bound(scene: &Scene) -> Bound {
    if let Some(chosen) = &scene.chosen {
        let chosen = chosen.iter();
        return chosen
            .map(|(vm, host)| (vm.clone(), vec![host.clone()]))
            .collect();
    }
    // The paper's strategy knows amounts only.
    let leaving = scene.leaving().filter(|_| scene.strategy == Strategy::Exact);
    leaving.filter_map(|placed| bound_vm(scene, placed)).collect()
}

fn bound_vm(scene: &Scene, placed: &PlacedVm) -> Option<(VmName, Vec<HostName>)> {
    let name = placed.spec.name.clone();
    if scene.partial && stuck(scene, placed).is_err() {
        return Some((name, vec![placed.host.clone()]));
    }
    let can = |host: &&HostName| can_run(scene, &placed.spec, &placed.host, host).is_ok();
    let fit: Vec<HostName> = scene.to.iter().filter(can).cloned().collect();
    if fit.is_empty() || fit.len() == scene.to.len() {
        return None;
    }
    let rules = scene.cluster.rules.vms.get(&name);
    let pinned = rules.map_or(&[][..], |rules| &rules.pin);
    let both = fit
        .iter()
        .filter(|host| pinned.is_empty() || pinned.contains(host));
    let both: Vec<HostName> = both.cloned().collect();
    // Where none is left, the rules are what cannot be kept.
    (!both.is_empty()).then_some((name, both))
}

/// Why a VM cannot go, whatever room there is.
pub(super) fn stuck(scene: &Scene, placed: &PlacedVm) -> Result<(), Refused> {
    present(scene, placed)?;
    let mut tried = scene
        .to
        .iter()
        .map(|host| can_run(scene, &placed.spec, &placed.host, host));
    let first = tried.next().unwrap_or(Ok(()));
    match first.is_err() && tried.all(|can| can.is_err()) {
        true => first,
        false => Ok(()),
    }
}

/// What is in the way of VMs without a place: where they could go nowhere anyhow, that.
pub(super) fn why_unplaced(scene: &Scene, unplaced: &Unplaced) -> String {
    let mut own = scene
        .leaving()
        .filter(|placed| unplaced.vms.contains(&placed.spec.name));
    match own.find_map(|placed| stuck(scene, placed).err()) {
        Some(refused) => refused.in_one_line(),
        None => unplaced.why.clone(),
    }
}

fn compatible(scene: &Scene, vm: &MoveVm) -> Result<(), Refused> {
    can_run(scene, &vm.spec, &vm.source, &vm.target)
}

/// Whether a target can run what the source runs. The target's agent checks disks and files at
/// reservation.
fn can_run(scene: &Scene, vm: &VmSpec, source: &HostName, host: &HostName) -> Result<(), Refused> {
    let (source, target) = (&scene.states[source], &scene.states[host]);
    let name = &vm.name;
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
    let machine = vm.machine.as_ref();
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
    if let Some(nic) = vm.nics.iter().find(|nic| nic.mtu > target.mtu_max) {
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

fn view(scene: &Scene, chosen: &Chosen, batches: &[Vec<MoveVm>], forecast: MoveForecast) -> PlanView {
    let moves = batches.iter().zip(1..).flat_map(|(batch, number)| {
        batch.iter().map(move |vm| PlannedMove {
            vm: vm.spec.name.clone(),
            batch: number,
            source: vm.source.clone(),
            target: vm.target.clone(),
        })
    });
    let left: BTreeSet<&VmName> = chosen.unplaced.iter().flat_map(|one| &one.vms).collect();
    let asked = |placed: &Placed| scene.from.contains(&placed.source) && !left.contains(&placed.vm);
    let stay = chosen.placement.iter().filter(|placed| asked(placed));
    let stay = stay.filter(|placed| placed.source == placed.target);
    let unplaced = chosen.unplaced.iter().map(|one| StaysBehind {
        vms: one.vms.clone(),
        must_leave: one.must_leave,
        why: why_unplaced(scene, one),
    });
    let in_time = chosen.safe_by.iter().flat_map(SafeBy::sentences);
    let broken = chosen.broken_meanwhile.iter().map(|broken| broken.sentence());
    let hosts = |total: Total| total.as_f64() as usize;
    PlanView {
        cluster: scene.cluster.name.clone(),
        batch: batches.iter().map(Vec::len).max().unwrap_or_default(),
        hosts_used: hosts(chosen.targets.value),
        hosts_min: hosts(chosen.targets.at_least),
        moves: moves.collect(),
        stay: stay.map(|placed| placed.vm.clone()).collect(),
        unplaced: unplaced.collect(),
        notes: in_time
            .chain(broken)
            .chain(chosen.notes.iter().cloned())
            .collect(),
        explanation: chosen.explanation.clone(),
        picture: scene.draw.then(|| svg(chosen)),
        forecast,
    }
}
