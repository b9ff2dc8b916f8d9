//! What a peer may say that is not so: refused by name, at once and without keeping it.

mod support;

use proptest::prelude::*;
use support::{config, key, mixed, push};
use transhume_pages::{
    DecodeError, Decoder, EncodeError, Encoder, EncoderConfig, Knowledge, PageClass, PageStore,
};

const SLOW: Option<u64> = Some(25_000_000);

fn encoded(stream: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(config()).expect("an encoder");
    encoder.link_rate(SLOW);
    let mut wire = Vec::new();
    encoder
        .push(stream, &mut Knowledge::default(), &mut wire)
        .expect("encodes");
    encoder.finish(&mut wire).expect("encodes");
    wire
}

fn decode(wire: &[u8]) -> (Result<(), DecodeError>, Vec<u8>) {
    let mut decoder = Decoder::new(key("herd")).expect("a decoder");
    let (mut out, mut store, mut back) = (Vec::new(), PageStore::new(1 << 20), Vec::new());
    let pushed = wire
        .chunks(4000)
        .try_for_each(|piece| push(&mut decoder, piece, &mut store, &mut out, &mut back).map(drop));
    (pushed.and_then(|()| decoder.finish().map(drop)), out)
}

#[test]
fn another_cluster_is_refused() {
    let mut wire = Vec::new();
    Encoder::new(config())
        .expect("an encoder")
        .flush(&mut wire)
        .expect("encodes");
    let mut other = Decoder::new(key("other")).expect("a decoder");
    let refused = other.push(&mut &wire[..], &mut PageStore::new(0), &mut vec![], &mut vec![]);
    assert_eq!(refused, Err(DecodeError::Hello("it is of another cluster")));
    let page = [3; 4096];
    assert_ne!(key("other").id(&page), key("herd").id(&page));
}

#[test]
fn an_early_end_is_an_error() {
    let wire = encoded(&mixed(1, 30, 7));
    assert_eq!(decode(&wire).0, Ok(()));
    assert_eq!(decode(&wire[..wire.len() - 1]).0, Err(DecodeError::Early));
}

#[test]
fn a_huge_length_is_refused_before_anything_is_kept() {
    let mut wire = encoded(&mixed(1, 4, 7))[..39].to_vec();
    wire.extend([2, 0xff, 0xff, 0xff, 0x7f]);
    assert_eq!(decode(&wire).0, Err(DecodeError::FrameLength(0x7fff_ffff)));
}

/// A frame as it stands on the wire.
fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32).to_le_bytes(), body].concat()
}

#[test]
fn a_page_is_supplied_once_for_each_reference() {
    let (page, mut know) = (support::page(3, 1), Knowledge::default());
    let id = key("herd").id(&page);
    know.held(id);
    let mut encoder = Encoder::new(config()).expect("an encoder");
    encoder.link_rate(SLOW);
    let rounds = [vec![(0, 0, Some(page))], vec![(0, 1, Some(page))]];
    let mut wire = Vec::new();
    encoder
        .push(&support::stream(&rounds), &mut know, &mut wire)
        .expect("encodes");
    encoder.flush(&mut wire).expect("encodes");
    assert_eq!(encoder.account().class(PageClass::Known).pages, 2);
    let need = framed(18, &[&1u32.to_le_bytes()[..], &id.0].concat());
    let mut supplied = Vec::new();
    for expected in [Ok(()), Ok(()), Err(EncodeError::Need)] {
        assert_eq!(
            encoder.answer(&need, &mut know, &mut supplied, &mut Vec::new()),
            expected
        );
    }
    assert_eq!(supplied.len(), 2 * (5 + 16 + 4096));
}

#[test]
fn a_list_of_more_ids_than_allowed_is_refused() {
    let mut know = Knowledge::default();
    let mut encoder = Encoder::new(config()).expect("an encoder");
    for (ids, expected) in [(4096u32, Ok(())), (4097, Err(EncodeError::Frame(16)))] {
        let list = [&ids.to_le_bytes()[..], &vec![7; ids as usize * 16]].concat();
        let answered = encoder.answer(&framed(16, &list), &mut know, &mut vec![], &mut vec![]);
        assert_eq!(answered, expected);
    }
}

#[test]
fn empty_frames_behind_a_group_that_waits_are_bounded() {
    let (stream, mut know) = (mixed(1, 4, 7), Knowledge::default());
    let mut store = PageStore::new(0);
    let config = EncoderConfig {
        window_bytes_max: 0,
        ..config()
    };
    for page in 0..4 {
        know.held(key("herd").id(&support::page(page, 0)));
    }
    let mut encoder = Encoder::new(config).expect("an encoder");
    encoder.link_rate(SLOW);
    let mut wire = Vec::new();
    encoder.push(&stream, &mut know, &mut wire).expect("encodes");
    encoder.flush(&mut wire).expect("encodes");
    let mut decoder = Decoder::new(key("herd")).expect("a decoder");
    let mut push = |bytes: &[u8]| push(&mut decoder, bytes, &mut store, &mut vec![], &mut vec![]).map(drop);
    assert_eq!(push(&wire), Ok(()));
    let frames = framed(2, &[]).repeat(1000);
    let refused = (0..100).find_map(|_| push(&frames).err());
    assert_eq!(refused, Some(DecodeError::Window));
}

#[test]
fn a_plain_frame_out_of_its_turn_or_cut_is_refused() {
    let greeting = encoded(&[])[..39].to_vec();
    for (frame, error) in [
        (
            framed(6, &[1, 0, 0, 0, 9]),
            DecodeError::GroupNumber { got: 1, expected: 0 },
        ),
        (framed(6, &[0, 0, 0]), DecodeError::Truncated),
        (framed(6, &[0, 0, 0, 0, 9])[..9].to_vec(), DecodeError::Early),
    ] {
        assert_eq!(decode(&[&greeting[..], &frame].concat()).0, Err(error));
    }
    assert_eq!(decode(&framed(6, &[0, 0, 0, 0, 9])).0, Err(DecodeError::Order(6)));
    let ended = [&encoded(&[])[..], &framed(6, &[0, 0, 0, 0, 9])].concat();
    assert_eq!(decode(&ended).0, Err(DecodeError::AfterEnd));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn damaged_frames_never_end_well(at in any::<prop::sample::Index>(), flip in 1u8..=255, early in any::<bool>()) {
        let stream = mixed(2, 40, 11);
        let mut wire = encoded(&stream);
        let len = if early { 600 } else { wire.len() };
        wire[at.index(len)] ^= flip;
        let (result, out) = decode(&wire);
        // A flip that changes no byte of the result (an unused bit, an id's version slots) may
        // pass; a wrong byte may not.
        prop_assert!(result.is_err() || out == stream);
    }

    #[test]
    fn any_frames_are_refused_or_wait(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut wire = Vec::new();
        Encoder::new(config()).unwrap().flush(&mut wire).unwrap();
        wire.extend(bytes);
        prop_assert!(decode(&wire).0.is_err());
    }

    #[test]
    fn any_answer_is_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..500), kind in 16u8..21) {
        let mut encoder = Encoder::new(config()).unwrap();
        let mut frame = vec![kind];
        frame.extend((bytes.len() as u32).to_le_bytes());
        frame.extend(bytes);
        let _ = encoder.answer(&frame, &mut Knowledge::default(), &mut Vec::new(), &mut Vec::new());
    }
}
