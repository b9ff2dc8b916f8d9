//! Names and numbers that identify things. Names are checked once, when they are made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A name longer than this is refused: it must fit a Unix socket path and a DNS label.
const NAME_LEN_MAX: usize = 40;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a {what} name: use 1 to {NAME_LEN_MAX} of a-z, 0-9 and `-`, starting with a letter or digit"
)]
pub struct IdError {
    /// What the name was for: `host`, `VM`, `cluster`.
    pub what: &'static str,
    /// The text as it was given.
    pub text: String,
}

fn check(what: &'static str, text: &str) -> Result<(), IdError> {
    let mut bytes = text.bytes();
    let first_ok = bytes
        .next()
        .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let rest_ok = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if first_ok && rest_ok && text.len() <= NAME_LEN_MAX {
        Ok(())
    } else {
        Err(IdError {
            what,
            text: text.chars().take(80).collect(),
        })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String, pattern = "^[a-z0-9][a-z0-9-]{0,39}$")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                check($what, text).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                check($what, &text).map(|()| Self(text))
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
    ClusterName, "cluster"
);
name!(
    /// A physical host.
    HostName, "host"
);
name!(
    /// A virtual machine. Unique across all clusters of one coordinator.
    VmName, "VM"
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
        assert!("vm-1".parse::<VmName>().is_ok());
        for bad in ["", "-a", "A", "a/b", "a b", "../x", &"x".repeat(41)] {
            assert!(bad.parse::<VmName>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn a_refused_name_says_what_it_was_for() {
        let error = "H 1".parse::<HostName>().unwrap_err();
        assert!(error.to_string().starts_with("`H 1` is not a host name"));
    }
}
