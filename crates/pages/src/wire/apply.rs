//! One group's records, applied in order; stops at a reference that fails and goes on when the page is supplied.

use std::collections::{HashMap, HashSet};

use super::error::DecodeError;
use super::frame::{ENTER_STORE, KEEP_VERSIONS, Reader};
use super::record::{self, Body, Record};
use crate::class::PageClass;
use crate::codec::{ZERO_PAGE, delta, lz4_decode, wkdm};
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

/// What the records of all groups act upon.
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
    /// Applies records until the end (true) or until a reference fails (false); the cursor stands there.
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
                    if !self.page(parts, head, body, &mut next, store, &mut page)? {
                        break;
                    }
                    let token = match body {
                        Body::Zero(fill) => Token::Zero { head, fill },
                        _ => Token::Page { head, data: &page },
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

    /// Rebuilds one page's contents; false: its reference fails.
    fn page(
        &mut self,
        parts: Parts<'_>,
        head: PageHead,
        body: Body<'_>,
        cursor: &mut Cursor,
        store: &mut PageStore,
        page: &mut Page,
    ) -> Result<bool, DecodeError> {
        let mut fresh = true;
        match body {
            Body::Zero(_) => return Ok(true),
            Body::Fill(fill) => {
                page.fill(fill);
                return Ok(true);
            }
            Body::Known(id, _) => match self
                .supplied
                .get(&id)
                .map(|page| &**page)
                .or_else(|| store.get(id))
            {
                Some(held) => {
                    *page = *held;
                    fresh = false;
                }
                None => return Ok(false),
            },
            Body::Coded(PageClass::Delta, body) => {
                *page = *self
                    .versions
                    .get(head.block, head.offset)
                    .ok_or(DecodeError::BaseVersion)?;
                delta::decode(body, page).map_err(DecodeError::Codec)?;
            }
            Body::Coded(PageClass::Wkdm, body) => wkdm::decode(body, page).map_err(DecodeError::Codec)?,
            Body::Coded(_, body) => lz4_decode(body, page).map_err(DecodeError::Codec)?,
            Body::Zstd => {
                let plain = parts.plain.get(cursor.zstd_at..cursor.zstd_at + PAGE_BYTES);
                page.copy_from_slice(plain.ok_or(DecodeError::Truncated)?);
                cursor.zstd_at += PAGE_BYTES;
            }
            Body::Raw(raw) => *page = *raw,
        }
        if fresh && parts.flags & ENTER_STORE != 0 {
            store.insert(self.key.id(page), page);
        }
        if parts.flags & KEEP_VERSIONS != 0 {
            self.versions.put(head.block, head.offset, page);
        }
        Ok(true)
    }

    /// Contents that the rest of a group refers to and that are nowhere here; without the promised ones where the caller is patient.
    pub fn missing(
        &self,
        parts: Parts<'_>,
        cursor: Cursor,
        store: &PageStore,
        patient: bool,
    ) -> HashSet<ContentId> {
        let (mut reader, mut last) = (Reader(&parts.records[cursor.at..]), cursor.last);
        let mut missing = HashSet::new();
        while let Ok(read) = record::read(&mut reader, &mut last) {
            if let Record::Page(_, Body::Known(id, standing)) = read
                && !(patient && standing == Standing::Promised)
                && !self.supplied.contains_key(&id)
                && !store.holds(id)
            {
                missing.insert(id);
            }
        }
        missing
    }
}
