//! Numbered frames, and who sends them.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{eventually, vm_mac};

/// Marks the frames that tests count.
const ETHERTYPE: u16 = 0x88b6;
const PEER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x99];

pub fn frame(to: [u8; 6], from: [u8; 6], number: u64, length: usize) -> Vec<u8> {
    let mut frame = [&to[..], &from, &ETHERTYPE.to_be_bytes(), &number.to_be_bytes()].concat();
    frame.resize(length, 0xa5);
    frame
}

pub(super) fn number(frame: &[u8]) -> Option<u64> {
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
