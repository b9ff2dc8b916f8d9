//! Whether a VM can run on this host, apart from room and disks (G3).

use transhume_model::VmSpec;
use transhume_protocol::message::{QemuState, Refusal, RefusalKind};

use crate::config::Config;
use crate::images::{self, Use};
use crate::text::chain;

/// Refuses what this host's QEMU, network or files cannot carry.
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
        if let Err(error) = images::check(&config.images, file, Use::Read) {
            let reason = format!(
                "VM {} boots from {}, which host {host} does not use: {}",
                spec.name,
                file.display(),
                chain(&error)
            );
            return refuse(RefusalKind::BootFile, reason, error.hint());
        }
    }
    Ok(())
}
