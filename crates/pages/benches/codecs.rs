//! One core's speed on guest pages, by class and step:
//! `PAGES_FILE=guest.mem cargo bench -p transhume-pages`.
//!
//! The file is a guest's memory as it is (QMP `pmemsave`); zero pages, which QEMU sends as zero
//! records, are left out. Without a file the pages are made from a seed, which is printed. Beside
//! them: a plain copy, and LZ4 and zstd of single pages as their libraries offer them. All rates
//! are of plain pages, also where the step reads compressed ones. Time is the thread's processor
//! time, so that other work on the machine is not counted (it still takes its share of the caches).
#![allow(clippy::disallowed_methods, reason = "reads the file that is named")]

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};
use transhume_model::ClusterName;
use transhume_pages::ContentKey;
use transhume_pages::chooser::page_profile;
use transhume_pages::codec::{CodecError, delta, fill_of, group, lz4_decode, lz4_encode, lzo, wkdm};
use transhume_pages::limits::{GROUP_PAGES_MAX, PAGE_BYTES};
use transhume_pages::stream::Page;

/// Pages measured, spread over the file: more than fits the caches nearest to the core.
const PAGES_MAX: usize = 4096;
const SEED: u64 = 2026;

/// Processor time of this thread.
struct ThreadTime;

impl Measurement for ThreadTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
    }

    fn end(&self, started: Duration) -> Duration {
        self.start() - started
    }

    fn add(&self, first: &Duration, second: &Duration) -> Duration {
        *first + *second
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// A page of zeros, text, pointers or noise.
fn generated(kind: usize, random: &mut u64) -> Page {
    let mut page = [0; PAGE_BYTES];
    match kind % 4 {
        0 => {}
        1 => page
            .iter_mut()
            .for_each(|byte| *byte = b"the quick brown fox "[(xorshift(random) % 20) as usize]),
        2 => page.chunks_exact_mut(8).for_each(|word| {
            word.copy_from_slice(&(0xffff_8880_0000_0000 | (xorshift(random) & 0x3ff8)).to_le_bytes());
        }),
        _ => page.iter_mut().for_each(|byte| *byte = xorshift(random) as u8),
    }
    page
}

fn pages() -> Vec<Page> {
    let Some(path) = std::env::var_os("PAGES_FILE") else {
        println!(
            "PAGES_FILE is not set: {PAGES_MAX} pages of zeros, text, pointers and noise from seed {SEED}"
        );
        let mut random = SEED;
        return (0..PAGES_MAX).map(|kind| generated(kind, &mut random)).collect();
    };
    let memory = std::fs::read(&path).expect("the file of PAGES_FILE can be read");
    let all = memory.as_chunks::<PAGE_BYTES>().0;
    let held: Vec<&Page> = all.iter().filter(|page| fill_of(page) != Some(0)).collect();
    let step = held.len().div_ceil(PAGES_MAX).max(1);
    let pages: Vec<Page> = held.iter().step_by(step).map(|page| **page).collect();
    println!(
        "{} pages, {} of them not zero; every {step}th of those is measured: {}",
        all.len(),
        held.len(),
        pages.len()
    );
    pages
}

/// Measures a step over all inputs, which stand for so many plain bytes.
fn step<T>(group: &mut BenchmarkGroup<'_, ThreadTime>, name: &str, inputs: &[T], mut run: impl FnMut(&T)) {
    group.bench_function(name, |bencher| {
        bencher.iter(|| inputs.iter().for_each(|input| run(black_box(input))));
    });
}

/// Prints what share of the plain bytes a codec leaves; a page that grows is sent as it is.
fn share<'a>(name: &str, bodies: impl Iterator<Item = &'a Vec<u8>>, plain_bytes: usize, pages_each: usize) {
    let bytes: usize = bodies.map(|body| body.len().min(pages_each * PAGE_BYTES)).sum();
    println!(
        "{name}: {:.3} of the plain bytes",
        bytes as f64 / plain_bytes as f64
    );
}

/// A codec of single pages: encode, then decode its bodies.
fn codec(
    group: &mut BenchmarkGroup<'_, ThreadTime>,
    name: &str,
    pages: &[Page],
    encode: impl Fn(&Page, &mut Vec<u8>),
    decode: impl Fn(&[u8], &mut Page) -> Result<(), CodecError>,
) {
    let body_of = |page: &Page| {
        let mut body = Vec::new();
        encode(page, &mut body);
        body
    };
    let bodies: Vec<Vec<u8>> = pages.iter().map(body_of).collect();
    share(name, bodies.iter(), size_of_val(pages), 1);
    let (mut body, mut out) = (Vec::with_capacity(2 * PAGE_BYTES), [0; PAGE_BYTES]);
    step(group, &format!("{name} encode"), pages, |page| {
        body.clear();
        encode(page, &mut body);
        black_box(&body);
    });
    step(group, &format!("{name} decode"), &bodies, |body| {
        decode(body, &mut out).expect("its own body");
        black_box(&out);
    });
}

fn classify(group: &mut BenchmarkGroup<'_, ThreadTime>, pages: &[Page]) {
    let cluster: ClusterName = "bench".parse().expect("a cluster's name");
    let key = ContentKey::of(&cluster, b"");
    let mut out = [0; PAGE_BYTES];
    step(group, "memcpy", pages, |page| {
        out.copy_from_slice(page);
        black_box(&out);
    });
    step(group, "fill_of", pages, |page| {
        black_box(fill_of(page));
    });
    step(group, "profile", pages, |page| {
        black_box(page_profile(page));
    });
    step(group, "content id", pages, |page| {
        black_box(key.id(page));
    });
}

/// A page as it was and as it is after a few writes to it.
fn deltas(group: &mut BenchmarkGroup<'_, ThreadTime>, pages: &[Page]) {
    let mut random = SEED;
    let pairs: Vec<(Page, Page)> = pages
        .iter()
        .map(|old| {
            let mut new = *old;
            for _ in 0..8 {
                let at = xorshift(&mut random) as usize % (PAGE_BYTES - 24);
                new[at..at + 24].fill(xorshift(&mut random) as u8);
            }
            (*old, new)
        })
        .collect();
    let mut body = Vec::with_capacity(2 * PAGE_BYTES);
    let mut bodies = Vec::new();
    for (old, new) in &pairs {
        body.clear();
        delta::encode(old, new, usize::MAX, &mut body);
        bodies.push((*old, body.clone()));
    }
    share(
        "delta",
        bodies.iter().map(|(_, body)| body),
        size_of_val(pages),
        1,
    );
    step(group, "delta encode", &pairs, |(old, new)| {
        body.clear();
        delta::encode(old, new, usize::MAX, &mut body);
        black_box(&body);
    });
    let mut out = [0; PAGE_BYTES];
    step(group, "delta decode", &bodies, |(old, body)| {
        out.copy_from_slice(old);
        delta::decode(body, &mut out).expect("its own body");
        black_box(&out);
    });
}

/// zstd of single pages, and of groups.
fn zstd(group: &mut BenchmarkGroup<'_, ThreadTime>, pages: &[Page]) {
    let mut encoder = group::GroupEncoder::new().expect("a context");
    let mut decoder = group::GroupDecoder::new().expect("a context");
    for (name, size) in [("zstd-1 of one page", 1), ("zstd group of 64", GROUP_PAGES_MAX)] {
        let plain: Vec<Vec<u8>> = pages.chunks(size).map(|group| group.concat()).collect();
        let mut blobs = vec![Vec::new(); plain.len()];
        for (group, blob) in plain.iter().zip(&mut blobs) {
            encoder.encode(group, blob).expect("encodes");
        }
        share(name, blobs.iter(), size_of_val(pages), size);
        let mut out = Vec::new();
        step(group, &format!("{name} encode"), &plain, |plain| {
            encoder.encode(plain, &mut out).expect("encodes");
            black_box(&out);
        });
        let inputs: Vec<(usize, &Vec<u8>)> = plain
            .iter()
            .map(|plain| plain.len() / PAGE_BYTES)
            .zip(&blobs)
            .collect();
        step(group, &format!("{name} decode"), &inputs, |(count, blob)| {
            decoder.decode(blob, *count, &mut out).expect("its own blob");
            black_box(&out);
        });
    }
}

fn all(criterion: &mut Criterion<ThreadTime>) {
    let pages = pages();
    let mut group = criterion.benchmark_group("pages");
    group.sample_size(30);
    group.throughput(Throughput::Bytes(size_of_val(&pages[..]) as u64));
    classify(&mut group, &pages);
    let unlimited = usize::MAX;
    codec(
        &mut group,
        "wkdm",
        &pages,
        |page, body| assert!(wkdm::encode(page, unlimited, body)),
        wkdm::decode,
    );
    codec(
        &mut group,
        "lz4",
        &pages,
        |page, body| assert!(lz4_encode(page, unlimited, body)),
        lz4_decode,
    );
    codec(
        &mut group,
        "lzo",
        &pages,
        |page, body| assert!(lzo::encode(page, unlimited, body)),
        lzo::decode,
    );
    zstd(&mut group, &pages);
    deltas(&mut group, &pages);
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(ThreadTime);
    targets = all
}
criterion_main!(benches);
