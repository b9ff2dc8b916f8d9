//! Why a batch rolls back, in words: for the journal, the report and the user.

use transhume_model::{ClusterName, HostName, Millis, VmName};

use super::decision::Ran;
use super::request::StuckRates;
use super::size::words;
use crate::message::{Fault, FaultKind, Refusal};
use crate::report::Trouble;
use crate::step::Step;

pub(super) fn refused(step: Step, host: &HostName, vm: &VmName, refusal: &Refusal) -> Trouble {
    Trouble {
        step,
        host: Some(host.clone()),
        vm: Some(vm.clone()),
        reason: words(&refusal.reason),
        hint: words(&refusal.hint),
    }
}

pub(super) fn failed(step: Step, host: &HostName, vm: &VmName, fault: &Fault) -> Trouble {
    Trouble {
        step,
        host: Some(host.clone()),
        vm: Some(vm.clone()),
        reason: words(&fault.reason),
        hint: words(&hint(host, fault)),
    }
}

/// What would help: as whoever met the trouble says, else by its kind.
pub(super) fn hint(host: &HostName, fault: &Fault) -> String {
    if let Some(hint) = &fault.hint {
        return hint.clone();
    }
    match fault.kind {
        FaultKind::BufferLimit => "raise `buffer_bytes_max`, or move fewer VMs in a batch".to_owned(),
        FaultKind::Tunnel | FaultKind::PageStream => {
            "check the network between the two hosts, then move again".to_owned()
        }
        FaultKind::Network => format!("check the bridge and the taps of host {host}, then move again"),
        FaultKind::Qemu => format!("QEMU's log on host {host} says more"),
        FaultKind::AgentRestarted => "move again".to_owned(),
        FaultKind::Record => {
            format!("free space in the agent's state directory on host {host}, then move again")
        }
        FaultKind::PoweredOff => "move again: its place moves with the cluster".to_owned(),
        FaultKind::HostLost | FaultKind::SpoolLost | FaultKind::NeverRan => {
            format!("see `transhume host show {host}`")
        }
        FaultKind::Internal => format!("the agent's log on host {host} says more"),
    }
}

/// What a target that knows nothing of a committed VM means for it.
pub(super) fn forgotten(host: &HostName, vm: &VmName, refusal: &Refusal) -> Fault {
    Fault::new(
        FaultKind::Record,
        format!(
            "host {host} knows nothing of VM {vm} any more: {}",
            refusal.reason
        ),
    )
}

/// A VM that went with its source, before there was another copy of it.
pub(super) fn died_with(host: &HostName) -> Fault {
    Fault::new(
        FaultKind::HostLost,
        format!("its host {host} is lost, and there was no other copy of it"),
    )
}

/// A VM that an operator gave back to its source.
pub(super) fn reclaimed(step: Step, vm: &VmName, source: &HostName, target: &HostName, ran: Ran) -> Trouble {
    Trouble {
        step,
        host: Some(target.clone()),
        vm: Some(vm.clone()),
        reason: format!(
            "VM {vm} was lost on its target, host {target}, where it {}; an operator decided that it runs on its \
             source, host {source}, again",
            ran.words()
        ),
        hint: "move it again to another host".to_owned(),
    }
}

/// A VM that an operator gave up with its host.
pub(super) fn given_up(host: &HostName) -> Fault {
    Fault::new(
        FaultKind::HostLost,
        format!("host {host} is lost with it, and an operator gave it up"),
    )
}

/// What can be done about a VM that is lost with a host.
pub(super) fn restart_elsewhere(cluster: &ClusterName, vm: &VmName, host: &HostName) -> String {
    format!(
        "if host {host} is off, `transhume host fence {host} --powered-off` says so, then `transhume vm restart \
         {cluster} {vm} --on HOST` boots it from its disks; if the host comes back, see `transhume cluster show {cluster}`"
    )
}

/// What can be done about a VM that is lost.
pub(super) fn start_again(cluster: &ClusterName, vm: &VmName) -> String {
    format!("`transhume vm start {cluster} {vm}` boots it again from its disk")
}

pub(super) fn agent_lost(step: Step, host: &HostName) -> Trouble {
    Trouble {
        step,
        host: Some(host.clone()),
        vm: None,
        reason: format!("the agent of host {host} was lost in step {step}"),
        hint: "see that the agent runs and can be reached, then move again".to_owned(),
    }
}

/// `late` are the VMs that did not get through, with the host whose answer is missing; at least
/// one.
pub(super) fn timed_out(
    step: Step,
    late: &[(&VmName, &HostName)],
    limit: Millis,
    limit_name: &str,
) -> Trouble {
    let (vm, host) = late[0];
    Trouble {
        step,
        host: Some(host.clone()),
        vm: Some(vm.clone()),
        reason: format!("VM {vm}{}: step {step} was not done within {limit}", others(late)),
        hint: format!("raise `{limit_name}` if the hosts are only slow"),
    }
}

/// `late` are the VMs that did not converge; at least one.
pub(super) fn never_converged(step: Step, late: &[(&VmName, &HostName)], limit: Millis) -> Trouble {
    let (vm, host) = late[0];
    Trouble {
        step,
        host: Some(host.clone()),
        vm: Some(vm.clone()),
        reason: format!(
            "VM {vm}{}: no short enough blackout was in sight within {limit}",
            others(late)
        ),
        hint:
            "the guest dirties memory faster than the network carries it: give page streams more bandwidth, \
               move fewer VMs in a batch, raise `blackout_ms_max`, or move offline"
                .to_owned(),
    }
}

/// A VM that dirties its memory as fast as it can be sent.
pub(super) fn stuck(step: Step, vm: &VmName, host: &HostName, rates: StuckRates) -> Trouble {
    let dirty = rates.dirty_mbit_s;
    let at_most = match rates.most_mbit_s {
        Some(most) => format!("its links carry {most:.0} Mbit/s at most"),
        None => "pass after pass leaves as much as the one before".to_owned(),
    };
    Trouble {
        step,
        host: Some(host.clone()),
        vm: Some(vm.clone()),
        reason: format!("VM {vm} dirties {dirty:.0} Mbit/s of its memory as it goes over the wire, and {at_most}"),
        hint: "slow its guest down with --converge throttle, move it alone with --converge shrink, allow a longer \
               blackout with --max-blackout, or move it with --offline"
            .to_owned(),
    }
}

/// The whole move takes too long.
pub(super) fn out_of_time(step: Step, limit: Millis) -> Trouble {
    Trouble {
        step,
        host: None,
        vm: None,
        reason: format!("the move was not over within {} s", limit.0 / 1_000),
        hint: "what is committed stays where it is; move the rest again with a longer --max-time".to_owned(),
    }
}

fn others(late: &[(&VmName, &HostName)]) -> String {
    match late.len() {
        0 | 1 => String::new(),
        more => format!(" and {} more", more - 1),
    }
}

pub(super) fn cancelled(step: Step) -> Trouble {
    Trouble {
        step,
        host: None,
        vm: None,
        reason: "the move was cancelled".to_owned(),
        hint: "move again when you like: every VM is as it was".to_owned(),
    }
}

pub(super) fn coordinator_restarted(step: Step) -> Trouble {
    Trouble {
        step,
        host: None,
        vm: None,
        reason: "the coordinator was restarted before the batch was committed".to_owned(),
        hint: "move again".to_owned(),
    }
}
