//! One record, as it stands in the spool and in the tunnel: kind, length, number, what it carries.

use transhume_model::Mac;

/// Kind, length, number.
pub(crate) const RECORD_HEADER_BYTES: usize = 16;
/// Largest frame: a 64 KiB segment with all its headers.
pub(crate) const FRAME_BYTES_MAX: usize = (64 << 10) + 256;
pub(super) const RECORD_BYTES_MAX: usize = RECORD_HEADER_BYTES + FRAME_BYTES_MAX + 8;

/// What the records are, up to some number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) unicast: u64,
    pub(crate) broadcast: u64,
    /// Bytes of frames, without virtio-net headers.
    pub(crate) bytes: u64,
    /// Frames behind FIN.
    pub(crate) late: u64,
    pub(crate) fin: bool,
    pub(crate) close: bool,
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A frame to one receiver.
    Unicast,
    /// A frame to many.
    Broadcast,
    /// Nothing older comes by the old path.
    Fin,
    /// Nothing comes any more.
    Close,
    /// Another address of the guest's own.
    Address,
}

impl Kind {
    pub(super) fn code(self) -> u32 {
        match self {
            Kind::Unicast => 1,
            Kind::Broadcast => 2,
            Kind::Fin => 3,
            Kind::Close => 4,
            Kind::Address => 5,
        }
    }

    fn of(code: u32) -> Option<Self> {
        [
            Kind::Unicast,
            Kind::Broadcast,
            Kind::Fin,
            Kind::Close,
            Kind::Address,
        ]
        .into_iter()
        .find(|kind| kind.code() == code)
    }

    pub(crate) fn is_frame(self) -> bool {
        matches!(self, Kind::Unicast | Kind::Broadcast)
    }
}

/// One record, in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) kind: Kind,
    pub(crate) number: u64,
    /// virtio-net header and frame.
    pub(crate) data: &'a [u8],
    /// Where the next record is.
    pub(crate) next: usize,
}

impl Record<'_> {
    /// The address that it is.
    pub(crate) fn address(&self) -> Option<Mac> {
        let bytes = self.data.try_into().ok()?;
        Mac::new(bytes).ok().filter(|_| self.kind == Kind::Address)
    }
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// No such kind.
    #[error("record kind {0} is unknown")]
    Kind(u32),
    /// Longer than any frame.
    #[error("a record of {0} bytes is announced, {FRAME_BYTES_MAX} are allowed")]
    Length(u32),
    /// Its number was there before.
    #[error("record {number} came again after {last}")]
    Again {
        /// Its number.
        number: u64,
        /// The last one there is.
        last: u64,
    },
    /// Its number is not the next.
    #[error("record {number} came after {last}")]
    Gap {
        /// Its number.
        number: u64,
        /// The last one there is.
        last: u64,
    },
}

pub(super) fn word32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn word64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The whole records from `at` on, which follow number `last`: where they end, and the number of
/// the last one. Only the next number will do: anything else is an error, and nothing of it is
/// taken.
pub(crate) fn whole(bytes: &[u8], mut at: usize, mut last: u64) -> Result<(usize, u64), RecordError> {
    while let Some(Record { number, next, .. }) = parse(bytes, at)? {
        if number <= last {
            return Err(RecordError::Again { number, last });
        } else if number != last + 1 {
            return Err(RecordError::Gap { number, last });
        }
        (at, last) = (next, number);
    }
    Ok((at, last))
}

/// The record at `at` of `bytes`; `None` if it is not all there.
pub(crate) fn parse(bytes: &[u8], at: usize) -> Result<Option<Record<'_>>, RecordError> {
    let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= RECORD_HEADER_BYTES) else {
        return Ok(None);
    };
    let (code, length) = (word32(rest, 0), word32(rest, 4));
    let kind = Kind::of(code).ok_or(RecordError::Kind(code))?;
    if length as usize > FRAME_BYTES_MAX {
        return Err(RecordError::Length(length));
    }
    let end = RECORD_HEADER_BYTES + length as usize;
    let padded = end.next_multiple_of(8);
    if rest.len() < padded {
        return Ok(None);
    }
    let data = &rest[RECORD_HEADER_BYTES..end];
    Ok(Some(Record {
        kind,
        number: word64(rest, 8),
        data,
        next: at + padded,
    }))
}
