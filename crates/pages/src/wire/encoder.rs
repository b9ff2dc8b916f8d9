//! The source's end: QEMU's bytes in, frames out.
//!
//! ```text
//! push(bytes) ... flush() when QEMU pauses ... finish() at its end;  answer(back frames) in between
//! ready() false: window full, stop reading QEMU until answer() has taken acknowledgements
//! way() plain: push() copies; plain() leaves QEMU's bytes where they are
//! ```

use super::error::EncodeError;
use super::frame::{self, Frames, Part};
use super::group::{Closed, Group};
use super::way::Ways;
use super::window::Window;
use crate::chooser::{Chooser, PageProfile, page_profile};
use crate::class::{Account, Classes, PageClass, PlainReason, Way};
use crate::codec::group::GroupEncoder;
use crate::codec::{delta, fill_of, lz4_encode, lzo, wkdm};
use crate::content::{ContentId, ContentKey, Knowledge, Standing};
use crate::limits::{
    PAGE_BYTES, PLAIN_AFTER_BYTES, PLAIN_BYTES_MAX, RESTED_BYTES, VERSION_SLOTS, VERSION_SLOTS_MAX,
    WINDOW_BYTES_LIMIT, WINDOW_BYTES_MAX,
};
use crate::stream::{BlockIndex, BlockTable, Page, PageHead, Parser, PassThrough, RunningHash, Token};
use crate::versions::Versions;

/// How one stream is encoded.
#[derive(Clone)]
pub struct EncoderConfig {
    /// Classes that may be chosen.
    pub classes: Classes,
    /// Key of the cluster's content ids.
    pub key: ContentKey,
    /// Versions kept for delta, in pages, on each side.
    pub version_slots: u32,
    /// Bytes on their way or retained, not acknowledged.
    pub window_bytes_max: u64,
    /// Bytes of the stream for which the plain way must look better before it is taken.
    pub plain_after_bytes: u64,
}

impl EncoderConfig {
    /// All classes and the default limits.
    pub fn new(key: ContentKey) -> Self {
        EncoderConfig {
            classes: Classes::default(),
            key,
            version_slots: VERSION_SLOTS,
            window_bytes_max: WINDOW_BYTES_MAX,
            plain_after_bytes: PLAIN_AFTER_BYTES,
        }
    }
}

/// Encoder of one VM's stream.
pub struct Encoder {
    parser: Parser,
    core: Core,
    back: Frames,
}

pub(super) struct Core {
    config: EncoderConfig,
    chooser: Chooser,
    versions: Versions,
    zstd: GroupEncoder,
    group: Group,
    /// Number of the next frame that is acknowledged.
    next_number: u32,
    pub(super) window: Window,
    ways: Ways,
    /// Plain bytes since the chooser was last told of them.
    unrested_bytes: u64,
    /// Until one was not kept.
    pub(super) counts_on_promises: bool,
    blocks_sent: usize,
    greeted: bool,
    hash: RunningHash,
    pub(super) account: Account,
    untimed: [u64; PageClass::ALL.len()],
    /// Somebody stands still until this stream is over.
    hurries: bool,
    failed: Option<EncodeError>,
}

impl Encoder {
    /// An encoder that has seen nothing. Limits past the protocol's are lowered to them.
    pub fn new(mut config: EncoderConfig) -> Result<Self, EncodeError> {
        config.version_slots = config.version_slots.min(VERSION_SLOTS_MAX);
        if !config.classes.allow(PageClass::Delta) {
            config.version_slots = 0;
        }
        config.window_bytes_max = config.window_bytes_max.min(WINDOW_BYTES_LIMIT);
        let mut core = Core {
            chooser: Chooser::new(config.classes),
            versions: Versions::new(config.version_slots),
            zstd: GroupEncoder::new().map_err(EncodeError::Codec)?,
            group: Group::default(),
            next_number: 0,
            window: Window::new(config.window_bytes_max),
            ways: Ways::new(config.plain_after_bytes),
            unrested_bytes: 0,
            counts_on_promises: true,
            blocks_sent: 0,
            greeted: false,
            hash: RunningHash::default(),
            account: Account::default(),
            untimed: [0; PageClass::ALL.len()],
            hurries: false,
            failed: None,
            config,
        };
        core.begin_group();
        Ok(Encoder {
            parser: Parser::default(),
            core,
            back: Frames::default(),
        })
    }

    /// The way that the next bytes take.
    pub fn way(&self) -> Way {
        self.core.ways.way()
    }

    /// Encodes QEMU's next bytes; appends frames to `out`. At most a quarter of the window at once
    /// keeps it meaningful.
    pub fn push(
        &mut self,
        bytes: &[u8],
        knowledge: &mut Knowledge,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let core = &mut self.core;
        let before = out.len();
        core.greet(out);
        if let Way::Plain(reason) = core.ways.way() {
            for part in bytes.chunks(PLAIN_BYTES_MAX) {
                out.extend_from_slice(&core.plain(reason, &mut self.parser, &[part]));
                out.extend_from_slice(part);
            }
        } else {
            core.hash.update(bytes);
            core.account.stream_bytes += bytes.len() as u64;
            self.parser
                .push(bytes, |token, blocks| core.token(token, blocks, knowledge, out));
        }
        core.turn(&mut self.parser, out);
        core.leave(before, out)
    }

    /// Takes QEMU's next bytes as they are, [`PLAIN_BYTES_MAX`] at most, where they lie in pieces.
    /// On the wire they follow the head that is returned. None where they are to be pushed.
    pub fn plain(&mut self, pieces: &[&[u8]]) -> Option<[u8; frame::PLAIN_HEAD_BYTES]> {
        let Way::Plain(reason) = self.core.ways.way() else {
            return None;
        };
        let head = self.core.plain(reason, &mut self.parser, pieces);
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        self.core.account.wire_bytes += (head.len() + bytes) as u64;
        let mut nothing = Vec::new();
        self.core.turn(&mut self.parser, &mut nothing);
        debug_assert!(nothing.is_empty(), "nothing is gathered on the plain way");
        Some(head)
    }

    /// Sends what is gathered: QEMU has nothing more for now.
    pub fn flush(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let before = out.len();
        self.core.greet(out);
        self.core.end_group(out);
        self.core.leave(before, out)
    }

    /// QEMU's stream has ended: sends the rest and the end marker.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let before = out.len();
        let core = &mut self.core;
        core.greet(out);
        self.parser.hand_over(|token, _| {
            if let Token::Bytes(bytes) = token {
                core.literal(bytes, out);
            }
        });
        core.end_group(out);
        let digest = core.hash.digest();
        frame::frame(out, frame::END, |body| {
            body.extend_from_slice(&digest.bytes.to_le_bytes());
            body.extend_from_slice(&digest.hash.to_le_bytes());
        });
        core.leave(before, out)
    }

    /// Takes bytes that came back from the target. Supplied pages are appended to `out`, what the
    /// target's QEMU said to `returned`.
    pub fn answer(
        &mut self,
        mut bytes: &[u8],
        knowledge: &mut Knowledge,
        out: &mut Vec<u8>,
        returned: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let before = out.len();
        while let Some(part) = self
            .back
            .next(&mut bytes, true)
            .map_err(EncodeError::FrameLength)?
        {
            let Part::Frame(kind, body) = part else {
                return Err(EncodeError::Frame(frame::PLAIN));
            };
            self.core.back_frame(kind, body, knowledge, out, returned)?;
        }
        self.core.leave(before, out)
    }

    /// Whether more of QEMU's bytes may be pushed now.
    pub fn ready(&self) -> bool {
        self.core.window.is_open()
    }

    /// Bytes sent or retained that the target has not rebuilt yet.
    pub fn behind_bytes(&self) -> u64 {
        self.core.window.used_bytes()
    }

    /// Whether the target has rebuilt everything that was sent.
    pub fn settled(&self) -> bool {
        self.core.group.is_empty() && self.core.window.is_empty()
    }

    /// The link's rate for the chooser; None: not limited.
    pub fn link_rate(&mut self, bytes_per_second: Option<u64>) {
        self.core.chooser.link_rate(bytes_per_second);
        if self.core.group.is_empty() {
            self.core.begin_group();
        }
    }

    /// Whether a guest stands still until the rest is there. Then neither side hashes pages for
    /// their content: what saves bytes in a whole memory costs more time than it saves in the last
    /// pages.
    pub fn hurry(&mut self, hurries: bool) {
        let before = std::mem::replace(&mut self.core.hurries, hurries);
        if before != hurries && self.core.group.is_empty() {
            self.core.begin_group();
        }
    }

    /// Whether so much waits for the link that it stays busy whatever the next pages cost.
    pub fn crowded(&mut self, crowded: bool) {
        self.core.chooser.crowded(crowded);
    }

    /// CPU time of the pushes since the last call, so that the chooser knows this machine.
    pub fn took(&mut self, nanos: u64) {
        let pages: [(PageClass, u64); PageClass::ALL.len()] =
            std::array::from_fn(|at| (PageClass::ALL[at], self.core.untimed[at]));
        self.core.chooser.learn_nanos(&pages, nanos);
        self.core.untimed = [0; PageClass::ALL.len()];
    }

    /// Pages and bytes per class so far.
    pub fn account(&self) -> Account {
        self.core.account
    }

    /// Why the stream is passed through, once it is. To be logged once.
    pub fn passed_through(&self) -> Option<PassThrough> {
        self.parser.passed_through()
    }
}

impl Core {
    fn greet(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.greeted, true) {
            return;
        }
        frame::frame(out, frame::HELLO, |body| {
            body.extend_from_slice(frame::MAGIC);
            body.extend_from_slice(&frame::VERSION.to_le_bytes());
            body.extend_from_slice(&self.config.version_slots.to_le_bytes());
            body.extend_from_slice(&self.config.window_bytes_max.to_le_bytes());
            body.extend_from_slice(&self.config.key.fingerprint());
        });
    }

    fn leave(&mut self, before: usize, out: &[u8]) -> Result<(), EncodeError> {
        self.account.wire_bytes += (out.len() - before) as u64;
        self.failed.map_or(Ok(()), Err)
    }

    /// Takes plain bytes; their frame's head.
    fn plain(
        &mut self,
        reason: PlainReason,
        parser: &mut Parser,
        pieces: &[&[u8]],
    ) -> [u8; frame::PLAIN_HEAD_BYTES] {
        let mut bytes = 0;
        for piece in pieces {
            self.hash.update(piece);
            parser.walk(piece);
            bytes += piece.len();
        }
        self.account.stream_bytes += bytes as u64;
        self.account.add_plain(reason, bytes as u64);
        self.unrested_bytes += bytes as u64;
        if self.unrested_bytes >= RESTED_BYTES {
            self.unrested_bytes = 0;
            self.chooser.rested();
        }
        let number = self.number();
        let head = frame::plain_head(number, bytes);
        self.window.sent(number, (head.len() + bytes) as u64, Vec::new());
        head
    }

    /// Changes the way, where it is time. What was gathered on the coded way goes first.
    fn turn(&mut self, parser: &mut Parser, out: &mut Vec<u8>) {
        let understood = parser.passed_through().is_none();
        if !self
            .ways
            .decide(self.account.stream_bytes, &self.chooser, understood)
        {
            return;
        }
        self.account.way_changes += 1;
        parser.hand_over(|token, _| {
            if let Token::Bytes(bytes) = token {
                self.literal(bytes, out);
            }
        });
        self.end_group(out);
    }

    fn number(&mut self) -> u32 {
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        number
    }

    fn begin_group(&mut self) {
        let enters_store = self.chooser.dedup_pays() && !self.hurries;
        self.group.begin(enters_store, self.chooser.delta_pays());
    }

    fn token(&mut self, token: Token<'_>, blocks: &BlockTable, knowledge: &mut Knowledge, out: &mut Vec<u8>) {
        match token {
            Token::Bytes(bytes) => return self.literal(bytes, out),
            Token::Zero { head, fill } => {
                self.announce(blocks, out);
                self.group.page(PageClass::Zero, head).push(fill);
                self.count(PageClass::Zero, 1);
            }
            Token::Page { head, data } => {
                self.announce(blocks, out);
                self.page(head, data, knowledge);
            }
        }
        if self.group.is_full() {
            self.end_group(out);
        }
    }

    fn literal(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            bytes = self.group.literal(bytes);
            if self.group.is_full() {
                self.end_group(out);
            }
        }
    }

    /// Names blocks that the target has not been told of; ahead of the group that uses them.
    fn announce(&mut self, blocks: &BlockTable, out: &mut Vec<u8>) {
        while let Some(name) = blocks.name(BlockIndex(self.blocks_sent as u16)) {
            frame::frame(out, frame::BLOCK, |body| {
                body.push(name.len() as u8);
                body.extend_from_slice(name);
            });
            self.blocks_sent += 1;
        }
    }

    fn count(&mut self, class: PageClass, wire_bytes: usize) {
        self.account.add(class, 1, wire_bytes as u64);
        self.untimed[class as usize] += 1;
    }

    fn page(&mut self, head: PageHead, page: &Page, knowledge: &mut Knowledge) {
        if self.config.classes.allow(PageClass::Fill)
            && let Some(fill) = fill_of(page)
        {
            self.group.page(PageClass::Fill, head).push(fill);
            return self.count(PageClass::Fill, 1);
        }
        let id = self.group.enters_store().then(|| self.config.key.id(page));
        let counted_on = |standing: &Standing| *standing == Standing::Held || self.counts_on_promises;
        let standing = id.and_then(|id| knowledge.standing(id)).filter(counted_on);
        match (id, standing) {
            (Some(id), Some(standing)) => self.known(head, id, standing, page),
            _ => self.coded(head, page),
        }
        if let Some(id) = id {
            knowledge.promise(id);
        }
        if self.group.keeps_versions() {
            self.versions.put(head.block, head.offset, page);
        }
    }

    fn known(&mut self, head: PageHead, id: ContentId, standing: Standing, page: &Page) {
        self.group.known(head, id, standing);
        self.window.retain(id, page, standing);
        self.count(PageClass::Known, id.0.len());
    }

    /// Delta if a version is kept and it is smaller than what the chosen codec is expected to make.
    fn coded(&mut self, head: PageHead, page: &Page) {
        if !self.group.keeps_versions() && self.chooser.raw_always_pays() {
            return self.raw(head, page);
        }
        let profile = page_profile(page);
        let class = self.chooser.choose(profile);
        if self.group.keeps_versions()
            && let Some(old) = self.versions.get(head.block, head.offset)
        {
            let limit = self.chooser.expected_bytes(class, profile).min(PAGE_BYTES as u64) as usize;
            let encode = |body: &mut Vec<u8>| delta::encode(old, page, limit, body);
            if let Some(bytes) = self.group.coded(PageClass::Delta, head, encode) {
                return self.count(PageClass::Delta, bytes);
            }
        }
        match class {
            PageClass::Zstd => {
                self.group.zstd_page(head, page, profile);
                self.untimed[PageClass::Zstd as usize] += 1;
            }
            PageClass::Lz4 | PageClass::Wkdm | PageClass::Lzo => self.single(class, head, page, profile),
            _ => {
                self.chooser.decay(profile);
                self.raw(head, page);
            }
        }
    }

    fn single(&mut self, class: PageClass, head: PageHead, page: &Page, profile: PageProfile) {
        let coded = self.group.coded(class, head, |body| match class {
            PageClass::Wkdm => wkdm::encode(page, PAGE_BYTES, body),
            PageClass::Lzo => lzo::encode(page, PAGE_BYTES, body),
            _ => lz4_encode(page, PAGE_BYTES, body),
        });
        self.chooser
            .learn_bytes(class, profile, coded.unwrap_or(PAGE_BYTES));
        match coded {
            Some(bytes) => self.count(class, bytes),
            None => self.raw(head, page),
        }
    }

    fn raw(&mut self, head: PageHead, page: &Page) {
        self.group.page(PageClass::Raw, head).extend_from_slice(page);
        self.count(PageClass::Raw, PAGE_BYTES);
    }

    fn end_group(&mut self, out: &mut Vec<u8>) {
        if self.group.is_empty() {
            return;
        }
        let number = self.number();
        match self.group.close(number, &mut self.zstd, out) {
            Ok(closed) => {
                let referred = std::mem::take(&mut self.group.referred);
                self.window.sent(number, closed.frame_bytes, referred);
                self.learn_zstd(&closed);
            }
            Err(error) => self.failed = Some(EncodeError::Codec(error)),
        }
        self.begin_group();
    }

    fn learn_zstd(&mut self, closed: &Closed) {
        self.account
            .add(PageClass::Zstd, closed.zstd_pages as u64, closed.zstd_bytes);
        let profiles = &self.group.zstd_profiles;
        self.chooser
            .learn_group(PageClass::Zstd, profiles, closed.zstd_bytes);
    }
}
