//! Any bytes from the source, from its first one on: rebuilt, waited for or refused, within bounds.
//! First byte: piece size.

use super::{Choices, decode};

/// Tries one input.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let piece = 1 + usize::from(choices.byte()) * 16;
    let _ = decode(choices.0, piece, 2);
}
