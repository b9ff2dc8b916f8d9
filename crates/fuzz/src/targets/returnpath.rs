//! What a target's QEMU says to the source's, in pieces of any size: all of it passes, unchanged
//! and in its order, but for switchover-acks, of which one waits for the release. First bytes:
//! piece size, and behind how many pieces the release comes; 255: never.

use transhume_qemu::ReturnPathFilter;

use crate::Choices;

/// Switchover-ack.
const ACK: [u8; 2] = [0, 7];
/// A header, and the longest message there is: what may wait.
const HELD_BYTES_MAX: usize = 4 + 4 + 0xffff;

pub(super) fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let (piece, released) = (1 + usize::from(choices.byte()), choices.byte());
    let stream = choices.0;
    let (mut filter, mut out) = (ReturnPathFilter::new(), Vec::new());
    for (number, piece) in stream.chunks(piece).enumerate() {
        if number == usize::from(released) && released < 255 {
            filter.release(&mut out);
        }
        filter.push(piece, &mut out);
    }
    let has_released = released < 255 && usize::from(released) < stream.len().div_ceil(piece);
    assert!(out.len() <= stream.len(), "bytes were made");
    let (others, acks) = sorted(stream);
    let (others_out, acks_out) = sorted(&out);
    assert!(others == others_out, "what is no ack was changed");
    assert!(acks_out <= acks && (has_released || acks_out == 0));
    if !has_released {
        let acks_bytes = stream.len() - out.len();
        assert!(filter.holds_ack() == (acks > 0) && (acks > 0 || acks_bytes < HELD_BYTES_MAX));
    }
}

/// Messages that are no acks, as far as their headers are whole, and the number of acks.
fn sorted(mut stream: &[u8]) -> (Vec<&[u8]>, usize) {
    let (mut others, mut acks) = (Vec::new(), 0);
    while let Some(&[a, b, c, d]) = stream.first_chunk() {
        let length = (4 + usize::from(u16::from_be_bytes([c, d]))).min(stream.len());
        let (message, rest) = stream.split_at(length);
        match [a, b] {
            ACK => acks += 1,
            _ => others.push(message),
        }
        stream = rest;
    }
    (others, acks)
}
