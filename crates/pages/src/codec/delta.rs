//! A page against the version that was sent before: runs of 64-bit words that differ.
//!
//! Body: repeated (u16 words to keep, u16 words that follow, those words). Words that differ are
//! carried as they are now: their exclusive or with the old ones would be no shorter, and the runs
//! are where the gain is.

use super::CodecError;
use crate::limits::PAGE_BYTES;
use crate::stream::Page;

const WORD: usize = 8;
const WORDS: usize = PAGE_BYTES / WORD;

fn differs(old: &Page, new: &Page, word: usize) -> bool {
    old[word * WORD..][..WORD] != new[word * WORD..][..WORD]
}

/// Appends the delta; false (nothing appended) unless it is smaller than `limit` bytes.
pub fn encode(old: &Page, new: &Page, limit: usize, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let mut at = 0;
    let mut kept_from = 0;
    while at < WORDS {
        if !differs(old, new, at) {
            at += 1;
            continue;
        }
        let run = (at..WORDS)
            .find(|&word| !differs(old, new, word))
            .unwrap_or(WORDS)
            - at;
        if out.len() - start + 4 + run * WORD >= limit {
            out.truncate(start);
            return false;
        }
        out.extend_from_slice(&((at - kept_from) as u16).to_le_bytes());
        out.extend_from_slice(&(run as u16).to_le_bytes());
        out.extend_from_slice(&new[at * WORD..(at + run) * WORD]);
        at += run;
        kept_from = at;
    }
    out.len() - start < limit
}

/// Changes `page`, the old version, into the new one.
pub fn decode(mut body: &[u8], page: &mut Page) -> Result<(), CodecError> {
    let mut at = 0;
    while !body.is_empty() {
        let (head, rest) = body.split_at_checked(4).ok_or(CodecError)?;
        at += usize::from(u16::from_le_bytes([head[0], head[1]])) * WORD;
        let len = usize::from(u16::from_le_bytes([head[2], head[3]])) * WORD;
        let (run, rest) = rest.split_at_checked(len).ok_or(CodecError)?;
        page.get_mut(at..at + len).ok_or(CodecError)?.copy_from_slice(run);
        at += len;
        body = rest;
    }
    Ok(())
}
