//! Any body: a page or a refusal; and every page that a codec takes comes back. First byte: which codec.
#![no_main]

use libfuzzer_sys::fuzz_target;
use transhume_pages::codec::{delta, fill_of, group, lz4_decode, lz4_encode, wkdm};

fuzz_target!(|data: &[u8]| {
    let Some((&which, body)) = data.split_first() else { return };
    let mut page = [0; 4096];
    let _decoded = match which % 4 {
        0 => wkdm::decode(body, &mut page).is_ok(),
        1 => delta::decode(body, &mut page).is_ok(),
        2 => lz4_decode(body, &mut page).is_ok(),
        _ => group::GroupDecoder::new().expect("a context").decode(body, 2, &mut Vec::new()).is_ok(),
    };
    let mut original = [0; 4096];
    for (to, from) in original.iter_mut().zip(body.iter().cycle()) {
        *to = *from;
    }
    assert_eq!(fill_of(&original).is_some(), original.iter().all(|byte| *byte == original[0]));
    let mut encoded = Vec::new();
    wkdm::encode(&original, usize::MAX, &mut encoded);
    wkdm::decode(&encoded, &mut page).expect("its own body");
    assert!(page == original);
    encoded.clear();
    lz4_encode(&original, usize::MAX, &mut encoded);
    lz4_decode(&encoded, &mut page).expect("its own body");
    assert!(page == original);
    let mut old = original;
    old[usize::from(which) * 16] ^= 1;
    encoded.clear();
    delta::encode(&old, &original, usize::MAX, &mut encoded);
    delta::decode(&encoded, &mut old).expect("its own body");
    assert!(old == original);
});
