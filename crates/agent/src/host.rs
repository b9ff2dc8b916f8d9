//! What this host is and has promised: the book that a reservation is entered into (§1.2 phase 2, §2.2.1).

use std::collections::BTreeMap;

use transhume_model::{Capacity, Demand, VmName, VmSpec};
use transhume_protocol::message::{QemuState, Refusal, RefusalKind};

use crate::config::Config;

/// Promises of CPU and memory, by VM. Whoever is entered counts, running or not.
#[derive(Debug)]
pub(crate) struct Book {
    capacity: Capacity,
    promised: BTreeMap<VmName, Demand>,
}

impl Book {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            promised: BTreeMap::new(),
        }
    }

    /// What is not promised yet.
    pub(crate) fn free(&self) -> Capacity {
        self.promised
            .values()
            .fold(self.capacity, |free, demand| free.minus(demand))
    }

    /// Enters a VM, or says what is short. A VM that is entered already stays as it is.
    pub(crate) fn promise(&mut self, host: &str, spec: &VmSpec) -> Result<(), Refusal> {
        if self.promised.contains_key(&spec.name) {
            return Ok(());
        }
        let (free, demand) = (self.free(), spec.demand());
        if !free.holds(&demand) {
            return Err(Refusal {
                kind: RefusalKind::NoCapacity,
                reason: format!(
                    "host {host} has {} and {} free, VM {} needs {} and {}",
                    free.vcpus, free.memory, spec.name, demand.vcpus, demand.memory
                ),
                hint: "free resources on that host, or name more target hosts".to_owned(),
            });
        }
        self.promised.insert(spec.name.clone(), demand);
        Ok(())
    }

    /// Enters a VM that is here whatever the book says: it was adopted.
    pub(crate) fn enter(&mut self, spec: &VmSpec) {
        self.promised.insert(spec.name.clone(), spec.demand());
    }

    /// Strikes a VM out.
    pub(crate) fn release(&mut self, vm: &VmName) {
        self.promised.remove(vm);
    }
}

/// Can this host run the VM, apart from capacity and disks?
pub(crate) fn compatible(
    config: &Config,
    qemu: Result<QemuState, String>,
    spec: &VmSpec,
) -> Result<(), Refusal> {
    let host = &config.host;
    let refuse = |kind, reason, hint: &str| {
        Err(Refusal {
            kind,
            reason,
            hint: hint.to_owned(),
        })
    };
    let qemu = match qemu {
        Ok(qemu) => qemu,
        Err(why) => {
            return refuse(
                RefusalKind::Qemu,
                format!("host {host} has no usable QEMU: {why}"),
                "install QEMU 8.2 or newer (9.2 without KVM) there, or name another target",
            );
        }
    };
    if let Some(machine) = spec
        .machine
        .as_ref()
        .filter(|machine| !qemu.machines.contains(machine))
    {
        return refuse(
            RefusalKind::MachineType,
            format!(
                "host {host} runs QEMU {}, which does not know the machine type {machine} of VM {}",
                qemu.version, spec.name
            ),
            "move to a host whose QEMU is at least as new as the source's",
        );
    }
    for (index, nic) in spec.nics.iter().enumerate() {
        if nic.mtu > config.mtu_max {
            return refuse(
                RefusalKind::Mtu,
                format!(
                    "the network of host {host} carries packets of {} bytes, NIC {index} of VM {} sends up to {}",
                    config.mtu_max, spec.name, nic.mtu
                ),
                "raise the MTU of the target's bridge, or name another target",
            );
        }
    }
    for file in [&spec.boot.kernel, &spec.boot.initrd] {
        if !file.is_file() {
            return refuse(
                RefusalKind::BootFile,
                format!(
                    "VM {} boots from {}, which host {host} does not have",
                    spec.name,
                    file.display()
                ),
                "put the file there, or mount the file system that holds it",
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use transhume_model::{Mebibytes, Vcpus};

    #[test]
    fn an_empty_book_offers_everything() {
        let all = Capacity {
            vcpus: Vcpus(4),
            memory: Mebibytes(512),
        };
        assert_eq!(Book::new(all).free(), all);
    }
}
