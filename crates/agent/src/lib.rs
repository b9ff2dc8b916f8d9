//! One agent per host: carries out the coordinator's orders over QEMU, the virtual network buffers and the host's bridge (§3.3).
//!
//! `docs/design/agent.md` draws the roles of a VM and says what is remembered when. The order of reading: [`mod@agent`] (who
//! takes which order), [`mod@vm`] (the table of roles and orders), `vm/source.rs` and `vm/target.rs` (the ten steps).
//!
//! Deliberately absent: any decision to commit or to abort.
#![forbid(unsafe_code)]

mod agent;
mod config;
mod dirty_rate;
mod disk;
mod host;
mod limits;
mod link;
mod nics;
pub mod pace;
pub mod page_stream;
mod record;
mod recover;
mod vm;

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tracing::{info, warn};
use transhume_qemu::{Accel, Launcher, QemuBinary, QemuError};

pub use crate::config::{Config, ConfigError, Listen, OptionalClass, PagesConfig};
pub use crate::page_stream::{TlsError, TlsFiles};

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its address is taken or not there.
    #[error(
        "cannot listen on {address}; is another agent running on this host, or the address not configured here?"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory cannot be made.
    #[error("cannot create {path}")]
    Directory {
        /// The directory.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The bridge of the VMs is not as it must be.
    #[error("the bridge of this host's VMs cannot be used")]
    Bridge(#[source] transhume_netbuf::Error),
    /// The agent's certificate.
    #[error("page streams cannot be encrypted as the configuration asks")]
    Tls(#[from] TlsError),
    /// What an earlier agent remembered cannot be read.
    #[error("cannot take over the VMs of an earlier agent")]
    Recover(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Runs the agent until the process is ended. The VMs outlive it.
pub async fn run(config: Config) -> Result<(), Error> {
    for path in [&config.state_dir, &config.spool_dir] {
        std::fs::create_dir_all(path).map_err(|source| Error::Directory {
            path: path.clone(),
            source,
        })?;
    }
    let tls = config.tls.as_ref().map(page_stream::Tls::read).transpose()?;
    if tls.is_none() {
        warn!(host = %config.host, "page streams are not encrypted: no [tls] in the configuration");
    }
    transhume_netbuf::Tap::prepare_uplinks(&config.bridge).map_err(Error::Bridge)?;
    let address = config.listen.control;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })?;
    let host = config.host.clone();
    let launcher = launcher(&config).await;
    match &launcher {
        Ok(launcher) => {
            info!(%host, qemu = %launcher.binary().version(), accel = launcher.accel().name(), "agent ready")
        }
        Err(error) => warn!(%host, "no VM can run here: {error}"),
    }
    let shared = agent::Shared::new(config, launcher.map_err(|error| error.to_string()), tls);
    recover::recover(&shared)
        .await
        .map_err(|error| Error::Recover(Box::new(error)))?;
    info!(%host, %address, "waiting for the coordinator");
    link::serve(listener, shared.reports.clone(), agent::Agent(shared)).await;
    Ok(())
}

async fn launcher(config: &Config) -> Result<Launcher, QemuError> {
    let binary = QemuBinary::probe(&config.qemu).await?;
    let accel = Accel::detect(&binary, config.accel).await?;
    Ok(Launcher::new(binary, accel))
}
