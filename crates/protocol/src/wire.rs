//! How messages lie on the wire: a 4-byte big-endian length, then that many bytes of JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A longer message is refused unread; the largest real one is a host state with a few hundred VMs.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Bytes of the length prefix.
pub const LENGTH_BYTES: usize = 4;

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The announced length is above [`MESSAGE_BYTES_MAX`].
    #[error("a message of {bytes} bytes is announced, {MESSAGE_BYTES_MAX} are allowed")]
    TooLong {
        /// Announced length.
        bytes: usize,
    },
    /// The bytes are not the JSON of the expected message.
    #[error("the message cannot be understood")]
    Syntax(#[source] serde_json::Error),
}

/// A message with its length in front.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, WireError> {
    let mut bytes = vec![0; LENGTH_BYTES];
    serde_json::to_writer(&mut bytes, message).map_err(WireError::Syntax)?;
    let length = bytes.len() - LENGTH_BYTES;
    if length > MESSAGE_BYTES_MAX {
        return Err(WireError::TooLong { bytes: length });
    }
    bytes[..LENGTH_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(bytes)
}

/// The length that a prefix announces, checked before anything is allocated.
pub fn length(prefix: [u8; LENGTH_BYTES]) -> Result<usize, WireError> {
    let bytes = u32::from_be_bytes(prefix) as usize;
    if bytes > MESSAGE_BYTES_MAX {
        Err(WireError::TooLong { bytes })
    } else {
        Ok(bytes)
    }
}

/// The message in `body` (without its length).
pub fn decode<M: DeserializeOwned>(body: &[u8]) -> Result<M, WireError> {
    serde_json::from_slice(body).map_err(WireError::Syntax)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Command, Order};
    use transhume_model::{Epoch, OrderId};

    #[test]
    fn an_order_survives_the_wire() {
        let order = Order {
            id: OrderId(7),
            epoch: Epoch(3),
            command: Command::Capture {
                vm: "vm1".parse().unwrap(),
            },
        };
        let bytes = encode(&order).unwrap();
        let prefix = bytes[..LENGTH_BYTES].try_into().unwrap();
        assert_eq!(length(prefix).unwrap(), bytes.len() - LENGTH_BYTES);
        assert_eq!(decode::<Order>(&bytes[LENGTH_BYTES..]).unwrap(), order);
    }

    #[test]
    fn dirty_rates_are_asked_for_by_name_and_by_nobody_else() {
        let plain = r#"{"id":1,"epoch":0,"command":{"command":"inspect"}}"#;
        let order: Order = decode(plain.as_bytes()).unwrap();
        assert_eq!(order.command, Command::inspect());
        assert_eq!(&encode(&order).unwrap()[LENGTH_BYTES..], plain.as_bytes());
        let asking = Order {
            command: Command::Inspect {
                dirty_of: vec!["vm1".parse().unwrap()],
            },
            ..order
        };
        let bytes = encode(&asking).unwrap();
        assert_eq!(decode::<Order>(&bytes[LENGTH_BYTES..]).unwrap(), asking);
        let nameless = r#"{"id":1,"epoch":0,"command":{"command":"inspect","dirty_of":["not/a/name"]}}"#;
        assert!(matches!(
            decode::<Order>(nameless.as_bytes()),
            Err(WireError::Syntax(_))
        ));
    }

    #[test]
    fn a_hostile_length_is_refused_before_allocation() {
        assert!(matches!(length([0xff; 4]), Err(WireError::TooLong { .. })));
    }

    #[test]
    fn garbage_is_an_error_not_a_panic() {
        assert!(matches!(decode::<Order>(b"{\"id\":"), Err(WireError::Syntax(_))));
    }
}
