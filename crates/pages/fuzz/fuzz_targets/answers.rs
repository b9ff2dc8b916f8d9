//! Any bytes from the target: the source takes or refuses them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transhume_model::ClusterName;
use transhume_pages::{ContentKey, Encoder, EncoderConfig, Knowledge};

fuzz_target!(|data: &[u8]| {
    let cluster: ClusterName = "herd".parse().expect("a cluster's name");
    let config = EncoderConfig { version_slots: 8, ..EncoderConfig::new(ContentKey::of(&cluster, b"")) };
    let mut encoder = Encoder::new(config).expect("an encoder");
    let (mut know, mut out) = (Knowledge::default(), Vec::new());
    encoder.push(b"QEVM\0\0\0\x03", &mut know, &mut out).expect("encodes");
    encoder.flush(&mut out).expect("encodes");
    let _ = encoder.answer(data, &mut know, &mut out, &mut Vec::new());
});
