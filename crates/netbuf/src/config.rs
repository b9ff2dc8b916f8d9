//! How the two ends of a buffer are configured.

use std::net::IpAddr;
use std::path::PathBuf;

use transhume_model::{Epoch, HostName, Mac, NicIndex, Secret, VmName};
use transhume_trust::Security;

/// Whose frames a buffer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicIdentity {
    /// The VM.
    pub vm: VmName,
    /// Which of its NICs.
    pub nic: NicIndex,
    /// Its address.
    pub mac: Mac,
    /// Attempt this buffer belongs to.
    pub epoch: Epoch,
}

/// The configuration of a source's buffer.
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
    /// Whether it keeps a trace of what it holds over time.
    pub traced: bool,
    /// By what its tunnel is secured.
    pub security: Security,
}

/// The configuration of a target's buffer.
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
    /// Whether it keeps a trace of what it holds over time.
    pub traced: bool,
    /// Address to listen on (CT band).
    pub listen: IpAddr,
    /// Port to listen on; 0 for any, or the one that a resumed buffer had.
    pub port: u16,
    /// This host, as its certificate names it.
    pub host: HostName,
    /// What the source must know.
    pub secret: Secret,
    /// By what its tunnel is secured.
    pub security: Security,
}
