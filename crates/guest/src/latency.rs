//! How long answers take: small messages over UDP, asked by the clock and not after the answer, so
//! that a slow one does not thin out those behind it. Between guests and between hosts alike.

use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Where answers are given.
pub const PORT: u16 = 7802;
/// More samples than this are not kept.
pub const SAMPLES_MAX: usize = 40_000;
/// What an answer that did not come counts as, and how long the last ones are waited for.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(1);

const MESSAGE_BYTES: usize = 64;
const STAMP_BYTES: usize = 8;
/// Between two looks at whether it is over.
const POLL: Duration = Duration::from_millis(50);
/// Likewise for who answers: in every guest, so seldom.
const ANSWERER_POLL: Duration = Duration::from_millis(500);

/// Sends every message back to where it came from, until it is dropped.
#[derive(Debug)]
pub struct Answerer {
    ended: Arc<AtomicBool>,
}

impl Answerer {
    /// Answers what comes to `socket`.
    pub fn start(socket: UdpSocket) -> io::Result<Self> {
        socket.set_read_timeout(Some(ANSWERER_POLL))?;
        let ended = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ended);
        thread::spawn(move || {
            let mut message = [0; MESSAGE_BYTES];
            while !told.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut message) {
                    // What does not go out is an answer that the other side misses, and counts.
                    let _missed = socket.send_to(&message[..length], from);
                }
            }
        });
        Ok(Answerer { ended })
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// What asking came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    /// Microseconds from each question to its answer, in the order in which they came.
    pub micros: Vec<u32>,
    /// Questions without an answer.
    pub missing: u64,
}

/// Asks until it is ended.
#[derive(Debug)]
pub struct Asker {
    asked: Arc<Asked>,
    threads: [JoinHandle<()>; 2],
}

#[derive(Debug)]
struct Asked {
    begun: Instant,
    /// No more questions.
    enough: AtomicBool,
    /// No more answers either.
    over: AtomicBool,
    sent: AtomicU64,
    micros: Mutex<Vec<u32>>,
}

impl Asker {
    /// Asks `peer` from `socket`, `per_s` times a second; 0 counts as 1.
    pub fn start(socket: UdpSocket, peer: SocketAddrV4, per_s: u32) -> io::Result<Self> {
        socket.connect(peer)?;
        socket.set_read_timeout(Some(POLL))?;
        let asked = Arc::new(Asked {
            begun: Instant::now(),
            enough: AtomicBool::new(false),
            over: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            micros: Mutex::default(),
        });
        let (listener, hearing) = (socket.try_clone()?, Arc::clone(&asked));
        let asking = Arc::clone(&asked);
        let threads = [
            thread::spawn(move || asking.ask(&socket, per_s)),
            thread::spawn(move || hearing.hear(&listener)),
        ];
        Ok(Asker { asked, threads })
    }

    /// Asks no more, waits for what is under way, and counts.
    pub fn end(self) -> Answers {
        self.asked.enough.store(true, Ordering::Relaxed);
        let [asking, hearing] = self.threads;
        // A thread that panicked asks and hears nothing: the figures say so.
        let _panicked = asking.join();
        let sent = self.asked.sent.load(Ordering::Relaxed);
        let deadline = Instant::now() + ANSWER_WAIT_MAX;
        while self.asked.heard() < sent && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        self.asked.over.store(true, Ordering::Relaxed);
        let _panicked = hearing.join();
        let micros = std::mem::take(&mut *self.asked.micros.lock().expect("no holder panics"));
        Answers {
            missing: sent.saturating_sub(micros.len() as u64),
            micros,
        }
    }
}

impl Asked {
    fn heard(&self) -> u64 {
        self.micros.lock().expect("no holder panics").len() as u64
    }

    fn ask(&self, socket: &UdpSocket, per_s: u32) {
        let mut turns = Turns::new(per_s);
        while !self.enough.load(Ordering::Relaxed) && self.sent.load(Ordering::Relaxed) < SAMPLES_MAX as u64 {
            turns.wait();
            let mut message = [0; MESSAGE_BYTES];
            let stamp = self.begun.elapsed().as_nanos() as u64;
            message[..STAMP_BYTES].copy_from_slice(&stamp.to_be_bytes());
            // What the kernel does not take was not asked.
            if socket.send(&message).is_ok() {
                self.sent.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn hear(&self, socket: &UdpSocket) {
        let mut message = [0; MESSAGE_BYTES];
        while !self.over.load(Ordering::Relaxed) {
            if socket
                .recv(&mut message)
                .is_ok_and(|length| length == MESSAGE_BYTES)
            {
                let now = self.begun.elapsed().as_nanos() as u64;
                let stamp = message.first_chunk::<STAMP_BYTES>().copied().unwrap_or_default();
                let micros = now.saturating_sub(u64::from_be_bytes(stamp)) / 1000;
                let mut kept = self.micros.lock().expect("no holder panics");
                kept.push(u32::try_from(micros).unwrap_or(u32::MAX));
            }
        }
    }
}

/// So many turns a second, by the clock. Turns that were missed are not made up for.
#[derive(Debug)]
pub struct Turns {
    interval: Duration,
    next: Instant,
}

impl Turns {
    /// The first is due at once; 0 counts as 1.
    pub fn new(per_s: u32) -> Self {
        Turns {
            interval: Duration::from_secs(1) / per_s.max(1),
            next: Instant::now(),
        }
    }

    /// Sleeps until the next one.
    pub fn wait(&mut self) {
        let now = Instant::now();
        if let Some(left) = self.next.checked_duration_since(now) {
            thread::sleep(left);
        } else {
            self.next = now;
        }
        self.next += self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddr};

    fn socket() -> (UdpSocket, SocketAddrV4) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V4(address) = socket.local_addr().unwrap() else {
            panic!("an IPv4 address")
        };
        (socket, address)
    }

    #[test]
    fn every_question_has_its_answer() {
        let (socket_there, there) = socket();
        let _answerer = Answerer::start(socket_there).unwrap();
        let asker = Asker::start(socket().0, there, 200).unwrap();
        thread::sleep(Duration::from_millis(200));
        let answers = asker.end();
        assert_eq!(answers.missing, 0);
        assert!((1..=60).contains(&answers.micros.len()), "{answers:?}");
    }

    #[test]
    fn silence_is_counted() {
        let (_deaf, there) = socket();
        let asker = Asker::start(socket().0, there, 100).unwrap();
        thread::sleep(Duration::from_millis(50));
        let answers = asker.end();
        assert!(answers.missing > 0 && answers.micros.is_empty(), "{answers:?}");
    }

    #[test]
    fn missed_turns_are_not_made_up_for() {
        let mut turns = Turns::new(10);
        turns.wait();
        turns.next = Instant::now() - Duration::from_secs(5);
        turns.wait();
        assert!(turns.next > Instant::now(), "one late turn, not fifty");
    }
}
