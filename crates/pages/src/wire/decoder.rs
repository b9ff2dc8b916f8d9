//! The target's end: frames in, QEMU's bytes out, and what goes back to the source.
//!
//! ```text
//! Hello -> Flowing <-> Waiting (a reference failed; later frames queue, supplies pass) -> Ended (digest equal)
//! ```
//!
//! What a reference only counts on another stream for is waited for, not asked for, as long as the
//! caller lets it wait: at one source a reference is made after its content was sent, and streams
//! keep their order, so streams never wait for each other in a cycle.

use std::collections::{HashMap, HashSet, VecDeque};

use super::apply::{Cursor, Parts, Rebuild, survey};
use super::error::DecodeError;
use super::frame::{self, Frames, Part, Reader};
use crate::codec::group::GroupDecoder;
use crate::content::{ContentId, ContentKey, PageStore, StoreCursor};
use crate::limits::{
    BACK_IDS_MAX, FRAME_BODY_BYTES_MAX, GROUP_PAGES_MAX, OUTPUT_BYTES_MAX, PAGE_BYTES, VERSION_SLOTS_MAX,
    WINDOW_BYTES_LIMIT,
};
use crate::stream::{BlockTable, Page, RunningHash, StreamDigest};
use crate::versions::Versions;

/// What a push came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'w> {
    /// Everything that can be rebuilt is; more frames are due.
    Hungry,
    /// The output limit was reached: write it out, then push on.
    More,
    /// QEMU gets what was put out, then these bytes of the wire as they stand. Push on.
    Plain(&'w [u8]),
    /// The end marker was checked: the bytes returned are the source's.
    Ended(StreamDigest),
}

/// A group that waits for supplied pages.
struct Waiting {
    number: u32,
    flags: u8,
    records: Vec<u8>,
    plain: Vec<u8>,
    cursor: Cursor,
}

/// Decoder of one VM's stream.
pub struct Decoder {
    frames: Frames,
    core: Core,
}

struct Core {
    rebuild: Rebuild,
    zstd: GroupDecoder,
    plain: Vec<u8>,
    greeted: bool,
    window_bytes_max: u64,
    next_group: u32,
    acked: Option<u32>,
    /// The plain frame whose bytes are being handed on.
    plain_number: u32,
    waiting: Option<Waiting>,
    /// Pages that had entered the store, and `may_wait`, when that group was looked at last: until
    /// one of them changes, or a page is supplied, it lacks what it lacked.
    looked: (u64, bool),
    /// What other streams promised is waited for, not asked for.
    may_wait: bool,
    queue: VecDeque<(u8, Vec<u8>)>,
    queue_bytes: usize,
    wanted: HashSet<ContentId>,
    reported: StoreCursor,
    ended: Option<StreamDigest>,
}

impl Decoder {
    /// A decoder for a stream of this cluster.
    pub fn new(key: ContentKey) -> Result<Self, DecodeError> {
        let rebuild = Rebuild {
            key,
            blocks: BlockTable::default(),
            versions: Versions::new(0),
            hash: RunningHash::default(),
            supplied: HashMap::new(),
        };
        let core = Core {
            rebuild,
            zstd: GroupDecoder::new().map_err(DecodeError::Codec)?,
            plain: Vec::new(),
            greeted: false,
            window_bytes_max: 0,
            next_group: 0,
            acked: None,
            plain_number: 0,
            waiting: None,
            looked: (0, true),
            may_wait: true,
            queue: VecDeque::new(),
            queue_bytes: 0,
            wanted: HashSet::new(),
            reported: StoreCursor::default(),
            ended: None,
        };
        Ok(Decoder {
            frames: Frames::default(),
            core,
        })
    }

    /// Takes the source's next bytes off the front of `wire`; what is left there is to be pushed
    /// again. Appends to `out` what QEMU gets, to `back` what the source gets.
    pub fn push<'w>(
        &mut self,
        wire: &mut &'w [u8],
        store: &mut PageStore,
        out: &mut Vec<u8>,
        back: &mut Vec<u8>,
    ) -> Result<Progress<'w>, DecodeError> {
        let (core, start) = (&mut self.core, out.len());
        core.check_window(self.frames.waiting())?;
        if core.looked != (store.entered(), core.may_wait) {
            core.resume(store, out, back)?;
        }
        let progress = loop {
            core.drain(store, out, back, start)?;
            if out.len() - start >= OUTPUT_BYTES_MAX {
                break Progress::More;
            }
            let waits = core.waiting.is_some();
            let part = self.frames.next(wire, waits).map_err(DecodeError::FrameLength)?;
            match part {
                None => break core.ended.map_or(Progress::Hungry, Progress::Ended),
                Some(Part::PlainBegins(number, bytes)) => core.plain_begins(number, bytes)?,
                Some(Part::Plain(bytes, ends)) => {
                    core.plain(bytes, ends);
                    break Progress::Plain(bytes);
                }
                Some(Part::Frame(frame::SUPPLY, body)) => core.supply(body, store, out, back)?,
                Some(Part::Frame(kind, body)) if waits => core.enqueue(kind, body),
                Some(Part::Frame(kind, body)) => core.frame(kind, body, store, out, back)?,
            }
        };
        core.report(store, back);
        Ok(progress)
    }

    /// The group that waits for nothing but pages of other streams: push again when the store has
    /// grown.
    pub fn waits_for_siblings(&self) -> Option<u32> {
        let waiting = self.core.waiting.as_ref()?;
        (self.core.may_wait && self.core.wanted.is_empty()).then_some(waiting.number)
    }

    /// Enough waited for other streams, now and later. The next push, an empty one will do, asks
    /// the source for what the group still lacks, or goes on if it lacks nothing any more.
    pub fn stop_waiting_for_siblings(&mut self) {
        self.core.may_wait = false;
    }

    /// The connection has ended: an error unless the end marker was checked.
    pub fn finish(&self) -> Result<StreamDigest, DecodeError> {
        self.core.ended.ok_or(DecodeError::Early)
    }
}

fn whole<T>(value: Option<T>, reader: &Reader<'_>) -> Result<T, DecodeError> {
    value.filter(|_| reader.is_empty()).ok_or(DecodeError::Truncated)
}

/// What a queued frame is charged: no less than its place in the queue, or empty frames would be
/// kept for nothing.
fn queued_bytes(body: &[u8]) -> usize {
    (body.len() + frame::HEAD_BYTES).max(size_of::<(u8, Vec<u8>)>())
}

impl Core {
    /// An honest source stays within its window, but for one push and the supplies asked of it.
    fn check_window(&self, frames_bytes: usize) -> Result<(), DecodeError> {
        let allowed = 2 * self.window_bytes_max.max(2 * FRAME_BODY_BYTES_MAX as u64)
            + (self.wanted.len() * (PAGE_BYTES + 32)) as u64;
        // Before the hello the caller's own read size is the bound.
        if self.greeted && (frames_bytes + self.queue_bytes) as u64 > allowed {
            return Err(DecodeError::Window);
        }
        Ok(())
    }

    fn enqueue(&mut self, kind: u8, body: &[u8]) {
        self.queue_bytes += queued_bytes(body);
        self.queue.push_back((kind, body.to_vec()));
    }

    /// Goes on with queued frames as far as references and the output limit allow.
    fn drain(
        &mut self,
        store: &mut PageStore,
        out: &mut Vec<u8>,
        back: &mut Vec<u8>,
        start: usize,
    ) -> Result<(), DecodeError> {
        while self.waiting.is_none() && out.len() - start < OUTPUT_BYTES_MAX {
            let Some((kind, body)) = self.queue.pop_front() else {
                break;
            };
            self.queue_bytes -= queued_bytes(&body);
            self.frame(kind, &body, store, out, back)?;
        }
        Ok(())
    }

    fn frame(
        &mut self,
        kind: u8,
        body: &[u8],
        store: &mut PageStore,
        out: &mut Vec<u8>,
        back: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        self.check_order(kind)?;
        match kind {
            frame::HELLO => self.hello(body),
            frame::GROUP => self.group(body, store, out, back),
            frame::PLAIN => self.plain_frame(body, out),
            frame::BLOCK => self.block(body),
            frame::END => self.end(body),
            other => Err(DecodeError::Kind(other)),
        }
    }

    fn check_order(&self, kind: u8) -> Result<(), DecodeError> {
        if self.ended.is_some() {
            return Err(DecodeError::AfterEnd);
        }
        if self.greeted == (kind == frame::HELLO) {
            return Err(DecodeError::Order(kind));
        }
        Ok(())
    }

    /// The next frame of those that are acknowledged, by its number.
    fn count_in(&mut self, number: u32) -> Result<(), DecodeError> {
        if number != self.next_group {
            return Err(DecodeError::GroupNumber {
                got: number,
                expected: self.next_group,
            });
        }
        self.next_group = self.next_group.wrapping_add(1);
        Ok(())
    }

    fn plain_begins(&mut self, number: u32, bytes: usize) -> Result<(), DecodeError> {
        self.check_order(frame::PLAIN)?;
        self.count_in(number)?;
        self.plain_number = number;
        self.plain(&[], bytes == 0);
        Ok(())
    }

    fn plain(&mut self, bytes: &[u8], ends: bool) {
        self.rebuild.hash.update(bytes);
        if ends {
            self.acked = Some(self.plain_number);
        }
    }

    /// One that had to wait.
    fn plain_frame(&mut self, body: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let mut reader = Reader(body);
        let number = reader.u32().ok_or(DecodeError::Truncated)?;
        let bytes = reader.0;
        self.plain_begins(number, bytes.len())?;
        self.plain(bytes, true);
        out.extend_from_slice(bytes);
        Ok(())
    }

    fn hello(&mut self, body: &[u8]) -> Result<(), DecodeError> {
        let mut reader = Reader(body);
        if reader.take(4) != Some(frame::MAGIC) {
            return Err(DecodeError::Hello("it is not a page stream"));
        }
        let version = reader.u16().ok_or(DecodeError::Truncated)?;
        if version != frame::VERSION {
            return Err(DecodeError::Version(version));
        }
        let slots = reader.u32().ok_or(DecodeError::Truncated)?;
        let window = reader.u64().ok_or(DecodeError::Truncated)?;
        let fingerprint: Option<[u8; 16]> = reader.array();
        let fingerprint = whole(fingerprint, &reader)?;
        if fingerprint != self.rebuild.key.fingerprint() {
            return Err(DecodeError::Hello("it is of another cluster"));
        }
        if slots > VERSION_SLOTS_MAX || window > WINDOW_BYTES_LIMIT {
            return Err(DecodeError::Hello("it asks for more than the limits allow"));
        }
        self.rebuild.versions = Versions::new(slots);
        (self.window_bytes_max, self.greeted) = (window, true);
        Ok(())
    }

    fn block(&mut self, body: &[u8]) -> Result<(), DecodeError> {
        let mut reader = Reader(body);
        let name = reader.u8().and_then(|len| reader.take(usize::from(len)));
        let name = whole(name, &reader)?;
        // The target needs no length: QEMU checks offsets against its own blocks.
        self.rebuild
            .blocks
            .add(name, u64::MAX)
            .map_err(DecodeError::Block)?;
        Ok(())
    }

    fn group(
        &mut self,
        body: &[u8],
        store: &mut PageStore,
        out: &mut Vec<u8>,
        back: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let mut reader = Reader(body);
        let head = (|| Some((reader.u32()?, reader.u8()?, reader.u16()?, reader.u32()?)))();
        let (number, flags, count, records_len) = head.ok_or(DecodeError::Truncated)?;
        self.count_in(number)?;
        let records = reader.take(records_len as usize).ok_or(DecodeError::Truncated)?;
        let blob = reader.0;
        let zstd_pages = survey(records, count)?;
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        match (zstd_pages, blob.is_empty()) {
            (0, true) => {}
            (0, false) => return Err(DecodeError::Truncated),
            (pages, _) => self
                .zstd
                .decode(blob, pages, &mut plain)
                .map_err(DecodeError::Codec)?,
        }
        let mut cursor = Cursor::default();
        let parts = Parts {
            flags,
            records,
            plain: &plain,
        };
        if self.rebuild.apply(parts, &mut cursor, store, out)? {
            self.acked = Some(number);
            self.plain = plain;
            return Ok(());
        }
        let waiting = Waiting {
            number,
            flags,
            records: records.to_vec(),
            plain,
            cursor,
        };
        self.wait(waiting, store, back)
    }

    /// Goes on with the group that waits, if there is one.
    fn resume(
        &mut self,
        store: &mut PageStore,
        out: &mut Vec<u8>,
        back: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let Some(mut waiting) = self.waiting.take() else {
            return Ok(());
        };
        let parts = Parts {
            flags: waiting.flags,
            records: &waiting.records,
            plain: &waiting.plain,
        };
        if self.rebuild.apply(parts, &mut waiting.cursor, store, out)? {
            self.acked = Some(waiting.number);
            self.rebuild.supplied.clear();
            self.plain = waiting.plain;
            return Ok(());
        }
        self.wait(waiting, store, back)
    }

    /// Asks, once, for what the rest of a group lacks and will not come by itself.
    fn wait(&mut self, waiting: Waiting, store: &PageStore, back: &mut Vec<u8>) -> Result<(), DecodeError> {
        let parts = Parts {
            flags: waiting.flags,
            records: &waiting.records,
            plain: &waiting.plain,
        };
        let missing = self.rebuild.missing(parts, waiting.cursor, store, self.may_wait);
        self.looked = (store.entered(), self.may_wait);
        self.waiting = Some(waiting);
        let mut ask: Vec<ContentId> = missing
            .into_iter()
            .filter(|id| !self.wanted.contains(id))
            .collect();
        ask.sort_unstable();
        self.wanted.extend(&ask);
        if self.wanted.len() > BACK_IDS_MAX + GROUP_PAGES_MAX {
            return Err(DecodeError::Window);
        }
        if !ask.is_empty() {
            frame::frame(back, frame::NEED, |body| frame::put_ids(body, &ask));
        }
        Ok(())
    }

    fn supply(
        &mut self,
        body: &[u8],
        store: &mut PageStore,
        out: &mut Vec<u8>,
        back: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let mut reader = Reader(body);
        let id = ContentId(reader.array().ok_or(DecodeError::Truncated)?);
        let page: &Page = whole(
            reader.take(PAGE_BYTES).and_then(|page| page.try_into().ok()),
            &reader,
        )?;
        if !self.wanted.remove(&id) || self.rebuild.key.id(page) != id {
            return Err(DecodeError::Supply);
        }
        store.insert(id, page);
        if self.waiting.is_some() {
            self.rebuild.supplied.insert(id, Box::new(*page));
        }
        self.resume(store, out, back)
    }

    fn end(&mut self, body: &[u8]) -> Result<(), DecodeError> {
        let mut reader = Reader(body);
        let sent = (|| Some((reader.u64()?, u128::from_le_bytes(reader.array()?))))();
        let (bytes, hash) = whole(sent, &reader)?;
        let (sent, got) = (StreamDigest { bytes, hash }, self.rebuild.hash.digest());
        if sent != got {
            return Err(DecodeError::Digest {
                got_bytes: got.bytes,
                sent_bytes: sent.bytes,
            });
        }
        self.ended = Some(got);
        Ok(())
    }

    /// Acknowledges, and reports to the source what the store holds now.
    fn report(&mut self, store: &PageStore, back: &mut Vec<u8>) {
        if !self.greeted {
            return;
        }
        let news = store.news(&mut self.reported);
        if news.reset {
            frame::frame(back, frame::RESET, |_| {});
        }
        for (kind, ids) in [(frame::HOLDS, &news.holds), (frame::DROPPED, &news.dropped)] {
            for ids in ids.chunks(BACK_IDS_MAX) {
                frame::frame(back, kind, |body| frame::put_ids(body, ids));
            }
        }
        if let Some(number) = self.acked.take() {
            frame::frame(back, frame::ACK, |body| {
                body.extend_from_slice(&number.to_le_bytes())
            });
        }
    }
}
