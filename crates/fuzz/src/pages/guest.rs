//! Streams of small guests as QEMU lays them out, and what the encoder makes of them under each
//! choice of classes.

use std::sync::LazyLock;

use transhume_pages::limits::PAGE_BYTES;
use transhume_pages::stream::Page;
use transhume_pages::{Classes, Encoder, EncoderConfig, Knowledge, PageClass};

use super::config;

/// A link slow enough for every class to pay.
pub const SLOW: Option<u64> = Some(25_000_000);

/// A page: pointers, text, noise, or nearly empty, by `kind`.
pub fn page(kind: usize) -> Page {
    let mut state = 0x9E37_79B9_7F4A_7C15u64.wrapping_mul(kind as u64 + 1) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut page = [0; PAGE_BYTES];
    match kind % 4 {
        0 => page.chunks_exact_mut(8).step_by(3).for_each(|word| {
            word.copy_from_slice(&(0xffff_8880_0000_0000 | (next() & 0xff8)).to_le_bytes());
        }),
        1 => page
            .iter_mut()
            .for_each(|byte| *byte = b"the quick brown fox "[(next() % 20) as usize]),
        2 => page.iter_mut().for_each(|byte| *byte = next() as u8),
        _ => page[1024..1040].copy_from_slice(b"one line of text"),
    }
    page
}

/// A stream of one block: configuration, block list, the pages (None: a zero record), device state.
pub fn stream(pages: &[(u64, Option<Page>)]) -> Vec<u8> {
    let mut out = b"QEVM\0\0\0\x03\x07\0\0\0\x03q35".to_vec();
    out.extend(b"\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04");
    out.extend((0x10000u64 | 0x04).to_be_bytes());
    out.extend(b"\x03ram");
    out.extend(0x10000u64.to_be_bytes());
    for (at, (number, page)) in pages.iter().enumerate() {
        let kind: u64 = if page.is_some() { 0x08 } else { 0x02 };
        let continued: u64 = if at > 0 { 0x20 } else { 0 };
        out.extend(((number % 16 * PAGE_BYTES as u64) | kind | continued).to_be_bytes());
        if at == 0 {
            out.extend(b"\x03ram");
        }
        out.extend(page.as_ref().map_or(&[0u8][..], |page| &page[..]));
    }
    out.extend(0x10u64.to_be_bytes());
    out.extend(b"\x7e\0\0\0\x02\x04\0\0\0\x02\x05timer\0\0\0\0\0\0\0\x02device state\0");
    out
}

/// A guest's stream and the encoder's frames for it.
pub struct Base {
    /// What the classes are called that it shows.
    pub name: &'static str,
    /// QEMU's bytes.
    pub stream: Vec<u8>,
    /// The frames.
    pub wire: Vec<u8>,
    /// The pages in it.
    pub pages: Vec<Page>,
}

fn base(name: &'static str, classes: Classes, pages: &[(u64, Option<Page>)]) -> Base {
    both_ways(name, classes, pages, SLOW)
}

/// The second half over a link of its own rate: a fast one gets it as it is.
fn both_ways(
    name: &'static str,
    classes: Classes,
    pages: &[(u64, Option<Page>)],
    second_link: Option<u64>,
) -> Base {
    let stream = stream(pages);
    let config = EncoderConfig {
        classes,
        plain_after_bytes: 0,
        ..config()
    };
    let mut encoder = Encoder::new(config).expect("an encoder");
    encoder.link_rate(SLOW);
    let (mut know, mut wire) = (Knowledge::default(), Vec::new());
    // Two halves with a pause between them: two groups.
    let (first, second) = stream.split_at(stream.len() * 2 / 3);
    for half in [first, second] {
        encoder.push(half, &mut know, &mut wire).expect("encodes");
        encoder.flush(&mut wire).expect("encodes");
        encoder.link_rate(second_link);
        // An empty push changes the way.
        encoder.push(&[], &mut know, &mut wire).expect("encodes");
    }
    encoder.finish(&mut wire).expect("encodes");
    Base {
        name,
        stream,
        wire,
        pages: pages.iter().filter_map(|(_, page)| *page).collect(),
    }
}

/// One stream per class, and one of all.
pub static BASES: LazyLock<Vec<Base>> = LazyLock::new(|| {
    let only = |class| Classes::none().with(class);
    let mut changed = page(0);
    changed[100..117].fill(9);
    let twice = [(0, Some(page(0))), (1, Some(page(1))), (0, Some(changed))];
    let same = [
        (0, Some(page(1))),
        (1, Some(page(3))),
        (2, Some(page(1))),
        (3, Some(page(3))),
    ];
    let fills = [
        (0, None),
        (1, Some([7; PAGE_BYTES])),
        (2, None),
        (5, Some([7; PAGE_BYTES])),
    ];
    vec![
        base("raw", Classes::none(), &[(0, Some(page(2)))]),
        base("fill", only(PageClass::Fill), &fills),
        base("known", only(PageClass::Known).with(PageClass::Lz4), &same),
        base("delta", only(PageClass::Delta).with(PageClass::Lz4), &twice),
        base(
            "wkdm",
            only(PageClass::Wkdm),
            &[(0, Some(page(0))), (1, Some(page(3)))],
        ),
        base(
            "lz4",
            only(PageClass::Lz4),
            &[(0, Some(page(1))), (1, Some(page(3)))],
        ),
        base(
            "lzo",
            only(PageClass::Lzo),
            &[(0, Some(page(1))), (1, Some(page(3)))],
        ),
        both_ways("plain", only(PageClass::Known).with(PageClass::Lz4), &same, None),
        base("zstd", only(PageClass::Zstd), &twice),
        base(
            "all",
            Classes::default(),
            &[&fills[..2], &same[..3], &twice[2..]].concat(),
        ),
    ]
});
