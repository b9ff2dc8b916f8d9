//! A connection between two agents, in the clear or encrypted.

use std::io;
use std::os::fd::AsFd;

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

    /// The kernel seals and opens what follows, as far as it does; nothing may be under way. What
    /// it does not do stays here.
    pub fn hand_over(&mut self) {
        let socket = self.stream.as_fd();
        let (sent, received) = (self.outgoing.hand_over(socket), self.incoming.hand_over(socket));
        for error in sent.err().into_iter().chain(received.err()) {
            tracing::warn!(%error, "the kernel does not take the keys of a page stream; the agent keeps them");
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

    /// Closes this direction: everything is written. Where the kernel seals, the other end has been
    /// told, and that is all.
    pub fn shut(&self) -> io::Result<()> {
        if self.outgoing.is_in_kernel() {
            return Ok(());
        }
        rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write).map_err(io::Error::from)
    }

    /// Sends a few bytes and waits until the kernel has them.
    pub async fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.outgoing.push(bytes)?;
        while !self.outgoing.is_empty() {
            self.stream.writable().await?;
            self.outgoing.write(&self.stream, usize::MAX)?;
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

/// On a kernel that carries TLS these are its records, elsewhere the agent's
/// (`scripts/deep/tls.sh` runs them on one that does).
#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;
    use transhume_trust::testing::pair_worn_after;
    use transhume_trust::{Identity, Opener, RECORD_BYTES_MAX, Sealer};

    use super::*;

    fn end(stream: TcpStream, sealer: Sealer, opener: Opener) -> Connection {
        let arrived = Arrived::default();
        let peer = Identity::Coordinator;
        let keys = Keys {
            sealer,
            opener,
            arrived,
            peer,
        };
        Connection::sealed(stream, keys)
    }

    /// Two ends whose keys are worn after so many records; where `kernel` says so, it has them.
    async fn ends(records: u64, kernel: [bool; 2]) -> [Connection; 2] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let ((there, hears_there), (back, hears_back)) = (pair_worn_after(records), pair_worn_after(records));
        let mut ends = [end(dialled, there, hears_back), end(accepted, back, hears_there)];
        for (end, _) in ends.iter_mut().zip(kernel).filter(|(_, kernel)| *kernel) {
            end.hand_over();
        }
        ends
    }

    fn noise(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|at| (at * 31 + at / 251) as u8).collect()
    }

    #[tokio::test]
    async fn each_end_seals_and_opens_here_or_in_the_kernel() {
        for kernel in [[true, true], [true, false], [false, true], [false, false]] {
            let [mut one, mut other] = ends(u64::MAX, kernel).await;
            for bytes in [1, 500, RECORD_BYTES_MAX, 5 * RECORD_BYTES_MAX + 7] {
                let (said, mut heard) = (noise(bytes), vec![0; bytes]);
                let both = tokio::join!(one.say(&said), other.hear(&mut heard));
                both.0.and(both.1).unwrap();
                assert!(said == heard, "{kernel:?}");
                let (said, mut heard) = (noise(bytes * 2), vec![0; bytes * 2]);
                let both = tokio::join!(other.say(&said), one.hear(&mut heard));
                both.0.and(both.1).unwrap();
                assert!(said == heard, "{kernel:?}");
            }
        }
    }

    #[tokio::test]
    async fn keys_are_renewed_behind_what_was_written() {
        for kernel in [[true, true], [true, false], [false, true]] {
            let [mut one, mut other] = ends(3, kernel).await;
            for number in 1..40 {
                let (said, mut heard) = (noise(number * 997), vec![0; number * 997]);
                let both = tokio::join!(one.say(&said), other.hear(&mut heard));
                both.0.and(both.1).unwrap();
                assert!(said == heard, "{kernel:?}");
            }
        }
    }

    #[tokio::test]
    async fn an_end_is_told_and_a_cut_is_none() {
        for told in [true, false] {
            let [mut one, mut other] = ends(u64::MAX, [true; 2]).await;
            one.say(b"last").await.unwrap();
            if told {
                one.outgoing.close().unwrap();
                while !one.outgoing.is_empty() {
                    one.stream.writable().await.unwrap();
                    one.outgoing.write(&one.stream, usize::MAX).unwrap();
                }
            }
            drop(one);
            other.hear(&mut [0; 4]).await.unwrap();
            let over = loop {
                other.stream.readable().await.unwrap();
                let Some(read) = other.incoming.read(&other.stream).unwrap() else {
                    continue;
                };
                other.incoming.open().unwrap();
                match other.incoming.is_over(read) {
                    Ok(false) => {}
                    over => break over,
                }
            };
            assert_eq!(over.is_ok(), told, "{over:?}");
        }
    }

    /// Whoever has read ahead opens what it has read.
    #[tokio::test]
    async fn what_was_read_ahead_is_opened_by_whom_it_was_read() {
        let [mut one, mut other] = ends(u64::MAX, [false; 2]).await;
        let whole = noise(3 * RECORD_BYTES_MAX);
        one.say(&whole).await.unwrap();
        let mut heard = vec![0; whole.len()];
        other.hear(&mut heard[..1]).await.unwrap();
        other.hand_over();
        other.hear(&mut heard[1..]).await.unwrap();
        assert!(whole == heard);
    }

    #[tokio::test]
    async fn a_record_that_is_missing_is_found() {
        let [mut one, mut other] = ends(u64::MAX, [false; 2]).await;
        one.say(b"some").await.unwrap();
        let mut record = [0; 64];
        other.stream.readable().await.unwrap();
        assert!(other.stream.try_read(&mut record).unwrap() > 4);
        one.hand_over();
        other.hand_over();
        one.say(b"more").await.unwrap();
        let refused = other.hear(&mut [0; 4]).await.unwrap_err();
        assert_eq!(refused.to_string(), "a TLS record is damaged");
    }
}
