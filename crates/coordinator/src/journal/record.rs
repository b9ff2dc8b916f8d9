//! How a record lies in the database: eight bytes of BLAKE3 over the JSON that follows.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::JournalError;

const CHECKSUM_BYTES: usize = 8;

fn checksum(json: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::hash(json);
    *hash.as_bytes().first_chunk().expect("a hash is longer")
}

pub(crate) fn seal(value: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_vec(value).expect("journal records have string keys and finite numbers");
    let mut bytes = checksum(&json).to_vec();
    bytes.extend(json);
    bytes
}

/// `record` names it for people.
pub(crate) fn unseal<T: DeserializeOwned>(
    path: &Path,
    bytes: &[u8],
    record: impl FnOnce() -> String,
) -> Result<T, JournalError> {
    let sound = bytes
        .split_first_chunk()
        .filter(|(found, json)| **found == checksum(json));
    let Some((_, json)) = sound else {
        return Err(JournalError::Damaged {
            path: path.to_owned(),
            record: record(),
        });
    };
    serde_json::from_slice(json).map_err(|source| JournalError::Unreadable {
        path: path.to_owned(),
        record: record(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_seen() {
        let sealed = seal(&"a record");
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let read = unseal::<String>(Path::new("j"), &damaged, || "entry 1".to_owned());
            assert!(matches!(read, Err(JournalError::Damaged { .. })), "bit {bit}");
        }
        assert_eq!(
            unseal::<String>(Path::new("j"), &sealed, String::new).unwrap(),
            "a record"
        );
    }

    #[test]
    fn a_record_cut_short_is_damaged() {
        let sealed = seal(&"a record");
        for length in 0..sealed.len() {
            let read = unseal::<String>(Path::new("j"), &sealed[..length], || "entry 1".to_owned());
            assert!(
                matches!(read, Err(JournalError::Damaged { .. })),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn a_sound_record_of_another_kind_is_not_called_damaged() {
        let read = unseal::<u64>(Path::new("j"), &seal(&"a record"), || "entry 1".to_owned());
        assert!(matches!(read, Err(JournalError::Unreadable { .. })));
    }
}
