//! Targets of the page streams, and what they share: a cluster's key and the streams of small
//! guests.

pub mod answers;
pub mod decoder;
pub mod delta;
pub mod frames;
mod guest;
pub mod lz4;
pub mod lzo;
mod mutate;
pub mod store;
pub mod stream;
pub mod wkdm;
pub mod zstd;

use std::sync::LazyLock;

use transhume_model::ClusterName;
use transhume_pages::codec::CodecError;
use transhume_pages::limits::{FRAME_BODY_BYTES_MAX, GROUP_PAGES_MAX, OUTPUT_BYTES_MAX, PAGE_BYTES};
use transhume_pages::stream::Page;
use transhume_pages::{
    ContentKey, DecodeError, Decoder, EncodeError, Encoder, EncoderConfig, Knowledge, PageStore, Progress,
};

pub use crate::Choices;
pub use guest::{BASES, Base, SLOW, page, stream as stream_of};
pub use mutate::{Frame, damaged, split};

/// Versions kept for delta: few, so that they are evicted.
pub const VERSION_SLOTS: u32 = 8;

/// What one push of the decoder may return: its limit, and the group that crossed it.
pub const PUSH_OUTPUT_BYTES_MAX: usize =
    OUTPUT_BYTES_MAX + FRAME_BODY_BYTES_MAX + GROUP_PAGES_MAX * (PAGE_BYTES + 8 + 256);

/// The key of the cluster that all targets play.
pub fn key() -> ContentKey {
    static KEY: LazyLock<ContentKey> = LazyLock::new(|| {
        let cluster: ClusterName = "herd".parse().expect("a cluster's name");
        ContentKey::of(&cluster, b"")
    });
    KEY.clone()
}

/// All classes, few versions.
pub fn config() -> EncoderConfig {
    EncoderConfig {
        version_slots: VERSION_SLOTS,
        ..EncoderConfig::new(key())
    }
}

/// Hands bytes from the target to an encoder.
pub fn answer(
    encoder: &mut Encoder,
    bytes: &[u8],
    know: &mut Knowledge,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    encoder.answer(bytes, know, out, &mut Vec::new())
}

/// Decodes a wire in pieces, checking the bounds of each push; gives what QEMU would get, and
/// whether the end was reached.
pub fn decode(wire: &[u8], piece: usize, store_pages: u64) -> (Result<bool, DecodeError>, Vec<u8>) {
    let mut decoder = Decoder::new(key()).expect("a decoder");
    let mut store = PageStore::new(store_pages * PAGE_BYTES as u64);
    let (mut out, mut back, mut ended) = (Vec::new(), Vec::new(), false);
    let mut pieces = wire.chunks(piece.max(1));
    let mut more = false;
    loop {
        let next = if more { Some(&[][..]) } else { pieces.next() };
        let Some(bytes) = next else {
            return (Ok(ended), out);
        };
        let before = out.len();
        back.clear();
        let mut rest = bytes;
        loop {
            match decoder.push(&mut rest, &mut store, &mut out, &mut back) {
                Ok(Progress::Plain(plain)) => out.extend_from_slice(plain),
                Ok(progress) => {
                    ended |= matches!(progress, Progress::Ended(_));
                    more = progress == Progress::More;
                    break;
                }
                Err(error) => return (Err(error), out),
            }
        }
        assert!(more || rest.is_empty(), "bytes of the wire were left");
        // There are no other streams; half of the time nobody waits for them.
        if decoder.waits_for_siblings().is_some() && bytes.len().is_multiple_of(2) {
            decoder.stop_waiting_for_siblings();
            assert_eq!(decoder.waits_for_siblings(), None);
            more = true;
        }
        assert!(
            out.len() - before <= PUSH_OUTPUT_BYTES_MAX,
            "one push gave out too much"
        );
        assert!(store.pages() as u64 <= store_pages, "the store outgrew its limit");
        // Each piece here is far smaller than a frame may be: some ids asked for, and what the
        // store did.
        assert!(
            back.len() <= 64 * 1024 + bytes.len(),
            "one push sent too much back"
        );
    }
}

/// A codec of single pages, whose longest body is known: see its target.
pub fn codec(
    data: &[u8],
    encode: fn(&Page, usize, &mut Vec<u8>) -> bool,
    decode: fn(&[u8], &mut Page) -> Result<(), CodecError>,
    body_bytes_max: usize,
) {
    let mut choices = Choices(data);
    let (mut out, mut body) = ([0; PAGE_BYTES], Vec::new());
    let limit = match choices.byte() {
        0 => {
            let _ = decode(choices.0, &mut out);
            return;
        }
        limit => usize::from(limit) * 24,
    };
    let page = page_of(choices.0);
    if encode(&page, limit, &mut body) {
        assert!(body.len() < limit, "longer than allowed");
        decode(&body, &mut out).expect("its own body");
        assert!(out == page, "another page came back");
    } else {
        assert!(body.is_empty(), "a refusal leaves nothing");
        assert!(limit <= body_bytes_max, "any page fits that limit");
    }
}

/// A page made of the fuzzer's bytes: they repeat, and every repetition adds to one of its words,
/// as tables in memory do.
pub fn page_of(bytes: &[u8]) -> Page {
    let mut page = [0; PAGE_BYTES];
    if bytes.is_empty() {
        return page;
    }
    for (round, part) in page.chunks_mut(bytes.len().max(4)).enumerate() {
        let len = part.len().min(bytes.len());
        part[..len].copy_from_slice(&bytes[..len]);
        if bytes[0] & 1 == 1 {
            part[0] = part[0].wrapping_add(round as u8);
        }
    }
    page
}
