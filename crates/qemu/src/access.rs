//! How a QEMU gets at its taps, files and sockets: by their names, as people start it by hand, or
//! handed over open.

use std::ffi::OsString;
use std::path::PathBuf;

use transhume_model::{Disk, VmSpec};

use crate::files::Handed;
use crate::paths::{CONSOLE_SET, VmPaths, escaped, mark};

/// The set of the first disk; the others' follow in order.
const DISK_SET: usize = CONSOLE_SET + 1;

/// QEMU's drivers of disk images, by what the image is.
pub(crate) const FILE: &str = "file";
const DEVICE: &str = "host_device";

/// How QEMU gets at what it uses, as its arguments have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    pub(crate) paths: VmPaths,
    pub(crate) taps: Vec<String>,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    /// Of disks that are files, with QEMU's driver.
    pub(crate) disks: Vec<Option<(PathBuf, &'static str)>>,
    pub(crate) console: PathBuf,
    pub(crate) qmp: OsString,
    pub(crate) user_qmp: OsString,
    pub(crate) serial: OsString,
    /// Sets of descriptors, which QEMU takes paths for.
    pub(crate) sets: Vec<OsString>,
}

impl Access {
    /// QEMU opens everything itself, and may: as people start it by hand. `taps` are names of
    /// interfaces.
    pub fn by_path(spec: &VmSpec, paths: &VmPaths, taps: &[String]) -> Self {
        let socket = |path: PathBuf| format!("path={}", escaped(&path)).into();
        let disk = |disk: &Disk| match disk {
            Disk::File { path } => Some((path.clone(), FILE)),
            Disk::Nbd { .. } => None,
        };
        Self {
            taps: taps
                .iter()
                .map(|tap| format!("ifname={tap},script=no,downscript=no"))
                .collect(),
            kernel: spec.boot.kernel.clone(),
            initrd: spec.boot.initrd.clone(),
            disks: spec.disks.iter().map(disk).collect(),
            console: paths.console(),
            qmp: socket(paths.qmp()),
            user_qmp: socket(paths.user_qmp()),
            serial: socket(paths.serial()),
            sets: Vec::new(),
            paths: paths.clone(),
        }
    }

    /// QEMU is handed everything open, under these numbers.
    pub(crate) fn by_descriptor(paths: &VmPaths, handed: &Handed) -> Self {
        let itself = |fd| PathBuf::from(format!("/proc/self/fd/{fd}"));
        let socket = |fd| format!("fd={fd}").into();
        let set = |set: usize| PathBuf::from(format!("/dev/fdset/{set}"));
        let mut sets = vec![mark(paths.dir(), handed.console)];
        let mut disks = Vec::new();
        for (index, disk) in handed.disks.iter().enumerate() {
            disks.push(disk.map(|(fd, is_device)| {
                sets.push(format!("fd={fd},set={}", DISK_SET + index).into());
                let driver = if is_device { DEVICE } else { FILE };
                (set(DISK_SET + index), driver)
            }));
        }
        Self {
            taps: handed.taps.iter().map(|fd| format!("fd={fd}")).collect(),
            kernel: itself(handed.kernel),
            initrd: itself(handed.initrd),
            disks,
            console: set(CONSOLE_SET),
            qmp: socket(handed.qmp),
            user_qmp: socket(handed.user_qmp),
            serial: socket(handed.serial),
            sets,
            paths: paths.clone(),
        }
    }
}
