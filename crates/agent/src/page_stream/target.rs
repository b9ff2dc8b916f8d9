//! The target's half of a page stream: frames become QEMU's bytes again.
//!
//! ```text
//!  source agent ──▶ receive ──chunks──▶ decode ──bytes──▶ write ──▶ QEMU
//!               ◀── send ◀──────back───── ┘ └──┬── returned ◀── read ◀──
//! ```

use std::io;
use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use transhume_pages::stream::StreamDigest;
use transhume_pages::wire::{put_returned, put_waited};
use transhume_pages::{DecodeError, Decoder, Progress};

use super::share::{SharedStore, locked};
use super::source::receive;
use super::{Wire, page_threads, pass_on};
use crate::limits::{PAGE_CHUNKS_WAITING_MAX, RETURN_PATH_BYTES};

/// What the stages need.
pub(super) struct Target {
    pub decoder: Decoder,
    pub store: SharedStore,
    /// Told once QEMU has all bytes and they were the source's.
    pub whole: oneshot::Sender<StreamDigest>,
}

/// Runs the stages until both sides have closed.
pub(super) async fn run(target: Target, local: UnixStream, remote: Wire) -> io::Result<()> {
    let (local_read, local_write) = local.into_split();
    let (remote_read, remote_write) = tokio::io::split(remote);
    let (chunks_in, chunks) = mpsc::channel(PAGE_CHUNKS_WAITING_MAX);
    let (bytes, bytes_out) = mpsc::channel(1);
    let (back, back_out) = mpsc::channel(PAGE_CHUNKS_WAITING_MAX);
    let mut stages = JoinSet::new();
    let on = page_threads();
    stages.spawn_on(receive(remote_read, chunks_in), on);
    stages.spawn_on(pass_on(bytes_out, local_write), on);
    stages.spawn_on(pass_on(back_out, remote_write), on);
    stages.spawn_on(returned(local_read, back.clone()), on);
    stages.spawn_on(decode(target, chunks, bytes, back), on);
    while let Some(ended) = stages.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    Ok(())
}

/// What QEMU says to the source's QEMU.
async fn returned(mut local: OwnedReadHalf, back: mpsc::Sender<Vec<u8>>) -> io::Result<()> {
    let mut chunk = [0; RETURN_PATH_BYTES];
    loop {
        let length = local.read(&mut chunk).await?;
        if length == 0 {
            return Ok(());
        }
        let mut frames = Vec::new();
        put_returned(&mut frames, &chunk[..length]);
        if back.send(frames).await.is_err() {
            return Ok(());
        }
    }
}

async fn decode(
    target: Target,
    mut chunks: mpsc::Receiver<Vec<u8>>,
    bytes: mpsc::Sender<Vec<u8>>,
    back: mpsc::Sender<Vec<u8>>,
) -> io::Result<()> {
    let Target {
        mut decoder,
        store,
        whole,
    } = target;
    let mut whole = Some(whole);
    let mut waited_nanos = 0;
    loop {
        let begun = Instant::now();
        let Some(chunk) = chunks.recv().await else {
            return decoder.finish().map(drop).map_err(broken);
        };
        waited_nanos += begun.elapsed().as_nanos() as u64;
        let mut rest = &chunk[..];
        loop {
            let (mut out, mut answers) = (Vec::new(), Vec::new());
            let progress = decoder
                .push(rest, &mut locked(&store), &mut out, &mut answers)
                .map_err(broken)?;
            put_waited(&mut answers, waited_nanos);
            if bytes.send(out).await.is_err() || back.send(answers).await.is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            match progress {
                Progress::More => rest = &[],
                Progress::Hungry => break,
                Progress::Ended(digest) => {
                    if let Some(whole) = whole.take() {
                        // Nobody listens where the VM's task has given the move up.
                        let _ = whole.send(digest);
                    }
                    break;
                }
            }
        }
    }
}

fn broken(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
