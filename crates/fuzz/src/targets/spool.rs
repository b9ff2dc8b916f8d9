//! A spool that a killed agent left, or that was damaged since: it is one whose records are
//! numbered from 1 and end where its head says, or none at all. The head comes from the first
//! bytes, records from the rest.

use transhume_netbuf::testing::{SPOOL_RECORDS_AT, record, spool};

use crate::Choices;

const MAGIC: &[u8; 8] = b"THSPOOL2";

pub(super) fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let honest = choices.byte();
    let mut bytes = vec![0; SPOOL_RECORDS_AT];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8] = choices.byte();
    let tail = SPOOL_RECORDS_AT + choices.word();
    bytes[16..24].copy_from_slice(&(tail as u64).to_le_bytes());
    if honest % 4 == 0 {
        let head = choices.bytes(24);
        bytes[..head.len()].copy_from_slice(head);
    }
    bytes.extend(choices.0);
    if honest % 4 == 1 {
        bytes.truncate(choices.0.len());
    }
    let Some((tail, last)) = spool(&bytes) else { return };
    assert!(bytes[..8] == *MAGIC && bytes[8] <= 20);
    let mut at = SPOOL_RECORDS_AT;
    for _ in 0..last {
        (_, at) = record(&bytes, at).expect("it is there");
    }
    assert_eq!(at, tail);
    assert!(tail <= bytes.len());
}
