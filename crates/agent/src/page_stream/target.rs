//! The target's half of a page stream: frames become QEMU's bytes again.
//!
//! ```text
//!  source agent ──▶ read ──▶ decode ──▶ write ──▶ QEMU
//!                     └── as they are ──▶┘
//!               ◀── back ◀──┴── returned ◀── read ◀──
//! ```
//!
//! One task: QEMU has what was read before more is.

use std::io::{self, IoSlice};
use std::pin::pin;
use std::sync::Arc;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, oneshot};
use tokio::time::sleep_until;
use transhume_pages::stream::StreamDigest;
use transhume_pages::wire::put_returned;
use transhume_pages::{Decoder, Progress};

use super::connection::Connection;
use super::incoming::Incoming;
use super::outgoing::Outgoing;
use super::share::{SharedStore, locked};
use super::{invalid, ready};
use crate::limits::{PAGE_SIBLING_WAIT, RETURN_PATH_BYTES};

/// What the stages need.
pub(super) struct Target {
    /// Told when the guest has stopped: nothing is waited for any more that can be asked for.
    pub guest_stopped: Arc<Notify>,
    pub decoder: Decoder,
    pub store: SharedStore,
    /// Told once QEMU has all bytes and they were the source's.
    pub whole: Option<oneshot::Sender<StreamDigest>>,
}

/// Runs until both sides have closed.
pub(super) async fn run(target: Target, local: UnixStream, connection: Connection) -> io::Result<()> {
    let (local_read, local_write) = local.into_split();
    let Connection {
        stream,
        outgoing,
        mut incoming,
    } = connection;
    let mut stage = Stage {
        rebuild: Rebuild::new(target, local_write),
        stream,
        outgoing,
    };
    stage.run(local_read, &mut incoming).await
}

struct Stage {
    rebuild: Rebuild<OwnedWriteHalf>,
    stream: TcpStream,
    outgoing: Outgoing,
}

impl Stage {
    async fn run(&mut self, qemu: OwnedReadHalf, incoming: &mut Incoming) -> io::Result<()> {
        let (mut receives, mut returns, mut closed) = (true, true, false);
        loop {
            self.hand_back()?;
            if !receives && !returns && !closed {
                closed = true;
                self.outgoing.close()?;
            }
            if closed && self.outgoing.is_empty() {
                if self.outgoing.is_in_kernel() {
                    // The source hangs up when it has heard all.
                    incoming.hung_up(&self.stream).await;
                    return Ok(());
                }
                return self.stream.shutdown().await;
            }
            tokio::select! {
                biased;
                ready = self.stream.writable(), if !self.outgoing.is_empty() => {
                    ready?;
                    self.outgoing.write(&self.stream, usize::MAX)?;
                }
                ready = qemu.readable(), if returns && !self.outgoing.is_full() => {
                    ready?;
                    returns = self.take_returned(&qemu)?;
                }
                ready = self.stream.readable(), if receives && !self.outgoing.is_full() => {
                    ready?;
                    receives = self.receive(incoming).await?;
                }
            }
        }
    }

    /// What QEMU says to the source's QEMU. False at its end.
    fn take_returned(&mut self, qemu: &OwnedReadHalf) -> io::Result<bool> {
        let mut chunk = [0; RETURN_PATH_BYTES];
        let read = ready(qemu.try_read(&mut chunk))?;
        put_returned(&mut self.rebuild.back, &chunk[..read.unwrap_or(0)]);
        Ok(read != Some(0))
    }

    /// Sends what is for the source, as far as the kernel takes it at once.
    fn hand_back(&mut self) -> io::Result<()> {
        if !self.rebuild.back.is_empty() {
            self.outgoing.push(&self.rebuild.back)?;
            self.rebuild.back.clear();
            self.outgoing.write(&self.stream, usize::MAX)?;
        }
        Ok(())
    }

    /// Takes what has come. False when nothing more will.
    async fn receive(&mut self, incoming: &mut Incoming) -> io::Result<bool> {
        let Some(read) = incoming.read(&self.stream)? else {
            return Ok(true);
        };
        incoming.open()?;
        let mut plain = Vec::new();
        for bytes in incoming.opened() {
            self.rebuild.push(bytes, &mut plain).await?;
            if self.rebuild.target.decoder.waits_for_siblings().is_some() {
                // What was rebuilt goes to QEMU and is acknowledged meanwhile.
                self.rebuild.write(&mut plain).await?;
                self.hand_back()?;
                self.rebuild.wait_for_siblings(&mut plain).await?;
            }
        }
        self.rebuild.write(&mut plain).await?;
        incoming.take_all();
        if !incoming.is_over(read)? {
            return Ok(true);
        }
        self.rebuild.finish().await?;
        Ok(false)
    }
}

/// From frames to QEMU's bytes.
struct Rebuild<Q> {
    target: Target,
    qemu: Q,
    /// Rebuilt, and not written to QEMU yet.
    out: Vec<u8>,
    /// For the source, and not sent yet.
    back: Vec<u8>,
}

impl<Q: AsyncWrite + Unpin> Rebuild<Q> {
    fn new(target: Target, qemu: Q) -> Self {
        Rebuild {
            target,
            qemu,
            out: Vec::new(),
            back: Vec::new(),
        }
    }

    /// The source has sent all: QEMU has it, and is told.
    async fn finish(&mut self) -> io::Result<()> {
        self.target.decoder.finish().map_err(invalid)?;
        self.qemu.shutdown().await
    }

    /// Takes a piece of the wire. Plain bytes are added to those that QEMU gets next, so that it
    /// gets many at once.
    async fn push<'w>(&mut self, mut wire: &'w [u8], plain: &mut Vec<IoSlice<'w>>) -> io::Result<()> {
        loop {
            let progress = {
                let mut pages = locked(&self.target.store.pages);
                let before = pages.entered();
                let pushed = self
                    .target
                    .decoder
                    .push(&mut wire, &mut pages, &mut self.out, &mut self.back);
                if pages.entered() > before {
                    self.target.store.grew.notify_waiters();
                }
                pushed.map_err(invalid)?
            };
            if !self.out.is_empty() {
                self.write(plain).await?;
                self.qemu.write_all(&self.out).await?;
                self.out.clear();
            }
            match progress {
                Progress::More => {}
                Progress::Plain(bytes) => plain.push(IoSlice::new(bytes)),
                Progress::Hungry => return Ok(()),
                Progress::Ended(digest) => {
                    self.write(plain).await?;
                    if let Some(whole) = self.target.whole.take() {
                        // Nobody listens where the VM's task has given the move up.
                        let _ = whole.send(digest);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Writes plain bytes to QEMU.
    async fn write(&mut self, plain: &mut Vec<IoSlice<'_>>) -> io::Result<()> {
        let mut rest = &mut plain[..];
        while !rest.is_empty() {
            let written = self.qemu.write_vectored(rest).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut rest, written);
        }
        plain.clear();
        Ok(())
    }

    /// While a group lacks nothing but what other streams carry, the wire is not read: the source
    /// feels a full pipe.
    async fn wait_for_siblings(&mut self, plain: &mut Vec<IoSlice<'_>>) -> io::Result<()> {
        let store = self.target.store.clone();
        while let Some(group) = self.target.decoder.waits_for_siblings() {
            let patience = tokio::time::Instant::now() + PAGE_SIBLING_WAIT;
            while self.target.decoder.waits_for_siblings() == Some(group) {
                // Listens before it looks, or the page could come in between.
                let mut grew = pin!(store.grew.notified());
                grew.as_mut().enable();
                self.push(&[], plain).await?;
                if self.target.decoder.waits_for_siblings() != Some(group) {
                    break;
                }
                let more_came = tokio::select! {
                    () = grew => true,
                    () = self.target.guest_stopped.notified() => false,
                    () = sleep_until(patience) => false,
                };
                if !more_came {
                    self.target.decoder.stop_waiting_for_siblings();
                    self.push(&[], plain).await?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, DuplexStream};
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

    /// The target's end, with a stream of one page that a sibling has promised.
    struct Waiting {
        rebuild: Rebuild<DuplexStream>,
        wire: Vec<u8>,
        guest_stopped: Arc<Notify>,
        store: SharedStore,
        page: (ContentId, Page),
        qemu: DuplexStream,
    }

    fn waiting() -> Waiting {
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
            whole: None,
        };
        let (near, qemu) = tokio::io::duplex(1 << 20);
        Waiting {
            rebuild: Rebuild::new(target, near),
            wire,
            guest_stopped,
            store,
            page: (id, page),
            qemu,
        }
    }

    /// Whether pages are asked for.
    fn asks(mut back: &[u8]) -> bool {
        while let [kind, a, b, c, d, tail @ ..] = back {
            if *kind == NEED {
                return true;
            }
            back = &tail[u32::from_le_bytes([*a, *b, *c, *d]) as usize..];
        }
        false
    }

    /// After how long the page is asked for, as it does not come; the guest stops in between, or
    /// does not.
    async fn asked_after(stop: Option<Duration>) -> Duration {
        let mut waiting = waiting();
        let begun = Instant::now();
        if let Some(stop) = stop {
            tokio::spawn(async move {
                sleep(stop).await;
                waiting.guest_stopped.notify_one();
            });
        }
        waiting
            .rebuild
            .push(&waiting.wire, &mut Vec::new())
            .await
            .unwrap();
        assert!(!asks(&waiting.rebuild.back), "not at once");
        waiting.rebuild.wait_for_siblings(&mut Vec::new()).await.unwrap();
        assert!(asks(&waiting.rebuild.back));
        begun.elapsed()
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
        let mut waiting = waiting();
        let ((id, page), store) = (waiting.page, waiting.store.clone());
        tokio::spawn(async move {
            sleep(PAGE_SIBLING_WAIT / 3).await;
            locked(&store.pages).insert(id, &page);
            // The stage is not told that the store grew: it hears of the stop first.
            waiting.guest_stopped.notify_one();
        });
        waiting
            .rebuild
            .push(&waiting.wire, &mut Vec::new())
            .await
            .unwrap();
        waiting.rebuild.wait_for_siblings(&mut Vec::new()).await.unwrap();
        assert!(!asks(&waiting.rebuild.back));
        drop(waiting.rebuild);
        let mut rebuilt = Vec::new();
        waiting.qemu.read_to_end(&mut rebuilt).await.unwrap();
        assert!(rebuilt == stream(&page), "the stream goes on");
    }
}
