//! The thread that captures: reads every frame from the stopped guest's tap, keeps it, forwards it, and closes the old path.
//!
//! ```text
//!  Forwarding ──finish──▶ AwaitMarker ──seen──▶ Settling ──▶ FIN ──▶ AwaitFlooding ──▶ Late ──▶ CLOSE ──▶ AwaitDelivery ──▶ over
//!                              └──────not in time──▶ Lingering ──┘
//! ```
//!
//! The marker is any frame of the VM's own that the fabric brings to the source: the target has spoken, and what the
//! fabric sent towards the source before it learned so lies in the tap in front of it. The announcement is such a frame.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

use crate::account::{OldPath, SourceAccount};
use crate::frame::{self, Class};
use crate::limits::{
    DELIVERY_WAIT, EMPTY_LOOKS, EMPTY_LOOKS_MAX, EMPTY_PAUSE, FLOODING_WAIT, LATE_QUIET, LATE_WAIT, LINGER,
    MARKER_SETTLE, MARKER_WAIT, READ_BATCH_FRAMES, RECONNECT_PAUSE, RECONNECTS_MAX, RING_FRAMES,
};
use crate::sender::Sender;
use crate::source::SourceConfig;
use crate::spool::{Kind, Spool};
use crate::tap::Tap;
use crate::tunnel::{self, Answer, NicIdentity};
use crate::{Event, Events};

/// Where the closing of the old path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    Forwarding,
    AwaitMarker { until: Instant },
    Settling { until: Instant, how: OldPath },
    AwaitFlooding { until: Instant },
    Late { quiet_at: Instant, until: Instant },
    AwaitDelivery { until: Instant },
    Over,
}

enum Command {
    Committed,
    Finish,
    Stop,
}

/// The handle of a running thread.
pub(crate) struct Capture {
    commands: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
    thread: JoinHandle<Worker>,
}

impl Capture {
    pub(crate) fn spawn(mut worker: Worker) -> io::Result<Self> {
        let (commands, queue) = mpsc::channel();
        let wake = worker.wake.clone();
        let name = format!("capture {}", worker.tap.name());
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            worker.run(&queue);
            worker
        })?;
        Ok(Self {
            commands,
            wake,
            thread,
        })
    }

    fn command(&self, command: Command) {
        // A thread that has ended is noticed when it is joined.
        let _ = self.commands.send(command);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    pub(crate) fn committed(&self) {
        self.command(Command::Committed);
    }

    /// Closes the old path; returns the worker when everything is delivered.
    pub(crate) fn finish(self) -> Option<Worker> {
        self.command(Command::Finish);
        self.thread.join().ok()
    }

    /// Ends the thread where it is.
    pub(crate) fn stop(self) -> Option<Worker> {
        self.command(Command::Stop);
        self.thread.join().ok()
    }
}

/// What the thread owns.
pub(crate) struct Worker {
    identity: NicIdentity,
    tap: Tap,
    spool: Spool,
    tunnel: Option<Sender>,
    peer: Option<SocketAddr>,
    wake: Arc<OwnedFd>,
    events: Events,
    bytes_max: usize,
    committed: bool,
    draining: bool,
    limit_told: bool,
    closing: Closing,
    marker_seen: bool,
    flooding_on: bool,
    delivered: u64,
    reconnects: u32,
    reconnect_at: Instant,
    /// When a unicast frame was last read.
    frame_at: Instant,
    own_echo: u64,
    /// Unicast frames found in the ring when all was over: nobody delivers them.
    missed: u64,
}

impl Worker {
    pub(crate) fn new(
        config: &SourceConfig,
        tap: Tap,
        spool: Spool,
        stream: Option<TcpStream>,
        peer: Option<SocketAddr>,
        events: Events,
    ) -> Self {
        let wake = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let sent = spool.start();
        Self {
            identity: config.identity.clone(),
            tap,
            tunnel: stream.map(|stream| Sender::new(stream, sent)),
            spool,
            peer,
            wake: Arc::new(wake.expect("an eventfd needs nothing but a free descriptor")),
            events,
            bytes_max: config.buffer_bytes_max as usize,
            committed: false,
            draining: false,
            limit_told: false,
            closing: Closing::Forwarding,
            marker_seen: false,
            flooding_on: false,
            delivered: 0,
            reconnects: 0,
            reconnect_at: Instant::now(),
            frame_at: Instant::now(),
            own_echo: 0,
            missed: 0,
        }
    }

    pub(crate) fn into_spool(self) -> Spool {
        self.spool
    }

    /// What was captured, counted from the spool itself.
    pub(crate) fn account(&self) -> SourceAccount {
        let mut account = SourceAccount {
            own_echo: self.own_echo,
            dropped: self.missed,
            ..SourceAccount::default()
        };
        let mut at = self.spool.start();
        while let Ok(Some(record)) = self.spool.record(at) {
            match record.kind {
                Kind::Unicast => account.captured += 1,
                Kind::Broadcast => account.broadcast += 1,
                Kind::Fin | Kind::Close => {}
            }
            if matches!(record.kind, Kind::Unicast | Kind::Broadcast) {
                account.bytes += record.data.len().saturating_sub(self.spool.vnet_header_bytes()) as u64;
            }
            at = record.next;
        }
        account.peak_bytes = self.spool.bytes() as u64;
        account.old_path = match self.closing {
            Closing::Forwarding => None,
            _ if self.marker_seen => Some(OldPath::Marker),
            _ => Some(OldPath::Lingered),
        };
        account
    }

    fn run(&mut self, commands: &mpsc::Receiver<Command>) {
        while self.closing != Closing::Over {
            if let Err(error) = self.wait() {
                return (self.events)(Event::Broken {
                    what: format!("waiting for frames failed: {error}"),
                });
            }
            for command in commands.try_iter() {
                match command {
                    Command::Committed => self.committed = true,
                    Command::Finish => {
                        self.committed = true;
                        self.closing = Closing::AwaitMarker {
                            until: Instant::now() + MARKER_WAIT,
                        };
                    }
                    Command::Stop => return,
                }
            }
            self.read_frames(READ_BATCH_FRAMES);
            self.serve_tunnel();
            // A step may bring the next one's answer with it; sleeping then would be until its limit.
            let mut before = None;
            while before != Some(self.closing) {
                before = Some(self.closing);
                self.advance(Instant::now());
            }
        }
    }

    fn full(&self) -> bool {
        !self.committed && !self.draining && self.spool.bytes() >= self.bytes_max
    }

    /// Sleeps until there is something to do, and takes the wake-up call off the wake descriptor.
    fn wait(&self) -> io::Result<()> {
        let timeout = match self.closing {
            Closing::AwaitMarker { until }
            | Closing::Settling { until, .. }
            | Closing::AwaitFlooding { until }
            | Closing::Late { quiet_at: until, .. }
            | Closing::AwaitDelivery { until } => Some(until.saturating_duration_since(Instant::now())),
            Closing::Forwarding | Closing::Over => None,
        };
        let broken = self.tunnel.is_none() && self.committed && self.peer.is_some();
        let timeout = if broken {
            Some(timeout.unwrap_or(RECONNECT_PAUSE).min(RECONNECT_PAUSE))
        } else {
            timeout
        };
        let timeout = timeout.map(|wait| Timespec::try_from(wait).expect("limits are seconds"));
        let tap = self.tap.fd();
        let mut polled = vec![PollFd::new(self.wake.as_ref(), PollFlags::IN)];
        if !self.full() {
            polled.push(PollFd::new(&tap, PollFlags::IN));
        }
        if let Some(tunnel) = &self.tunnel {
            let unsent = tunnel.behind(&self.spool);
            let wanted = if unsent {
                PollFlags::IN | PollFlags::OUT
            } else {
                PollFlags::IN
            };
            polled.push(PollFd::new(tunnel.stream(), wanted));
        }
        rustix::event::poll(&mut polled, timeout.as_ref())?;
        let mut count = [0; 8];
        // Empty most of the time.
        let _ = rustix::io::read(&self.wake, &mut count);
        Ok(())
    }

    /// Reads what is there, at most `most` frames; returns whether the ring was seen empty.
    fn read_frames(&mut self, most: usize) -> bool {
        for _ in 0..most {
            if self.full() {
                if !self.limit_told {
                    self.limit_told = true;
                    (self.events)(Event::LimitReached {
                        bytes: self.spool.bytes() as u64,
                    });
                }
                return false;
            }
            let vnet = self.spool.vnet_header_bytes();
            let Some(room) = self.spool.room() else {
                if !self.limit_told {
                    self.limit_told = true;
                    (self.events)(Event::LimitReached {
                        bytes: self.spool.bytes() as u64,
                    });
                }
                return false;
            };
            let Ok(length) = rustix::io::read(self.tap.fd(), &mut *room) else {
                return true;
            };
            let class = room
                .get(vnet..length)
                .map_or(Class::Runt, |read| frame::classify(read, self.identity.mac));
            match class {
                Class::Unicast => {
                    self.frame_at = Instant::now();
                    self.spool.publish(Kind::Unicast, length);
                }
                // Once the target's port is flooded, what floods reaches it there.
                Class::Broadcast if self.flooding_on => self.spool.skip(length),
                Class::Broadcast => drop(self.spool.publish(Kind::Broadcast, length)),
                Class::OwnEcho => {
                    self.own_echo += 1;
                    self.marker_seen = true;
                    self.spool.skip(length);
                }
                Class::Dummy | Class::Runt => self.spool.skip(length),
            }
        }
        false
    }

    /// Reads until the ring is seen empty. On an abort the limit no longer counts: what is left in the ring must come behind what is
    /// in the spool. The spool has room for several rings.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
        while !self.read_frames(READ_BATCH_FRAMES) && self.spool.room().is_some() {}
    }

    /// Reads until nothing is in the ring nor in the plug in front of it: a frame may wait there for a processor to pass it on.
    fn drain_all(&mut self) {
        let mut seen = 0;
        for _ in 0..EMPTY_LOOKS_MAX {
            self.drain();
            match self.tap.plug_is_empty() {
                Ok(true) => seen += 1,
                Ok(false) => seen = 0,
                Err(error) => return self.tell(Err(error)),
            }
            if seen == EMPTY_LOOKS {
                return self.drain();
            }
            std::thread::sleep(EMPTY_PAUSE);
        }
    }

    /// What came after the path was closed would be lost without a word; the account must say so.
    fn count_missed(&mut self) {
        let vnet = self.spool.vnet_header_bytes();
        for _ in 0..RING_FRAMES {
            let Some(room) = self.spool.room() else { return };
            let Ok(length) = rustix::io::read(self.tap.fd(), &mut *room) else {
                return;
            };
            let class = room
                .get(vnet..length)
                .map(|read| frame::classify(read, self.identity.mac));
            self.missed += u64::from(class == Some(Class::Unicast));
            self.spool.skip(length);
        }
    }

    /// After commit nothing unwinds: what fails is told, and the closing goes on.
    fn tell(&self, result: Result<(), crate::Error>) {
        if let Err(error) = result {
            (self.events)(Event::Broken {
                what: error.to_string(),
            });
        }
    }

    fn advance(&mut self, now: Instant) {
        let marker = self.marker_seen;
        match self.closing {
            Closing::Forwarding | Closing::Over => {}
            Closing::AwaitMarker { .. } if marker => {
                self.closing = Closing::Settling {
                    until: now + MARKER_SETTLE,
                    how: OldPath::Marker,
                };
            }
            Closing::AwaitMarker { until } if now >= until => {
                self.closing = Closing::Settling {
                    until: now + LINGER,
                    how: OldPath::Lingered,
                };
            }
            Closing::Settling { until, how } if now >= until => {
                tracing::debug!(vm = %self.identity.vm, ?how, "the old path is empty");
                let let_go = self.tap.let_go(self.identity.mac);
                self.tell(let_go);
                self.drain_all();
                self.spool.publish(Kind::Fin, 0);
                self.serve_tunnel();
                self.closing = Closing::AwaitFlooding {
                    until: now + FLOODING_WAIT,
                };
            }
            Closing::AwaitFlooding { .. } if self.flooding_on => {
                self.frame_at = now;
                self.closing = Closing::Late {
                    quiet_at: now + LATE_QUIET,
                    until: now + LATE_WAIT,
                };
            }
            Closing::AwaitFlooding { until } if now >= until => {
                (self.events)(Event::Broken {
                    what: "the target did not answer FIN in time".to_owned(),
                });
                self.closing = Closing::AwaitFlooding {
                    until: now + FLOODING_WAIT,
                };
            }
            Closing::Late { quiet_at, until }
                if now >= quiet_at && now < until && self.frame_at + LATE_QUIET > now =>
            {
                self.closing = Closing::Late {
                    quiet_at: (self.frame_at + LATE_QUIET).min(until),
                    until,
                };
            }
            Closing::Late { quiet_at, .. } if now >= quiet_at => {
                let undiverted = self.tap.undivert(self.identity.mac);
                self.tell(undiverted);
                self.drain_all();
                self.spool.publish(Kind::Close, 0);
                self.serve_tunnel();
                self.closing = Closing::AwaitDelivery {
                    until: now + DELIVERY_WAIT,
                };
            }
            Closing::AwaitDelivery { .. } if self.delivered >= self.spool.last() => {
                self.count_missed();
                self.closing = Closing::Over;
            }
            Closing::AwaitDelivery { until } if now >= until => {
                (self.events)(Event::Broken {
                    what: "the guest does not take its frames".to_owned(),
                });
                self.closing = Closing::AwaitDelivery {
                    until: now + DELIVERY_WAIT,
                };
            }
            Closing::AwaitMarker { .. }
            | Closing::Settling { .. }
            | Closing::AwaitFlooding { .. }
            | Closing::Late { .. }
            | Closing::AwaitDelivery { .. } => {}
        }
    }

    fn serve_tunnel(&mut self) {
        self.reconnect();
        let Some(tunnel) = &mut self.tunnel else { return };
        let mut answers = Vec::new();
        let served = tunnel
            .send(&self.spool)
            .and_then(|()| tunnel.receive(&mut answers));
        for answer in answers {
            match answer {
                Answer::Delivered(number) => self.delivered = self.delivered.max(number),
                Answer::FloodingOn => self.flooding_on = true,
                Answer::Welcome(_) => {}
            }
        }
        if let Err(error) = served {
            self.tunnel = None;
            self.reconnect_at = Instant::now() + RECONNECT_PAUSE;
            if !self.committed {
                (self.events)(Event::TunnelBroken {
                    why: error.to_string(),
                });
            }
        }
    }

    /// After commit a broken tunnel is connected again, and goes on behind the last record that the target has.
    fn reconnect(&mut self) {
        let due = self.committed && self.tunnel.is_none() && Instant::now() >= self.reconnect_at;
        let Some(peer) = self.peer.filter(|_| due && self.reconnects < RECONNECTS_MAX) else {
            return;
        };
        self.reconnects += 1;
        self.reconnect_at = Instant::now() + RECONNECT_PAUSE;
        match tunnel::connect(peer, &self.identity, self.spool.vnet_header_bytes()) {
            Ok((stream, have)) => {
                let sent = self.spool.after(have);
                self.tunnel = Some(Sender::new(stream, sent));
            }
            Err(error) if self.reconnects == RECONNECTS_MAX => {
                (self.events)(Event::Broken {
                    what: format!("the tunnel stays broken: {error}"),
                });
            }
            Err(_) => {}
        }
    }
}
