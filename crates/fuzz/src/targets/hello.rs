//! First words between agents. A tunnel's hello is let in only where move and NIC are the expected
//! ones; a page stream's says at each byte how much of it there must be, never more than its
//! longest name makes it; an answer of a tunnel's target survives being written. First byte: which.

use transhume_agent::testing::{PageHello, page_hello};
use transhume_model::{Mac, Secret};
use transhume_netbuf::testing::{answer, check_hello, hello};

use crate::Choices;

const SECRET: [u8; Secret::BYTES] = *b"known to two alo";
/// Behind magic, epoch and the header's length: the secret, and whose it is.
const SAME_FROM: usize = 17;
/// Magic, epoch, secret, length; then the longest name.
const PAGE_HELLO_BYTES_MAX: usize = 6 + 8 + Secret::BYTES + 1 + 255;

pub(super) fn check(data: &[u8]) {
    let mut choices = Choices(data);
    match choices.byte() % 4 {
        0 => tunnel(&mut choices),
        1 => tunnel_damaged(&mut choices),
        2 => page_stream(choices.0),
        _ => answers(choices.0),
    }
}

fn expected() -> Vec<u8> {
    let mac = Mac::new([0x52, 0x54, 0, 0, 0, 1]).expect("a unicast address");
    hello("vm1", mac, 4, SECRET, 12)
}

fn tunnel(choices: &mut Choices<'_>) {
    let expected = expected();
    let mut found = choices.bytes(expected.len()).to_vec();
    found.resize(expected.len(), 0);
    judge(&found, &expected);
}

/// An honest one, some bytes changed.
fn tunnel_damaged(choices: &mut Choices<'_>) {
    let expected = expected();
    let mut found = expected.clone();
    while !choices.done() {
        found[choices.below(expected.len())] ^= choices.byte();
    }
    judge(&found, &expected);
}

fn judge(found: &[u8], expected: &[u8]) {
    let meant = found[..8] == expected[..8] && found[SAME_FROM..] == expected[SAME_FROM..];
    match check_hello(found, expected) {
        Ok(vnet) => assert!(meant && matches!(vnet, 10 | 12 | 20)),
        Err(_) => assert!(!meant || !matches!(found[16], 10 | 12 | 20)),
    }
}

fn page_stream(bytes: &[u8]) {
    let mut have = 0;
    loop {
        match page_hello(&bytes[..have]) {
            Err(_) => return,
            Ok(PageHello::Wants(wanted)) => {
                assert!(wanted > have && wanted <= PAGE_HELLO_BYTES_MAX);
                if wanted > bytes.len() {
                    return;
                }
                have = wanted;
            }
            Ok(PageHello::Whole(epoch, secret, vm)) => {
                let said = [&epoch.to_be_bytes()[..], &secret.bytes(), &[vm.len() as u8]].concat();
                assert!(bytes[6..have] == [&said, vm.as_bytes()].concat());
                return;
            }
        }
    }
}

fn answers(bytes: &[u8]) {
    for bytes in bytes.as_chunks::<16>().0 {
        if let Some(written) = answer(*bytes) {
            assert_eq!(answer(written), Some(written));
        }
    }
}
