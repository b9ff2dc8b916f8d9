//! One byte stream per pair that must not break: both ends send a sequence that the other end
//! checks byte by byte.
//!
//! The VM with the lower index connects, once: a stream that ends or carries a wrong byte stays
//! broken.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use transhume_guest::settings::Settings;
use transhume_guest::wire::TcpStats;

use super::Mesh;
use super::account::Silence;

const PORT: u16 = 7801;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_RETRY: Duration = Duration::from_millis(200);
/// One piece per stream and interval. Small enough for one segment at an MTU of 68.
const PIECE_BYTES: usize = 16;
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// A VM sends at most one piece in this time over all its streams.
const INTERVAL_PER_STREAM: Duration = Duration::from_millis(50);
/// Bytes read from one stream in one step.
const READ_PER_STEP_MAX: usize = 4096;

/// All streams of this VM.
pub struct Streams {
    listener: TcpListener,
    unnamed: Vec<TcpStream>,
    streams: Vec<Stream>,
    interval: Duration,
    last_send: Duration,
}

struct Stream {
    index: u16,
    socket: Option<TcpStream>,
    connected: bool,
    broken: bool,
    sent: u64,
    received: u64,
    silence: Silence,
}

/// The byte at a place of the sequence that `from` sends to `to`.
fn expected(from: u16, to: u16, offset: u64) -> u8 {
    let x = offset
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(u64::from(from) << 16 | u64::from(to));
    (x ^ (x >> 29) ^ (x >> 47)) as u8
}

impl Streams {
    pub fn new(partners: &[u16]) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
        listener.set_nonblocking(true)?;
        let streams = partners
            .iter()
            .map(|&index| Stream::new(index))
            .collect::<Vec<_>>();
        Ok(Streams {
            listener,
            unnamed: Vec::new(),
            interval: INTERVAL_MIN.max(INTERVAL_PER_STREAM * partners.len() as u32),
            streams,
            last_send: Duration::ZERO,
        })
    }

    pub fn tick(&mut self, me: u16, now: Duration) {
        self.accept();
        let due = now.saturating_sub(self.last_send) >= self.interval;
        if due {
            self.last_send = now;
        }
        for stream in &mut self.streams {
            if let Err(_error) = stream.step(me, due, now) {
                stream.broken = true;
                stream.socket = None;
            }
        }
    }

    /// A stream names its sender with its first two bytes.
    fn accept(&mut self) {
        if self.streams.iter().all(|stream| stream.connected) {
            return;
        }
        while let Ok((socket, _)) = self.listener.accept() {
            if socket.set_nonblocking(true).is_ok() && self.unnamed.len() < self.streams.len() {
                self.unnamed.push(socket);
            }
        }
        let mut waiting = Vec::new();
        for mut socket in std::mem::take(&mut self.unnamed) {
            let mut name = [0; 2];
            match socket.peek(&mut name) {
                Ok(2) => {
                    let named = socket.read_exact(&mut name).is_ok();
                    let index = u16::from_be_bytes(name);
                    if named {
                        self.adopt(index, socket);
                    }
                }
                Ok(1) => waiting.push(socket),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => waiting.push(socket),
                // Ended before it said its name: the other side connects again.
                Ok(_) | Err(_) => {}
            }
        }
        self.unnamed = waiting;
    }

    pub fn adopt(&mut self, index: u16, socket: TcpStream) {
        if let Some(stream) = self.streams.iter_mut().find(|s| s.index == index && !s.connected) {
            stream.connected = true;
            stream.socket = Some(socket);
        }
    }

    pub fn reset_stalls(&mut self) {
        for stream in &mut self.streams {
            stream.silence.reset();
        }
    }

    pub fn stats(&self, now: Duration) -> Vec<TcpStats> {
        self.streams.iter().map(|stream| stream.stats(now)).collect()
    }
}

impl Stream {
    fn new(index: u16) -> Self {
        Stream {
            index,
            socket: None,
            connected: false,
            broken: false,
            sent: 0,
            received: 0,
            silence: Silence::default(),
        }
    }

    fn step(&mut self, me: u16, due: bool, now: Duration) -> io::Result<()> {
        let Some(mut socket) = self.socket.as_ref() else {
            return Ok(());
        };
        if due {
            let piece: [u8; PIECE_BYTES] =
                std::array::from_fn(|i| expected(me, self.index, self.sent + i as u64));
            match socket.write(&piece) {
                Ok(written) => self.sent += written as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let mut buffer = [0; READ_PER_STEP_MAX];
        let length = match socket.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        for &byte in &buffer[..length] {
            if byte != expected(self.index, me, self.received) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.received += 1;
        }
        self.silence.heard(now);
        Ok(())
    }

    fn stats(&self, now: Duration) -> TcpStats {
        TcpStats {
            index: self.index,
            connected: self.connected,
            broken: self.broken,
            bytes_sent: self.sent,
            bytes_received: self.received,
            stall_ms: self.silence.longest(now).as_millis() as u64,
        }
    }
}

/// Connects to all partners with a higher index, in a thread of its own: connecting blocks.
pub fn connect_all(settings: &Settings, partners: &[u16], mesh: &Arc<Mutex<Mesh>>) {
    let me = settings.index;
    let mut missing: Vec<(u16, SocketAddr)> = partners
        .iter()
        .filter(|&&index| index > me)
        .map(|&index| {
            (
                index,
                SocketAddr::from((settings.peers[usize::from(index)], PORT)),
            )
        })
        .collect();
    let mesh = Arc::clone(mesh);
    thread::spawn(move || {
        while !missing.is_empty() {
            missing.retain(|&(index, address)| match connect(me, address) {
                Ok(socket) => {
                    mesh.lock()
                        .expect("no holder panics")
                        .streams
                        .adopt(index, socket);
                    false
                }
                Err(_) => true,
            });
            thread::sleep(CONNECT_RETRY);
        }
    });
}

fn connect(me: u16, address: SocketAddr) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    socket.set_nodelay(true)?;
    socket.write_all(&me.to_be_bytes())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_or_foreign_sequence_is_noticed_at_once() {
        let sequence = |from, to, start| {
            (start..start + 16)
                .map(move |o| expected(from, to, o))
                .collect::<Vec<_>>()
        };
        let right = sequence(1, 2, 1000);
        for other in [
            sequence(1, 2, 1001),
            sequence(2, 1, 1000),
            sequence(1, 2, 1000 + 256),
        ] {
            assert_ne!(right, other);
        }
    }
}
