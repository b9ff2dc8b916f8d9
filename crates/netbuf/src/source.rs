//! The source's buffer of one NIC (§3.3.1): the handle by which an agent leads it through the
//! steps.
//!
//! ```text
//!  open ─▶ connect ─▶ announce ─▶ shut ─▶ (QMP stop) ─▶ capture ─▶ committed ─▶ finish ─▶ account
//!    └────────┴──────────┴────────┴──────────────────────┴──▶ shut_for_abort ─▶ (cont) ─▶ put_back
//!  after commit, its target being lost:  reclaim ─▶ shut_for_abort ─▶ (cont) ─▶ put_back
//!  after a kill:  resume ─▶ either way;      resume_abort ─▶ (cont) ─▶ put_back
//! ```
//!
//! Each step may be asked for again: one that failed leaves the stage as it was, one that is done
//! answers as before. From `capture` on a thread owns tap, spool and tunnel: `capture.rs`; the way
//! back is in `abort.rs`. Dropping the handle leaves what a kill leaves. Deliberately absent: when
//! to do what, and whether to commit.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use transhume_model::{Endpoint, WallMicros};
use transhume_trust::limits::HANDSHAKE_MAX;

use crate::account::SourceAccount;
use crate::capture::{Capture, NoWorker, Outlet, Worker};
use crate::config::SourceConfig;
use crate::error::{Error, IoContext};
use crate::frame::{self, Addresses};
use crate::inject::Injector;
use crate::limits::{
    COMMITTED_GROWTH, HELD_AGAIN_WAIT, HELD_BEFORE_WAIT, HELD_SETTLE, HELD_WAIT, RING_IDLE_MAX, RING_SETTLE,
    RING_WAIT_MAX,
};
use crate::meter::Meter;
use crate::reading;
use crate::ring::{self, Emptied, WaitLimits};
use crate::spool::{Note, Reading, Spool};
use crate::tap::Tap;
use crate::tunnel::{self, Connected};
use crate::watch::Watch;
use crate::{Events, wall};

/// A guest that is to be stopped takes what it was sent.
const TO_STOP: WaitLimits = WaitLimits {
    pause: RING_SETTLE,
    idle_max: RING_IDLE_MAX,
    wait_max: RING_WAIT_MAX,
};

/// A stopped guest's QEMU takes the one frame that it holds.
const fn to_hold(wait: Duration) -> WaitLimits {
    WaitLimits {
        pause: HELD_SETTLE,
        idle_max: wait,
        wait_max: wait,
    }
}

/// Whether a guest takes what it is sent, as far as can be seen from its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Responsiveness {
    /// Its QEMU reads frame after frame.
    Taking,
    /// It runs and its QEMU reads none: its NIC is down or was never brought up, or its rings are
    /// stuck.
    Deaf,
    /// It does not run: stopped by its user, by QEMU after a panic or a disk error.
    Stopped,
}

/// When the plug was shut and the ring empty, and how the guest turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shut {
    /// No frame reaches the guest from here on.
    pub shut_at: WallMicros,
    /// Nothing is left in its ring: it has taken all, or it was taken as it is.
    pub empty_at: WallMicros,
    /// `Taking` unless it was taken as it is.
    pub guest: Responsiveness,
}

/// The source's buffer of one NIC.
pub struct SourceBuffer {
    pub(crate) config: SourceConfig,
    pub(crate) tap: Tap,
    pub(crate) injector: Injector,
    pub(crate) own: Addresses,
    watch: Option<Watch>,
    /// As `shut` found it.
    guest: Responsiveness,
    meter: Arc<Meter>,
    events: Events,
    pub(crate) stage: Stage,
}

pub(crate) enum Stage {
    /// No thread reads; the tunnel may be there.
    Idle(Idle),
    /// The thread owns everything.
    Capturing(Capture),
    /// Stopped for an abort: what was captured waits to be put back. What the account has that is
    /// not in the spool stands in the second.
    Stopped(Spool, SourceAccount),
    /// Every frame is accounted for.
    Closed(SourceAccount),
}

pub(crate) struct Idle {
    pub(crate) spool: Spool,
    tunnel: Option<(Connected, Endpoint)>,
}

impl Stage {
    fn name(&self) -> &'static str {
        match self {
            Stage::Idle(_) => "does not capture",
            Stage::Capturing(_) => "captures",
            Stage::Stopped(..) => "has stopped capturing",
            Stage::Closed(_) => "is closed",
        }
    }
}

impl std::fmt::Debug for SourceBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceBuffer")
            .field("config", &self.config)
            .field("stage", &self.stage.name())
            .finish_non_exhaustive()
    }
}

impl SourceBuffer {
    /// Step 3: the buffer is there, capture disabled. The host's ways out are made ready for the
    /// switchover where they are not yet.
    pub fn open(config: SourceConfig, tap: &Tap, events: Events) -> Result<Self, Error> {
        let mut tap = tap.share(config.mtu, config.plug_bytes_max)?;
        tap.prepare_late_uplinks()?;
        let spool = create_spool(&config, &mut tap)?;
        Self::idle(config, tap, spool, events)
    }

    /// A buffer that a killed agent left capturing, its guest stopped: goes on reading into the
    /// same spool. `peer` is the target's end, where frames are to be forwarded.
    pub fn resume(
        config: SourceConfig,
        tap: &Tap,
        peer: Option<Endpoint>,
        events: Events,
    ) -> Result<Self, Error> {
        let tap = tap.share(config.mtu, config.plug_bytes_max)?;
        let mut spool = Spool::reopen(&config.spool)?;
        let own = spool.addresses(config.identity.mac);
        reading::keep_unpublished(&mut spool, &own);
        let mut buffer = Self::idle(config, tap, spool, events)?;
        buffer.start(peer)?;
        Ok(buffer)
    }

    pub(crate) fn idle(config: SourceConfig, tap: Tap, spool: Spool, events: Events) -> Result<Self, Error> {
        Ok(Self {
            injector: Injector::start(tap.index()).context(tap.name(), "prepare to inject frames")?,
            own: spool.addresses(config.identity.mac),
            meter: Arc::new(Meter::new(config.traced)),
            config,
            tap,
            watch: None,
            guest: Responsiveness::Taking,
            events,
            stage: Stage::Idle(Idle { spool, tunnel: None }),
        })
    }

    /// What it keeps and has done, also while it works.
    pub fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }

    /// Step 4: connects to the target's buffer.
    pub fn connect(&mut self, peer: &Endpoint) -> Result<(), Error> {
        let Stage::Idle(idle) = &mut self.stage else {
            return Err(self.wrong_stage("connect"));
        };
        if self.watch.is_none() {
            let watch = Watch::start(self.tap.index());
            self.watch = Some(watch.context(self.tap.name(), "watch the guest's frames")?);
        }
        let alive = |(tunnel, with): &(Connected, Endpoint)| with == peer && tunnel.is_open();
        if idle.tunnel.as_ref().is_some_and(alive) {
            return Ok(());
        }
        let identity = &self.config.identity;
        let vnet = idle.spool.vnet_header_bytes();
        let until = Instant::now() + HANDSHAKE_MAX;
        let connected = tunnel::connect(peer, identity, vnet, &self.config.security, until);
        let connected = connected.map_err(|source| Error::Tunnel {
            vm: identity.vm.clone(),
            nic: identity.nic,
            peer: peer.address,
            step: "connect",
            source,
        })?;
        idle.spool.set_note(Note::Signature, connected.signature.0);
        idle.tunnel = Some((connected, peer.clone()));
        Ok(())
    }

    /// Whether the guest, which runs, takes frames: asked during pre-copy, so that nobody waits for
    /// one that does not. Returns at once where it does, else after `PROBE_IDLE_MAX`.
    pub fn probe(&mut self) -> Result<Responsiveness, Error> {
        if !matches!(self.stage, Stage::Idle(_)) {
            return Err(self.wrong_stage("probe the guest through"));
        }
        let Self { tap, injector, .. } = self;
        let (vnet, name) = (tap.vnet_header_bytes()?, tap.name().to_owned());
        let takes = ring::takes_frames(tap, || inject_dummy(injector, vnet, &name))?;
        Ok(match takes {
            true => Responsiveness::Taking,
            false => Responsiveness::Deaf,
        })
    }

    /// Refreshes what the fabric knows of the VM, so that nothing is being flooded when the marker
    /// runs (design §3), and lets what comes from outside reach the tap whatever this host's bridge
    /// will hear. The addresses that the guest sends from beside its NIC's are its own from here
    /// on.
    pub fn announce(&mut self) -> Result<(), Error> {
        let learned = self.tap.learned()?;
        let Stage::Idle(idle) = &mut self.stage else {
            return Err(self.wrong_stage("announce the VM of"));
        };
        let nic = self.own.nic();
        for mac in learned.into_iter().filter(|mac| *mac != nic) {
            if self.own.others().contains(&mac) {
                continue;
            }
            if !self.own.has_room() {
                tracing::warn!(vm = %self.config.identity.vm, %mac, "one address too many is left behind");
            } else if idle.spool.publish_address(mac) {
                self.own.add(mac);
            } else {
                let full = io::Error::from(io::ErrorKind::StorageFull);
                return Err(full).context(self.tap.name(), "keep the guest's addresses");
            }
        }
        if let Some(watch) = &mut self.watch {
            watch.look();
        }
        self.tap.divert(&self.own)?;
        self.tap.announce(&self.own, None)
    }

    /// Step 5, first half: no frame reaches the guest any more, and it has taken all that did.
    ///
    /// QEMU reads one frame further than its guest has room for, and throws that one away when it
    /// stops; so the last one it reads is a dummy. A guest that takes none is not waited for: what
    /// is in its ring comes into the spool. One that was thought to take frames and takes none, or
    /// too slowly, is treated the same after `RING_IDLE_MAX` or `RING_WAIT_MAX`: that is no error.
    pub fn shut(&mut self, guest: Responsiveness) -> Result<Shut, Error> {
        if !matches!(self.stage, Stage::Idle(_)) {
            return Err(self.wrong_stage("shut"));
        }
        self.tap.pin(&self.own)?;
        let name = self.tap.name().to_owned();
        self.tap.plug().shut().context(&name, "shut the plug")?;
        let shut_at = wall();
        self.guest = match guest {
            Responsiveness::Taking => self.await_taken()?,
            // Its ring is empty: it takes frames after all.
            Responsiveness::Deaf if !self.ring_holds_frames()? => self.await_taken()?,
            guest => guest,
        };
        if self.guest != Responsiveness::Taking {
            self.take_as_it_is()?;
        }
        Ok(Shut {
            shut_at,
            empty_at: wall(),
            guest: self.guest,
        })
    }

    fn await_taken(&mut self) -> Result<Responsiveness, Error> {
        for last in [false, true] {
            if last {
                self.inject_dummy()?;
            }
            if ring::await_empty(&mut self.tap, TO_STOP)? == Emptied::NotInTime {
                tracing::warn!(vm = %self.config.identity.vm, "the guest takes no frames; taken as it is");
                return Ok(Responsiveness::Deaf);
            }
        }
        Ok(Responsiveness::Taking)
    }

    /// The ring's frames, for a guest that does not take them. Then its QEMU finds a dummy there,
    /// to hold.
    fn take_as_it_is(&mut self) -> Result<(), Error> {
        let Stage::Idle(idle) = &mut self.stage else {
            return Err(self.wrong_stage("take the ring's frames into"));
        };
        idle.spool.set_reading(Reading::Begun);
        // The plug is shut: what was dropped until now found the ring full, with the move or
        // without it.
        let known = idle.spool.note(Note::DroppedBefore) + self.injector.refused();
        let overflowed = self.tap.dropped()?.saturating_sub(known);
        idle.spool.add_to_note(Note::DroppedBefore, overflowed);
        idle.spool.add_to_note(Note::Overflowed, overflowed);
        idle.spool.set_note(Note::Untaken, 1);
        reading::read_ring(&mut self.tap, &mut idle.spool, &self.own)?;
        self.inject_dummy()
    }

    /// Step 5, second half, the guest being stopped: every frame is read, kept and forwarded.
    ///
    /// QEMU goes on reading when its guest is stopped: one frame, which it then holds until the
    /// guest runs or it ends. So it gets a dummy to hold before the first real frame can come.
    pub fn capture(&mut self) -> Result<(), Error> {
        let Stage::Idle(_) = &self.stage else {
            return match self.stage {
                Stage::Capturing(_) => Ok(()),
                _ => Err(self.wrong_stage("capture with")),
            };
        };
        let held = match self.guest {
            Responsiveness::Taking => {
                self.inject_dummy()?;
                self.await_held(HELD_WAIT)?
            }
            // The dummy is there since the plug was shut; a guest that was not deaf after all took
            // it.
            Responsiveness::Deaf => {
                let held = self.await_held(HELD_WAIT)?;
                self.inject_dummy()?;
                self.await_held(HELD_AGAIN_WAIT)?;
                held
            }
            Responsiveness::Stopped => self.await_held(HELD_BEFORE_WAIT)?,
        };
        self.note_untaken(held);
        self.start(None)
    }

    fn await_held(&mut self, wait: Duration) -> Result<bool, Error> {
        Ok(ring::await_empty(&mut self.tap, to_hold(wait))? == Emptied::Yes)
    }

    fn note_untaken(&mut self, dummy_held: bool) {
        let untaken = match (self.guest, dummy_held) {
            (Responsiveness::Taking, true) => 0,
            // Stopped long ago and took the dummy: it held nothing.
            (Responsiveness::Stopped, true) => 0,
            (Responsiveness::Taking | Responsiveness::Stopped, false) => 1,
            (Responsiveness::Deaf, true) => 1,
            (Responsiveness::Deaf, false) => 2,
        };
        if !dummy_held {
            tracing::warn!(vm = %self.config.identity.vm, "QEMU does not read its tap; taken as it is");
        }
        if let Stage::Idle(idle) = &mut self.stage {
            idle.spool.set_note(Note::Untaken, untaken);
        }
    }

    fn ring_holds_frames(&self) -> Result<bool, Error> {
        self.tap
            .readable(Duration::ZERO)
            .context(self.tap.name(), "look into the ring")
    }

    fn inject_dummy(&mut self) -> Result<(), Error> {
        let (vnet, name) = (self.tap.vnet_header_bytes()?, self.tap.name().to_owned());
        inject_dummy(&mut self.injector, vnet, &name)
    }

    /// Everything that can fail comes first; then the thread owns what the stage held.
    fn start(&mut self, peer: Option<Endpoint>) -> Result<(), Error> {
        let Stage::Idle(idle) = &mut self.stage else {
            return Err(self.wrong_stage("capture with"));
        };
        if let Some(watch) = &mut self.watch {
            watch.look();
        }
        let name = self.tap.name().to_owned();
        let tap = self.tap.share(self.config.mtu, self.config.plug_bytes_max)?;
        let capture = Capture::prepare(&name).context(&name, "start the capture")?;
        idle.spool.set_reading(Reading::Begun);
        self.tap.plug().open().context(&name, "open the plug")?;
        let wake = capture.wake();
        let before = std::mem::replace(&mut self.stage, Stage::Capturing(capture));
        match (before, &mut self.stage) {
            (Stage::Idle(Idle { spool, tunnel }), Stage::Capturing(capture)) => {
                let (tunnel, connected_to) = tunnel.unzip();
                let outlet = Outlet {
                    tunnel: tunnel.map(|tunnel| tunnel.channel),
                    peer: connected_to.or(peer),
                };
                let (meter, events) = (self.meter.clone(), self.events.clone());
                let worker = Worker::new(&self.config, tap, spool, outlet, wake, meter, events);
                capture.start(worker);
            }
            (before, stage) => *stage = before,
        }
        Ok(())
    }

    /// The batch is committed: the buffer may grow, and a broken tunnel is connected again.
    pub fn committed(&mut self) {
        if let Stage::Capturing(capture) = &self.stage {
            capture.committed();
        }
    }

    /// The VM is to run here again after commit, its target being lost: the fabric, which may send
    /// to the target since, is told that it is here. What comes meanwhile is captured.
    pub fn reclaim(&mut self) -> Result<(), Error> {
        // Its port was no place to look for the VM any more since FIN.
        let name = self.tap.name().to_owned();
        let flooded = self.tap.plug().set_flooding(true);
        flooded.context(&name, "set the port's flooding")?;
        self.tap.announce(&self.own, None)
    }

    /// Whether every frame is accounted for: nothing more can be done with it.
    pub fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Closed(_))
    }

    /// Begins step 9 without waiting for its end: for a VM of several NICs, whose buffers close at
    /// once.
    pub fn begin_finish(&mut self) -> Result<(), Error> {
        match &self.stage {
            Stage::Capturing(capture) => capture.close(),
            Stage::Closed(_) => {}
            Stage::Idle(_) | Stage::Stopped(..) => return Err(self.wrong_stage("finish")),
        }
        Ok(())
    }

    /// Step 9: waits for the marker, drains, sends FIN, waits until the target has everything.
    /// Waits at most so long; then the closing goes on, and may be asked for again. Once
    /// it is done the same account is returned each time.
    pub fn finish(&mut self, wait: Duration) -> Result<SourceAccount, Error> {
        self.begin_finish()?;
        let capture = match &mut self.stage {
            Stage::Capturing(capture) => capture,
            Stage::Closed(account) => return Ok(*account),
            Stage::Idle(_) | Stage::Stopped(..) => return Err(self.wrong_stage("finish")),
        };
        let (mut account, known) = match capture.ended(wait) {
            Ok(worker) if worker.is_over() => (worker.account(), worker.known_drops()),
            Ok(_) | Err(NoWorker::Gone) => return Err(self.thread_gone()),
            Err(NoWorker::Running) => return Err(self.still_closing()),
        };
        // A dummy that found the ring full was none of the VM's frames.
        let known = known + self.injector.refused();
        account.dropped += self.tap.dropped()?.saturating_sub(known);
        account.last_sent_us = self.last_sent_us();
        self.meter.close(account.dropped);
        self.stage = Stage::Closed(account);
        Ok(account)
    }

    pub(crate) fn last_sent_us(&self) -> Option<u64> {
        self.watch.as_ref().and_then(Watch::last_us)
    }

    /// Removes the spool, every frame being accounted for: after `finish` or `put_back`, or where
    /// nothing was captured. Else the spool stays, and so does what the plug holds. Dropping the
    /// handle does the same without a word.
    pub fn discard(self) -> Result<(), Error> {
        if self.is_accounted() {
            return Ok(());
        }
        Err(Error::NotAccounted {
            vm: self.config.identity.vm.clone(),
            nic: self.config.identity.nic,
            path: self.config.spool.display().to_string(),
        })
    }

    fn is_accounted(&self) -> bool {
        match &self.stage {
            Stage::Closed(_) => true,
            Stage::Idle(idle) => idle.spool.reading() == Reading::NotYet,
            Stage::Capturing(_) | Stage::Stopped(..) => false,
        }
    }

    pub(crate) fn wrong_stage(&self, operation: &'static str) -> Error {
        Error::WrongStage {
            vm: self.config.identity.vm.clone(),
            nic: self.config.identity.nic,
            operation,
            stage: self.stage.name(),
        }
    }

    pub(crate) fn still_closing(&self) -> Error {
        Error::StillClosing {
            vm: self.config.identity.vm.clone(),
            nic: self.config.identity.nic,
        }
    }

    pub(crate) fn thread_gone(&self) -> Error {
        Error::ThreadGone {
            vm: self.config.identity.vm.clone(),
            nic: self.config.identity.nic,
        }
    }
}

impl Drop for SourceBuffer {
    fn drop(&mut self) {
        if self.is_accounted()
            && let Err(error) = std::fs::remove_file(&self.config.spool)
        {
            tracing::warn!(path = %self.config.spool.display(), "a used spool stays behind: {error}");
        }
    }
}

/// A new spool, which notes what the tap has dropped so far.
pub(crate) fn create_spool(config: &SourceConfig, tap: &mut Tap) -> Result<Spool, Error> {
    let bytes_max = config.buffer_bytes_max as usize * COMMITTED_GROWTH;
    let mut spool = Spool::create(&config.spool, bytes_max, tap.vnet_header_bytes()?)?;
    spool.set_note(Note::DroppedBefore, tap.dropped()?);
    Ok(spool)
}

fn inject_dummy(injector: &mut Injector, vnet_header_bytes: usize, tap: &str) -> Result<(), Error> {
    let dummy = [vec![0; vnet_header_bytes], frame::dummy(0)].concat();
    injector
        .inject(&[&dummy], vnet_header_bytes)
        .map(drop)
        .context(tap, "send a dummy to QEMU")
}
