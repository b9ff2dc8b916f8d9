//! Who is who in a fleet: identities in certificates of one authority, the files that hold them,
//! the check of a peer's, and the sealed records that follow a handshake (`docs/design/trust.md`).
//!
//! ```text
//!  TrustFiles ─▶ Trust ─▶ rustls configuration ─▶ tokio-rustls: control links, API
//!                                              └▶ Handshake ─▶ Sealer, Opener: pages, tunnel
//!                                                               └▶ KernelSealer, KernelOpener: pages
//! ```
//!
//! Deliberately absent: what an identity may do.
#![deny(unsafe_code)]

mod authority;
mod certificate;
mod explain;
mod handshake;
mod identity;
#[expect(unsafe_code, reason = "no crate sends a TLS record that is no data")]
mod kernel;
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
pub use kernel::{KernelOpener, KernelSealer, Received, probe as probe_kernel};
pub use records::{
    HEAD_BYTES, Opened, Opener, RECORD_BYTES_MAX, RecordError, Sealer, TAIL_BYTES, WHOLE_BYTES_MAX,
};
pub use security::{Security, SecurityError, draw_secret, now};
pub use seen::{Trust, TrustError, TrustFiles};
#[cfg(feature = "tokio")]
pub use strangers::Strangers;
pub use tls::{Admits, Credentials};

/// For tests of what uses this: sealers and openers without a handshake, and a certificate that is
/// over.
#[cfg(any(test, feature = "testing"))]
pub mod testing {
    use std::path::Path;

    use time::{Duration, OffsetDateTime};

    pub use crate::records::testing::{pair, pair_worn_after, record};
    use crate::{Authority, AuthorityError, Identity, IssuedFiles};

    /// As [`Authority::issue`], and it ended an hour ago.
    pub fn issue_expired(
        authority: &Authority,
        identity: &Identity,
        out: &Path,
    ) -> Result<IssuedFiles, AuthorityError> {
        let until = OffsetDateTime::now_utc() - Duration::hours(1);
        authority.issue_until(identity, until, out)
    }
}
