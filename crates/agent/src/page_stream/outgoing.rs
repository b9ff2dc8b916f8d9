//! What goes out to the other agent: laid out and sealed where it was read.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};

use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use transhume_pages::wire::PLAIN_HEAD_BYTES;
use transhume_trust::{HEAD_BYTES, KernelSealer, RECORD_BYTES_MAX, Sealer, TAIL_BYTES, WHOLE_BYTES_MAX};

use super::{invalid, ready};
use crate::limits::{PAGE_CHUNK_BYTES, PAGE_OUTGOING_BYTES_MAX};

/// A larger buffer is not kept once it is empty.
const PAGE_OUTGOING_KEPT_BYTES_MAX: usize = 1 << 20;
/// Records that one read of QEMU may fill.
const RECORDS_MAX: usize = (PLAIN_HEAD_BYTES + PAGE_CHUNK_BYTES).div_ceil(RECORD_BYTES_MAX);

/// Who seals.
enum Sealing {
    /// Nobody: it goes in the clear.
    Clear,
    Here(Box<Sealer>),
    Kernel(KernelSealer),
}

/// What waits to be written.
pub(super) struct Outgoing {
    sealing: Sealing,
    /// The kernel is still to be told that nothing follows.
    closing: bool,
    /// Never shortened: memory that is there needs not be set again.
    buffer: Vec<u8>,
    written: usize,
    end: usize,
}

impl Outgoing {
    pub fn new(sealer: Option<Sealer>) -> Self {
        Outgoing {
            sealing: sealer.map_or(Sealing::Clear, |sealer| Sealing::Here(Box::new(sealer))),
            closing: false,
            buffer: Vec::new(),
            written: 0,
            end: 0,
        }
    }

    /// From now on the kernel seals, where it is encrypted; nothing may wait. After an error
    /// everything is as it was.
    pub fn hand_over(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        debug_assert!(self.is_empty());
        if let Sealing::Here(sealer) = &self.sealing {
            self.sealing = Sealing::Kernel(sealer.hand_over(socket)?);
        }
        Ok(())
    }

    /// Whether the kernel seals: what it has taken may still wait there for room, and is lost when
    /// the socket is shut or closed before it is sent.
    pub fn is_in_kernel(&self) -> bool {
        matches!(self.sealing, Sealing::Kernel(_))
    }

    /// Whether it is this that seals.
    fn sealer(&mut self) -> Option<&mut Sealer> {
        match &mut self.sealing {
            Sealing::Here(sealer) => Some(sealer),
            Sealing::Clear | Sealing::Kernel(_) => None,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.end == 0 && !self.closing
    }

    /// Bytes on the wire.
    pub fn len(&self) -> usize {
        self.end - self.written
    }

    /// Whether as much waits as may.
    pub fn is_full(&self) -> bool {
        self.len() >= PAGE_OUTGOING_BYTES_MAX
    }

    /// So many bytes behind what waits, which may be moved for it where little of it is left.
    fn append(&mut self, bytes: usize) -> &mut [u8] {
        if self.written > 0 && self.end + bytes > self.buffer.len() && self.written >= self.len() / 2 {
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
        if self.sealer().is_none() {
            self.append(bytes.len()).copy_from_slice(bytes);
            return Ok(());
        }
        for part in bytes.chunks(RECORD_BYTES_MAX) {
            self.renew_worn_key()?;
            let record = HEAD_BYTES + part.len() + TAIL_BYTES;
            self.append(record)[HEAD_BYTES..][..part.len()].copy_from_slice(part);
            let record = self.end - record..self.end;
            if let Sealing::Here(sealer) = &mut self.sealing {
                sealer.application(&mut self.buffer[record]).map_err(invalid)?;
            }
        }
        Ok(())
    }

    fn renew_worn_key(&mut self) -> io::Result<()> {
        if let Some(sealer) = self.sealer().filter(|sealer| sealer.is_worn()) {
            let told = sealer.renew().map_err(invalid)?;
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
            sealed: self.sealer().is_some(),
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
        if let Sealing::Here(sealer) = &mut self.sealing {
            for record in self.buffer[start..self.end].chunks_mut(WHOLE_BYTES_MAX) {
                sealer.application(record).map_err(invalid)?;
            }
        }
        Ok(Some(read))
    }

    /// Nothing follows what waits.
    pub fn close(&mut self) -> io::Result<()> {
        match &mut self.sealing {
            Sealing::Clear => {}
            Sealing::Here(sealer) => {
                let told = sealer.close().map_err(invalid)?;
                self.append(told.len()).copy_from_slice(&told);
            }
            Sealing::Kernel(_) => self.closing = true,
        }
        Ok(())
    }

    /// Writes what the kernel takes, so many bytes at most; returns how many it took.
    pub fn write(&mut self, stream: &TcpStream, most: usize) -> io::Result<usize> {
        let before = self.written;
        let until = self.end.min(before.saturating_add(most));
        while self.written < until {
            if let Sealing::Kernel(sealer) = &mut self.sealing
                && sealer.is_worn()
                && told(stream, || sealer.renew(stream.as_fd()))?.is_none()
            {
                return Ok(self.written - before);
            }
            match ready(stream.try_write(&self.buffer[self.written..until]))? {
                Some(0) => return Err(io::ErrorKind::WriteZero.into()),
                Some(written) => {
                    self.written += written;
                    if let Sealing::Kernel(sealer) = &mut self.sealing {
                        sealer.wrote(written);
                    }
                }
                None => return Ok(self.written - before),
            }
        }
        let written = self.written - before;
        if self.written < self.end {
            return Ok(written);
        }
        if let Sealing::Kernel(sealer) = &self.sealing
            && self.closing
        {
            match told(stream, || sealer.close(stream.as_fd()))? {
                Some(()) => self.closing = false,
                None => return Ok(written),
            }
        }
        (self.written, self.end) = (0, 0);
        // A burst's memory is given back.
        if self.buffer.len() > PAGE_OUTGOING_KEPT_BYTES_MAX {
            self.buffer = Vec::new();
        }
        Ok(written)
    }
}

/// What the kernel is told beside the bytes; None where it takes nothing now.
fn told(stream: &TcpStream, tell: impl FnMut() -> io::Result<()>) -> io::Result<Option<()>> {
    ready(stream.try_io(Interest::WRITABLE, tell))
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

#[cfg(test)]
mod tests {
    use transhume_trust::Arrived;
    use transhume_trust::testing::pair;

    use super::super::incoming::Incoming;
    use super::*;

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

    /// Moving much for little would take longer than sending it.
    #[test]
    fn much_that_waits_is_not_moved_for_little_that_comes() {
        let mut outgoing = Outgoing::new(None);
        outgoing.push(&vec![1; 100_000]).unwrap();
        outgoing.written = 10_000;
        outgoing.push(&[2; 10_000]).unwrap();
        assert_eq!((outgoing.written, outgoing.len()), (10_000, 100_000));
        outgoing.written = 60_000;
        outgoing.push(&[3; 10_000]).unwrap();
        assert_eq!((outgoing.written, outgoing.len()), (0, 60_000));
        assert_eq!(
            outgoing.buffer[..60_000],
            [&[1; 40_000][..], &[2; 10_000], &[3; 10_000]].concat()
        );
    }

    /// What may not go yet stays, also where the kernel would take it.
    #[tokio::test]
    async fn no_more_is_written_than_may_go() {
        let listener = tokio::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))
            .await
            .unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut outgoing = Outgoing::new(None);
        outgoing.push(&[7; 5000]).unwrap();
        stream.writable().await.unwrap();
        assert_eq!(outgoing.write(&stream, 3000).unwrap(), 3000);
        assert_eq!(outgoing.len(), 2000);
        assert_eq!(outgoing.write(&stream, usize::MAX).unwrap(), 2000);
        assert!(outgoing.is_empty());
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
