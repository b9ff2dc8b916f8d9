//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A unicast Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$", example = "52:54:00:00:00:01")]
pub struct Mac([u8; 6]);

/// Why text is not a usable Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not six hexadecimal bytes.
    #[error("`{0}` is not an Ethernet address: write six hexadecimal bytes like 52:54:00:00:00:01")]
    Syntax(String),
    /// The group bit is set, or all bytes are zero: nothing can own such an address.
    #[error("`{0}` is a group or zero address: a network interface needs a unicast one")]
    NotUnicast(String),
}

impl Mac {
    /// An address from its bytes; refused when it is a group or the zero address.
    pub fn new(bytes: [u8; 6]) -> Result<Self, MacError> {
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(MacError::NotUnicast(format_mac(&bytes)));
        }
        Ok(Self(bytes))
    }

    /// The six bytes, in the order of the wire.
    pub fn bytes(&self) -> [u8; 6] {
        self.0
    }
}

fn format_mac(b: &[u8; 6]) -> String {
    format!(
        "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}",
        b[0], b[1], b[2], b[3], b[4], b[5]
    )
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format_mac(&self.0))
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let syntax = || MacError::Syntax(text.chars().take(80).collect());
        let mut bytes = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(syntax)?;
            if part.len() != 2 || part.starts_with('+') {
                return Err(syntax());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| syntax())?;
        }
        if parts.next().is_some() {
            return Err(syntax());
        }
        Self::new(bytes)
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;
    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_agree() {
        let mac: Mac = "52:54:00:0a:0B:ff".parse().unwrap();
        assert_eq!(mac.bytes(), [0x52, 0x54, 0, 0x0a, 0x0b, 0xff]);
        assert_eq!(mac.to_string(), "52:54:00:0a:0b:ff");
    }

    #[test]
    fn group_and_zero_addresses_are_refused() {
        assert!(matches!(
            "01:00:5e:00:00:01".parse::<Mac>(),
            Err(MacError::NotUnicast(_))
        ));
        assert!(matches!(
            "00:00:00:00:00:00".parse::<Mac>(),
            Err(MacError::NotUnicast(_))
        ));
        assert!(matches!(
            "52:54:00:00:00".parse::<Mac>(),
            Err(MacError::Syntax(_))
        ));
        assert!(matches!(
            "+2:54:00:00:00:01".parse::<Mac>(),
            Err(MacError::Syntax(_))
        ));
    }
}
