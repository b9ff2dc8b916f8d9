//! One group's records, applied in order; stops at a reference that fails and goes on when the page
//! is supplied.

use std::collections::{HashMap, HashSet};

use super::error::DecodeError;
use super::frame::{ENTER_STORE, KEEP_VERSIONS, Reader};
use super::record::{self, Body, Record};
use crate::class::PageClass;
use crate::codec::{ZERO_PAGE, delta, lz4_decode, lzo, wkdm};
use crate::content::{ContentId, ContentKey, PageStore, Standing};
use crate::limits::{GROUP_PAGES_MAX, PAGE_BYTES};
use crate::stream::{BlockTable, Page, PageHead, RunningHash, Token, Writer};
use crate::versions::Versions;

/// How far a group has been applied.
#[derive(Clone, Copy, Default)]
pub(super) struct Cursor {
    at: usize,
    zstd_at: usize,
    last: Option<PageHead>,
}

/// What the records of all groups act on.
pub(super) struct Rebuild {
    pub key: ContentKey,
    pub blocks: BlockTable,
    pub versions: Versions,
    pub hash: RunningHash,
    /// Pages that the source supplied for the group that waits.
    pub supplied: HashMap<ContentId, Box<Page>>,
}

/// A group, as it lies in its frame: flags, records, and the pages of its zstd blob.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub flags: u8,
    pub records: &'a [u8],
    pub plain: &'a [u8],
}

/// Reads all records without effect. Returns how many are zstd pages.
pub(super) fn survey(records: &[u8], count: u16) -> Result<usize, DecodeError> {
    let (mut reader, mut last) = (Reader(records), None);
    let (mut pages, mut zstd, mut seen) = (0, 0, 0u16);
    while !reader.is_empty() {
        if let Record::Page(_, body) = record::read(&mut reader, &mut last)? {
            pages += 1;
            zstd += usize::from(matches!(body, Body::Zstd));
        }
        seen = seen.checked_add(1).ok_or(DecodeError::Truncated)?;
    }
    if pages > GROUP_PAGES_MAX {
        return Err(DecodeError::GroupPages);
    }
    if seen == count {
        Ok(zstd)
    } else {
        Err(DecodeError::Truncated)
    }
}

impl Rebuild {
    /// Applies records until the end (true) or until a reference fails (false); the cursor stands
    /// there.
    pub fn apply(
        &mut self,
        parts: Parts<'_>,
        cursor: &mut Cursor,
        store: &mut PageStore,
        out: &mut Vec<u8>,
    ) -> Result<bool, DecodeError> {
        let start = out.len();
        let mut page = ZERO_PAGE;
        while cursor.at < parts.records.len() {
            let mut next = *cursor;
            let mut reader = Reader(&parts.records[cursor.at..]);
            let read = record::read(&mut reader, &mut next.last)?;
            next.at = parts.records.len() - reader.0.len();
            match read {
                Record::Literal(bytes) => out.extend_from_slice(bytes),
                Record::Page(head, body) => {
                    let token = match body {
                        Body::Zero(fill) => Token::Zero { head, fill },
                        body => match self.page(parts, head, body, &mut next, store, &mut page)? {
                            Some(data) => Token::Page { head, data },
                            None => break,
                        },
                    };
                    if !Writer::write(token, &self.blocks, out) {
                        return Err(DecodeError::Place);
                    }
                }
            }
            *cursor = next;
        }
        self.hash.update(&out[start..]);
        Ok(cursor.at == parts.records.len())
    }

    /// One page's contents, where they lie or rebuilt in `room`; None: its reference fails.
    fn page<'a>(
        &mut self,
        parts: Parts<'a>,
        head: PageHead,
        body: Body<'a>,
        cursor: &mut Cursor,
        store: &mut PageStore,
        room: &'a mut Page,
    ) -> Result<Option<&'a Page>, DecodeError> {
        let mut fresh = true;
        let page: &Page = match body {
            Body::Zero(fill) | Body::Fill(fill) => {
                room.fill(fill);
                return Ok(Some(room));
            }
            Body::Known(id, _) => {
                let supplied = self.supplied.get(&id).map(|page| &**page);
                let Some(held) = supplied.or_else(|| store.get(id)) else {
                    return Ok(None);
                };
                *room = *held;
                fresh = false;
                room
            }
            Body::Coded(PageClass::Delta, body) => {
                *room = *self
                    .versions
                    .get(head.block, head.offset)
                    .ok_or(DecodeError::BaseVersion)?;
                delta::decode(body, room).map_err(DecodeError::Codec)?;
                room
            }
            Body::Coded(PageClass::Wkdm, body) => {
                wkdm::decode(body, room).map_err(DecodeError::Codec)?;
                room
            }
            Body::Coded(PageClass::Lzo, body) => {
                lzo::decode(body, room).map_err(DecodeError::Codec)?;
                room
            }
            Body::Coded(_, body) => {
                lz4_decode(body, room).map_err(DecodeError::Codec)?;
                room
            }
            Body::Zstd => {
                let plain = parts.plain.get(cursor.zstd_at..cursor.zstd_at + PAGE_BYTES);
                cursor.zstd_at += PAGE_BYTES;
                plain
                    .and_then(|plain| plain.try_into().ok())
                    .ok_or(DecodeError::Truncated)?
            }
            Body::Raw(raw) => raw,
        };
        if fresh && parts.flags & ENTER_STORE != 0 {
            store.insert(self.key.id(page), page);
        }
        if parts.flags & KEEP_VERSIONS != 0 {
            self.versions.put(head.block, head.offset, page);
        }
        Ok(Some(page))
    }

    /// Contents that the rest of a group refers to and that are nowhere here; without the promised
    /// ones where the caller may wait.
    pub fn missing(
        &self,
        parts: Parts<'_>,
        cursor: Cursor,
        store: &PageStore,
        may_wait: bool,
    ) -> HashSet<ContentId> {
        let (mut reader, mut last) = (Reader(&parts.records[cursor.at..]), cursor.last);
        let mut missing = HashSet::new();
        while let Ok(read) = record::read(&mut reader, &mut last) {
            if let Record::Page(_, Body::Known(id, standing)) = read
                && !(may_wait && standing == Standing::Promised)
                && !self.supplied.contains_key(&id)
                && !store.holds(id)
            {
                missing.insert(id);
            }
        }
        missing
    }
}
