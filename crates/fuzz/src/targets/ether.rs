//! Frames as bridges and guests make them: what is delivered is for the guest, only an announcement
//! of its own address can be a marker, and of a frame that was being read nothing is lost. First
//! byte: the frame as it is, with the guest's address, or an announcement that is damaged.

use transhume_model::Mac;
use transhume_netbuf::testing::{Treated, marker, recovered_bytes, treated};

use crate::Choices;

const GUEST: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

pub(super) fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let guest = Mac::new(GUEST).expect("a unicast address");
    let mode = choices.byte() % 3;
    let mut frame = match mode {
        2 => marker(guest, 0x0102_0304_0506_0708),
        _ => choices.0.to_vec(),
    };
    match mode {
        1 if frame.len() >= 12 => frame[6..12].copy_from_slice(&GUEST),
        2 => {
            while !choices.done() {
                let at = choices.below(frame.len());
                frame[at] ^= choices.byte();
            }
        }
        _ => {}
    }
    judge(&frame, guest);
    recovered(&frame);
}

fn judge(frame: &[u8], guest: Mac) {
    let from_guest = frame.get(6..12) == Some(&GUEST);
    match treated(frame, guest) {
        Treated::Unicast => assert!(frame.len() >= 14 && frame[0] & 1 == 0 && !from_guest),
        Treated::Broadcast => assert!(frame.len() >= 14 && frame[0] & 1 == 1 && !from_guest),
        Treated::Marker(number) => {
            assert!(from_guest && frame[12..14] == [0x80, 0x35]);
            assert!(frame[44..52] == number.to_be_bytes());
        }
        Treated::LeftOut => {
            let dummy = frame.get(12..14) == Some(&[0x88, 0xb5]);
            assert!(frame.len() < 14 || from_guest || dummy, "a frame is lost");
        }
    }
}

/// As it lies in the spool, where zeroes follow.
fn recovered(frame: &[u8]) {
    let mut room = frame.to_vec();
    room.resize(frame.len() + 64, 0);
    let written = frame.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    match recovered_bytes(&room) {
        Some(bytes) => assert!(bytes >= written.max(14) && bytes <= room.len()),
        None => assert_eq!(written, 0, "a frame is lost"),
    }
}
