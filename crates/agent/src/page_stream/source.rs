//! The source's half of a page stream: QEMU's bytes become frames.
//!
//! ```text
//!  QEMU ──▶ read (pace) ──▶ encode ──▶ write (rate) ──▶ target agent
//!                └──── as they are ───▶┘
//!       ◀── filter ◀── returned ──┘ ◀──── back ────
//! ```
//!
//! One task. In a stream's first pass it reads on while a little waits for the link: memory that
//! packs badly keeps the link busy and the processor idle, and memory that packs well the other way
//! round. Later what it has read goes out before it reads on, for it would lie in front of the last
//! pages. Either way a slow link stops QEMU. It never writes with its ears shut: what comes back is
//! taken first, or two full pipes would wait for each other.

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
use crate::limits::{PAGE_AHEAD, PAGE_AHEAD_BYTES_MAX, PAGE_CHUNK_BYTES};
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
    /// What may be sent or retained and not acknowledged, beside what is read ahead.
    pub window_bytes_max: u64,
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
        let (mut may_go, mut closed) = (None, false);
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
            let reads = self.has_window() && (idle || self.reads_ahead());
            let stream = &self.connection.stream;
            let pace = &self.source.pace;
            let turn = self.connection.outgoing.len().min(PAGE_CHUNK_BYTES);
            let event = tokio::select! {
                biased;
                ready = stream.readable() => ready.map(|()| Event::Back),
                () = pace.space(turn, &mut debt), if !idle && may_go.is_none() => Ok(Event::MayGo),
                ready = stream.writable(), if !idle && may_go.is_some() => ready.map(|()| Event::Writable),
                ready = local.readable(), if reads && qemu == Qemu::Flowing => ready.map(|()| Event::Readable),
                () = pace.pause(pause_end(qemu)), if reads && matches!(qemu, Qemu::Pausing(..)) => Ok(Event::Paused),
            }?;
            match event {
                Event::Back => {
                    if self.take_back().await? {
                        return if closed {
                            self.local_write.shutdown().await
                        } else {
                            Err(io::ErrorKind::ConnectionAborted.into())
                        };
                    }
                }
                Event::MayGo => may_go = self.write(turn, closed)?,
                Event::Writable => may_go = self.write(may_go.unwrap_or(turn), closed)?,
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

    /// Whether the target is not too far behind what has been sent to it.
    fn has_window(&self) -> bool {
        let waits = self.connection.outgoing.len() as u64;
        let most = self.source.window_bytes_max + waits;
        self.source.encoder.ready() && self.source.encoder.behind_bytes() < most
    }

    /// Whether QEMU is read while something waits for the link. Not once its guest may be stopped:
    /// what waits in front of the last pages lengthens the blackout.
    fn reads_ahead(&self) -> bool {
        let waits = self.connection.outgoing.len();
        self.source.encoder.way() == Way::Coded
            && !self.source.pace.was_held()
            && waits < self.ahead_bytes_max()
    }

    /// What may wait for the link while QEMU is read.
    fn ahead_bytes_max(&self) -> usize {
        let link = self.link.estimate();
        let rate = self.told_pace.map_or(link, |pace| pace.min(link));
        let bytes = u128::from(rate) * PAGE_AHEAD.as_millis() / 1000;
        usize::try_from(bytes).map_or(PAGE_AHEAD_BYTES_MAX, |bytes| bytes.min(PAGE_AHEAD_BYTES_MAX))
    }

    /// Sends so much of what waits; returns how much of it may still go, None where it is gone. How
    /// it fared says what the link carries.
    fn write(&mut self, may_go: usize, closed: bool) -> io::Result<Option<usize>> {
        let written = self.connection.outgoing.write(&self.connection.stream, may_go)?;
        if written > 0
            && let Some(push) = self.push.take()
        {
            self.look_at_link(push)?;
        }
        let left = may_go - written;
        if !self.connection.outgoing.is_empty() {
            return Ok((left > 0 || may_go == 0).then_some(left));
        }
        if closed {
            self.connection.shut()?;
        }
        self.idle_since = Instant::now();
        Ok(None)
    }

    /// Takes QEMU's next bytes on their way.
    fn read(&mut self, local: &UnixStream, most: usize) -> io::Result<Qemu> {
        let begun = Instant::now();
        let idle = match self.connection.outgoing.is_empty() {
            true => begun - self.idle_since,
            false => Duration::ZERO,
        };
        let crowded = 2 * self.connection.outgoing.len() >= self.ahead_bytes_max();
        self.source.encoder.crowded(crowded);
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
            idle,
            busy: begun.elapsed(),
        });
        Ok(Qemu::Flowing)
    }

    /// Reads and encodes; sends what is gathered where nothing follows at once. Of an idle stream,
    /// which is read in bites, something always follows, and nothing that matters: what it has
    /// promised to other streams must not wait for more.
    fn encode(&mut self, local: &UnixStream, most: usize, begun: Instant) -> io::Result<Option<usize>> {
        let bite = most < self.chunk.len();
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
        if bite || rustix::io::ioctl_fionread(local)? == 0 {
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Mutex;

    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpSocket, TcpStream};
    use transhume_model::ClusterName;
    use transhume_pages::stream::Page;
    use transhume_pages::{ContentKey, EncoderConfig, Knowledge};

    use super::*;
    use crate::limits::PAGE_SEND_BUFFER_BYTES;

    const PAGES: usize = 4096;
    const TARGET_BUFFER_BYTES: u32 = 64 << 10;
    /// What the sockets hold, twice what they were given, and what is read at once.
    const UNDER_WAY_BYTES_MAX: u64 =
        2 * (PAGE_SEND_BUFFER_BYTES as u64 + TARGET_BUFFER_BYTES as u64) + PAGE_CHUNK_BYTES as u64;

    /// The beginning of a migration stream, and some pages that nothing compresses.
    fn stream(pages: usize) -> Vec<u8> {
        let bytes = PAGES as u64 * 4096;
        let mut out =
            b"QEVM\0\0\0\x03\x07\0\0\0\x0bpc-q35-10.0\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04".to_vec();
        out.extend((bytes | 0x04).to_be_bytes());
        out.extend(b"\x06pc.ram");
        out.extend(bytes.to_be_bytes());
        out.extend(0x10u64.to_be_bytes());
        out.extend(b"\x7e\0\0\0\x02\x02\0\0\0\x02");
        let mut state = 1u64;
        for number in 0..pages as u64 {
            let page: Page = std::array::from_fn(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            });
            let again = if number > 0 { 0x20 } else { 0 };
            out.extend(((number * 4096) | 0x08 | again).to_be_bytes());
            out.extend(if number > 0 { &b""[..] } else { b"\x06pc.ram" });
            out.extend(page);
        }
        out
    }

    /// Both ends of a connection whose sockets hold little.
    async fn connection() -> (Connection, TcpStream) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(TARGET_BUFFER_BYTES).unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener: TcpListener = socket.listen(1).unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&dialled, PAGE_SEND_BUFFER_BYTES).unwrap();
        (Connection::clear(dialled), listener.accept().await.unwrap().0)
    }

    /// A stream whose target acknowledges nothing.
    fn source(pace: &Arc<Pace>, snapshot: &SharedSnapshot) -> Source {
        let key = ContentKey::of(&"herd".parse::<ClusterName>().unwrap(), &[]);
        let window_bytes_max = PAGES as u64 * 8192;
        let config = EncoderConfig {
            window_bytes_max,
            ..EncoderConfig::new(key)
        };
        Source {
            vm: "vm-1".parse().unwrap(),
            encoder: Encoder::new(config).unwrap(),
            target: Ipv4Addr::LOCALHOST.into(),
            rates: LinkRates::default(),
            knowledge: Arc::new(Mutex::new(Knowledge::default())),
            pace: pace.clone(),
            window_bytes_max,
            snapshot: snapshot.clone(),
        }
    }

    /// While the first pass goes on some pages wait for the link; once the guest may be stopped
    /// nothing lies in front of the last ones but what the kernel has.
    #[tokio::test]
    async fn only_a_first_pass_is_read_ahead_of_its_link() {
        let (pace, snapshot) = (Arc::<Pace>::default(), SharedSnapshot::default());
        let source = source(&pace, &snapshot);
        let (connection, mut target) = connection().await;
        let (mut qemu, local) = UnixStream::pair().unwrap();
        let running = tokio::spawn(run(source, local, connection));
        let writing = tokio::spawn(async move { qemu.write_all(&stream(PAGES)).await });
        let taken = || locked(&snapshot).account.stream_bytes;
        let mut limit = 10_000;
        while taken() < UNDER_WAY_BYTES_MAX + (1 << 20) {
            limit -= 1;
            assert!(limit > 0, "{} bytes were taken and no more", taken());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        pace.hold();
        let (mut got, mut caught_up, mut bite) = (0, false, [0; 64 << 10]);
        while got < PAGES as u64 * 4096 * 3 / 4 {
            let read = target.read(&mut bite).await.unwrap();
            assert!(read > 0, "the source has ended: {:?}", running.await);
            got += read as u64;
            tokio::time::sleep(Duration::from_millis(1)).await;
            // The wire has some bytes more than QEMU's stream.
            let under_way = taken().saturating_sub(got);
            caught_up |= under_way <= UNDER_WAY_BYTES_MAX;
            assert!(!caught_up || under_way <= UNDER_WAY_BYTES_MAX, "{under_way}");
        }
        assert!(caught_up);
        running.abort();
        writing.abort();
    }
    /// Found in batches whose guests hold the same pages: the last pages of an idle stream waited
    /// for others of their group, and other streams waited for them, for three seconds.
    #[tokio::test]
    async fn what_an_idle_stream_holds_goes_out() {
        let (pace, snapshot) = (Arc::<Pace>::default(), SharedSnapshot::default());
        pace.hold();
        let source = source(&pace, &snapshot);
        let (connection, mut target) = connection().await;
        let (mut qemu, local) = UnixStream::pair().unwrap();
        qemu.write_all(&stream(1)).await.unwrap();
        let running = tokio::spawn(run(source, local, connection));
        // As QEMU does: so little that the stream is idle, and never nothing.
        let writing = tokio::spawn(async move {
            loop {
                qemu.write_all(&0x200u64.to_be_bytes()).await.unwrap();
            }
        });
        let (mut got, mut bite) = (0, [0; 64 << 10]);
        let arrives = async {
            while got < 4096 {
                got += target.read(&mut bite).await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(30), arrives)
            .await
            .unwrap();
        running.abort();
        writing.abort();
    }
}
