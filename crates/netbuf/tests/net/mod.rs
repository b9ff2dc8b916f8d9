//! Two hosts' bridges, a fabric between them and a peer, in a network namespace of the test's own
//! thread; and guests without QEMU: threads that read a tap as a guest would.

#![allow(dead_code, reason = "each file of tests uses its own part")]

use std::cell::RefCell;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use transhume_model::{Epoch, Mac, NicIndex};
use transhume_netbuf::limits::{PLUG_BYTES_MAX, RING_FRAMES};
use transhume_netbuf::{
    Event, Events, NicIdentity, PlugState, SourceConfig, Tap, TapConfig, TapMark, TargetConfig,
};

pub const MTU: u16 = 1500;
/// Marks the frames that tests count.
const ETHERTYPE: u16 = 0x88b6;
const PEER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x99];

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

pub fn source_config(buffer_bytes_max: u64) -> SourceConfig {
    SourceConfig {
        identity: identity(),
        mtu: MTU,
        spool: spool("source"),
        buffer_bytes_max,
        plug_bytes_max: PLUG_BYTES_MAX,
        traced: false,
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
    }
}

/// What a guest does with its frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mood {
    /// Takes them.
    Taking,
    /// Runs and takes none: its QEMU reads one and keeps it.
    Deaf,
    /// Does not run: its QEMU throws away what it keeps, then reads one and keeps that.
    Stopped,
}

/// A guest without QEMU: reads its tap while it runs, and notes the numbers of the frames it gets.
/// It plays QEMU's part too: what that reads for a guest which does not take it
/// (net_vm_change_state_handler).
pub struct Guest {
    mood: Arc<AtomicU8>,
    ended: Arc<AtomicBool>,
    got: Arc<Mutex<Vec<u64>>>,
    lost: Arc<Mutex<Vec<u64>>>,
    others: Arc<AtomicU64>,
    micros_a_frame: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    fd: OwnedFd,
}

impl Guest {
    pub fn new(tap: &Tap, running: bool) -> Self {
        let mood = if running { Mood::Taking } else { Mood::Stopped };
        let mut guest = Self {
            mood: Arc::new(AtomicU8::new(mood as u8)),
            ended: Arc::default(),
            got: Arc::default(),
            lost: Arc::default(),
            others: Arc::default(),
            micros_a_frame: Arc::default(),
            thread: None,
            fd: tap.fd().try_clone_to_owned().unwrap(),
        };
        let (moods, ended, got, lost, others, micros) = (
            guest.mood.clone(),
            guest.ended.clone(),
            guest.got.clone(),
            guest.lost.clone(),
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
            let mut before = moods.load(Ordering::Acquire);
            while !ended.load(Ordering::Acquire) {
                let mood = moods.load(Ordering::Acquire);
                let taking = mood == Mood::Taking as u8;
                if taking && let Some(frame) = held.take() {
                    note(&frame);
                }
                if before == Mood::Deaf as u8 && mood == Mood::Stopped as u8 {
                    lost.lock()
                        .unwrap()
                        .extend(held.take().and_then(|frame| number(&frame[12..])));
                }
                before = mood;
                match micros.load(Ordering::Relaxed) {
                    0 => {}
                    slow => std::thread::sleep(Duration::from_micros(slow)),
                }
                if held.is_some() {
                    std::thread::sleep(Duration::from_micros(200));
                    continue;
                }
                match rustix::io::read(&fd, &mut *frame) {
                    Ok(length) if taking => note(&frame[..length]),
                    Ok(length) => held = Some(frame[..length].to_vec()),
                    Err(_) => std::thread::sleep(Duration::from_micros(50)),
                }
            }
            lost.lock()
                .unwrap()
                .extend(held.take().and_then(|frame| number(&frame[12..])));
        });
        guest.thread = Some(thread);
        guest
    }

    /// QMP `stop`, QMP `cont`.
    pub fn run(&self, running: bool) {
        self.be(if running { Mood::Taking } else { Mood::Stopped });
    }

    pub fn be(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::Release);
        std::thread::sleep(Duration::from_millis(1));
    }

    /// Its QEMU ends; the numbers that it had read for nobody.
    pub fn end(&mut self) -> Vec<u64> {
        self.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.lost.lock().unwrap().clone()
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
        self.send_as(vm_mac().bytes(), to, number);
    }

    /// From another address than its NIC's.
    pub fn send_as(&self, from: [u8; 6], to: [u8; 6], number: u64) {
        let mut bytes = vec![0; 12];
        bytes.extend(frame(to, from, number, 60));
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
        take_room(&socket);
        Self(socket)
    }

    pub fn send(&self, to: [u8; 6], number: u64, length: usize) {
        self.send_as(PEER, to, number, length);
    }

    /// From another address than the peer's.
    pub fn send_as(&self, from: [u8; 6], to: [u8; 6], number: u64, length: usize) {
        self.send_bytes(&frame(to, from, number, length));
    }

    pub fn send_bytes(&self, bytes: &[u8]) {
        // A full device queue is not what these tests are about: try again.
        while let Err(error) = rustix::net::send(&self.0, bytes, rustix::net::SendFlags::empty()) {
            assert_eq!(error, rustix::io::Errno::NOBUFS, "send from the peer");
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

#[allow(unsafe_code, reason = "rustix has no address of packet sockets")]
fn bind_packet(socket: &OwnedFd, interface: &str) {
    use std::os::fd::AsRawFd;
    let name = std::ffi::CString::new(interface).unwrap();
    // SAFETY: all zeroes is a valid sockaddr_ll, `name` is terminated, and the address outlives the
    // call.
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

/// Frames that wait in a plug are charged to who sent them; the usual room is for 300.
#[allow(unsafe_code, reason = "rustix has no SO_SNDBUFFORCE")]
fn take_room(socket: &OwnedFd) {
    use std::os::fd::AsRawFd;
    let bytes: libc::c_int = 256 << 20;
    // SAFETY: value and length describe one int.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_SNDBUFFORCE,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as u32,
        )
    };
    assert_eq!(set, 0, "tests of the network need root");
}

/// A sender that had no processor makes up for no more: a burst that a ring does not hold would be
/// lost before the buffers see it.
const FRAMES_AT_ONCE_MAX: u64 = 200;

/// Numbered unicast frames at a steady rate until stopped; returns how many.
pub struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<u64>>,
}

impl Stream {
    pub fn start(frames_per_s: u64, length: usize) -> Self {
        Self::from(Peer::new(), frames_per_s, length)
    }

    /// The socket belongs to the namespace of the thread that made it.
    pub fn from(peer: Peer, frames_per_s: u64, length: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sent = Arc::new(AtomicU64::new(0));
        let counted = sent.clone();
        let thread = std::thread::spawn(move || {
            pin_to_first_cpu();
            let mut begun = Instant::now();
            let mut number = 0;
            while !stopped.load(Ordering::Acquire) {
                let due = (begun.elapsed().as_secs_f64() * frames_per_s as f64) as u64;
                let most = number + FRAMES_AT_ONCE_MAX;
                // It was away for longer than the rings hold: what it missed is never sent.
                begun += Duration::from_secs_f64(due.saturating_sub(most) as f64 / frames_per_s as f64);
                while number < due.min(most) {
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
