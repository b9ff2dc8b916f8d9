//! The source's half of a page stream: QEMU's bytes become frames.
//!
//! ```text
//!  QEMU ──▶ read (pace) ──chunks──▶ encode ──frames──▶ send ──▶ target agent
//!       ◀── filter ◀── returned ──    ▲  ◀──── back ──── receive ◀──
//! ```
//!
//! Each stage is a task; the channels between them are short, so a slow link stops QEMU. The
//! encoder never waits with its ears shut: what comes back is taken first, or two full pipes would
//! wait for each other.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, WriteHalf};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use transhume_model::VmName;
use transhume_netbuf::Delivered;
use transhume_pages::{EncodeError, Encoder, Flight, LinkMeter};
use transhume_qemu::{HoldPace, ReturnPathFilter};

use super::buffers::Buffers;
use super::share::{SharedKnowledge, locked};
use super::{SharedSnapshot, StreamSnapshot, Wire, page_threads};
use crate::limits::{PAGE_CHUNK_BYTES, PAGE_CHUNKS_WAITING_MAX};
use crate::pace::{Debt, Pace};

/// Stream bytes after which the encoder is told how long they took.
const TOOK_BYTES: u64 = 1 << 20;

/// What the stages need.
pub(super) struct Source {
    pub vm: VmName,
    pub encoder: Encoder,
    /// Of the connection to the target's agent.
    pub socket: OwnedFd,
    pub knowledge: SharedKnowledge,
    pub pace: Arc<Pace>,
    pub snapshot: SharedSnapshot,
}

/// Runs the stages until QEMU has closed and everything is sent.
pub(super) async fn run(source: Source, local: UnixStream, remote: Wire) -> io::Result<()> {
    let (local_read, local_write) = local.into_split();
    let (remote_read, remote_write) = tokio::io::split(remote);
    let (chunks_in, chunks) = mpsc::channel(PAGE_CHUNKS_WAITING_MAX);
    let (back_in, back) = mpsc::channel(PAGE_CHUNKS_WAITING_MAX);
    let (frames, frames_out) = mpsc::channel(1);
    let mut stages = JoinSet::new();
    let on = page_threads();
    let buffers = Buffers::default();
    stages.spawn_on(
        read(local_read, source.pace.clone(), chunks_in, buffers.clone()),
        on,
    );
    stages.spawn_on(receive(remote_read, back_in, buffers.clone()), on);
    stages.spawn_on(
        send(frames_out, remote_write, source.pace.clone(), buffers.clone()),
        on,
    );
    let stage = Encode {
        vm: source.vm,
        encoder: source.encoder,
        socket: source.socket,
        knowledge: source.knowledge,
        snapshot: source.snapshot,
        link: LinkMeter::default(),
        pace: source.pace,
        filter: ReturnPathFilter::new(),
        local_write,
        out: Vec::new(),
        buffers,
        untold: (0, 0),
        said_pass_through: false,
    };
    stages.spawn_on(stage.run(chunks, back, frames), on);
    while let Some(ended) = stages.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    Ok(())
}

async fn read(
    mut local: OwnedReadHalf,
    pace: Arc<Pace>,
    chunks: mpsc::Sender<Vec<u8>>,
    buffers: Buffers,
) -> io::Result<()> {
    let mut hold = HoldPace::new();
    loop {
        local.readable().await?;
        let queued = rustix::io::ioctl_fionread::<&UnixStream>(local.as_ref())?;
        let most = pace.admit(&mut hold, queued as usize).await.min(PAGE_CHUNK_BYTES);
        let mut chunk = buffers.take();
        chunk.reserve(most);
        // The capacity may be more than what was asked for.
        let length = (&mut local).take(most as u64).read_buf(&mut chunk).await?;
        if length == 0 || chunks.send(chunk).await.is_err() {
            return Ok(());
        }
    }
}

/// At the stream's rate, then closes this direction.
async fn send(
    mut frames: mpsc::Receiver<Vec<u8>>,
    mut remote: WriteHalf<Wire>,
    pace: Arc<Pace>,
    buffers: Buffers,
) -> io::Result<()> {
    let mut debt = Debt::none();
    while let Some(part) = frames.recv().await {
        pace.space(part.len(), &mut debt).await;
        remote.write_all(&part).await?;
        remote.flush().await?;
        buffers.give(part);
    }
    remote.shutdown().await
}

pub(super) async fn receive(
    mut remote: impl AsyncRead + Unpin,
    chunks: mpsc::Sender<Vec<u8>>,
    buffers: Buffers,
) -> io::Result<()> {
    loop {
        let mut chunk = buffers.take();
        chunk.reserve(PAGE_CHUNK_BYTES);
        let length = (&mut remote)
            .take(PAGE_CHUNK_BYTES as u64)
            .read_buf(&mut chunk)
            .await?;
        if length == 0 || chunks.send(chunk).await.is_err() {
            return Ok(());
        }
    }
}

struct Encode {
    vm: VmName,
    encoder: Encoder,
    socket: OwnedFd,
    knowledge: SharedKnowledge,
    snapshot: SharedSnapshot,
    link: LinkMeter,
    pace: Arc<Pace>,
    filter: ReturnPathFilter,
    local_write: OwnedWriteHalf,
    /// Frames not handed to the sender yet.
    out: Vec<u8>,
    buffers: Buffers,
    /// Bytes and nanoseconds of pushes that the encoder was not told of yet.
    untold: (u64, u64),
    said_pass_through: bool,
}

impl Encode {
    async fn run(
        mut self,
        mut chunks: mpsc::Receiver<Vec<u8>>,
        mut back: mpsc::Receiver<Vec<u8>>,
        frames: mpsc::Sender<Vec<u8>>,
    ) -> io::Result<()> {
        self.tell_rate();
        let mut frames = Some(frames);
        let mut flowing = true;
        let mut push: Option<Push> = None;
        let mut idle_since = Instant::now();
        loop {
            if !flowing && self.out.is_empty() && self.encoder.settled() {
                // The sender closes its direction; the target ends the other when its QEMU has.
                frames = None;
            }
            tokio::select! {
                biased;
                bytes = back.recv() => match bytes {
                    Some(bytes) => {
                        self.answer(&bytes).await?;
                        self.buffers.give(bytes);
                    }
                    None if frames.is_some() => return Err(io::ErrorKind::ConnectionAborted.into()),
                    None => return self.local_write.shutdown().await,
                },
                permit = reserve(frames.as_ref()), if !self.out.is_empty() => {
                    permit?.send(std::mem::replace(&mut self.out, self.buffers.take()));
                    if let Some(push) = push.take() {
                        self.look_at_link(push)?;
                    }
                    idle_since = Instant::now();
                }
                chunk = chunks.recv(), if flowing && self.out.is_empty() && self.encoder.ready() => match chunk {
                    Some(chunk) => {
                        push = Some(self.encode(&chunk, chunks.is_empty(), idle_since)?);
                        self.buffers.give(chunk);
                    }
                    None => {
                        self.encoder.finish(&mut self.out).map_err(broken)?;
                        flowing = false;
                    }
                },
            }
            self.publish();
        }
    }

    /// Encodes a chunk; sends what is gathered where nothing follows at once.
    fn encode(&mut self, chunk: &[u8], last: bool, idle_since: Instant) -> io::Result<Push> {
        let begun = Instant::now();
        {
            let mut knowledge = locked(&self.knowledge);
            self.encoder
                .push(chunk, &mut knowledge, &mut self.out)
                .map_err(broken)?;
        }
        if last {
            self.encoder.flush(&mut self.out).map_err(broken)?;
        }
        let busy = begun.elapsed();
        self.untold.0 += chunk.len() as u64;
        self.untold.1 += busy.as_nanos() as u64;
        if self.untold.0 >= TOOK_BYTES {
            self.encoder.took(self.untold.1);
            self.untold = (0, 0);
        }
        if let Some(reason) = self.encoder.passed_through()
            && !std::mem::replace(&mut self.said_pass_through, true)
        {
            tracing::info!(vm = %self.vm, "the rest of the page stream passes as it is: {reason}");
        }
        Ok(Push {
            idle: begun - idle_since,
            busy,
        })
    }

    /// The frames of a push have gone to the sender: how the kernel fares with them says what the
    /// link carries.
    fn look_at_link(&mut self, push: Push) -> io::Result<()> {
        let delivered = Delivered::of(&self.socket)?;
        let new = self.link.saw(Flight {
            delivered_bytes: delivered.bytes,
            bytes_per_second: delivered.bytes_per_second,
            receiver_limited_us: delivered.receiver_limited_us,
            sender_limited: delivered.sender_limited,
            qemu_limited: push.idle > push.busy,
        });
        if new {
            self.tell_rate();
        }
        Ok(())
    }

    /// The chooser weighs against what the link carries or what the stream may use of it, whichever
    /// is less.
    fn tell_rate(&mut self) {
        let known = [self.link.rate(), self.pace.rate()];
        self.encoder.link_rate(known.into_iter().flatten().min());
    }

    async fn answer(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (mut returned, mut passed) = (Vec::new(), Vec::new());
        {
            let mut knowledge = locked(&self.knowledge);
            self.encoder
                .answer(bytes, &mut knowledge, &mut self.out, &mut returned)
                .map_err(broken)?;
        }
        self.filter.push(&returned, &mut passed);
        self.local_write.write_all(&passed).await
    }

    fn publish(&self) {
        *locked(&self.snapshot) = StreamSnapshot {
            account: self.encoder.account(),
            behind_bytes: self.encoder.behind_bytes(),
        };
    }
}

/// A chunk that was encoded, until the sender takes its frames.
struct Push {
    /// Wait for QEMU before it.
    idle: Duration,
    busy: Duration,
}

impl Drop for Encode {
    /// What a broken stream sent may never arrive: nobody is to count on it.
    fn drop(&mut self) {
        if !self.encoder.settled() {
            locked(&self.knowledge).forget_promises();
        }
    }
}

fn broken(error: EncodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

async fn reserve(frames: Option<&mpsc::Sender<Vec<u8>>>) -> io::Result<mpsc::Permit<'_, Vec<u8>>> {
    match frames {
        Some(frames) => frames
            .reserve()
            .await
            .map_err(|_| io::ErrorKind::BrokenPipe.into()),
        None => Err(io::ErrorKind::BrokenPipe.into()),
    }
}
