//! Frames: u8 kind, u32 length, body; all little endian.

use crate::content::ContentId;
use crate::limits::{BACK_IDS_MAX, FRAME_BODY_BYTES_MAX};

pub(super) const HELLO: u8 = 1;
pub(super) const GROUP: u8 = 2;
pub(super) const BLOCK: u8 = 3;
pub(super) const SUPPLY: u8 = 4;
pub(super) const END: u8 = 5;
pub(super) const HOLDS: u8 = 16;
pub(super) const DROPPED: u8 = 17;
pub(super) const NEED: u8 = 18;
pub(super) const ACK: u8 = 19;
pub(super) const RESET: u8 = 20;
pub(super) const RETURN: u8 = 21;

pub(super) const MAGIC: &[u8; 4] = b"TRHP";
pub(super) const VERSION: u16 = 2;
pub(super) const HEAD_BYTES: usize = 5;

/// Group flags.
pub(super) const ENTER_STORE: u8 = 1;
pub(super) const KEEP_VERSIONS: u8 = 2;

/// Appends a frame whose body `write` appends. Returns the bytes of the whole frame.
pub(super) fn frame(out: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) -> usize {
    let start = out.len();
    out.push(kind);
    out.extend_from_slice(&[0; 4]);
    write(out);
    set_length(&mut out[start..]);
    out.len() - start
}

/// Writes the length of a frame whose body is complete into its head.
pub(super) fn set_length(frame: &mut [u8]) {
    let len = (frame.len() - HEAD_BYTES) as u32;
    frame[1..HEAD_BYTES].copy_from_slice(&len.to_le_bytes());
}

/// Appends what the target's QEMU said to the source's (its return path), in frames.
pub fn put_returned(back: &mut Vec<u8>, bytes: &[u8]) {
    for part in bytes.chunks(FRAME_BODY_BYTES_MAX) {
        frame(back, RETURN, |body| body.extend_from_slice(part));
    }
}

/// Appends `n`, then the ids.
pub(super) fn put_ids(out: &mut Vec<u8>, ids: &[ContentId]) {
    out.extend_from_slice(&(ids.len() as u32).to_le_bytes());
    for id in ids {
        out.extend_from_slice(&id.0);
    }
}

/// Reads values off the front of a body; None when it is too short.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(front)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A counted list of at most `BACK_IDS_MAX` ids.
    pub fn ids(&mut self) -> Option<impl Iterator<Item = ContentId> + use<'a>> {
        let count = self.u32()? as usize;
        if count > BACK_IDS_MAX {
            return None;
        }
        let bytes = self.take(count.checked_mul(16)?)?;
        Some(bytes.as_chunks::<16>().0.iter().map(|id| ContentId(*id)))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Cuts whole frames out of a byte stream that arrives in pieces.
#[derive(Default)]
pub(super) struct Frames {
    bytes: Vec<u8>,
    at: usize,
}

impl Frames {
    pub fn push(&mut self, bytes: &[u8]) {
        if self.at > 0 {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes that wait.
    pub fn waiting(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next whole frame; the error is the length that a head announced.
    pub fn next(&mut self) -> Result<Option<(u8, &[u8])>, u32> {
        let mut reader = Reader(&self.bytes[self.at..]);
        let (Some(kind), Some(len)) = (reader.u8(), reader.u32()) else {
            return Ok(None);
        };
        if len as usize > FRAME_BODY_BYTES_MAX {
            return Err(len);
        }
        let Some(body) = reader.take(len as usize) else {
            return Ok(None);
        };
        self.at += HEAD_BYTES + body.len();
        Ok(Some((kind, body)))
    }
}
