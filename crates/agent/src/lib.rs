//! One agent per host: carries out the coordinator's orders over QEMU, the virtual network buffers
//! and the host's bridge (§3.3).
//!
//! What is decided about one VM is `transhume_agent_core`; here its effects are carried out.
//! `docs/design/agent.md` has the roles and what is recorded when. The order of reading: `start`
//! (what an earlier agent left), `agent` (who takes which order), `vm` (one VM's task), `store`
//! (the records).
//!
//! Deliberately absent: any decision, about a VM or about a batch.
#![forbid(unsafe_code)]

mod agent;
mod bands;
mod cgroup;
mod clock;
mod config;
mod context;
mod dirty_rate;
mod disk;
mod flow;
mod host;
mod images;
mod limits;
mod link;
pub mod local;
mod logs;
mod marks;
mod metrics;
mod nics;
pub mod pace;
pub mod page_stream;
mod private;
mod reservations;
mod rights;
mod start;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod text;
mod throttle;
mod together;
mod vm;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tracing::{info, warn};
use transhume_qemu::{Accel, Launcher, QemuBinary, QemuError, UserError, Users};
use transhume_trust::{Identity, Security, SecurityError};

pub use crate::bands::{BandsFault, HostBands, Shown};
pub use crate::config::{Config, ConfigError, Listen, OptionalClass, PagesConfig};
pub use crate::store::{StoreError, holder};

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
    /// The address for metrics is taken or not there.
    #[error("cannot serve metrics on {address}: is the port taken, or the address not one of this host's?")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory cannot be made, or others could take its place.
    #[error("cannot use the directory {path}")]
    Directory {
        /// The directory.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Traces of buffers cannot be written where the configuration says.
    #[error("cannot write traces of buffers to {path}")]
    BufferTraces {
        /// The directory.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The state directory cannot be used.
    #[error("the records of this host's VMs cannot be kept")]
    Store(#[from] StoreError),
    /// The bridge of the VMs is not as it must be.
    #[error("the bridge of this host's VMs cannot be used")]
    Bridge(#[source] transhume_netbuf::Error),
    /// Its links cannot be secured, or nobody said that they need not be.
    #[error("the agent's links cannot be secured")]
    Security(#[from] SecurityError),
    /// It may not do what an agent does.
    #[error("this agent has no {}", .missing.join(", "))]
    Rights {
        /// Capabilities, by name.
        missing: Vec<&'static str>,
    },
    /// Nothing that a VM boots from could be opened.
    #[error("the system call openat2 is not permitted")]
    Openat2,
    /// QEMU would have to run as this agent does.
    #[error("there is nobody for QEMU to run as")]
    QemuUser(#[from] UserError),
    /// What an earlier agent left cannot be looked at.
    #[error("cannot take over the VMs of an earlier agent")]
    Recover(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// What would help, where the text does not say it.
    pub fn hint(&self) -> Option<String> {
        let said = match self {
            Error::Metrics { .. } => {
                "name another address in `metrics` of agent.toml; without that line no metrics are served"
            }
            Error::BufferTraces { .. } => {
                "name another directory in `buffer_traces` of agent.toml; without that line no traces are kept"
            }
            Error::Security(error) => error.hint()?,
            Error::QemuUser(error) => return error.hint(),
            Error::Rights { .. } => {
                "start it as root; a unit's CapabilityBoundingSet must have them (packaging/systemd/transhume-agent.service)"
            }
            Error::Openat2 => {
                "a unit's RestrictSUIDSGID= forbids it, and filters of system calls may \
                 (packaging/systemd/transhume-agent.service has what an agent bears); Linux has it from 5.6 on"
            }
            Error::Listen { .. }
            | Error::Directory { .. }
            | Error::Store(_)
            | Error::Bridge(_)
            | Error::Recover(_) => return None,
        };
        Some(said.to_owned())
    }
}

/// Runs the agent until the process is ended. The VMs outlive it.
pub async fn run(mut config: Config) -> Result<(), Error> {
    config.state_dir = directory(&config.state_dir)?;
    config.spool_dir = directory(&config.spool_dir)?;
    if let Some(path) = &config.buffer_traces {
        nics::prepare_traces(path).map_err(|source| Error::BufferTraces {
            path: path.clone(),
            source,
        })?;
    }
    let users = Users::resolve(&config.qemu_user)?;
    // Where nobody can say, what lacks them fails by itself.
    match rights::missing().unwrap_or_default() {
        missing if missing.is_empty() => {}
        missing => return Err(Error::Rights { missing }),
    }
    if !images::openat2_is_permitted() {
        return Err(Error::Openat2);
    }
    let store = store::Store::open(&config.state_dir)?;
    let own = Identity::Agent(config.host.clone());
    let security = Security::of(config.trust.as_ref(), config.insecure, &own)?;
    transhume_netbuf::Tap::prepare_uplinks(&config.bridge).map_err(Error::Bridge)?;
    let address = config.listen.control;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })?;
    let metrics = match config.metrics {
        Some(address) => Some(listen_for_metrics(address).await?),
        None => None,
    };
    let host = config.host.clone();
    let launcher = launcher(&config, users).await;
    match &launcher {
        Ok(launcher) => {
            info!(%host, qemu = %launcher.binary().version(), accel = launcher.accel().name(), "agent ready")
        }
        Err(error) => warn!(%host, "no VM can run here: {error}"),
    }
    let launcher = launcher.map_err(|error| error.to_string());
    let bands = config.bands.clone().map(|configured| {
        let bands = HostBands::new(configured.clone(), &config.state_dir);
        bands::Keeper::start(configured, bands)
    });
    let context = Arc::new(context::Context::new(
        config,
        store,
        launcher,
        security.clone(),
        bands.clone(),
    ));
    let agent = agent::Agent::new(context.clone());
    start::take_over(&agent).await.map_err(Error::Recover)?;
    // Ends with this function.
    let mut beside = JoinSet::new();
    if let Some(listener) = metrics {
        beside.spawn(metrics::serve(listener, agent.clone()));
    }
    info!(%host, %address, "waiting for the coordinator");
    let served = link::serve(listener, security, context.reports.clone(), agent);
    match bands {
        None => served.await,
        Some(bands) => {
            tokio::select! {
                () = served => {}
                () = bands.clone().keep() => {}
                () = told_to_end() => {}
            }
            bands.stop();
        }
    }
    Ok(())
}

async fn listen_for_metrics(address: SocketAddr) -> Result<TcpListener, Error> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| Error::Metrics { address, source })?;
    info!(%address, "metrics");
    Ok(listener)
}

/// Resolves when the process is asked to end (SIGTERM, SIGINT); never where it cannot be told.
async fn told_to_end() {
    let (term, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut term), Ok(mut interrupt)) = (term, interrupt) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn directory(path: &Path) -> Result<std::path::PathBuf, Error> {
    private::directory(path).map_err(|source| Error::Directory {
        path: path.to_owned(),
        source,
    })
}

async fn launcher(config: &Config, users: Users) -> Result<Launcher, QemuError> {
    let binary = QemuBinary::probe(&config.qemu).await?;
    let accel = Accel::detect(&binary, config.accel, &users).await?;
    Ok(Launcher::new(binary, accel, users))
}
