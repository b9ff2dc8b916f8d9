//! Any frames after an honest hello: rebuilt, waited for or refused, within bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transhume_model::ClusterName;
use transhume_pages::{ContentKey, Decoder, Encoder, EncoderConfig, PageStore};

fuzz_target!(|data: &[u8]| {
    let cluster: ClusterName = "herd".parse().expect("a cluster's name");
    let key = ContentKey::of(&cluster, b"");
    let config = EncoderConfig { version_slots: 8, ..EncoderConfig::new(key.clone()) };
    let mut wire = Vec::new();
    Encoder::new(config).expect("an encoder").flush(&mut wire).expect("greets");
    wire.extend_from_slice(data);
    let mut decoder = Decoder::new(key).expect("a decoder");
    let (mut store, mut out, mut back) = (PageStore::new(8 * 4096), Vec::new(), Vec::new());
    for piece in wire.chunks(777) {
        out.clear();
        back.clear();
        if decoder.push(piece, &mut store, &mut out, &mut back).is_err() {
            return;
        }
        assert!(store.pages() <= 8);
    }
});
