//! zstd over the pages of one group: neighbours share what they repeat, and one call costs less
//! than sixty-four.

use super::CodecError;
use crate::limits::{GROUP_PAGES_MAX, PAGE_BYTES};

const LEVEL: i32 = 1;

/// Compresses groups. One per stream: the context is reused.
pub struct GroupEncoder(zstd::bulk::Compressor<'static>);

/// Decompresses groups.
pub struct GroupDecoder(zstd::bulk::Decompressor<'static>);

impl GroupEncoder {
    /// Reserves the context.
    pub fn new() -> Result<Self, CodecError> {
        zstd::bulk::Compressor::new(LEVEL)
            .map(GroupEncoder)
            .map_err(|_| CodecError)
    }

    /// Compresses pages laid end to end into `out` (cleared first).
    pub fn encode(&mut self, pages: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.clear();
        out.resize(zstd::zstd_safe::compress_bound(pages.len()), 0);
        let len = self
            .0
            .compress_to_buffer(pages, &mut out[..])
            .map_err(|_| CodecError)?;
        out.truncate(len);
        Ok(())
    }
}

impl GroupDecoder {
    /// Reserves the context.
    pub fn new() -> Result<Self, CodecError> {
        zstd::bulk::Decompressor::new()
            .map(GroupDecoder)
            .map_err(|_| CodecError)
    }

    /// Decompresses exactly `pages` pages; a blob that holds more stops at that size and is
    /// refused.
    pub fn decode(&mut self, blob: &[u8], pages: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
        if pages > GROUP_PAGES_MAX {
            return Err(CodecError);
        }
        out.clear();
        out.resize(pages * PAGE_BYTES, 0);
        match self.0.decompress_to_buffer(blob, &mut out[..]) {
            Ok(len) if len == pages * PAGE_BYTES => Ok(()),
            _ => Err(CodecError),
        }
    }
}
