//! Frames: u8 kind, u32 length, body; all little endian.

use crate::content::ContentId;
use crate::limits::{BACK_IDS_MAX, FRAME_BODY_BYTES_MAX};

pub(super) const HELLO: u8 = 1;
pub(super) const GROUP: u8 = 2;
pub(super) const BLOCK: u8 = 3;
pub(super) const SUPPLY: u8 = 4;
pub(super) const END: u8 = 5;
pub(super) const PLAIN: u8 = 6;
pub(super) const HOLDS: u8 = 16;
pub(super) const DROPPED: u8 = 17;
pub(super) const NEED: u8 = 18;
pub(super) const ACK: u8 = 19;
pub(super) const RESET: u8 = 20;
pub(super) const RETURN: u8 = 21;

pub(super) const MAGIC: &[u8; 4] = b"TRHP";
pub(super) const VERSION: u16 = 3;
pub(super) const HEAD_BYTES: usize = 5;
/// What goes in front of plain bytes: a frame's head, and the number of the frame.
pub const PLAIN_HEAD_BYTES: usize = HEAD_BYTES + 4;

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

/// The head of a frame of so many plain bytes, which follow it.
pub(super) fn plain_head(number: u32, bytes: usize) -> [u8; PLAIN_HEAD_BYTES] {
    let mut head = [0; PLAIN_HEAD_BYTES];
    let body = (PLAIN_HEAD_BYTES - HEAD_BYTES + bytes) as u32;
    head[0] = PLAIN;
    head[1..HEAD_BYTES].copy_from_slice(&body.to_le_bytes());
    head[HEAD_BYTES..].copy_from_slice(&number.to_le_bytes());
    head
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

/// Kind and body length of the frame that begins here; the error is a length past the limit.
fn head(bytes: &[u8]) -> Result<Option<(u8, usize)>, u32> {
    let mut reader = Reader(bytes);
    let (Some(kind), Some(len)) = (reader.u8(), reader.u32()) else {
        return Ok(None);
    };
    if len as usize > FRAME_BODY_BYTES_MAX {
        return Err(len);
    }
    Ok(Some((kind, len as usize)))
}

/// Cuts frames out of a byte stream that arrives in pieces. A frame that lies whole in its piece is
/// not copied, and plain bytes are handed on as they come.
#[derive(Default)]
pub(super) struct Frames {
    /// The front of a frame that a piece's edge has cut, and whether it was handed on whole.
    carry: Vec<u8>,
    handed_on: bool,
    /// Bytes to come of the plain frame that is being handed on.
    plain_left: usize,
}

/// What is next in a piece.
pub(super) enum Part<'a, 'w> {
    /// A whole frame: its kind and its body.
    Frame(u8, &'a [u8]),
    /// A plain frame of this number, and how many bytes follow.
    PlainBegins(u32, usize),
    /// Plain bytes, and whether the frame ends with them.
    Plain(&'w [u8], bool),
}

impl Frames {
    /// Bytes that wait.
    pub fn waiting(&self) -> usize {
        if self.handed_on { 0 } else { self.carry.len() }
    }

    /// Takes the next part off the front of a piece; None when the piece is used up. If so asked,
    /// plain frames are kept too until they are `whole`. The error is the length that a head
    /// announced.
    pub fn next<'a, 'w: 'a>(
        &'a mut self,
        piece: &mut &'w [u8],
        whole: bool,
    ) -> Result<Option<Part<'a, 'w>>, u32> {
        if std::mem::take(&mut self.handed_on) {
            self.carry.clear();
        }
        if self.plain_left > 0 {
            let plain = front(piece, self.plain_left);
            self.plain_left -= plain.len();
            return Ok((!plain.is_empty()).then_some(Part::Plain(plain, self.plain_left == 0)));
        }
        if self.carry.is_empty()
            && let Some((kind, body)) = head(piece)?
            && (kind != PLAIN || whole)
            && piece.len() >= HEAD_BYTES + body
        {
            return Ok(Some(Part::Frame(
                kind,
                &front(piece, HEAD_BYTES + body)[HEAD_BYTES..],
            )));
        }
        loop {
            let (need, plain) = match head(&self.carry)? {
                None => (HEAD_BYTES, false),
                Some((PLAIN, body)) if !whole && body >= 4 && self.carry.len() <= PLAIN_HEAD_BYTES => {
                    (PLAIN_HEAD_BYTES, true)
                }
                Some((_, body)) => (HEAD_BYTES + body, false),
            };
            let missing = need.saturating_sub(self.carry.len());
            self.carry.extend_from_slice(front(piece, missing));
            if self.carry.len() < need {
                return Ok(None);
            }
            match head(&self.carry)? {
                Some((_, body)) if plain => {
                    let mut reader = Reader(&self.carry[HEAD_BYTES..]);
                    let number = reader.u32().unwrap_or_default();
                    self.plain_left = HEAD_BYTES + body - PLAIN_HEAD_BYTES;
                    self.handed_on = true;
                    return Ok(Some(Part::PlainBegins(number, self.plain_left)));
                }
                Some((_, body)) if self.carry.len() >= HEAD_BYTES + body => break,
                _ => {}
            }
        }
        self.handed_on = true;
        Ok(Some(Part::Frame(self.carry[0], &self.carry[HEAD_BYTES..])))
    }
}

/// Takes at most so many bytes off the front.
fn front<'w>(piece: &mut &'w [u8], most: usize) -> &'w [u8] {
    let (front, rest) = piece.split_at(most.min(piece.len()));
    *piece = rest;
    front
}
