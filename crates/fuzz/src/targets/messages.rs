//! Control messages: a length, then JSON. A length past the limit is refused before anything is
//! taken for it; a message that is understood survives being sent on. First byte: which message.

use serde::Serialize;
use serde::de::DeserializeOwned;
use transhume_protocol::message::{Hello, Order, Report};
use transhume_protocol::wire::{LENGTH_BYTES, MESSAGE_BYTES_MAX, decode, encode, length};

use crate::Choices;

pub(super) fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let kind = choices.byte();
    if let Some(prefix) = choices.0.first_chunk::<LENGTH_BYTES>() {
        let announced = u32::from_be_bytes(*prefix) as usize;
        match length(*prefix) {
            Ok(bytes) => assert!(bytes == announced && bytes <= MESSAGE_BYTES_MAX),
            Err(_) => assert!(announced > MESSAGE_BYTES_MAX),
        }
    }
    match kind % 3 {
        0 => sent_on::<Hello>(choices.0),
        1 => sent_on::<Order>(choices.0),
        _ => sent_on::<Report>(choices.0),
    }
}

fn sent_on<M: Serialize + DeserializeOwned + PartialEq>(body: &[u8]) {
    let Ok(message) = decode::<M>(body) else { return };
    let bytes = encode(&message).expect("what was read can be written");
    let (prefix, body) = bytes.split_first_chunk().expect("a length comes first");
    assert_eq!(length(*prefix).expect("its own length"), body.len());
    let again = decode::<M>(body).expect("what was written can be read");
    assert!(again == message, "another message came back");
}
