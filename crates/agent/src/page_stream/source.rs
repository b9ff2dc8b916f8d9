//! The source's half of a page stream: QEMU's bytes become frames.
//!
//! ```text
//!  QEMU ──▶ read (pace) ──▶ encode ──▶ write (rate) ──▶ target agent
//!                └──── as they are ───▶┘
//!       ◀── filter ◀── returned ──┘ ◀──── back ────
//! ```
//!
//! One task: what it has read goes out before it reads on, so a slow link stops QEMU. It never
//! writes with its ears shut: what comes back is taken first, or two full pipes would wait for each
//! other.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use transhume_model::VmName;
use transhume_netbuf::Delivered;
use transhume_pages::{Encoder, Flight, LinkMeter, Way};
use transhume_qemu::{HoldPace, ReturnPathFilter};

use super::connection::Connection;
use super::share::{LinkRates, SharedKnowledge, locked};
use super::{SharedSnapshot, StreamSnapshot, invalid, ready};
use crate::limits::PAGE_CHUNK_BYTES;
use crate::pace::{Debt, Pace};

/// Stream bytes after which the encoder is told how long they took.
const TOOK_BYTES: u64 = 1 << 20;

/// What the stream needs.
pub(super) struct Source {
    pub vm: VmName,
    pub encoder: Encoder,
    pub target: IpAddr,
    pub rates: LinkRates,
    pub knowledge: SharedKnowledge,
    pub pace: Arc<Pace>,
    pub snapshot: SharedSnapshot,
}

/// Runs until QEMU has closed, everything is sent and the target has closed.
pub(super) async fn run(source: Source, local: UnixStream, connection: Connection) -> io::Result<()> {
    let (local_read, local_write) = local.into_split();
    let link = locked(&source.rates)
        .get(&source.target)
        .map_or_else(LinkMeter::default, |rate| LinkMeter::from(*rate));
    let mut stage = Stage {
        link,
        source,
        connection,
        filter: ReturnPathFilter::new(),
        local_write,
        out: Vec::new(),
        chunk: vec![0; PAGE_CHUNK_BYTES],
        push: None,
        idle_since: Instant::now(),
        told_pace: None,
        untold: (0, 0),
        said_pass_through: false,
    };
    stage.run(local_read.as_ref()).await
}

/// What the stream waits for next.
enum Event {
    /// The target's agent has said something.
    Back,
    /// The rate lets what waits go.
    MayGo,
    /// The kernel takes more.
    Writable,
    /// QEMU may have more, and it is to be read now.
    Readable,
    /// An idle stream has been left alone for long enough.
    Paused,
}

/// How far QEMU's side is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Qemu {
    /// Its bytes are waited for.
    Flowing,
    /// They are read so many at most, and not before.
    Pausing(tokio::time::Instant, usize),
    Ended,
}

struct Stage {
    source: Source,
    connection: Connection,
    link: LinkMeter,
    filter: ReturnPathFilter,
    local_write: OwnedWriteHalf,
    /// Frames of what is being encoded.
    out: Vec<u8>,
    chunk: Vec<u8>,
    /// What waits to be sent.
    push: Option<Push>,
    idle_since: Instant,
    /// What the encoder was told that the stream may use of the link.
    told_pace: Option<u64>,
    /// Bytes and nanoseconds of pushes that the encoder was not told of yet.
    untold: (u64, u64),
    said_pass_through: bool,
}

impl Stage {
    async fn run(&mut self, local: &UnixStream) -> io::Result<()> {
        self.tell_rate();
        let (mut hold, mut debt) = (HoldPace::new(), Debt::none());
        let mut qemu = Qemu::Flowing;
        let (mut may_go, mut closed) = (false, false);
        loop {
            // Nothing here is charged by tokio itself: others have their turn.
            tokio::task::consume_budget().await;
            let idle = self.connection.outgoing.is_empty();
            if idle && qemu == Qemu::Ended && !closed && self.source.encoder.settled() {
                // The target ends the other direction when its QEMU has.
                closed = true;
                self.connection.outgoing.close()?;
                if self.connection.outgoing.is_empty() {
                    self.connection.shut()?;
                }
                continue;
            }
            let reads = idle && self.source.encoder.ready();
            let stream = &self.connection.stream;
            let pace = &self.source.pace;
            let event = tokio::select! {
                biased;
                ready = stream.readable() => ready.map(|()| Event::Back),
                () = pace.space(self.connection.outgoing.len(), &mut debt), if !idle && !may_go => Ok(Event::MayGo),
                ready = stream.writable(), if !idle && may_go => ready.map(|()| Event::Writable),
                ready = local.readable(), if reads && qemu == Qemu::Flowing => ready.map(|()| Event::Readable),
                () = pace.pause(pause_end(qemu)), if reads && matches!(qemu, Qemu::Pausing(..)) => Ok(Event::Paused),
            }?;
            match event {
                Event::Back => {
                    let before = self.connection.outgoing.len();
                    let over = self.take_back().await?;
                    if may_go {
                        debt.add(self.connection.outgoing.len() - before);
                    }
                    if over {
                        return if closed {
                            self.local_write.shutdown().await
                        } else {
                            Err(io::ErrorKind::ConnectionAborted.into())
                        };
                    }
                }
                Event::MayGo => {
                    may_go = true;
                    self.write(&mut may_go, closed)?;
                }
                Event::Writable => self.write(&mut may_go, closed)?,
                Event::Readable => {
                    let queued = rustix::io::ioctl_fionread(local)?;
                    let next = self.source.pace.next_read(&mut hold, queued as usize);
                    qemu = if next.pause.is_zero() {
                        self.read(local, next.bytes_max)?
                    } else {
                        Qemu::Pausing(tokio::time::Instant::now() + next.pause, next.bytes_max)
                    };
                }
                Event::Paused => {
                    if let Qemu::Pausing(_, most) = qemu {
                        qemu = self.read(local, most)?;
                    }
                }
            }
            self.publish();
        }
    }

    /// Sends what waits; when all is with the kernel, how it fared says what the link carries.
    fn write(&mut self, may_go: &mut bool, closed: bool) -> io::Result<()> {
        self.connection.outgoing.write(&self.connection.stream)?;
        if !self.connection.outgoing.is_empty() {
            return Ok(());
        }
        *may_go = false;
        if closed {
            self.connection.shut()?;
        }
        if let Some(push) = self.push.take() {
            self.look_at_link(push)?;
        }
        self.idle_since = Instant::now();
        Ok(())
    }

    /// Takes QEMU's next bytes on their way.
    fn read(&mut self, local: &UnixStream, most: usize) -> io::Result<Qemu> {
        let begun = Instant::now();
        if self.source.pace.rate() != self.told_pace {
            self.tell_rate();
        }
        self.source.encoder.hurry(self.source.pace.hurries());
        let read = match self.source.encoder.way() {
            Way::Plain(_) => {
                let encoder = &mut self.source.encoder;
                let head = |pieces: &[&[u8]]| encoder.plain(pieces).expect("its way is plain");
                self.connection.outgoing.read_plain(local, most, head)?
            }
            Way::Coded => self.encode(local, most, begun)?,
        };
        match read {
            None => return Ok(Qemu::Flowing),
            Some(0) => {
                self.source.encoder.finish(&mut self.out).map_err(invalid)?;
                self.hand_on()?;
                return Ok(Qemu::Ended);
            }
            Some(_) => {}
        }
        if let Some(reason) = self.source.encoder.passed_through()
            && !std::mem::replace(&mut self.said_pass_through, true)
        {
            tracing::info!(vm = %self.source.vm, "the rest of the page stream passes as it is: {reason}");
        }
        self.push = Some(Push {
            idle: begun - self.idle_since,
            busy: begun.elapsed(),
        });
        Ok(Qemu::Flowing)
    }

    /// Reads and encodes; sends what is gathered where nothing follows at once.
    fn encode(&mut self, local: &UnixStream, most: usize, begun: Instant) -> io::Result<Option<usize>> {
        let most = most.min(self.chunk.len());
        let Some(read) = ready(local.try_read(&mut self.chunk[..most]))? else {
            return Ok(None);
        };
        let encoder = &mut self.source.encoder;
        {
            let mut knowledge = locked(&self.source.knowledge);
            encoder
                .push(&self.chunk[..read], &mut knowledge, &mut self.out)
                .map_err(invalid)?;
        }
        if rustix::io::ioctl_fionread(local)? == 0 {
            encoder.flush(&mut self.out).map_err(invalid)?;
        }
        self.untold.0 += read as u64;
        self.untold.1 += begun.elapsed().as_nanos() as u64;
        if self.untold.0 >= TOOK_BYTES {
            encoder.took(self.untold.1);
            self.untold = (0, 0);
        }
        self.hand_on()?;
        Ok(Some(read))
    }

    /// Frames to what is sent.
    fn hand_on(&mut self) -> io::Result<()> {
        self.connection.outgoing.push(&self.out)?;
        self.out.clear();
        Ok(())
    }

    /// The chooser weighs against what the link carries.
    fn look_at_link(&mut self, push: Push) -> io::Result<()> {
        let delivered = Delivered::of(&self.connection.stream)?;
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

    /// What the link carries or what the stream may use of it, whichever is less.
    fn tell_rate(&mut self) {
        self.told_pace = self.source.pace.rate();
        let known = [self.link.rate(), self.told_pace];
        self.source.encoder.link_rate(known.into_iter().flatten().min());
    }

    /// Takes what has come back. True when nothing more will.
    async fn take_back(&mut self) -> io::Result<bool> {
        let Some(read) = self.connection.incoming.read(&self.connection.stream)? else {
            return Ok(false);
        };
        let (mut returned, mut passed) = (Vec::new(), Vec::new());
        self.connection.incoming.open()?;
        for bytes in self.connection.incoming.opened() {
            let mut knowledge = locked(&self.source.knowledge);
            self.source
                .encoder
                .answer(bytes, &mut knowledge, &mut self.out, &mut returned)
                .map_err(invalid)?;
        }
        self.connection.incoming.take_all();
        // Supplied pages go behind what waits already.
        self.hand_on()?;
        if self.connection.outgoing.is_full() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the target asks for more than it takes",
            ));
        }
        if !returned.is_empty() {
            self.filter.push(&returned, &mut passed);
            self.local_write.write_all(&passed).await?;
        }
        self.connection.incoming.is_over(read)
    }

    fn publish(&self) {
        *locked(&self.source.snapshot) = StreamSnapshot {
            account: self.source.encoder.account(),
            behind_bytes: self.source.encoder.behind_bytes(),
        };
    }
}

fn pause_end(qemu: Qemu) -> tokio::time::Instant {
    match qemu {
        Qemu::Pausing(end, _) => end,
        Qemu::Flowing | Qemu::Ended => tokio::time::Instant::now(),
    }
}

/// A chunk that was taken, until the kernel has it.
struct Push {
    /// Wait for QEMU before it.
    idle: Duration,
    busy: Duration,
}

impl Drop for Stage {
    fn drop(&mut self) {
        locked(&self.source.rates).insert(self.source.target, self.link.estimate());
        // What a broken stream sent may never arrive: nobody is to count on it.
        if !self.source.encoder.settled() {
            locked(&self.source.knowledge).forget_promises();
        }
    }
}
