//! Settings that keep the lab from disturbing its own figures.
//!
//! Without them a sender that changes its CPU overtakes itself in veth's per-CPU queues, and a
//! burst overflows them.

use std::fs;
use std::path::Path;

use crate::{LabError, Namespace};

const BACKLOG: &str = "/proc/sys/net/core/netdev_max_backlog";
/// Packets per CPU that wait between two namespaces.
const BACKLOG_PACKETS: u32 = 20_000;

/// Per namespace: no IPv6 chatter, and no firewall code in the bridges' path.
const SYSCTLS: [(&str, &str); 7] = [
    ("net/ipv6/conf/all/disable_ipv6", "1"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    ("net/bridge/bridge-nf-call-iptables", "0"),
    ("net/bridge/bridge-nf-call-ip6tables", "0"),
    ("net/bridge/bridge-nf-call-arptables", "0"),
    ("net/ipv4/conf/all/arp_ignore", "1"),
    ("net/ipv4/tcp_slow_start_after_idle", "0"),
];

/// The backlog of the whole machine, if it is below what the lab needs.
pub fn backlog_to_raise() -> Option<u32> {
    let now: u32 = fs::read_to_string(BACKLOG).ok()?.trim().parse().ok()?;
    (now < BACKLOG_PACKETS).then_some(now)
}

/// Raises the backlog.
pub fn raise_backlog() -> Result<(), LabError> {
    write(Path::new(BACKLOG), &BACKLOG_PACKETS.to_string())
}

/// Puts back what was there before, unless someone else changed it since.
pub fn restore_backlog(before: u32) -> Result<(), LabError> {
    if fs::read_to_string(BACKLOG).is_ok_and(|now| now.trim() == BACKLOG_PACKETS.to_string()) {
        write(Path::new(BACKLOG), &before.to_string())?;
    }
    Ok(())
}

/// Settings of one namespace; /proc/sys/net shows that of the thread that looks.
pub fn namespace(namespace: &Namespace) -> Result<(), LabError> {
    namespace.run(|| {
        for (key, value) in SYSCTLS {
            let path = Path::new("/proc/sys").join(key);
            if path.exists() {
                write(&path, value)?;
            }
        }
        Ok(())
    })
}

/// Lets one CPU handle all packets that arrive on each of these devices, so that links are FIFO.
pub fn one_cpu_per_device(namespace: &Namespace, devices: &[String]) -> Result<(), LabError> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    namespace.run_with_sysfs(|| {
        for (place, device) in devices.iter().enumerate() {
            let path = format!("/sys/class/net/{device}/queues/rx-0/rps_cpus");
            // A mask is written in groups of 32 bits; the first 32 CPUs are enough.
            write(Path::new(&path), &format!("{:x}", 1u32 << (place % cpus.min(32))))?;
        }
        Ok(())
    })
}

fn write(path: &Path, value: &str) -> Result<(), LabError> {
    fs::write(path, value).map_err(|source| LabError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
}
