//! Records of TLS behind the handshake. Any bytes: refused, or waited for within a record's
//! length; honest records come out as they went in, in their order, up to the first that somebody
//! changed, cut, repeated or took out, and nothing behind it. First byte: which.

use transhume_trust::testing::{pair, record};
use transhume_trust::{Opened, Opener, WHOLE_BYTES_MAX};

use crate::Choices;

/// What more than a whole record a peer may announce (RFC 8446 §5.2).
const SLACK_BYTES: usize = 256;

pub(super) fn check(data: &[u8]) {
    let mut choices = Choices(data);
    match choices.byte() % 2 {
        0 => {
            let (_, mut opener) = pair();
            let opened = opened(&mut opener, choices.0.to_vec());
            assert!(opened.is_empty(), "somebody else's record was opened");
        }
        _ => damaged(&mut choices),
    }
}

fn opened(opener: &mut Opener, mut wire: Vec<u8>) -> Vec<Vec<u8>> {
    let (mut at, mut opened) = (0, Vec::new());
    while let Ok(Some(length)) = opener.length(&wire[at..]) {
        assert!(length <= WHOLE_BYTES_MAX + SLACK_BYTES);
        let Some(whole) = wire.get_mut(at..at + length) else {
            break;
        };
        match opener.open(whole) {
            Ok(Opened::Bytes(bytes)) => opened.push(whole[bytes].to_vec()),
            Ok(Opened::Own) => {}
            Ok(Opened::Closed) | Err(_) => break,
        }
        at += length;
    }
    opened
}

fn damaged(choices: &mut Choices<'_>) {
    let (mut sealer, mut opener) = pair();
    let sent: Vec<Vec<u8>> = (0..1 + choices.below(4))
        .map(|_| {
            let length = choices.below(40);
            choices.bytes(length).to_vec()
        })
        .collect();
    let honest: Vec<Vec<u8>> = sent.iter().map(|bytes| record(&mut sealer, bytes)).collect();
    let mut wire = honest.clone();
    let at = choices.below(wire.len());
    match choices.byte() % 5 {
        0 => {}
        1 => {
            let byte = choices.below(wire[at].len());
            wire[at][byte] ^= choices.byte().max(1);
        }
        2 => {
            let length = choices.below(wire[at].len());
            wire[at].truncate(length);
        }
        3 => {
            let again = wire[at].clone();
            wire.insert(at + 1, again);
        }
        _ => drop(wire.remove(at)),
    }
    let wire = wire.concat();
    // As long as the bytes are the same; what follows a cut may begin with what was cut off.
    let whole = honest.concat();
    let same = whole.iter().zip(&wire).take_while(|(a, b)| a == b).count();
    let ends = honest.iter().scan(0, |end, record| {
        *end += record.len();
        Some(*end)
    });
    let good = ends.take_while(|end| *end <= same).count();
    let opened = opened(&mut opener, wire);
    assert!(
        opened == sent[..good],
        "{} of {} opened, {good} good",
        opened.len(),
        sent.len()
    );
}
