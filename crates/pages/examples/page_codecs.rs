//! Speed and size of every step on the pages of real guests, one core, beside a plain copy.
//!
//! `cargo run --release -p transhume-pages --example page_codecs -- first.stream [second.stream]`,
//! where a stream is what QEMU's `migrate` wrote. The second shows what dedup leaves of another
//! guest of the same image.
#![allow(clippy::disallowed_methods, reason = "reads files, measures times")]

use std::hint::black_box;
use std::time::Instant;

use transhume_model::ClusterName;
use transhume_pages::chooser::page_profile;
use transhume_pages::codec::{fill_of, group, lz4_decode, lz4_encode, lzo, wkdm};
use transhume_pages::limits::PAGE_BYTES;
use transhume_pages::stream::Page;
use transhume_pages::{
    ContentKey, Decoder, Encoder, EncoderConfig, Knowledge, PageClass, PageStore, Parser, Progress, Token,
};

const CHUNK_BYTES: usize = 1 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let streams = std::env::args()
        .skip(1)
        .map(std::fs::read)
        .collect::<Result<Vec<_>, _>>()?;
    let first = streams.first().ok_or("give the file of a migration stream")?;
    let key = ContentKey::of(&"bench".parse::<ClusterName>()?, b"");
    let pages = pages_of(first);
    println!("{} pages in {} bytes", pages.len(), first.len());
    steps(&pages, &key)?;
    for link in [None, Some(125_000_000), Some(25_000_000)] {
        let (mut know, mut store) = (Knowledge::default(), PageStore::new(256 << 20));
        for (at, stream) in streams.iter().enumerate() {
            println!("-- link {link:?} bytes/s, guest {at}");
            whole(stream, link, &key, &mut know, &mut store)?;
        }
    }
    Ok(())
}

fn pages_of(stream: &[u8]) -> Vec<Page> {
    let mut pages = Vec::new();
    Parser::default().push(stream, |token, _| {
        if let Token::Page { data, .. } = token {
            pages.push(*data);
        }
    });
    pages
}

/// Best of five, in GB of pages per second.
fn time(name: &str, pages: usize, wire_bytes: usize, mut run: impl FnMut()) {
    let best = (0..5)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .min()
        .unwrap_or_default();
    let bytes = (pages * PAGE_BYTES) as f64;
    println!(
        "{name:<16} {:>7.2} GB/s  size {:.3}",
        bytes / best.as_secs_f64() / 1e9,
        wire_bytes as f64 / bytes
    );
}

fn steps(pages: &[Page], key: &ContentKey) -> Result<(), Box<dyn std::error::Error>> {
    let n = pages.len();
    let mut target = [0; PAGE_BYTES];
    time("copy", n, n * PAGE_BYTES, || {
        pages
            .iter()
            .for_each(|page| target.copy_from_slice(black_box(page)))
    });
    time("fill", n, 0, || {
        pages.iter().for_each(|page| {
            let _ = black_box(fill_of(page));
        })
    });
    time("profile", n, 0, || {
        pages.iter().for_each(|page| {
            let _ = black_box(page_profile(page));
        })
    });
    time("blake3 id", n, n * 16, || {
        pages.iter().for_each(|page| {
            let _ = black_box(key.id(page));
        })
    });
    type Encode = fn(&Page, usize, &mut Vec<u8>) -> bool;
    type Decode = fn(&[u8], &mut Page) -> Result<(), transhume_pages::codec::CodecError>;
    let codecs: [(&str, Encode, Decode); 3] = [
        ("wkdm", wkdm::encode, wkdm::decode),
        ("lz4", lz4_encode, lz4_decode),
        ("lzo", lzo::encode, lzo::decode),
    ];
    for (name, encode, decode) in codecs {
        let bodies: Vec<Vec<u8>> = pages
            .iter()
            .map(|page| {
                let mut body = Vec::new();
                encode(page, usize::MAX, &mut body);
                body
            })
            .collect();
        let size = bodies.iter().map(|body| body.len().min(PAGE_BYTES)).sum();
        let mut body = Vec::with_capacity(2 * PAGE_BYTES);
        time(&format!("{name} encode"), n, size, || {
            pages.iter().for_each(|page| {
                body.clear();
                encode(page, usize::MAX, &mut body);
            })
        });
        time(&format!("{name} decode"), n, size, || {
            bodies.iter().for_each(|body| {
                let _ = black_box(decode(body, &mut target));
            });
        });
    }
    zstd_steps(pages)
}

fn zstd_steps(pages: &[Page]) -> Result<(), Box<dyn std::error::Error>> {
    let mut encoder = group::GroupEncoder::new()?;
    let mut decoder = group::GroupDecoder::new()?;
    for size in [1, 64] {
        let plain: Vec<Vec<u8>> = pages.chunks_exact(size).map(|group| group.concat()).collect();
        let mut blobs = vec![Vec::new(); plain.len()];
        for (group, blob) in plain.iter().zip(&mut blobs) {
            encoder.encode(group, blob)?;
        }
        let wire = blobs.iter().map(Vec::len).sum();
        let mut out = Vec::new();
        time(&format!("zstd x{size} encode"), plain.len() * size, wire, || {
            plain.iter().for_each(|group| {
                let _ = black_box(encoder.encode(group, &mut out));
            });
        });
        time(&format!("zstd x{size} decode"), plain.len() * size, wire, || {
            blobs.iter().for_each(|blob| {
                let _ = black_box(decoder.decode(blob, size, &mut out));
            });
        });
    }
    Ok(())
}

/// The whole path, encoder and decoder in one thread; their times apart.
fn whole(
    stream: &[u8],
    link: Option<u64>,
    key: &ContentKey,
    know: &mut Knowledge,
    store: &mut PageStore,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut encoder = Encoder::new(EncoderConfig::new(key.clone()))?;
    let mut decoder = Decoder::new(key.clone())?;
    encoder.link_rate(link);
    let (mut encode, mut decode) = (std::time::Duration::ZERO, std::time::Duration::ZERO);
    let mut at = 0;
    let (mut wire, mut out, mut back) = (Vec::new(), Vec::new(), Vec::new());
    for (number, chunk) in stream.chunks(CHUNK_BYTES).map(Some).chain([None]).enumerate() {
        let start = Instant::now();
        match chunk {
            Some(chunk) => encoder.push(chunk, know, &mut wire)?,
            None => encoder.finish(&mut wire)?,
        }
        let took = start.elapsed();
        encode += took;
        if number > 0 {
            encoder.took(took.as_nanos() as u64);
        }
        while !wire.is_empty() {
            let (mut rest, mut more) = (&wire[..], true);
            while more {
                let start = Instant::now();
                let progress = decoder.push(&mut rest, store, &mut out, &mut back)?;
                decode += start.elapsed();
                let plain: &[u8] = if let Progress::Plain(bytes) = progress {
                    bytes
                } else {
                    &[]
                };
                for part in [&out[..], plain] {
                    if stream.get(at..at + part.len()) != Some(part) {
                        return Err("the target's bytes differ".into());
                    }
                    at += part.len();
                }
                out.clear();
                more = matches!(progress, Progress::More | Progress::Plain(_));
            }
            wire.clear();
            encoder.answer(&back, know, &mut wire, &mut Vec::new())?;
            back.clear();
        }
    }
    decoder.finish()?;
    let account = encoder.account();
    let rate = |time: std::time::Duration| stream.len() as f64 / time.as_secs_f64() / 1e9;
    println!(
        "{} -> {} bytes ({:.3}), encode {:.2} GB/s, decode {:.2} GB/s, supplied {}",
        account.stream_bytes,
        account.wire_bytes,
        account.wire_bytes as f64 / account.stream_bytes as f64,
        rate(encode),
        rate(decode),
        account.supplied_pages
    );
    for class in PageClass::ALL {
        let count = account.class(class);
        println!(
            "   {:<6} {:>7} pages {:>10} bytes",
            class.name(),
            count.pages,
            count.wire_bytes
        );
    }
    Ok(())
}
