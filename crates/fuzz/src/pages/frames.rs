//! An honest encoder's frames, damaged where it hurts and whole again as frames: refused, waited
//! for, or the source's bytes. First bytes: which guest, piece size, pages that the target's store
//! may keep; then the damage.

use super::{BASES, Choices, damaged, decode};

/// Tries one input.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let base = &BASES[choices.below(BASES.len())];
    let piece = 64 + usize::from(choices.byte()) * 64;
    let store_pages = choices.byte() % 5;
    let untouched = choices.done();
    let wire = damaged(base, &mut choices);
    let (result, out) = decode(&wire, piece, u64::from(store_pages));
    if result == Ok(true) {
        assert!(out == base.stream, "a damaged stream ended well with other bytes");
    }
    // Without a store references fail, and nobody here supplies the pages.
    if untouched && store_pages == 4 {
        assert_eq!(result, Ok(true), "{}: an honest stream", base.name);
    }
}
