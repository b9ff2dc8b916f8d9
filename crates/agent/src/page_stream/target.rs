//! The target's half of a page stream: frames become QEMU's bytes again.
//!
//! ```text
//!  source agent ──▶ receive ──chunks──▶ decode ──bytes──▶ write ──▶ QEMU
//!               ◀── send ◀──────back───── ┘ └──┬── returned ◀── read ◀──
//! ```

use std::io;
use std::pin::pin;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep_until;
use transhume_pages::stream::StreamDigest;
use transhume_pages::wire::put_returned;
use transhume_pages::{DecodeError, Decoder, Progress};

use super::buffers::Buffers;
use super::share::{SharedStore, locked};
use super::source::receive;
use super::{Wire, page_threads, pass_on};
use crate::limits::{PAGE_CHUNKS_WAITING_MAX, PAGE_SIBLING_WAIT, RETURN_PATH_BYTES};

/// What the stages need.
pub(super) struct Target {
    /// Told when the guest has stopped: nothing is waited for any more that can be asked for.
    pub guest_stopped: Arc<Notify>,
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
    let buffers = Buffers::default();
    stages.spawn_on(receive(remote_read, chunks_in, buffers.clone()), on);
    stages.spawn_on(pass_on(bytes_out, local_write, buffers.clone()), on);
    stages.spawn_on(pass_on(back_out, remote_write, buffers.clone()), on);
    stages.spawn_on(returned(local_read, back.clone()), on);
    stages.spawn_on(decode(target, chunks, bytes, back, buffers), on);
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
    buffers: Buffers,
) -> io::Result<()> {
    let mut stage = Decode {
        decoder: target.decoder,
        store: target.store,
        whole: Some(target.whole),
        guest_stopped: target.guest_stopped,
        bytes,
        back,
        buffers,
    };
    loop {
        let Some(chunk) = chunks.recv().await else {
            return stage.decoder.finish().map(drop).map_err(broken);
        };
        stage.push(&chunk).await?;
        stage.buffers.give(chunk);
        stage.wait_for_siblings().await?;
    }
}

struct Decode {
    decoder: Decoder,
    store: SharedStore,
    whole: Option<oneshot::Sender<StreamDigest>>,
    guest_stopped: Arc<Notify>,
    bytes: mpsc::Sender<Vec<u8>>,
    back: mpsc::Sender<Vec<u8>>,
    buffers: Buffers,
}

impl Decode {
    async fn push(&mut self, mut rest: &[u8]) -> io::Result<()> {
        loop {
            let (mut out, mut answers) = (self.buffers.take(), Vec::new());
            let progress = {
                let mut pages = locked(&self.store.pages);
                let before = pages.entered();
                let pushed = self.decoder.push(rest, &mut pages, &mut out, &mut answers);
                if pages.entered() > before {
                    self.store.grew.notify_waiters();
                }
                pushed.map_err(broken)?
            };
            self.hand_on(out, answers).await?;
            match progress {
                Progress::More => rest = &[],
                Progress::Hungry => return Ok(()),
                Progress::Ended(digest) => {
                    if let Some(whole) = self.whole.take() {
                        // Nobody listens where the VM's task has given the move up.
                        let _ = whole.send(digest);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// While a group lacks nothing but what other streams carry, the wire is not read: the source
    /// feels a full pipe.
    async fn wait_for_siblings(&mut self) -> io::Result<()> {
        let store = self.store.clone();
        while let Some(group) = self.decoder.waits_for_siblings() {
            let patience = tokio::time::Instant::now() + PAGE_SIBLING_WAIT;
            while self.decoder.waits_for_siblings() == Some(group) {
                // Listens before it looks, or the page could come in between.
                let mut grew = pin!(store.grew.notified());
                grew.as_mut().enable();
                self.push(&[]).await?;
                if self.decoder.waits_for_siblings() != Some(group) {
                    break;
                }
                let more_came = tokio::select! {
                    () = grew => true,
                    () = self.guest_stopped.notified() => false,
                    () = sleep_until(patience) => false,
                };
                if !more_came {
                    self.decoder.stop_waiting_for_siblings();
                    self.push(&[]).await?;
                }
            }
        }
        Ok(())
    }

    async fn hand_on(&mut self, out: Vec<u8>, answers: Vec<u8>) -> io::Result<()> {
        for (part, to) in [(out, &self.bytes), (answers, &self.back)] {
            if part.is_empty() {
                self.buffers.give(part);
                continue;
            }
            to.send(part)
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(())
    }
}

fn broken(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::{Duration, Instant, sleep};
    use transhume_model::ClusterName;
    use transhume_pages::stream::Page;
    use transhume_pages::{ContentId, ContentKey, Encoder, EncoderConfig, Knowledge, PageStore};

    use super::super::share::ClusterStore;
    use super::*;

    /// Kind of the frame that asks for pages (docs/design/pages.md).
    const NEED: u8 = 18;

    /// A migration stream of one page.
    fn stream(page: &Page) -> Vec<u8> {
        let end = [&0x10u64.to_be_bytes()[..], b"\x7e\0\0\0\x02"].concat();
        [
            b"QEVM\0\0\0\x03\x07\0\0\0\x0bpc-q35-10.0",
            &b"\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04"[..],
            &(4096u64 | 0x04).to_be_bytes(),
            b"\x06pc.ram",
            &4096u64.to_be_bytes(),
            &end,
            b"\x02\0\0\0\x02",
            &0x08u64.to_be_bytes(),
            b"\x06pc.ram",
            page,
            &end,
        ]
        .concat()
    }

    /// The decoding stage, with a stream of one page that a sibling has promised.
    struct Stage {
        guest_stopped: Arc<Notify>,
        store: SharedStore,
        page: (ContentId, Page),
        /// Open: the source is not done.
        _chunks_in: mpsc::Sender<Vec<u8>>,
        bytes_out: mpsc::Receiver<Vec<u8>>,
        back_out: mpsc::Receiver<Vec<u8>>,
    }

    /// It has got all that the source sends by itself.
    async fn stage() -> Stage {
        let key = ContentKey::of(&"herd".parse::<ClusterName>().unwrap(), &[]);
        let page: Page = std::array::from_fn(|at| (at * 7 + at / 256) as u8);
        let id = key.id(&page);
        let mut known = Knowledge::default();
        known.promise(id);
        let mut encoder = Encoder::new(EncoderConfig::new(key.clone())).unwrap();
        encoder.link_rate(Some(1_000_000));
        let mut wire = Vec::new();
        encoder.push(&stream(&page), &mut known, &mut wire).unwrap();
        encoder.flush(&mut wire).unwrap();

        let guest_stopped = Arc::<Notify>::default();
        let store = Arc::new(ClusterStore {
            pages: Mutex::new(PageStore::new(1 << 20)),
            grew: Notify::new(),
        });
        let target = Target {
            guest_stopped: guest_stopped.clone(),
            decoder: Decoder::new(key).unwrap(),
            store: store.clone(),
            whole: oneshot::channel().0,
        };
        let (chunks_in, chunks) = mpsc::channel(1);
        let (bytes, bytes_out) = mpsc::channel(8);
        let (back, back_out) = mpsc::channel(8);
        tokio::spawn(decode(target, chunks, bytes, back, Buffers::default()));
        chunks_in.send(wire).await.unwrap();
        Stage {
            guest_stopped,
            store,
            page: (id, page),
            _chunks_in: chunks_in,
            bytes_out,
            back_out,
        }
    }

    /// After how long the page is asked for, as it does not come; the guest stops in between, or
    /// does not.
    async fn asked_after(stop: Option<Duration>) -> Duration {
        let mut stage = stage().await;
        tokio::spawn(async move { while stage.bytes_out.recv().await.is_some() {} });
        let begun = Instant::now();
        if let Some(stop) = stop {
            tokio::spawn(async move {
                sleep(stop).await;
                stage.guest_stopped.notify_one();
            });
        }
        loop {
            let answers = stage.back_out.recv().await.expect("the page is asked for");
            let mut rest = answers.as_slice();
            while let [kind, a, b, c, d, tail @ ..] = rest {
                if *kind == NEED {
                    return begun.elapsed();
                }
                rest = &tail[u32::from_le_bytes([*a, *b, *c, *d]) as usize..];
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn siblings_are_waited_for_while_the_guest_runs() {
        assert!(asked_after(None).await >= PAGE_SIBLING_WAIT);
    }

    /// Found in batches of eight loaded guests: each group of the last pages was waited for, with
    /// the guests stopped.
    #[tokio::test(start_paused = true)]
    async fn a_stopped_guest_waits_for_no_sibling() {
        let stop = PAGE_SIBLING_WAIT / 3;
        let asked = asked_after(Some(stop)).await;
        assert!(stop <= asked && asked < PAGE_SIBLING_WAIT, "{asked:?}");
        assert!(asked_after(Some(Duration::ZERO)).await < stop);
    }

    /// Found in a batch of eight on a machine that stood still now and then: the page came when
    /// patience ended, nothing was lacking, nothing was asked for, and the stream stood until the
    /// batch rolled back.
    #[tokio::test(start_paused = true)]
    async fn a_page_that_comes_as_patience_ends_is_taken() {
        let mut stage = stage().await;
        tokio::spawn(async move { while stage.back_out.recv().await.is_some() {} });
        sleep(PAGE_SIBLING_WAIT / 3).await;
        let (id, page) = &stage.page;
        locked(&stage.store.pages).insert(*id, page);
        // The stage is not told that the store grew: it hears of the stop first.
        stage.guest_stopped.notify_one();
        let rebuilt = async {
            let mut rebuilt = 0;
            while rebuilt < 4096 {
                rebuilt += stage.bytes_out.recv().await.expect("bytes for QEMU").len();
            }
        };
        let ended = tokio::time::timeout(PAGE_SIBLING_WAIT, rebuilt).await;
        ended.expect("the stream goes on");
    }
}
