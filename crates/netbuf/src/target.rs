//! The target's buffer of one NIC (§3.3.1): takes the tunnel's records, delivers them once the VM runs.
//!
//! ```text
//!  open (listens) ─▶ … records come, are kept … ─▶ (agent: cont) ─▶ activate ─▶ inject, announce ─▶ inject what comes ─▶ FIN:
//!  flooding on, plug open ─▶ late frames ─▶ CLOSE ─▶ finish returns the account
//! ```
//!
//! The handle is here, the thread in `deliver.rs`.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;

use transhume_model::WallMicros;

use crate::Events;
use crate::account::TargetAccount;
use crate::deliver::{Deliver, Worker};
use crate::error::{Error, IoContext};
use crate::limits::COMMITTED_GROWTH;
use crate::spool::Spool;
use crate::tap::Tap;
use crate::tunnel::NicIdentity;
use crate::watch::Watch;

/// What a target's buffer is told.
#[derive(Debug, Clone)]
pub struct TargetConfig {
    /// Whose frames.
    pub identity: NicIdentity,
    /// Largest IP packet of the NIC, bytes.
    pub mtu: u16,
    /// Where frames are kept; on a memory file system.
    pub spool: PathBuf,
    /// The source's limit before commit, bytes.
    pub buffer_bytes_max: u64,
    /// Bytes the plug holds while it is shut.
    pub plug_bytes_max: u32,
    /// Address to listen on (CT band); the port is the kernel's choice, or the one a resumed buffer had.
    pub listen: IpAddr,
    /// Port to listen on; 0 for any.
    pub port: u16,
}

/// The target's buffer of one NIC.
pub struct TargetBuffer {
    config: TargetConfig,
    tap: Tap,
    address: SocketAddr,
    dropped_before: u64,
    deliver: Deliver,
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
        let spool = Spool::create(&config.spool, bytes_max, tap.vnet_header_bytes()?)?;
        Self::start(config, tap, spool, events)
    }

    /// A buffer that a killed agent left: what is delivered already is not delivered again. A frame injected in the instant of the
    /// kill, and not yet noted, is the one exception.
    pub fn resume(config: TargetConfig, tap: &Tap, events: Events) -> Result<Self, Error> {
        let spool = Spool::reopen(&config.spool)?;
        Self::start(config, tap, spool, events)
    }

    fn start(config: TargetConfig, tap: &Tap, spool: Spool, events: Events) -> Result<Self, Error> {
        let name = tap.name().to_owned();
        let mut tap = tap.share(config.mtu, config.plug_bytes_max)?;
        let at = SocketAddr::new(config.listen, config.port);
        let listener = TcpListener::bind(at).context(&name, "listen for the tunnel")?;
        listener
            .set_nonblocking(true)
            .context(&name, "listen for the tunnel")?;
        let address = listener.local_addr().context(&name, "listen for the tunnel")?;
        let dropped_before = tap.dropped()?;
        let watch = Watch::start(tap.index()).context(&name, "watch the guest's frames")?;
        let own = tap.share(config.mtu, config.plug_bytes_max)?;
        let worker = Worker::new(&config, own, spool, listener, watch, events)?;
        let deliver = Deliver::spawn(worker).context(&name, "start the delivery")?;
        Ok(Self {
            config,
            tap,
            address,
            dropped_before,
            deliver,
        })
    }

    /// Where the source connects to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Step 8, the guest running: everything captured so far goes in, then the VM is announced. Returns when each was so. Blocks
    /// while the guest's ring is full.
    pub fn activate(&mut self) -> Result<(WallMicros, WallMicros), Error> {
        self.deliver.activate().ok_or_else(|| self.thread_gone())
    }

    /// Step 9: returns when the source has closed and everything is delivered. Blocks; the source has the limits.
    pub fn finish(mut self) -> Result<TargetAccount, Error> {
        let NicIdentity { vm, nic, .. } = self.config.identity.clone();
        let gone = Error::ThreadGone { vm, nic };
        let (mut account, refused) = self.deliver.finish().ok_or(gone)?;
        let dropped = self.tap.dropped()?;
        account.dropped = dropped
            .saturating_sub(self.dropped_before)
            .saturating_sub(refused);
        if let Err(error) = std::fs::remove_file(&self.config.spool) {
            tracing::warn!(path = %self.config.spool.display(), "a used spool stays behind: {error}");
        }
        Ok(account)
    }

    fn thread_gone(&self) -> Error {
        let NicIdentity { vm, nic, .. } = self.config.identity.clone();
        Error::ThreadGone { vm, nic }
    }
}
