//! The stream's syntax: any chunking, any damage, the same bytes.

mod support;

use proptest::prelude::*;
use support::{mixed, rewrite};
use transhume_pages::{Parser, PassThrough};

#[test]
fn a_whole_stream_is_understood_up_to_the_device_state() {
    let stream = mixed(3, 60, 1);
    let (out, seen, parser) = rewrite(&stream, &[usize::MAX]);
    assert!(out == stream);
    assert_eq!(seen.len(), 180);
    assert_eq!(parser.passed_through(), None);
    assert!(parser.in_device_state());
    assert_eq!(parser.blocks().count(), 3);
}

#[test]
fn one_byte_at_a_time_gives_the_same_records() {
    let stream = mixed(2, 30, 2);
    assert!(rewrite(&stream, &[1]).1 == rewrite(&stream, &[usize::MAX]).1);
}

/// Walked over in pieces, a stream is followed as well as if it were parsed.
#[test]
fn a_stream_that_is_walked_over_is_followed() {
    let stream = mixed(2, 30, 2);
    for size in [1, 7, 4096, 4104, 9001, usize::MAX] {
        let mut parser = Parser::default();
        stream.chunks(size).for_each(|piece| parser.walk(piece));
        assert!(parser.in_device_state(), "{size}");
        assert_eq!((parser.blocks().count(), parser.passed_through()), (3, None));
    }
}

#[test]
fn what_is_not_known_passes_through_with_its_reason() {
    let good = mixed(1, 5, 3);
    let word = good
        .windows(8)
        .position(|w| w == 0x200u64.to_be_bytes())
        .expect("a flush");
    let section = good
        .windows(5)
        .position(|w| w == b"\x01\0\0\0\x01")
        .expect("a section start");
    let cases: [(usize, &[u8], PassThrough); 4] = [
        (0, b"LXC!", PassThrough::Header),
        (section, b"\x09", PassThrough::SectionType(9)),
        (word, &0x40u64.to_be_bytes(), PassThrough::Flags(0x40)),
        (8, b"\x07\xff", PassThrough::Configuration),
    ];
    for (at, bytes, why) in cases {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        let (out, _, parser) = rewrite(&bad, &[7, 4096]);
        assert!(out == bad, "{why}");
        assert_eq!(parser.passed_through(), Some(why));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn chunking_changes_nothing(pieces in prop::collection::vec(1usize..9000, 1..20), seed in 1u64..1000) {
        let stream = mixed(2, 24, seed);
        let (out, seen, _) = rewrite(&stream, &pieces);
        prop_assert!(out == stream);
        prop_assert!(seen == rewrite(&stream, &[usize::MAX]).1);
    }

    #[test]
    fn damage_is_carried_byte_by_byte(
        pieces in prop::collection::vec(1usize..6000, 1..8),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        head_only in any::<bool>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut stream = mixed(2, 12, 5);
        for (at, byte) in damage {
            let len = if head_only { 400 } else { stream.len() };
            stream[at.index(len)] = byte;
        }
        stream.truncate(cut.index(stream.len()) + 1);
        let (out, _, _) = rewrite(&stream, &pieces);
        prop_assert!(out == stream);
    }

    #[test]
    fn any_bytes_are_carried(stream in prop::collection::vec(any::<u8>(), 0..3000), piece in 1usize..64) {
        let mut headed = b"QEVM\0\0\0\x03".to_vec();
        headed.extend(&stream);
        prop_assert!(rewrite(&headed, &[piece]).0 == headed);
    }
}
