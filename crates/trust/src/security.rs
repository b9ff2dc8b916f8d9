//! How a part's links are secured: by certificates, or, where its configuration says so, not at
//! all.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};
use transhume_model::Secret;

use crate::certificate::Validity;
use crate::{Identity, Trust, TrustError, TrustFiles};

/// Of all links of one part.
#[derive(Debug, Clone)]
pub enum Security {
    /// In the clear: whoever reaches a port is believed.
    Insecure,
    /// Both sides show certificates.
    Mutual(Arc<Trust>),
}

/// Why a part does not start.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// Neither, which is not taken for permission.
    #[error("the configuration has no [trust]: this would believe whoever reaches its ports")]
    Missing,
    /// Both.
    #[error("the configuration has [trust] and `insecure = true`")]
    Both,
    /// The files.
    #[error("the certificates of [trust] cannot be used")]
    Files(#[from] TrustError),
    /// They are another's.
    #[error("the certificate of [trust] is {found}'s, this is {wanted}")]
    Another {
        /// Whose it is.
        found: Identity,
        /// Who this is.
        wanted: Identity,
    },
}

impl SecurityError {
    /// What would help.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            SecurityError::Missing => Some(
                "`transhume ca init` and `transhume ca issue` make the files for [trust]; `insecure = true` goes without, on a network where nobody else is",
            ),
            SecurityError::Both => Some("take one of the two out"),
            SecurityError::Another { .. } => {
                Some("`transhume ca issue` makes one of the right name; `transhume ca show` lists them")
            }
            SecurityError::Files(_) => None,
        }
    }
}

impl Security {
    /// As a configuration says.
    pub fn of(files: Option<&TrustFiles>, insecure: bool, wanted: &Identity) -> Result<Self, SecurityError> {
        let files = match (files, insecure) {
            (None, false) => return Err(SecurityError::Missing),
            (Some(_), true) => return Err(SecurityError::Both),
            (None, true) => {
                tracing::warn!(
                    part = %wanted,
                    "INSECURE, as the configuration says: links are in the clear, and whoever reaches a port is believed"
                );
                return Ok(Security::Insecure);
            }
            (Some(files), false) => files,
        };
        let trust = Trust::read(files.clone())?;
        let found = trust.current().identity().clone();
        if found != *wanted {
            let wanted = wanted.clone();
            return Err(SecurityError::Another { found, wanted });
        }
        Ok(Security::Mutual(trust))
    }

    /// Whether nothing is secured.
    pub fn is_insecure(&self) -> bool {
        matches!(self, Security::Insecure)
    }

    /// Of its own certificate.
    pub fn validity(&self) -> Option<Validity> {
        match self {
            Security::Insecure => None,
            Security::Mutual(trust) => Some(trust.current().validity()),
        }
    }
}

/// Seconds since 1970.
pub fn now() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    since_1970.map_or(0, |time| time.as_secs() as i64)
}

/// A new secret for one end of a stream.
pub fn draw_secret() -> Secret {
    let mut bytes = [0; Secret::BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the kernel has random bytes");
    Secret::new(bytes)
}
