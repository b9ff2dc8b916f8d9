//! What the way of memory through both agents costs by itself, without QEMUs: migration streams of
//! pages that nothing compresses, over this machine's loopback.
//!
//! `cargo run --release -p transhume-agent --example page_pipe -- [--tls] [--streams 4] [--gb 2]`
#![allow(missing_docs)]

#[path = "../tests/fleet/mod.rs"]
mod fleet;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use transhume_agent::pace::Pace;
use transhume_agent::page_stream::{PageShare, Pages, SOURCE_SOCKET, Secured, start_source, start_target};
use transhume_model::{Bytes, Epoch};
use transhume_pages::Classes;
use transhume_trust::Security;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Of the guest.
const PAGES: u64 = 16_384;
/// How the threads of page streams are called in proc(5)'s stat.
const THREADS: &str = " (pages) ";
/// Bytes that the QEMU of the target's side reads at once.
const READ_BYTES: usize = 256 << 10;

/// Both ends are on one host.
const HOST: &str = "h1";

type Anything<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

struct Options {
    tls: bool,
    streams: usize,
    gb: usize,
}

fn options() -> Anything<Options> {
    let mut options = Options {
        tls: false,
        streams: 1,
        gb: 2,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || -> Anything<usize> { Ok(words.next().ok_or("a number is missing")?.parse()?) };
        match word.as_str() {
            "--tls" => options.tls = true,
            "--streams" => options.streams = number()?,
            "--gb" => options.gb = number()?,
            other => return Err(format!("{other} is not known").into()),
        }
    }
    Ok(options)
}

/// The front of a stream, and a pass over memory to repeat (docs/design/pages.md).
fn stream() -> (Vec<u8>, Vec<u8>) {
    let bytes = PAGES * 4096;
    let front = [
        b"QEVM\0\0\0\x03\x07\0\0\0\x0bpc-q35-10.0",
        &b"\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04"[..],
        &(bytes | 0x04).to_be_bytes(),
        b"\x06pc.ram",
        &bytes.to_be_bytes(),
        &0x10u64.to_be_bytes(),
        b"\x7e\0\0\0\x02\x02\0\0\0\x02",
        &0x08u64.to_be_bytes(),
        b"\x06pc.ram",
        &[1; 4096],
    ]
    .concat();
    let (mut pass, mut state) = (Vec::new(), 1u64);
    for page in 0..PAGES {
        pass.extend(((page * 4096) | 0x28).to_be_bytes());
        for _ in 0..512 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            pass.extend(state.to_le_bytes());
        }
    }
    (front, pass)
}

/// Processor time of the page streams' threads so far, seconds.
fn used() -> Anything<f64> {
    let mut ticks = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let stat = std::fs::read_to_string(task?.path().join("stat"))?;
        if let Some((_, fields)) = stat.split_once(THREADS) {
            let times = fields.split(' ').skip(11).take(2);
            ticks += times.filter_map(|time| time.parse::<u64>().ok()).sum::<u64>();
        }
    }
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Moves a stream; its bytes.
async fn one(dir: &Path, security: Security, number: usize, passes: usize) -> Anything<u64> {
    let dir = dir.join(number.to_string());
    std::fs::create_dir_all(&dir)?;
    let pages = || Pages {
        share: PageShare::new(Bytes(0)),
        classes: Classes::default(),
        host: HOST.parse().expect("it is a name"),
        secured: Secured::by(security.clone()),
    };
    let spec = fleet::spec();
    let (incoming, mut receives) = UnixStream::pair()?;
    let target = start_target(HERE, &spec, Epoch(1), incoming.into_std()?, &pages()).await?;
    let pace = Arc::new(Pace::default());
    // As during the first pass: a gap in what QEMU writes is no idleness.
    pace.release();
    let (source, ended) = start_source(&dir, &spec, Epoch(1), &target.at, pace, &pages()).await?;
    let mut sends = UnixStream::connect(dir.join(SOURCE_SOCKET)).await?;
    let sending = tokio::spawn(async move {
        let (front, pass) = stream();
        sends.write_all(&front).await?;
        for _ in 0..passes {
            sends.write_all(&pass).await?;
        }
        sends.shutdown().await?;
        sends.read_to_end(&mut Vec::new()).await
    });
    let mut buffer = vec![0; READ_BYTES];
    while receives.read(&mut buffer).await? > 0 {}
    receives.shutdown().await?;
    sending.await??;
    ended.await??;
    let account = source.account();
    if account.plain_bytes() * 10 < account.stream_bytes * 9 {
        println!("a good part of stream {number} went coded: {account:?}");
    }
    Ok(account.stream_bytes)
}

#[tokio::main]
async fn main() -> Anything<()> {
    let options = options()?;
    let dir = std::env::temp_dir().join(format!("page-pipe-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let security = match options.tls {
        true => fleet::security(&dir, "pipe", &format!("agent/{HOST}")),
        false => Security::Insecure,
    };
    let passes = options.gb * 1_000_000_000 / (PAGES as usize * 4104);
    let begun = Instant::now();
    let streams: Vec<_> = (0..options.streams)
        .map(|number| {
            let (dir, security) = (dir.clone(), security.clone());
            tokio::spawn(async move { one(&dir, security, number, passes).await })
        })
        .collect();
    let mut bytes = 0;
    for stream in streams {
        bytes += stream.await??;
    }
    let (seconds, gb) = (begun.elapsed().as_secs_f64(), bytes as f64 / 1e9);
    std::fs::remove_dir_all(&dir)?;
    println!(
        "{} streams, TLS {}: {:.2} GB/s, {:.2} s of processors per GB",
        options.streams,
        options.tls,
        gb / seconds,
        used()? / gb
    );
    Ok(())
}
