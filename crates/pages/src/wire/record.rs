//! The records of a group.
//!
//! ```text
//! u8: class code (low 4 bits) | 0x10 QEMU wrote "continue" | 0x20 next page of the record before
//!     | 0x40 known: promised, another stream of the source may carry it and be behind
//! literal (code 0): u32 length, bytes
//! page: unless 0x20: u16 block, u64 offset; then by class:
//!     fill byte | id 16 | u16 length + body | nothing | 4096 bytes
//! ```

use super::error::DecodeError;
use super::frame::Reader;
use crate::class::PageClass;
use crate::content::{ContentId, Standing};
use crate::limits::{LITERAL_BYTES_MAX, PAGE_BYTES};
use crate::stream::{BlockIndex, Page, PageHead};

const CONTINUED: u8 = 0x10;
const NEXT: u8 = 0x20;
const PROMISED: u8 = 0x40;

/// What a page record carries.
#[derive(Clone, Copy, Debug)]
pub(super) enum Body<'a> {
    Zero(u8),
    Fill(u8),
    Known(ContentId, Standing),
    Coded(PageClass, &'a [u8]),
    Zstd,
    Raw(&'a Page),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Record<'a> {
    Literal(&'a [u8]),
    Page(PageHead, Body<'a>),
}

fn next_of(last: Option<PageHead>) -> Option<(BlockIndex, u64)> {
    let last = last?;
    Some((last.block, last.offset.checked_add(PAGE_BYTES as u64)?))
}

/// Appends the head of a page record; `last` is the page record before in this group.
pub(super) fn put_head(out: &mut Vec<u8>, class: PageClass, head: PageHead, last: Option<PageHead>) {
    let continued = if head.continued { CONTINUED } else { 0 };
    if next_of(last) == Some((head.block, head.offset)) {
        out.push(class.code() | continued | NEXT);
    } else {
        out.push(class.code() | continued);
        out.extend_from_slice(&head.block.0.to_le_bytes());
        out.extend_from_slice(&head.offset.to_le_bytes());
    }
}

/// Appends a reference to contents of that standing.
pub(super) fn put_known(
    out: &mut Vec<u8>,
    id: ContentId,
    standing: Standing,
    head: PageHead,
    last: Option<PageHead>,
) {
    let lead = out.len();
    put_head(out, PageClass::Known, head, last);
    if standing == Standing::Promised {
        out[lead] |= PROMISED;
    }
    out.extend_from_slice(&id.0);
}

/// Appends a literal record.
pub(super) fn put_literal(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(0);
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Reads the next record; `last` follows the page records.
pub(super) fn read<'a>(
    reader: &mut Reader<'a>,
    last: &mut Option<PageHead>,
) -> Result<Record<'a>, DecodeError> {
    let lead = reader.u8().ok_or(DecodeError::Truncated)?;
    if lead == 0 {
        let len = reader.u32().ok_or(DecodeError::Truncated)? as usize;
        if len > LITERAL_BYTES_MAX {
            return Err(DecodeError::Truncated);
        }
        return reader
            .take(len)
            .map(Record::Literal)
            .ok_or(DecodeError::Truncated);
    }
    let class = PageClass::from_code(lead & 0x0f).ok_or(DecodeError::Class(lead))?;
    let allowed = match class {
        PageClass::Known => CONTINUED | NEXT | PROMISED,
        _ => CONTINUED | NEXT,
    };
    if lead & 0xf0 & !allowed != 0 {
        return Err(DecodeError::Class(lead));
    }
    let (block, offset) = if lead & NEXT != 0 {
        next_of(*last).ok_or(DecodeError::Place)?
    } else {
        let block = reader.u16().ok_or(DecodeError::Truncated)?;
        (BlockIndex(block), reader.u64().ok_or(DecodeError::Truncated)?)
    };
    if offset % PAGE_BYTES as u64 != 0 {
        return Err(DecodeError::Place);
    }
    let head = PageHead {
        block,
        offset,
        continued: lead & CONTINUED != 0,
    };
    *last = Some(head);
    Ok(Record::Page(
        head,
        body(reader, class, lead).ok_or(DecodeError::Truncated)?,
    ))
}

fn body<'a>(reader: &mut Reader<'a>, class: PageClass, lead: u8) -> Option<Body<'a>> {
    Some(match class {
        PageClass::Zero => Body::Zero(reader.u8()?),
        PageClass::Fill => Body::Fill(reader.u8()?),
        PageClass::Known => {
            let standing = match lead & PROMISED {
                0 => Standing::Held,
                _ => Standing::Promised,
            };
            Body::Known(ContentId(reader.array()?), standing)
        }
        PageClass::Delta | PageClass::Wkdm | PageClass::Lz4 | PageClass::Lzo => {
            let len = usize::from(reader.u16()?);
            Body::Coded(class, reader.take(len)?)
        }
        PageClass::Zstd => Body::Zstd,
        PageClass::Raw => Body::Raw(reader.take(PAGE_BYTES)?.try_into().ok()?),
    })
}
