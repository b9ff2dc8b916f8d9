//! What the capturing thread does: reads the tap, keeps each frame, sends it on.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use transhume_model::Endpoint;
use transhume_trust::Security;

use super::Command;
use crate::account::{OldPath, SourceAccount};
use crate::channel::Channel;
use crate::closing::Closing;
use crate::config::{NicIdentity, SourceConfig};
use crate::frame::{Addresses, Class, Signature};
use crate::limits::{
    EMPTY_LOOKS, EMPTY_LOOKS_MAX, EMPTY_PAUSE, READ_BATCH_FRAMES, RECONNECT_PAUSE, RECONNECT_WAIT,
    RECONNECTS_REPORTED, RING_FRAMES,
};
use crate::meter::Meter;
use crate::reading::{self, Read};
use crate::sender::Sender;
use crate::spool::{Note, Spool};
use crate::tap::Tap;
use crate::tunnel::{self, Answer, Connected};
use crate::{Event, Events};

/// What the thread owns.
pub(crate) struct Worker {
    pub(crate) identity: NicIdentity,
    pub(crate) own: Addresses,
    pub(crate) tap: Tap,
    pub(crate) spool: Spool,
    tunnel: Option<Sender>,
    peer: Option<Endpoint>,
    security: Security,
    wake: Arc<OwnedFd>,
    meter: Arc<Meter>,
    events: Events,
    bytes_max: usize,
    committed: bool,
    draining: bool,
    limit_reported: bool,
    /// The tap cannot be read any more.
    tap_gone: bool,
    pub(crate) closing: Closing,
    pub(crate) flooding_on: bool,
    reconnects: u32,
    reconnect_at: Instant,
    /// A connection that is being made, on a thread of its own: the tap is read meanwhile.
    connecting: Option<mpsc::Receiver<io::Result<Connected>>>,
    /// When a unicast frame was last read.
    pub(crate) frame_at: Instant,
    pub(crate) marker_seen: bool,
    /// Unicast frames in the spool.
    captured: u64,
    own_echo: u64,
    second_speaker: u64,
    /// Unicast frames found in the ring when all was over: nobody delivers them.
    missed: u64,
}

/// Where the captured frames go.
pub(crate) struct Outlet {
    pub(crate) tunnel: Option<Channel>,
    pub(crate) peer: Option<Endpoint>,
}

impl Worker {
    pub(crate) fn new(
        config: &SourceConfig,
        tap: Tap,
        spool: Spool,
        outlet: Outlet,
        wake: Arc<OwnedFd>,
        meter: Arc<Meter>,
        events: Events,
    ) -> Self {
        let (sent, closing) = (spool.start(), Closing::resumed(&spool, Instant::now()));
        Self {
            identity: config.identity.clone(),
            own: spool.addresses(config.identity.mac),
            tap,
            tunnel: outlet.tunnel.map(|channel| Sender::new(channel, sent)),
            captured: spool.counts(u64::MAX).unicast,
            spool,
            peer: outlet.peer,
            security: config.security.clone(),
            connecting: None,
            wake,
            meter,
            events,
            bytes_max: config.buffer_bytes_max as usize,
            committed: closing != Closing::Forwarding,
            draining: false,
            limit_reported: false,
            tap_gone: false,
            closing,
            marker_seen: false,
            flooding_on: false,
            reconnects: 0,
            reconnect_at: Instant::now(),
            frame_at: Instant::now(),
            own_echo: 0,
            second_speaker: 0,
            missed: 0,
        }
    }

    pub(crate) fn into_spool(self) -> Spool {
        self.spool
    }

    /// Drops of the tap that are not this buffer's: those before it was opened, and what was tried
    /// again.
    pub(crate) fn known_drops(&self) -> u64 {
        self.spool.note(Note::DroppedBefore) + self.spool.note(Note::Refused)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.closing == Closing::Over
    }

    /// What was captured, counted from the spool itself.
    pub(crate) fn account(&self) -> SourceAccount {
        SourceAccount {
            own_echo: self.own_echo,
            second_speaker: self.second_speaker,
            dropped: self.missed,
            ..account_of(&self.spool)
        }
    }

    pub(super) fn run(&mut self, commands: &mpsc::Receiver<Command>) {
        self.tell_meter();
        while !self.is_over() {
            if let Err(error) = self.wait() {
                return self.broken(format!("waiting for frames failed: {error}"));
            }
            for command in commands.try_iter() {
                match command {
                    Command::Committed => self.committed = true,
                    Command::Finish => {
                        self.committed = true;
                        self.begin_closing(Instant::now());
                    }
                    Command::Stop => return,
                }
            }
            self.read_frames(READ_BATCH_FRAMES);
            self.serve_tunnel();
            // A step may bring the next one's answer with it; sleeping then would be until its
            // limit.
            let mut before = None;
            while before != Some(self.closing) {
                before = Some(self.closing);
                self.advance(Instant::now());
            }
            self.tell_meter();
        }
    }

    fn tell_meter(&self) {
        let kept = self.spool.bytes();
        let waiting = self
            .tunnel
            .as_ref()
            .map_or(kept, |tunnel| tunnel.waiting_bytes(&self.spool));
        self.meter.tell(kept, waiting, self.captured);
    }

    fn full(&self) -> bool {
        !self.committed && !self.draining && self.spool.bytes() >= self.bytes_max
    }

    /// Sleeps until there is something to do, and takes the wake-up call off the wake descriptor.
    fn wait(&self) -> io::Result<()> {
        let timeout = self
            .closing
            .until()
            .map(|until| until.saturating_duration_since(Instant::now()));
        let broken = self.tunnel.is_none() && self.committed && self.peer.is_some();
        let timeout = match broken && self.connecting.is_none() {
            true => Some(timeout.unwrap_or(RECONNECT_PAUSE).min(RECONNECT_PAUSE)),
            false => timeout,
        };
        let unread = self.tunnel.as_ref().is_some_and(Sender::has_unread);
        let timeout = if unread { Some(Duration::ZERO) } else { timeout };
        let timeout = timeout.map(|wait| Timespec::try_from(wait).expect("limits are seconds"));
        let tap = self.tap.fd();
        let mut polled = vec![PollFd::new(self.wake.as_ref(), PollFlags::IN)];
        if !self.full() && !self.tap_gone {
            polled.push(PollFd::new(&tap, PollFlags::IN));
        }
        if let Some(tunnel) = &self.tunnel {
            let wanted = match tunnel.behind(&self.spool) {
                true => PollFlags::IN | PollFlags::OUT,
                false => PollFlags::IN,
            };
            polled.push(PollFd::new(tunnel.stream(), wanted));
        }
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Err(error) if error != rustix::io::Errno::INTR => return Err(error.into()),
            _ => {}
        }
        let mut count = [0; 8];
        // Empty most of the time.
        let _ = rustix::io::read(&self.wake, &mut count);
        Ok(())
    }

    fn report_limit(&mut self) {
        if !std::mem::replace(&mut self.limit_reported, true) {
            (self.events)(Event::LimitReached {
                bytes: self.spool.bytes() as u64,
            });
        }
    }

    /// Reads what is there, at most `most` frames; whether more may be there.
    fn read_frames(&mut self, most: usize) -> bool {
        if self.tap_gone {
            return false;
        }
        for _ in 0..most {
            if self.full() {
                self.report_limit();
                return false;
            }
            // Once the target's port is flooded, what floods reaches it there.
            let broadcasts = !self.flooding_on;
            match reading::read_frame(&self.tap, &mut self.spool, &self.own, broadcasts) {
                Read::Frame(class) => self.note_frame(class),
                Read::Empty => return false,
                Read::Full => {
                    self.report_limit();
                    return false;
                }
                Read::Gone(error) => {
                    self.tap_gone = true;
                    self.broken(format!("tap {} cannot be read: {error}", self.tap.name()));
                    return false;
                }
            }
        }
        true
    }

    fn note_frame(&mut self, class: Class) {
        match class {
            Class::Unicast => {
                self.frame_at = Instant::now();
                self.captured += 1;
            }
            Class::Announcement(signature) => {
                self.own_echo += 1;
                self.marker_seen |= signature == Signature(self.spool.note(Note::Signature));
            }
            // Until the target runs nobody of ours can have sent it.
            Class::Own if !self.committed => self.second_speaker += 1,
            Class::Own | Class::OwnAnnouncement => self.own_echo += 1,
            Class::Broadcast | Class::Dummy | Class::Runt => {}
        }
    }

    /// Reads until the ring is seen empty. On an abort the limit no longer counts: what is left in
    /// the ring must come behind what is in the spool.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
        self.spool.make_room_for_a_ring();
        while self.read_frames(READ_BATCH_FRAMES) {}
    }

    /// Reads until nothing is in the ring nor in the plug in front of it: a frame may wait there
    /// for a processor to pass it on.
    pub(crate) fn drain_all(&mut self) {
        let mut seen = 0;
        for _ in 0..EMPTY_LOOKS_MAX {
            self.drain();
            if self.tap_gone {
                return;
            }
            match self.tap.plug_is_empty() {
                Ok(true) => seen += 1,
                Ok(false) => seen = 0,
                Err(error) => return self.report(Err(error)),
            }
            if seen == EMPTY_LOOKS {
                return self.drain();
            }
            std::thread::sleep(EMPTY_PAUSE);
        }
    }

    /// What came after the path was closed would be lost unseen; the account must have it.
    pub(crate) fn count_missed(&mut self) {
        for _ in 0..RING_FRAMES {
            if self.tap_gone {
                return;
            }
            match reading::look_at_frame(&self.tap, &mut self.spool, &self.own) {
                Read::Frame(class) => self.missed += u64::from(class == Class::Unicast),
                Read::Empty | Read::Full => return,
                Read::Gone(error) => {
                    self.tap_gone = true;
                    self.broken(format!("tap {} cannot be read: {error}", self.tap.name()));
                }
            }
        }
    }

    pub(crate) fn broken(&self, what: String) {
        (self.events)(Event::Broken { what });
    }

    /// After commit nothing unwinds: what fails is reported, and the closing goes on.
    pub(crate) fn report(&self, result: Result<(), crate::Error>) {
        if let Err(error) = result {
            self.broken(error.to_string());
        }
    }

    pub(crate) fn serve_tunnel(&mut self) {
        self.reconnect();
        let Some(tunnel) = &mut self.tunnel else { return };
        let mut answers = Vec::new();
        let served = tunnel
            .send(&self.spool)
            .and_then(|()| tunnel.receive(&mut answers));
        for answer in answers {
            match answer {
                Answer::Delivered(number) => {
                    let known = self.spool.note(Note::Delivered);
                    let delivered = known.max(number.min(self.spool.last()));
                    self.spool.set_note(Note::Delivered, delivered);
                }
                Answer::FloodingOn => self.flooding_on = true,
                Answer::Welcome(_) | Answer::Signed(_) => {}
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

    /// After commit a broken tunnel is connected again, and goes on behind the last record that the
    /// target has.
    fn reconnect(&mut self) {
        if let Some(connecting) = &self.connecting {
            let connected = match connecting.try_recv() {
                Err(mpsc::TryRecvError::Empty) => return,
                Err(mpsc::TryRecvError::Disconnected) => Err(io::ErrorKind::Other.into()),
                Ok(connected) => connected,
            };
            self.connecting = None;
            self.reconnect_at = Instant::now() + RECONNECT_PAUSE;
            self.connected(connected);
        }
        let due = self.committed && self.tunnel.is_none() && Instant::now() >= self.reconnect_at;
        if let Some(peer) = self.peer.clone().filter(|_| due) {
            self.begin_connecting(peer);
        }
    }

    fn begin_connecting(&mut self, peer: Endpoint) {
        let (told, connecting) = mpsc::channel();
        let vnet = self.spool.vnet_header_bytes();
        let (identity, security, wake) = (self.identity.clone(), self.security.clone(), self.wake.clone());
        let thread = std::thread::Builder::new().name(format!("connect {}", self.tap.name()));
        let begun = thread.spawn(move || {
            let until = Instant::now() + RECONNECT_WAIT;
            // A buffer that has closed meanwhile needs it no more.
            let _ = told.send(tunnel::connect(&peer, &identity, vnet, &security, until));
            let _ = rustix::io::write(&wake, &1u64.to_ne_bytes());
        });
        match begun {
            Ok(_) => self.connecting = Some(connecting),
            Err(_) => self.reconnect_at = Instant::now() + RECONNECT_PAUSE,
        }
    }

    fn connected(&mut self, connected: io::Result<Connected>) {
        match connected {
            Ok(connected) => {
                self.reconnects = 0;
                self.spool.set_note(Note::Signature, connected.signature.0);
                let sent = self.spool.after(connected.have);
                self.tunnel = Some(Sender::new(connected.channel, sent));
            }
            Err(error) => {
                self.reconnects = self.reconnects.saturating_add(1);
                if self.reconnects == RECONNECTS_REPORTED
                    && let Some(peer) = &self.peer
                {
                    self.broken(format!("the tunnel to {} stays broken: {error}", peer.address));
                }
            }
        }
    }
}

/// What a spool says of the frames that were captured into it.
pub(crate) fn account_of(spool: &Spool) -> SourceAccount {
    let counts = spool.counts(u64::MAX);
    SourceAccount {
        captured: counts.unicast,
        broadcast: counts.broadcast,
        bytes: counts.bytes,
        untaken: spool.note(Note::Untaken) + spool.note(Note::Overflowed),
        peak_bytes: spool.bytes() as u64,
        old_path: match spool.note(Note::OldPath) {
            1 => Some(OldPath::Marker),
            2 => Some(OldPath::Lingered),
            _ => None,
        },
        ..SourceAccount::default()
    }
}
