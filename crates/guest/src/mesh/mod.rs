//! The workload: numbered messages between the VMs, and one byte stream per pair (§2.1).
//!
//! One thread wakes every tick, sends what is due, reads all that came, and sleeps: a guest under
//! TCG spends its time on messages, not on wake-ups. A tick is as long as its messages are apart,
//! within limits. Times are therefore exact to one tick.
//!
//! Neighbours are resolved by real ARP. Messages are numbered only once the peer answered a hello,
//! so nothing that the first resolution delays or drops is counted.

mod account;
mod message;
mod stream;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt;
use rustix::time::{ClockId, clock_gettime};
use transhume_guest::settings::Settings;
use transhume_guest::wire::{PeerStats, Stats};

use account::Account;
use message::{Kind, MESSAGE_BYTES, Message};
use stream::Streams;

const PORT: u16 = 7800;
const TICK_MIN: Duration = Duration::from_millis(10);
/// Forty guests under TCG that wake twenty times a second fill two cores by that alone.
const TICK_MAX: Duration = Duration::from_millis(250);
/// The streams carry little and are looked after less often.
const STREAM_STEP: Duration = Duration::from_millis(40);
const HELLO_INTERVAL: Duration = Duration::from_millis(250);
/// After a pause of the VM the senders do not make up for more ticks than this.
const CATCH_UP_TICKS_MAX: u32 = 4;
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
const SEND_BUFFER_BYTES: usize = 1 << 20;
/// Datagrams taken in one tick, so that a flood cannot starve the senders.
const RECEIVE_PER_TICK_MAX: usize = 4096;
/// The last message before a silence is said more than once: it is not numbered.
const STOP_REPEATS: usize = 2;

/// Time since boot by a clock that stands still while the VM does.
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The tick of a sender of `rate` messages a second.
fn tick_of(rate: f64) -> Duration {
    Duration::try_from_secs_f64(rate.recip()).map_or(TICK_MAX, |apart| apart.clamp(TICK_MIN, TICK_MAX))
}

/// The state that the workload's thread and the console channel share.
pub struct Mesh {
    me: u16,
    run: u64,
    socket: UdpSocket,
    peers: Vec<Peer>,
    /// Place in `peers` by the VM's index.
    place: Vec<Option<usize>>,
    next: usize,
    rate: f64,
    credit: f64,
    tick: Duration,
    last_tick: Duration,
    last_stream_step: Duration,
    last_hello: Duration,
    quiesced: bool,
    streams: Streams,
}

struct Peer {
    index: u16,
    address: SocketAddrV4,
    ready: bool,
    sent: u64,
    account: Account,
    account_run: Option<u64>,
}

impl Mesh {
    /// Opens the sockets and starts the threads; `None` where this VM has no partners.
    pub fn start(settings: &Settings) -> io::Result<Option<Arc<Mutex<Mesh>>>> {
        let partners = settings.partners();
        if partners.is_empty() {
            return Ok(None);
        }
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        socket.set_nonblocking(true)?;
        sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES)?;
        sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER_BYTES)?;
        let mut place = vec![None; settings.peers.len()];
        for (position, &index) in partners.iter().enumerate() {
            place[usize::from(index)] = Some(position);
        }
        let rate = settings.rate_per_pair() * partners.len() as f64;
        let tick = tick_of(rate);
        let mesh = Mesh {
            me: settings.index,
            run: now().as_nanos() as u64,
            socket,
            rate,
            peers: partners.iter().map(|&index| Peer::new(index, settings)).collect(),
            place,
            next: 0,
            credit: 0.0,
            tick,
            last_tick: now(),
            last_stream_step: Duration::ZERO,
            last_hello: Duration::ZERO,
            quiesced: false,
            streams: Streams::new(&partners)?,
        };
        let mesh = Arc::new(Mutex::new(mesh));
        stream::connect_all(settings, &partners, &mesh);
        let shared = Arc::clone(&mesh);
        thread::spawn(move || {
            loop {
                thread::sleep(tick);
                shared.lock().expect("no holder panics").tick(now());
            }
        });
        Ok(Some(mesh))
    }

    fn tick(&mut self, now: Duration) {
        self.receive(now);
        if now.saturating_sub(self.last_hello) >= HELLO_INTERVAL {
            self.last_hello = now;
            self.say_hello();
        }
        let elapsed = now
            .saturating_sub(self.last_tick)
            .min(self.tick * CATCH_UP_TICKS_MAX);
        self.last_tick = now;
        if !self.quiesced {
            self.credit += self.rate * elapsed.as_secs_f64();
            self.send_due();
        }
        if now.saturating_sub(self.last_stream_step) >= STREAM_STEP {
            self.last_stream_step = now;
            self.streams.tick(self.me, now);
        }
    }

    fn say_hello(&self) {
        for peer in self.peers.iter().filter(|peer| !peer.ready) {
            self.send(peer.address, Kind::Hello, self.run, 0);
        }
    }

    /// Spends the credit, one message per partner in turn. What the kernel does not take was not
    /// sent.
    fn send_due(&mut self) {
        while self.credit >= 1.0 {
            self.credit -= 1.0;
            let place = self.next;
            self.next = (self.next + 1) % self.peers.len();
            let peer = &self.peers[place];
            if peer.ready && self.send(peer.address, Kind::Data, self.run, peer.sent + 1) {
                self.peers[place].sent += 1;
            }
        }
    }

    fn send(&self, to: SocketAddrV4, kind: Kind, run: u64, number: u64) -> bool {
        let message = Message {
            kind,
            from: self.me,
            run,
            number,
        };
        self.socket.send_to(&message.encode(), to).is_ok()
    }

    fn receive(&mut self, now: Duration) {
        let mut buffer = [0; MESSAGE_BYTES + 1];
        for _ in 0..RECEIVE_PER_TICK_MAX {
            match self.socket.recv_from(&mut buffer) {
                Ok((length, _)) => {
                    if let Some(message) = Message::decode(&buffer[..length]) {
                        self.take(message, now);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP error of an earlier send: reading it cleared it.
                Err(_) => {}
            }
        }
    }

    fn take(&mut self, message: Message, now: Duration) {
        let Some(place) = self.place.get(usize::from(message.from)).copied().flatten() else {
            return;
        };
        let peer = &mut self.peers[place];
        match message.kind {
            Kind::Hello => {
                if peer.account_run != Some(message.run) {
                    peer.account = Account::new();
                    peer.account_run = Some(message.run);
                }
                let address = peer.address;
                self.send(address, Kind::HelloAck, message.run, 0);
            }
            Kind::HelloAck => peer.ready |= message.run == self.run,
            Kind::Data if peer.account_run == Some(message.run) => peer.account.arrived(message.number, now),
            Kind::Stop if peer.account_run == Some(message.run) => peer.account.stopped(now),
            // An earlier run of the peer: its numbers mean nothing any more.
            Kind::Data | Kind::Stop => {}
        }
    }

    /// Stops the senders and says so to the partners, so that the silence is not taken for a gap.
    pub fn quiesce(&mut self) {
        self.quiesced = true;
        self.credit = 0.0;
        for peer in self.peers.iter().filter(|peer| peer.ready) {
            for _ in 0..STOP_REPEATS {
                self.send(peer.address, Kind::Stop, self.run, peer.sent);
            }
        }
    }

    /// Sends again and counts the longest silences anew.
    pub fn resume(&mut self) {
        self.quiesced = false;
        for peer in &mut self.peers {
            peer.account.reset_gap();
        }
        self.streams.reset_stalls();
    }

    /// Adds this VM's figures.
    pub fn fill(&mut self, stats: &mut Stats) {
        let now = now();
        self.receive(now);
        stats.quiesced = self.quiesced;
        stats.peers = self.peers.iter().map(|peer| peer.stats(now)).collect();
        stats.tcp = self.streams.stats(now);
    }
}

impl Peer {
    fn new(index: u16, settings: &Settings) -> Self {
        Peer {
            index,
            address: SocketAddrV4::new(settings.peers[usize::from(index)], PORT),
            ready: false,
            sent: 0,
            account: Account::new(),
            account_run: None,
        }
    }

    fn stats(&self, now: Duration) -> PeerStats {
        PeerStats {
            index: self.index,
            ready: self.ready,
            sent: self.sent,
            received: self.account.received,
            duplicated: self.account.duplicated,
            reordered: self.account.reordered,
            gap_ms: self.account.gap(now).as_millis() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_as_long_as_messages_are_apart_within_its_limits() {
        let ms = |rate| tick_of(rate).as_millis();
        assert_eq!((ms(40.0), ms(1000.0), ms(1.0), ms(0.0)), (25, 10, 250, 250));
    }
}
