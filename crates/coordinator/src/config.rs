//! A coordinator's configuration, from a TOML file.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use transhume_model::{BitRate, HostName, HostSpec};
use transhume_protocol::migration::Limits;
use transhume_trust::TrustFiles;

use crate::etcd_spec::EtcdSpec;
use crate::roles::RoleSpec;

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
    /// The journal's file; with `etcd` there is none, and what is beside it is this machine's:
    /// `FILE.fleet`, the audit file.
    pub journal: PathBuf,
    /// The journal is in etcd, shared with other coordinators of which one leads.
    #[serde(default)]
    pub etcd: Option<EtcdSpec>,
    /// Where it is written down who asked for what; where absent, `audit.jsonl` beside the journal.
    pub audit: Option<PathBuf>,
    /// Certificates of this coordinator's links, and of its API over TCP.
    pub trust: Option<TrustFiles>,
    /// Its links are in the clear, and whoever reaches its API over TCP is an admin: for a network
    /// where nobody else is.
    #[serde(default)]
    pub insecure: bool,
    /// Who may ask the API for what; where there are none, users may look, and root and this
    /// coordinator's own user, on the socket, may do everything.
    #[serde(default)]
    pub roles: Vec<RoleSpec>,
    /// The hosts and where their agents listen.
    #[serde(default)]
    pub hosts: Vec<HostSpec>,
    /// Links that several hosts share towards all others; none where absent.
    #[serde(default)]
    pub uplinks: Vec<UplinkSpec>,
    /// How long the parts of a move may take.
    #[serde(default)]
    pub limits: Limits,
    /// Fault injection for tests: at every commit this process aborts there, as if it had been
    /// killed. `TRANSHUME_CRASH_AT` in the environment overrides it.
    pub crash_at: Option<CrashAt>,
}

/// A link that several hosts share towards all others.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UplinkSpec {
    /// Its name, for messages.
    pub name: String,
    /// The hosts behind it.
    pub hosts: Vec<HostName>,
    /// What page streams may take of it in each direction.
    pub rate: BitRate,
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

impl CrashAt {
    fn named(text: &OsStr) -> Result<Self, ConfigError> {
        match text.to_str() {
            Some("before-committed") => Ok(CrashAt::BeforeCommitted),
            Some("after-committed") => Ok(CrashAt::AfterCommitted),
            _ => Err(ConfigError::CrashAt {
                found: text.to_string_lossy().into_owned(),
            }),
        }
    }
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
    /// There would be nothing to do.
    #[error(
        "the coordinator's configuration {path} names no host: add `[[hosts]]` with `name` and `control`"
    )]
    NoHosts {
        /// The file.
        path: PathBuf,
    },
    /// The fault-injection switch says something else.
    #[error("{CRASH_AT} is `{found}`: use before-committed or after-committed, or unset it")]
    CrashAt {
        /// As found.
        found: String,
    },
    /// What it says of etcd does not fit.
    #[error("`[etcd]` in the coordinator's configuration {path}: {why}")]
    Etcd {
        /// The file.
        path: PathBuf,
        /// What.
        why: String,
    },
    /// A host appears twice.
    #[error("the coordinator's configuration {path} names host {host} twice")]
    HostTwice {
        /// The file.
        path: PathBuf,
        /// The host.
        host: HostName,
    },
    /// An uplink has a host behind it that is not there.
    #[error(
        "the coordinator's configuration {path} puts host {host} behind uplink {uplink}, but names no such host"
    )]
    UplinkHost {
        /// The file.
        path: PathBuf,
        /// The uplink.
        uplink: String,
        /// The host.
        host: HostName,
    },
    /// An uplink appears twice.
    #[error("the coordinator's configuration {path} names uplink {uplink} twice")]
    UplinkTwice {
        /// The file.
        path: PathBuf,
        /// The uplink.
        uplink: String,
    },
}

impl Config {
    /// The audit file.
    pub(crate) fn audit_file(&self) -> PathBuf {
        let beside = || self.journal.with_file_name("audit.jsonl");
        self.audit.clone().unwrap_or_else(beside)
    }

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
        if config.hosts.is_empty() {
            return Err(ConfigError::NoHosts { path: own() });
        }
        let mut seen = std::collections::BTreeSet::new();
        if let Some(twice) = config.hosts.iter().find(|host| !seen.insert(&host.name)) {
            return Err(ConfigError::HostTwice {
                path: own(),
                host: twice.name.clone(),
            });
        }
        config.check_uplinks(path)?;
        config
            .check_etcd()
            .map_err(|why| ConfigError::Etcd { path: own(), why })?;
        if let Some(crash_at) = std::env::var_os(CRASH_AT) {
            config.crash_at = Some(CrashAt::named(&crash_at)?);
        }
        Ok(config)
    }

    fn check_etcd(&self) -> Result<(), String> {
        let Some(etcd) = &self.etcd else { return Ok(()) };
        etcd.check()?;
        match self.advertised() {
            Some(_) => Ok(()),
            None => Err(
                "others must know where this coordinator's API is: give `api` an address that they reach, or `advertise`"
                    .to_owned(),
            ),
        }
    }

    /// Where other coordinators send whoever asks them while this one leads.
    pub(crate) fn advertised(&self) -> Option<String> {
        let said = self.etcd.as_ref().and_then(|etcd| etcd.advertise.clone());
        let own = || {
            let api = self.api.filter(|api| !api.ip().is_unspecified())?;
            let scheme = if self.trust.is_some() { "https" } else { "http" };
            Some(format!("{scheme}://{api}"))
        };
        said.map(|said| said.trim_end_matches('/').to_owned())
            .or_else(own)
    }

    fn check_uplinks(&self, path: &Path) -> Result<(), ConfigError> {
        let mut seen = std::collections::BTreeSet::new();
        for uplink in &self.uplinks {
            if !seen.insert(&uplink.name) {
                return Err(ConfigError::UplinkTwice {
                    path: path.to_owned(),
                    uplink: uplink.name.clone(),
                });
            }
            let known = |host: &&HostName| self.hosts.iter().any(|known| known.name == **host);
            if let Some(host) = uplink.hosts.iter().find(|host| !known(host)) {
                return Err(ConfigError::UplinkHost {
                    path: path.to_owned(),
                    uplink: uplink.name.clone(),
                    host: host.clone(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transhume_model::Millis;

    fn read(text: &str) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let shown = file.path().display().to_string();
        Config::read(file.path()).map_err(|error| {
            let source = std::error::Error::source(&error).map(|source| format!("\n{source}"));
            format!("{error}{}", source.unwrap_or_default()).replace(&shown, "FILE")
        })
    }

    const HOSTS: &str = "hosts = [{ name = \"h1\", control = \"10.0.0.1:7000\" }]\n";

    #[test]
    fn a_whole_file_is_understood() {
        let text = "api = \"127.0.0.1:7400\"\napi_socket = \"/run/t/api.sock\"\njournal = \"/var/lib/t/j.redb\"\n\
            crash_at = \"after-committed\"\n[[hosts]]\nname = \"h1\"\ncontrol = \"10.0.0.1:7000\"\n\
            [limits]\nblackout_ms_max = 50\n";
        let config = read(text).unwrap();
        assert_eq!(config.limits.blackout_ms_max, Millis(50));
        assert_eq!(config.limits.reserve_ms_max, Limits::default().reserve_ms_max);
        assert_eq!(config.crash_at, Some(CrashAt::AfterCommitted));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let api = "api = \"127.0.0.1:7400\"\njournal = \"j\"\n";
        let cases = [
            (
                format!("journal = \"j\"\n{HOSTS}"),
                "names neither `api` nor `api_socket`: give at least one",
            ),
            (
                api.to_owned(),
                "names no host: add `[[hosts]]` with `name` and `control`",
            ),
            (
                format!(
                    "{api}{}",
                    HOSTS.replace("}]", "}, { name = \"h1\", control = \"10.0.0.2:7000\" }]")
                ),
                "names host h1 twice",
            ),
            (format!("{api}jounal = 1\n{HOSTS}"), "unknown field `jounal`"),
            (
                format!("{api}crash_at = \"never\"\n{HOSTS}"),
                "unknown variant `never`",
            ),
            (
                format!("{api}{HOSTS}[[uplinks]]\nname = \"rack\"\nhosts = [\"h2\"]\nrate = \"1gbit\"\n"),
                "puts host h2 behind uplink rack, but names no such host",
            ),
            (
                format!("{api}{HOSTS}[[uplinks]]\nname = \"rack\"\nhosts = []\nrate = \"fast\"\n"),
                "`fast` is no rate",
            ),
            (
                format!("{api}{}", HOSTS.replace("h1", "H 1")),
                "`H 1` is not a host name",
            ),
        ];
        for (text, expected) in cases {
            let said = read(&text).unwrap_err();
            assert!(said.contains("FILE") && said.contains(expected), "{said}");
        }
    }

    #[test]
    fn the_switch_in_the_environment_is_not_taken_for_off_when_misspelt() {
        assert_eq!(
            CrashAt::named(OsStr::new("before-committed")).unwrap(),
            CrashAt::BeforeCommitted
        );
        let error = CrashAt::named(OsStr::new("before_committed")).unwrap_err();
        assert!(error.to_string().contains("`before_committed`"), "{error}");
    }
}
