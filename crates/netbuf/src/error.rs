//! What can go wrong with a buffer. Text names the tap or the VM and what was being done.

use std::io;
use std::net::SocketAddr;

use transhume_model::{NicIndex, VmName};

/// Why an operation on a tap or a buffer failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused something.
    #[error("tap {name}: cannot {step}")]
    Io {
        /// The tap.
        name: String,
        /// What was being done.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An interface of that name exists already.
    #[error("tap {name} exists already; a VM of another agent, or one left by a crash, holds it")]
    NameTaken {
        /// The tap.
        name: String,
    },
    /// The bridge is missing.
    #[error(
        "bridge {name} does not exist on this host; create it or name another in the agent's configuration"
    )]
    NoBridge {
        /// The bridge.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process does not hold the tap.
    #[error("process {pid} holds no tap named {name}")]
    NoTapInProcess {
        /// The process.
        pid: u32,
        /// The tap.
        name: String,
    },
    /// QEMU did not empty the tap's ring in time.
    #[error(
        "VM {vm} NIC {nic}: the guest left frames in its ring for {waited_ms} ms and took {taken}; is it stuck?"
    )]
    RingNotEmpty {
        /// The VM.
        vm: VmName,
        /// The NIC.
        nic: NicIndex,
        /// How long was waited.
        waited_ms: u64,
        /// Frames that it took meanwhile.
        taken: u64,
    },
    /// The tunnel cannot be set up or broke.
    #[error("VM {vm} NIC {nic}: the tunnel to {peer} cannot be used: {step}")]
    Tunnel {
        /// The VM.
        vm: VmName,
        /// The NIC.
        nic: NicIndex,
        /// The other end.
        peer: SocketAddr,
        /// What was being done.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The spool's file holds something else.
    #[error("the spool {path} is not a spool of this version")]
    NotASpool {
        /// The file.
        path: String,
    },
    /// The data thread ended early.
    #[error("VM {vm} NIC {nic}: the buffer's thread ended early")]
    ThreadGone {
        /// The VM.
        vm: VmName,
        /// The NIC.
        nic: NicIndex,
    },
}

/// Gives an io error the tap's name and the step.
pub(crate) trait IoContext<T> {
    fn context(self, name: &str, step: &'static str) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn context(self, name: &str, step: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Io {
            name: name.to_owned(),
            step,
            source: source.into(),
        })
    }
}
