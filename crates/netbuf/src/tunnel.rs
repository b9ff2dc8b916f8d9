//! The tunnel between the two buffers of a NIC: one connection, source to target (CT band).
//!
//! ```text
//!  TLS, both agents' certificates (docs/design/trust.md)
//!  source ──▶ target   hello: "THTUNNL3", epoch u64, header length u8, secret 16, MAC, NIC u8,
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

use std::io;
use std::net::TcpStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};
use transhume_model::{Endpoint, Secret};
use transhume_trust::{Handshake, Identity, Keys, Progress, Security};

use crate::channel::Channel;
use crate::config::NicIdentity;
use crate::frame::Signature;

const MAGIC: [u8; 8] = *b"THTUNNL3";
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

/// Where in a hello the length of the virtio-net header stands.
const VNET_AT: usize = 16;
/// Where the secret stands, and behind it what must be the same on both sides.
const SECRET_AT: usize = 17;
const IDENTITY_AT: usize = SECRET_AT + Secret::BYTES;
/// virtio-net headers that exist: legacy, with merged buffers, with hashes.
const VNET_BYTES: [u8; 3] = [10, 12, 20];

/// What a source says first, and what a target expects to hear.
pub(crate) fn hello(of: &NicIdentity, secret: &Secret, vnet_header_bytes: usize) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(of.epoch.0.to_be_bytes());
    bytes.push(vnet_header_bytes as u8);
    bytes.extend(secret.bytes());
    bytes.extend(of.mac.bytes());
    bytes.push(of.nic.0);
    bytes.push(of.vm.as_str().len() as u8);
    bytes.extend(of.vm.as_str().as_bytes());
    bytes
}

/// Length of the virtio-net header that a whole hello announces; an error unless it is as expected.
pub(crate) fn check_hello(found: &[u8], expected: &[u8]) -> io::Result<usize> {
    let refused = |why| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if found[..MAGIC.len()] != MAGIC {
        return refused("it speaks another version");
    }
    let secret = |hello: &[u8]| hello[SECRET_AT..IDENTITY_AT].try_into().map(Secret::new).ok();
    if secret(found) != secret(expected) {
        return refused("it does not know this move's secret");
    }
    // The epoch may be newer after a coordinator's restart; the NIC may not differ.
    if found[IDENTITY_AT..] != expected[IDENTITY_AT..] {
        return refused("it is another NIC's");
    }
    let vnet = found[VNET_AT];
    if !VNET_BYTES.contains(&vnet) {
        return refused("there are no virtio-net headers of that length");
    }
    Ok(usize::from(vnet))
}

/// A tunnel as its source has it.
#[derive(Debug)]
pub(crate) struct Connected {
    /// Non-blocking.
    pub(crate) channel: Channel,
    /// Number of the last record that the target has.
    pub(crate) have: u64,
    pub(crate) signature: Signature,
}

impl Connected {
    /// Whether the target's end is there, as far as is known here.
    pub(crate) fn is_open(&self) -> bool {
        match self.channel.stream().peek(&mut [0]) {
            Ok(length) => length > 0,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

/// Waits until a socket is ready; an error once it is too late.
fn await_ready(stream: &TcpStream, wanted: PollFlags, until: Instant) -> io::Result<()> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let left = Timespec::try_from(left).map_err(io::Error::other)?;
    match rustix::event::poll(&mut [PollFd::new(stream, wanted)], Some(&left)) {
        Err(error) if error != rustix::io::Errno::INTR => Err(error.into()),
        _ => Ok(()),
    }
}

/// Does what does not block, again and again until it is done or too late.
fn until_done<T>(
    stream: &TcpStream,
    wanted: PollFlags,
    until: Instant,
    mut attempt: impl FnMut(&TcpStream) -> io::Result<T>,
) -> io::Result<T> {
    loop {
        match attempt(stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => await_ready(stream, wanted, until)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Makes a handshake on a socket that does not block.
fn shake(stream: &TcpStream, mut handshake: Handshake, until: Instant) -> io::Result<Keys> {
    loop {
        let progress = handshake.advance();
        let mut told = std::mem::take(handshake.to_send());
        while !told.is_empty() {
            let written = until_done(stream, PollFlags::OUT, until, |mut stream| {
                io::Write::write(&mut stream, &told)
            });
            match (written, &progress) {
                (Ok(length), _) => drop(told.drain(..length)),
                // What refuses the peer counts, not that it did not wait for the reason.
                (Err(_), Err(_)) => break,
                (Err(error), Ok(_)) => return Err(error),
            }
        }
        match progress? {
            Progress::Send => {}
            Progress::Done => return handshake.finish(),
            Progress::Receive => {
                let mut bytes = [0; 4096];
                let read = until_done(stream, PollFlags::IN, until, |mut stream| {
                    io::Read::read(&mut stream, &mut bytes)
                })?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                handshake.received().extend_from_slice(&bytes[..read]);
            }
        }
    }
}

/// Connects to the target's buffer, by then or not at all.
pub(crate) fn connect(
    peer: &Endpoint,
    of: &NicIdentity,
    vnet_header_bytes: usize,
    security: &Security,
    until: Instant,
) -> io::Result<Connected> {
    let left = until.saturating_duration_since(Instant::now());
    let stream = TcpStream::connect_timeout(&peer.address, left)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let mut channel = match security {
        Security::Insecure => Channel::clear(stream),
        Security::Mutual(trust) => {
            let expects = Identity::Agent(peer.host.clone());
            let handshake = Handshake::client(&trust.current(), expects)?;
            let keys = shake(&stream, handshake, until)
                .map_err(|error| io::Error::other(transhume_trust::explain(&error)))?;
            Channel::sealed(stream, keys)
        }
    };
    channel.say(&hello(of, &peer.secret, vnet_header_bytes))?;
    while channel.has_unwritten() {
        await_ready(channel.stream(), PollFlags::OUT, until)?;
        channel.flush()?;
    }
    let Answer::Welcome(have) = hear(&mut channel, until)? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let Answer::Signed(signature) = hear(&mut channel, until)? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    Ok(Connected {
        channel,
        have,
        signature,
    })
}

fn hear(channel: &mut Channel, until: Instant) -> io::Result<Answer> {
    let (mut answer, mut heard) = ([0; ANSWER_BYTES], 0);
    while heard < ANSWER_BYTES {
        match channel.read(&mut answer[heard..]) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it turned us away")),
            Ok(length) => heard += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                await_ready(channel.stream(), PollFlags::IN, until)?;
            }
            Err(error) => return Err(error),
        }
    }
    Answer::parse(answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
