//! Whose coordinator it is: the first thing it says on every connection, before any order.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{PROTOCOL_OLDEST, PROTOCOL_VERSION};

/// Bytes of a fleet's id.
pub const FLEET_BYTES: usize = 16;

/// Which fleet: made once, by chance, with its journal, and the same for as long as that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FleetId(String);

/// Text that is no fleet's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fleet's id is {} hexadecimal digits", 2 * FLEET_BYTES)]
pub struct NoFleetId;

impl FleetId {
    /// Of these bytes.
    pub fn of(bytes: [u8; FLEET_BYTES]) -> Self {
        FleetId(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FleetId {
    type Err = NoFleetId;

    fn from_str(text: &str) -> Result<Self, NoFleetId> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match text.len() == 2 * FLEET_BYTES && text.bytes().all(is_digit) {
            true => Ok(FleetId(text.to_owned())),
            false => Err(NoFleetId),
        }
    }
}

impl TryFrom<String> for FleetId {
    type Error = NoFleetId;

    fn try_from(text: String) -> Result<Self, NoFleetId> {
        text.parse()
    }
}

impl From<FleetId> for String {
    fn from(fleet: FleetId) -> String {
        fleet.0
    }
}

impl fmt::Display for FleetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Who leads a fleet: a coordinator in one of its lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// The fleet.
    pub fleet: FleetId,
    /// Grows with each start of a coordinator on the fleet's journal.
    pub term: u64,
    /// Drawn at that start: two journals, one of which is a copy, may count to the same term.
    #[serde(default)]
    pub life: u64,
}

/// The first message of a coordinator on a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest version of the messages that the coordinator speaks. Up to 0.3.0: its only one.
    pub protocol: u16,
    /// Newest; `None` where there is no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<u16>,
    /// Who it is.
    pub leader: Leader,
}

impl Hello {
    /// What this release's coordinator says.
    pub fn of(leader: Leader) -> Self {
        Hello {
            protocol: PROTOCOL_OLDEST,
            newest: Some(PROTOCOL_VERSION),
            leader,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_hexadecimal_and_nothing_else() {
        let fleet = FleetId::of([0xab; FLEET_BYTES]);
        assert_eq!(fleet.as_str(), "ab".repeat(16));
        assert_eq!(fleet.as_str().parse(), Ok(fleet));
        for text in ["", "ab", &"AB".repeat(16), &"g".repeat(32), &"a".repeat(33)] {
            assert_eq!(text.parse::<FleetId>(), Err(NoFleetId), "{text}");
            let json = serde_json::to_string(text).unwrap();
            assert!(serde_json::from_str::<FleetId>(&json).is_err(), "{text}");
        }
    }
}
