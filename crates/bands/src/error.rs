//! Why bands cannot be had. Nothing was changed.

use std::net::IpAddr;

use transhume_model::{Band, BitRate};

use crate::config::{Percent, Server};
use crate::limits::{LINK_BITS_PER_S_MAX, LINK_BITS_PER_S_MIN, SERVERS_MAX};

/// What is in the way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BandsError {
    /// Shares above the whole.
    #[error(
        "the shares add up to {sum} %: CT {} %, VMCT {} %, NAST {} %",
        shares[0], shares[1], shares[2]
    )]
    TooMuch {
        /// CT, VMCT, NAST.
        shares: [u8; 3],
        /// All of them.
        sum: u32,
    },
    /// A ceiling that the guarantee exceeds.
    #[error("{band} has a ceiling of {} % and a share of {} %", ceil.get(), share.get())]
    CeilBelowShare {
        /// Whose.
        band: Band,
        /// Guaranteed.
        share: Percent,
        /// Ceiling.
        ceil: Percent,
    },
    /// Separate circuits that are not.
    #[error("{one} and {other} both have the interface {interface}: that is one circuit")]
    NotSeparate {
        /// The interface.
        interface: String,
        /// A band.
        one: Band,
        /// Another.
        other: Band,
    },
    /// A link too slow or too fast.
    #[error(
        "{interface} at {rate} cannot be divided: links from {} Mbit/s to {} Gbit/s can",
        LINK_BITS_PER_S_MIN / 1_000_000, LINK_BITS_PER_S_MAX / 1_000_000_000
    )]
    Rate {
        /// The interface.
        interface: String,
        /// Its speed.
        rate: BitRate,
    },
    /// More storage addresses than are looked at for each packet.
    #[error("{servers} storage addresses are more than {SERVERS_MAX}")]
    TooManyServers {
        /// How many.
        servers: usize,
    },
    /// An address that the host's own cannot reach.
    #[error("the storage at {server} is not of the family of this host's address {own}")]
    OtherFamily {
        /// This host's.
        own: IpAddr,
        /// The storage's.
        server: Server,
    },
    /// No such interface.
    #[error("there is no interface {interface}")]
    NoInterface {
        /// As configured.
        interface: String,
    },
    /// Frames do not leave the host there.
    #[error("{interface} is {what}")]
    NotALink {
        /// As configured.
        interface: String,
        /// What it is.
        what: &'static str,
    },
    /// Nobody knows how fast it is.
    #[error("nobody knows the speed of {interface}")]
    NoSpeed {
        /// As configured.
        interface: String,
    },
    /// Somebody else's queue.
    #[error("{interface} has a queue that is not ours: {kind} {handle}")]
    InUse {
        /// The interface.
        interface: String,
        /// Kind of the queue.
        kind: String,
        /// Its handle, as tc(8) writes it.
        handle: String,
        /// It could be replaced, and put back.
        replaceable: bool,
    },
}

impl BandsError {
    /// What would help.
    pub fn hint(&self) -> String {
        match self {
            BandsError::TooMuch { .. } => {
                "lower the shares: what a band leaves is lent to the others anyway".to_owned()
            }
            BandsError::CeilBelowShare { .. } => "raise `ceil`, or leave it out for 100".to_owned(),
            BandsError::NotSeparate { .. } => {
                "give each band its own interface or VLAN, or use form = \"shared\"".to_owned()
            }
            BandsError::Rate { .. } => {
                "look at `rate`: it is the speed of the link, not of a band".to_owned()
            }
            BandsError::TooManyServers { .. } => {
                "name a network (10.1.0.0/16) instead of its members".to_owned()
            }
            BandsError::OtherFamily { .. } => "`own` is this host's address towards its storage".to_owned(),
            BandsError::NoInterface { .. } => "`ip link` lists them".to_owned(),
            BandsError::NotALink { .. } => {
                "name the device by which frames leave the host: the bridge's port, or the bond".to_owned()
            }
            BandsError::NoSpeed { .. } => "say it: rate = \"10gbit\"".to_owned(),
            BandsError::InUse {
                interface,
                replaceable: true,
                ..
            } => format!(
                "take_over = true replaces it, and puts it back in the end; `tc qdisc show dev {interface}` shows it"
            ),
            BandsError::InUse { interface, .. } => format!(
                "it has parts of its own and could not be put back: remove it yourself (`tc qdisc del dev {interface} root`) if nobody needs it"
            ),
        }
    }
}
