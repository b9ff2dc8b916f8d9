//! One tunnel's bytes on a socket that never blocks: in the clear, or in sealed records.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;

use transhume_trust::{
    Arrived, HEAD_BYTES, Keys, Opened, Opener, RECORD_BYTES_MAX, RecordError, Sealer, TAIL_BYTES,
    WHOLE_BYTES_MAX,
};

use crate::limits::{EMPTY_RECORDS_MAX, SEALED_BYTES_MAX, SEALED_WAITING_BYTES_MAX};

/// A connection whose other end is known.
pub(crate) struct Channel {
    stream: TcpStream,
    sealed: Option<Box<Sealed>>,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

struct Sealed {
    sealer: Sealer,
    opener: Opener,
    /// Sealed and not written: `written..`.
    out: Vec<u8>,
    written: usize,
    /// What has come: opened and not taken in `opened`, sealed in `start..end`.
    came: Vec<u8>,
    opened: Range<usize>,
    start: usize,
    end: usize,
    empty: u32,
    closed: bool,
}

fn invalid(error: RecordError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Interrupted system calls are made again.
fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

impl Channel {
    /// In the clear.
    pub(crate) fn clear(stream: TcpStream) -> Self {
        Self { stream, sealed: None }
    }

    /// Behind a handshake.
    pub(crate) fn sealed(stream: TcpStream, keys: Keys) -> Self {
        let Keys {
            sealer,
            opener,
            arrived: Arrived { opened, sealed },
            ..
        } = keys;
        let (start, end) = (opened.len(), opened.len() + sealed.len());
        let sealed = Sealed {
            sealer,
            opener,
            out: Vec::new(),
            written: 0,
            came: [opened, sealed].concat(),
            opened: 0..start,
            start,
            end,
            empty: 0,
            closed: false,
        };
        Self {
            stream,
            sealed: Some(Box::new(sealed)),
        }
    }

    /// To wait on.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether bytes wait here that the kernel did not take.
    pub(crate) fn has_unwritten(&self) -> bool {
        self.sealed
            .as_ref()
            .is_some_and(|sealed| sealed.written < sealed.out.len())
    }

    /// Whether bytes are here already that the kernel tells nothing of.
    pub(crate) fn has_unread(&self) -> bool {
        self.sealed.as_ref().is_some_and(|sealed| sealed.has_unread())
    }

    /// As [`Read::read`].
    pub(crate) fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match &mut self.sealed {
            None => again(|| self.stream.read(room)),
            Some(sealed) => sealed.read(&mut self.stream, room),
        }
    }

    /// As [`Write::write`]: what is taken goes out by this or the next call.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(sealed) = &mut self.sealed else {
            return again(|| self.stream.write(bytes));
        };
        sealed.flush(&mut self.stream)?;
        if sealed.written < sealed.out.len() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = &bytes[..bytes.len().min(SEALED_BYTES_MAX)];
        sealed.seal(taken)?;
        sealed.flush(&mut self.stream)?;
        Ok(taken.len())
    }

    /// Takes all of a few bytes, or breaks: a peer that does not read them is none.
    pub(crate) fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(sealed) = &mut self.sealed else {
            return match again(|| self.stream.write(bytes))? {
                length if length == bytes.len() => Ok(()),
                _ => Err(io::ErrorKind::WriteZero.into()),
            };
        };
        if sealed.out.len() - sealed.written > SEALED_WAITING_BYTES_MAX {
            return Err(io::ErrorKind::WriteZero.into());
        }
        sealed.seal(bytes)?;
        sealed.flush(&mut self.stream)
    }

    /// Writes what waits, as far as the kernel takes it.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match &mut self.sealed {
            None => Ok(()),
            Some(sealed) => sealed.flush(&mut self.stream),
        }
    }
}

impl Sealed {
    fn seal(&mut self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(RECORD_BYTES_MAX) {
            if self.sealer.is_worn() {
                let told = self.sealer.renew().map_err(invalid)?;
                self.out.extend(told);
            }
            let start = self.out.len();
            self.out.extend([0; HEAD_BYTES]);
            self.out.extend_from_slice(part);
            self.out.extend([0; TAIL_BYTES]);
            self.sealer.application(&mut self.out[start..]).map_err(invalid)?;
        }
        Ok(())
    }

    fn flush(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        while self.written < self.out.len() {
            match again(|| stream.write(&self.out[self.written..])) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => self.written += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    /// Length of the record in front, if it is whole.
    fn whole(&self) -> io::Result<Option<usize>> {
        let came = &self.came[self.start..self.end];
        let length = self.opener.length(came).map_err(invalid)?;
        Ok(length.filter(|length| *length <= came.len()))
    }

    fn has_unread(&self) -> bool {
        // One that is no record is to be read as well: that breaks the tunnel.
        !self.opened.is_empty() || (!self.closed && !matches!(self.whole(), Ok(None)))
    }

    /// Fills the room from what is here, then from what the kernel has; at most one read.
    fn read(&mut self, stream: &mut TcpStream, room: &mut [u8]) -> io::Result<usize> {
        let mut filled = self.take(room)?;
        if filled < room.len() && !self.closed {
            match self.fill(stream) {
                Ok(0) if filled == 0 => return Ok(0),
                Ok(_) => filled += self.take(&mut room[filled..])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && filled > 0 => {}
                Err(error) => return Err(error),
            }
        }
        match filled {
            0 if self.closed => Ok(0),
            0 => Err(io::ErrorKind::WouldBlock.into()),
            filled => Ok(filled),
        }
    }

    /// What is whole, opened and copied.
    fn take(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < room.len() {
            if self.opened.is_empty() && !self.open()? {
                break;
            }
            let length = self.opened.len().min(room.len() - filled);
            let from = self.opened.start;
            room[filled..filled + length].copy_from_slice(&self.came[from..from + length]);
            self.opened.start += length;
            filled += length;
        }
        Ok(filled)
    }

    /// Opens the next whole record that has bytes; false where there is none.
    fn open(&mut self) -> io::Result<bool> {
        while !self.closed
            && let Some(length) = self.whole()?
        {
            let start = self.start;
            self.start += length;
            match self
                .opener
                .open(&mut self.came[start..start + length])
                .map_err(invalid)?
            {
                Opened::Bytes(bytes) if bytes.is_empty() => {
                    self.empty += 1;
                    if self.empty > EMPTY_RECORDS_MAX {
                        return Err(invalid(RecordError::Empty));
                    }
                }
                Opened::Bytes(bytes) => {
                    self.empty = 0;
                    self.opened = start + bytes.start..start + bytes.end;
                    return Ok(true);
                }
                Opened::Own => {}
                Opened::Closed => self.closed = true,
            }
        }
        Ok(false)
    }

    /// Everything whole has been taken: at most the front of one record is left.
    fn fill(&mut self, stream: &mut TcpStream) -> io::Result<usize> {
        self.came.copy_within(self.start..self.end, 0);
        (self.start, self.end, self.opened) = (0, self.end - self.start, 0..0);
        let room = SEALED_BYTES_MAX + WHOLE_BYTES_MAX;
        if self.came.len() < room {
            self.came.resize(room, 0);
        }
        let read = again(|| stream.read(&mut self.came[self.end..]))?;
        self.end += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use transhume_trust::testing::pair;
    use transhume_trust::{Identity, Keys};

    use super::*;

    fn ends() -> (Channel, Channel) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let ((to, from), (back, forth)) = (pair(), pair());
        let end = |stream: TcpStream, sealer, opener| {
            stream.set_nonblocking(true).unwrap();
            let keys = Keys {
                sealer,
                opener,
                arrived: Arrived::default(),
                peer: Identity::Coordinator,
            };
            Channel::sealed(stream, keys)
        };
        (end(dialled, to, forth), end(accepted, back, from))
    }

    /// Megabytes through sockets of a few hundred KiB, into rooms of odd sizes.
    #[test]
    fn what_is_written_is_read_whole_and_in_order_whatever_fits() {
        let (mut source, mut target) = ends();
        let sent: Vec<u8> = (0..5_000_003u32).map(|number| (number / 3) as u8).collect();
        let (mut at, mut got) = (0, Vec::new());
        let mut rooms = [1usize, 17, 4096, 16_384, 300_000].into_iter().cycle();
        while got.len() < sent.len() {
            if at < sent.len() {
                match source.write(&sent[at..]) {
                    Ok(length) => at += length,
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            } else {
                source.flush().unwrap();
            }
            let mut room = vec![0; rooms.next().unwrap()];
            match target.read(&mut room) {
                Ok(length) => got.extend_from_slice(&room[..length]),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    assert!(!target.has_unread());
                }
            }
        }
        assert!(got == sent);
        assert!(!source.has_unwritten() && !target.has_unread());
    }

    #[test]
    fn a_peer_that_reads_no_answers_is_given_up() {
        let (mut source, _target) = ends();
        let broken = (0..10_000_000).any(|_| source.say(&[7; 16]).is_err());
        assert!(broken);
        assert!(source.sealed.unwrap().out.len() < 2 * SEALED_WAITING_BYTES_MAX + (1 << 20));
    }
}
