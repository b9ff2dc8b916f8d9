//! What PID 1 does before anything else: file systems, modules, network.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use rustix::system::init_module;
use transhume_guest::settings::Settings;

/// The modules in the order in which they are loaded, one file name a line; written by the lab.
const MODULES: &str = "/usr/lib/transhume/modules";
const MODULE_ORDER: &str = "/usr/lib/transhume/modules/order";
/// The guest's own queue must not be where messages are lost.
const TRANSMIT_QUEUE_PACKETS: &str = "10000";
/// Below this MTU a segment with the usual TCP options does not fit.
const SMALL_MTU: u16 = 576;
const NIC_WAIT: Duration = Duration::from_millis(10);
const NIC_WAITS_MAX: u32 = 300;

const MOUNTS: [(&str, &str, &str); 5] = [
    ("proc", "/proc", "proc"),
    ("sysfs", "/sys", "sysfs"),
    ("devtmpfs", "/dev", "devtmpfs"),
    ("tmpfs", "/tmp", "tmpfs"),
    ("tmpfs", "/run", "tmpfs"),
];

/// Buffers large enough that a burst after a blackout stays in the socket, patience with a peer
/// that is away for long, and a queue that never drops by delay.
const SYSCTLS: [(&str, &str); 7] = [
    ("net/core/rmem_max", "16777216"),
    ("net/core/wmem_max", "16777216"),
    ("net/core/rmem_default", "1048576"),
    ("net/core/netdev_max_backlog", "10000"),
    ("net/core/default_qdisc", "pfifo_fast"),
    ("net/ipv4/neigh/default/ucast_solicit", "60"),
    ("net/ipv4/neigh/default/mcast_solicit", "60"),
];

pub fn mount_all() {
    for (source, target, kind) in MOUNTS {
        let made = fs::create_dir_all(target)
            .and_then(|()| mount(source, target, kind, MountFlags::empty(), None).map_err(io::Error::from));
        report(target, made);
    }
}

/// Loads what the lab put into the initramfs. A module that is built into this kernel is not there.
pub fn load_modules() {
    let Ok(order) = fs::read_to_string(MODULE_ORDER) else {
        return;
    };
    for name in order.lines() {
        let loaded = fs::read(Path::new(MODULES).join(name))
            .and_then(|image| init_module(&image, &CString::default()).map_err(io::Error::from));
        match loaded {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => report(name, other),
        }
    }
}

pub fn tune() {
    for (key, value) in SYSCTLS {
        report(key, fs::write(Path::new("/proc/sys").join(key), value));
    }
}

/// Brings up `lo` and `eth0`.
pub fn network(settings: &Settings) {
    for _ in 0..NIC_WAITS_MAX {
        if Path::new("/sys/class/net/eth0").exists() {
            break;
        }
        thread::sleep(NIC_WAIT);
    }
    if settings.mtu < SMALL_MTU {
        for (key, value) in [
            ("net/ipv4/tcp_timestamps", "0"),
            ("net/ipv4/ip_no_pmtu_disc", "1"),
        ] {
            report(key, fs::write(Path::new("/proc/sys").join(key), value));
        }
    }
    let address = format!("{}/{}", settings.ip, settings.prefix);
    let mtu = settings.mtu.to_string();
    ip(&["link", "set", "lo", "up"]);
    ip(&["link", "set", "eth0", "mtu", &mtu, "qlen", TRANSMIT_QUEUE_PACKETS]);
    ip(&["addr", "add", &address, "dev", "eth0"]);
    ip(&["link", "set", "eth0", "up"]);
    report(
        "host name",
        fs::write("/proc/sys/kernel/hostname", &settings.name),
    );
}

/// Before a power-off: Linux resets its virtio devices with their NICs still up, and a frame that
/// is sent then (a retransmission, say) spins for ever: `virtqueue_enable_cb_delayed` sees frames
/// to collect, and the broken queue gives none (`virtnet` `start_xmit`, seen in 6.1.192).
pub fn take_nic_down() {
    ip(&["link", "set", "eth0", "down"]);
}

fn ip(arguments: &[&str]) {
    let result = Command::new("/bin/ip")
        .args(arguments)
        .status()
        .and_then(|status| {
            if status.success() {
                Ok(())
            } else {
                Err(io::Error::other(status.to_string()))
            }
        });
    report(&format!("ip {}", arguments.join(" ")), result);
}

/// The console log is where the lab's user looks when a guest does not come up.
pub fn report(what: &str, result: io::Result<()>) {
    if let Err(error) = result {
        eprintln!("transhume-guest: {what}: {error}");
    }
}
