//! What the kernel knows of a TCP connection's sending: TCP_INFO (tcp(7); Linux
//! `include/uapi/linux/tcp.h`).

use std::io;
use std::os::fd::AsFd;

use crate::sys;

/// What a connection has brought to its peer's kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Bytes acknowledged since the connection began.
    pub bytes: u64,
    /// Bytes per second of the latest flight, from its departure to its acknowledgement. Pauses of
    /// either application are in no flight.
    pub bytes_per_second: u64,
    /// Microseconds, since the connection began, in which the receiver's window was full: its
    /// application did not read.
    pub receiver_limited_us: u64,
    /// The sender had nothing more to send while it was under way.
    pub sender_limited: bool,
}

impl Delivered {
    /// Asks the kernel; an error where `socket` is not TCP.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        sys::tcp_delivered(socket.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_the_peer_took_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        assert!(
            Delivered::of(&near).unwrap().bytes <= 1,
            "the handshake is all there was"
        );
        near.write_all(&[7; 20_000]).unwrap();
        far.read_exact(&mut [0; 20_000]).unwrap();
        // An answer carries the acknowledgement of what came before it.
        far.write_all(&[7]).unwrap();
        near.read_exact(&mut [0]).unwrap();
        let delivered = Delivered::of(&near).unwrap();
        assert!((20_000..=20_001).contains(&delivered.bytes), "{delivered:?}");
        assert!(
            delivered.bytes_per_second > 0 && delivered.sender_limited,
            "{delivered:?}"
        );
    }

    #[test]
    fn another_socket_is_refused() {
        let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(Delivered::of(&near).is_err());
    }
}
