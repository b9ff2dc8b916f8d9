//! Where the files and sockets of a VM are, and how its QEMU is found by them.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use transhume_model::VmName;

/// The agent's monitor in a VM's directory.
const MONITOR: &str = "qmp.sock";

/// What the guest wrote, in a VM's directory.
const CONSOLE: &str = "console.log";

/// The set of descriptors that has the console; a disk's follow.
pub(crate) const CONSOLE_SET: usize = 1;

/// Files and sockets of one VM on one host, all in one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmPaths {
    dir: PathBuf,
}

impl VmPaths {
    /// The files of the VM whose directory this is; the directory must exist when the VM starts.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// QEMU's monitor, the agent's own: QEMU serves one client at a time.
    pub fn qmp(&self) -> PathBuf {
        self.dir.join(MONITOR)
    }

    /// A second monitor for the VM's user, to look at the guest, pause it and let it go on.
    pub fn user_qmp(&self) -> PathBuf {
        self.dir.join("user.qmp")
    }

    /// What the guest wrote to ttyS0 last, appended over restarts.
    pub fn console(&self) -> PathBuf {
        self.dir.join(CONSOLE)
    }

    /// The guest's ttyS1 as a Unix socket that QEMU listens on.
    pub fn serial(&self) -> PathBuf {
        self.dir.join("serial.sock")
    }

    /// QEMU's own error output of this start.
    pub fn stderr(&self) -> PathBuf {
        self.dir.join("qemu.stderr")
    }
}

/// The argument that every QEMU of an agent carries, and by which it is found without a record: the
/// console's descriptor, with a remark that QEMU has no use for.
pub(crate) fn mark(dir: &Path, console: RawFd) -> OsString {
    let console_log = escaped(&dir.join(CONSOLE));
    format!("fd={console},set={CONSOLE_SET},opaque={console_log}").into()
}

/// The VM of the QEMU that was started with these arguments by the agent whose VMs' directories are
/// in `vms_dir`; `None` for any other process, also for a QEMU of that name which another agent, or
/// somebody else, has started.
pub fn marked_vm<'a>(vms_dir: &Path, args: impl IntoIterator<Item = &'a [u8]>) -> Option<VmName> {
    let dir = escaped(vms_dir);
    let (before, after) = (format!(",set={CONSOLE_SET},opaque={dir}/"), format!("/{CONSOLE}"));
    // Agents up to 0.2.0 handed over no console, and QEMU made its monitor itself.
    let (before_0_2, after_0_2) = (
        format!("socket,id=qmp,path={dir}/"),
        format!("/{MONITOR},server=on,wait=off"),
    );
    let mut names = args.into_iter().filter_map(|arg| {
        let arg = std::str::from_utf8(arg).ok()?;
        let numbered = arg.strip_prefix("fd=");
        let numbered = numbered.map(|arg| arg.trim_start_matches(|digit: char| digit.is_ascii_digit()));
        let ours = numbered
            .and_then(|arg| arg.strip_prefix(&before)?.strip_suffix(&after))
            .or_else(|| arg.strip_prefix(&before_0_2)?.strip_suffix(&after_0_2));
        ours?.parse().ok()
    });
    names.next()
}

/// QEMU ends a value at a comma unless it is doubled.
pub(crate) fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qemu_is_known_by_its_console_and_a_foreign_one_of_its_name_is_not() {
        let own = mark("/run/a,b/vms/web-1".as_ref(), 23);
        let args = ["-name", "web-1", "-add-fd", own.to_str().unwrap()];
        let of = |dir: &str| marked_vm(dir.as_ref(), args.iter().map(|arg| arg.as_bytes()));
        assert_eq!(of("/run/a,b/vms"), Some("web-1".parse().unwrap()));
        assert_eq!(of("/run/a,b"), None);
        assert_eq!(of("/run/a"), None);
        assert_eq!(of("/run/other/vms"), None);
        let before_0_2 = b"socket,id=qmp,path=/run/a,,b/vms/web-1/qmp.sock,server=on,wait=off";
        assert_eq!(
            marked_vm("/run/a,b/vms".as_ref(), [&before_0_2[..]]),
            Some("web-1".parse().unwrap())
        );
        let foreign = [
            "-name",
            "web-1",
            "-qmp",
            "unix:/run/a,b/vms/web-1/qmp.sock,server",
        ];
        assert_eq!(
            marked_vm("/run/a,b/vms".as_ref(), foreign.iter().map(|arg| arg.as_bytes())),
            None
        );
    }
}
