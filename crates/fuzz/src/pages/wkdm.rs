//! WKdm. Any body: a page or a refusal; any page comes back, in no more bytes than allowed.
//! First byte: 0 decodes the rest; else the page that the rest makes, and the limit.

use transhume_pages::codec::wkdm::{self, BODY_BYTES_MAX};

use super::codec;

/// Tries one input.
pub fn check(data: &[u8]) {
    codec(data, wkdm::encode, wkdm::decode, BODY_BYTES_MAX)
}
