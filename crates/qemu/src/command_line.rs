//! From a VM's description to QEMU's arguments.
//!
//! Both hosts of a move must build the same machine, so everything the guest can see is spelled out
//! here: versioned machine type, processor model, PCI addresses, ring sizes, MTU. What differs
//! between hosts (descriptors, paths, accelerator) is nothing the guest can see.

use std::ffi::OsString;
use std::path::PathBuf;

use serde_json::json;
use transhume_model::{Disk, MachineType, NicSpec, VmSpec};

use crate::accel::Accel;
use crate::access::{Access, FILE};
use crate::binary::ACK_PROPERTY;
use crate::error::QemuError;
use crate::limits::SOCKET_PATH_BYTES_MAX;
use crate::paths::{VmPaths, escaped};

/// First PCI slot of the NICs; NIC i sits in slot `NIC_SLOT + i`.
const NIC_SLOT: usize = 0x02;

/// Most NICs of one VM.
pub const NICS_MAX: usize = 8;

/// First PCI slot of the disks.
const DISK_SLOT: usize = 0x10;

/// Most disks of one VM.
const DISKS_MAX: usize = 8;

/// Frames a NIC's receive ring holds: the most that virtio-net has.
const RX_QUEUE_FRAMES: u16 = 1024;

/// Frames its transmit ring holds: the most that virtio-net allows on a tap.
const TX_QUEUE_FRAMES: u16 = 256;

/// Longest wait of a disk for an NBD server that went away, seconds; then the guest sees an I/O
/// error.
const NBD_RECONNECT_S: u32 = 30;

/// QEMU gives up what it does not need after start.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// A guest that powers itself off or panics leaves a stopped QEMU: an agent that was not there
/// finds out what happened.
const ACTION: &str = "shutdown=pause,panic=pause";

/// Processor model: one that every host has, so that a VM can go to any of them.
const CPU: &str = "qemu64";

/// How a VM comes to life; either way stopped until it is told to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartMode {
    /// From its kernel.
    Boot,
    /// From a migration stream.
    Incoming,
}

/// The arguments for one start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    args: Vec<OsString>,
}

impl CommandLine {
    /// Arguments for a VM. `machine` is the resolved, versioned type; `access` has one tap per NIC,
    /// in order.
    pub fn build(
        spec: &VmSpec,
        machine: &MachineType,
        accel: Accel,
        access: &Access,
        mode: StartMode,
    ) -> Result<Self, QemuError> {
        check(spec, &access.paths, access.taps.len())?;
        let mut line = Self { args: Vec::new() };
        line.machine(spec, machine, accel);
        for set in &access.sets {
            line.option("-add-fd", set);
        }
        line.boot(spec, access);
        for (index, (nic, tap)) in spec.nics.iter().zip(&access.taps).enumerate() {
            line.nic(index, nic, tap);
        }
        for (index, (disk, file)) in spec.disks.iter().zip(&access.disks).enumerate() {
            line.disk(index, disk, file.as_ref());
        }
        line.ports(access);
        line.flag("-S");
        if mode == StartMode::Incoming {
            line.option("-incoming", "defer");
        }
        Ok(line)
    }

    /// With an order to wait for the target's switchover-ack; only where
    /// [`QemuBinary`](crate::QemuBinary) knows it.
    pub fn waiting_for_ack(mut self) -> Self {
        self.option("-global", format!("migration.{ACK_PROPERTY}=on"));
        self
    }

    /// The arguments, without the program's name.
    pub fn args(&self) -> &[OsString] {
        &self.args
    }

    fn flag(&mut self, flag: &str) {
        self.args.push(flag.into());
    }

    fn option(&mut self, option: &str, value: impl Into<OsString>) {
        self.args.push(option.into());
        self.args.push(value.into());
    }

    fn machine(&mut self, spec: &VmSpec, machine: &MachineType, accel: Accel) {
        self.option("-name", spec.name.as_str());
        // The description behind the device state is for people with a debugger; making it and
        // sending it is part of the blackout.
        self.option("-machine", format!("{},suppress-vmdesc=on", machine.0));
        self.option("-accel", accel.name());
        self.option("-cpu", CPU);
        self.option("-m", format!("{}M", spec.memory.0));
        self.option("-smp", spec.vcpus.0.to_string());
        self.flag("-nodefaults");
        self.flag("-no-user-config");
        self.option("-display", "none");
        self.option("-sandbox", SANDBOX);
        self.option("-action", ACTION);
    }

    fn boot(&mut self, spec: &VmSpec, access: &Access) {
        self.option("-kernel", &access.kernel);
        self.option("-initrd", &access.initrd);
        self.option("-append", spec.boot.cmdline.as_str());
    }

    fn nic(&mut self, index: usize, nic: &NicSpec, tap: &str) {
        self.option("-netdev", format!("tap,id=net{index},{tap},vhost=off"));
        self.option(
            "-device",
            format!(
                "virtio-net-pci,id=nic{index},netdev=net{index},mac={},host_mtu={},bus=pcie.0,addr={:#x},\
                 rx_queue_size={RX_QUEUE_FRAMES},tx_queue_size={TX_QUEUE_FRAMES},romfile=",
                nic.mac,
                nic.mtu,
                NIC_SLOT + index
            ),
        );
    }

    fn disk(&mut self, index: usize, disk: &Disk, file: Option<&(PathBuf, &'static str)>) {
        // The host's page cache would be stale on the host a VM comes back to, so it is bypassed.
        let file = match (disk, file) {
            (Disk::Nbd { host, port, export }, _) => json!({
                "driver": "nbd",
                "server": {"type": "inet", "host": host, "port": port.to_string()},
                "export": export,
                "reconnect-delay": NBD_RECONNECT_S,
            }),
            (Disk::File { path }, file) => {
                let (path, driver) = file.map_or((path, FILE), |(path, driver)| (path, driver));
                json!({"driver": driver, "filename": path, "cache": {"direct": true}})
            }
        };
        let node = json!({
            "driver": "raw",
            "node-name": format!("disk{index}"),
            "cache": {"direct": true},
            "file": file,
        });
        self.option("-blockdev", node.to_string());
        self.option(
            "-device",
            format!(
                "virtio-blk-pci,id=blk{index},drive=disk{index},bus=pcie.0,addr={:#x}",
                DISK_SLOT + index
            ),
        );
    }

    fn ports(&mut self, access: &Access) {
        self.option(
            "-chardev",
            format!("file,id=console,path={},append=on", escaped(&access.console)),
        );
        self.option("-serial", "chardev:console");
        self.socket("serial", &access.serial);
        self.option("-serial", "chardev:serial");
        self.socket("qmp", &access.qmp);
        self.option("-mon", "chardev=qmp,mode=control");
        self.socket("user", &access.user_qmp);
        self.option("-mon", "chardev=user,mode=control");
    }

    /// A socket that QEMU is reached on.
    fn socket(&mut self, id: &str, place: &OsString) {
        let mut value = OsString::from(format!("socket,id={id},"));
        value.push(place);
        value.push(",server=on,wait=off");
        self.option("-chardev", value);
    }
}

pub(crate) fn check(spec: &VmSpec, paths: &VmPaths, taps: usize) -> Result<(), QemuError> {
    let bad = |what: String| {
        Err(QemuError::Spec {
            vm: spec.name.clone(),
            what,
        })
    };
    if spec.nics.is_empty() || spec.nics.len() > NICS_MAX {
        return bad(format!(
            "it has {} NICs; give it 1 to {NICS_MAX}",
            spec.nics.len()
        ));
    }
    if spec.nics.len() != taps {
        return bad(format!("{taps} taps for {} NICs", spec.nics.len()));
    }
    if spec.disks.len() > DISKS_MAX {
        return bad(format!(
            "it has {} disks; give it at most {DISKS_MAX}",
            spec.disks.len()
        ));
    }
    if spec.vcpus.0 == 0 || spec.memory.0 == 0 {
        return bad("it has no processor or no memory; give it at least one vCPU and 64 MiB".into());
    }
    for path in [paths.qmp(), paths.user_qmp(), paths.serial()] {
        if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return bad(format!(
                "{} is longer than the {SOCKET_PATH_BYTES_MAX} bytes of a Unix socket; use a shorter state directory",
                path.display()
            ));
        }
    }
    let files = spec.disks.iter().filter_map(|disk| match disk {
        Disk::File { path } => Some(path),
        Disk::Nbd { .. } => None,
    });
    for path in files.chain([&spec.boot.kernel, &spec.boot.initrd]) {
        if !path.is_absolute() || path.to_str().is_none() {
            return bad(format!("{} is not an absolute UTF-8 path", path.display()));
        }
    }
    if paths.dir().to_str().is_none() {
        return bad(format!("{} is not a UTF-8 path", paths.dir().display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use transhume_model::{Boot, Mebibytes, Vcpus};

    use super::*;
    use crate::files::Handed;

    fn spec() -> VmSpec {
        VmSpec {
            name: "web-1".parse().unwrap(),
            cluster: "shop".parse().unwrap(),
            vcpus: Vcpus(2),
            memory: Mebibytes(128),
            machine: None,
            nics: vec![NicSpec {
                mac: "52:54:00:00:00:01".parse().unwrap(),
                mtu: 1450,
            }],
            disks: vec![
                Disk::Nbd {
                    host: "10.0.0.9".into(),
                    port: 10809,
                    export: "web,1".into(),
                },
                Disk::File {
                    path: "/srv/a,b.raw".into(),
                },
            ],
            boot: Boot {
                kernel: "/g/vmlinuz".into(),
                initrd: "/g/initrd.img".into(),
                cmdline: "console=ttyS0 a=1,2".into(),
            },
        }
    }

    /// QEMU 11.1 pauses a guest by itself otherwise, as soon as little is left to copy.
    #[test]
    fn a_qemu_that_must_be_told_to_wait_for_the_ack_is_told() {
        let machine = MachineType("pc-q35-11.1".into());
        let paths = VmPaths::new("/run/vm");
        let access = Access::by_path(&spec(), &paths, &["t0".to_owned()]);
        let line = CommandLine::build(&spec(), &machine, Accel::Tcg, &access, StartMode::Boot);
        let line = line.unwrap().waiting_for_ack();
        let [.., option, value] = line.args() else {
            panic!("no arguments");
        };
        assert_eq!(
            (option.to_str(), value.to_str()),
            (Some("-global"), Some("migration.switchover-ack-legacy=on"))
        );
    }

    fn words(spec: &VmSpec, access: &Access, mode: StartMode) -> Result<Vec<String>, QemuError> {
        let machine = MachineType("pc-q35-10.0".into());
        let line = CommandLine::build(spec, &machine, Accel::Tcg, access, mode)?;
        let words = line.args().iter().map(|arg| arg.to_str().unwrap().to_owned());
        Ok(words.collect())
    }

    fn build(spec: &VmSpec, dir: &str, taps: &[i32], mode: StartMode) -> Result<Vec<String>, QemuError> {
        let handed = Handed {
            taps: taps.to_vec(),
            kernel: 20,
            initrd: 21,
            disks: vec![None, Some((22, false))],
            console: 23,
            qmp: 24,
            user_qmp: 25,
            serial: 26,
        };
        let access = Access::by_descriptor(&VmPaths::new(dir), &handed);
        words(spec, &access, mode)
    }

    const BOOT: &[&str] = &[
        "-name",
        "web-1",
        "-machine",
        "pc-q35-10.0,suppress-vmdesc=on",
        "-accel",
        "tcg",
        "-cpu",
        "qemu64",
        "-m",
        "128M",
        "-smp",
        "2",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-action",
        "shutdown=pause,panic=pause",
        "-add-fd",
        "fd=23,set=1,opaque=/run/v,,1/console.log",
        "-add-fd",
        "fd=22,set=3",
        "-kernel",
        "/proc/self/fd/20",
        "-initrd",
        "/proc/self/fd/21",
        "-append",
        "console=ttyS0 a=1,2",
        "-netdev",
        "tap,id=net0,fd=7,vhost=off",
        "-device",
        "virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:00:00:01,host_mtu=1450,bus=pcie.0,addr=0x2,rx_queue_size=1024,tx_queue_size=256,romfile=",
        "-blockdev",
        r#"{"cache":{"direct":true},"driver":"raw","file":{"driver":"nbd","export":"web,1","reconnect-delay":30,"server":{"host":"10.0.0.9","port":"10809","type":"inet"}},"node-name":"disk0"}"#,
        "-device",
        "virtio-blk-pci,id=blk0,drive=disk0,bus=pcie.0,addr=0x10",
        "-blockdev",
        r#"{"cache":{"direct":true},"driver":"raw","file":{"cache":{"direct":true},"driver":"file","filename":"/dev/fdset/3"},"node-name":"disk1"}"#,
        "-device",
        "virtio-blk-pci,id=blk1,drive=disk1,bus=pcie.0,addr=0x11",
        "-chardev",
        "file,id=console,path=/dev/fdset/1,append=on",
        "-serial",
        "chardev:console",
        "-chardev",
        "socket,id=serial,fd=26,server=on,wait=off",
        "-serial",
        "chardev:serial",
        "-chardev",
        "socket,id=qmp,fd=24,server=on,wait=off",
        "-mon",
        "chardev=qmp,mode=control",
        "-chardev",
        "socket,id=user,fd=25,server=on,wait=off",
        "-mon",
        "chardev=user,mode=control",
        "-S",
    ];

    #[test]
    fn golden_boot() {
        assert_eq!(build(&spec(), "/run/v,1", &[7], StartMode::Boot).unwrap(), BOOT);
    }

    /// By hand, with everything by its name.
    #[test]
    fn by_path_differs_only_in_where_things_are() {
        let access = Access::by_path(&spec(), &VmPaths::new("/run/v,1"), &["t0".to_owned()]);
        let by_path = words(&spec(), &access, StartMode::Boot).unwrap();
        assert!(
            !by_path
                .iter()
                .any(|word| word.contains("fd=") || word.contains("/fd"))
        );
        for expected in [
            "/g/vmlinuz",
            "/g/initrd.img",
            "tap,id=net0,ifname=t0,script=no,downscript=no,vhost=off",
            "file,id=console,path=/run/v,,1/console.log,append=on",
            "socket,id=qmp,path=/run/v,,1/qmp.sock,server=on,wait=off",
        ] {
            assert!(
                by_path.iter().any(|word| word == expected),
                "{expected}: {by_path:?}"
            );
        }
        assert!(
            by_path
                .iter()
                .any(|word| word.contains(r#""filename":"/srv/a,b.raw""#))
        );
        let sets = BOOT.iter().filter(|word| **word == "-add-fd").count();
        assert_eq!(by_path.len(), BOOT.len() - 2 * sets);
    }

    #[test]
    fn a_disk_that_is_a_device_has_another_driver() {
        let handed = Handed {
            taps: vec![7],
            kernel: 20,
            initrd: 21,
            disks: vec![None, Some((22, true))],
            console: 23,
            qmp: 24,
            user_qmp: 25,
            serial: 26,
        };
        let access = Access::by_descriptor(&VmPaths::new("/run/v"), &handed);
        let words = words(&spec(), &access, StartMode::Boot).unwrap();
        assert!(
            words
                .iter()
                .any(|word| word.contains(r#""driver":"host_device","filename":"/dev/fdset/3""#))
        );
    }

    #[test]
    fn incoming_differs_only_in_waiting_for_a_stream() {
        let incoming = build(&spec(), "/run/v,1", &[7], StartMode::Incoming).unwrap();
        assert_eq!(incoming, [BOOT, &["-incoming", "defer"]].concat());
    }

    #[test]
    fn descriptions_that_cannot_work_are_refused_with_the_vm_named() {
        let no_nic = VmSpec {
            nics: vec![],
            ..spec()
        };
        let no_memory = VmSpec {
            memory: Mebibytes(0),
            ..spec()
        };
        let mut relative = spec();
        relative.boot.kernel = "vmlinuz".into();
        let long = format!("/{}", "x".repeat(100));
        for (spec, dir, taps) in [
            (&no_nic, "/run", &[][..]),
            (&no_memory, "/run", &[7]),
            (&relative, "/run", &[7]),
            (&spec(), "/run", &[7, 8]),
            (&spec(), long.as_str(), &[7]),
        ] {
            let error = build(spec, dir, taps, StartMode::Boot).unwrap_err();
            assert!(
                error.to_string().starts_with("VM web-1 cannot be started"),
                "{error}"
            );
        }
    }
}
