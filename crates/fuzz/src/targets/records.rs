//! Records of an agent's state directory, damaged or of another version: refused, or the same
//! after being written again. First byte: which.

use transhume_agent::testing::divided;
use transhume_agent_core::Record;
use transhume_protocol::message::Leader;

use super::survives;
use crate::Choices;

pub(super) fn check(data: &[u8]) {
    let mut choices = Choices(data);
    match choices.byte() % 3 {
        0 => {
            if let Ok(record) = Record::read(choices.0) {
                let again = Record::read(&record.to_bytes()).expect("its own bytes");
                assert!(again == record && matches!(record.version, 2 | 3));
            }
        }
        1 => {
            if let Ok(leader) = serde_json::from_slice::<Leader>(choices.0) {
                survives(&leader);
            }
        }
        _ => {
            if let Ok(written) = divided(choices.0) {
                assert_eq!(divided(&written).expect("its own bytes"), written);
            }
        }
    }
}
