//! LZO. Any body: a page or a refusal; any page comes back, in no more bytes than allowed.
//! First byte: 0 decodes the rest; else the page that the rest makes, and the limit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transhume_pages::codec::lzo::{self, BODY_BYTES_MAX};
use transhume_pages::limits::PAGE_BYTES;
use transhume_pages_fuzz::{Choices, page_of};

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices(data);
    let (mut out, mut body) = ([0; PAGE_BYTES], Vec::new());
    let limit = match choices.byte() {
        0 => {
            let _ = lzo::decode(choices.0, &mut out);
            return;
        }
        limit => usize::from(limit) * 24,
    };
    let page = page_of(choices.0);
    if lzo::encode(&page, limit, &mut body) {
        assert!(body.len() < limit, "longer than allowed");
        lzo::decode(&body, &mut out).expect("its own body");
        assert!(out == page, "another page came back");
    } else {
        assert!(body.is_empty(), "a refusal leaves nothing");
        assert!(limit <= BODY_BYTES_MAX, "any page fits that limit");
    }
});
