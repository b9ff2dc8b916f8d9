//! The group that the encoder is filling.

use super::frame::{self, ENTER_STORE, HEAD_BYTES, KEEP_VERSIONS};
use super::record;
use crate::chooser::PageProfile;
use crate::class::PageClass;
use crate::codec::CodecError;
use crate::codec::group::GroupEncoder;
use crate::content::{ContentId, Standing};
use crate::limits::{GROUP_PAGES_MAX, GROUP_PAYLOAD_BYTES_MAX, LITERAL_BYTES_MAX, PAGE_BYTES};
use crate::stream::{Page, PageHead};

/// Of a group's body: number, flags, records, bytes of the records.
const GROUP_HEAD_BYTES: usize = 11;
/// Of a coded page's body.
const BODY_LENGTH_BYTES: usize = 2;
/// Where the records begin in their frame.
const RECORDS_AT: usize = HEAD_BYTES + GROUP_HEAD_BYTES;

/// Records gathered and not sent yet.
#[derive(Default)]
pub(super) struct Group {
    /// The frame that will be sent: room for its heads, then the records.
    frame: Vec<u8>,
    zstd_pages: Vec<u8>,
    zstd_blob: Vec<u8>,
    pub zstd_profiles: Vec<PageProfile>,
    count: u16,
    pages: usize,
    last: Option<PageHead>,
    /// Where the open literal's length stands, and its length.
    literal: Option<(usize, usize)>,
    flags: u8,
    /// Contents referred to, whose pages are retained until the group is acknowledged.
    pub referred: Vec<ContentId>,
}

impl Group {
    /// Empties it for the next group.
    pub fn begin(&mut self, enter_store: bool, keep_versions: bool) {
        self.frame.clear();
        self.frame.resize(RECORDS_AT, 0);
        self.frame[0] = frame::GROUP;
        self.zstd_pages.clear();
        self.zstd_blob.clear();
        self.zstd_profiles.clear();
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
            || self.frame.len() + self.zstd_pages.len() >= GROUP_PAYLOAD_BYTES_MAX
    }

    /// Takes what fits of verbatim bytes into one literal; returns the rest.
    pub fn literal<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (at, len) = self
            .literal
            .filter(|(_, len)| *len < LITERAL_BYTES_MAX)
            .unwrap_or_else(|| {
                self.count += 1;
                record::put_literal(&mut self.frame, &[]);
                (self.frame.len() - 4, 0)
            });
        let (now, rest) = bytes.split_at(bytes.len().min(LITERAL_BYTES_MAX - len));
        self.frame.extend_from_slice(now);
        let len = len + now.len();
        self.frame[at..at + 4].copy_from_slice(&(len as u32).to_le_bytes());
        self.literal = Some((at, len));
        rest
    }

    /// Begins a page record; its body is appended next.
    pub fn page(&mut self, class: PageClass, head: PageHead) -> &mut Vec<u8> {
        record::put_head(&mut self.frame, class, head, self.last);
        self.placed(head);
        &mut self.frame
    }

    /// Adds a page whose codec appends its body, and the body's bytes; None, and nothing added,
    /// where the codec says that it does not fit.
    pub fn coded(
        &mut self,
        class: PageClass,
        head: PageHead,
        encode: impl FnOnce(&mut Vec<u8>) -> bool,
    ) -> Option<usize> {
        let start = self.frame.len();
        record::put_head(&mut self.frame, class, head, self.last);
        let body_at = self.frame.len() + BODY_LENGTH_BYTES;
        self.frame.extend_from_slice(&[0; BODY_LENGTH_BYTES]);
        if !encode(&mut self.frame) {
            self.frame.truncate(start);
            return None;
        }
        let length = self.frame.len() - body_at;
        self.frame[body_at - BODY_LENGTH_BYTES..body_at].copy_from_slice(&(length as u16).to_le_bytes());
        self.placed(head);
        Some(BODY_LENGTH_BYTES + length)
    }

    /// Adds a page by its content; the page itself is to be retained.
    pub fn known(&mut self, head: PageHead, id: ContentId, standing: Standing) {
        record::put_known(&mut self.frame, id, standing, head, self.last);
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
    pub fn zstd_page(&mut self, head: PageHead, page: &Page, profile: PageProfile) {
        self.page(PageClass::Zstd, head);
        self.zstd_pages.extend_from_slice(page);
        self.zstd_profiles.push(profile);
    }

    /// Completes the frame and appends it to `out`.
    pub fn close(
        &mut self,
        number: u32,
        zstd: &mut GroupEncoder,
        out: &mut Vec<u8>,
    ) -> Result<Closed, CodecError> {
        let records_bytes = (self.frame.len() - RECORDS_AT) as u32;
        if !self.zstd_pages.is_empty() {
            zstd.encode(&self.zstd_pages, &mut self.zstd_blob)?;
            self.frame.extend_from_slice(&self.zstd_blob);
        }
        let head = &mut self.frame[HEAD_BYTES..RECORDS_AT];
        head[..4].copy_from_slice(&number.to_le_bytes());
        head[4] = self.flags;
        head[5..7].copy_from_slice(&self.count.to_le_bytes());
        head[7..].copy_from_slice(&records_bytes.to_le_bytes());
        frame::set_length(&mut self.frame);
        let closed = Closed {
            frame_bytes: self.frame.len() as u64,
            zstd_pages: self.zstd_pages.len() / PAGE_BYTES,
            zstd_bytes: self.zstd_blob.len() as u64,
        };
        // Most frames are alone in what is sent next, and need not be copied.
        if out.is_empty() {
            std::mem::swap(out, &mut self.frame);
        } else {
            out.extend_from_slice(&self.frame);
        }
        Ok(closed)
    }
}

/// What a closed group came to.
pub(super) struct Closed {
    pub frame_bytes: u64,
    pub zstd_pages: usize,
    pub zstd_bytes: u64,
}
