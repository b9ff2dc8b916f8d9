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
    /// The tap is there, carries our mark, and a process holds it.
    #[error(
        "tap {name} is there already and {holder} holds it; adopt the VM of that process, or end the process"
    )]
    TapInUse {
        /// The tap.
        name: String,
        /// Which process, in words.
        holder: String,
    },
    /// An interface of that name is there and is somebody else's.
    #[error(
        "interface {name} is there already and is somebody else's: {found}; it is left alone, rename or remove it"
    )]
    ForeignInterface {
        /// The interface.
        name: String,
        /// What it is, in words.
        found: String,
    },
    /// The owner of a tap cannot be written into its mark.
    #[error("`{owner}` cannot own a tap: use 1 to 64 bytes without `:`")]
    BadOwner {
        /// As it was given.
        owner: String,
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
    /// The handle is asked for something that does not fit where it is. Never worth a retry.
    #[error("VM {vm} NIC {nic}: cannot {operation} a buffer that {stage}")]
    WrongStage {
        /// The VM.
        vm: VmName,
        /// The NIC.
        nic: NicIndex,
        /// What was asked for.
        operation: &'static str,
        /// Where the buffer is.
        stage: &'static str,
    },
    /// The closing takes longer than one call waits; it goes on.
    #[error("VM {vm} NIC {nic}: the buffer is still closing; ask again")]
    StillClosing {
        /// The VM.
        vm: VmName,
        /// The NIC.
        nic: NicIndex,
    },
    /// The spool still holds frames that nobody has got.
    #[error("VM {vm} NIC {nic}: the spool {path} is kept, its frames are neither delivered nor put back")]
    NotAccounted {
        /// The VM.
        vm: VmName,
        /// The NIC.
        nic: NicIndex,
        /// The file.
        path: String,
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
    /// The file that frames are kept in cannot be used.
    #[error("the spool {path}: cannot {step} it")]
    Spool {
        /// The file.
        path: String,
        /// What was being done.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no spool to resume from.
    #[error("the spool {path} is gone; the buffer was closed, or its host was started anew")]
    NoSpool {
        /// The file.
        path: String,
    },
    /// The spool's file holds something else.
    #[error("the spool {path} is not a spool of this version")]
    NotASpool {
        /// The file.
        path: String,
    },
    /// The data thread ended early; what it had is in the spool.
    #[error("VM {vm} NIC {nic}: the buffer's thread ended early; drop the buffer and resume it")]
    ThreadGone {
        /// The VM.
        vm: VmName,
        /// The NIC.
        nic: NicIndex,
    },
}

/// Adds the tap's name and the step to an io error.
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

/// Adds the spool's path and the step to an io error.
pub(crate) trait SpoolContext<T> {
    fn spool(self, path: &str, step: &'static str) -> Result<T, Error>;
}

impl<T> SpoolContext<T> for io::Result<T> {
    fn spool(self, path: &str, step: &'static str) -> Result<T, Error> {
        self.map_err(|source| Error::Spool {
            path: path.to_owned(),
            step,
            source,
        })
    }
}
