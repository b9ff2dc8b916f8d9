//! The group that the encoder is filling.

use super::frame::{ENTER_STORE, KEEP_VERSIONS};
use super::record;
use crate::chooser::Similarity;
use crate::class::PageClass;
use crate::codec::CodecError;
use crate::codec::group::GroupEncoder;
use crate::content::{ContentId, Standing};
use crate::limits::{GROUP_PAGES_MAX, GROUP_PAYLOAD_BYTES_MAX, LITERAL_BYTES_MAX, PAGE_BYTES};
use crate::stream::{Page, PageHead};

/// Records gathered and not sent yet.
#[derive(Default)]
pub(super) struct Group {
    pub records: Vec<u8>,
    zstd_pages: Vec<u8>,
    pub zstd_blob: Vec<u8>,
    pub zstd_similarities: Vec<Similarity>,
    pub count: u16,
    pages: usize,
    last: Option<PageHead>,
    /// Where the open literal's length stands, and its length.
    literal: Option<(usize, usize)>,
    pub flags: u8,
    /// Contents referred to, whose pages are retained until the group is acknowledged.
    pub referred: Vec<ContentId>,
}

impl Group {
    /// Empties it for the next group.
    pub fn begin(&mut self, enter_store: bool, keep_versions: bool) {
        self.records.clear();
        self.zstd_pages.clear();
        self.zstd_blob.clear();
        self.zstd_similarities.clear();
        (self.count, self.pages, self.last, self.literal) = (0, 0, None, None);
        self.flags =
            if enter_store { ENTER_STORE } else { 0 } | if keep_versions { KEEP_VERSIONS } else { 0 };
        self.referred = Vec::new();
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn enters_store(&self) -> bool {
        self.flags & ENTER_STORE != 0
    }

    pub fn keeps_versions(&self) -> bool {
        self.flags & KEEP_VERSIONS != 0
    }

    /// Whether the next record must go into another group.
    pub fn is_full(&self) -> bool {
        self.pages >= GROUP_PAGES_MAX
            || self.count >= u16::MAX - 1
            || self.records.len() + self.zstd_pages.len() >= GROUP_PAYLOAD_BYTES_MAX
    }

    /// Takes what fits of verbatim bytes into one literal; gives back the rest.
    pub fn literal<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (at, len) = self
            .literal
            .filter(|(_, len)| *len < LITERAL_BYTES_MAX)
            .unwrap_or_else(|| {
                self.count += 1;
                record::put_literal(&mut self.records, &[]);
                (self.records.len() - 4, 0)
            });
        let (now, rest) = bytes.split_at(bytes.len().min(LITERAL_BYTES_MAX - len));
        self.records.extend_from_slice(now);
        let len = len + now.len();
        self.records[at..at + 4].copy_from_slice(&(len as u32).to_le_bytes());
        self.literal = Some((at, len));
        rest
    }

    /// Begins a page record; its body goes to `records` next.
    pub fn page(&mut self, class: PageClass, head: PageHead) -> &mut Vec<u8> {
        record::put_head(&mut self.records, class, head, self.last);
        self.placed(head);
        &mut self.records
    }

    /// Adds a page by its content; the page itself is to be retained.
    pub fn known(&mut self, head: PageHead, id: ContentId, standing: Standing) {
        record::put_known(&mut self.records, id, standing, head, self.last);
        self.placed(head);
        self.referred.push(id);
    }

    fn placed(&mut self, head: PageHead) {
        self.last = Some(head);
        self.literal = None;
        self.count += 1;
        self.pages += 1;
    }

    /// Adds a page whose body joins the group's zstd blob.
    pub fn zstd_page(&mut self, head: PageHead, page: &Page, similarity: Similarity) {
        self.page(PageClass::Zstd, head);
        self.zstd_pages.extend_from_slice(page);
        self.zstd_similarities.push(similarity);
    }

    /// Compresses the blob. Returns its pages.
    pub fn close(&mut self, zstd: &mut GroupEncoder) -> Result<usize, CodecError> {
        if !self.zstd_pages.is_empty() {
            zstd.encode(&self.zstd_pages, &mut self.zstd_blob)?;
        }
        Ok(self.zstd_pages.len() / PAGE_BYTES)
    }
}
