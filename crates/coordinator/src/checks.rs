//! Everything that is found before anything moves (G3, §2.2.1): names, sets, k, compatibility, capacity.

use std::collections::BTreeSet;

use transhume_model::{ClusterName, ClusterSpec, HostName, PlacedVm, VmName};
use transhume_planner::{
    BatchError, NoSolution, Offer, Offers, Placement, Request, Strategy, batches, place,
};
use transhume_protocol::message::HostState;
use transhume_protocol::migration::MoveVm;

use crate::api::{MoveOrder, PlanView, PlannedMove};
use crate::core::Core;
use crate::error::Refused;

/// A move that can be begun.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) cluster: ClusterName,
    pub(crate) from: Vec<HostName>,
    pub(crate) to: Vec<HostName>,
    pub(crate) batches: Vec<Vec<MoveVm>>,
    pub(crate) view: PlanView,
}

/// Checks an order from end to end; the first thing that is wrong is told.
pub(crate) fn plan(core: &Core, cluster: &str, order: &MoveOrder) -> Result<Plan, Refused> {
    let cluster = core.cluster(cluster)?;
    let from = hosts(core, "from", &order.from)?;
    let to = hosts(core, "to", &order.to)?;
    let (s1, s2): (BTreeSet<_>, BTreeSet<_>) = (from.iter().collect(), to.iter().collect());
    if s1 == s2 {
        return Err(Refused::bad(
            "same-hosts",
            format!("the cluster is to leave {} for the very same hosts", list(&from)),
            "name other hosts after --to",
        ));
    }
    let leaving: Vec<&PlacedVm> = cluster.vms.iter().filter(|vm| s1.contains(&vm.host)).collect();
    if leaving.is_empty() {
        return Err(Refused::bad(
            "nothing-to-move",
            format!("cluster {} has no VM on {}", cluster.name, list(&from)),
            format!("its VMs are on {}", list(&live_on(cluster))),
        ));
    }
    if let Some(id) = core.move_of(&cluster.name) {
        return Err(Refused::conflict(
            "move-under-way",
            format!("cluster {} is being moved by migration {id}", cluster.name),
            format!("wait for it with `transhume follow {id}`, or cancel it with `transhume cancel {id}`"),
        ));
    }
    for host in from.iter().chain(&to) {
        if !core.connected(host) {
            return Err(Refused::unreachable(host.as_str()));
        }
    }
    let placement = choose(core, &to, &leaving)?;
    let moves = placement.moves.iter().filter(|planned| !planned.stays()).count();
    if moves == 0 {
        return Err(Refused::bad(
            "nothing-to-move",
            format!(
                "every VM of cluster {} on {} may stay where it is",
                cluster.name,
                list(&from)
            ),
            "name fewer hosts after --to",
        ));
    }
    let k = order.batch.unwrap_or(moves);
    let rounds = batches(&placement, k).map_err(batch_refused)?;
    let find = |name: &VmName| {
        leaving
            .iter()
            .find(|vm| vm.spec.name == *name)
            .expect("the planner places what it was asked to place")
            .spec
            .clone()
    };
    let rounds: Vec<Vec<MoveVm>> = rounds
        .iter()
        .map(|round| {
            let one = |planned: &transhume_planner::Move| MoveVm {
                spec: find(&planned.vm),
                source: planned.source.clone(),
                target: planned.target.clone(),
            };
            round.moves.iter().map(one).collect()
        })
        .collect();
    for vm in rounds.iter().flatten() {
        compatible(core, vm)?;
    }
    let view = view(&cluster.name, k, &placement, &rounds);
    Ok(Plan {
        cluster: cluster.name.clone(),
        from,
        to,
        batches: rounds,
        view,
    })
}

fn list(hosts: &[HostName]) -> String {
    hosts.iter().map(HostName::as_str).collect::<Vec<_>>().join(", ")
}

fn live_on(cluster: &ClusterSpec) -> Vec<HostName> {
    cluster
        .vms
        .iter()
        .map(|vm| vm.host.clone())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
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
    let mut seen = BTreeSet::new();
    names
        .iter()
        .map(|name| {
            let host = core.host_named(name)?;
            if seen.insert(host.clone()) {
                Ok(host)
            } else {
                Err(Refused::bad(
                    "host-twice",
                    format!("host {name} is named twice in `{set}`"),
                    "name each host once",
                ))
            }
        })
        .collect()
}

/// §3.2: messages A and B, sorted lists, recursive selection. The answers are the newest host states.
fn choose(core: &Core, to: &[HostName], leaving: &[&PlacedVm]) -> Result<Placement, Refused> {
    let mut offers = Vec::new();
    for host in to {
        offers.push(Offer {
            host: host.clone(),
            free: core.state(host)?.free,
        });
    }
    let offers = Offers::new(offers)
        .map_err(|error| Refused::bad("host-twice", error.to_string(), "name each host once"))?;
    let requests: Vec<Request> = leaving
        .iter()
        .map(|vm| Request {
            vm: vm.spec.name.clone(),
            source: vm.host.clone(),
            demand: vm.spec.demand(),
        })
        .collect();
    place(&offers, &requests, Strategy::Paper).map_err(|error: NoSolution| {
        Refused::bad(
            "no-solution",
            format!("no placement on {}: {error}", list(to)),
            "name more target hosts after --to, or free resources on them",
        )
    })
}

fn batch_refused(error: BatchError) -> Refused {
    let hint = match &error {
        BatchError::Zero { vms } | BatchError::TooLarge { vms, .. } => {
            format!("leave --batch away to move all {vms} at once")
        }
        BatchError::Ring { .. } => "name a spare host after --to".to_owned(),
    };
    Refused::bad("bad-batch", error.to_string(), hint)
}

/// Whether the target can run what the source runs. The target's agent checks disks and files at reservation.
fn compatible(core: &Core, vm: &MoveVm) -> Result<(), Refused> {
    let (source, target): (&HostState, &HostState) = (core.state(&vm.source)?, core.state(&vm.target)?);
    let (name, host) = (&vm.spec.name, &vm.target);
    let Some(qemu) = &target.qemu else {
        let why = target.qemu_error.as_deref().unwrap_or("it does not say why");
        return Err(Refused::bad(
            "no-qemu",
            format!("host {host} has no usable QEMU: {why}"),
            "install QEMU 8.2 or newer there, or name another target",
        ));
    };
    if let Some(theirs) = source
        .qemu
        .as_ref()
        .filter(|theirs| theirs.version > qemu.version)
    {
        return Err(Refused::bad(
            "older-qemu",
            format!(
                "VM {name} runs on QEMU {} and host {host} has {}",
                theirs.version, qemu.version
            ),
            "a move to an older QEMU is not safe: upgrade the target, or name another one",
        ));
    }
    if let Some(machine) = vm
        .spec
        .machine
        .as_ref()
        .filter(|machine| !qemu.machines.contains(machine))
    {
        return Err(Refused::bad(
            "machine-type",
            format!(
                "host {host} (QEMU {}) does not know the machine type {machine} of VM {name}",
                qemu.version
            ),
            "move to a host whose QEMU is at least as new as the source's",
        ));
    }
    if let Some(nic) = vm.spec.nics.iter().find(|nic| nic.mtu > target.mtu_max) {
        return Err(Refused::bad(
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
    let moves = rounds.iter().enumerate().flat_map(|(index, round)| {
        round.iter().map(move |vm| PlannedMove {
            vm: vm.spec.name.clone(),
            batch: index + 1,
            source: vm.source.clone(),
            target: vm.target.clone(),
        })
    });
    PlanView {
        cluster: cluster.clone(),
        batch: k,
        hosts_used: placement.hosts_used,
        hosts_min: placement.hosts_min,
        moves: moves.collect(),
        stay: placement
            .moves
            .iter()
            .filter(|planned| planned.stays())
            .map(|planned| planned.vm.clone())
            .collect(),
    }
}
