//! The coordinator (§3: C): decides, remembers in its journal, and offers the user's API.
//!
//! ```text
//!  agents ◀──▶ link (a task per host) ──▶ ┌──────┐ ◀── requests ── http (axum) ◀── CLI, curl
//!                                         │ core │
//!            orders ◀─── Ready.send ───── └──┬───┘ ── persist ──▶ journal (redb)
//!                                            └── one sans-IO Migration per move
//! ```
//!
//! One task owns everything, so there is nothing to lock and nothing to race. Persist comes before
//! send. Deliberately absent: how a switchover is done (agents), when a step is over (protocol).
#![forbid(unsafe_code)]

mod arranging;
mod audit;
mod cleaning;
mod clock;
mod clusters;
mod config;
mod core;
mod drains;
mod effects;
mod error;
mod etcd_spec;
mod fencing;
mod governing;
mod history;
mod hosts;
mod http;
mod jobs;
pub mod journal;
mod link;
mod link_checks;
mod metrics;
mod moves;
mod planning;
mod requests;
mod roles;
mod serve;
mod standing;
mod store;
mod surveys;
#[cfg(feature = "testing")]
pub mod testing;
mod views;
mod vm_checks;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tracing::info;
use transhume_model::WallMicros;
use transhume_trust::{Identity, Security, SecurityError};

pub use crate::config::{Config, ConfigError, CrashAt};
pub use crate::core::CoreError;
pub use crate::etcd_spec::{EtcdSpec, LEASE_S_MAX, LEASE_S_MIN};
pub use crate::http::openapi;
use crate::journal::{EtcdJournal, Journal, RedbJournal};
use crate::roles::Roles;
pub use crate::roles::{Role, RoleSpec};
pub use crate::standing::Standing;

/// Its owner alone may open the socket,
const SOCKET_MODE: u32 = 0o600;
/// unless other users have roles: then everybody may, and who has none is refused.
const SHARED_SOCKET_MODE: u32 = 0o666;
/// Requests and reports that wait for the core's attention.
const WAITING_MAX: usize = 4096;

/// What this machine's wall clock says.
fn wall() -> WallMicros {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    WallMicros(since_1970.map_or(0, |time| time.as_micros() as u64))
}

/// Why a coordinator stops.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its address is taken or not there.
    #[error("cannot serve the API on {address}{}", another(.source))]
    Listen {
        /// The address or path.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its links cannot be secured, or nobody said that they need not be.
    #[error("the coordinator's links cannot be secured")]
    Security(#[from] SecurityError),
    /// Decisions cannot be written down.
    #[error("cannot open the audit file {path}")]
    Audit {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The API's server failed.
    #[error("the API's server failed")]
    Serve(#[source] tokio::task::JoinError),
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] journal::JournalError),
    /// It cannot go on.
    #[error(transparent)]
    Core(#[from] CoreError),
}

impl Error {
    /// What would help, where the text does not say it.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::Security(error) => error.hint(),
            Error::Journal(error) | Error::Core(CoreError::Journal(error)) => error.hint(),
            _ => None,
        }
    }
}

fn another(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => "; is another coordinator running?",
        _ => "",
    }
}

/// Runs until the journal fails. Restarted, it goes on from the journal.
pub async fn run(config: Config) -> Result<(), Error> {
    if let Some(spec) = config.etcd.clone() {
        return run_in_etcd(config, spec).await;
    }
    let mut journal = Box::new(RedbJournal::open(&config.journal)?);
    journal::check_fleet(&mut *journal, &config.journal)?;
    run_with(config, journal).await
}

/// The same beside others, one of which leads.
async fn run_in_etcd(config: Config, spec: EtcdSpec) -> Result<(), Error> {
    let waits = Standing::Waits {
        what: "this one has just started".to_owned(),
    };
    let (standing, seen) = watch::channel(waits);
    let (local, api) = (config.journal.clone(), config.advertised());
    let journal = async move {
        let journal = EtcdJournal::lead(&spec, &local, &api.unwrap_or_default(), &standing).await?;
        standing.send_replace(Standing::Leads);
        Ok(Box::new(journal) as Box<dyn Journal>)
    };
    run_when(config, seen, journal).await
}

/// The same with a journal of the caller's.
pub async fn run_with(config: Config, journal: Box<dyn Journal>) -> Result<(), Error> {
    let leads = watch::channel(Standing::Leads).1;
    run_when(config, leads, async { Ok(journal) }).await
}

/// The same with a journal that is there once this coordinator leads. Until then the API says what
/// `standing` says; it must say [`Standing::Leads`] before the journal is given out. When the
/// journal is lost, everything ends at once: a restarted coordinator follows.
pub async fn run_when(
    config: Config,
    standing: watch::Receiver<Standing>,
    journal: impl Future<Output = Result<Box<dyn Journal>, journal::JournalError>>,
) -> Result<(), Error> {
    let (news_sender, news) = mpsc::channel(WAITING_MAX);
    let (requests_sender, requests) = mpsc::channel(WAITING_MAX);
    // Addresses first: a second coordinator must not touch the journal's moves before it finds out
    // that it is one.
    let security = Security::of(config.trust.as_ref(), config.insecure, &Identity::Coordinator)?;
    let mut servers = serve(&config, &security, requests_sender, standing).await?;
    let mut journal = tokio::select! {
        journal = journal => journal?,
        Some(ended) = servers.join_next() => return ended.map_err(Error::Serve),
    };
    let hosts = config.hosts.clone();
    let lost = journal.lost();
    let leader = journal.lead()?;
    info!(fleet = %leader.fleet, term = leader.term, "leads");
    let core = core::Core::recover(config, journal)?;
    // Sets of tasks end with this function.
    let mut links = JoinSet::new();
    for host in hosts {
        links.spawn(link::keep(
            host,
            leader.clone(),
            security.clone(),
            news_sender.clone(),
        ));
    }
    tokio::select! {
        why = lost => Err(why.into()),
        ended = core.run(news, requests) => Ok(ended?),
        Some(ended) = servers.join_next() => ended.map_err(Error::Serve),
    }
}

/// The API on every address of the configuration.
async fn serve(
    config: &Config,
    security: &Security,
    requests: mpsc::Sender<requests::Request>,
    standing: watch::Receiver<Standing>,
) -> Result<JoinSet<()>, Error> {
    let roles = Roles::new(config.roles.clone(), rustix::process::geteuid().as_raw());
    let path = config.audit_file();
    let audit = audit::Audit::open(&path).map_err(|source| Error::Audit { path, source })?;
    let router = http::router(
        requests,
        fencing::FenceAgents::of(&config.hosts),
        roles.clone(),
        audit,
        security.clone(),
        standing,
    );
    let places = Arc::new(Semaphore::new(serve::CONNECTIONS_MAX));
    let mut servers = JoinSet::new();
    if let Some(address) = config.api {
        let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen {
            address: address.to_string(),
            source,
        })?;
        info!(%address, "API");
        servers.spawn(serve::serve_address(
            listener,
            security.clone(),
            router.clone(),
            places.clone(),
        ));
    }
    if let Some(path) = &config.api_socket {
        let listener = bind(path, &roles).map_err(|source| Error::Listen {
            address: path.display().to_string(),
            source,
        })?;
        info!(socket = %path.display(), "API");
        servers.spawn(serve::serve_socket(listener, router, places));
    }
    Ok(servers)
}

/// A socket that a killed coordinator left is replaced; one that answers is another coordinator's,
/// and what is no socket is somebody's file. It is made beside its place, so that nobody else can
/// ever open it.
fn bind(path: &Path, roles: &Roles) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    remove(Path::new(&beside))?;
    let mode = match roles.are_for_other_uids() {
        true => SHARED_SOCKET_MODE,
        false => SOCKET_MODE,
    };
    let listener = UnixListener::bind(&beside)?;
    std::fs::set_permissions(&beside, Permissions::from_mode(mode))?;
    std::fs::rename(&beside, path)?;
    Ok(listener)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
