//! The coordinator (§3: C): decides, remembers in its journal, and offers the user's API.
//!
//! ```text
//!  agents ◀──▶ link (a task per host) ──▶ ┌──────┐ ◀── requests ── http (axum) ◀── CLI, curl
//!                                         │ core │
//!            orders ◀─── Ready.send ───── └──┬───┘ ── persist ──▶ journal (redb)
//!                                            └── one sans-IO Migration per move
//! ```
//!
//! One task owns everything, so there is nothing to lock and nothing to race. Persist comes before send.
//! Deliberately absent: how a switchover is done (agents), when a step is over (protocol).
#![forbid(unsafe_code)]

pub mod api;
mod checks;
mod clusters;
mod config;
mod core;
mod error;
mod history;
mod http;
pub mod journal;
mod link;
mod requests;

use std::io;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tracing::info;

pub use crate::config::{Config, ConfigError, CrashAt};
pub use crate::core::CoreError;
pub use crate::http::openapi;
use crate::journal::RedbJournal;

/// Requests and reports that wait for the core's attention.
const WAITING_MAX: usize = 4096;

/// Why a coordinator stops.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its address is taken or not there.
    #[error("cannot serve the API on {address}; is another coordinator running?")]
    Listen {
        /// The address or path.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The API's server failed.
    #[error("the API's server failed")]
    Serve(#[source] io::Error),
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] journal::JournalError),
    /// It cannot go on.
    #[error(transparent)]
    Core(#[from] CoreError),
}

/// Runs until the journal fails. Restarted, it goes on from the journal.
pub async fn run(config: Config) -> Result<(), Error> {
    let journal = Box::new(RedbJournal::open(&config.journal)?);
    let (tcp, unix) = (config.api, config.api_socket.clone());
    let hosts = config.hosts.clone();
    let core = core::Core::recover(config, journal)?;
    let (news_sender, news) = mpsc::channel(WAITING_MAX);
    let (requests_sender, requests) = mpsc::channel(WAITING_MAX);
    for host in hosts {
        tokio::spawn(link::keep(host, news_sender.clone()));
    }
    let router = http::router(requests_sender);
    let mut servers = tokio::task::JoinSet::new();
    if let Some(address) = tcp {
        let refused = |source| Error::Listen {
            address: address.to_string(),
            source,
        };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        info!(%address, "API");
        servers.spawn(axum::serve(listener, router.clone()).into_future());
    }
    if let Some(path) = unix {
        let listener = bind(&path).map_err(|source| Error::Listen {
            address: path.display().to_string(),
            source,
        })?;
        info!(socket = %path.display(), "API");
        servers.spawn(axum::serve(listener, router).into_future());
    }
    tokio::select! {
        ended = core.run(news, requests) => Ok(ended?),
        Some(served) = servers.join_next() => served.map_err(io::Error::other).and_then(|done| done).map_err(Error::Serve),
    }
}

/// A socket that a killed coordinator left is replaced; one that answers is another coordinator's.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    remove(path.to_owned())?;
    UnixListener::bind(path)
}

fn remove(path: PathBuf) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
