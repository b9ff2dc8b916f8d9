//! How many frames a second the buffer carries, without VMs: generator → plug → capture → tunnel →
//! injection → reader.
//!
//! `cargo run --release -p transhume-netbuf --example buffer_rate [REPETITIONS]`, as root; with
//! `INSECURE=1` in the environment the tunnel is in the clear. The generator sends only while fewer
//! than [`WINDOW_FRAMES`] are on their way, so that the figure is what the whole path carries with
//! none lost. Processor time by thread says where it goes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use transhume_model::{Epoch, Mac, NicIndex};
use transhume_netbuf::limits::{PLUG_BYTES_MAX, RING_FRAMES};
use transhume_netbuf::{
    NicIdentity, PlugState, Responsiveness, SourceBuffer, SourceConfig, Tap, TapConfig, TapMark,
    TargetBuffer, TargetConfig,
};
use transhume_trust::{Authority, Security, Trust, TrustFiles, draw_secret};

const MTU: u16 = 1500;
const CLOSE_WAIT: Duration = Duration::from_secs(30);
const WINDOW_FRAMES: u64 = 8_192;
const SECONDS: u64 = 3;
/// Frames of one system call of the generator.
const BATCH: usize = 64;
/// The spool keeps every frame until the end: enough for some seconds of full frames.
const BUFFER_BYTES_MAX: u64 = 384 << 20;
const VNET_BYTES: usize = 12;

fn main() {
    let repetitions = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(5);
    // 60 and 1514 bytes without the checksum: 64 and 1518 on the wire.
    for length in [60, 1514] {
        let mut rates = Vec::new();
        for _ in 0..repetitions {
            let run = std::thread::spawn(move || run(length))
                .join()
                .expect("the run ends");
            println!("{length} B: {run}");
            assert_eq!(run.lost, 0, "frames lost");
            rates.push(run.frames_per_s);
        }
        rates.sort_by(f64::total_cmp);
        println!(
            "{length} B: median {:.0} frames/s, {:.0} to {:.0}, lost 0",
            rates[rates.len() / 2],
            rates[0],
            rates[rates.len() - 1]
        );
    }
}

struct Run {
    frames_per_s: f64,
    lost: u64,
    processor_ms: BTreeMap<String, u64>,
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.0} frames/s, lost {}; processor ms:",
            self.frames_per_s, self.lost
        )?;
        self.processor_ms
            .iter()
            .try_for_each(|(name, ms)| write!(f, " {name} {ms}"))
    }
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status();
    assert!(
        done.expect("`ip` of iproute2 is needed").success(),
        "ip {arguments}"
    );
}

fn mac() -> Mac {
    "52:54:00:00:00:01".parse().expect("an address")
}

fn tap(name: &str, bridge: &str, plug: PlugState) -> Tap {
    Tap::create(&TapConfig {
        name: name.to_owned(),
        bridge: bridge.to_owned(),
        mac: mac(),
        mtu: MTU,
        ring_frames: RING_FRAMES,
        plug_bytes_max: PLUG_BYTES_MAX,
        plug,
        mark: TapMark {
            owner: "buffer-rate".to_owned(),
            vm: "vm1".parse().expect("a name"),
            nic: NicIndex(0),
        },
    })
    .expect("a tap; are you root?")
}

fn spool(side: &str) -> std::path::PathBuf {
    format!("/dev/shm/transhume-rate-{}-{side}.spool", std::process::id()).into()
}

fn own_network() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root is needed");
}

/// Of the agent of a host, by an authority made on the spot.
fn security(host: &str) -> Security {
    if std::env::var_os("INSECURE").is_some() {
        return Security::Insecure;
    }
    let dir = std::env::temp_dir().join(format!("transhume-rate-{}", std::process::id()));
    let authority = Authority::open(&dir).or_else(|_| Authority::create(&dir, "rate"));
    let authority = authority.expect("an authority");
    let identity = format!("agent/{host}").parse().expect("an identity");
    let issued = authority.issue(&identity, 1, &dir).expect("a certificate");
    let files = TrustFiles {
        authority: authority.certificate(),
        certificate: issued.certificate,
        key: issued.key,
        revoked: None,
    };
    Security::Mutual(Trust::read(files).expect("its own files"))
}

fn run(length: usize) -> Run {
    own_network();
    ip("link set lo up");
    for bridge in ["br-a", "br-b"] {
        ip(&format!(
            "link add {bridge} type bridge stp_state 0 mcast_snooping 0"
        ));
        ip(&format!("link set {bridge} up"));
    }
    let (source_tap, target_tap) = (
        tap("src", "br-a", PlugState::Open),
        tap("dst", "br-b", PlugState::Shut),
    );
    let identity = NicIdentity {
        vm: "vm1".parse().expect("a name"),
        nic: NicIndex(0),
        mac: mac(),
        epoch: Epoch(1),
    };
    let events: transhume_netbuf::Events = Arc::new(|event| eprintln!("{event:?}"));
    let source_config = SourceConfig {
        identity: identity.clone(),
        mtu: MTU,
        spool: spool("source"),
        buffer_bytes_max: BUFFER_BYTES_MAX,
        plug_bytes_max: PLUG_BYTES_MAX,
        traced: false,
        security: security("source"),
    };
    let target_config = TargetConfig {
        identity,
        mtu: MTU,
        spool: spool("target"),
        buffer_bytes_max: BUFFER_BYTES_MAX,
        plug_bytes_max: PLUG_BYTES_MAX,
        traced: false,
        listen: Ipv4Addr::LOCALHOST.into(),
        port: 0,
        host: "target".parse().expect("a name"),
        secret: draw_secret(),
        security: security("target"),
    };
    let mut source =
        SourceBuffer::open(source_config, &source_tap, events.clone()).expect("the source's buffer");
    let mut target = TargetBuffer::open(target_config, &target_tap, events).expect("the target's buffer");
    source.connect(&target.endpoint()).expect("a tunnel");
    shut(&mut source, &source_tap);
    source.capture().expect("a capture");
    source.committed();
    let received = Arc::new(AtomicU64::new(0));
    let ended = Arc::new(AtomicBool::new(false));
    let reader = reader(&target_tap, received.clone(), ended.clone());
    target.activate().expect("an activation");

    let generator = Generator::new("src", length);
    let before = processor_ms();
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < Duration::from_secs(SECONDS) {
        if sent - received.load(Ordering::Acquire) < WINDOW_FRAMES {
            sent += generator.send();
        } else {
            std::thread::yield_now();
        }
    }
    let elapsed = begun.elapsed();
    let arrived = received.load(Ordering::Acquire);
    let mut processor_ms = processor_ms();
    for (name, ms) in &mut processor_ms {
        *ms -= before.get(name).copied().unwrap_or(0);
    }
    processor_ms.retain(|_, ms| *ms > 0);
    let deadline = Instant::now() + Duration::from_secs(5);
    while received.load(Ordering::Acquire) < sent && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    let lost = sent - received.load(Ordering::Acquire);
    let closing = std::thread::spawn(move || source.finish(CLOSE_WAIT));
    target.finish(CLOSE_WAIT).expect("the target's account");
    closing
        .join()
        .expect("the source's thread")
        .expect("the source's account");
    ended.store(true, Ordering::Release);
    reader.join().expect("the reader");
    Run {
        frames_per_s: arrived as f64 / elapsed.as_secs_f64(),
        lost,
        processor_ms,
    }
}

/// Shuts the plug; somebody must take the dummies, as QEMU would.
fn shut(source: &mut SourceBuffer, tap: &Tap) {
    let ended = Arc::new(AtomicBool::new(false));
    let guest = reader(tap, Arc::default(), ended.clone());
    source.shut(Responsiveness::Taking).expect("an empty ring");
    ended.store(true, Ordering::Release);
    guest.join().expect("the reader");
}

/// A guest that only reads.
fn reader(tap: &Tap, received: Arc<AtomicU64>, ended: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let fd = tap.fd().try_clone_to_owned().expect("a descriptor");
    let work = move || {
        let mut frame = vec![0; 70_000];
        while !ended.load(Ordering::Acquire) {
            match rustix::io::read(&fd, &mut *frame) {
                Ok(length) if frame[VNET_BYTES..length].starts_with(&mac().bytes()) => {
                    received.fetch_add(1, Ordering::Release);
                }
                Ok(_) => {}
                Err(_) => std::thread::sleep(Duration::from_micros(50)),
            }
        }
    };
    std::thread::Builder::new()
        .name("reader".to_owned())
        .spawn(work)
        .expect("a thread")
}

/// Sends frames into the tap's queue, where the plug is, as its bridge would.
struct Generator {
    socket: OwnedFd,
    frame: Vec<u8>,
}

#[allow(
    unsafe_code,
    reason = "rustix offers neither addresses of packet sockets nor sendmmsg"
)]
impl Generator {
    fn new(interface: &str, length: usize) -> Self {
        use rustix::net::{AddressFamily, SocketType};
        let socket =
            rustix::net::socket(AddressFamily::PACKET, SocketType::RAW, None).expect("a packet socket");
        let name = std::ffi::CString::new(interface).expect("no zero byte");
        // SAFETY: all zeroes is a valid sockaddr_ll, `name` is terminated, and the address outlives
        // the call.
        unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
            let size = size_of::<libc::sockaddr_ll>() as u32;
            assert_eq!(
                libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size),
                0
            );
        }
        let mut frame = [&mac().bytes()[..], &[2, 0, 0, 0, 0, 9], &[0x88, 0xb6]].concat();
        frame.resize(length, 0x5a);
        Self { socket, frame }
    }

    /// Sends up to a batch; returns how many went.
    fn send(&self) -> u64 {
        let mut part = libc::iovec {
            iov_base: self.frame.as_ptr().cast_mut().cast(),
            iov_len: self.frame.len(),
        };
        // SAFETY: all zeroes is a valid mmsghdr.
        let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        header.msg_hdr.msg_iov = &raw mut part;
        header.msg_hdr.msg_iovlen = 1;
        let mut headers = [header; BATCH];
        // SAFETY: the headers point to `part`, which points to the frame; both outlive the call,
        // and the kernel only reads them.
        let sent = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), headers.as_mut_ptr(), BATCH as u32, 0) };
        u64::try_from(sent).unwrap_or(0)
    }
}

/// Processor time by thread name so far.
fn processor_ms() -> BTreeMap<String, u64> {
    let ticks_ms = 1000 / rustix::param::clock_ticks_per_second();
    let mut by_name = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").expect("/proc").flatten() {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let Some((head, tail)) = stat.rsplit_once(") ") else {
            continue;
        };
        let name = head.split_once('(').map_or("", |(_, name)| name);
        let fields: Vec<&str> = tail.split(' ').collect();
        let time = |at: usize| {
            fields
                .get(at)
                .and_then(|text| text.parse::<u64>().ok())
                .unwrap_or(0)
        };
        *by_name.entry(name.to_owned()).or_default() += (time(11) + time(12)) * ticks_ms;
    }
    by_name
}
