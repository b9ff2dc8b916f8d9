//! Any bytes from the target to a source with groups on their way: taken or refused, and no more
//! supplied than was referred to. First byte: piece size.

use std::sync::LazyLock;

use transhume_pages::limits::PAGE_BYTES;
use transhume_pages::{ContentId, Encoder, Knowledge};

use super::{Choices, SLOW, answer, config, key, page, stream_of};

/// References to one page, in two groups.
const REFERENCES: usize = 2;
/// A frame that supplies a page: head, id, page.
const SUPPLY_BYTES: usize = 5 + 16 + PAGE_BYTES;

static STREAM: LazyLock<Vec<u8>> = LazyLock::new(|| stream_of(&[(0, Some(page(1))), (1, Some(page(1)))]));
static ID: LazyLock<ContentId> = LazyLock::new(|| key().id(&page(1)));

/// Tries one input.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let piece = 1 + usize::from(choices.byte()) * 8;
    let (mut know, mut out) = (Knowledge::default(), Vec::new());
    know.held(*ID);
    let mut encoder = Encoder::new(config()).expect("an encoder");
    encoder.link_rate(SLOW);
    let (first, second) = STREAM.split_at(STREAM.len() * 2 / 3);
    encoder.push(first, &mut know, &mut out).expect("encodes");
    encoder.flush(&mut out).expect("encodes");
    encoder.push(second, &mut know, &mut out).expect("encodes");
    encoder.flush(&mut out).expect("encodes");
    out.clear();
    let ids_max = choices.0.len() / 16 + 2;
    for piece in choices.0.chunks(piece) {
        if answer(&mut encoder, piece, &mut know, &mut out).is_err() {
            break;
        }
    }
    assert!(
        out.len() <= REFERENCES * SUPPLY_BYTES,
        "{} bytes supplied",
        out.len()
    );
    assert!(know.count() <= ids_max + 1, "more was learned than was told");
    encoder.finish(&mut out).expect("encodes");
}
