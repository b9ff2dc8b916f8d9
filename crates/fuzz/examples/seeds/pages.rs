//! Of the page streams: what the real encoder and codecs make.

use std::io::Result;
use std::path::Path;

use transhume_fuzz::pages::{BASES, key, page, split, stream_of};
use transhume_pages::codec::{delta, group::GroupEncoder, lz4_encode, lzo, wkdm};
use transhume_pages::{Decoder, PageStore};

use super::put;

/// Longest seed of frames; the target `frames` has the rest of these wires.
const WIRE_BYTES_MAX: usize = 700;

pub fn write(folder: &Path) -> Result<()> {
    streams(folder)?;
    wires(folder)?;
    answers(folder)?;
    codecs(folder)?;
    let evictions = [3, 1, 2, 3, 4, 0x81, 5, 6, 0xd0, 1, 7, 0, 0xd1, 4, 0xd2];
    put(folder, "store", "evictions", &evictions)
}

fn streams(folder: &Path) -> Result<()> {
    let with = |sizes: &[u8], stream: &[u8]| [sizes, stream].concat();
    put(
        folder,
        "stream",
        "zeros",
        &with(&[0, 9, 0], &stream_of(&[(0, None), (3, None), (4, None)])),
    )?;
    put(
        folder,
        "stream",
        "page",
        &with(&[1, 255, 3, 1, 0], &stream_of(&[(2, Some(page(3)))])),
    )?;
    let mut configured = b"QEVM\0\0\0\x03\x07\0\0\0\x03q35\x05\x12configuration/uuid\0\0\0\x01".to_vec();
    configured.extend([0x12; 16]);
    configured.extend(b"\x05\x1aconfiguration/capabilities\0\0\0\x01\0\0\0\x02\x06xbzrle\x03foo");
    configured.extend(b"\x05\x1econfiguration/target-page-bits\0\0\0\x01\0\0\0\x0c");
    configured.extend(b"\x08\0\x0b\0\x02ab");
    configured.extend(&stream_of(&[(0, None)])[16..]);
    put(
        folder,
        "stream",
        "configured",
        &with(&[2, 1, 0, 7, 0, 30, 0], &configured),
    )
}

fn wires(folder: &Path) -> Result<()> {
    for (at, base) in BASES.iter().enumerate() {
        let mut wire = base.wire.clone();
        wire.insert(0, 40);
        wire.truncate(WIRE_BYTES_MAX);
        put(folder, "decoder", base.name, &wire)?;
        let at = at as u8;
        put(folder, "frames", base.name, &[at, 20, 4])?;
        put(
            folder,
            "frames",
            &format!("{}-damaged", base.name),
            &[at, 20, 0, 8, 1, 0, 0, 2, 7, 0, 0, 1, 9, 3, 6, 2, 0],
        )?;
    }
    Ok(())
}

/// What an honest target says: about a store of its own, about pages it lacks, at acknowledgement.
fn answers(folder: &Path) -> Result<()> {
    let known = BASES
        .iter()
        .find(|base| base.name == "known")
        .expect("a base of references");
    for (name, store_pages) in [("held", 8), ("evicted", 1), ("none", 0)] {
        let mut decoder = Decoder::new(key()).expect("a decoder");
        let mut store = PageStore::new(store_pages * 4096);
        let (mut out, mut back) = (Vec::new(), vec![40]);
        for frame in split(&known.wire) {
            let head = [
                &[frame.kind][..],
                &(frame.body.len() as u32).to_le_bytes(),
                &frame.body,
            ]
            .concat();
            decoder
                .push(&mut &head[..], &mut store, &mut out, &mut back)
                .expect("decodes");
        }
        put(folder, "answers", name, &back)?;
    }
    let ids = [key().id(&page(1)).0; 2].concat();
    let need = [
        &[255, 18, 36, 0, 0, 0, 2, 0, 0, 0][..],
        &ids,
        &[19, 4, 0, 0, 0, 1, 0, 0, 0],
    ]
    .concat();
    put(folder, "answers", "need", &need)
}

fn codecs(folder: &Path) -> Result<()> {
    for kind in [0, 1, 3] {
        let name = ["pointers", "text", "noise", "sparse"][kind];
        let mut body = vec![0];
        wkdm::encode(&page(kind), usize::MAX, &mut body);
        put(folder, "wkdm", name, &body)?;
        body.truncate(1);
        lz4_encode(&page(kind), usize::MAX, &mut body);
        put(folder, "lz4", name, &body)?;
        body.truncate(1);
        lzo::encode(&page(kind), usize::MAX, &mut body);
        put(folder, "lzo", name, &body)?;
        let mut blob = Vec::new();
        GroupEncoder::new()
            .and_then(|mut zstd| zstd.encode(&page(kind).repeat(2), &mut blob))
            .expect("encodes");
        put(folder, "zstd", name, &[&[0, 2][..], &blob].concat())?;
        let round = [&[200][..], &page(kind)[..24]].concat();
        for target in ["wkdm", "lz4", "lzo", "zstd"] {
            put(folder, target, &format!("{name}-page"), &round)?;
        }
    }
    let (old, mut new, mut body) = (page(2), page(2), vec![0]);
    new[100..117].fill(9);
    new[4000..4096].fill(1);
    delta::encode(&old, &new, usize::MAX, &mut body);
    put(folder, "delta", "two-runs", &body)?;
    put(
        folder,
        "delta",
        "runs-page",
        &[40, 0, 1, 30, 0, 7, 10, 9, 255, 0, 1],
    )
}
