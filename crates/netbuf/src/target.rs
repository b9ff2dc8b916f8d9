//! The target's buffer of one NIC (§3.3.1): takes the tunnel's records, delivers them once the VM
//! runs.
//!
//! ```text
//!  open (listens) ─▶ … records come, are kept … ─▶ (agent: cont) ─▶ activate: inject, announce ─▶
//!  inject what comes ─▶ FIN: flooding on, plug open ─▶ late frames ─▶ CLOSE ─▶ finish: the account
//!  after a kill:  resume ─▶ from where the spool is
//! ```
//!
//! The handle is here, the thread in `deliver.rs`. Each step may be asked for again. Dropping the
//! handle leaves what a kill leaves.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use transhume_model::{Endpoint, WallMicros};

use crate::Events;
use crate::account::TargetAccount;
use crate::config::{NicIdentity, TargetConfig};
use crate::deliver::{Deliver, NoAnswer, PlugOpener, Worker};
use crate::error::{Error, IoContext, SpoolContext};
use crate::frame::Signature;
use crate::limits::COMMITTED_GROWTH;
use crate::meter::Meter;
use crate::spool::{Note, Spool};
use crate::sys;
use crate::tap::Tap;
use crate::watch::Watch;

/// When a VM's frames were in and it was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activated {
    /// What had come before the activation was in the guest's ring, or the ring was full of frames
    /// that the guest did not take.
    pub injected_at: WallMicros,
    /// The VM was announced to the fabric.
    pub announced_at: WallMicros,
    /// Frames that were still to be injected then. They go in behind its back, before any that came
    /// by the new path.
    pub waiting_frames: u64,
}

/// The target's buffer of one NIC.
pub struct TargetBuffer {
    config: TargetConfig,
    tap: Tap,
    address: SocketAddr,
    dropped_before: u64,
    meter: Arc<Meter>,
    deliver: Deliver,
    finished: Option<TargetAccount>,
}

impl std::fmt::Debug for TargetBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TargetBuffer")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl TargetBuffer {
    /// Step 4: the buffer is there and listens.
    pub fn open(config: TargetConfig, tap: &Tap, events: Events) -> Result<Self, Error> {
        let bytes_max = config.buffer_bytes_max as usize * COMMITTED_GROWTH;
        let mut tap = tap.share(config.mtu, config.plug_bytes_max)?;
        let mut spool = Spool::create(&config.spool, bytes_max, tap.vnet_header_bytes()?)?;
        let Signature(number) = new_signature().context(tap.name(), "draw a number")?;
        spool.set_note(Note::Signature, number);
        spool.set_note(Note::DroppedBefore, tap.dropped()?);
        Self::start(config, tap, spool, false, events)
    }

    /// A buffer that a killed agent left. `active`: its VM had been activated, or run for it; then
    /// it delivers at once, announces the VM again, and opens plug and flooding again where FIN had
    /// come. What is delivered already is not delivered again. A frame injected in the instant of
    /// the kill, and not yet noted, is the one exception.
    pub fn resume(config: TargetConfig, tap: &Tap, active: bool, events: Events) -> Result<Self, Error> {
        let tap = tap.share(config.mtu, config.plug_bytes_max)?;
        let spool = Spool::reopen(&config.spool)?;
        Self::start(config, tap, spool, active, events)
    }

    fn start(
        config: TargetConfig,
        tap: Tap,
        spool: Spool,
        active: bool,
        events: Events,
    ) -> Result<Self, Error> {
        let name = tap.name().to_owned();
        let at = SocketAddr::new(config.listen, config.port);
        let listener = TcpListener::bind(at).context(&name, "listen for the tunnel")?;
        listener
            .set_nonblocking(true)
            .context(&name, "listen for the tunnel")?;
        let address = listener.local_addr().context(&name, "listen for the tunnel")?;
        let dropped_before = spool.note(Note::DroppedBefore);
        let watch = Watch::start(tap.index()).context(&name, "watch the guest's frames")?;
        let own = tap.share(config.mtu, config.plug_bytes_max)?;
        let meter = Arc::new(Meter::new(config.traced));
        let mut worker = Worker::new(&config, own, spool, listener, watch, meter.clone(), events)?;
        worker.take_up(active)?;
        let deliver = Deliver::spawn(worker).context(&name, "start the delivery")?;
        Ok(Self {
            config,
            tap,
            address,
            dropped_before,
            meter,
            deliver,
            finished: None,
        })
    }

    /// Where the source connects to, and with what.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            host: self.config.host.clone(),
            address: self.address,
            secret: self.config.secret.clone(),
        }
    }

    /// Opens its plug without FIN, also while [`TargetBuffer::finish`] waits.
    pub fn opener(&self) -> PlugOpener {
        self.deliver.opener()
    }

    /// What it keeps and has done, also while it works.
    pub fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }

    /// Step 8, the guest running: everything captured so far goes in, then the VM is announced. A
    /// guest that takes none, or is stopped, or is slow, is announced all the same after
    /// `ACTIVATE_IDLE_MAX` or `ACTIVATE_WAIT_MAX`: its ring is filled as far as it has room, and
    /// the rest goes in behind its back. Asked for again it answers the same.
    pub fn activate(&mut self) -> Result<Activated, Error> {
        self.deliver.activate().ok_or_else(|| self.thread_gone())
    }

    /// Step 9: waits until the source has closed and everything is delivered or given up, at most
    /// so long; then the closing goes on, and may be asked for again. Once it is done the
    /// same account is returned each time; until the handle is dropped the source is answered when
    /// it asks again.
    pub fn finish(&mut self, wait: Duration) -> Result<TargetAccount, Error> {
        if let Some(account) = self.finished {
            return Ok(account);
        }
        let (mut account, refused) = match self.deliver.finish(wait) {
            Ok(closed) => closed,
            Err(NoAnswer::ThreadGone) => return Err(self.thread_gone()),
            Err(NoAnswer::NotInTime) => {
                let NicIdentity { vm, nic, .. } = self.config.identity.clone();
                return Err(Error::StillClosing { vm, nic });
            }
        };
        let dropped = self.tap.dropped()?;
        account.dropped = dropped.saturating_sub(self.dropped_before + refused);
        if account.untaken > 0 {
            // The guest takes none: what was dropped found its ring full.
            account.untaken += std::mem::take(&mut account.dropped);
        }
        self.meter.close(account.dropped);
        self.finished = Some(account);
        Ok(account)
    }

    /// Removes the spool, whatever is in it: the VM does not come, or the buffer is closed.
    pub fn discard(mut self) -> Result<(), Error> {
        self.deliver.end();
        self.remove_spool()
    }

    fn remove_spool(&self) -> Result<(), Error> {
        match std::fs::remove_file(&self.config.spool) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).spool(&self.config.spool.display().to_string(), "remove")
            }
            _ => Ok(()),
        }
    }

    fn thread_gone(&self) -> Error {
        let NicIdentity { vm, nic, .. } = self.config.identity.clone();
        Error::ThreadGone { vm, nic }
    }
}

impl Drop for TargetBuffer {
    fn drop(&mut self) {
        if self.finished.is_some()
            && let Err(error) = self.remove_spool()
        {
            tracing::warn!(path = %self.config.spool.display(), "a used spool stays behind: {error}");
        }
    }
}

/// Nobody but this buffer has it, and its source, which asks for it.
fn new_signature() -> std::io::Result<Signature> {
    let mut bytes = [0; 8];
    sys::random(&mut bytes)?;
    Ok(Signature(u64::from_ne_bytes(bytes)))
}
