//! What a coordinator is told, from a TOML file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use transhume_model::HostSpec;
use transhume_protocol::migration::Limits;

/// Environment variable that overrides [`Config::crash_at`].
const CRASH_AT: &str = "TRANSHUME_CRASH_AT";

/// The coordinator's configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// TCP address of the API.
    pub api: Option<SocketAddr>,
    /// Unix socket of the API.
    pub api_socket: Option<PathBuf>,
    /// The journal's file.
    pub journal: PathBuf,
    /// The hosts and where their agents listen.
    pub hosts: Vec<HostSpec>,
    /// How long the parts of a move may take.
    #[serde(default)]
    pub limits: Limits,
    /// Fault injection for tests: the process aborts there, once, as if it had been killed.
    pub crash_at: Option<CrashAt>,
}

/// Where a test wants the coordinator to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CrashAt {
    /// Right before `Committed` is made durable.
    BeforeCommitted,
    /// Right after, before any order leaves.
    AfterCommitted,
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the coordinator's configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what is expected.
    #[error("the coordinator's configuration {path} is not usable")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and what was expected.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Nobody could reach it.
    #[error("the coordinator's configuration {path} names neither `api` nor `api_socket`: give at least one")]
    NoApi {
        /// The file.
        path: PathBuf,
    },
    /// A host appears twice.
    #[error("the coordinator's configuration {path} names host {host} twice")]
    HostTwice {
        /// The file.
        path: PathBuf,
        /// The host.
        host: transhume_model::HostName,
    },
}

impl Config {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let own = || path.to_owned();
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: own(), source })?;
        let mut config: Self = toml::from_str(&text).map_err(|source| ConfigError::Syntax {
            path: own(),
            source: Box::new(source),
        })?;
        if config.api.is_none() && config.api_socket.is_none() {
            return Err(ConfigError::NoApi { path: own() });
        }
        let mut seen = std::collections::BTreeSet::new();
        if let Some(twice) = config.hosts.iter().find(|host| !seen.insert(&host.name)) {
            return Err(ConfigError::HostTwice {
                path: own(),
                host: twice.name.clone(),
            });
        }
        match std::env::var(CRASH_AT).as_deref() {
            Ok("before-committed") => config.crash_at = Some(CrashAt::BeforeCommitted),
            Ok("after-committed") => config.crash_at = Some(CrashAt::AfterCommitted),
            _ => {}
        }
        Ok(config)
    }
}
