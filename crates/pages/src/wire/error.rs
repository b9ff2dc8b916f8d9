//! What can be wrong with bytes from the peer.

use super::frame::VERSION;
use crate::codec::CodecError;
use crate::stream::BlockError;

/// Why the target refuses the encoded stream; the batch aborts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A frame kind that this direction does not have.
    #[error("frame kind {0} is not known here")]
    Kind(u8),
    /// A frame longer than allowed.
    #[error("a frame announces {0} bytes")]
    FrameLength(u32),
    /// A frame before the hello, or a second hello.
    #[error("a frame of kind {0} came out of order")]
    Order(u8),
    /// Not this protocol, or not this version.
    #[error("the peer speaks page stream version {0}; this agent speaks version {ours}", ours = VERSION)]
    Version(u16),
    /// A hello for another cluster's pages, or with a value past its limit.
    #[error("the peer's hello is refused: {0}")]
    Hello(&'static str),
    /// A frame or record that ends early, or has bytes left over.
    #[error("a frame's contents do not fit its length")]
    Truncated,
    /// A record class that is not known.
    #[error("record class {0:#04x} is not known")]
    Class(u8),
    /// Group numbers that do not follow each other.
    #[error("group {got} came where group {expected} was due")]
    GroupNumber {
        /// Number that came.
        got: u32,
        /// Number that was due.
        expected: u32,
    },
    /// A page of no known block.
    #[error("a page record names no known RAM block, or an offset that is no page's")]
    Place,
    /// A group with too many pages.
    #[error("a group holds more pages than allowed")]
    GroupPages,
    /// A page that does not decode.
    #[error("a page body is damaged")]
    Codec(#[source] CodecError),
    /// A delta against a version that was never sent or is no longer kept.
    #[error("a delta refers to a version that is not kept")]
    BaseVersion,
    /// A supplied page that nobody asked for, or with other contents.
    #[error("a supplied page was not asked for")]
    Supply,
    /// The peer sent more than the window allows.
    #[error("the peer overran the window")]
    Window,
    /// A block that cannot be added.
    #[error("a RAM block is refused")]
    Block(#[source] BlockError),
    /// The stream that was rebuilt is not the one that was sent.
    #[error("the rebuilt stream differs from the source's: {got_bytes} bytes rebuilt, {sent_bytes} sent")]
    Digest {
        /// Bytes rebuilt.
        got_bytes: u64,
        /// Bytes that the source counted.
        sent_bytes: u64,
    },
    /// Bytes after the end marker.
    #[error("bytes follow the end marker")]
    AfterEnd,
    /// The connection ended before the end marker.
    #[error("the page stream ends before its end marker")]
    Early,
}

/// Why the source refuses what the target sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A frame that this direction does not have, or that does not fit its length.
    #[error("a frame of kind {0} from the target is damaged or not known")]
    Frame(u8),
    /// A frame longer than allowed.
    #[error("a frame from the target announces {0} bytes")]
    FrameLength(u32),
    /// An acknowledgement of a group that was not sent.
    #[error("the target acknowledges group {0}, which is not on its way")]
    Ack(u32),
    /// A page asked for that was not referred to, or more often than it was.
    #[error("the target asks for a page that no group on its way refers to, or asks again")]
    Need,
    /// The compressor could not be set up.
    #[error("the group compressor cannot be set up")]
    Codec(#[source] CodecError),
}
