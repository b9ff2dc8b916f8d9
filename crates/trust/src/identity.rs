//! Who a certificate speaks for.

use std::fmt;
use std::str::FromStr;

use transhume_model::{HostName, UserName};

const SCHEME: &str = "transhume://";

/// A part of a fleet, or somebody who uses it; as a URI in its certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// `transhume://coordinator`.
    Coordinator,
    /// `transhume://agent/HOST`.
    Agent(HostName),
    /// `transhume://user/NAME`.
    User(UserName),
}

/// That is no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no identity: use coordinator, agent/HOST or user/NAME")]
pub struct IdentityError {
    text: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Coordinator => write!(f, "{SCHEME}coordinator"),
            Identity::Agent(host) => write!(f, "{SCHEME}agent/{host}"),
            Identity::User(name) => write!(f, "{SCHEME}user/{name}"),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    /// With or without the scheme.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let refused = || IdentityError {
            text: text.chars().take(300).collect(),
        };
        let path = text.strip_prefix(SCHEME).unwrap_or(text);
        match path.split_once('/') {
            None if path == "coordinator" => Ok(Identity::Coordinator),
            Some(("agent", host)) => Ok(Identity::Agent(host.parse().map_err(|_| refused())?)),
            Some(("user", name)) => Ok(Identity::User(name.parse().map_err(|_| refused())?)),
            _ => Err(refused()),
        }
    }
}

impl Identity {
    /// From a certificate: the scheme must be there.
    pub(crate) fn of_uri(uri: &str) -> Option<Self> {
        uri.starts_with(SCHEME).then(|| uri.parse().ok())?
    }

    /// A file name for it.
    pub(crate) fn file_stem(&self) -> String {
        match self {
            Identity::Coordinator => "coordinator".to_owned(),
            Identity::Agent(host) => format!("agent-{host}"),
            Identity::User(name) => format!("user-{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_read_as_they_are_written() {
        for text in [
            "transhume://coordinator",
            "transhume://agent/h1.example",
            "transhume://user/alice",
        ] {
            let identity: Identity = text.parse().unwrap();
            assert_eq!(identity.to_string(), text);
            assert_eq!(Identity::of_uri(text), Some(identity.clone()));
            assert_eq!(text.strip_prefix(SCHEME).unwrap().parse(), Ok(identity));
        }
        for wrong in [
            "",
            "coordinator/",
            "transhume://agent/",
            "agent/../h1",
            "agent/h1/h2",
            "user",
            "host/h1",
        ] {
            let error = wrong.parse::<Identity>().unwrap_err().to_string();
            assert!(error.contains("agent/HOST"), "{error}");
        }
        assert_eq!(Identity::of_uri("coordinator"), None);
    }
}
