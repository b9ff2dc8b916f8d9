//! QEMU's migration stream, page classes, codecs and dedup: each page sent once, as small as the
//! link deserves.
//!
//! Pure (§1.3, figure 2). What flows where, and the byte layouts: `docs/design/pages.md`.
#![forbid(unsafe_code)]

pub mod chooser;
pub mod class;
pub mod codec;
pub mod content;
pub mod limits;
pub mod link;
pub mod stream;
pub mod versions;
pub mod wire;

pub use class::{Account, ClassCount, Classes, PageClass, PlainReason, Way};
pub use content::{ContentId, ContentKey, Knowledge, PageStore};
pub use link::{Flight, LinkMeter};
pub use stream::{Parser, PassThrough, StreamDigest, Token, Writer};
pub use wire::{DecodeError, Decoder, EncodeError, Encoder, EncoderConfig, Progress};
