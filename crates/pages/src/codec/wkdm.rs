//! WKdm (Wilson, Kaplan, Smaragdakis 1999; the paper's ref 7): pages of integers and pointers.
//!
//! Each 32-bit word is looked up in a direct-mapped dictionary of 16 recent words and becomes one of
//! zero, exact (index), partial (index and the low 10 bits; the upper 22 agree) or a miss (the word).
//!
//! ```text
//! 256 bytes: tags, 2 bits a word | indices, 4 bits | low bits, 3 x 10 in 4 bytes | missed words
//! ```
//! All lengths follow from the tags, so the body carries none. Where the original picks a slot by a table of random
//! numbers, this multiplies: the same spread without the table.

use super::CodecError;
use crate::limits::PAGE_BYTES;
use crate::stream::Page;

const WORDS: usize = PAGE_BYTES / 4;
const TAGS: usize = WORDS / 4;
const LOW_BITS: u32 = 10;
const LOW_MASK: u32 = (1 << LOW_BITS) - 1;

const ZERO: u8 = 0;
const EXACT: u8 = 1;
const PARTIAL: u8 = 2;
const MISS: u8 = 3;

/// Longest body: all misses.
pub const BODY_BYTES_MAX: usize = TAGS + PAGE_BYTES;

fn slot(word: u32) -> usize {
    ((word >> LOW_BITS).wrapping_mul(0x9E37_79B1) >> 28) as usize
}

fn words(page: &Page) -> impl Iterator<Item = u32> + '_ {
    page.as_chunks::<4>()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word))
}

/// What the words of a page became.
struct Parts {
    tags: [u8; WORDS],
    indices: [u8; WORDS + 1],
    lows: [u16; WORDS + 2],
    misses: [u32; WORDS],
    counts: [usize; 3],
}

/// Sorts the words into the four kinds; without branches, as guest pages defeat prediction.
fn sort(page: &Page) -> Parts {
    let mut parts = Parts {
        tags: [0; WORDS],
        indices: [0; WORDS + 1],
        lows: [0; WORDS + 2],
        misses: [0; WORDS],
        counts: [0; 3],
    };
    let mut dictionary = [0u32; 16];
    let [mut indices, mut lows, mut misses] = [0usize; 3];
    for (at, word) in words(page).enumerate() {
        let index = slot(word);
        let seen = dictionary[index];
        let (zero, exact, partial) = (word == 0, word == seen, word >> LOW_BITS == seen >> LOW_BITS);
        let hit = if exact {
            EXACT
        } else if partial {
            PARTIAL
        } else {
            MISS
        };
        let tag = if zero { ZERO } else { hit };
        parts.tags[at] = tag;
        parts.indices[indices] = index as u8;
        parts.lows[lows] = (word & LOW_MASK) as u16;
        parts.misses[misses] = word;
        indices += usize::from(tag == EXACT) + usize::from(tag == PARTIAL);
        lows += usize::from(tag == PARTIAL);
        misses += usize::from(tag == MISS);
        dictionary[index] = if zero { seen } else { word };
    }
    parts.indices[indices] = 0;
    parts.lows[lows] = 0;
    parts.lows[lows + 1] = 0;
    parts.counts = [indices, lows, misses];
    parts
}

fn lengths(indices: usize, lows: usize, misses: usize) -> [usize; 3] {
    [indices.div_ceil(2), lows.div_ceil(3) * 4, misses * 4]
}

/// Appends the body; false (nothing appended) unless it is smaller than `limit` bytes.
pub fn encode(page: &Page, limit: usize, out: &mut Vec<u8>) -> bool {
    let parts = sort(page);
    let [indices, lows, misses] = parts.counts;
    if TAGS + lengths(indices, lows, misses).iter().sum::<usize>() >= limit {
        return false;
    }
    out.extend(
        parts
            .tags
            .as_chunks::<4>()
            .0
            .iter()
            .map(|tag| tag[0] | tag[1] << 2 | tag[2] << 4 | tag[3] << 6),
    );
    out.extend(
        parts.indices[..indices.next_multiple_of(2)]
            .chunks_exact(2)
            .map(|pair| pair[0] | pair[1] << 4),
    );
    for low in parts.lows[..lows.next_multiple_of(3)].chunks_exact(3) {
        let packed = u32::from(low[0]) | u32::from(low[1]) << LOW_BITS | u32::from(low[2]) << (2 * LOW_BITS);
        out.extend_from_slice(&packed.to_le_bytes());
    }
    for word in &parts.misses[..misses] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    true
}

/// Bytes that a body with these tags must have, with the number of each list's entries.
fn expected(tags: &[u8]) -> (usize, [usize; 3]) {
    let mut counts = [0usize; 4];
    for &four in tags {
        for shift in [0, 2, 4, 6] {
            counts[usize::from(four >> shift & 3)] += 1;
        }
    }
    let [_, exact, partial, misses] = counts;
    let parts = lengths(exact + partial, partial, misses);
    (TAGS + parts.iter().sum::<usize>(), parts)
}

/// Decodes a body to the page.
pub fn decode(body: &[u8], page: &mut Page) -> Result<(), CodecError> {
    let (tags, rest) = body.split_at_checked(TAGS).ok_or(CodecError)?;
    let (len, [indices_len, lows_len, _]) = expected(tags);
    if body.len() != len {
        return Err(CodecError);
    }
    let (packed_indices, rest) = rest.split_at(indices_len);
    let (packed_lows, packed_misses) = rest.split_at(lows_len);
    let mut indices = [0u8; WORDS + 2];
    for (two, packed) in indices.chunks_exact_mut(2).zip(packed_indices) {
        two.copy_from_slice(&[packed & 15, packed >> 4]);
    }
    let mut lows = [0u32; WORDS + 3];
    for (three, packed) in lows.chunks_exact_mut(3).zip(packed_lows.as_chunks::<4>().0) {
        let packed = u32::from_le_bytes(*packed);
        three.copy_from_slice(&[
            packed & LOW_MASK,
            packed >> LOW_BITS & LOW_MASK,
            packed >> (2 * LOW_BITS) & LOW_MASK,
        ]);
    }
    let mut misses = [0u32; WORDS + 1];
    for (word, packed) in misses.iter_mut().zip(packed_misses.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*packed);
    }
    rebuild(tags, &indices, &lows, &misses, page);
    Ok(())
}

/// Replays the dictionary; each word is chosen from the four candidates without a branch.
fn rebuild(tags: &[u8], indices: &[u8], lows: &[u32], misses: &[u32], page: &mut Page) {
    let mut dictionary = [0u32; 16];
    let [mut index_at, mut low_at, mut miss_at] = [0usize; 3];
    for (at, out) in page.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let tag = tags[at / 4] >> (at % 4 * 2) & 3;
        let miss = misses[miss_at];
        let index = if tag == MISS {
            slot(miss)
        } else {
            usize::from(indices[index_at] & 15)
        };
        let seen = dictionary[index];
        let word = [0, seen, seen & !LOW_MASK | lows[low_at], miss][usize::from(tag)];
        dictionary[index] = if tag == ZERO { seen } else { word };
        *out = word.to_le_bytes();
        index_at += usize::from(tag == EXACT) + usize::from(tag == PARTIAL);
        low_at += usize::from(tag == PARTIAL);
        miss_at += usize::from(tag == MISS);
    }
}
