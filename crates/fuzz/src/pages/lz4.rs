//! LZ4. Any body: a page or a refusal; any page comes back, in no more bytes than allowed.
//! First byte: 0 decodes the rest; else the page that the rest makes, and the limit.

use transhume_pages::codec::{lz4_decode, lz4_encode};
use transhume_pages::limits::PAGE_BYTES;

use super::codec;

/// Tries one input.
pub fn check(data: &[u8]) {
    codec(data, lz4_encode, lz4_decode, PAGE_BYTES + PAGE_BYTES / 8)
}
