//! Whether a single VM may be started, stopped or forgotten, as things are.

use transhume_api::VmLife;
use transhume_model::{HostName, PlacedVm};

use crate::error::Refused;
use crate::hosts::Hosts;
use crate::views;

/// The host that is to start it, or what is in the way. Its agent has the last word, here and
/// below.
pub(crate) fn start(placed: &PlacedVm, elsewhere: Option<&str>, hosts: &Hosts) -> Result<HostName, Refused> {
    let life = life(placed, hosts)?;
    let PlacedVm { host, spec } = placed;
    let (vm, cluster) = (&spec.name, &spec.cluster);
    hosts.check_not_stranded(vm)?;
    let target = elsewhere.map_or(Ok(host.clone()), |name| hosts.named(name))?;
    match life {
        VmLife::Off if target == *host => Ok(target),
        VmLife::Off => Err(Refused::conflict(
            "vm-elsewhere",
            format!("VM {vm} is on host {host}, powered off"),
            format!("omit --host to start it there; `transhume migrate` moves cluster {cluster}"),
        )),
        VmLife::Missing => {
            hosts.check_connected(&target)?;
            match hosts.with_vm(vm).next() {
                None => Ok(target),
                Some(found) => Err(Refused::conflict(
                    "vm-elsewhere",
                    format!("VM {vm} belongs on host {host}, and host {found} knows it"),
                    format!(
                        "`transhume host show {found}` shows what is there; the log of its agent says how it came there"
                    ),
                )),
            }
        }
        VmLife::Running
        | VmLife::Paused
        | VmLife::DiskError
        | VmLife::Panicked
        | VmLife::Stranded
        | VmLife::Unknown => Err(Refused::conflict(
            "vm-not-off",
            format!("VM {vm} is there already: {}", life.name()),
            hint(life, format!("`transhume vm stop {cluster} {vm}` powers it off")),
        )),
    }
}

/// The host that is to power it off.
pub(crate) fn stop(placed: &PlacedVm, hosts: &Hosts) -> Result<HostName, Refused> {
    let life = life(placed, hosts)?;
    let (vm, cluster) = (&placed.spec.name, &placed.spec.cluster);
    match life {
        VmLife::Running | VmLife::Paused | VmLife::DiskError | VmLife::Panicked => Ok(placed.host.clone()),
        VmLife::Off | VmLife::Missing | VmLife::Stranded | VmLife::Unknown => Err(Refused::conflict(
            "vm-not-running",
            format!("VM {vm} does not run: {}", life.name()),
            hint(
                life,
                format!(
                    "`transhume vm start {cluster} {vm}` boots it, `transhume vm forget {cluster} {vm}` takes it out of the cluster"
                ),
            ),
        )),
    }
}

/// The host that is to forget it.
pub(crate) fn forget(placed: &PlacedVm, hosts: &Hosts) -> Result<HostName, Refused> {
    let life = life(placed, hosts)?;
    hosts.check_not_stranded(&placed.spec.name)?;
    let (vm, cluster) = (&placed.spec.name, &placed.spec.cluster);
    match life {
        VmLife::Off | VmLife::Missing => Ok(placed.host.clone()),
        VmLife::Running
        | VmLife::Paused
        | VmLife::DiskError
        | VmLife::Panicked
        | VmLife::Stranded
        | VmLife::Unknown => Err(Refused::conflict(
            "vm-not-off",
            format!("VM {vm} is not powered off: {}", life.name()),
            hint(
                life,
                format!("`transhume vm stop {cluster} {vm}` powers it off; then it can be forgotten"),
            ),
        )),
    }
}

/// What the VM does, by its host's agent, which has to answer.
fn life(placed: &PlacedVm, hosts: &Hosts) -> Result<VmLife, Refused> {
    hosts.check_connected(&placed.host)?;
    Ok(views::life(placed, hosts))
}

/// What helps where the VM could be worked on, or else what is to be looked at first.
fn hint(life: VmLife, otherwise: String) -> String {
    match life {
        VmLife::Stranded => "`transhume hosts` shows what is left of it, and where".to_owned(),
        VmLife::Unknown => "its host's agent does not answer: `transhume hosts` shows which".to_owned(),
        VmLife::Running
        | VmLife::Paused
        | VmLife::DiskError
        | VmLife::Panicked
        | VmLife::Off
        | VmLife::Missing => otherwise,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_a_command_that_is_refused_too() {
        assert_eq!(hint(VmLife::Off, "start it".to_owned()), "start it");
        assert!(hint(VmLife::Stranded, "start it".to_owned()).contains("transhume hosts"));
        assert!(hint(VmLife::Unknown, "start it".to_owned()).contains("does not answer"));
    }
}
