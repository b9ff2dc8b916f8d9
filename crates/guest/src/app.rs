//! Real clusters that run in the guests, and the account of whoever uses them. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Operations a second on the whole cluster; each checker has its share.
pub const OPERATIONS_PER_S: u32 = 20;
/// An operation that is not at its end by then has failed.
pub const OPERATION_MS_MAX: u64 = 10_000;
/// One that takes longer is late.
pub const LATE_MS: u64 = 1_000;

/// A cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum App {
    /// A replicated store that elects a leader.
    Etcd,
    /// A store with one primary and its replicas.
    Redis,
    /// A database with one primary and a standby that follows its log.
    Postgres,
    /// Ranks that hand on a token in a ring.
    Mpi,
}

impl App {
    /// All of them.
    pub const ALL: [App; 4] = [App::Etcd, App::Redis, App::Postgres, App::Mpi];

    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            App::Etcd => "etcd",
            App::Redis => "redis",
            App::Postgres => "postgres",
            App::Mpi => "mpi",
        }
    }

    /// Whether the VM with this index has a checker. Laps are counted where they begin and end.
    pub fn checks(self, index: u16) -> bool {
        match self {
            App::Etcd | App::Redis | App::Postgres => true,
            App::Mpi => index == 0,
        }
    }
}

impl fmt::Display for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for App {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = App::ALL.into_iter().find(|app| app.name() == text);
        known.ok_or_else(|| format!("`{text}` is no app: use etcd, redis, postgres or mpi"))
    }
}

/// What one checker saw since the last look.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppStats {
    /// The cluster has served; nothing is counted before.
    pub serving: bool,
    /// Milliseconds since the last look, by the guest's clock.
    pub span_ms: u64,
    /// Operations that ended right.
    pub operations: u64,
    /// Those of them that took longer than `LATE_MS`.
    pub late: u64,
    /// Operations that did not end, or ended with an error.
    pub failed: u64,
    /// Operations that ended with a value that cannot be.
    pub wrong: u64,
    /// The longest, that under way among them.
    pub slowest_ms: u64,
    /// Why the first one failed or was wrong, in words; before the cluster serves, why not.
    pub trouble: Option<String>,
    /// What else happened to the cluster.
    pub cluster: ClusterStats,
}

/// What happened to a cluster besides its operations; what an app does not have stays 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStats {
    /// etcd: terms that began.
    pub elections: u64,
    /// Redis: replicas that connected anew. PostgreSQL: receivers of the log that started anew.
    pub link_breaks: u64,
    /// Redis: replicas that had to be sent everything.
    pub full_copies: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_apps_name_is_read_again() {
        for app in App::ALL {
            assert_eq!(app.to_string().parse(), Ok(app));
        }
        assert!("etc".parse::<App>().unwrap_err().contains("use etcd"));
    }
}
