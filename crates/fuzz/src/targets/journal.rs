//! Records of the journal: bytes that were not sealed are damaged, so is what was changed since;
//! what was sealed and is understood is the same after being sealed again; what claims to be
//! compressed is expanded within its bounds, or refused. First byte: which record; second: whether
//! it is sealed, and where it is damaged.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use transhume_coordinator::journal::{ClusterRecord, DrainRecord, HostRecord, JournalError};
use transhume_coordinator::testing::{sealed, sealed_body, unsealed};
use transhume_protocol::migration::JournalEntry;

use crate::Choices;

/// In front of a compressed record's length and frame.
const COMPRESSED: u8 = 0x01;

pub(super) fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let (kind, damage) = (choices.byte(), choices.byte());
    let raw = choices.0;
    assert!(matches!(
        unsealed::<JournalEntry>(raw),
        Err(JournalError::Damaged { .. })
    ));
    let compressed = sealed_body(&[&[COMPRESSED], raw].concat());
    assert!(matches!(
        unsealed::<JournalEntry>(&compressed),
        Ok(_) | Err(JournalError::NotExpanded { .. } | JournalError::Unreadable { .. })
    ));
    let Ok(json) = std::str::from_utf8(raw) else {
        return;
    };
    let Ok(json) = RawValue::from_string(json.to_owned()) else {
        return;
    };
    let mut bytes = sealed(&json);
    if damage > 0 {
        let at = bytes.len() * usize::from(damage) / 256;
        bytes[at] ^= 1 + damage / 2;
        assert!(matches!(
            unsealed::<JournalEntry>(&bytes),
            Err(JournalError::Damaged { .. })
        ));
        return;
    }
    match kind % 4 {
        0 => again::<JournalEntry>(&bytes),
        1 => again::<ClusterRecord>(&bytes),
        2 => again::<HostRecord>(&bytes),
        _ => again::<DrainRecord>(&bytes),
    }
}

fn again<T: Serialize + DeserializeOwned + PartialEq>(bytes: &[u8]) {
    let record: T = match unsealed(bytes) {
        Ok(record) => record,
        Err(error) => {
            assert!(matches!(error, JournalError::Unreadable { .. }), "{error}");
            return;
        }
    };
    let again: T = unsealed(&sealed(&record)).expect("its own bytes");
    assert!(again == record, "another record came back");
}
