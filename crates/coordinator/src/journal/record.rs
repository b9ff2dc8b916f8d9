//! How a record lies in the database: eight bytes of BLAKE3 over what follows, which is JSON or,
//! where that is long, a mark, its length and the same JSON in one frame of zstd.
//!
//! ```text
//!  checksum 8 │ JSON                              up to 64 KiB; before format 4, all
//!  checksum 8 │ 0x01 │ length 4, little-endian │ zstd
//! ```
//!
//! No JSON begins with the mark, so that a record says itself which of the two it is.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::JournalError;

const CHECKSUM_BYTES: usize = 8;
/// Longer JSON is compressed: what is shorter is mostly on its way to a VM that stands still.
pub(crate) const PLAIN_BYTES_MAX: usize = 64 << 10;
/// What a compressed record may become. Longer JSON is kept as it is, where a journal takes it.
pub(crate) const JSON_BYTES_MAX: usize = 64 << 20;
/// In front of what is compressed.
const COMPRESSED: u8 = 0x01;
/// Behind it: the length of the JSON.
const LENGTH_BYTES: usize = 4;
/// Of the plain ones the fastest: a decision may wait for it.
const LEVEL: i32 = 1;

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::hash(body);
    *hash.as_bytes().first_chunk().expect("a hash is longer")
}

pub(crate) fn seal(value: &impl Serialize) -> Vec<u8> {
    let json = serde_json::to_vec(value).expect("journal records have string keys and finite numbers");
    seal_body(&compressed(&json).unwrap_or(json))
}

/// Whatever a record is, behind its checksum.
pub(crate) fn seal_body(body: &[u8]) -> Vec<u8> {
    [checksum(body).as_slice(), body].concat()
}

/// What is behind a checksum that fits it.
pub(super) fn sound_body(bytes: &[u8]) -> Option<&[u8]> {
    let (found, body) = bytes.split_first_chunk()?;
    (*found == checksum(body)).then_some(body)
}

/// `None` where that is not worth while, or could not be read back.
fn compressed(json: &[u8]) -> Option<Vec<u8>> {
    if json.len() <= PLAIN_BYTES_MAX || json.len() > JSON_BYTES_MAX {
        return None;
    }
    let length = u32::try_from(json.len()).ok()?.to_le_bytes();
    let frame = zstd::bulk::compress(json, LEVEL).ok()?;
    let body = [&[COMPRESSED], length.as_slice(), &frame].concat();
    (body.len() < json.len()).then_some(body)
}

/// The JSON in what stands behind the mark.
fn expanded(body: &[u8]) -> Result<Vec<u8>, String> {
    let (length, frame) = body
        .split_first_chunk::<LENGTH_BYTES>()
        .ok_or("it ends within its length")?;
    let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length > JSON_BYTES_MAX {
        return Err(format!(
            "it would take {length} bytes, and no record takes more than {JSON_BYTES_MAX}"
        ));
    }
    // A frame that holds more than it says fails here, for there is no room for it.
    let json = zstd::bulk::decompress(frame, length).map_err(|error| error.to_string())?;
    match json.len() == length {
        true => Ok(json),
        false => Err(format!("it says {length} bytes and holds {}", json.len())),
    }
}

/// `record` names it for people.
pub(crate) fn unseal<T: DeserializeOwned>(
    path: &Path,
    bytes: &[u8],
    record: impl FnOnce() -> String,
) -> Result<T, JournalError> {
    let Some(body) = sound_body(bytes) else {
        return Err(JournalError::Damaged {
            path: path.to_owned(),
            record: record(),
        });
    };
    let held;
    let json = match body.split_first() {
        Some((&COMPRESSED, rest)) => match expanded(rest) {
            Ok(json) => {
                held = json;
                &held
            }
            Err(why) => {
                return Err(JournalError::NotExpanded {
                    path: path.to_owned(),
                    record: record(),
                    why,
                });
            }
        },
        _ => body,
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

    fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JournalError> {
        unseal(Path::new("j"), bytes, || "entry 1".to_owned())
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let sealed = seal(&"a record");
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(read::<String>(&damaged), Err(JournalError::Damaged { .. })),
                "bit {bit}"
            );
        }
        assert_eq!(read::<String>(&sealed).unwrap(), "a record");
    }

    #[test]
    fn a_record_cut_short_is_damaged() {
        let sealed = seal(&"a record");
        for length in 0..sealed.len() {
            let read = read::<String>(&sealed[..length]);
            assert!(
                matches!(read, Err(JournalError::Damaged { .. })),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn a_sound_record_of_another_kind_is_not_called_damaged() {
        assert!(matches!(
            read::<u64>(&seal(&"a record")),
            Err(JournalError::Unreadable { .. })
        ));
    }

    #[test]
    fn what_is_long_is_compressed_and_what_is_short_or_old_is_plain() {
        // Two bytes of the JSON are quotes.
        for (length, plain) in [(PLAIN_BYTES_MAX - 2, true), (PLAIN_BYTES_MAX - 1, false)] {
            let text = "a".repeat(length);
            let sealed = seal(&text);
            assert_eq!(sealed[CHECKSUM_BYTES] == b'"', plain, "{length}");
            assert_eq!(sealed[CHECKSUM_BYTES] == COMPRESSED, !plain, "{length}");
            assert_eq!(read::<String>(&sealed).unwrap(), text);
        }
        // As releases before format 4 wrote everything.
        let text = "a".repeat(1 << 20);
        let old = seal_body(&serde_json::to_vec(&text).unwrap());
        assert_eq!(read::<String>(&old).unwrap(), text);
        assert!(seal(&text).len() < old.len() / 100);
        // What does not become shorter stays as it is.
        let mut state = 1_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from_u32(0x10000 + ((state >> 40) as u32 & 0xf_ffff)).unwrap_or('x')
        };
        let text: String = (0..PLAIN_BYTES_MAX).map(|_| noise()).collect();
        assert_eq!(read::<String>(&seal(&text)).unwrap(), text);
    }

    #[test]
    fn what_would_take_more_than_a_record_may_is_refused_by_name() {
        let bomb = zstd::bulk::compress(&vec![b' '; JSON_BYTES_MAX + 1], 19).unwrap();
        assert!(bomb.len() < 10_000, "{} bytes", bomb.len());
        let of = |length: usize, frame: &[u8]| {
            let length = u32::try_from(length).unwrap().to_le_bytes();
            seal_body(&[&[COMPRESSED], length.as_slice(), frame].concat())
        };
        let one = zstd::bulk::compress(b"1", 1).unwrap();
        let cases = [
            // It says the truth, it lies, it ends too early, it is none.
            of(JSON_BYTES_MAX + 1, &bomb),
            of(100, &bomb),
            of(2, &one),
            of(1, &one[..one.len() - 1]),
            of(1, b"1"),
            seal_body(&[COMPRESSED]),
            seal_body(&[COMPRESSED, 1, 0, 0]),
        ];
        for (index, bytes) in cases.iter().enumerate() {
            let refused = read::<u64>(bytes).unwrap_err();
            let named = matches!(&refused, JournalError::NotExpanded { record, .. } if record == "entry 1");
            assert!(named, "case {index}: {refused}");
        }
        assert_eq!(read::<u64>(&of(1, &one)).unwrap(), 1);
    }

    #[test]
    fn a_damaged_record_is_not_even_expanded() {
        let sealed = seal(&"a".repeat(1 << 20));
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(read::<String>(&damaged), Err(JournalError::Damaged { .. })),
                "bit {bit}"
            );
        }
    }
}
