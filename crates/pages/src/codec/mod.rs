//! The codecs of single pages and of groups (§1.3.1, figure 2).
//!
//! LZO: the paper names it; no permissively licensed library of it is kept. LZ4 is of the same
//! family (byte-aligned literals and matches, no entropy coding) and stands in its place by
//! default; `lzo` is there for figure 2 as the paper has it. `benches/codecs.rs` measures both.

pub mod delta;
pub mod group;
pub mod lzo;
pub mod wkdm;

use crate::limits::PAGE_BYTES;
use crate::stream::Page;

/// Bytes of a body that is no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a compressed page does not decode to {PAGE_BYTES} bytes")]
pub struct CodecError;

/// A page of zeros.
pub const ZERO_PAGE: Page = [0; PAGE_BYTES];

/// The byte that the page repeats, if it does.
pub fn fill_of(page: &Page) -> Option<u8> {
    let first = page[0];
    let same = |part: &[u8]| part.iter().fold(0, |differs, byte| differs | (byte ^ first)) == 0;
    (same(&page[..64]) && page.chunks_exact(512).all(same)).then_some(first)
}

/// Appends the LZ4 block of a page; false (nothing appended) unless it is smaller than `limit`
/// bytes.
pub fn lz4_encode(page: &Page, limit: usize, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    out.resize(start + lz4_flex::block::get_maximum_output_size(PAGE_BYTES), 0);
    let len = lz4_flex::block::compress_into(page, &mut out[start..]).unwrap_or(usize::MAX);
    let fits = len < limit;
    out.truncate(if fits { start + len } else { start });
    fits
}

/// Decodes an LZ4 block to exactly one page.
pub fn lz4_decode(body: &[u8], page: &mut Page) -> Result<(), CodecError> {
    match lz4_flex::block::decompress_into(body, page) {
        Ok(PAGE_BYTES) => Ok(()),
        _ => Err(CodecError),
    }
}
