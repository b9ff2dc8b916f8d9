//! Where frames are kept until they are delivered: a file on a memory file system, mapped, so that
//! it survives the agent.
//!
//! ```text
//!  0        8         16       24         32 …    96     4096
//!  ┌────────┬─────────┬────────┬──────────┬──────┬──────┬───────────┬──────────┬─────────
//!  │ magic  │ vnet    │ tail   │ delivered│ notes│      │ records … │ next one │ zeroes
//!  └────────┴─────────┴────────┴──────────┴──────┴──────┴───────────┴──────────┴─────────
//!  record:  kind u32 │ length u32 │ number u64 │ virtio-net header, frame │ padding to 8
//! ```
//!
//! Words are little endian.
//!
//! A frame is read by the kernel straight into the place of the next record; the record counts once
//! `tail` is past it. A kill in between leaves the bytes of one frame behind `tail`, and
//! [`Spool::unpublished`] finds them: no frame that left the tap is lost. The tunnel carries the
//! same records, so sending is one write of a stretch of the spool. What an agent that comes after
//! a kill must know beside the records stands in the notes ([`Note`]).

mod record;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags};
use transhume_model::Mac;

use crate::error::{Error, SpoolContext};
use crate::frame::{self, Addresses};
use crate::limits::{RING_FRAMES, VNET_HEADER_BYTES_MAX};
use crate::sys::Mapping;
pub use record::RecordError;
pub(crate) use record::{Counts, FRAME_BYTES_MAX, Kind, RECORD_HEADER_BYTES, Record};
use record::{RECORD_BYTES_MAX, word64};
pub(crate) use record::{parse, whole};

const MAGIC: u64 = u64::from_le_bytes(*b"THSPOOL2");
const VNET_AT: usize = 8;
const TAIL_AT: usize = 16;
/// Where records begin.
pub(crate) const RECORDS_AT: usize = 4096;
/// Behind the limit there is room for a whole ring of the largest frames. Only what is used becomes
/// memory.
const RING_BYTES_MAX: usize = RING_FRAMES as usize * RECORD_BYTES_MAX;
/// Memory is taken in stretches of this size, so that running out of it is an error and not a
/// signal.
const STRETCH_BYTES: usize = 4 << 20;

/// What a spool's bytes say before anything in it is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Offset behind the last whole record.
    pub(crate) tail: usize,
    /// Number of the last record, 0 if there is none.
    pub(crate) last: u64,
}

/// `None` unless they are a spool's: its mark, a header length that exists, and records numbered
/// from 1 that end where the tail is.
pub(crate) fn head(bytes: &[u8]) -> Option<Head> {
    if bytes.len() < RECORDS_AT || word64(bytes, 0) != MAGIC {
        return None;
    }
    let vnet = usize::try_from(word64(bytes, VNET_AT)).ok()?;
    let tail = usize::try_from(word64(bytes, TAIL_AT)).ok()?;
    if vnet > VNET_HEADER_BYTES_MAX {
        return None;
    }
    let (at, last) = whole(bytes.get(..tail)?, RECORDS_AT, 0).ok()?;
    (at == tail).then_some(Head { tail, last })
}

/// What is noted beside the records, one word each. All are 0 in a new spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Note {
    /// Number of the last record that is in the target's guest's ring, or was given up.
    Delivered,
    /// Source: number of the last record that was put back, or was given up.
    PutBack,
    /// Source: [`Reading`].
    Reading,
    /// The number that the target signs its announcements with.
    Signature,
    /// Frames that the tap had dropped before any were this buffer's.
    DroppedBefore,
    /// Injected frames that the kernel refused and that were tried again; it counts them as
    /// dropped.
    Refused,
    /// Unicast frames given up: the guest took none and its ring was full.
    Undelivered,
    /// Broadcast frames given up.
    UndeliveredBroadcast,
    /// Source: frames that QEMU may have read for a guest that did not take them.
    Untaken,
    /// Source: how the old path was seen to be empty: 1 marker, 2 lingered.
    OldPath,
    /// Source: frames that found the ring of a guest that took none full, since the buffer was
    /// opened.
    Overflowed,
    /// Unicast frames that the kernel did not let into the ring.
    Unfit,
}

impl Note {
    fn at(self) -> usize {
        24 + 8 * self as usize
    }
}

/// Whether the source's agent reads the tap's ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Never yet: what is in the ring is the guest's.
    NotYet,
    /// What is in the ring comes behind what is in the spool.
    Begun,
    /// No more, for an abort: the guest may run, what is in the ring is its own again.
    Ended,
}

/// The spool of one NIC.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    map: Mapping,
    /// Offset behind the last whole record.
    tail: usize,
    /// Offset up to which records may go.
    end: usize,
    /// Offset up to which memory is taken.
    taken: usize,
    /// Number of the last record.
    last: u64,
}

impl Spool {
    /// A new, empty spool of at most `bytes_max`; an old file of that name is replaced.
    pub(crate) fn create(path: &Path, bytes_max: usize, vnet_header_bytes: usize) -> Result<Self, Error> {
        let name = path.display().to_string();
        match std::fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(source).spool(&name, "replace");
            }
            _ => {}
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .spool(&name, "create")?;
        let end = RECORDS_AT + bytes_max + RECORD_BYTES_MAX;
        let bytes = end + RING_BYTES_MAX;
        file.set_len(bytes as u64).spool(&name, "size")?;
        let mut spool = Self {
            map: Mapping::new(&file, bytes).spool(&name, "map")?,
            file,
            tail: RECORDS_AT,
            end,
            taken: 0,
            last: 0,
        };
        spool.take(RECORDS_AT).spool(&name, "take room for")?;
        spool.map.store_release(VNET_AT, vnet_header_bytes as u64);
        spool.map.store_release(TAIL_AT, RECORDS_AT as u64);
        spool.map.store_release(0, MAGIC);
        Ok(spool)
    }

    /// The spool of an agent that was killed, with the frame it was just reading.
    pub(crate) fn reopen(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let not_a_spool = || Error::NotASpool { path: name.clone() };
        // Whoever could put a link or a FIFO here could have our frames written where they like.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoSpool { path: name });
            }
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(not_a_spool()),
            opened => opened.spool(&name, "open")?,
        };
        let found = file.metadata().spool(&name, "open")?;
        let bytes = found.len() as usize;
        if !found.is_file() || bytes < RECORDS_AT + RECORD_BYTES_MAX {
            return Err(not_a_spool());
        }
        let map = Mapping::new(&file, bytes).spool(&name, "map")?;
        let Head { tail, last } = head(map.bytes()).ok_or_else(not_a_spool)?;
        // Agents up to 0.2.0 left no room for a ring.
        let end = bytes.checked_sub(RING_BYTES_MAX).filter(|end| *end > RECORDS_AT);
        let mut spool = Self {
            file,
            map,
            tail,
            end: end.unwrap_or(bytes),
            taken: RECORDS_AT,
            last,
        };
        spool.take(tail).spool(&name, "take room for")?;
        Ok(spool)
    }

    fn take(&mut self, end: usize) -> io::Result<()> {
        if end > self.taken {
            let to = end.next_multiple_of(STRETCH_BYTES).min(self.map.bytes().len());
            let (from, length) = (self.taken as u64, (to - self.taken) as u64);
            rustix::fs::fallocate(&self.file, FallocateFlags::empty(), from, length)?;
            self.taken = to;
        }
        Ok(())
    }

    /// Length of the virtio-net header in front of each frame.
    pub(crate) fn vnet_header_bytes(&self) -> usize {
        word64(self.map.bytes(), VNET_AT) as usize
    }

    /// Target: the length that the source's frames have, as soon as it is known.
    pub(crate) fn set_vnet_header_bytes(&mut self, bytes: usize) {
        self.map.store_release(VNET_AT, bytes as u64);
    }

    /// Bytes of records.
    pub(crate) fn bytes(&self) -> usize {
        self.tail - RECORDS_AT
    }

    pub(crate) fn start(&self) -> usize {
        RECORDS_AT
    }

    pub(crate) fn tail(&self) -> usize {
        self.tail
    }

    /// Number of the last record, 0 if there is none.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn note(&self, note: Note) -> u64 {
        word64(self.map.bytes(), note.at())
    }

    pub(crate) fn set_note(&mut self, note: Note, value: u64) {
        self.map.store_release(note.at(), value);
    }

    pub(crate) fn add_to_note(&mut self, note: Note, more: u64) {
        if more > 0 {
            self.set_note(note, self.note(note).saturating_add(more));
        }
    }

    pub(crate) fn reading(&self) -> Reading {
        match self.note(Note::Reading) {
            0 => Reading::NotYet,
            1 => Reading::Begun,
            _ => Reading::Ended,
        }
    }

    pub(crate) fn set_reading(&mut self, reading: Reading) {
        let word = match reading {
            Reading::NotYet => 0,
            Reading::Begun => 1,
            Reading::Ended => 2,
        };
        self.set_note(Note::Reading, word);
    }

    /// All records, in order; what cannot be read ends them.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut at = RECORDS_AT;
        std::iter::from_fn(move || {
            let record = self.record(at).ok()??;
            at = record.next;
            Some(record)
        })
    }

    /// What the records up to number `last` are.
    pub(crate) fn counts(&self, last: u64) -> Counts {
        let mut counts = Counts::default();
        for record in self.records().take_while(|record| record.number <= last) {
            match record.kind {
                Kind::Unicast => counts.unicast += 1,
                Kind::Broadcast => counts.broadcast += 1,
                Kind::Fin => counts.fin = true,
                Kind::Close => counts.close = true,
                Kind::Address => {}
            }
            if record.kind.is_frame() {
                counts.bytes += record.data.len().saturating_sub(self.vnet_header_bytes()) as u64;
                counts.late += u64::from(counts.fin);
            }
        }
        counts
    }

    /// The guest's addresses: its NIC's and those in the records.
    pub(crate) fn addresses(&self, nic: Mac) -> Addresses {
        let mut addresses = Addresses::of(nic);
        for record in self.records() {
            if let Some(mac) = record.address() {
                addresses.add(mac);
            }
        }
        addresses
    }

    /// Keeps another address of the guest's own, if there is room.
    pub(crate) fn publish_address(&mut self, mac: Mac) -> bool {
        let Some(room) = self.room() else { return false };
        room[..6].copy_from_slice(&mac.bytes());
        self.publish(Kind::Address, 6);
        true
    }

    /// The record at an offset below the tail.
    pub(crate) fn record(&self, at: usize) -> Result<Option<Record<'_>>, RecordError> {
        parse(&self.map.bytes()[..self.tail], at)
    }

    /// The stretch from an offset to the tail, as the tunnel carries it.
    pub(crate) fn stretch(&self, from: usize) -> &[u8] {
        &self.map.bytes()[from..self.tail]
    }

    /// The offset of the first record above `number`.
    pub(crate) fn after(&self, number: u64) -> usize {
        let mut at = RECORDS_AT;
        while let Ok(Some(record)) = self.record(at) {
            if record.number > number {
                break;
            }
            at = record.next;
        }
        at
    }

    /// Where the kernel may put the next frame; `None` when the spool is full or there is no
    /// memory.
    pub(crate) fn room(&mut self) -> Option<&mut [u8]> {
        if self.tail + RECORD_BYTES_MAX > self.end {
            return None;
        }
        self.next_place()
    }

    /// The limit counts no more: what is left in a ring, which nothing fills any more, has to come
    /// behind what is here.
    pub(crate) fn make_room_for_a_ring(&mut self) {
        self.end = self.map.bytes().len();
    }

    fn next_place(&mut self) -> Option<&mut [u8]> {
        let (from, to) = (self.tail + RECORD_HEADER_BYTES, self.tail + RECORD_BYTES_MAX);
        if to > self.map.bytes().len() || self.take(to).is_err() {
            return None;
        }
        Some(&mut self.map.bytes_mut()[from..from + FRAME_BYTES_MAX])
    }

    /// Makes the bytes in [`Self::room`] a record; returns its number.
    pub(crate) fn publish(&mut self, kind: Kind, length: usize) -> u64 {
        let (at, number) = (self.tail, self.last + 1);
        let header = &mut self.map.bytes_mut()[at..at + RECORD_HEADER_BYTES];
        header[..4].copy_from_slice(&kind.code().to_le_bytes());
        header[4..8].copy_from_slice(&(length as u32).to_le_bytes());
        header[8..].copy_from_slice(&number.to_le_bytes());
        self.last = number;
        self.advance(at + (RECORD_HEADER_BYTES + length).next_multiple_of(8));
        number
    }

    fn advance(&mut self, tail: usize) {
        self.tail = tail;
        self.map.store_release(TAIL_AT, tail as u64);
    }

    /// Clears the bytes in [`Self::room`]: they are not a frame to keep, and no later agent shall
    /// find them.
    pub(crate) fn skip(&mut self, length: usize) {
        let from = self.tail + RECORD_HEADER_BYTES;
        self.map.bytes_mut()[from..from + length].fill(0);
    }

    /// Where the tunnel's bytes go: behind the tail and the `partial` bytes that are there already.
    pub(crate) fn intake(&mut self, partial: usize, most: usize) -> Option<&mut [u8]> {
        let from = self.tail + partial;
        let to = (from + most).min(self.map.bytes().len());
        if to <= from || self.take(to).is_err() {
            return None;
        }
        Some(&mut self.map.bytes_mut()[from..to])
    }

    /// Takes the whole records among the `partial` bytes behind the tail; returns how many bytes
    /// are left over. Only the next number is taken: whatever else a tunnel brings is an error, and
    /// stays out.
    pub(crate) fn accept(&mut self, partial: usize) -> Result<usize, RecordError> {
        let end = self.tail + partial;
        let (at, last) = whole(&self.map.bytes()[..end], self.tail, self.last)?;
        self.last = last;
        self.advance(at);
        Ok(end - at)
    }

    /// The frame that was read but not published when the agent was killed, if there is one.
    pub(crate) fn unpublished(&mut self) -> Option<usize> {
        let vnet = self.vnet_header_bytes();
        let bytes = self.next_place()?;
        let length = frame::recovered_bytes(&bytes[vnet..])?;
        Some(vnet + length)
    }
}

#[cfg(test)]
mod tests;
