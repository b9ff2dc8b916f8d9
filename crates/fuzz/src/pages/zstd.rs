//! Any blob: the announced pages or a refusal; any group comes back.
//! First byte: 0 decodes the rest as one to four pages; else a group of copies of the page that the
//! rest makes.

use std::cell::RefCell;

use transhume_pages::codec::group::{GroupDecoder, GroupEncoder};
use transhume_pages::limits::{GROUP_PAGES_MAX, PAGE_BYTES};

use super::{Choices, page_of};

thread_local! {
    /// As in a stream: the contexts outlive any one blob, refused ones too.
    static CONTEXTS: RefCell<(GroupEncoder, GroupDecoder)> =
        RefCell::new((GroupEncoder::new().expect("a context"), GroupDecoder::new().expect("a context")));
}

fn check_with(data: &[u8], encoder: &mut GroupEncoder, decoder: &mut GroupDecoder) {
    let mut choices = Choices(data);
    let mut out = Vec::new();
    match choices.byte() {
        0 => {
            let pages = choices.below(5);
            if decoder.decode(choices.0, pages, &mut out).is_ok() {
                assert_eq!(out.len(), pages * PAGE_BYTES);
            }
        }
        copies => {
            let pages = page_of(choices.0).repeat(1 + usize::from(copies) % 3);
            let (mut blob, count) = (Vec::new(), pages.len() / PAGE_BYTES);
            encoder.encode(&pages, &mut blob).expect("encodes");
            decoder.decode(&blob, count, &mut out).expect("its own blob");
            assert!(out == pages, "other pages came back");
            assert!(decoder.decode(&blob, count + 1, &mut out).is_err());
            assert!(decoder.decode(&blob, count - 1, &mut out).is_err());
            assert!(decoder.decode(&blob, GROUP_PAGES_MAX + 1, &mut out).is_err());
        }
    }
}

/// Tries one input.
pub fn check(data: &[u8]) {
    CONTEXTS.with_borrow_mut(|(encoder, decoder)| check_with(data, encoder, decoder));
}
