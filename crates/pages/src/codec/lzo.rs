//! LZO1X-1 for single pages: the codec that the paper names beside WKdm (§1.3.1, figure 2).
//!
//! Written from the description of the stream's format (Linux, Documentation/staging/lzo.rst); no
//! code of LZO's was read. Off unless it is asked for: LZ4, of the same family, is
//! decoded three and a half times as fast.
//!
//! A stream is instructions, each followed by literals. Its lowest two bits, or the two after it,
//! say how many literals come behind a match: 0 to 3. More of them are an instruction of their own.
//!
//! ```text
//! first byte 18..        byte - 17 literals
//! 0000LLLL               3 + L literals, where none stand before it (L = 0: 18 + 255 a zero + byte)
//! 0000DDSS H             match of 2, distance 1 + D + 4 H, behind 1 to 3 literals
//! 0000DDSS H             match of 3, distance 2049 + D + 4 H, behind 4 literals and more
//! 0001HLLL DDDDDDSS D    match of 2 + L (9 + ..), distance 16384 + 16384 H + D; 16384 is the end
//! 001LLLLL DDDDDDSS D    match of 2 + L (33 + ..), distance 1 + D
//! 01LDDDSS H             match of 3 + L, distance 1 + D + 8 H
//! 1LLDDDSS H             match of 5 + L, distance 1 + D + 8 H
//! ```

use super::CodecError;
use crate::limits::PAGE_BYTES;
use crate::stream::Page;

/// The longest that a page becomes: literals only, their instruction, the end.
pub const BODY_BYTES_MAX: usize = PAGE_BYTES + PAGE_BYTES / 255 + 8;
/// Instruction and distance of the end.
const END: [u8; 3] = [0x11, 0, 0];
/// Shortest match that is looked for.
const MATCH_MIN: usize = 4;
/// Longest match, and longest distance, of a match in two bytes.
const SHORT_MATCH_MAX: usize = 8;
const SHORT_DISTANCE_MAX: usize = 2048;
/// Literals that the first byte can announce.
const FIRST_MAX: usize = 238;
const HASH_BITS: u32 = 11;
/// After so many bytes without a match one more is stepped over.
const PATIENCE_SHIFT: usize = 5;

/// Appends a page; false (nothing appended) unless it is smaller than `limit` bytes.
pub fn encode(page: &Page, limit: usize, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    // Place of the latest four bytes of each hash, plus one.
    let mut seen = [0u16; 1 << HASH_BITS];
    let (mut at, mut literals_at) = (1, 0);
    while at + MATCH_MIN <= PAGE_BYTES {
        let word = word(page, at);
        let slot = &mut seen[(word.wrapping_mul(0x9E37_79B1) >> (32 - HASH_BITS)) as usize];
        let before = std::mem::replace(slot, at as u16 + 1)
            .checked_sub(1)
            .map(usize::from);
        let Some(before) = before.filter(|before| self::word(page, *before) == word) else {
            at += 1 + ((at - literals_at) >> PATIENCE_SHIFT);
            continue;
        };
        let length = MATCH_MIN + common(&page[before + MATCH_MIN..], &page[at + MATCH_MIN..]);
        put_literals(&page[literals_at..at], start, out);
        put_match(length, at - before, out);
        at += length;
        literals_at = at;
    }
    put_literals(&page[literals_at..], start, out);
    out.extend_from_slice(&END);
    let fits = out.len() - start < limit;
    if !fits {
        out.truncate(start);
    }
    fits
}

fn word(page: &Page, at: usize) -> u32 {
    u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

fn common(one: &[u8], other: &[u8]) -> usize {
    one.iter()
        .zip(other)
        .take_while(|(one, other)| one == other)
        .count()
}

/// What does not fit an instruction's field: a zero for each 255, then the rest, which is not zero.
fn put_excess(mut excess: usize, out: &mut Vec<u8>) {
    while excess > 255 {
        out.push(0);
        excess -= 255;
    }
    out.push(excess as u8);
}

fn put_literals(literals: &[u8], start: usize, out: &mut Vec<u8>) {
    let before_last = out.len().wrapping_sub(2);
    match literals.len() {
        0 => {}
        count if out.len() == start && count <= FIRST_MAX => out.push(17 + count as u8),
        // A match has gone before: its distance has room for them.
        count @ 1..=3 => out[before_last] |= count as u8,
        count @ 4..=18 => out.push(count as u8 - 3),
        count => {
            out.push(0);
            put_excess(count - 18, out);
        }
    }
    out.extend_from_slice(literals);
}

fn put_match(length: usize, distance: usize, out: &mut Vec<u8>) {
    let far = distance - 1;
    if length <= SHORT_MATCH_MAX && distance <= SHORT_DISTANCE_MAX {
        out.push(((length - 1) << 5 | (far & 7) << 2) as u8);
        out.push((far >> 3) as u8);
        return;
    }
    match length {
        ..=33 => out.push(0x20 | (length - 2) as u8),
        _ => {
            out.push(0x20);
            put_excess(length - 33, out);
        }
    }
    out.push((far << 2) as u8);
    out.push((far >> 6) as u8);
}

/// How many literals went before an instruction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Literals {
    None,
    Few,
    Many,
}

struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn byte(&mut self) -> Result<usize, CodecError> {
        let (first, rest) = self.0.split_first().ok_or(CodecError)?;
        self.0 = rest;
        Ok(usize::from(*first))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let (front, rest) = self.0.split_at_checked(count).ok_or(CodecError)?;
        self.0 = rest;
        Ok(front)
    }

    /// The excess over a field that is zero.
    fn excess(&mut self) -> Result<usize, CodecError> {
        let mut excess = 0;
        loop {
            match self.byte()? {
                // No page needs as many.
                0 if excess > PAGE_BYTES => return Err(CodecError),
                0 => excess += 255,
                last => return Ok(excess + last),
            }
        }
    }

    fn length(&mut self, field: usize, full: usize) -> Result<usize, CodecError> {
        Ok(if field == 0 { full + self.excess()? } else { field })
    }
}

struct Rebuilt<'a> {
    page: &'a mut Page,
    at: usize,
}

impl Rebuilt<'_> {
    fn literals(&mut self, literals: &[u8]) -> Result<(), CodecError> {
        let room = self
            .page
            .get_mut(self.at..self.at + literals.len())
            .ok_or(CodecError)?;
        room.copy_from_slice(literals);
        self.at += literals.len();
        Ok(())
    }

    /// A match may reach into itself.
    fn copy(&mut self, length: usize, distance: usize) -> Result<(), CodecError> {
        let from = self.at.checked_sub(distance).ok_or(CodecError)?;
        if self.at + length > PAGE_BYTES {
            return Err(CodecError);
        }
        if distance >= length {
            self.page.copy_within(from..from + length, self.at);
        } else {
            for step in 0..length {
                self.page[self.at + step] = self.page[from + step];
            }
        }
        self.at += length;
        Ok(())
    }
}

/// Decodes to exactly one page.
pub fn decode(body: &[u8], page: &mut Page) -> Result<(), CodecError> {
    let (mut body, mut rebuilt) = (Body(body), Rebuilt { page, at: 0 });
    let mut before = Literals::None;
    if let Some(&first @ 18..) = body.0.first() {
        body.byte()?;
        let count = usize::from(first) - 17;
        rebuilt.literals(body.take(count)?)?;
        before = if count < 4 { Literals::Few } else { Literals::Many };
    }
    loop {
        let instruction = body.byte()?;
        let (length, distance, behind) = match instruction {
            0..16 if before == Literals::None => {
                let count = 3 + body.length(instruction, 15)?;
                rebuilt.literals(body.take(count)?)?;
                before = Literals::Many;
                continue;
            }
            0..16 => {
                let near = (instruction >> 2) + (body.byte()? << 2);
                match before {
                    Literals::Many => (3, near + 2049, instruction),
                    _ => (2, near + 1, instruction),
                }
            }
            16..32 => {
                let length = 2 + body.length(instruction & 7, 7)?;
                let low = body.byte()?;
                let far = (low >> 2) + (body.byte()? << 6) + ((instruction & 8) << 11);
                if far == 0 {
                    let whole = rebuilt.at == PAGE_BYTES && body.0.is_empty();
                    return if whole { Ok(()) } else { Err(CodecError) };
                }
                (length, 16_384 + far, low)
            }
            32..64 => {
                let length = 2 + body.length(instruction & 31, 31)?;
                let low = body.byte()?;
                (length, 1 + (low >> 2) + (body.byte()? << 6), low)
            }
            _ => {
                let length = match instruction {
                    64..128 => 3 + (instruction >> 5 & 1),
                    _ => 5 + (instruction >> 5 & 3),
                };
                let distance = 1 + (instruction >> 2 & 7) + (body.byte()? << 3);
                (length, distance, instruction)
            }
        };
        rebuilt.copy(length, distance)?;
        let count = behind & 3;
        rebuilt.literals(body.take(count)?)?;
        before = if count == 0 { Literals::None } else { Literals::Few };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind of instruction, written by hand after the format's description.
    #[test]
    fn all_instructions_are_understood() {
        let mut body = vec![17 + 5];
        body.extend(b"abcde");
        // Behind many literals a short one reaches 2049 bytes and more back: not yet.
        let mut page = [0; PAGE_BYTES];
        let mut early = body.clone();
        early.extend([0, 0]);
        assert_eq!(decode(&early, &mut page), Err(CodecError));
        // Three of "cde", one literal behind; two of "X" and what is before it; six in two bytes.
        body.extend([0x40 | 2 << 2 | 1, 0, b'X', 0, 0, 0xa0, 0]);
        // Long: 2 + 31 + 255 + 7 at distance 4, then literals of their own instruction.
        body.extend([0x20, 0, 7, 3 << 2, 0, 1]);
        body.extend(b"....");
        let mut expected = b"abcdecdeXXX".to_vec();
        expected.extend([b'X'; 6]);
        (0..295).for_each(|_| expected.push(expected[expected.len() - 4]));
        expected.extend(b"....");
        let left = PAGE_BYTES - expected.len();
        // The rest as a run, behind many literals: 2049 bytes back is far enough only later.
        body.push(0x20);
        put_excess(left - 33 - 100, &mut body);
        body.extend([0, 0]);
        expected.resize(PAGE_BYTES - 100, b'.');
        body.extend([0x20, 100 - 33, 99 << 2, (99usize >> 6) as u8]);
        expected.extend_from_within(expected.len() - 100..);
        body.extend(END);
        decode(&body, &mut page).unwrap();
        assert!(page[..] == expected[..]);
        for cut in 0..body.len() {
            assert_eq!(decode(&body[..cut], &mut page), Err(CodecError), "cut at {cut}");
        }
        body.push(0);
        assert_eq!(
            decode(&body, &mut page),
            Err(CodecError),
            "something follows the end"
        );
    }
}
