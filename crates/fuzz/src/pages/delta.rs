//! Any body: a page or a refusal; any change of a page comes back, in no more bytes than allowed.
//! First byte: 0 decodes the rest; else the rest is runs of (place, length, byte) written over a
//! page.

use std::sync::LazyLock;

use transhume_pages::codec::delta;
use transhume_pages::limits::PAGE_BYTES;
use transhume_pages::stream::Page;

use super::{Choices, page};

static OLD: LazyLock<Page> = LazyLock::new(|| page(2));

/// Tries one input.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let (mut out, mut body) = (*OLD, Vec::new());
    let limit = match choices.byte() {
        0 => {
            let _ = delta::decode(choices.0, &mut out);
            return;
        }
        limit => usize::from(limit) * 20,
    };
    let mut new = *OLD;
    while !choices.done() {
        let at = choices.below(PAGE_BYTES);
        let end = (at + choices.below(300)).min(PAGE_BYTES);
        new[at..end].fill(choices.byte());
    }
    if delta::encode(&OLD, &new, limit, &mut body) {
        assert!(body.len() < limit, "longer than allowed");
        delta::decode(&body, &mut out).expect("its own body");
        assert!(out == new, "another page came back");
    } else {
        assert!(body.is_empty(), "a refusal leaves nothing");
        assert!(
            delta::encode(&OLD, &new, usize::MAX, &mut body) && body.len() >= limit,
            "it would have fit"
        );
    }
}
