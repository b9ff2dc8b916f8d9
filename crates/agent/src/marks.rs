//! What carries this agent's mark, with or without a record: its QEMUs, by the path of their
//! monitor on their command line, and its taps, by their `ifalias`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use transhume_model::{HostName, ProcessId, VmName};

use crate::limits::{COMMAND_LINE_BYTES_MAX, PROCESSES_MAX};

/// What was found, by VM.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    pub(crate) processes: BTreeMap<VmName, Vec<ProcessId>>,
    pub(crate) taps: BTreeMap<VmName, Vec<String>>,
}

impl Marks {
    /// Looks at all processes and all links of this network namespace.
    pub(crate) fn look(
        vms_dir: &Path,
        owner: &str,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut marks = Marks::default();
        for (vm, process) in processes(vms_dir)? {
            marks.processes.entry(vm).or_default().push(process);
        }
        for tap in transhume_netbuf::marked_taps(owner)? {
            marks.taps.entry(tap.vm).or_default().push(tap.name);
        }
        Ok(marks)
    }

    /// Names of the VMs of which something was found.
    pub(crate) fn vms(&self) -> impl Iterator<Item = &VmName> {
        self.processes.keys().chain(self.taps.keys())
    }

    /// What of a VM was found, in words; `None` where there is nothing.
    pub(crate) fn describe(&self, vm: &VmName) -> Option<String> {
        let processes = self.processes.get(vm).into_iter().flatten();
        let processes = processes.map(|process| format!("its QEMU, process {},", process.pid));
        let taps = self.taps.get(vm).into_iter().flatten();
        let taps = taps.map(|name| format!("its tap {name}"));
        let parts: Vec<String> = processes.chain(taps).collect();
        (!parts.is_empty()).then(|| parts.join(" and "))
    }
}

/// The QEMUs of one VM that this agent or an earlier one started.
pub(crate) fn processes_of(vms_dir: &Path, vm: &VmName) -> io::Result<Vec<ProcessId>> {
    let found = processes(vms_dir)?;
    Ok(found
        .into_iter()
        .filter_map(|(of, process)| (of == *vm).then_some(process))
        .collect())
}

fn processes(vms_dir: &Path) -> io::Result<Vec<(VmName, ProcessId)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.take(PROCESSES_MAX) {
        let pid = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        // One that ends meanwhile is none.
        if let Some(pid) = pid
            && let Ok(arguments) = command_line(pid)
            && let Some(vm) = transhume_qemu::marked_vm(vms_dir, arguments.split(|byte| *byte == 0))
            && sees(Path::new(&format!("/proc/{pid}/root")), vms_dir)?
            && let Ok(process) = transhume_qemu::identify(pid)
        {
            found.push((vm, process));
        }
    }
    Ok(found)
}

/// Whether the directory is the same one below this root: a QEMU in a container, started by an
/// agent of its own, may name the same path and mean another place.
fn sees(root: &Path, dir: &Path) -> io::Result<bool> {
    let below = root.join(dir.strip_prefix("/").unwrap_or(dir));
    match (fs::metadata(below), fs::metadata(dir)) {
        (Ok(theirs), Ok(ours)) => Ok((theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino())),
        // The process has ended meanwhile, or has no such place.
        (Err(error), _) | (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

fn command_line(pid: u32) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(format!("/proc/{pid}/cmdline"))?
        .take(COMMAND_LINE_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A tap's alias has room for so much of a host's name.
const OWNER_HOST_LEN_MAX: usize = 40;

/// Whose taps are this agent's: short, and different for each state directory of a host.
pub(crate) fn owner(host: &HostName, state_dir: &Path) -> String {
    let path = state_dir.as_os_str().as_encoded_bytes();
    // FNV-1a.
    let hash = path.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    // Host names are ASCII.
    let host = &host.as_str()[..host.as_str().len().min(OWNER_HOST_LEN_MAX)];
    format!("{host}-{hash:016x}")
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// Ends with its test.
    struct Ends(Child);

    impl Drop for Ends {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A process with this argument on its command line.
    fn with_argument(argument: &str) -> Ends {
        let child = Command::new("sh")
            .args(["-c", "read -r _", "sh", argument])
            .stdin(Stdio::piped())
            .spawn();
        Ends(child.unwrap())
    }

    #[test]
    fn a_process_is_found_by_its_mark_until_it_ends_and_others_are_not() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("vms");
        fs::create_dir(&dir).unwrap();
        let (dir, path) = (dir.display().to_string(), &dir);
        let ours = with_argument(&format!(
            "socket,id=qmp,path={dir}/vm1/qmp.sock,server=on,wait=off"
        ));
        let _theirs = with_argument("socket,id=qmp,path=/elsewhere/vms/vm1/qmp.sock,server=on,wait=off");
        let _other = with_argument(&format!(
            "socket,id=qmp,path={dir}/vm2/qmp.sock,server=on,wait=off"
        ));
        let vm1 = "vm1".parse().unwrap();
        let found = processes_of(path, &vm1).unwrap();
        assert_eq!(
            found.iter().map(|process| process.pid).collect::<Vec<_>>(),
            [ours.0.id()]
        );
        drop(ours);
        assert!(processes_of(path, &vm1).unwrap().is_empty());
    }

    #[test]
    fn the_same_path_below_another_root_is_another_place() {
        let (ours, container) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let dir = ours.path();
        let below = container.path().join(dir.strip_prefix("/").unwrap());
        assert!(sees(Path::new("/"), dir).unwrap());
        assert!(!sees(container.path(), dir).unwrap(), "it has no such place");
        fs::create_dir_all(below).unwrap();
        assert!(
            !sees(container.path(), dir).unwrap(),
            "its own place of that name"
        );
    }

    #[test]
    fn an_owner_fits_its_mark_and_tells_directories_apart() {
        let host: HostName = "h".repeat(253).parse().unwrap();
        let (one, two) = (owner(&host, "/run/a".as_ref()), owner(&host, "/run/b".as_ref()));
        assert_ne!(one, two);
        assert!(one.len() <= 64 && !one.contains(':'), "{one}");
    }
}
