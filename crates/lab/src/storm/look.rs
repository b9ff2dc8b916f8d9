//! What is on the machine after a round: processes, taps, namespaces, records, spool files, guests
//! that answer.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use transhume_guest::wire::Op;
use transhume_model::{HostName, VmName};

use super::facts::{GuestSight, QemuSight, RecordSight, Sighting, SpoolSight, TapSight};
use crate::layout::Circuits;
use crate::state::{HostState, Lab};
use crate::{Channel, LabError, Namespace, config, namespace, process};

/// A guest that runs answers within this time, however busy the machine is.
const PING_MAX: Duration = Duration::from_secs(15);
/// What a VM's directory holds as soon as an agent remembers the VM.
const RECORD: &str = "state.json";

/// Looks at everything but the coordinator.
pub async fn look(lab: &Lab) -> Result<Sighting, LabError> {
    let qemus = qemus(lab)?;
    let known = |namespace: &Namespace| lab.state.namespaces.iter().any(|name| name == namespace.name());
    let there = namespace::list(&lab.layout.namespace_prefix());
    let gone = |name: &&String| there.iter().all(|namespace| namespace.name() != *name);
    Ok(Sighting {
        guests: guests(lab, &qemus).await,
        taps: taps(lab, &qemus)?,
        records: each_host(lab, records)?,
        spools: spools(lab)?,
        strange_namespaces: there
            .iter()
            .filter(|namespace| !known(namespace))
            .map(|namespace| namespace.name().to_owned())
            .collect(),
        missing_namespaces: lab.state.namespaces.iter().filter(gone).cloned().collect(),
        dead_parts: dead_parts(lab),
        qemus,
        cluster: None,
    })
}

/// Agents and coordinator that do not run.
pub(super) fn dead_parts(lab: &Lab) -> Vec<String> {
    let agents = lab.state.hosts.iter().map(|host| format!("agent {}", host.name));
    let parts = agents.chain(["coordinator".to_owned()]);
    parts
        .filter(|what| !lab.process(what).is_ok_and(process::ProcessRecord::alive))
        .collect()
}

/// Every QEMU that runs a VM of this lab, wherever it came from.
pub(super) fn qemus(lab: &Lab) -> Result<Vec<QemuSight>, LabError> {
    each_host(lab, |host| {
        let inside = process::inside(&[Namespace::named(&host.namespace)]);
        Ok(inside
            .iter()
            .filter_map(|process| qemu(host, process.pid))
            .collect())
    })
}

fn qemu(host: &HostState, pid: i32) -> Option<QemuSight> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<String> = line
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    Some(QemuSight {
        pid,
        vm: vm_of_command(&words)?,
        host: host.name.clone(),
    })
}

/// The VM of a QEMU's command line; other programs and QEMUs that are only asked something have
/// none.
fn vm_of_command(words: &[String]) -> Option<VmName> {
    if !words.first()?.contains("qemu-system") {
        return None;
    }
    let place = words.iter().position(|word| word == "-name")?;
    let name = words.get(place + 1)?.split(',').next()?;
    name.strip_prefix("guest=").unwrap_or(name).parse().ok()
}

fn each_host<T>(
    lab: &Lab,
    look: impl Fn(&HostState) -> Result<Vec<T>, LabError>,
) -> Result<Vec<T>, LabError> {
    let hosts: Result<Vec<Vec<T>>, LabError> = lab.state.hosts.iter().map(look).collect();
    Ok(hosts?.into_iter().flatten().collect())
}

fn taps(lab: &Lab, qemus: &[QemuSight]) -> Result<Vec<TapSight>, LabError> {
    let held: Vec<(&QemuSight, Vec<String>)> =
        qemus.iter().map(|qemu| (qemu, taps_held_by(qemu.pid))).collect();
    each_host(lab, |host| {
        let table = Namespace::named(&host.namespace).run(|| read("/proc/thread-self/net/dev"))?;
        let tap = |name: String| TapSight {
            qemus: held
                .iter()
                .filter(|(qemu, taps)| qemu.host == host.name && taps.contains(&name))
                .map(|(qemu, _)| qemu.pid)
                .collect(),
            host: host.name.clone(),
            name,
        };
        let own = own_devices(lab.state.circuits);
        Ok(devices(&table, &own).into_iter().map(tap).collect())
    })
}

fn read(path: &str) -> Result<String, LabError> {
    fs::read_to_string(path).map_err(|source| LabError::File {
        action: "read",
        path: path.into(),
        source,
    })
}

/// Devices of a host that are no taps.
fn own_devices(circuits: Circuits) -> Vec<String> {
    let links = circuits.all().iter().map(|circuit| circuit.host_device());
    ["lo", config::BRIDGE]
        .map(str::to_owned)
        .into_iter()
        .chain(links)
        .collect()
}

/// Names in /proc/net/dev that are not a host's own.
fn devices(table: &str, own: &[String]) -> Vec<String> {
    let names = table
        .lines()
        .skip(2)
        .filter_map(|line| line.trim().split_once(':'));
    names
        .map(|(name, _)| name.to_owned())
        .filter(|name| !own.contains(name))
        .collect()
}

/// Taps whose descriptors a process has: the kernel names them in fdinfo.
fn taps_held_by(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten();
    entries
        .flatten()
        .filter_map(|entry| tap_of_fdinfo(&fs::read_to_string(entry.path()).ok()?))
        .collect()
}

fn tap_of_fdinfo(text: &str) -> Option<String> {
    let name = text.lines().find_map(|line| line.strip_prefix("iff:"))?.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

fn records(host: &HostState) -> Result<Vec<RecordSight>, LabError> {
    let vms = host.state_dir.join("vms");
    let names = file_names(&vms)?
        .into_iter()
        .filter(|name| vms.join(name).join(RECORD).exists());
    let record = |name: String| {
        Some(RecordSight {
            host: host.name.clone(),
            vm: name.parse().ok()?,
        })
    };
    Ok(names.filter_map(record).collect())
}

fn spools(lab: &Lab) -> Result<Vec<SpoolSight>, LabError> {
    each_host(lab, |host| {
        let files = file_names(&lab.layout.spool_dir().join(host.name.as_str()))?;
        let spool = |file| SpoolSight {
            host: host.name.clone(),
            file,
        };
        Ok(files.into_iter().map(spool).collect())
    })
}

fn file_names(dir: &Path) -> Result<Vec<String>, LabError> {
    let failed = |source| LabError::File {
        action: "list",
        path: dir.to_owned(),
        source,
    };
    match fs::read_dir(dir) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => {
            let name = |entry: io::Result<fs::DirEntry>| {
                Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned())
            };
            let mut names: Vec<String> = entries
                .map_err(failed)?
                .map(name)
                .collect::<Result<_, LabError>>()?;
            names.sort();
            Ok(names)
        }
    }
}

/// Asks at every QEMU, not only where a VM should be: one that runs twice answers twice.
async fn guests(lab: &Lab, qemus: &[QemuSight]) -> Vec<GuestSight> {
    let sockets: BTreeMap<&HostName, &HostState> =
        lab.state.hosts.iter().map(|host| (&host.name, host)).collect();
    let asked = qemus.iter().filter_map(|qemu| {
        let socket = sockets.get(&qemu.host)?.channel_socket(&qemu.vm);
        Some(async move {
            let answer = Channel::at(qemu.vm.clone(), socket)
                .call(Op::Ping, PING_MAX)
                .await;
            answer.is_ok().then(|| GuestSight {
                vm: qemu.vm.clone(),
                host: qemu.host.clone(),
            })
        })
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Sets the number that an agent adds to its clock; replaced whole, so that no reader sees half of
/// it.
pub(super) fn write_clock(path: &Path, offset_ms: i64) -> Result<(), LabError> {
    let part = path.with_extension("part");
    fs::write(&part, offset_ms.to_string())
        .and_then(|()| fs::rename(&part, path))
        .map_err(|source| LabError::File {
            action: "write",
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_qemu_with_a_name_is_a_vm() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let vm = |line: &str| vm_of_command(&words(line)).map(|vm| vm.to_string());
        assert_eq!(
            vm("/usr/bin/qemu-system-x86_64 -name vm2,process=x -S"),
            Some("vm2".into())
        );
        assert_eq!(
            vm("/usr/bin/qemu-system-x86_64 -name guest=vm3"),
            Some("vm3".into())
        );
        assert_eq!(vm("/usr/bin/qemu-system-x86_64 -machine none"), None);
        assert_eq!(vm("less -name vm2"), None);
    }

    #[test]
    fn a_hosts_own_devices_are_no_taps() {
        let table = "Inter-|\n face |\n    lo: 1\n br-ct: 1\n   ct0: 1\n vmct0: 1\n nast0: 1\n th0abc: 7 1\n";
        assert_eq!(devices(table, &own_devices(Circuits::Separate)), ["th0abc"]);
        let table = table.replace("   ct0: 1\n vmct0: 1\n nast0: 1\n", "  all0: 1\n");
        for circuits in [Circuits::Shared, Circuits::Undivided] {
            assert_eq!(devices(&table, &own_devices(circuits)), ["th0abc"]);
        }
    }

    #[test]
    fn fdinfo_names_the_tap() {
        assert_eq!(
            tap_of_fdinfo("pos:\t0\nflags:\t02\niff:\tth0abc\n"),
            Some("th0abc".into())
        );
        assert_eq!(
            tap_of_fdinfo("pos:\t0\niff:\t\n"),
            None,
            "a descriptor of no device yet"
        );
        assert_eq!(tap_of_fdinfo("pos:\t0\n"), None);
    }

    #[test]
    fn a_directory_that_is_not_there_has_no_files() {
        assert_eq!(
            file_names(Path::new("/proc/self/no-such-directory")).unwrap(),
            Vec::<String>::new()
        );
    }
}
