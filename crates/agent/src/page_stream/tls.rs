//! The handshake of a page stream, on a socket of tokio's.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use transhume_trust::{Handshake, Progress};

use super::connection::Connection;

/// Makes a handshake; what follows is sealed.
pub(super) async fn shake(mut stream: TcpStream, mut handshake: Handshake) -> io::Result<Connection> {
    loop {
        let progress = handshake.advance();
        let told = std::mem::take(handshake.to_send());
        let sent = stream.write_all(&told).await;
        // What refuses the peer counts, not that it did not wait for the reason.
        let progress = progress?;
        sent?;
        match progress {
            Progress::Send => {}
            Progress::Receive => {
                if stream.read_buf(handshake.received()).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Progress::Done => return Ok(Connection::sealed(stream, handshake.finish()?)),
        }
    }
}
