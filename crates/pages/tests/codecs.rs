//! Every codec gives the page back, and refuses what is no page.

mod support;

use proptest::prelude::*;
use support::page;
use transhume_pages::codec::{delta, fill_of, group, lz4_decode, lz4_encode, lzo, wkdm};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn pages_come_back(kind in 0u64..5, seed in any::<u64>()) {
        let original = page(kind, seed);
        let mut decoded = [0xee; 4096];
        let mut body = Vec::new();
        prop_assert!(wkdm::encode(&original, usize::MAX, &mut body));
        prop_assert!(body.len() <= wkdm::BODY_BYTES_MAX);
        wkdm::decode(&body, &mut decoded).unwrap();
        prop_assert!(decoded == original);
        body.clear();
        prop_assert!(lz4_encode(&original, usize::MAX, &mut body));
        lz4_decode(&body, &mut decoded).unwrap();
        prop_assert!(decoded == original);
        body.clear();
        prop_assert!(lzo::encode(&original, usize::MAX, &mut body));
        prop_assert!(body.len() <= lzo::BODY_BYTES_MAX);
        decoded.fill(0xee);
        lzo::decode(&body, &mut decoded).unwrap();
        prop_assert!(decoded == original);
    }

    #[test]
    fn a_delta_leads_from_the_old_page_to_the_new(
        kind in 0u64..5,
        seed in any::<u64>(),
        changes in prop::collection::vec((0usize..4096, any::<u8>()), 0..200),
    ) {
        let old = page(kind, seed);
        let mut new = old;
        changes.iter().for_each(|(at, byte)| new[*at] = *byte);
        let (mut body, mut rebuilt) = (Vec::new(), old);
        prop_assert!(delta::encode(&old, &new, usize::MAX, &mut body));
        delta::decode(&body, &mut rebuilt).unwrap();
        prop_assert!(rebuilt == new);
    }

    #[test]
    fn fill_is_found_exactly(byte in any::<u8>(), at in 0usize..4096, other in any::<u8>()) {
        let mut page = [byte; 4096];
        prop_assert_eq!(fill_of(&page), Some(byte));
        page[at] = other;
        prop_assert_eq!(fill_of(&page), (byte == other).then_some(byte));
    }

    #[test]
    fn any_body_is_decoded_or_refused(body in prop::collection::vec(any::<u8>(), 0..5000)) {
        let mut page = [0; 4096];
        let _ = wkdm::decode(&body, &mut page);
        let _ = delta::decode(&body, &mut page);
        let _ = lz4_decode(&body, &mut page);
        let _ = lzo::decode(&body, &mut page);
        let _ = group::GroupDecoder::new().unwrap().decode(&body, 3, &mut Vec::new());
    }

    #[test]
    fn damaged_bodies_are_decoded_or_refused(kind in 1u64..5, seed in any::<u64>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (original, mut page_out, mut body) = (page(kind, seed), [0; 4096], Vec::new());
        wkdm::encode(&original, usize::MAX, &mut body);
        let at = at.index(body.len());
        body[at] = byte;
        let _ = wkdm::decode(&body, &mut page_out);
        prop_assert!(wkdm::decode(&body[..at], &mut page_out).is_err());
    }
}

#[test]
fn a_partial_alone_among_misses_makes_the_longest_wkdm_body() {
    // Each word's upper 22 bits are its own, but the second has the first's.
    let mut original = [0; 4096];
    for (number, word) in original.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *word = ((number as u32 + 1) << 10).to_le_bytes();
    }
    original[4..8].copy_from_slice(&(1u32 << 10 | 1).to_le_bytes());
    let (mut body, mut decoded) = (Vec::new(), [0; 4096]);
    assert!(wkdm::encode(&original, usize::MAX, &mut body));
    assert_eq!(body.len(), wkdm::BODY_BYTES_MAX);
    wkdm::decode(&body, &mut decoded).unwrap();
    assert!(decoded == original);
}

#[test]
fn a_blob_of_more_pages_than_announced_is_refused() {
    let pages = [[5u8; 4096]; 4].concat();
    let mut blob = Vec::new();
    group::GroupEncoder::new()
        .unwrap()
        .encode(&pages, &mut blob)
        .unwrap();
    let mut decoder = group::GroupDecoder::new().unwrap();
    let mut out = Vec::new();
    assert!(decoder.decode(&blob, 3, &mut out).is_err());
    assert!(decoder.decode(&blob, 5, &mut out).is_err());
    decoder.decode(&blob, 4, &mut out).unwrap();
    assert!(out == pages);
}

#[test]
fn only_the_current_zstd_format_is_decoded() {
    // One page of 9s as zstd 0.7 wrote it: magic, one segment of 256 + 3840 bytes, a run of
    // 4096, the end.
    let blob = b"\x27\xb5\x2f\xfd\x60\x00\x0f\x80\x10\x00\x09\xc0\x00\x00";
    let mut decoder = group::GroupDecoder::new().unwrap();
    assert!(decoder.decode(blob, 1, &mut Vec::new()).is_err());
}
