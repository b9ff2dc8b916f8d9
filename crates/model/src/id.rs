//! Names and numbers that identify things. Names are checked once, when they are made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest name of a VM that Transhume starts itself: it must fit a Unix socket path.
const PLAIN_LEN_MAX: usize = 40;
/// Longest host name: that of the DNS.
const HOST_LEN_MAX: usize = 253;
/// Longest cluster name, bytes.
const CLUSTER_LEN_MAX: usize = 63;
/// Longest VM name, bytes: it is a file name, and its length is one byte on the wire.
const VM_LEN_MAX: usize = 200;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what} name: {rule}")]
pub struct IdError {
    /// What the name was for: `host`, `VM`, `cluster`.
    pub what: &'static str,
    /// What such a name may be.
    pub rule: &'static str,
    /// The text as it was given.
    pub text: String,
}

/// Letters, digits, `-`, `_` and single points inside: what DNS names and what people call hosts
/// have in common. Capitals are kept, and are other letters.
fn is_dns_like(text: &str, len_max: usize) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    text.len() <= len_max
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.bytes().all(inner)
        && !text.contains("..")
        && !text.ends_with('.')
}

/// Nothing that a path, a log line or a terminal takes for something else.
fn is_vm_like(text: &str) -> bool {
    let hidden = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let refused = |c: char| c.is_control() || hidden(c) || matches!(c, '/' | '\\');
    (1..=VM_LEN_MAX).contains(&text.len())
        && !text.starts_with(['.', '-', ' '])
        && !text.ends_with(' ')
        && !text.chars().any(refused)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $pattern:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String, pattern = $pattern)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether it is one of the short names that fit a socket path: 1 to 40 of a-z, 0-9
            /// and `-`, a letter or digit first.
            pub fn is_plain(&self) -> bool {
                let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
                self.0.len() <= PLAIN_LEN_MAX && !self.0.starts_with('-') && self.0.bytes().all(plain)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::try_from(text.to_owned())
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                let check: fn(&str) -> bool = $check;
                match check(&text) {
                    true => Ok(Self(text)),
                    false => Err(IdError {
                        what: $what,
                        rule: $rule,
                        text: text.chars().take(80).collect(),
                    }),
                }
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// The virtual distributed system; independent of the hosts it runs on (§3.2, `ID`).
    ClusterName,
    "cluster",
    r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
    "use 1 to 63 of letters, digits, `-`, `_` and single points inside, starting with a letter or digit",
    |text| is_dns_like(text, CLUSTER_LEN_MAX)
);
name!(
    /// A physical host: a DNS name, or what people call it.
    HostName,
    "host",
    r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,252}$",
    "use 1 to 253 of letters, digits, `-`, `_` and single points inside, starting with a letter or digit",
    |text| is_dns_like(text, HOST_LEN_MAX)
);
name!(
    /// A person or a script that uses a fleet, as its certificate names it.
    UserName,
    "user",
    r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
    "use 1 to 63 of letters, digits, `-`, `_` and single points inside, starting with a letter or digit",
    |text| is_dns_like(text, CLUSTER_LEN_MAX)
);
name!(
    /// A virtual machine. Unique across all clusters of one coordinator. What others manage may
    /// have any name that they allow; what Transhume starts has a plain one.
    VmName,
    "VM",
    r"^[^\x00-\x20./\\-][^\x00-\x1f/\\]{0,199}$",
    "use 1 to 200 bytes without `/`, backslash, control and hidden characters, no `.`, `-` or space in front, no space behind",
    is_vm_like
);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
            ToSchema,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The number that follows this one.
            pub fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// One request to move a cluster; numbered from 1 by the coordinator's journal.
    MigrationId
);
number!(
    /// One request to drain hosts; numbered from 1 by the coordinator's journal.
    DrainId
);
number!(
    /// Fences orders (G2): grows with every batch attempt and every coordinator start. Agents
    /// refuse older ones.
    Epoch
);
number!(
    /// Pairs an agent's report with the order it answers; unique within one coordinator run.
    OrderId
);

/// Which of a VM's network interfaces, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NicIndex(pub u8);

impl fmt::Display for NicIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_when_made() {
        for good in ["vm-1", "SAP_APP01", "büro 2 (alt)", "a.b", "数据库", "x"] {
            assert!(good.parse::<VmName>().is_ok(), "{good:?}");
        }
        let long = "x".repeat(201);
        for bad in [
            "",
            "-a",
            ".a",
            "..",
            "a/b",
            "a\\b",
            "../x",
            " a",
            "a ",
            "a\nb",
            "a\u{202e}b",
            &long,
        ] {
            assert!(bad.parse::<VmName>().is_err(), "{bad:?} must be refused");
        }
        for good in ["h1", "pve1.dc1.example.org", "ESX-01", "node_3"] {
            assert!(good.parse::<HostName>().is_ok(), "{good:?}");
        }
        for bad in ["", "-a", ".a", "a..b", "a.", "a b", "a/b", "é", &"x".repeat(254)] {
            assert!(bad.parse::<HostName>().is_err(), "{bad:?} must be refused");
        }
        assert!("Finance_2026".parse::<ClusterName>().is_ok());
        assert!("a b".parse::<ClusterName>().is_err());
    }

    #[test]
    fn plain_names_fit_a_socket_path() {
        let plain = |text: &str| text.parse::<VmName>().unwrap().is_plain();
        assert!(plain("vm-1") && plain(&"x".repeat(40)));
        assert!(!plain("VM") && !plain("a.b") && !plain(&"x".repeat(41)));
    }

    #[test]
    fn a_refused_name_says_what_it_was_for() {
        let error = "H 1".parse::<HostName>().unwrap_err();
        assert!(error.to_string().starts_with("`H 1` is not a host name"));
    }
}
