//! Both ends joined: the target's bytes are the source's, whatever the classes and the store.

mod support;

use proptest::prelude::*;
use support::{Pair, config, key, mixed};
use transhume_pages::{Classes, Encoder, EncoderConfig, Knowledge, PageClass, PageStore};

const SLOW: Option<u64> = Some(25_000_000);
const SWITCHED: [PageClass; 7] = [
    PageClass::Fill,
    PageClass::Known,
    PageClass::Delta,
    PageClass::Wkdm,
    PageClass::Lz4,
    PageClass::Zstd,
    PageClass::Lzo,
];

#[test]
fn every_combination_of_classes_is_byte_identical() {
    let stream = mixed(3, 60, 7);
    for bits in 0u32..128 {
        let classes = SWITCHED
            .iter()
            .enumerate()
            .filter(|(at, _)| bits >> at & 1 == 1)
            .fold(Classes::none(), |classes, (_, class)| classes.with(*class));
        for link in [SLOW, None] {
            let mut pair = Pair::new(EncoderConfig { classes, ..config() }, link);
            pair.run(&stream, &mut Knowledge::default(), &mut PageStore::new(1 << 20))
                .expect("decodes");
            assert!(
                pair.ended && pair.out == stream,
                "classes {bits:07b}, link {link:?}"
            );
            let account = pair.encoder.account();
            for class in SWITCHED.into_iter().filter(|class| !classes.allow(*class)) {
                assert_eq!(account.class(class).pages, 0, "{class:?} is off");
            }
            assert_eq!(
                PageClass::ALL
                    .iter()
                    .map(|class| account.class(*class).pages)
                    .sum::<u64>(),
                180
            );
        }
    }
}

#[test]
fn a_second_guest_of_the_same_image_costs_little() {
    let stream = mixed(1, 60, 7);
    let (mut know, mut store) = (Knowledge::default(), PageStore::new(1 << 20));
    let first = Pair::new(config(), SLOW)
        .run(&stream, &mut know, &mut store)
        .expect("decodes");
    let mut second = Pair::new(config(), SLOW);
    // The device state, which nothing compresses, is not what is compared.
    let state = 120_000;
    let again = second.run(&stream, &mut know, &mut store).expect("decodes");
    assert!(second.out == stream);
    assert!(again - state < (first - state) / 5, "{first} then {again}");
    assert_eq!(second.encoder.account().supplied_pages, 0);
}

#[test]
fn a_rewritten_page_travels_as_a_delta() {
    let stream = mixed(3, 60, 9);
    let mut pair = Pair::new(config(), SLOW);
    pair.run(&stream, &mut Knowledge::default(), &mut PageStore::new(1 << 20))
        .expect("decodes");
    let delta = pair.encoder.account().class(PageClass::Delta);
    assert!(
        delta.pages > 20 && delta.wire_bytes / delta.pages < 200,
        "{delta:?}"
    );
}

/// In batches of four both agents hashed the last pages while all guests stood still.
#[test]
fn the_last_pages_of_a_guest_that_stands_still_are_hashed_by_nobody() {
    let stream = mixed(3, 60, 9);
    let (mut know, mut store) = (Knowledge::default(), PageStore::new(1 << 20));
    let mut pair = Pair::new(config(), SLOW);
    let (copied, last) = stream.split_at(stream.len() / 2);
    let mut wire = Vec::new();
    pair.encoder.push(copied, &mut know, &mut wire).unwrap();
    pair.encoder.flush(&mut wire).unwrap();
    pair.carry(std::mem::take(&mut wire), &mut know, &mut store)
        .unwrap();
    let (entered, before) = (store.entered(), pair.encoder.account());
    assert!(entered > 0);
    pair.encoder.hurry(true);
    pair.encoder.push(last, &mut know, &mut wire).unwrap();
    pair.encoder.finish(&mut wire).unwrap();
    pair.carry(wire, &mut know, &mut store).unwrap();
    assert!(pair.ended && pair.out == stream);
    assert_eq!(store.entered(), entered);
    let since = |class| pair.encoder.account().class(class).pages - before.class(class).pages;
    assert_eq!(since(PageClass::Known), 0);
    assert!(since(PageClass::Delta) > 20, "versions are kept on both sides");
}

#[test]
fn pages_gone_from_the_store_are_asked_for_again() {
    let stream = mixed(2, 60, 7);
    let mut know = Knowledge::default();
    Pair::new(config(), SLOW)
        .run(&stream, &mut know, &mut PageStore::new(1 << 20))
        .expect("decodes");
    let mut pair = Pair::new(config(), SLOW);
    // The sender's knowledge is of a store that another target process had; the news arrives too
    // late for the first push.
    let mut wire = Vec::new();
    pair.encoder.push(&stream, &mut know, &mut wire).expect("encodes");
    pair.encoder.finish(&mut wire).expect("encodes");
    pair.carry(wire, &mut know, &mut PageStore::new(4 * 4096))
        .expect("decodes");
    assert!(pair.ended && pair.out == stream);
    assert!(pair.encoder.account().supplied_pages > 20);
}

#[test]
fn a_tiny_store_and_no_store_are_only_slower() {
    let stream = mixed(2, 60, 7);
    for pages in [0u64, 1, 3] {
        let mut pair = Pair::new(config(), SLOW);
        pair.run(
            &stream,
            &mut Knowledge::default(),
            &mut PageStore::new(pages * 4096),
        )
        .expect("decodes");
        assert!(pair.ended && pair.out == stream, "{pages} pages");
    }
}

#[test]
fn two_sources_share_one_targets_store() {
    let stream = mixed(1, 60, 7);
    let mut store = PageStore::new(1 << 20);
    let (mut know_a, mut know_b) = (Knowledge::default(), Knowledge::default());
    Pair::new(config(), SLOW)
        .run(&stream, &mut know_a, &mut store)
        .expect("decodes");
    let mut second = Pair::new(config(), SLOW);
    let mut wire = Vec::new();
    second.encoder.flush(&mut wire).expect("encodes");
    second.carry(wire, &mut know_b, &mut store).expect("greets");
    assert_eq!(
        know_b.count(),
        store.pages(),
        "the second source was told what the first one brought"
    );
    second.run(&stream, &mut know_b, &mut store).expect("decodes");
    assert!(second.out == stream);
    let fresh = [PageClass::Raw, PageClass::Lz4, PageClass::Wkdm, PageClass::Zstd];
    assert_eq!(
        fresh
            .iter()
            .map(|class| second.encoder.account().class(*class).pages)
            .sum::<u64>(),
        0
    );
}

/// Two guests of one image leave together: the second refers to what the first has only just sent.
#[test]
fn a_page_on_its_way_in_another_stream_is_waited_for_and_not_sent_twice() {
    let stream = mixed(1, 60, 7);
    let (mut know, mut store) = (Knowledge::default(), PageStore::new(1 << 20));
    let mut wires = [Vec::new(), Vec::new()];
    let mut pairs = [(); 2].map(|()| Pair::new(config(), SLOW));
    for (pair, wire) in pairs.iter_mut().zip(&mut wires) {
        pair.may_wait = true;
        pair.encoder.push(&stream, &mut know, wire).expect("encodes");
        pair.encoder.finish(wire).expect("encodes");
    }
    let [first, second] = &mut pairs;
    let [wire_of_first, wire_of_second] = wires;
    // The second one's frames overtake the first one's.
    second
        .carry(wire_of_second, &mut know, &mut store)
        .expect("waits");
    assert!(!second.ended && second.decoder.waits_for_siblings().is_some());
    first
        .carry(wire_of_first, &mut know, &mut store)
        .expect("decodes");
    assert!(first.ended);
    second.carry(Vec::new(), &mut know, &mut store).expect("decodes");
    assert!(second.ended && second.out == stream);
    assert_eq!(second.encoder.account().supplied_pages, 0);
    let sent = [&*first, &*second].map(|pair| pair.encoder.account().wire_bytes - 120_000);
    assert!(sent[1] < sent[0] / 5, "{sent:?}");
}

#[test]
fn a_promise_that_is_not_kept_is_asked_for_and_no_other_is_counted_on() {
    let stream = mixed(2, 60, 7);
    let (mut know, mut store) = (Knowledge::default(), PageStore::new(1 << 20));
    let mut lost = Vec::new();
    let mut broken = Pair::new(config(), SLOW);
    broken
        .encoder
        .push(&stream, &mut know, &mut lost)
        .expect("encodes");
    // Nothing of it arrives. The next stream runs into that once.
    let mut pair = Pair::new(config(), SLOW);
    pair.run(&stream, &mut know, &mut store).expect("decodes");
    assert!(pair.ended && pair.out == stream);
    let supplied = pair.encoder.account().supplied_pages;
    assert!((1..=64).contains(&supplied), "{supplied}: one group's worth");

    // A stream whose promises were taken back is not counted on at all.
    let mut know = Knowledge::default();
    let mut broken = Pair::new(config(), SLOW);
    broken
        .encoder
        .push(&stream, &mut know, &mut lost)
        .expect("encodes");
    know.forget_promises();
    let mut pair = Pair::new(config(), SLOW);
    pair.run(&stream, &mut know, &mut PageStore::new(1 << 20))
        .expect("decodes");
    assert_eq!(pair.encoder.account().supplied_pages, 0);
}

#[test]
fn the_window_closes_without_acknowledgements() {
    let stream = mixed(4, 60, 7);
    let mut encoder = Encoder::new(EncoderConfig {
        window_bytes_max: 100_000,
        ..config()
    })
    .expect("an encoder");
    encoder
        .push(&stream, &mut Knowledge::default(), &mut vec![])
        .expect("encodes");
    assert!(!encoder.ready());
}

/// The way changes whenever the link's rate asks for it.
fn at_once() -> EncoderConfig {
    EncoderConfig {
        plain_after_bytes: 0,
        ..config()
    }
}

#[test]
fn a_fast_link_gets_the_bytes_as_they_are() {
    let stream = mixed(3, 60, 7);
    let mut pair = Pair::new(at_once(), None);
    let wire = pair
        .run(&stream, &mut Knowledge::default(), &mut PageStore::new(1 << 20))
        .expect("decodes");
    assert!(pair.ended && pair.out == stream);
    let account = pair.encoder.account();
    assert!(wire < stream.len() as u64 + 1000, "{wire}");
    assert!(
        account.plain_fast_link_bytes > stream.len() as u64 - 25_000,
        "{account:?}"
    );
    assert_eq!(
        (account.way_changes, account.stream_bytes),
        (1, stream.len() as u64)
    );
    assert_eq!(pair.encoder.behind_bytes(), 0, "all of it was acknowledged");
}

#[test]
fn what_is_not_understood_goes_as_it_is_over_any_link() {
    let stream = vec![7; 100_000];
    let mut pair = Pair::new(config(), SLOW);
    pair.run(&stream, &mut Knowledge::default(), &mut PageStore::new(1 << 20))
        .expect("decodes");
    assert!(pair.out == stream);
    let account = pair.encoder.account();
    assert!(account.plain_not_understood_bytes > 70_000, "{account:?}");
    assert_eq!(account.plain_fast_link_bytes, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Both ways in turn, at any byte of the stream; pages that the target was thought to hold, and
    /// that plain bytes overtake while they are asked for, stay in order.
    #[test]
    fn the_way_may_change_at_any_byte(
        pieces in prop::collection::vec((1usize..9000, 0u8..4), 1..40),
        thought_held in any::<bool>(),
        seed in 1u64..1000,
    ) {
        let stream = mixed(3, 40, seed);
        let (mut know, mut store) = (Knowledge::default(), PageStore::new(0));
        if thought_held {
            (0..40).for_each(|number| know.held(key("herd").id(&support::page(number % 12, number / 12))));
        }
        let mut pair = Pair::new(at_once(), SLOW);
        let (mut rest, mut wire) = (&stream[..], Vec::new());
        for (size, way) in pieces.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(size.min(rest.len()));
            rest = later;
            pair.encoder.link_rate(if way % 2 == 0 { SLOW } else { None });
            pair.encoder.hurry(size % 2 == 0);
            let (left, right) = now.split_at(now.len() / 3);
            match pair.encoder.plain(&[left, right]) {
                Some(head) => wire.extend([&head[..], now].concat()),
                None => pair.encoder.push(now, &mut know, &mut wire).unwrap(),
            }
            if way > 1 {
                pair.carry(std::mem::take(&mut wire), &mut know, &mut store).unwrap();
            }
        }
        pair.encoder.finish(&mut wire).unwrap();
        pair.carry(wire, &mut know, &mut store).unwrap();
        prop_assert!(pair.ended && pair.out == stream);
        let account = pair.encoder.account();
        prop_assert_eq!(account.stream_bytes, stream.len() as u64);
        prop_assert!(pair.encoder.settled());
    }
}

/// A VM is stopped when its target is close behind: the encoder says how far that is.
#[test]
fn what_the_target_has_rebuilt_is_not_behind() {
    let (mut know, mut store) = (Knowledge::default(), PageStore::new(1 << 20));
    let mut pair = Pair::new(config(), SLOW);
    let mut wire = Vec::new();
    let stream = mixed(1, 60, 7);
    pair.encoder.push(&stream, &mut know, &mut wire).expect("encodes");
    pair.encoder.flush(&mut wire).expect("encodes");
    assert!(
        pair.encoder.behind_bytes() > wire.len() as u64 / 2,
        "nothing was acknowledged"
    );
    pair.carry(wire, &mut know, &mut store).expect("decodes");
    assert_eq!(pair.encoder.behind_bytes(), 0);
}
