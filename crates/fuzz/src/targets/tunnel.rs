//! What a tunnel brings: whole records with the next numbers are taken, in whatever pieces they
//! come; anything else is refused and takes nothing. What waits for its rest is never more than one
//! record. First byte: piece size; second: raw bytes, or honest records of which some are forged.

use transhume_netbuf::testing::{RecordError, record, records};

use crate::Choices;

/// The longest record, but for its last byte.
const WAITING_BYTES_MAX: usize = 16 + (64 << 10) + 256 + 8;

pub(super) fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let piece = 1 + usize::from(choices.byte());
    let bytes = match choices.byte() % 2 {
        0 => choices.0.to_vec(),
        _ => forged(&mut choices),
    };
    let whole = taken(&bytes, bytes.len());
    let pieces = taken(&bytes, piece);
    match whole {
        Ok(whole) => assert_eq!(pieces.ok(), Some(whole), "the pieces changed what was taken"),
        // What comes first in small pieces is taken before the rest is seen.
        Err(why) => assert_eq!(pieces.err(), Some(why)),
    }
}

/// Up to where records were taken, and the number of the last.
fn taken(bytes: &[u8], piece: usize) -> Result<(usize, u64), RecordError> {
    let (mut end, mut last) = (0, 0);
    let mut came = 0;
    for piece in bytes.chunks(piece.max(1)) {
        came += piece.len();
        let (more, number) = records(&bytes[end..came], last)?;
        assert!(end + more <= came, "more was taken than came");
        // As many as the numbers say, and each where the one before ends.
        let mut at = end;
        for _ in last..number {
            let (data, next) = record(&bytes[..came], at).expect("it was taken");
            assert!(data.len() <= next - at - 16);
            at = next;
        }
        assert_eq!(at, end + more);
        (end, last) = (at, number);
        assert!(came - end < WAITING_BYTES_MAX, "more waits than one record");
    }
    Ok((end, last))
}

fn forged(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut number = 0u64;
    while !choices.done() && bytes.len() < 4096 {
        let (kind, length) = (1 + u32::from(choices.byte() % 5), choices.below(96));
        let lie = choices.byte();
        number = match lie {
            0 => u64::MAX,
            1 => number,
            2 => number + 2,
            _ => number + 1,
        };
        let (kind, told) = match lie {
            3 => (u32::from(choices.byte()) << 16, length as u32),
            4 => (kind, u32::MAX - length as u32),
            5 => (kind, (64 << 10) + 256 + (choices.byte() % 2) as u32),
            _ => (kind, length as u32),
        };
        bytes.extend(kind.to_le_bytes());
        bytes.extend(told.to_le_bytes());
        bytes.extend(number.to_le_bytes());
        bytes.resize((bytes.len() + length).next_multiple_of(8), choices.byte());
        number = number.min(1 << 40);
    }
    bytes.truncate(bytes.len() - choices.below(8).min(bytes.len()));
    bytes
}
