//! One record of the stream: how long it is, what it is, which state follows. Looks, never copies.
//!
//! ```text
//! Header -> Configuration -> Top <-> Skip (bodies)
//!                            Top -> Word <-> Blocks, Word -> Top at EOS
//!                            Top -> Devices (first full section: opaque to the end)
//!                            any -> Unknown (pass-through, with its reason)
//! ```

use super::{
    BlockTable, FLAG_CONTINUE, FLAG_EOS, FLAG_MEM_SIZE, FLAG_MULTIFD_FLUSH, FLAG_PAGE, FLAG_ZERO, FLAGS,
    PageHead,
};
use crate::limits::{CAPABILITIES_MAX, CONFIGURATION_NAME_BYTES_MAX, PAGE_BYTES};

/// Why the rest of a stream is passed through without being understood. Never a failure of the
/// move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassThrough {
    /// Not a migration stream, or of another version.
    #[error("the stream does not begin with QEVM version 3")]
    Header,
    /// A configuration that does not look like one.
    #[error("the stream's configuration is not understood")]
    Configuration,
    /// A guest whose pages have another size.
    #[error("the guest's pages are not of {PAGE_BYTES} bytes")]
    PageSize,
    /// A section type byte that is not known.
    #[error("section type {0:#04x} is not known")]
    SectionType(u8),
    /// Another section than `ram` version 4, before the device state.
    #[error("a section other than ram version 4 comes before the device state")]
    Section,
    /// A RAM record with flags that are not known.
    #[error("RAM record flags {0:#05x} are not known")]
    Flags(u16),
    /// A block list that does not add up, or comes twice.
    #[error("the RAM block list is not understood")]
    Blocks,
    /// A page record of an unknown block, or outside of its block.
    #[error("a page record lies in no RAM block")]
    Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Header,
    /// Section types; `configured` allows configuration subsections.
    Top {
        configured: bool,
    },
    Capabilities {
        left: u32,
    },
    /// Bytes of a body whose length is known.
    Skip {
        left: u32,
    },
    Word,
    Blocks {
        left: u64,
    },
    Devices,
    Unknown(PassThrough),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Verbatim,
    /// A block of the list: name at 1, length after it.
    Block {
        name_len: usize,
        len: u64,
    },
    Page(PageHead),
    Zero(PageHead),
}

pub(super) enum Look {
    /// The record needs this many bytes in all before more can be said.
    Need(usize),
    /// A page record may be longer than the bytes at hand: its head says all.
    Record {
        len: usize,
        kind: Kind,
        next: State,
    },
    Unknown(PassThrough),
}

/// What the parser knows besides its state.
pub(super) struct Context<'a> {
    pub blocks: &'a BlockTable,
    pub last: Option<super::BlockIndex>,
    pub ram: Option<u32>,
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map(u32::from_be_bytes)
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map(u64::from_be_bytes)
}

fn verbatim(len: usize, next: State) -> Look {
    Look::Record {
        len,
        kind: Kind::Verbatim,
        next,
    }
}

const TOP: State = State::Top { configured: false };
const CONFIGURED: State = State::Top { configured: true };

impl Context<'_> {
    /// Looks at the record that begins `bytes` (not empty). The opaque states are the parser's.
    pub fn look(&self, state: State, bytes: &[u8]) -> Look {
        match state {
            State::Header => header(bytes),
            State::Top { configured } => self.top(bytes, configured),
            State::Capabilities { left } => {
                let len = 1 + usize::from(bytes[0]);
                whole(
                    bytes,
                    len,
                    if left <= 1 {
                        CONFIGURED
                    } else {
                        State::Capabilities { left: left - 1 }
                    },
                )
            }
            State::Skip { left } => {
                let len = bytes.len().min(left as usize);
                let left = left - len as u32;
                verbatim(len, if left == 0 { TOP } else { State::Skip { left } })
            }
            State::Word => self.word(bytes),
            State::Blocks { left } => block(bytes, left),
            State::Devices | State::Unknown(_) => verbatim(bytes.len(), state),
        }
    }

    fn top(&self, bytes: &[u8], configured: bool) -> Look {
        match bytes[0] {
            0x05 if configured => subsection(bytes),
            0x07 => configuration(bytes),
            0x08 => match bytes.get(3..5) {
                None => Look::Need(5),
                Some(len) => match u32::from(u16::from_be_bytes([len[0], len[1]])) {
                    0 => verbatim(5, TOP),
                    left => verbatim(5, State::Skip { left }),
                },
            },
            0x01 => self.section_start(bytes),
            0x02 | 0x03 => match be32(bytes, 1) {
                None => Look::Need(5),
                id if id == self.ram => verbatim(5, State::Word),
                Some(_) => Look::Unknown(PassThrough::Section),
            },
            0x7e => whole(bytes, 5, TOP),
            0x04 | 0x00 => verbatim(bytes.len(), State::Devices),
            other => Look::Unknown(PassThrough::SectionType(other)),
        }
    }

    fn section_start(&self, bytes: &[u8]) -> Look {
        let Some(&name_len) = bytes.get(5) else {
            return Look::Need(6);
        };
        let len = 6 + usize::from(name_len) + 8;
        if bytes.len() < len {
            return Look::Need(len);
        }
        let ram = &bytes[6..6 + usize::from(name_len)] == b"ram" && be32(bytes, len - 4) == Some(4);
        if ram && self.ram.is_none() {
            verbatim(len, State::Word)
        } else {
            Look::Unknown(PassThrough::Section)
        }
    }

    fn word(&self, bytes: &[u8]) -> Look {
        let Some(word) = be64(bytes, 0) else {
            return Look::Need(8);
        };
        let (offset, flags) = (word & !FLAGS, word & FLAGS);
        match flags {
            FLAG_EOS => verbatim(8, TOP),
            FLAG_MULTIFD_FLUSH => verbatim(8, State::Word),
            FLAG_MEM_SIZE if self.blocks.count() > 0 => Look::Unknown(PassThrough::Blocks),
            FLAG_MEM_SIZE if offset == 0 => verbatim(8, State::Word),
            FLAG_MEM_SIZE => verbatim(8, State::Blocks { left: offset }),
            _ => match flags & !FLAG_CONTINUE {
                FLAG_PAGE => self.page(bytes, offset, flags, PAGE_BYTES),
                FLAG_ZERO => self.page(bytes, offset, flags, 1),
                _ => Look::Unknown(PassThrough::Flags(flags as u16)),
            },
        }
    }

    fn page(&self, bytes: &[u8], offset: u64, flags: u64, body: usize) -> Look {
        let continued = flags & FLAG_CONTINUE != 0;
        let (block, head_len) = if continued {
            (self.last, 8)
        } else {
            let Some(&name_len) = bytes.get(8) else {
                return Look::Need(9);
            };
            let head_len = 9 + usize::from(name_len);
            let Some(name) = bytes.get(9..head_len) else {
                return Look::Need(head_len);
            };
            (self.blocks.find(name), head_len)
        };
        let Some(block) = block else {
            return Look::Unknown(PassThrough::Place);
        };
        if self.blocks.len_bytes(block).is_none_or(|len| offset >= len) {
            return Look::Unknown(PassThrough::Place);
        }
        let head = PageHead {
            block,
            offset,
            continued,
        };
        let kind = if body == 1 {
            Kind::Zero(head)
        } else {
            Kind::Page(head)
        };
        Look::Record {
            len: head_len + body,
            kind,
            next: State::Word,
        }
    }
}

fn whole(bytes: &[u8], len: usize, next: State) -> Look {
    if bytes.len() < len {
        Look::Need(len)
    } else {
        verbatim(len, next)
    }
}

fn header(bytes: &[u8]) -> Look {
    match bytes.get(..8) {
        None => Look::Need(8),
        Some(b"QEVM\0\0\0\x03") => verbatim(8, TOP),
        Some(_) => Look::Unknown(PassThrough::Header),
    }
}

fn configuration(bytes: &[u8]) -> Look {
    match be32(bytes, 1) {
        None => Look::Need(5),
        Some(len) if len as usize > CONFIGURATION_NAME_BYTES_MAX => Look::Unknown(PassThrough::Configuration),
        Some(len) => whole(bytes, 5 + len as usize, CONFIGURED),
    }
}

fn subsection(bytes: &[u8]) -> Look {
    let Some(&name_len) = bytes.get(1) else {
        return Look::Need(2);
    };
    let head = 2 + usize::from(name_len) + 4;
    if bytes.len() < head {
        return Look::Need(head);
    }
    match &bytes[2..head - 4] {
        b"configuration/uuid" => whole(bytes, head + 16, CONFIGURED),
        b"configuration/target-page-bits" => match be32(bytes, head) {
            None => Look::Need(head + 4),
            Some(12) => verbatim(head + 4, CONFIGURED),
            Some(_) => Look::Unknown(PassThrough::PageSize),
        },
        b"configuration/capabilities" => match be32(bytes, head) {
            None => Look::Need(head + 4),
            Some(left) if left > CAPABILITIES_MAX => Look::Unknown(PassThrough::Configuration),
            Some(0) => verbatim(head + 4, CONFIGURED),
            Some(left) => verbatim(head + 4, State::Capabilities { left }),
        },
        _ => Look::Unknown(PassThrough::Configuration),
    }
}

fn block(bytes: &[u8], left: u64) -> Look {
    let name_len = usize::from(bytes[0]);
    let len = 1 + name_len + 8;
    let Some(size) = be64(bytes, 1 + name_len) else {
        return Look::Need(len);
    };
    match left.checked_sub(size) {
        None => Look::Unknown(PassThrough::Blocks),
        Some(left) => Look::Record {
            len,
            kind: Kind::Block { name_len, len: size },
            next: if left == 0 {
                State::Word
            } else {
                State::Blocks { left }
            },
        },
    }
}
