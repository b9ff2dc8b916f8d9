//! WKdm (Wilson, Kaplan, Smaragdakis 1999; the paper's ref 7): pages of integers and pointers.
//!
//! Each 32-bit word is looked up in a direct-mapped dictionary of 16 recent words and becomes one
//! of zero, exact (index), partial (index and the low 10 bits; the upper 22 agree) or a miss (the
//! word).
//!
//! ```text
//! 256 bytes: tags, 2 bits a word | indices, 4 bits | low bits, 3 x 10 in 4 bytes | missed words
//! ```
//! All lengths follow from the tags, so the body carries none. Where the original picks a slot by a
//! table of random numbers, this multiplies: the same spread without the table.

use super::CodecError;
use crate::limits::PAGE_BYTES;
use crate::stream::Page;

const WORDS: usize = PAGE_BYTES / 4;
const TAGS: usize = WORDS / 4;
const LOW_BITS: u32 = 10;
const LOW_MASK: u32 = (1 << LOW_BITS) - 1;

/// The last of the tags zero, exact, partial, miss: `sort` counts down from it.
const MISS: u8 = 3;

/// Any position in a list lies within these bits.
const POSITION: usize = WORDS - 1;

/// Longest body: all misses but one partial, alone in its byte of indices and its four of low bits.
pub const BODY_BYTES_MAX: usize = TAGS + PAGE_BYTES + 1;

/// Words of the dictionary; those that are zero are put behind it, where nothing is looked up.
const SLOTS: usize = 32;

/// What moves a word behind the dictionary: something only if `some` is 0.
fn unless(some: u8) -> usize {
    usize::from(some == 0) << 4
}

fn slot(word: u32) -> usize {
    ((word >> LOW_BITS).wrapping_mul(0x9E37_79B1) >> 28) as usize
}

/// What the words of a page became; the lists that the tags tell apart.
struct Parts {
    tags: [u8; TAGS],
    indices: [u8; WORDS],
    lows: [u16; WORDS],
    misses: [[u8; 4]; WORDS],
}

/// Where the three lists stand, in one number: by tag, one addition moves them all on.
#[derive(Clone, Copy, Default)]
struct Positions(u64);

impl Positions {
    const STEPS: [u64; 4] = [0, 1, 1 | 1 << 16, 1 << 32];

    fn index(self) -> usize {
        self.0 as usize & POSITION
    }

    fn low(self) -> usize {
        (self.0 >> 16) as usize & POSITION
    }

    fn miss(self) -> usize {
        (self.0 >> 32) as usize & POSITION
    }

    fn pass(&mut self, tag: u8) {
        self.0 += Self::STEPS[usize::from(tag & 3)];
    }

    fn counts(self) -> Counts {
        Counts {
            indices: usize::from(self.0 as u16),
            lows: usize::from((self.0 >> 16) as u16),
            misses: usize::from((self.0 >> 32) as u16),
        }
    }
}

/// How long the three lists are.
#[derive(Clone, Copy, Default)]
struct Counts {
    indices: usize,
    lows: usize,
    misses: usize,
}

impl Counts {
    /// Bytes of the three lists.
    fn lengths(self) -> [usize; 3] {
        [
            self.indices.div_ceil(2),
            self.lows.div_ceil(3) * 4,
            self.misses * 4,
        ]
    }

    fn body_bytes(self) -> usize {
        TAGS + self.lengths().iter().sum::<usize>()
    }
}

/// Sorts the words into the four kinds. Branches only on four zeros at once: guest pages defeat
/// prediction of more. The masks on positions change nothing (no list has more entries than the
/// page has words); they spare bounds checks.
fn sort(page: &Page, parts: &mut Parts) -> Counts {
    let mut dictionary = [0u32; SLOTS];
    let mut positions = Positions::default();
    for (four, tags) in page.as_chunks::<16>().0.iter().zip(&mut parts.tags) {
        if *four == [0; 16] {
            continue;
        }
        for (at, bytes) in four.as_chunks::<4>().0.iter().enumerate() {
            let word = u32::from_le_bytes(*bytes);
            let index = slot(word);
            let seen = dictionary[index];
            let some = u8::from(word != 0);
            let exact = u8::from(word == seen);
            let partial = u8::from(word >> LOW_BITS == seen >> LOW_BITS);
            let tag = (MISS - partial - exact) & some.wrapping_neg();
            *tags |= tag << (2 * at);
            parts.indices[positions.index()] = index as u8;
            parts.lows[positions.low()] = (word & LOW_MASK) as u16;
            parts.misses[positions.miss()] = *bytes;
            positions.pass(tag);
            dictionary[index | unless(some)] = word;
        }
    }
    positions.counts()
}

/// Appends the body; false (nothing appended) unless it is smaller than `limit` bytes.
pub fn encode(page: &Page, limit: usize, out: &mut Vec<u8>) -> bool {
    let mut parts = Parts {
        tags: [0; TAGS],
        indices: [0; WORDS],
        lows: [0; WORDS],
        misses: [[0; 4]; WORDS],
    };
    let counts = sort(page, &mut parts);
    if counts.body_bytes() >= limit {
        return false;
    }
    // What pads the last pair and the last three is zero, whatever was tried there.
    parts.indices[counts.indices..]
        .iter_mut()
        .take(1)
        .for_each(|index| *index = 0);
    parts.lows[counts.lows..]
        .iter_mut()
        .take(2)
        .for_each(|low| *low = 0);
    out.reserve(counts.body_bytes());
    out.extend_from_slice(&parts.tags);
    let pairs = parts.indices.as_chunks::<2>().0;
    out.extend(
        pairs[..counts.indices.div_ceil(2)]
            .iter()
            .map(|pair| pair[0] | pair[1] << 4),
    );
    for low in parts.lows[..counts.lows].chunks(3) {
        let packed = low
            .iter()
            .rfold(0, |packed, low| packed << LOW_BITS | u32::from(*low));
        out.extend_from_slice(&packed.to_le_bytes());
    }
    out.extend_from_slice(parts.misses[..counts.misses].as_flattened());
    true
}

/// How long the lists of a body with these tags are.
fn count(tags: &[u8; TAGS]) -> Counts {
    const LOW: u64 = u64::MAX / 3;
    let mut counts = Counts::default();
    for tags in tags.as_chunks::<8>().0 {
        let tags = u64::from_le_bytes(*tags);
        let (first, second) = (tags & LOW, tags >> 1 & LOW);
        counts.indices += (first ^ second).count_ones() as usize;
        counts.lows += (second & !first).count_ones() as usize;
        counts.misses += (second & first).count_ones() as usize;
    }
    counts
}

/// Decodes a body to the page.
pub fn decode(body: &[u8], page: &mut Page) -> Result<(), CodecError> {
    let (tags, rest) = body.split_first_chunk::<TAGS>().ok_or(CodecError)?;
    let counts = count(tags);
    if body.len() != counts.body_bytes() {
        return Err(CodecError);
    }
    let [indices_len, lows_len, _] = counts.lengths();
    let (packed_indices, rest) = rest.split_at(indices_len);
    let (packed_lows, packed_misses) = rest.split_at(lows_len);
    let mut indices = [0u8; WORDS];
    for (two, packed) in indices.as_chunks_mut::<2>().0.iter_mut().zip(packed_indices) {
        *two = [packed & 15, packed >> 4];
    }
    let mut lows = [0u16; WORDS + 2];
    for (three, packed) in lows
        .as_chunks_mut::<3>()
        .0
        .iter_mut()
        .zip(packed_lows.as_chunks::<4>().0)
    {
        let packed = u32::from_le_bytes(*packed);
        *three = [0, 1, 2].map(|at| (packed >> (at * LOW_BITS) & LOW_MASK) as u16);
    }
    let mut misses = [[0u8; 4]; WORDS];
    misses.as_flattened_mut()[..packed_misses.len()].copy_from_slice(packed_misses);
    rebuild(tags, &indices, &lows, &misses, page);
    Ok(())
}

/// What of a word that is no miss comes from the dictionary and from the low bits, by tag.
const FROM_SEEN: [u32; 4] = [0, u32::MAX, !LOW_MASK, 0];
const FROM_LOWS: [u32; 4] = [0, 0, LOW_MASK, 0];

/// Replays the dictionary, with a branch only on four zeros at once; positions are masked as in
/// `sort`.
fn rebuild(
    tags: &[u8; TAGS],
    indices: &[u8; WORDS],
    lows: &[u16; WORDS + 2],
    misses: &[[u8; 4]; WORDS],
    page: &mut Page,
) {
    let mut dictionary = [0u32; SLOTS];
    let mut positions = Positions::default();
    for (four, &tags) in page.as_chunks_mut::<16>().0.iter_mut().zip(tags) {
        if tags == 0 {
            *four = [0; 16];
            continue;
        }
        for (out, shift) in four.as_chunks_mut::<4>().0.iter_mut().zip([0, 2, 4, 6]) {
            let tag = tags >> shift & 3;
            let kind = usize::from(tag);
            let miss = u32::from_le_bytes(misses[positions.miss()]);
            let low = u32::from(lows[positions.low()]);
            let named = usize::from(indices[positions.index()] & 15);
            let index = if tag == MISS { slot(miss) } else { named };
            let held = dictionary[index] & FROM_SEEN[kind] | low & FROM_LOWS[kind];
            let word = if tag == MISS { miss } else { held };
            dictionary[index | unless(tag)] = word;
            *out = word.to_le_bytes();
            positions.pass(tag);
        }
    }
}
