//! What the thread does: tunnel → spool → the guest's ring, in order, and the opening of the plug
//! on FIN. It waits for nobody: neither for a stranger's hello nor for a guest that takes no
//! frames.
//!
//! ```text
//!  Waiting ─activate─▶ Injecting ─all in, or none taken─▶ Done ─FIN─▶ plug open ─CLOSE─▶ closed
//! ```

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::announcing::Activation;
use super::{Closed, Command};
use crate::account::TargetAccount;
use crate::channel::Channel;
use crate::config::{NicIdentity, TargetConfig};
use crate::error::{Error, IoContext};
use crate::frame::{self, Addresses, Signature};
use crate::greeting::{Door, Greeted};
use crate::inject::{self, Injector};
use crate::limits::{
    ACTIVATE_IDLE_MAX, RING_FULL_PAUSE, TUNNEL_CHUNK_BYTES, UNFIT_TOLD_BYTES, UNFIT_TOLD_MAX,
    UNTAKEN_IDLE_MAX,
};
use crate::meter::Meter;
use crate::ring::{self, IdleClock};
use crate::spool::{Kind, Note, RecordError, Spool};
use crate::tap::Tap;
use crate::tunnel::Answer;
use crate::watch::Watch;
use crate::{Event, Events};

/// What the thread owns.
pub(crate) struct Worker {
    pub(super) identity: NicIdentity,
    /// The guest's addresses; those beside its NIC's come first of all records.
    pub(super) own: Addresses,
    pub(super) tap: Tap,
    pub(super) spool: Spool,
    /// Bytes behind the spool's tail that are not a whole record yet.
    partial: usize,
    door: Door,
    tunnel: Option<Channel>,
    injector: Injector,
    watch: Watch,
    pub(super) wake: Arc<OwnedFd>,
    meter: Arc<Meter>,
    events: Events,
    /// Offset of the next record to deliver.
    pub(super) next: usize,
    pub(super) activation: Activation,
    /// When the fabric was last told again where the VM is.
    pub(super) reminded_at: Option<Instant>,
    /// How long the guest has left its ring full.
    full: IdleClock,
    fin: bool,
    /// No FIN comes: offset up to which is delivered, before the plug opens.
    cut: Option<usize>,
    /// Frames that came behind it, dropped.
    dropped_late: u64,
    closed: Option<Closed>,
    finish: Vec<mpsc::Sender<Closed>>,
    duplicated: u64,
    reordered: u64,
    /// Unicast frames in the guest's ring.
    delivered: u64,
}

impl Worker {
    pub(crate) fn new(
        config: &TargetConfig,
        tap: Tap,
        spool: Spool,
        listener: TcpListener,
        watch: Watch,
        meter: Arc<Meter>,
        events: Events,
    ) -> Result<Self, Error> {
        let name = tap.name().to_owned();
        let wake = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let wake = Arc::new(wake.context(&name, "make an eventfd")?);
        let door = Door::open(listener, config, wake.clone()).context(&name, "listen for the tunnel")?;
        let delivered = spool.note(Note::Delivered);
        Ok(Self {
            identity: config.identity.clone(),
            own: spool.addresses(config.identity.mac),
            injector: Injector::start(tap.index()).context(&name, "prepare injection")?,
            tap,
            next: spool.after(delivered),
            delivered: spool.counts(delivered).unicast,
            spool,
            partial: 0,
            door,
            tunnel: None,
            watch,
            wake,
            meter,
            events,
            activation: Activation::Waiting,
            reminded_at: None,
            full: IdleClock::default(),
            fin: false,
            cut: None,
            dropped_late: 0,
            closed: None,
            finish: Vec::new(),
            duplicated: 0,
            reordered: 0,
        })
    }

    /// Goes on where a killed agent was, as the spool has it.
    pub(crate) fn take_up(&mut self, active: bool) -> Result<(), Error> {
        let delivered = self.spool.counts(self.spool.note(Note::Delivered));
        if active || delivered.fin {
            self.begin_activation(Instant::now());
        }
        if delivered.fin {
            self.open()?;
        }
        if delivered.close {
            self.close();
        }
        Ok(())
    }

    pub(super) fn run(&mut self, commands: &mpsc::Receiver<Command>) {
        let mut ring_full = false;
        loop {
            let worked = self.wait(ring_full).and_then(|()| {
                for command in commands.try_iter() {
                    match command {
                        Command::End => return Ok(true),
                        Command::Activate(answer) => self.activate(answer),
                        Command::Finish(answer) => self.finish.push(answer),
                        Command::OpenPlug => self.cut_off(),
                    }
                }
                self.greet();
                self.read_tunnel();
                ring_full = !self.deliver()?;
                self.watch.look();
                self.answer_finish();
                self.tell_meter();
                Ok(false)
            });
            match worked {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    return (self.events)(Event::Broken {
                        what: format!("delivery failed: {error}"),
                    });
                }
            }
        }
    }

    fn tell_meter(&self) {
        let (kept, tail) = (self.spool.bytes(), self.spool.tail());
        self.meter
            .tell(kept, tail.saturating_sub(self.next), self.delivered);
    }

    fn answer_finish(&mut self) {
        if let Some(closed) = self.closed {
            for answer in self.finish.drain(..) {
                // An agent that gave up waiting asks again.
                let _ = answer.send(closed);
            }
        }
    }

    fn wait(&self, ring_full: bool) -> io::Result<()> {
        let mut polled = vec![PollFd::new(self.wake.as_ref(), PollFlags::IN)];
        if let Some(tunnel) = &self.tunnel {
            let wanted = match tunnel.has_unwritten() {
                true => PollFlags::IN | PollFlags::OUT,
                false => PollFlags::IN,
            };
            polled.push(PollFd::new(tunnel.stream(), wanted));
        }
        let unread = self.tunnel.as_ref().is_some_and(Channel::has_unread);
        let pause = match (unread, ring_full) {
            (true, _) => Some(Duration::ZERO),
            (false, true) => Some(RING_FULL_PAUSE),
            (false, false) => None,
        };
        let pause = pause.map(|pause| Timespec::try_from(pause).expect("a short time"));
        match rustix::event::poll(&mut polled, pause.as_ref()) {
            Err(error) if error != Errno::INTR => return Err(error.into()),
            _ => {}
        }
        let mut count = [0; 8];
        // Empty most of the time.
        let _ = rustix::io::read(&self.wake, &mut count);
        Ok(())
    }

    /// The newest connection of the right NIC is the tunnel. What was answered by the one before is
    /// answered again.
    fn greet(&mut self) {
        let Some(greeted) = self.door.newest() else {
            return;
        };
        let Greeted {
            channel,
            vnet_header_bytes,
        } = greeted;
        self.tunnel = Some(channel);
        // QEMU gives the two taps headers of different lengths until the VM is loaded. The frames
        // are the source's, also for an agent that comes after a kill.
        self.spool.set_vnet_header_bytes(vnet_header_bytes);
        // A record cut by the break is sent again as a whole.
        self.partial = 0;
        self.answer(Answer::Welcome(self.spool.last()));
        self.answer(Answer::Signed(self.signature()));
        match self.spool.note(Note::Delivered) {
            0 => {}
            delivered => self.answer(Answer::Delivered(delivered)),
        }
        if self.fin {
            self.answer(Answer::FloodingOn);
        }
    }

    pub(super) fn signature(&self) -> Signature {
        Signature(self.spool.note(Note::Signature))
    }

    fn read_tunnel(&mut self) {
        let Some(tunnel) = &mut self.tunnel else { return };
        if tunnel.flush().is_err() {
            self.tunnel = None;
            return;
        }
        let Some(room) = self.spool.intake(self.partial, TUNNEL_CHUNK_BYTES) else {
            // TCP holds the rest back; the source reports its own limit.
            return;
        };
        let why = match tunnel.read(room) {
            Ok(0) => "closed by the source".to_owned(),
            Ok(length) => match self.spool.accept(self.partial + length) {
                Ok(partial) => {
                    self.partial = partial;
                    return;
                }
                Err(error) => {
                    match error {
                        RecordError::Again { .. } => self.duplicated += 1,
                        RecordError::Gap { .. } => self.reordered += 1,
                        RecordError::Kind(_) | RecordError::Length(_) => {}
                    }
                    error.to_string()
                }
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) => error.to_string(),
        };
        self.tunnel = None;
        if let Activation::Waiting = self.activation {
            (self.events)(Event::TunnelBroken { why });
        }
    }

    /// Delivers what is there in order; false when the guest's ring is full.
    fn deliver(&mut self) -> io::Result<bool> {
        if let Activation::Waiting = self.activation {
            return Ok(true);
        }
        loop {
            if self.cut.is_some_and(|cut| self.next >= cut) {
                self.open_without_fin()?;
                self.drop_late();
                return Ok(true);
            }
            let now = Instant::now();
            let vnet = self.spool.vnet_header_bytes();
            let batch = batch(&self.spool, self.next, vnet);
            if batch.is_empty() {
                self.announce_when_in(now, false)?;
                if !self.control_record()? {
                    return Ok(true);
                }
                continue;
            }
            let wanted = batch.len();
            let taken = match self.injector.inject(&batch, vnet) {
                Err(error) if inject::is_refusal(&error) => {
                    self.tell_unfit(&error);
                    self.skip_frame(Note::Unfit);
                    continue;
                }
                taken => taken?,
            };
            let before = self.delivered;
            self.note_delivered(taken);
            if self.fin && self.delivered > before {
                self.remind_fabric(now);
            }
            let idle = self.full.look(now, taken > 0);
            self.announce_when_in(now, idle > ACTIVATE_IDLE_MAX)?;
            if taken < wanted {
                if idle <= UNTAKEN_IDLE_MAX {
                    return Ok(false);
                }
                self.skip_frame(Note::Undelivered);
            }
        }
    }

    /// The source is lost: what is here by now is all that is delivered.
    fn cut_off(&mut self) {
        if self.closed.is_none() && self.cut.is_none() {
            self.cut = Some(self.spool.tail());
        }
    }

    fn open_without_fin(&mut self) -> io::Result<()> {
        if !self.fin {
            self.open().map_err(io::Error::other)?;
        }
        if self.closed.is_none() {
            self.close();
        }
        Ok(())
    }

    /// A source that is back sends what it kept: newer frames were delivered meanwhile, so none of
    /// it goes in. It is answered, so that it can close.
    fn drop_late(&mut self) {
        let before = self.dropped_late;
        while let Ok(Some(record)) = self.spool.record(self.next) {
            let (kind, number, next) = (record.kind, record.number, record.next);
            self.dropped_late += u64::from(kind.is_frame());
            // An agent that comes after this one must not take them for delivered.
            match kind {
                Kind::Unicast => self.spool.add_to_note(Note::Undelivered, 1),
                Kind::Broadcast => self.spool.add_to_note(Note::UndeliveredBroadcast, 1),
                Kind::Fin => self.answer(Answer::FloodingOn),
                Kind::Close | Kind::Address => {}
            }
            self.next = next;
            self.pass(number);
        }
        if self.dropped_late > before {
            self.meter.tell_late_dropped(self.dropped_late);
            tracing::warn!(
                vm = %self.identity.vm,
                frames = self.dropped_late,
                "frames that its lost source sends after all are dropped"
            );
        }
    }

    fn note_delivered(&mut self, taken: usize) {
        self.spool
            .add_to_note(Note::Refused, self.injector.take_refused());
        let mut delivered = None;
        for _ in 0..taken {
            let Ok(Some(record)) = self.spool.record(self.next) else {
                break;
            };
            delivered = Some(record.number);
            self.delivered += u64::from(record.kind == Kind::Unicast);
            self.next = record.next;
        }
        if let Some(number) = delivered {
            self.pass(number);
        }
    }

    /// The next record is a frame that does not reach the guest; a unicast one is noted there.
    fn skip_frame(&mut self, unicast: Note) {
        self.spool
            .add_to_note(Note::Refused, self.injector.take_refused());
        let Ok(Some(record)) = self.spool.record(self.next) else {
            return;
        };
        let (kind, number) = (record.kind, record.number);
        self.next = record.next;
        let note = match kind {
            Kind::Broadcast => Note::UndeliveredBroadcast,
            _ => unicast,
        };
        self.spool.add_to_note(note, 1);
        self.pass(number);
    }

    /// What the kernel does not let into the ring, as its header says it.
    fn tell_unfit(&mut self, error: &io::Error) {
        let before = self.spool.note(Note::Unfit) + self.spool.note(Note::UndeliveredBroadcast);
        if before >= UNFIT_TOLD_MAX {
            return;
        }
        if let Ok(Some(record)) = self.spool.record(self.next) {
            let begins = &record.data[..record.data.len().min(UNFIT_TOLD_BYTES)];
            tracing::warn!(
                vm = %self.identity.vm,
                number = record.number,
                bytes = record.data.len(),
                header = self.spool.vnet_header_bytes(),
                ?begins,
                "a frame is left out: the kernel does not let it into the guest's ring: {error}"
            );
        }
    }

    /// All records up to this one are done with.
    fn pass(&mut self, number: u64) {
        self.spool.set_note(Note::Delivered, number);
        self.answer(Answer::Delivered(number));
    }

    /// FIN, CLOSE, or a record that is no frame; false when there is none.
    fn control_record(&mut self) -> io::Result<bool> {
        let Ok(Some(record)) = self.spool.record(self.next) else {
            return Ok(false);
        };
        let (kind, number, next) = (record.kind, record.number, record.next);
        match kind {
            Kind::Fin => {
                self.open().map_err(io::Error::other)?;
                self.answer(Answer::FloodingOn);
            }
            Kind::Unicast | Kind::Broadcast => {
                tracing::warn!(vm = %self.identity.vm, number, "a record too short to be a frame is left out");
                self.skip_frame(Note::Unfit);
                return Ok(true);
            }
            Kind::Address => {
                if let Some(mac) = record.address() {
                    self.own.add(mac);
                }
            }
            Kind::Close => {}
        }
        self.next = next;
        self.pass(number);
        if kind == Kind::Close {
            self.close();
        }
        Ok(true)
    }

    /// FIN: what came by the new path follows. The VM is announced once more, for the source's
    /// bridge: it has just released the address.
    fn open(&mut self) -> Result<(), Error> {
        let name = self.tap.name().to_owned();
        self.tap
            .plug()
            .set_flooding(true)
            .context(&name, "set the port's flooding")?;
        self.tap.plug().open().context(&name, "open the plug")?;
        self.announce().context(&name, "announce the VM")?;
        self.fin = true;
        Ok(())
    }

    fn close(&mut self) {
        let counts = self.spool.counts(self.spool.note(Note::Delivered));
        let undelivered = self.spool.note(Note::Undelivered);
        let unfit = self.spool.note(Note::Unfit);
        let undelivered_broadcast = self.spool.note(Note::UndeliveredBroadcast);
        let mut account = TargetAccount {
            delivered: counts.unicast.saturating_sub(undelivered + unfit),
            broadcast: counts.broadcast.saturating_sub(undelivered_broadcast),
            duplicated: self.duplicated,
            reordered: self.reordered,
            late: counts.late,
            dropped: 0,
            untaken: 0,
            undelivered,
            unfit,
            peak_bytes: self.spool.bytes() as u64,
            first_sent_us: self.watch.first_us(),
        };
        account.untaken = self.untaken(account.delivered + account.broadcast);
        self.closed = Some((account, self.spool.note(Note::Refused)));
    }

    /// Frames of ours in the ring of a guest that takes none. One dummy of the plug had gone before
    /// them.
    fn untaken(&mut self, injected: u64) -> u64 {
        if !ring::is_left_untaken(&mut self.tap) {
            return 0;
        }
        let taken = self.tap.taken().unwrap_or(0);
        injected.saturating_sub(taken.saturating_sub(1))
    }

    /// Answers are few and short; one that does not go out breaks the tunnel, and the source asks
    /// again.
    fn answer(&mut self, answer: Answer) {
        if let Some(tunnel) = &mut self.tunnel
            && tunnel.say(&answer.bytes()).is_err()
        {
            self.tunnel = None;
        }
    }
}

/// The frames from the record at `at` on, up to the next control record.
fn batch(spool: &Spool, mut at: usize, vnet_header_bytes: usize) -> Vec<&[u8]> {
    let mut batch = Vec::new();
    while batch.len() < Injector::BATCH_MAX
        && let Ok(Some(record)) = spool.record(at)
        && record.kind.is_frame()
        && record.data.len() >= vnet_header_bytes + frame::ETHERNET_BYTES
    {
        batch.push(record.data);
        at = record.next;
    }
    batch
}
