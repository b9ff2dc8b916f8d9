//! Which version of the messages a link speaks (`docs/design/versions.md`).

use std::fmt;

use serde::Deserialize;
use transhume_model::{Epoch, HostName, OrderId, VmName, WallMicros};

use super::{Hello, Outcome, Refusal, RefusalKind, Report};

/// Newest version of the messages.
pub const PROTOCOL_VERSION: u16 = 6;

/// Oldest that is spoken: the release before, 0.3.0.
pub const PROTOCOL_OLDEST: u16 = 5;

/// What two parts that speak no common version say of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct NoCommonVersion {
    /// Oldest that the other speaks.
    pub oldest: u16,
    /// Its newest.
    pub newest: u16,
}

impl fmt::Display for NoCommonVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { oldest, newest } = self;
        write!(
            f,
            "versions {PROTOCOL_OLDEST} to {PROTOCOL_VERSION} of the protocol are spoken here, there "
        )?;
        match oldest == newest {
            true => write!(f, "version {newest}"),
            false => write!(f, "{oldest} to {newest}"),
        }
    }
}

impl NoCommonVersion {
    /// What would help whoever runs both.
    pub fn hint(&self) -> &'static str {
        match self.newest < PROTOCOL_OLDEST {
            true => "there is an older release than the one before this: install this one there",
            false => "there is a newer release: install it here",
        }
    }
}

impl Hello {
    /// The newest version that this hello and this release have in common.
    pub fn spoken(&self) -> Result<u16, NoCommonVersion> {
        // Before 6 a coordinator had one version and nothing to say of a newer one.
        let (oldest, newest) = (self.protocol, self.newest.unwrap_or(self.protocol));
        match newest.min(PROTOCOL_VERSION) {
            spoken if spoken >= oldest.max(PROTOCOL_OLDEST) => Ok(spoken),
            _ => Err(NoCommonVersion { oldest, newest }),
        }
    }
}

/// Whether an agent's choice is one that this release offered.
pub fn is_spoken(protocol: u16) -> Result<(), NoCommonVersion> {
    match (PROTOCOL_OLDEST..=PROTOCOL_VERSION).contains(&protocol) {
        true => Ok(()),
        false => Err(NoCommonVersion {
            oldest: protocol,
            newest: protocol,
        }),
    }
}

/// As much of an order as an agent of any release can read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AnyOrder {
    id: OrderId,
    epoch: Epoch,
    command: AnyCommand,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct AnyCommand {
    command: String,
    vm: Option<VmName>,
}

impl AnyOrder {
    /// The answer to an order that is not understood: nothing was done. `who` is the agent's host.
    pub fn refused(self, who: &HostName, at: WallMicros, why: impl fmt::Display) -> Report {
        let AnyCommand { command, vm } = self.command;
        Report {
            order: Some(self.id),
            epoch: self.epoch,
            vm,
            at,
            outcome: Outcome::Refused(Refusal {
                kind: RefusalKind::UnknownOrder,
                reason: format!("host {who} does not understand the order `{command}`: {why}"),
                hint: "install the coordinator's release there".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{FLEET_BYTES, FleetId, Leader};

    fn leader() -> Leader {
        Leader {
            fleet: FleetId::of([1; FLEET_BYTES]),
            term: 1,
            life: 1,
        }
    }

    fn spoken(oldest: u16, newest: Option<u16>) -> Result<u16, &'static str> {
        let hello = Hello {
            protocol: oldest,
            newest,
            leader: leader(),
        };
        hello.spoken().map_err(|none| none.hint())
    }

    #[test]
    fn the_newest_in_common_is_spoken() {
        assert_eq!(spoken(5, None), Ok(5), "a coordinator of 0.3.0");
        assert_eq!(spoken(5, Some(6)), Ok(6), "this one");
        assert_eq!(spoken(6, Some(7)), Ok(6), "the next one");
        assert_eq!(spoken(5, Some(9)), Ok(6), "one that remembers well");
        let of = |oldest, newest| spoken(oldest, newest).unwrap_err();
        assert!(of(4, None).contains("install this one there"), "0.2.0");
        assert!(of(7, Some(8)).contains("install it here"));
        assert!(of(7, None).contains("install it here"));
        assert!(
            of(9, Some(2)).contains("install this one"),
            "nonsense is no version"
        );
    }

    #[test]
    fn what_was_not_offered_is_not_spoken() {
        assert_eq!((is_spoken(5), is_spoken(6)), (Ok(()), Ok(())));
        assert!(is_spoken(4).unwrap_err().to_string().contains("5 to 6"));
        assert!(is_spoken(7).is_err());
    }

    /// A hello of this release begins as one of 0.3.0, which reads its own version there.
    #[test]
    fn the_release_before_reads_a_hello_of_this_one() {
        let json = serde_json::to_value(Hello::of(leader())).unwrap();
        assert_eq!(json["protocol"], 5);
        assert_eq!(json["newest"], 6);
        let before = r#"{"protocol":5,"leader":{"fleet":"01010101010101010101010101010101","term":1}}"#;
        let before: Hello = serde_json::from_str(before).unwrap();
        assert_eq!(before.spoken(), Ok(5));
    }
}
