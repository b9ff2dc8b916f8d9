//! Two hosts' bridges, a fabric between them and a peer, in a network namespace of the test's own
//! thread. Guests without QEMU are in `guest`, who sends to them in `traffic`.

#![allow(dead_code, unused_imports, reason = "each file of tests uses its own part")]

mod guest;
mod moved;
mod traffic;

use std::cell::RefCell;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use transhume_model::{Epoch, Mac, NicIndex, Secret};
use transhume_netbuf::limits::{PLUG_BYTES_MAX, RING_FRAMES};
use transhume_netbuf::{
    Event, Events, NicIdentity, PlugState, SourceConfig, Tap, TapConfig, TapMark, TargetConfig,
};
use transhume_trust::{Authority, Security, Trust, TrustFiles};

pub use guest::{Guest, Mood};
pub use moved::Moved;
pub use traffic::{Peer, Stream, frame};

pub const MTU: u16 = 1500;

/// What a test gives a closing at most, on a machine that is busy too.
pub const CLOSE_WAIT: Duration = Duration::from_secs(30);

/// Runs `test` in a thread with a network namespace of its own; it is gone with the thread,
/// whatever happens.
pub fn in_own_network(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("tests of the network need root");
        let _spools = Spools;
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split_whitespace()).status();
    assert!(
        done.expect("`ip` of iproute2 is needed").success(),
        "ip {arguments}"
    );
}

/// An `ip` that is there already when something is to be changed within a few milliseconds: on a
/// slow machine its start alone takes longer than the old path stays open.
pub struct IpWaits(Child);

impl IpWaits {
    pub fn start() -> Self {
        let batch = Command::new("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .spawn();
        IpWaits(batch.expect("`ip` of iproute2 is needed"))
    }

    /// Changes it, line by line.
    pub fn change(mut self, lines: &str) {
        let mut stdin = self.0.stdin.take().unwrap();
        stdin.write_all(lines.as_bytes()).unwrap();
        drop(stdin);
        assert!(self.0.wait().unwrap().success(), "{lines}");
    }
}

/// The Ethernet address of a link.
pub fn address(link: &str) -> String {
    let shown = Command::new("ip")
        .args(["-o", "link", "show", link])
        .output()
        .unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    let mut words = text.split_whitespace();
    words.find(|word| *word == "link/ether").unwrap();
    words.next().unwrap().to_owned()
}

/// Whether the bridge floods unknown unicast to a port.
pub fn floods(port: &str) -> bool {
    port_is(port, " flood on ")
}

/// Whether a bridge's port is said to be so.
pub fn port_is(port: &str, said: &str) -> bool {
    let shown = Command::new("bridge")
        .args(["-d", "link", "show", "dev", port])
        .output()
        .expect("`bridge` of iproute2 is needed");
    String::from_utf8(shown.stdout).unwrap().contains(said)
}

/// br-a and br-b are two hosts, br-f the fabric, p0 the peer's interface.
pub fn build() {
    ip("link set lo up");
    // Router solicitations of the namespace itself would be counted.
    for of in ["all", "default"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{of}/disable_ipv6"), "1").unwrap();
    }
    for bridge in ["br-a", "br-b", "br-f"] {
        ip(&format!(
            "link add {bridge} type bridge stp_state 0 mcast_snooping 0"
        ));
        ip(&format!("link set {bridge} up"));
    }
    for (end, other, bridge) in [("a0", "fa", "br-a"), ("b0", "fb", "br-b"), ("p0", "fp", "")] {
        ip(&format!(
            "link add {end} txqueuelen 20000 type veth peer name {other} txqueuelen 20000"
        ));
        ip(&format!("link set {other} master br-f up"));
        if !bridge.is_empty() {
            ip(&format!("link set {end} master {bridge}"));
        }
        ip(&format!("link set {end} up"));
    }
    for bridge in ["br-a", "br-b"] {
        Tap::prepare_uplinks(bridge).unwrap();
    }
}

pub fn vm_mac() -> Mac {
    "52:54:00:00:00:01".parse().unwrap()
}

pub fn identity() -> NicIdentity {
    NicIdentity {
        vm: "vm1".parse().unwrap(),
        nic: NicIndex(0),
        mac: vm_mac(),
        epoch: Epoch(1),
    }
}

pub fn tap(name: &str, bridge: &str, plug: PlugState) -> Tap {
    Tap::create(&tap_config(name, bridge, plug)).unwrap()
}

/// Its ring has room for a few frames only.
pub fn tap_of_small_ring(name: &str, bridge: &str, plug: PlugState, ring_frames: u32) -> Tap {
    Tap::create(&TapConfig {
        ring_frames,
        ..tap_config(name, bridge, plug)
    })
    .unwrap()
}

pub fn tap_config(name: &str, bridge: &str, plug: PlugState) -> TapConfig {
    TapConfig {
        name: name.to_owned(),
        bridge: bridge.to_owned(),
        mac: vm_mac(),
        mtu: MTU,
        ring_frames: RING_FRAMES,
        plug_bytes_max: PLUG_BYTES_MAX,
        plug,
        mark: mark(),
    }
}

pub fn mark() -> TapMark {
    TapMark {
        owner: "test".to_owned(),
        vm: "vm1".parse().unwrap(),
        nic: NicIndex(0),
    }
}

thread_local! {
    static SPOOLS: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
}

/// Removes what a test's buffers leave when they are killed.
struct Spools;

impl Drop for Spools {
    fn drop(&mut self) {
        for path in SPOOLS.take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn spool(side: &str) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = PathBuf::from(format!(
        "/dev/shm/transhume-test-{}-{number}-{side}.spool",
        std::process::id()
    ));
    SPOOLS.with_borrow_mut(|spools| spools.push(path.clone()));
    path
}

/// What a source must know.
pub fn secret() -> Secret {
    Secret::new([7; Secret::BYTES])
}

/// Of the agent of a host; the fleet's authority goes with the test.
fn security(host: &str) -> Security {
    thread_local! {
        static FLEET: (tempfile::TempDir, Authority) = {
            let dir = tempfile::tempdir().unwrap();
            let authority = Authority::create(&dir.path().join("ca"), "test").unwrap();
            (dir, authority)
        };
    }
    FLEET.with(|(dir, authority)| {
        let identity = format!("agent/{host}").parse().unwrap();
        let issued = authority.issue(&identity, 1, dir.path()).unwrap();
        let files = TrustFiles {
            authority: authority.certificate(),
            certificate: issued.certificate,
            key: issued.key,
            revoked: None,
        };
        Security::Mutual(Trust::read(files).unwrap())
    })
}

pub fn source_config(buffer_bytes_max: u64) -> SourceConfig {
    SourceConfig {
        identity: identity(),
        mtu: MTU,
        spool: spool("source"),
        buffer_bytes_max,
        plug_bytes_max: PLUG_BYTES_MAX,
        traced: false,
        security: security("source"),
    }
}

pub fn target_config() -> TargetConfig {
    TargetConfig {
        identity: identity(),
        mtu: MTU,
        spool: spool("target"),
        buffer_bytes_max: 64 << 20,
        plug_bytes_max: PLUG_BYTES_MAX,
        traced: false,
        listen: "127.0.0.1".parse().unwrap(),
        port: 0,
        host: "target".parse().unwrap(),
        secret: secret(),
        security: security("target"),
    }
}

/// Events that a test does not expect.
pub fn no_events() -> Events {
    Arc::new(|event| panic!("no event is expected: {event:?}"))
}

/// Events as they come.
pub fn kept_events() -> (Events, Arc<Mutex<Vec<Event>>>) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    (Arc::new(move |event| keep.lock().unwrap().push(event)), kept)
}

/// Waits until `done`, at most five seconds.
pub fn eventually(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "not in five seconds: {what}"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// 0, 1, 2 … `count`: each once, in order; says where it goes wrong.
pub fn assert_in_order(got: &[u64], count: u64) {
    for (index, number) in got.iter().enumerate() {
        let around = &got[index.saturating_sub(3)..(index + 4).min(got.len())];
        assert_eq!(
            *number, index as u64,
            "at frame {index} of {count}, around it {around:?}"
        );
    }
    assert_eq!(got.len() as u64, count, "frames in all");
}

/// Length of the virtio-net header in front of each frame that is read from a tap or written to it.
pub fn set_vnet_header_bytes(tap: &Tap, bytes: i32) {
    const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    let result = unsafe { libc::ioctl(tap.fd().as_raw_fd(), TUNSETVNETHDRSZ, &bytes) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
