//! QEMU's migration stream as tokens that can be written back byte by byte.
//!
//! Layouts: `docs/design/pages.md`. Deliberately absent: the meaning of device state, xbzrle,
//! multifd channels, mapped-ram; such streams pass through untouched.

mod blocks;
mod hash;
mod parser;
mod record;
mod writer;

pub use blocks::{BlockError, BlockIndex, BlockTable};
pub use hash::{RunningHash, StreamDigest};
pub use parser::Parser;
pub use record::PassThrough;
pub use writer::Writer;

use crate::limits::PAGE_BYTES;

/// One guest page.
pub type Page = [u8; PAGE_BYTES];

/// Where a page record says its page belongs, and how it said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageHead {
    /// The RAM block.
    pub block: BlockIndex,
    /// Bytes from the start of the block; a multiple of the page size.
    pub offset: u64,
    /// The record left out the block's name, because the record before named it.
    pub continued: bool,
}

/// A piece of the stream. Writing all tokens in order gives the stream again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// Bytes to repeat as they are.
    Bytes(&'a [u8]),
    /// A page record.
    Page {
        /// Its place.
        head: PageHead,
        /// Its contents.
        data: &'a Page,
    },
    /// A zero record: a page of one repeated byte.
    Zero {
        /// Its place.
        head: PageHead,
        /// The byte.
        fill: u8,
    },
}

pub(crate) const FLAG_ZERO: u64 = 0x02;
pub(crate) const FLAG_MEM_SIZE: u64 = 0x04;
pub(crate) const FLAG_PAGE: u64 = 0x08;
pub(crate) const FLAG_EOS: u64 = 0x10;
pub(crate) const FLAG_CONTINUE: u64 = 0x20;
pub(crate) const FLAG_MULTIFD_FLUSH: u64 = 0x200;
pub(crate) const FLAGS: u64 = PAGE_BYTES as u64 - 1;
