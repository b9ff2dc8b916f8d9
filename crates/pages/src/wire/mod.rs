//! The encoded stream between two agents: frames, the encoder and the decoder, all sans-IO.
//!
//! Layout: `docs/design/pages.md`. Versioned by the hello; a peer of another version is refused.
//! Every byte that arrives is hostile: lengths are checked before anything is kept or reserved.

mod answers;
mod apply;
mod decoder;
mod encoder;
mod error;
mod frame;
mod group;
mod record;
mod way;
mod window;

pub use decoder::{Decoder, Progress};
pub use encoder::{Encoder, EncoderConfig};
pub use error::{DecodeError, EncodeError};
pub use frame::{PLAIN_HEAD_BYTES, put_returned};
