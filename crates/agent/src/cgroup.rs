//! Control groups of QEMUs: how much memory and how many threads one may have, whatever a guest
//! makes of it.
//!
//! Only where whoever started the agent gave it a part of the tree of version 2 for its own, and
//! put it into a group `agent` there (systemd 254: `Delegate=`, `DelegateSubgroup=agent`): a group
//! that passes controllers on may hold no process itself.
//!
//! ```text
//!  transhume-agent.service     passes cpu, memory and pids on
//!    ├ agent                   this process
//!    └ vm-NAME                 a QEMU; below it, its processors while they are slowed down
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;
use transhume_model::{VmName, VmSpec};

use crate::limits::{QEMU_MEMORY_BEYOND_GUEST_MIB, QEMU_THREADS_BEYOND_VCPUS};

/// The root of version 2.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";
/// The group that the agent itself is in.
const AGENT: &str = "agent";
/// A VM's group without its name.
const PREFIX: &str = "vm-";
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// The group of version 2 that a process is in.
pub(crate) fn own_group(pid: u32) -> io::Result<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let path = path.ok_or_else(|| io::Error::other("none of version 2"))?;
    Ok(Path::new(ROOT).join(path))
}

/// The part of the tree that is this agent's own.
#[derive(Debug)]
pub(crate) struct Slice {
    dir: PathBuf,
}

impl Slice {
    /// Ready for groups of VMs, or why there is none.
    pub(crate) fn prepare() -> Result<Self, String> {
        let own = own_group(std::process::id()).map_err(|error| format!("this process's group: {error}"))?;
        Self::above(&own)
    }

    fn above(own: &Path) -> Result<Self, String> {
        let dir = match own.parent() {
            Some(dir) if own.file_name().is_some_and(|name| name == AGENT) => dir.to_owned(),
            _ => {
                return Err(format!(
                    "this agent is in {}, which is no group `{AGENT}` below one of its own (systemd 254: \
                     Delegate=cpu memory pids, DelegateSubgroup={AGENT})",
                    own.display()
                ));
            }
        };
        let list = dir.join("cgroup.controllers");
        let given = fs::read_to_string(&list).map_err(|error| format!("{}: {error}", list.display()))?;
        let missing = CONTROLLERS
            .iter()
            .find(|name| !given.split_whitespace().any(|has| has == **name));
        if let Some(missing) = missing {
            return Err(format!("{} has no {missing}", list.display()));
        }
        let passes_on = dir.join("cgroup.subtree_control");
        let all = CONTROLLERS.map(|name| format!("+{name}")).join(" ");
        fs::write(&passes_on, all).map_err(|error| format!("{}: {error}", passes_on.display()))?;
        Ok(Self { dir })
    }

    fn of(&self, vm: &VmName) -> PathBuf {
        self.dir.join(format!("{PREFIX}{vm}"))
    }

    /// A group for a QEMU that is about to be started: its list of processes, which the new process
    /// enters itself in.
    pub(crate) fn open(&self, vm: &VmSpec) -> io::Result<File> {
        let dir = self.of(&vm.name);
        match fs::create_dir(&dir) {
            Err(there) if there.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        let memory = (vm.memory.0 + QEMU_MEMORY_BEYOND_GUEST_MIB) << 20;
        let threads = vm.vcpus.0 + QEMU_THREADS_BEYOND_VCPUS;
        fs::write(dir.join("memory.max"), memory.to_string())?;
        fs::write(dir.join("pids.max"), threads.to_string())?;
        File::options().write(true).open(dir.join("cgroup.procs"))
    }

    /// Removes the group of a VM whose QEMU has ended. Fine where there is none.
    pub(crate) fn close(&self, vm: &VmName) {
        match fs::remove_dir(self.of(vm)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(%vm, "its control group stays behind: {error}");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use transhume_model::{Mebibytes, Vcpus};

    use super::*;

    /// A part of the tree as the kernel shows it.
    fn tree(controllers: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(AGENT)).unwrap();
        fs::write(dir.path().join("cgroup.controllers"), controllers).unwrap();
        dir
    }

    fn spec() -> VmSpec {
        let spec = serde_json::json!({
            "name": "web-1", "cluster": "shop", "vcpus": 2, "memory": 512,
            "nics": [], "disks": [], "boot": {"kernel": "/k", "initrd": "/i", "cmdline": ""},
        });
        let spec: VmSpec = serde_json::from_value(spec).unwrap();
        assert_eq!((spec.vcpus, spec.memory), (Vcpus(2), Mebibytes(512)));
        spec
    }

    #[test]
    fn a_qemu_gets_a_group_with_its_limits() {
        let dir = tree("cpuset cpu io memory pids\n");
        let slice = Slice::above(&dir.path().join(AGENT)).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("cgroup.subtree_control"), "+cpu +memory +pids");
        // The kernel makes it with the group.
        fs::create_dir(dir.path().join("vm-web-1")).unwrap();
        fs::write(dir.path().join("vm-web-1/cgroup.procs"), "").unwrap();
        let mut processes = slice.open(&spec()).unwrap();
        processes.write_all(b"0").unwrap();
        assert_eq!(read("vm-web-1/cgroup.procs"), "0");
        assert_eq!(
            read("vm-web-1/pids.max"),
            (2 + QEMU_THREADS_BEYOND_VCPUS).to_string()
        );
        let memory = (512 + QEMU_MEMORY_BEYOND_GUEST_MIB) << 20;
        assert_eq!(read("vm-web-1/memory.max"), memory.to_string());
    }

    #[test]
    fn an_agent_without_a_part_of_its_own_says_what_is_missing() {
        let dir = tree("cpu pids\n");
        let why = Slice::above(&dir.path().join(AGENT)).unwrap_err();
        assert!(why.contains("no memory"), "{why}");
        let why = Slice::above(&dir.path().join("transhume-agent.service")).unwrap_err();
        assert!(why.contains("DelegateSubgroup=agent"), "{why}");
    }
}
