//! Two hosts' bridges, a fabric between them and a peer, in a network namespace of the test's own thread; and guests without QEMU:
//! threads that read a tap as a guest would.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use transhume_model::{Epoch, Mac, NicIndex};
use transhume_netbuf::limits::{PLUG_BYTES_MAX, RING_FRAMES};
use transhume_netbuf::{NicIdentity, PlugState, SourceConfig, Tap, TapConfig, TapMark, TargetConfig};

pub const MTU: u16 = 1500;
/// Marks the frames that tests count.
const ETHERTYPE: u16 = 0x88b6;
const PEER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x99];

/// Runs `test` in a thread with a network namespace of its own; it is gone with the thread, whatever happens.
pub fn in_own_network(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        #[allow(
            unsafe_code,
            reason = "rustix marks unshare unsafe for its effects on file descriptors, which CLONE_NEWNET has not"
        )]
        // SAFETY: CLONE_NEWNET touches no memory and no descriptors.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
            .expect("tests of the network need root");
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
    Tap::create(&TapConfig {
        name: name.to_owned(),
        bridge: bridge.to_owned(),
        mac: vm_mac(),
        mtu: MTU,
        ring_frames: RING_FRAMES,
        plug_bytes_max: PLUG_BYTES_MAX,
        plug,
        mark: mark(),
    })
    .unwrap()
}

pub fn mark() -> TapMark {
    TapMark {
        owner: "test".to_owned(),
        vm: "vm1".parse().unwrap(),
        nic: NicIndex(0),
    }
}

fn spool(side: &str) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(format!(
        "/dev/shm/transhume-test-{}-{number}-{side}.spool",
        std::process::id()
    ))
}

pub fn source_config(buffer_bytes_max: u64) -> SourceConfig {
    SourceConfig {
        identity: identity(),
        mtu: MTU,
        spool: spool("source"),
        buffer_bytes_max,
        plug_bytes_max: PLUG_BYTES_MAX,
    }
}

pub fn target_config() -> TargetConfig {
    TargetConfig {
        identity: identity(),
        mtu: MTU,
        spool: spool("target"),
        buffer_bytes_max: 64 << 20,
        plug_bytes_max: PLUG_BYTES_MAX,
        listen: "127.0.0.1".parse().unwrap(),
        port: 0,
    }
}

/// A guest without QEMU: reads its tap while it runs, and notes the numbers of the frames it gets. Like QEMU it reads one frame when it
/// is stopped, and gives it to the guest when that runs again.
pub struct Guest {
    running: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    got: Arc<Mutex<Vec<u64>>>,
    others: Arc<AtomicU64>,
    micros_a_frame: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    fd: OwnedFd,
}

impl Guest {
    pub fn new(tap: &Tap, running: bool) -> Self {
        let mut guest = Self {
            running: Arc::new(AtomicBool::new(running)),
            ended: Arc::default(),
            got: Arc::default(),
            others: Arc::default(),
            micros_a_frame: Arc::default(),
            thread: None,
            fd: tap.fd().try_clone_to_owned().unwrap(),
        };
        let (runs, ended, got, others, micros) = (
            guest.running.clone(),
            guest.ended.clone(),
            guest.got.clone(),
            guest.others.clone(),
            guest.micros_a_frame.clone(),
        );
        let fd = tap.fd().try_clone_to_owned().unwrap();
        let thread = std::thread::spawn(move || {
            let mut frame = vec![0; 70_000];
            let note = |frame: &[u8]| match number(&frame[12..]) {
                Some(number) => got.lock().unwrap().push(number),
                None => drop(others.fetch_add(1, Ordering::Relaxed)),
            };
            let mut held: Option<Vec<u8>> = None;
            while !ended.load(Ordering::Acquire) {
                let running = runs.load(Ordering::Acquire);
                if running && let Some(frame) = held.take() {
                    note(&frame);
                }
                match micros.load(Ordering::Relaxed) {
                    0 => {}
                    slow => std::thread::sleep(Duration::from_micros(slow)),
                }
                if !running && held.is_some() {
                    std::thread::sleep(Duration::from_micros(200));
                    continue;
                }
                match rustix::io::read(&fd, &mut *frame) {
                    Ok(length) if running => note(&frame[..length]),
                    Ok(length) => held = Some(frame[..length].to_vec()),
                    Err(_) => std::thread::sleep(Duration::from_micros(50)),
                }
            }
        });
        guest.thread = Some(thread);
        guest
    }

    /// QMP `stop`, QMP `cont`.
    pub fn run(&self, running: bool) {
        self.running.store(running, Ordering::Release);
        std::thread::sleep(Duration::from_millis(1));
    }

    /// From here on it takes so long for each frame.
    pub fn slow_down(&self, micros_a_frame: u64) {
        self.micros_a_frame.store(micros_a_frame, Ordering::Relaxed);
    }

    pub fn got(&self) -> Vec<u64> {
        self.got.lock().unwrap().clone()
    }

    /// Frames that tests do not count: dummies, announcements.
    pub fn others(&self) -> u64 {
        self.others.load(Ordering::Relaxed)
    }

    /// The guest itself sends a frame.
    pub fn send(&self, to: [u8; 6], number: u64) {
        let mut bytes = vec![0; 12];
        bytes.extend(frame(to, vm_mac().bytes(), number, 60));
        rustix::io::write(&self.fd, &bytes).unwrap();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub fn frame(to: [u8; 6], from: [u8; 6], number: u64, length: usize) -> Vec<u8> {
    let mut frame = [&to[..], &from, &ETHERTYPE.to_be_bytes(), &number.to_be_bytes()].concat();
    frame.resize(length, 0xa5);
    frame
}

fn number(frame: &[u8]) -> Option<u64> {
    let counted = frame.get(12..14)? == ETHERTYPE.to_be_bytes();
    counted.then(|| u64::from_be_bytes(frame[14..22].try_into().unwrap()))
}

/// Sends from the peer's interface.
pub struct Peer(OwnedFd);

impl Peer {
    pub fn new() -> Self {
        Self::on("p0")
    }

    pub fn on(interface: &str) -> Self {
        use rustix::net::{AddressFamily, SocketType};
        let socket = rustix::net::socket(AddressFamily::PACKET, SocketType::RAW, None).unwrap();
        bind_packet(&socket, interface);
        Self(socket)
    }

    pub fn send(&self, to: [u8; 6], number: u64, length: usize) {
        let bytes = frame(to, PEER, number, length);
        // A full device queue is not what these tests are about: try again.
        while let Err(error) = rustix::net::send(&self.0, &bytes, rustix::net::SendFlags::empty()) {
            assert_eq!(error, rustix::io::Errno::NOBUFS, "send from the peer");
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

#[allow(unsafe_code, reason = "rustix has no address of packet sockets")]
fn bind_packet(socket: &OwnedFd, interface: &str) {
    use std::os::fd::AsRawFd;
    let name = std::ffi::CString::new(interface).unwrap();
    // SAFETY: all zeroes is a valid sockaddr_ll, `name` is terminated, and the address outlives the call.
    unsafe {
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
        assert_ne!(address.sll_ifindex, 0, "{interface}");
        let length = size_of::<libc::sockaddr_ll>() as u32;
        assert_eq!(
            libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length),
            0
        );
    }
}

/// Numbered unicast frames at a steady rate until stopped; returns how many.
pub struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<u64>>,
}

impl Stream {
    pub fn start(frames_per_s: u64, length: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sent = Arc::new(AtomicU64::new(0));
        let counted = sent.clone();
        // The socket belongs to the namespace of the thread that makes it.
        let peer = Peer::new();
        let thread = std::thread::spawn(move || {
            pin_to_first_cpu();
            let begun = Instant::now();
            let mut number = 0;
            while !stopped.load(Ordering::Acquire) {
                let due = (begun.elapsed().as_secs_f64() * frames_per_s as f64) as u64;
                while number < due {
                    peer.send(vm_mac().bytes(), number, length);
                    number += 1;
                }
                counted.store(number, Ordering::Release);
                std::thread::sleep(Duration::from_micros(200));
            }
            number
        });
        Self {
            stop,
            sent,
            thread: Some(thread),
        }
    }

    /// Waits for more frames: on a busy machine the sender may be away for longer than any pause.
    pub fn goes_on(&self) {
        const MORE: u64 = 40;
        let before = self.sent.load(Ordering::Acquire);
        eventually("the stream goes on", || {
            self.sent.load(Ordering::Acquire) >= before + MORE
        });
    }

    pub fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Release);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// A sender that changes its processor overtakes itself in veth's per-processor queues.
fn pin_to_first_cpu() {
    let mut set = rustix::thread::CpuSet::new();
    set.set(0);
    rustix::thread::sched_setaffinity(None, &set).unwrap();
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
