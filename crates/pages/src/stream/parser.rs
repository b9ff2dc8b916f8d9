//! The incremental parser: any chunking of a stream gives the same tokens, apart from where
//! verbatim bytes are cut.
//!
//! A record inside one chunk is handed on without a copy; one that a chunk edge cuts is completed
//! in `carry`. Bytes that travel as they are are walked over: only the heads of records are looked
//! at, so that tokens can be made again from any record on.

use super::record::{Context, Kind, Look, PassThrough, State};
use super::{BlockIndex, BlockTable, Page, Token};
use crate::limits::PAGE_BYTES;

/// Incremental parser of one stream.
pub struct Parser {
    state: State,
    blocks: BlockTable,
    last: Option<BlockIndex>,
    ram: Option<u32>,
    /// Front of a record that a chunk edge has cut.
    carry: Vec<u8>,
    /// What is in `carry` was walked over: it is not handed on again.
    walked: bool,
    /// Bytes to come of a page whose head was walked over.
    ahead: usize,
}

impl Default for Parser {
    fn default() -> Self {
        Parser {
            state: State::Header,
            blocks: BlockTable::default(),
            last: None,
            ram: None,
            carry: Vec::new(),
            walked: false,
            ahead: 0,
        }
    }
}

impl Parser {
    /// Parses the next bytes; hands every token to `sink`, with the blocks named so far.
    pub fn push(&mut self, mut chunk: &[u8], mut sink: impl FnMut(Token<'_>, &BlockTable)) {
        while !chunk.is_empty() && (self.ahead > 0 || self.walked) {
            let (rest_of_record, rest) = chunk.split_at(self.walk_one(chunk));
            sink(Token::Bytes(rest_of_record), &self.blocks);
            chunk = rest;
        }
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

    /// Hands on what a cut record left behind: the stream ends, or is walked over from here on.
    pub fn hand_over(&mut self, mut sink: impl FnMut(Token<'_>, &BlockTable)) {
        if self.carry.is_empty() || self.walked {
            return;
        }
        let carry = std::mem::take(&mut self.carry);
        sink(Token::Bytes(&carry), &self.blocks);
        self.walk(&carry);
    }

    /// Follows bytes that travel as they are. Nothing that was pushed before may be left to hand
    /// over.
    pub fn walk(&mut self, mut chunk: &[u8]) {
        while !chunk.is_empty() {
            chunk = &chunk[self.walk_one(chunk)..];
        }
    }

    /// Walks to the end of a record or of the chunk; returns bytes walked.
    fn walk_one(&mut self, chunk: &[u8]) -> usize {
        debug_assert!(self.carry.is_empty() || self.walked, "it is handed over first");
        if self.ahead > 0 {
            let walked = self.ahead.min(chunk.len());
            self.ahead -= walked;
            return walked;
        }
        if self.carry.is_empty() {
            let look = self.look(chunk);
            if !matches!(look, Look::Need(_)) {
                return self.step_over(look, chunk);
            }
        }
        self.walked = false;
        let (mut carry, mut walked) = (std::mem::take(&mut self.carry), 0);
        loop {
            // A record that is cut in its head's first byte needs at least that.
            let need = match carry.is_empty() {
                true => 1,
                false => match self.look(&carry) {
                    Look::Need(need) => need,
                    look => {
                        self.step_over(look, &carry);
                        carry.clear();
                        self.carry = carry;
                        return walked;
                    }
                },
            };
            let more = (need - carry.len()).min(chunk.len() - walked);
            carry.extend_from_slice(&chunk[walked..walked + more]);
            walked += more;
            if more == 0 {
                (self.carry, self.walked) = (carry, true);
                return walked;
            }
        }
    }

    /// Takes a record of which at least the head is there; returns its bytes that are there.
    fn step_over(&mut self, look: Look, bytes: &[u8]) -> usize {
        let Look::Record { len, kind, next } = look else {
            if let Look::Unknown(why) = look {
                self.state = State::Unknown(why);
            }
            return bytes.len();
        };
        let here = len.min(bytes.len());
        self.ahead = len - here;
        match kind {
            Kind::Page(head) | Kind::Zero(head) => (self.last, self.state) = (Some(head.block), next),
            Kind::Verbatim | Kind::Block { .. } => self.take(&bytes[..here], kind, next, &mut |_, _| {}),
        }
        here
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
        match self.look(bytes) {
            Look::Need(need) => (0, need),
            Look::Record { len, .. } if len > bytes.len() => (0, len),
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

    fn look(&self, bytes: &[u8]) -> Look {
        let context = Context {
            blocks: &self.blocks,
            last: self.last,
            ram: self.ram,
        };
        context.look(self.state, bytes)
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
