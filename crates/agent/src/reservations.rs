//! What this host has promised (§1.2 phase 2, §2.2.1): whoever is entered counts, running or not.

use std::collections::BTreeMap;

use transhume_model::{Capacity, Demand, HostName, VmName, VmSpec};
use transhume_protocol::message::{Refusal, RefusalKind};

/// Promises of CPU and memory, by VM.
#[derive(Debug)]
pub(crate) struct Reservations {
    capacity: Capacity,
    promised: BTreeMap<VmName, Demand>,
}

impl Reservations {
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
    pub(crate) fn promise(&mut self, host: &HostName, spec: &VmSpec) -> Result<(), Refusal> {
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

    /// Enters a VM that is here whatever was promised: an earlier agent left it.
    pub(crate) fn enter(&mut self, spec: &VmSpec) {
        self.promised.insert(spec.name.clone(), spec.demand());
    }

    /// Strikes a VM out.
    pub(crate) fn release(&mut self, vm: &VmName) {
        self.promised.remove(vm);
    }
}

#[cfg(test)]
mod tests {
    use transhume_model::{Boot, Mebibytes, Vcpus};

    use super::*;

    fn spec(name: &str, memory: u64) -> VmSpec {
        VmSpec {
            name: name.parse().unwrap(),
            cluster: "herd".parse().unwrap(),
            vcpus: Vcpus(1),
            memory: Mebibytes(memory),
            machine: None,
            nics: Vec::new(),
            disks: Vec::new(),
            boot: Boot {
                kernel: "/k".into(),
                initrd: "/i".into(),
                cmdline: String::new(),
            },
        }
    }

    #[test]
    fn a_promise_counts_once_and_until_it_is_released() {
        let all = Capacity {
            vcpus: Vcpus(4),
            memory: Mebibytes(512),
        };
        let host = "h1".parse().unwrap();
        let mut reservations = Reservations::new(all);
        assert_eq!(reservations.free(), all);
        reservations.promise(&host, &spec("vm1", 400)).unwrap();
        reservations.promise(&host, &spec("vm1", 400)).unwrap();
        let refusal = reservations.promise(&host, &spec("vm2", 200)).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::NoCapacity);
        // What an earlier agent left is here whether there is room or not.
        reservations.enter(&spec("vm3", 400));
        reservations.release(&"vm3".parse().unwrap());
        reservations.release(&"vm1".parse().unwrap());
        assert_eq!(reservations.free(), all);
    }
}
