//! What comes in from the other agent: opened where it arrived.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use tokio::io::Interest;
use tokio::net::TcpStream;
use transhume_trust::{Arrived, KernelOpener, Opened, Opener, Received, RecordError, WHOLE_BYTES_MAX};

use super::{invalid, ready};
use crate::limits::{PAGE_CHUNK_BYTES, TLS_EMPTY_RECORDS_MAX};

/// Who opens.
enum Opening {
    /// Nobody: it comes in the clear.
    Clear,
    Here(Box<Opener>),
    Kernel(KernelOpener),
}

/// What has arrived and was not taken yet.
pub(super) struct Incoming {
    opening: Opening,
    buffer: Vec<u8>,
    /// Arrived and not opened.
    start: usize,
    end: usize,
    /// Opened and not taken: where they lie.
    opened: VecDeque<Range<usize>>,
    /// Records without bytes, one after the other.
    empty: u32,
    closed: bool,
}

impl Incoming {
    pub fn new(opener: Option<Opener>, arrived: Arrived) -> Self {
        let Arrived { opened, sealed } = arrived;
        Incoming {
            opening: opener.map_or(Opening::Clear, |opener| Opening::Here(Box::new(opener))),
            start: opened.len(),
            end: opened.len() + sealed.len(),
            empty: 0,
            opened: std::iter::once(0..opened.len()).collect(),
            buffer: [opened, sealed].concat(),
            closed: false,
        }
    }

    /// From now on the kernel opens, where it is encrypted. Refused where sealed bytes were read
    /// already; after an error everything is as it was.
    pub fn hand_over(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        if let Opening::Here(opener) = &self.opening {
            if self.start < self.end {
                return Err(io::ErrorKind::ResourceBusy.into());
            }
            self.opening = Opening::Kernel(opener.hand_over(socket)?);
        }
        Ok(())
    }

    /// Reads what has come. Returns the bytes read, none at the end; None where nothing is ready.
    /// Everything before must have been taken.
    pub fn read(&mut self, stream: &TcpStream) -> io::Result<Option<usize>> {
        if self.closed {
            return Ok(Some(0));
        }
        // At most the front of one record.
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let room = PAGE_CHUNK_BYTES + WHOLE_BYTES_MAX;
        if self.buffer.len() < room {
            self.buffer.resize(room, 0);
        }
        let room = &mut self.buffer[self.end..];
        let read = match &mut self.opening {
            Opening::Clear | Opening::Here(_) => ready(stream.try_read(room))?,
            Opening::Kernel(opener) => loop {
                let read = || opener.read(stream.as_fd(), room);
                match ready(stream.try_io(Interest::READABLE, read))? {
                    None => break None,
                    Some(Received::Bytes(bytes @ 1..)) => {
                        self.empty = 0;
                        break Some(bytes);
                    }
                    // As of records that are opened here, so many at most in a row.
                    Some(Received::Bytes(_) | Received::Own) => {
                        self.empty += 1;
                        if self.empty > TLS_EMPTY_RECORDS_MAX {
                            return Err(invalid(RecordError::Empty));
                        }
                    }
                    Some(Received::Closed) => {
                        self.closed = true;
                        break Some(0);
                    }
                    Some(Received::Cut) => break Some(0),
                }
            },
        };
        self.end += read.unwrap_or(0);
        Ok(read)
    }

    /// Opens what is whole of what has arrived.
    pub fn open(&mut self) -> io::Result<()> {
        let Opening::Here(opener) = &mut self.opening else {
            self.opened.push_back(self.start..self.end);
            self.start = self.end;
            return Ok(());
        };
        while !self.closed {
            let arrived = &self.buffer[self.start..self.end];
            let length = opener.length(arrived).map_err(invalid)?;
            let Some(length) = length.filter(|length| *length <= arrived.len()) else {
                break;
            };
            let start = self.start;
            self.start += length;
            match opener
                .open(&mut self.buffer[start..start + length])
                .map_err(invalid)?
            {
                Opened::Bytes(bytes) if bytes.is_empty() => {
                    self.empty += 1;
                    if self.empty > TLS_EMPTY_RECORDS_MAX {
                        return Err(invalid(RecordError::Empty));
                    }
                }
                Opened::Bytes(bytes) => {
                    self.empty = 0;
                    self.opened.push_back(start + bytes.start..start + bytes.end);
                }
                Opened::Own => {}
                Opened::Closed => self.closed = true,
            }
        }
        Ok(())
    }

    /// What was opened, in its order.
    pub fn opened(&self) -> impl Iterator<Item = &[u8]> {
        self.opened.iter().map(|at| &self.buffer[at.clone()])
    }

    /// All of it is taken.
    pub fn take_all(&mut self) {
        self.opened.clear();
    }

    /// Takes at most so many bytes.
    pub fn take(&mut self, most: usize) -> Option<&[u8]> {
        while self.opened.front().is_some_and(Range::is_empty) {
            self.opened.pop_front();
        }
        let front = self.opened.front_mut()?;
        let taken = front.start..front.start + most.min(front.len());
        front.start = taken.end;
        Some(&self.buffer[taken])
    }

    /// Waits until the other agent has closed the connection, in whatever way, or says something
    /// behind its last word.
    pub async fn hung_up(&mut self, stream: &TcpStream) {
        let mut rest = [0; 64];
        while stream.readable().await.is_ok() {
            let read = match &mut self.opening {
                Opening::Clear | Opening::Here(_) => {
                    ready(stream.try_read(&mut rest)).map(|read| read.is_some())
                }
                Opening::Kernel(opener) => {
                    let read = || opener.read(stream.as_fd(), &mut rest);
                    ready(stream.try_io(Interest::READABLE, read)).map(|read| read.is_some())
                }
            };
            if !matches!(read, Ok(false)) {
                return;
            }
        }
    }

    /// Whether nothing follows, the last read having brought so many bytes. An error where TLS
    /// should have said so: what is missing may have been cut off.
    pub fn is_over(&self, read: usize) -> io::Result<bool> {
        let clear = matches!(self.opening, Opening::Clear);
        match (read, clear) {
            (0, false) if !self.closed => Err(io::ErrorKind::UnexpectedEof.into()),
            (0, _) => Ok(true),
            _ => Ok(self.closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use transhume_trust::testing::{pair, record};

    use super::*;

    fn arrived(records: impl IntoIterator<Item = &'static [u8]>) -> Incoming {
        let (mut sealer, opener) = pair();
        let sealed = records.into_iter().flat_map(|bytes| record(&mut sealer, bytes));
        let arrived = Arrived {
            opened: b"early ".to_vec(),
            sealed: sealed.collect(),
        };
        Incoming::new(Some(opener), arrived)
    }

    #[test]
    fn what_came_with_the_handshake_comes_first_and_empty_records_have_a_limit() {
        let mut incoming = arrived([&b"some"[..], b"", b" more"]);
        incoming.open().unwrap();
        assert_eq!(incoming.opened().collect::<Vec<_>>().concat(), b"early some more");
        assert_eq!(incoming.take(3), Some(&b"ear"[..]));
        assert_eq!(incoming.take(9), Some(&b"ly "[..]));
        incoming.take_all();
        assert_eq!(incoming.take(9), None);
        let empty = |count| arrived(std::iter::repeat_n(&b""[..], count)).open();
        empty(TLS_EMPTY_RECORDS_MAX as usize).unwrap();
        let error = empty(TLS_EMPTY_RECORDS_MAX as usize + 1).unwrap_err();
        assert!(error.to_string().contains("without bytes"), "{error}");
    }

    #[test]
    fn a_connection_that_ends_without_a_word_was_cut_where_it_is_encrypted() {
        let mut sealed = arrived([]);
        assert!(!sealed.is_over(7).unwrap());
        assert_eq!(
            sealed.is_over(0).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        sealed.closed = true;
        assert!(sealed.is_over(0).unwrap() && sealed.is_over(7).unwrap());
        let clear = Incoming::new(None, Arrived::default());
        assert!(clear.is_over(0).unwrap() && !clear.is_over(7).unwrap());
    }
}
