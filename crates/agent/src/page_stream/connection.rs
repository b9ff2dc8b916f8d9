//! A connection between two agents: what goes out is laid out and sealed where it was read, what
//! comes in is opened where it arrived.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::ops::Range;

use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use transhume_pages::wire::PLAIN_HEAD_BYTES;

use super::records::{
    HEAD_BYTES, Opened, Opener, RECORD_BYTES_MAX, RecordError, Sealer, TAIL_BYTES, WHOLE_BYTES_MAX,
};
use super::tls::Arrived;
use crate::limits::{PAGE_CHUNK_BYTES, PAGE_OUTGOING_BYTES_MAX, TLS_EMPTY_RECORDS_MAX};

/// A larger buffer is not kept once it is empty.
const PAGE_OUTGOING_KEPT_BYTES_MAX: usize = 1 << 20;
/// Records that one read of QEMU may fill.
const RECORDS_MAX: usize = (PLAIN_HEAD_BYTES + PAGE_CHUNK_BYTES).div_ceil(RECORD_BYTES_MAX);

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

    /// Encrypted; `arrived` is what came behind the handshake.
    pub fn sealed(stream: TcpStream, sealer: Sealer, opener: Opener, arrived: Arrived) -> Self {
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
            self.stream.readable().await?;
            if self.incoming.read(&self.stream)? == Some(0) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

fn refused(error: RecordError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// None where the socket is not ready.
fn ready<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// What waits to be written.
pub(super) struct Outgoing {
    sealer: Option<Sealer>,
    /// Never shortened: memory that is there needs not be set again.
    buffer: Vec<u8>,
    written: usize,
    end: usize,
}

impl Outgoing {
    fn new(sealer: Option<Sealer>) -> Self {
        Outgoing {
            sealer,
            buffer: Vec::new(),
            written: 0,
            end: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Bytes on the wire.
    pub fn len(&self) -> usize {
        self.end - self.written
    }

    /// Whether as much waits as may.
    pub fn is_full(&self) -> bool {
        self.len() >= PAGE_OUTGOING_BYTES_MAX
    }

    /// So many bytes behind what waits, which may be moved for it.
    fn append(&mut self, bytes: usize) -> &mut [u8] {
        if self.written > 0 && self.end + bytes > self.buffer.len() {
            self.buffer.copy_within(self.written..self.end, 0);
            (self.written, self.end) = (0, self.end - self.written);
        }
        let start = self.end;
        self.end += bytes;
        if self.buffer.len() < self.end {
            self.buffer.resize(self.end, 0);
        }
        &mut self.buffer[start..self.end]
    }

    /// Copies bytes behind what waits.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.sealer.is_none() {
            self.append(bytes.len()).copy_from_slice(bytes);
            return Ok(());
        }
        for part in bytes.chunks(RECORD_BYTES_MAX) {
            self.renew_worn_key()?;
            let record = HEAD_BYTES + part.len() + TAIL_BYTES;
            self.append(record)[HEAD_BYTES..][..part.len()].copy_from_slice(part);
            if let Some(sealer) = &mut self.sealer {
                sealer
                    .application(&mut self.buffer[self.end - record..self.end])
                    .map_err(refused)?;
            }
        }
        Ok(())
    }

    fn renew_worn_key(&mut self) -> io::Result<()> {
        if let Some(sealer) = self.sealer.as_mut().filter(|sealer| sealer.is_worn()) {
            let told = sealer.renew().map_err(refused)?;
            self.append(told.len()).copy_from_slice(&told);
        }
        Ok(())
    }

    /// Reads at most so many of QEMU's bytes, 256 KiB at most, to where they will be sent from;
    /// nothing may wait. `head` is told of the pieces in which they lie and says what goes in front
    /// of them. Returns the bytes read, none at QEMU's end; None where it has none ready.
    pub fn read_plain(
        &mut self,
        qemu: &UnixStream,
        most: usize,
        head: impl FnOnce(&[&[u8]]) -> [u8; PLAIN_HEAD_BYTES],
    ) -> io::Result<Option<usize>> {
        debug_assert!(self.is_empty());
        self.renew_worn_key()?;
        let start = self.end;
        let mut layout = Layout {
            sealed: self.sealer.is_some(),
            bytes: PLAIN_HEAD_BYTES + most.min(PAGE_CHUNK_BYTES),
        };
        let mut slots = layout.slots(self.append(layout.whole()));
        let first = std::mem::take(&mut slots[0]);
        slots[0] = &mut first[PLAIN_HEAD_BYTES..];
        let mut slots: Vec<_> = slots.into_iter().map(IoSliceMut::new).collect();
        let read = ready(qemu.try_io(Interest::READABLE, || {
            rustix::io::readv(qemu, &mut slots).map_err(io::Error::from)
        }))?;
        self.end = start;
        let Some(read @ 1..) = read else {
            return Ok(read);
        };
        layout.bytes = PLAIN_HEAD_BYTES + read;
        let whole = self.append(layout.whole());
        let mut slots = layout.slots(whole);
        let (room, first) = std::mem::take(&mut slots[0]).split_at_mut(PLAIN_HEAD_BYTES);
        slots[0] = first;
        let pieces: Vec<&[u8]> = slots.into_iter().map(|slot| &*slot).collect();
        room.copy_from_slice(&head(&pieces));
        if let Some(sealer) = &mut self.sealer {
            for record in self.buffer[start..self.end].chunks_mut(WHOLE_BYTES_MAX) {
                sealer.application(record).map_err(refused)?;
            }
        }
        Ok(Some(read))
    }

    /// Nothing follows what waits.
    pub fn close(&mut self) -> io::Result<()> {
        if let Some(sealer) = &mut self.sealer {
            let told = sealer.close().map_err(refused)?;
            self.append(told.len()).copy_from_slice(&told);
        }
        Ok(())
    }

    /// Writes what the kernel takes.
    pub fn write(&mut self, stream: &TcpStream) -> io::Result<()> {
        while self.written < self.end {
            match ready(stream.try_write(&self.buffer[self.written..self.end]))? {
                Some(0) => return Err(io::ErrorKind::WriteZero.into()),
                Some(written) => self.written += written,
                None => return Ok(()),
            }
        }
        (self.written, self.end) = (0, 0);
        // A burst's memory is given back.
        if self.buffer.len() > PAGE_OUTGOING_KEPT_BYTES_MAX {
            self.buffer = Vec::new();
        }
        Ok(())
    }
}

/// Where bytes lie among the heads and tails of their records.
#[derive(Clone, Copy)]
struct Layout {
    sealed: bool,
    bytes: usize,
}

impl Layout {
    fn whole(self) -> usize {
        match self.sealed {
            true => self.bytes + self.bytes.div_ceil(RECORD_BYTES_MAX) * (HEAD_BYTES + TAIL_BYTES),
            false => self.bytes,
        }
    }

    /// The places of the bytes in a buffer of their whole length.
    fn slots(self, buffer: &mut [u8]) -> Vec<&mut [u8]> {
        if !self.sealed {
            return vec![buffer];
        }
        let mut slots = Vec::with_capacity(RECORDS_MAX);
        for record in buffer.chunks_mut(WHOLE_BYTES_MAX) {
            let end = record.len() - TAIL_BYTES;
            slots.push(&mut record[HEAD_BYTES..end]);
        }
        slots
    }
}

/// What has arrived and was not taken yet.
pub(super) struct Incoming {
    opener: Option<Opener>,
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
    fn new(opener: Option<Opener>, arrived: Arrived) -> Self {
        let Arrived { opened, sealed } = arrived;
        Incoming {
            opener,
            start: opened.len(),
            end: opened.len() + sealed.len(),
            empty: 0,
            opened: std::iter::once(0..opened.len()).collect(),
            buffer: [opened, sealed].concat(),
            closed: false,
        }
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
        let read = ready(stream.try_read(&mut self.buffer[self.end..]))?;
        self.end += read.unwrap_or(0);
        Ok(read)
    }

    /// Opens what is whole of what has arrived.
    pub fn open(&mut self) -> io::Result<()> {
        let Some(opener) = &mut self.opener else {
            self.opened.push_back(self.start..self.end);
            self.start = self.end;
            return Ok(());
        };
        while !self.closed {
            let arrived = &self.buffer[self.start..self.end];
            let length = opener.length(arrived).map_err(refused)?;
            let Some(length) = length.filter(|length| *length <= arrived.len()) else {
                break;
            };
            let start = self.start;
            self.start += length;
            match opener
                .open(&mut self.buffer[start..start + length])
                .map_err(refused)?
            {
                Opened::Bytes(bytes) if bytes.is_empty() => {
                    self.empty += 1;
                    if self.empty > TLS_EMPTY_RECORDS_MAX {
                        return Err(refused(RecordError::Empty));
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
    fn take(&mut self, most: usize) -> Option<&[u8]> {
        while self.opened.front().is_some_and(Range::is_empty) {
            self.opened.pop_front();
        }
        let front = self.opened.front_mut()?;
        let taken = front.start..front.start + most.min(front.len());
        front.start = taken.end;
        Some(&self.buffer[taken])
    }

    /// Whether nothing follows, the last read having brought so many bytes. An error where TLS
    /// should have said so: what is missing may have been cut off.
    pub fn is_over(&self, read: usize) -> io::Result<bool> {
        match (read, self.opener.is_some()) {
            (0, true) if !self.closed => Err(io::ErrorKind::UnexpectedEof.into()),
            (0, _) => Ok(true),
            _ => Ok(self.closed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::tests::{pair, record};
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

    /// Found in a lab: a record was sealed where it had stood before what waits was moved.
    #[test]
    fn records_behind_what_is_half_written_are_sealed_where_they_lie() {
        let (sealer, opener) = pair();
        let mut outgoing = Outgoing::new(Some(sealer));
        let (mut wire, mut said) = (Vec::new(), Vec::new());
        for number in 0..200u8 {
            let part = vec![number; 500 + usize::from(number) * 3];
            outgoing.push(&part).unwrap();
            said.extend(part);
            // The kernel takes a part of it.
            let from = outgoing.written;
            outgoing.written += outgoing.len() * 2 / 3;
            wire.extend_from_slice(&outgoing.buffer[from..outgoing.written]);
        }
        wire.extend_from_slice(&outgoing.buffer[outgoing.written..outgoing.end]);
        let arrived = Arrived {
            opened: Vec::new(),
            sealed: wire,
        };
        let mut incoming = Incoming::new(Some(opener), arrived);
        incoming.open().unwrap();
        assert!(incoming.opened().collect::<Vec<_>>().concat() == said);
    }

    /// What waits is moved to the front before the buffer grows, and a burst's memory is let go.
    #[test]
    fn what_was_written_makes_room() {
        let mut outgoing = Outgoing::new(None);
        outgoing.push(&[1; 1000]).unwrap();
        outgoing.written = 900;
        for _ in 0..100 {
            outgoing.push(&[2; 900]).unwrap();
            outgoing.written += 900;
            assert_eq!(outgoing.len(), 100);
        }
        assert!(outgoing.buffer.len() < 3000, "{}", outgoing.buffer.len());
        assert!(!outgoing.is_full());
        outgoing.push(&vec![3; PAGE_OUTGOING_BYTES_MAX]).unwrap();
        assert!(outgoing.is_full());
    }

    /// Every length of bytes lies between heads and tails of its own.
    #[test]
    fn bytes_are_laid_out_in_whole_records() {
        for bytes in [
            1,
            9,
            10,
            RECORD_BYTES_MAX,
            RECORD_BYTES_MAX + 1,
            5 * RECORD_BYTES_MAX + 7,
        ] {
            for sealed in [false, true] {
                let layout = Layout { sealed, bytes };
                let mut buffer = vec![0; layout.whole()];
                let slots: Vec<_> = layout.slots(&mut buffer).iter().map(|slot| slot.len()).collect();
                assert_eq!(slots.iter().sum::<usize>(), bytes);
                let full = if sealed { RECORD_BYTES_MAX } else { usize::MAX };
                assert!(
                    slots[..slots.len() - 1].iter().all(|slot| *slot == full),
                    "{slots:?}"
                );
            }
        }
    }
}
