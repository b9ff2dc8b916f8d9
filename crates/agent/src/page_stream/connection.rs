//! A connection between two agents, in the clear or encrypted.

use std::io;

use tokio::net::TcpStream;
use transhume_trust::{Arrived, Keys};

use super::incoming::Incoming;
use super::outgoing::Outgoing;

/// Both directions.
pub(super) struct Connection {
    pub stream: TcpStream,
    pub outgoing: Outgoing,
    pub incoming: Incoming,
}

impl Connection {
    /// In the clear.
    pub fn clear(stream: TcpStream) -> Self {
        Connection {
            stream,
            outgoing: Outgoing::new(None),
            incoming: Incoming::new(None, Arrived::default()),
        }
    }

    /// Encrypted, behind a handshake.
    pub fn sealed(stream: TcpStream, keys: Keys) -> Self {
        let Keys {
            sealer,
            opener,
            arrived,
            ..
        } = keys;
        Connection {
            stream,
            outgoing: Outgoing::new(Some(sealer)),
            incoming: Incoming::new(Some(opener), arrived),
        }
    }

    /// For the reactor of the runtime that this is called in, the greeting being over.
    pub fn here(mut self) -> io::Result<Self> {
        if self.incoming.opened().any(|bytes| !bytes.is_empty()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the other agent sent more before it was welcome",
            ));
        }
        self.incoming.take_all();
        self.stream = TcpStream::from_std(self.stream.into_std()?)?;
        Ok(self)
    }

    /// Closes this direction: everything is written.
    pub fn shut(&self) -> io::Result<()> {
        rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write).map_err(io::Error::from)
    }

    /// Sends a few bytes and waits until the kernel has them.
    pub async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.outgoing.push(bytes)?;
        while !self.outgoing.is_empty() {
            self.stream.writable().await?;
            self.outgoing.write(&self.stream)?;
        }
        Ok(())
    }

    /// Waits for exactly so many bytes, and looks at none.
    pub async fn pass_over(&mut self, bytes: usize) -> io::Result<()> {
        let mut left = bytes;
        while left > 0 {
            self.incoming.open()?;
            match self.incoming.take(left) {
                Some(part) => left -= part.len(),
                None => self.more().await?,
            }
        }
        Ok(())
    }

    async fn more(&mut self) -> io::Result<()> {
        self.stream.readable().await?;
        match self.incoming.read(&self.stream)? {
            Some(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Waits for exactly so many bytes.
    pub async fn hear(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let mut heard = 0;
        while heard < bytes.len() {
            self.incoming.open()?;
            if let Some(part) = self.incoming.take(bytes.len() - heard) {
                bytes[heard..heard + part.len()].copy_from_slice(part);
                heard += part.len();
                continue;
            }
            self.more().await?;
        }
        Ok(())
    }
}
