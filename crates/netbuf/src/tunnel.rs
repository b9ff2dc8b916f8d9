//! The tunnel between the two buffers of a NIC: one TCP connection, source to target (CT band).
//!
//! ```text
//!  source ──▶ target   hello: "THTUNNL2", epoch u64, header length u8, MAC, NIC u8,
//!                      name length u8, name
//!  target ──▶ source   welcome(number of the last record it has), signature(number)
//!  source ──▶ target   records as they lie in the spool, from that number on
//!  target ──▶ source   delivered(number), flooding-on
//! ```
//!
//! The hello is big endian. Answers are 16 bytes each: kind u32, 0 u32, number u64, little endian.
//!
//! A broken connection is taken up again by number after commit; before commit it is a fault of the
//! batch. What the target had answered before the break it answers again.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::config::NicIdentity;
use crate::frame::Signature;
use crate::limits::{GREETINGS_MAX, HANDSHAKE_WAIT};

const MAGIC: [u8; 8] = *b"THTUNNL2";
/// Bytes of an answer.
pub(crate) const ANSWER_BYTES: usize = 16;

/// Target → source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The last record the target has.
    Welcome(u64),
    /// The last record that is in the guest's ring.
    Delivered(u64),
    /// The target's port gets what the fabric floods.
    FloodingOn,
    /// What the target signs its announcements with.
    Signed(Signature),
}

impl Answer {
    pub(crate) fn bytes(self) -> [u8; ANSWER_BYTES] {
        let (kind, number) = match self {
            Answer::Welcome(number) => (1u32, number),
            Answer::Delivered(number) => (2, number),
            Answer::FloodingOn => (3, 0),
            Answer::Signed(Signature(number)) => (4, number),
        };
        let mut bytes = [0; ANSWER_BYTES];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    pub(crate) fn parse(bytes: [u8; ANSWER_BYTES]) -> Option<Self> {
        let number = u64::from_le_bytes(bytes[8..].try_into().expect("eight bytes"));
        match u32::from_le_bytes(bytes[..4].try_into().expect("four bytes")) {
            1 => Some(Answer::Welcome(number)),
            2 => Some(Answer::Delivered(number)),
            3 => Some(Answer::FloodingOn),
            4 => Some(Answer::Signed(Signature(number))),
            _ => None,
        }
    }
}

/// Offset of the part of a hello that must be the same on both sides.
const IDENTITY_AT: usize = 17;
/// virtio-net headers that exist: legacy, with merged buffers, with hashes.
const VNET_BYTES: [u8; 3] = [10, 12, 20];

fn hello(of: &NicIdentity, vnet_header_bytes: usize) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(of.epoch.0.to_be_bytes());
    bytes.push(vnet_header_bytes as u8);
    bytes.extend(of.mac.bytes());
    bytes.push(of.nic.0);
    bytes.push(of.vm.as_str().len() as u8);
    bytes.extend(of.vm.as_str().as_bytes());
    bytes
}

/// A tunnel as its source has it.
#[derive(Debug)]
pub(crate) struct Connected {
    /// Non-blocking.
    pub(crate) stream: TcpStream,
    /// Number of the last record that the target has.
    pub(crate) have: u64,
    pub(crate) signature: Signature,
}

impl Connected {
    /// Whether the target's end is there, as far as is known here.
    pub(crate) fn is_open(&self) -> bool {
        match self.stream.peek(&mut [0]) {
            Ok(length) => length > 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

/// Connects to the target's buffer; each step waits at most `wait`.
pub(crate) fn connect(
    peer: SocketAddr,
    of: &NicIdentity,
    vnet_header_bytes: usize,
    wait: Duration,
) -> io::Result<Connected> {
    let mut stream = TcpStream::connect_timeout(&peer, wait)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(wait))?;
    stream.write_all(&hello(of, vnet_header_bytes))?;
    let mut answer = [0; ANSWER_BYTES];
    stream.read_exact(&mut answer)?;
    let Some(Answer::Welcome(have)) = Answer::parse(answer) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    stream.read_exact(&mut answer)?;
    let Some(Answer::Signed(signature)) = Answer::parse(answer) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    stream.set_nonblocking(true)?;
    Ok(Connected {
        stream,
        have,
        signature,
    })
}

/// A connection that has not said yet whose it is.
#[derive(Debug)]
struct Greeting {
    stream: TcpStream,
    peer: SocketAddr,
    since: Instant,
    hello: Vec<u8>,
}

/// The connections to a target's buffer that have not said yet whose they are. None is waited for:
/// a stranger who says nothing keeps no frame from the guest.
#[derive(Debug)]
pub(crate) struct Greetings {
    expected: Vec<u8>,
    waiting: Vec<Greeting>,
}

/// A tunnel as its target has it.
#[derive(Debug)]
pub(crate) struct Greeted {
    /// Non-blocking.
    pub(crate) stream: TcpStream,
    /// Length of the virtio-net header in front of its frames.
    pub(crate) vnet_header_bytes: usize,
}

impl Greetings {
    pub(crate) fn of(of: &NicIdentity) -> Self {
        Self {
            expected: hello(of, 0),
            waiting: Vec::new(),
        }
    }

    /// What to wait for until one of them may say more.
    pub(crate) fn streams(&self) -> impl Iterator<Item = &TcpStream> {
        self.waiting.iter().map(|greeting| &greeting.stream)
    }

    /// A new connection; the oldest makes room for it.
    pub(crate) fn add(&mut self, stream: TcpStream, peer: SocketAddr, now: Instant) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        if self.waiting.len() == GREETINGS_MAX {
            self.waiting.remove(0);
        }
        self.waiting.push(Greeting {
            stream,
            peer,
            since: now,
            hello: Vec::new(),
        });
        Ok(())
    }

    /// Takes what they have said: the newest connection of the right NIC, if there is one. Whoever
    /// says anything else, or nothing for too long, is turned away.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Greeted> {
        let mut greeted = None;
        for mut greeting in std::mem::take(&mut self.waiting) {
            match greeting.hear(&self.expected) {
                Ok(Some(vnet_header_bytes)) => {
                    greeted = Some(Greeted {
                        stream: greeting.stream,
                        vnet_header_bytes,
                    });
                }
                Ok(None) if now - greeting.since < HANDSHAKE_WAIT => self.waiting.push(greeting),
                Ok(None) => tracing::warn!(peer = %greeting.peer, "turned away a tunnel that says nothing"),
                Err(error) => tracing::warn!(peer = %greeting.peer, "turned away a tunnel: {error}"),
            }
        }
        greeted
    }
}

impl Greeting {
    /// Reads what is there of the hello; the length of its virtio-net header once it is whole.
    fn hear(&mut self, expected: &[u8]) -> io::Result<Option<usize>> {
        while self.hello.len() < expected.len() {
            let mut rest = vec![0; expected.len() - self.hello.len()];
            match self.stream.read(&mut rest) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.hello.extend(&rest[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let vnet = self.hello[IDENTITY_AT - 1];
        // The epoch may be newer after a coordinator's restart; the NIC may not differ.
        let same = self.hello[..MAGIC.len()] == MAGIC && self.hello[IDENTITY_AT..] == expected[IDENTITY_AT..];
        if !same || !VNET_BYTES.contains(&vnet) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Some(usize::from(vnet)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    use transhume_model::{Epoch, NicIndex};

    fn nic(vm: &str) -> NicIdentity {
        NicIdentity {
            vm: vm.parse().unwrap(),
            nic: NicIndex(0),
            mac: "52:54:00:00:00:01".parse().unwrap(),
            epoch: Epoch(4),
        }
    }

    #[test]
    fn answers_survive_the_wire() {
        for answer in [
            Answer::Welcome(7),
            Answer::Delivered(u64::MAX),
            Answer::FloodingOn,
            Answer::Signed(Signature(9)),
        ] {
            assert_eq!(Answer::parse(answer.bytes()), Some(answer));
        }
        assert_eq!(Answer::parse([9; ANSWER_BYTES]), None);
    }

    /// A listener of VM vm1 and its greetings.
    struct Door(TcpListener, Greetings);

    impl Door {
        fn open() -> Self {
            Self(
                TcpListener::bind("127.0.0.1:0").unwrap(),
                Greetings::of(&nic("vm1")),
            )
        }

        fn peer(&self) -> SocketAddr {
            self.0.local_addr().unwrap()
        }

        fn accept(&mut self) {
            let (stream, peer) = self.0.accept().unwrap();
            self.1.add(stream, peer, Instant::now()).unwrap();
        }

        /// Looks until a tunnel is greeted or all were turned away.
        fn greet(&mut self) -> Option<Greeted> {
            loop {
                let greeted = self.1.take(Instant::now());
                if greeted.is_some() || self.1.waiting.is_empty() {
                    return greeted;
                }
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn only_the_same_nic_is_welcome() {
        let mut door = Door::open();
        let peer = door.peer();
        for (name, fits) in [("vm1", true), ("vm2", false)] {
            let caller = std::thread::spawn(move || connect(peer, &nic(name), 12, HANDSHAKE_WAIT));
            door.accept();
            let mut greeted = door.greet();
            assert_eq!(greeted.is_some(), fits);
            if let Some(Greeted { stream, .. }) = &mut greeted {
                for answer in [Answer::Welcome(42), Answer::Signed(Signature(9))] {
                    stream.write_all(&answer.bytes()).unwrap();
                }
            }
            let connected = caller.join().unwrap().ok();
            let heard = connected.map(|tunnel| (tunnel.have, tunnel.signature));
            assert_eq!(heard, fits.then_some((42, Signature(9))));
        }
    }

    #[test]
    fn a_stranger_who_says_nothing_is_not_waited_for() {
        let mut door = Door::open();
        let silent = TcpStream::connect(door.peer()).unwrap();
        door.accept();
        let mut source = TcpStream::connect(door.peer()).unwrap();
        door.accept();
        source.write_all(&hello(&nic("vm1"), 12)).unwrap();
        assert!(door.greet().is_some());
        assert_eq!(door.1.waiting.len(), 1, "the stranger has time left");
        let later = Instant::now() + HANDSHAKE_WAIT;
        assert!(door.1.take(later).is_none());
        assert_eq!(door.1.waiting.len(), 0, "and has had its time");
        drop(silent);
    }

    #[test]
    fn many_strangers_make_room_for_each_other() {
        let mut door = Door::open();
        let strangers: Vec<_> = (0..2 * GREETINGS_MAX)
            .map(|_| {
                let stranger = TcpStream::connect(door.peer()).unwrap();
                door.accept();
                stranger
            })
            .collect();
        assert_eq!(door.1.waiting.len(), GREETINGS_MAX);
        drop(strangers);
    }
}
