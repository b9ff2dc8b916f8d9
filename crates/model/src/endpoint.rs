//! Where one end of a stream between two agents waits for the other.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::HostName;

/// What whoever connects must know: made by the end that waits, and told to that move's other end
/// alone, by way of the coordinator.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Secret([u8; Secret::BYTES]);

/// That is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a secret is {} hexadecimal digits", 2 * Secret::BYTES)]
pub struct SecretError;

impl Secret {
    /// Its length; 128 bits cannot be tried out.
    pub const BYTES: usize = 16;

    /// One of these bytes, drawn by the caller.
    pub fn new(drawn: [u8; Secret::BYTES]) -> Self {
        Self(drawn)
    }

    /// For the wire.
    pub fn bytes(&self) -> [u8; Secret::BYTES] {
        self.0
    }
}

/// Takes the same time wherever they differ.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        let pairs = self.0.iter().zip(other.0);
        std::hint::black_box(pairs.fold(0, |differ, (a, b)| differ | (a ^ b))) == 0
    }
}

impl Eq for Secret {}

/// Logs and panics do not tell it.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl From<Secret> for String {
    fn from(secret: Secret) -> Self {
        secret.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl FromStr for Secret {
    type Err = SecretError;
    fn from_str(text: &str) -> Result<Self, SecretError> {
        let digits = text.as_bytes();
        if digits.len() != 2 * Self::BYTES || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(SecretError);
        }
        let mut bytes = [0; Self::BYTES];
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| SecretError)?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Secret {
    type Error = SecretError;
    fn try_from(text: String) -> Result<Self, SecretError> {
        text.parse()
    }
}

/// One end of a page stream or tunnel, as the other is to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The host whose agent waits there: its certificate must name it.
    pub host: HostName,
    /// Where.
    pub address: SocketAddr,
    /// What it wants to hear first.
    pub secret: Secret,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_as_it_is_written_and_never_shown() {
        let secret = Secret::new(std::array::from_fn(|at| at as u8 * 17));
        let text = String::from(secret.clone());
        assert_eq!(text, "00112233445566778899aabbccddeeff");
        assert_eq!(text.parse(), Ok(secret.clone()));
        assert_ne!(secret, Secret::new([0; 16]));
        assert_eq!(format!("{secret:?}"), "Secret");
        for wrong in ["", "0011", &text[1..], "+0112233445566778899aabbccddeeff"] {
            assert_eq!(wrong.parse::<Secret>(), Err(SecretError));
        }
    }
}
