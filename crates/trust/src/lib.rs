//! Who is who in a fleet: identities in certificates of one authority, the files that hold them,
//! the check of a peer's, and the sealed records that follow a handshake (`docs/design/trust.md`).
//!
//! ```text
//!  TrustFiles ─▶ Trust ─▶ rustls configuration ─▶ tokio-rustls: control links, API
//!                                              └▶ Handshake ─▶ Sealer, Opener: pages, tunnel
//! ```
//!
//! Deliberately absent: what an identity may do.
#![forbid(unsafe_code)]

mod authority;
mod certificate;
mod explain;
mod handshake;
mod identity;
pub mod limits;
mod records;
mod security;
mod seen;
#[cfg(feature = "tokio")]
mod strangers;
#[cfg(feature = "tokio")]
pub mod stream;
mod tls;
mod verify;

pub use authority::{Authority, AuthorityError, Issued, IssuedFiles};
pub use certificate::{Validity, instant};
pub use explain::explain;
pub use handshake::{Arrived, Handshake, Keys, Progress};
pub use identity::{Identity, IdentityError};
pub use records::{
    HEAD_BYTES, Opened, Opener, RECORD_BYTES_MAX, RecordError, Sealer, TAIL_BYTES, WHOLE_BYTES_MAX,
};
pub use security::{Security, SecurityError, draw_secret, now};
pub use seen::{Trust, TrustError, TrustFiles};
#[cfg(feature = "tokio")]
pub use strangers::Strangers;
pub use tls::{Admits, Credentials};

/// Sealers and openers without a handshake, for tests of what uses them.
#[cfg(any(test, feature = "testing"))]
pub mod testing {
    pub use crate::records::testing::{pair, record};
}
