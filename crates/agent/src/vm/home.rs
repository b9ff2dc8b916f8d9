//! Orders about a VM that lives here: boot it, power it off.

use transhume_model::VmSpec;
use transhume_protocol::message::{Fault, FaultKind, Outcome, Refusal, RefusalKind, VmRole};

use transhume_qemu::Launcher;

use super::{Life, Task, Trouble, chain, failed};
use crate::disk;
use crate::host::compatible;
use crate::nics::{Taps, TapsFor};
use crate::record::Record;

impl Task {
    /// Everything that can be known before a VM is put here: QEMU, machine type, MTU, files, disks, room (G3).
    pub(super) async fn admit(&mut self, spec: &VmSpec) -> Result<(), Trouble> {
        let config = &self.shared.config;
        compatible(config, self.shared.qemu(), spec).map_err(Trouble::Refused)?;
        for disk in &spec.disks {
            disk::probe(disk).await.map_err(|error| {
                Trouble::Refused(Refusal {
                    kind: RefusalKind::Disk,
                    reason: format!(
                        "host {} cannot use a disk of VM {}: {}",
                        config.host,
                        spec.name,
                        chain(&error)
                    ),
                    hint: "start the export, or give the host a way to the storage".to_owned(),
                })
            })?;
        }
        self.shared
            .book()
            .promise(config.host.as_str(), spec)
            .map_err(Trouble::Refused)
    }

    /// What starts QEMU here; admission has seen that there is one.
    pub(super) fn launcher(&self) -> Result<Launcher, Trouble> {
        self.shared.launcher.clone().map_err(|reason| {
            Trouble::Failed(Fault {
                kind: FaultKind::Qemu,
                reason,
                hint: None,
            })
        })
    }

    pub(super) async fn start_vm(&mut self, spec: VmSpec) -> Result<Outcome, Trouble> {
        match self.boot(spec).await {
            Ok(()) => Ok(Outcome::Started {
                spec: self.record.spec.clone(),
            }),
            Err(trouble) => {
                self.vanish();
                Err(trouble)
            }
        }
    }

    async fn boot(&mut self, spec: VmSpec) -> Result<(), Trouble> {
        self.admit(&spec).await?;
        let launcher = self.launcher()?;
        let machine = launcher
            .binary()
            .resolve(&spec)
            .map_err(|error| failed(FaultKind::Qemu, error))?;
        self.record.spec = VmSpec {
            machine: Some(machine),
            ..spec
        };
        let taps = Taps::create(&self.shared.config, &self.record.spec, TapsFor::Home)
            .map_err(|error| failed(FaultKind::Network, error))?;
        self.record.taps = taps.names();
        self.remember()?;
        let qemu = launcher
            .boot(&self.record.spec, &self.paths(), &taps.fds())
            .await
            .map_err(|error| failed(FaultKind::Qemu, error))?;
        self.record.process = Some(qemu.vm().process().clone());
        self.life = Life::Home { qemu, taps };
        self.enter(VmRole::Home)
    }

    pub(super) async fn destroy(&mut self) -> Result<Outcome, Trouble> {
        if let Some(vm) = self.life.vm() {
            vm.kill().await.map_err(|error| failed(FaultKind::Qemu, error))?;
        }
        self.vanish();
        Ok(Outcome::Destroyed)
    }

    /// Forgets the VM with all it owns here: taps, buffers, record, promise.
    pub(super) fn vanish(&mut self) {
        self.life = Life::Expected;
        if let Err(error) = Record::remove(&self.dir()) {
            tracing::error!(vm = %self.name(), "the record stays behind: {}", chain(&error));
        }
        self.gone = true;
    }

    /// QEMU is dead. Whatever role it had, nothing of the VM can run here; the task ends.
    pub(super) async fn forget_dead(&mut self) {
        self.vanish();
        self.shared.dismiss(&self.record.spec.name);
    }
}
