//! A stream of events, as a client reads it off the network: the same lines in whatever pieces it
//! comes, none of them with an end of a line in it. First byte: piece size.

use transhume_api::testing::{EVENT_LINE_BYTES_MAX, EventLines};

use crate::Choices;

pub(super) fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let piece = 1 + usize::from(choices.byte());
    let whole = lines(choices.0, usize::MAX);
    assert!(lines(choices.0, piece) == whole, "the pieces changed the lines");
    let bytes: usize = whole.iter().map(Vec::len).sum();
    assert!(bytes <= choices.0.len() && !whole.concat().contains(&b'\n'));
}

fn lines(stream: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let mut lines = EventLines::default();
    let pieces = stream.chunks(piece.max(1)).flat_map(|piece| {
        let taken = lines.take(piece);
        taken.unwrap_or_else(|| panic!("none is longer than {EVENT_LINE_BYTES_MAX} bytes"))
    });
    pieces.collect()
}
