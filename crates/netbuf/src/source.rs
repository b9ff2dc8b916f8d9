//! The source's buffer of one NIC (§3.3.1): the handle by which an agent leads it through the steps.
//!
//! ```text
//!  open ─▶ connect ─▶ announce ─▶ shut ─▶ (agent: QMP stop) ─▶ capture ─▶ committed ─▶ finish ─▶ account
//!    └────────┴──────────┴──────────┴──────────────────────────┴──▶ shut_for_abort ─▶ (agent: cont) ─▶ put_back ─▶ account
//!  killed agent ─▶ resume ─▶ either way
//! ```
//!
//! From `capture` on a thread owns tap, spool and tunnel: `capture.rs`. Deliberately absent: when to do what, and whether to commit.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use transhume_model::WallMicros;

use crate::account::SourceAccount;
use crate::capture::{Capture, Worker};
use crate::error::{Error, IoContext};
use crate::frame;
use crate::inject::Injector;
use crate::limits::{
    COMMITTED_GROWTH, HELD_SETTLE, HELD_WAIT, PUT_BACK_MS_MAX, RING_FULL_PAUSE, RING_IDLE_MAX, RING_SETTLE,
    RING_WAIT_MAX,
};
use crate::ring::{self, Emptied, Patience};
use crate::spool::{Kind, Spool};
use crate::tap::Tap;
use crate::tunnel::{self, NicIdentity};
use crate::watch::Watch;
use crate::{Events, wall};

/// A guest that is to be stopped takes what it was sent.
const TO_STOP: Patience = Patience {
    settle: RING_SETTLE,
    idle_max: RING_IDLE_MAX,
    wait_max: RING_WAIT_MAX,
};

/// A stopped guest's QEMU takes the one frame that it holds.
const TO_HOLD: Patience = Patience {
    settle: HELD_SETTLE,
    idle_max: HELD_WAIT,
    wait_max: HELD_WAIT,
};

/// What a source's buffer is told.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// Whose frames.
    pub identity: NicIdentity,
    /// Largest IP packet of the NIC, bytes.
    pub mtu: u16,
    /// Where frames are kept; on a memory file system.
    pub spool: PathBuf,
    /// Limit before commit, bytes.
    pub buffer_bytes_max: u64,
    /// Bytes the plug holds while it is shut.
    pub plug_bytes_max: u32,
}

/// The source's buffer of one NIC.
pub struct SourceBuffer {
    config: SourceConfig,
    tap: Tap,
    injector: Injector,
    watch: Option<Watch>,
    dropped_before: u64,
    events: Events,
    stage: Stage,
}

enum Stage {
    /// Not capturing; the tunnel may be there.
    Idle {
        spool: Spool,
        tunnel: Option<(std::net::TcpStream, SocketAddr)>,
    },
    /// The thread owns everything.
    Capturing(Capture),
    /// Stopped for an abort: what was captured waits to be put back.
    Stopped { spool: Spool, account: SourceAccount },
    /// Between two of the above; seen only after an error.
    Gone,
}

impl std::fmt::Debug for SourceBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceBuffer")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl SourceBuffer {
    /// Step 3: the buffer is there, capture disabled.
    pub fn open(config: SourceConfig, tap: &Tap, events: Events) -> Result<Self, Error> {
        let mut tap = tap.share(config.mtu, config.plug_bytes_max)?;
        let bytes_max = config.buffer_bytes_max as usize * COMMITTED_GROWTH;
        let spool = Spool::create(&config.spool, bytes_max, tap.vnet_header_bytes()?)?;
        let dropped_before = tap.dropped()?;
        Ok(Self {
            config,
            injector: injector(&tap)?,
            tap,
            watch: None,
            dropped_before,
            events,
            stage: Stage::Idle { spool, tunnel: None },
        })
    }

    /// A buffer that a killed agent left capturing: goes on reading into the same spool. `peer` is the target's end, where
    /// frames are to be forwarded.
    pub fn resume(
        config: SourceConfig,
        tap: &Tap,
        peer: Option<SocketAddr>,
        events: Events,
    ) -> Result<Self, Error> {
        let mut tap = tap.share(config.mtu, config.plug_bytes_max)?;
        let mut spool = Spool::reopen(&config.spool)?;
        if let Some(length) = spool.unpublished() {
            let vnet = spool.vnet_header_bytes();
            let own = config.identity.mac;
            let class = spool.room().map(|room| frame::classify(&room[vnet..length], own));
            match class {
                Some(frame::Class::Unicast) => drop(spool.publish(Kind::Unicast, length)),
                Some(frame::Class::Broadcast) => drop(spool.publish(Kind::Broadcast, length)),
                _ => spool.skip(length),
            }
        }
        let dropped_before = tap.dropped()?;
        let mut buffer = Self {
            config,
            injector: injector(&tap)?,
            tap,
            watch: None,
            dropped_before,
            events,
            stage: Stage::Idle { spool, tunnel: None },
        };
        buffer.start(peer)?;
        Ok(buffer)
    }

    /// Step 4: connects to the target's buffer.
    pub fn connect(&mut self, peer: SocketAddr) -> Result<(), Error> {
        let Stage::Idle { spool, tunnel } = &mut self.stage else {
            return Ok(());
        };
        let identity = &self.config.identity;
        let (stream, _) =
            tunnel::connect(peer, identity, spool.vnet_header_bytes()).map_err(|source| Error::Tunnel {
                vm: identity.vm.clone(),
                nic: identity.nic,
                peer,
                step: "connect",
                source,
            })?;
        *tunnel = Some((stream, peer));
        self.watch =
            Some(Watch::start(self.tap.index()).context(self.tap.name(), "watch the guest's frames")?);
        Ok(())
    }

    /// Refreshes what the fabric knows of the VM, so that nothing is being flooded when the marker runs (design §3), and lets what comes
    /// from outside reach the tap whatever this host's bridge will hear.
    pub fn announce(&mut self) -> Result<(), Error> {
        if let Some(watch) = &mut self.watch {
            watch.look();
        }
        self.tap.divert(self.config.identity.mac)?;
        self.tap.speak(&frame::announcement(self.config.identity.mac))
    }

    /// Step 5, first half: no frame reaches the guest any more, and it has taken all that did. Returns when each was so.
    ///
    /// QEMU reads one frame further than its guest has room for, and throws that one away when it stops; so the last one it reads is a dummy.
    pub fn shut(&mut self) -> Result<(WallMicros, WallMicros), Error> {
        let name = self.tap.name().to_owned();
        self.tap.pin(self.config.identity.mac)?;
        self.tap.plug().shut().context(&name, "shut the plug")?;
        let shut_at = wall();
        for last in [false, true] {
            if last {
                self.inject_dummy()?;
            }
            if let Emptied::GivenUp { waited, taken } = ring::await_empty(&mut self.tap, TO_STOP)? {
                return Err(self.ring_not_empty(waited, taken));
            }
        }
        Ok((shut_at, wall()))
    }

    /// Step 5, second half, the guest being stopped: every frame is read, kept and forwarded.
    ///
    /// QEMU goes on reading when its guest is stopped: one frame, which it then holds until the guest runs or it ends. So it gets a dummy
    /// to hold before the first real frame can come.
    pub fn capture(&mut self) -> Result<(), Error> {
        self.inject_dummy()?;
        if ring::await_empty(&mut self.tap, TO_HOLD)? != Emptied::Yes {
            tracing::warn!(vm = %self.config.identity.vm, "QEMU does not read its tap; taken as it is");
        }
        self.start(None)
    }

    fn inject_dummy(&mut self) -> Result<(), Error> {
        let vnet = self.tap.vnet_header_bytes()?;
        let dummy = [vec![0; vnet], frame::dummy(0)].concat();
        self.injector
            .inject(&[&dummy], vnet)
            .map(drop)
            .context(self.tap.name(), "send a dummy to QEMU")
    }

    fn ring_not_empty(&self, waited: Duration, taken: u64) -> Error {
        let NicIdentity { vm, nic, .. } = self.config.identity.clone();
        Error::RingNotEmpty {
            vm,
            nic,
            waited_ms: waited.as_millis() as u64,
            taken,
        }
    }

    fn start(&mut self, peer: Option<SocketAddr>) -> Result<(), Error> {
        let (spool, tunnel) = match std::mem::replace(&mut self.stage, Stage::Gone) {
            Stage::Idle { spool, tunnel } => (spool, tunnel),
            other => {
                self.stage = other;
                return Ok(());
            }
        };
        if let Some(watch) = &mut self.watch {
            watch.look();
        }
        let name = self.tap.name().to_owned();
        self.tap.plug().open().context(&name, "open the plug")?;
        let tap = self.tap.share(self.config.mtu, self.config.plug_bytes_max)?;
        let (stream, peer) = match tunnel {
            Some((stream, peer)) => (Some(stream), Some(peer)),
            None => (None, peer),
        };
        let worker = Worker::new(&self.config, tap, spool, stream, peer, self.events.clone());
        self.stage = Stage::Capturing(Capture::spawn(worker).context(&name, "start the capture")?);
        Ok(())
    }

    /// The batch is committed: the buffer may grow, and a broken tunnel is connected again.
    pub fn committed(&mut self) {
        if let Stage::Capturing(capture) = &self.stage {
            capture.committed();
        }
    }

    /// Step 9: waits for the marker, drains, sends FIN, waits until the target has everything. Blocks; has its own limits.
    pub fn finish(mut self) -> Result<SourceAccount, Error> {
        let Stage::Capturing(capture) = std::mem::replace(&mut self.stage, Stage::Gone) else {
            return Ok(SourceAccount::default());
        };
        let worker = capture.finish().ok_or_else(|| self.thread_gone())?;
        let mut account = worker.account();
        self.complete(&mut account)?;
        self.remove_spool();
        Ok(account)
    }

    /// Abort, first half: frames wait in the plug again, everything before them is in the spool.
    pub fn shut_for_abort(&mut self) -> Result<(), Error> {
        match std::mem::replace(&mut self.stage, Stage::Gone) {
            Stage::Capturing(capture) => {
                let name = self.tap.name().to_owned();
                self.tap.plug().shut().context(&name, "shut the plug")?;
                let mut worker = capture.stop().ok_or_else(|| self.thread_gone())?;
                std::thread::sleep(RING_SETTLE);
                worker.drain();
                let account = worker.account();
                self.stage = Stage::Stopped {
                    spool: worker.into_spool(),
                    account,
                };
            }
            Stage::Idle { spool, .. } => {
                self.stage = Stage::Stopped {
                    spool,
                    account: SourceAccount::default(),
                };
            }
            other => self.stage = other,
        }
        Ok(())
    }

    /// Abort, second half, the guest running again: the kept frames in order, then the plug opens. Blocks.
    pub fn put_back(mut self) -> Result<SourceAccount, Error> {
        let Stage::Stopped { spool, mut account } = std::mem::replace(&mut self.stage, Stage::Gone) else {
            return Ok(SourceAccount::default());
        };
        let name = self.tap.name().to_owned();
        let mut at = spool.start();
        let mut last_progress = Instant::now();
        while let Ok(Some(record)) = spool.record(at) {
            if !matches!(record.kind, Kind::Unicast | Kind::Broadcast) {
                at = record.next;
                continue;
            }
            let sent = self
                .injector
                .inject(&[record.data], spool.vnet_header_bytes())
                .context(&name, "put a frame back")?;
            if sent == 1 {
                account.put_back += u64::from(record.kind == Kind::Unicast);
                at = record.next;
                last_progress = Instant::now();
            } else if last_progress.elapsed() > Duration::from_millis(PUT_BACK_MS_MAX) {
                return Err(self.ring_not_empty(last_progress.elapsed(), 0));
            } else {
                std::thread::sleep(RING_FULL_PAUSE);
            }
        }
        self.tap.plug().open().context(&name, "open the plug")?;
        self.tap.unpin(self.config.identity.mac)?;
        self.tap.undivert(self.config.identity.mac)?;
        self.complete(&mut account)?;
        account.dropped = account.dropped.saturating_sub(self.injector.refused());
        self.remove_spool();
        Ok(account)
    }

    fn complete(&mut self, account: &mut SourceAccount) -> Result<(), Error> {
        account.dropped += self.tap.dropped()?.saturating_sub(self.dropped_before);
        account.last_sent_us = self.watch.as_ref().and_then(Watch::last_us);
        Ok(())
    }

    fn remove_spool(&self) {
        if let Err(error) = std::fs::remove_file(&self.config.spool) {
            tracing::warn!(path = %self.config.spool.display(), "a used spool stays behind: {error}");
        }
    }

    fn thread_gone(&self) -> Error {
        let NicIdentity { vm, nic, .. } = self.config.identity.clone();
        Error::ThreadGone { vm, nic }
    }
}

fn injector(tap: &Tap) -> Result<Injector, Error> {
    Injector::start(tap.index()).context(tap.name(), "prepare to inject frames")
}
