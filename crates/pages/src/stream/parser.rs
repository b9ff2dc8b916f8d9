//! The incremental parser: any chunking of a stream gives the same tokens, apart from where
//! verbatim bytes are cut.
//!
//! A record inside one chunk is handed on without a copy; one that a chunk edge cuts is completed
//! in `carry`.

use super::record::{Context, Kind, Look, PassThrough, State};
use super::{BlockIndex, BlockTable, Page, Token};
use crate::limits::PAGE_BYTES;

/// Incremental parser of one stream.
pub struct Parser {
    state: State,
    blocks: BlockTable,
    last: Option<BlockIndex>,
    ram: Option<u32>,
    carry: Vec<u8>,
}

impl Default for Parser {
    fn default() -> Self {
        Parser {
            state: State::Header,
            blocks: BlockTable::default(),
            last: None,
            ram: None,
            carry: Vec::new(),
        }
    }
}

impl Parser {
    /// Parses the next bytes; hands every token to `sink`, with the blocks named so far.
    pub fn push(&mut self, mut chunk: &[u8], mut sink: impl FnMut(Token<'_>, &BlockTable)) {
        while !chunk.is_empty() {
            if self.carry.is_empty() {
                let (used, need) = self.step(chunk, &mut sink);
                chunk = &chunk[used..];
                if need > 0 {
                    self.carry.extend_from_slice(chunk);
                    return;
                }
            } else {
                chunk = self.complete(chunk, &mut sink);
            }
        }
    }

    /// The stream ends: hands on what a cut record left behind.
    pub fn finish(&mut self, mut sink: impl FnMut(Token<'_>, &BlockTable)) {
        let carry = std::mem::take(&mut self.carry);
        if !carry.is_empty() {
            sink(Token::Bytes(&carry), &self.blocks);
        }
    }

    /// Why the stream is passed through, once it is.
    pub fn passed_through(&self) -> Option<PassThrough> {
        match self.state {
            State::Unknown(why) => Some(why),
            _ => None,
        }
    }

    /// Whether the device state has begun: the guest is stopped and no page follows.
    pub fn in_device_state(&self) -> bool {
        self.state == State::Devices
    }

    /// The RAM blocks named so far.
    pub fn blocks(&self) -> &BlockTable {
        &self.blocks
    }

    /// Feeds the carried record from the chunk until it is whole; returns the rest of the chunk.
    fn complete<'c>(
        &mut self,
        mut chunk: &'c [u8],
        sink: &mut impl FnMut(Token<'_>, &BlockTable),
    ) -> &'c [u8] {
        let mut carry = std::mem::take(&mut self.carry);
        loop {
            let (used, need) = self.step(&carry, sink);
            if need == 0 {
                debug_assert!(used == carry.len(), "a carried record is taken whole");
                carry.clear();
                break;
            }
            let more = need.saturating_sub(carry.len()).min(chunk.len());
            if more == 0 {
                break;
            }
            carry.extend_from_slice(&chunk[..more]);
            chunk = &chunk[more..];
        }
        self.carry = carry;
        chunk
    }

    /// Takes one record from the front. Returns bytes taken, and the bytes needed in all if the
    /// record is cut.
    fn step(&mut self, bytes: &[u8], sink: &mut impl FnMut(Token<'_>, &BlockTable)) -> (usize, usize) {
        let context = Context {
            blocks: &self.blocks,
            last: self.last,
            ram: self.ram,
        };
        match context.look(self.state, bytes) {
            Look::Need(need) => (0, need),
            Look::Unknown(why) => {
                self.state = State::Unknown(why);
                sink(Token::Bytes(bytes), &self.blocks);
                (bytes.len(), 0)
            }
            Look::Record { len, kind, next } => {
                self.take(&bytes[..len], kind, next, sink);
                (len, 0)
            }
        }
    }

    fn take(
        &mut self,
        record: &[u8],
        kind: Kind,
        next: State,
        sink: &mut impl FnMut(Token<'_>, &BlockTable),
    ) {
        let was = std::mem::replace(&mut self.state, next);
        match kind {
            Kind::Verbatim => {
                self.remember_ram(was, record);
                if !record.is_empty() {
                    sink(Token::Bytes(record), &self.blocks);
                }
            }
            Kind::Block { name_len, len } => {
                if self.blocks.add(&record[1..1 + name_len], len).is_err() {
                    self.state = State::Unknown(PassThrough::Blocks);
                }
                sink(Token::Bytes(record), &self.blocks);
            }
            Kind::Page(head) => {
                self.last = Some(head.block);
                let body = &record[record.len() - PAGE_BYTES..];
                match <&Page>::try_from(body) {
                    Ok(data) => sink(Token::Page { head, data }, &self.blocks),
                    Err(_) => sink(Token::Bytes(record), &self.blocks),
                }
            }
            Kind::Zero(head) => {
                self.last = Some(head.block);
                sink(
                    Token::Zero {
                        head,
                        fill: record[record.len() - 1],
                    },
                    &self.blocks,
                );
            }
        }
    }

    /// The id that `ram`'s later parts will carry.
    fn remember_ram(&mut self, was: State, record: &[u8]) {
        if let (State::Top { .. }, State::Word, Some(0x01), Some(id)) =
            (was, self.state, record.first(), record.get(1..5))
        {
            self.ram = Some(u32::from_be_bytes([id[0], id[1], id[2], id[3]]));
        }
    }
}
