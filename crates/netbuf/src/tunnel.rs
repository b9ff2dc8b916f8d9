//! The tunnel between the two buffers of a NIC: one TCP connection, source to target (CT band).
//!
//! ```text
//!  source ──▶ target   hello: "THTUNNL1", epoch u64, header length u8, MAC, NIC u8, name length u8, name   (big endian)
//!  target ──▶ source   welcome(number of the last record it has)
//!  source ──▶ target   records as they lie in the spool, from that number on
//!  target ──▶ source   delivered(number), flooding-on        16 bytes each: kind u32, 0 u32, number u64 (little endian)
//! ```
//!
//! A broken connection is taken up again by number after commit; before commit it is a fault of the batch.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use transhume_model::{Epoch, Mac, NicIndex, VmName};

const MAGIC: [u8; 8] = *b"THTUNNL1";
/// Longest wait for the other end while connecting.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);
/// Bytes of an answer.
pub(crate) const ANSWER_BYTES: usize = 16;

/// Whose frames a tunnel carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicIdentity {
    /// The VM.
    pub vm: VmName,
    /// Which of its NICs.
    pub nic: NicIndex,
    /// Its address.
    pub mac: Mac,
    /// Attempt this buffer belongs to.
    pub epoch: Epoch,
}

/// Target → source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The last record the target has.
    Welcome(u64),
    /// The last record that is in the guest's ring.
    Delivered(u64),
    /// The target's port gets what the fabric floods.
    FloodingOn,
}

impl Answer {
    pub(crate) fn bytes(self) -> [u8; ANSWER_BYTES] {
        let (kind, number) = match self {
            Answer::Welcome(number) => (1u32, number),
            Answer::Delivered(number) => (2, number),
            Answer::FloodingOn => (3, 0),
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

/// Connects to the target's buffer; returns the tunnel, non-blocking, and the last record the target has.
pub(crate) fn connect(
    peer: SocketAddr,
    of: &NicIdentity,
    vnet_header_bytes: usize,
) -> io::Result<(TcpStream, u64)> {
    let mut stream = TcpStream::connect_timeout(&peer, HANDSHAKE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HANDSHAKE))?;
    stream.write_all(&hello(of, vnet_header_bytes))?;
    let mut answer = [0; ANSWER_BYTES];
    stream.read_exact(&mut answer)?;
    let Some(Answer::Welcome(number)) = Answer::parse(answer) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    stream.set_nonblocking(true)?;
    Ok((stream, number))
}

/// Checks a peer's hello and welcomes it; anything but the very same NIC is an error, and the connection is dropped.
/// Returns the tunnel, non-blocking, and the length of the virtio-net header in front of its frames.
pub(crate) fn welcome(mut stream: TcpStream, of: &NicIdentity, have: u64) -> io::Result<(TcpStream, usize)> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HANDSHAKE))?;
    let expected = hello(of, 0);
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes)?;
    let vnet = bytes[IDENTITY_AT - 1];
    // The epoch may be newer after a coordinator's restart; the NIC may not differ.
    let same = bytes[..MAGIC.len()] == MAGIC && bytes[IDENTITY_AT..] == expected[IDENTITY_AT..];
    if !same || !VNET_BYTES.contains(&vnet) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stream.write_all(&Answer::Welcome(have).bytes())?;
    stream.set_nonblocking(true)?;
    Ok((stream, usize::from(vnet)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

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
        ] {
            assert_eq!(Answer::parse(answer.bytes()), Some(answer));
        }
        assert_eq!(Answer::parse([9; ANSWER_BYTES]), None);
    }

    #[test]
    fn only_the_same_nic_is_welcome() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = listener.local_addr().unwrap();
        for (name, fits) in [("vm1", true), ("vm2", false)] {
            let caller = std::thread::spawn(move || connect(peer, &nic(name), 12).map(|(_, number)| number));
            let welcomed = welcome(listener.accept().unwrap().0, &nic("vm1"), 42);
            assert_eq!(welcomed.is_ok(), fits);
            drop(welcomed);
            assert_eq!(caller.join().unwrap().ok(), fits.then_some(42));
        }
    }
}
