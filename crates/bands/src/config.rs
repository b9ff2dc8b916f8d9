//! What a host's configuration says of its bands.

use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use transhume_model::{Band, BitRate};

use crate::error::BandsError;
use crate::limits::{LINK_BITS_PER_S_MAX, LINK_BITS_PER_S_MIN, SERVERS_MAX};
use crate::tree::socket_priority;

/// `[bands]` of an agent's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "form", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Bands {
    /// Each band has its own circuit.
    Separate(Separate),
    /// One circuit is divided.
    Shared(Shared),
}

/// The interface of each band.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Separate {
    /// Cluster traffic.
    pub ct: Circuit,
    /// Migration of memory.
    pub vmct: Circuit,
    /// Storage.
    pub nast: Circuit,
}

/// An interface that one band has for itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Circuit {
    /// Its name.
    pub interface: String,
    /// Its speed, where the kernel does not know it.
    #[serde(default)]
    pub rate: Option<BitRate>,
}

/// One interface for all bands.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shared {
    /// Its name: where frames leave the host, also where that is a port of a bridge.
    pub interface: String,
    /// Its speed, where the kernel does not know it.
    #[serde(default)]
    pub rate: Option<BitRate>,
    /// Replace a queue of somebody else that can be put back.
    #[serde(default)]
    pub take_over: bool,
    /// Cluster traffic.
    pub ct: Share,
    /// Migration of memory.
    pub vmct: VmctShare,
    /// Storage.
    pub nast: NastShare,
}

/// A band's part of a shared circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// What it always gets.
    pub share: Percent,
    /// What it never exceeds.
    #[serde(default)]
    pub ceil: Percent,
}

/// VMCT's part, and the mark for switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmctShare {
    /// What it always gets.
    pub share: Percent,
    /// What it never exceeds.
    #[serde(default)]
    pub ceil: Percent,
    /// The mark that page streams carry.
    #[serde(default)]
    pub dscp: Option<Dscp>,
}

/// Storage's part, and how its traffic is told.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NastShare {
    /// What it always gets.
    pub share: Percent,
    /// What it never exceeds.
    #[serde(default)]
    pub ceil: Percent,
    /// This host's address towards the storage: what a guest sends there has another.
    pub own: IpAddr,
    /// Where the storage is.
    pub servers: Vec<Server>,
}

/// Whole hundredths, 1 to 100; 100 unless said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "u8")]
pub struct Percent(u8);

impl Percent {
    /// As a number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for Percent {
    fn default() -> Self {
        Percent(100)
    }
}

impl TryFrom<u8> for Percent {
    type Error = String;

    fn try_from(percent: u8) -> Result<Self, String> {
        match percent {
            1..=100 => Ok(Percent(percent)),
            _ => Err(format!("{percent} is no percentage from 1 to 100")),
        }
    }
}

/// A differentiated services code point (RFC 2474), 0 to 63.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u8")]
pub struct Dscp(u8);

impl Dscp {
    /// The octet that carries it, as `IP_TOS` and `IPV6_TCLASS` take it.
    pub fn octet(self) -> u8 {
        self.0 << 2
    }
}

impl TryFrom<u8> for Dscp {
    type Error = String;

    fn try_from(code: u8) -> Result<Self, String> {
        match code {
            0..=63 => Ok(Dscp(code)),
            _ => Err(format!("{code} is no DSCP from 0 to 63")),
        }
    }
}

/// What a socket of ours carries, so that its packets are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketMark {
    /// `SO_PRIORITY`, for this host's queue.
    pub priority: u32,
    /// `IP_TOS` and `IPV6_TCLASS`, for switches.
    pub octet: Option<u8>,
}

/// A storage server or network: `10.0.0.9:10809`, `10.1.0.0/16`, `[2001:db8::9]:10809`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Server {
    /// Address; bits behind the prefix are 0.
    pub address: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
    /// Its port; any, where absent.
    pub port: Option<u16>,
}

impl Server {
    fn width(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }

    fn network(address: IpAddr, prefix: u8) -> Option<Self> {
        let width = Self::width(address);
        let host_bits = width.checked_sub(prefix)?;
        let clean = match address {
            IpAddr::V4(v4) => v4.to_bits().trailing_zeros() >= u32::from(host_bits),
            IpAddr::V6(v6) => v6.to_bits().trailing_zeros() >= u32::from(host_bits),
        };
        clean.then_some(Self {
            address,
            prefix,
            port: None,
        })
    }
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = |address: IpAddr, port| Self {
            address,
            prefix: Self::width(address),
            port,
        };
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(whole(address, None));
        }
        if let Ok(socket) = text.parse::<std::net::SocketAddr>()
            && socket.port() > 0
        {
            return Ok(whole(socket.ip(), Some(socket.port())));
        }
        let network = text
            .split_once('/')
            .and_then(|(address, prefix)| Self::network(address.parse().ok()?, prefix.parse().ok()?));
        network.ok_or_else(|| {
            format!("`{text}` is no storage address: write 10.0.0.9:10809, 10.0.0.9 or 10.1.0.0/16")
        })
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) => std::net::SocketAddr::new(self.address, port).fmt(f),
            None if self.prefix == Self::width(self.address) => self.address.fmt(f),
            None => write!(f, "{}/{}", self.address, self.prefix),
        }
    }
}

impl TryFrom<String> for Server {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Server> for String {
    fn from(server: Server) -> String {
        server.to_string()
    }
}

impl Bands {
    /// Whether it can be meant; says nothing of what the kernel has.
    pub fn check(&self) -> Result<(), BandsError> {
        match self {
            Bands::Separate(separate) => separate.check(),
            Bands::Shared(shared) => shared.check(),
        }
    }

    /// The interface of a band.
    pub fn interface(&self, band: Band) -> &str {
        match (self, band) {
            (Bands::Shared(shared), _) => &shared.interface,
            (Bands::Separate(separate), band) => &separate.circuit(band).interface,
        }
    }

    /// How sockets of page streams are marked; nothing where VMCT has a circuit of its own.
    pub fn vmct_mark(&self) -> Option<SocketMark> {
        match self {
            Bands::Separate(_) => None,
            Bands::Shared(shared) => Some(SocketMark {
                priority: socket_priority(Band::Vmct),
                octet: shared.vmct.dscp.map(Dscp::octet),
            }),
        }
    }

    /// The speed that the configuration gives a band's interface.
    pub fn rate(&self, band: Band) -> Option<BitRate> {
        match self {
            Bands::Shared(shared) => shared.rate,
            Bands::Separate(separate) => separate.circuit(band).rate,
        }
    }
}

impl Separate {
    pub(crate) fn circuit(&self, band: Band) -> &Circuit {
        match band {
            Band::Ct => &self.ct,
            Band::Vmct => &self.vmct,
            Band::Nast => &self.nast,
        }
    }

    fn check(&self) -> Result<(), BandsError> {
        for (one, other) in [
            (Band::Ct, Band::Vmct),
            (Band::Ct, Band::Nast),
            (Band::Vmct, Band::Nast),
        ] {
            let interface = &self.circuit(one).interface;
            if *interface == self.circuit(other).interface {
                return Err(BandsError::NotSeparate {
                    interface: interface.clone(),
                    one,
                    other,
                });
            }
        }
        Ok(())
    }
}

impl Shared {
    /// Share and ceiling of a band.
    pub fn share(&self, band: Band) -> (Percent, Percent) {
        match band {
            Band::Ct => (self.ct.share, self.ct.ceil),
            Band::Vmct => (self.vmct.share, self.vmct.ceil),
            Band::Nast => (self.nast.share, self.nast.ceil),
        }
    }

    fn check(&self) -> Result<(), BandsError> {
        let shares = Band::ALL.map(|band| self.share(band).0.get());
        let sum: u32 = shares.into_iter().map(u32::from).sum();
        if sum > 100 {
            return Err(BandsError::TooMuch { shares, sum });
        }
        for band in Band::ALL {
            let (share, ceil) = self.share(band);
            if ceil < share {
                return Err(BandsError::CeilBelowShare { band, share, ceil });
            }
        }
        if self.nast.servers.len() > SERVERS_MAX {
            return Err(BandsError::TooManyServers {
                servers: self.nast.servers.len(),
            });
        }
        let own = self.nast.own;
        let foreign = self
            .nast
            .servers
            .iter()
            .find(|server| server.address.is_ipv4() != own.is_ipv4());
        if let Some(server) = foreign {
            return Err(BandsError::OtherFamily { own, server: *server });
        }
        match self.rate {
            Some(rate) => check_rate(&self.interface, rate),
            None => Ok(()),
        }
    }
}

/// Whether a link of this speed can be divided.
pub(crate) fn check_rate(interface: &str, rate: BitRate) -> Result<(), BandsError> {
    match (LINK_BITS_PER_S_MIN..=LINK_BITS_PER_S_MAX).contains(&rate.bits_per_s()) {
        true => Ok(()),
        false => Err(BandsError::Rate {
            interface: interface.to_owned(),
            rate,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Bands, String> {
        let bands: Bands = toml::from_str(text).map_err(|error| error.to_string())?;
        bands.check().map_err(|error| error.to_string())?;
        Ok(bands)
    }

    const SHARED: &str = r#"
        form = "shared"
        interface = "eth0"
        rate = "1gbit"
        ct = { share = 50 }
        vmct = { share = 30, ceil = 90, dscp = 10 }
        nast = { share = 20, own = "10.0.0.1", servers = ["10.0.0.9:10809", "10.1.0.0/16"] }
    "#;

    #[test]
    fn both_forms_are_read() {
        let shared = read(SHARED).unwrap();
        assert_eq!(shared.interface(Band::Nast), "eth0");
        let Bands::Shared(shared) = shared else {
            panic!("{shared:?}")
        };
        assert_eq!(shared.share(Band::Ct), (Percent(50), Percent(100)));
        assert_eq!(shared.vmct.dscp.map(Dscp::octet), Some(40));
        let separate = r#"
            form = "separate"
            ct = { interface = "eth0" }
            vmct = { interface = "eth1", rate = "10gbit" }
            nast = { interface = "eth0.30" }
        "#;
        let separate = read(separate).unwrap();
        assert_eq!(separate.interface(Band::Vmct), "eth1");
        assert_eq!(separate.rate(Band::Vmct).unwrap().bits_per_s(), 10_000_000_000);
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        for (from, to, named) in [
            ("share = 50", "share = 51", "101 %"),
            ("share = 50", "share = 0", "0 is no percentage"),
            ("ceil = 90", "ceil = 29", "VMCT"),
            ("dscp = 10", "dscp = 64", "64 is no DSCP"),
            ("1gbit", "1gb", "`1gb`"),
            ("1gbit", "1kbit", "eth0"),
            ("10.1.0.0/16", "10.1.0.0/8", "10.1.0.0/8"),
            ("10.0.0.9:10809", "storage", "`storage`"),
            ("own = \"10.0.0.1\"", "own = \"::1\"", "10.0.0.9:10809"),
            ("rate =", "speed =", "speed"),
            ("share = 50", "share = 50, dscp = 18", "dscp"),
        ] {
            let text = SHARED.replace(from, to);
            assert_ne!(text, SHARED, "{from}");
            let error = read(&text).unwrap_err();
            assert!(error.contains(named), "{to}: {error}");
        }
        let twice = r#"
            form = "separate"
            ct = { interface = "eth0" }
            vmct = { interface = "eth1" }
            nast = { interface = "eth0" }
        "#;
        let error = read(twice).unwrap_err();
        assert!(error.contains("eth0") && error.contains("NAST"), "{error}");
    }

    #[test]
    fn servers_are_written_as_they_were_read() {
        for text in [
            "10.0.0.9:10809",
            "10.0.0.9",
            "10.1.0.0/16",
            "[2001:db8::9]:10809",
            "2001:db8::/32",
        ] {
            assert_eq!(text.parse::<Server>().unwrap().to_string(), text);
        }
    }
}
