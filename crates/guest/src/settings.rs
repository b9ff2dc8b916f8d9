//! What a guest is told on its kernel command line: `transhume.KEY=VALUE`. Pure.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::app::App;

/// More VMs than this are refused: every VM keeps an account per peer.
pub const PEERS_MAX: usize = 1024;

/// What the guest sends without a user's workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Traffic {
    /// Nothing.
    None,
    /// Every VM to every other (§2.1.2).
    #[default]
    Mesh,
    /// VM 0 to and from every other (§2.1.1).
    ClientServer,
    /// Every VM to the one before it and the one behind it: as many streams as VMs, where a mesh
    /// has them in square.
    Ring,
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Traffic::None => "none",
            Traffic::Mesh => "mesh",
            Traffic::ClientServer => "client-server",
            Traffic::Ring => "ring",
        })
    }
}

impl FromStr for Traffic {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Traffic::None),
            "mesh" => Ok(Traffic::Mesh),
            "client-server" => Ok(Traffic::ClientServer),
            "ring" => Ok(Traffic::Ring),
            other => Err(format!(
                "`{other}` is no workload: use mesh, client-server, ring or none"
            )),
        }
    }
}

/// Everything one guest is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The VM's name.
    pub name: String,
    /// Its place in the cluster, from 0.
    pub index: u16,
    /// Its address, `peers[index]`.
    pub ip: Ipv4Addr,
    /// Length of the network prefix.
    pub prefix: u8,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// The addresses of all VMs of the cluster, this one among them, by index.
    pub peers: Vec<Ipv4Addr>,
    /// What to send.
    pub traffic: Traffic,
    /// Messages per second into each receiver (into the server, for client-server).
    pub rate: u32,
    /// The cluster that runs in the guests, where one does.
    pub app: Option<App>,
}

impl Settings {
    /// Reads the kernel's command line; words that are not ours are skipped.
    pub fn parse(cmdline: &str) -> Result<Self, String> {
        let optional = |key: &str| {
            cmdline.split_ascii_whitespace().find_map(|word| {
                word.strip_prefix("transhume.")?
                    .strip_prefix(key)?
                    .strip_prefix('=')
            })
        };
        let value =
            |key: &str| optional(key).ok_or_else(|| format!("the kernel command line lacks transhume.{key}"));
        let (ip, prefix) = value("ip")?
            .split_once('/')
            .ok_or("transhume.ip lacks its prefix length")?;
        let peers = parse_peers(value("peers")?)?;
        let settings = Settings {
            name: value("name")?.to_owned(),
            index: number("index", value("index")?)?,
            ip: ip
                .parse()
                .map_err(|_| format!("transhume.ip: `{ip}` is no address"))?,
            prefix: number("ip", prefix)?,
            mtu: number("mtu", value("mtu")?)?,
            traffic: value("workload")?.parse()?,
            rate: number("rate", value("rate")?)?,
            app: optional("app").map(str::parse).transpose()?,
            peers,
        };
        if settings.peers.get(usize::from(settings.index)) != Some(&settings.ip) {
            return Err(format!(
                "transhume.peers does not hold {ip} at place {}",
                settings.index
            ));
        }
        Ok(settings)
    }

    /// The words for the kernel's command line.
    pub fn cmdline(&self) -> String {
        let app = self
            .app
            .map_or(String::new(), |app| format!(" transhume.app={app}"));
        format!(
            "transhume.name={} transhume.index={} transhume.ip={}/{} transhume.mtu={} transhume.count={} \
             transhume.peers={} transhume.workload={} transhume.rate={}{app}",
            self.name,
            self.index,
            self.ip,
            self.prefix,
            self.mtu,
            self.peers.len(),
            format_peers(&self.peers),
            self.traffic,
            self.rate,
        )
    }

    /// The indices that this VM exchanges messages with.
    pub fn partners(&self) -> Vec<u16> {
        let others = (0..self.peers.len() as u16).filter(|&i| i != self.index);
        match self.traffic {
            Traffic::None => Vec::new(),
            Traffic::Mesh => others.collect(),
            Traffic::ClientServer => others.filter(|&i| i == 0 || self.index == 0).collect(),
            Traffic::Ring => {
                let vms = self.peers.len() as u16;
                let (before, behind) = ((self.index + vms - 1) % vms, (self.index + 1) % vms);
                others.filter(|&i| i == before || i == behind).collect()
            }
        }
    }

    /// Messages per second from one VM to one of its partners, so that whoever has most of them
    /// receives the rate.
    pub fn rate_per_pair(&self) -> f64 {
        let others = self.peers.len().saturating_sub(1);
        let most_partners = match self.traffic {
            Traffic::None | Traffic::Mesh | Traffic::ClientServer => others,
            Traffic::Ring => others.min(2),
        };
        f64::from(self.rate) / most_partners.max(1) as f64
    }
}

fn number<T: FromStr>(key: &str, text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("transhume.{key}: `{text}` is no number in range"))
}

/// Consecutive addresses are written as a range: the kernel's command line is short.
fn format_peers(peers: &[Ipv4Addr]) -> String {
    let consecutive = peers
        .windows(2)
        .all(|w| u32::from(w[0]).checked_add(1) == Some(u32::from(w[1])));
    match peers {
        [first, .., last] if consecutive => format!("{first}-{last}"),
        _ => peers
            .iter()
            .map(Ipv4Addr::to_string)
            .collect::<Vec<_>>()
            .join(","),
    }
}

fn parse_peers(text: &str) -> Result<Vec<Ipv4Addr>, String> {
    let address = |text: &str| {
        text.parse::<Ipv4Addr>()
            .map_err(|_| format!("transhume.peers: `{text}` is no address"))
    };
    let too_many = || format!("transhume.peers names more than {PEERS_MAX} VMs");
    if let Some((first, last)) = text.split_once('-') {
        let (first, last) = (u32::from(address(first)?), u32::from(address(last)?));
        let count = last
            .checked_sub(first)
            .ok_or("transhume.peers: the range runs backwards")? as usize
            + 1;
        if count > PEERS_MAX {
            return Err(too_many());
        }
        return Ok((first..=last).map(Ipv4Addr::from).collect());
    }
    let peers = text.split(',').map(address).collect::<Result<Vec<_>, _>>()?;
    if peers.len() > PEERS_MAX {
        Err(too_many())
    } else {
        Ok(peers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(peers: Vec<Ipv4Addr>) -> Settings {
        Settings {
            name: "vm2".into(),
            index: 1,
            ip: peers[1],
            prefix: 16,
            mtu: 1500,
            peers,
            traffic: Traffic::ClientServer,
            rate: 100,
            app: None,
        }
    }

    #[test]
    fn what_the_lab_writes_the_guest_reads() {
        let range = settings((1..=40).map(|i| Ipv4Addr::new(10, 78, 0, i)).collect());
        let mut list = settings(vec![Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::new(10, 0, 0, 4)]);
        list.app = Some(App::Redis);
        for written in [range, list] {
            let line = format!("console=ttyS0 {} quiet", written.cmdline());
            assert_eq!(Settings::parse(&line).unwrap(), written);
        }
    }

    #[test]
    fn wrong_settings_are_named() {
        let good = settings((1..=3).map(|i| Ipv4Addr::new(10, 78, 0, i)).collect()).cmdline();
        for (from, to, part) in [
            ("transhume.rate=100", "", "lacks transhume.rate"),
            ("transhume.index=1", "transhume.index=7", "at place 7"),
            ("client-server", "star", "`star` is no workload"),
            (
                "transhume.rate=100",
                "transhume.rate=100 transhume.app=x",
                "`x` is no app",
            ),
            ("10.78.0.1-10.78.0.3", "10.78.0.1-10.99.0.3", "more than 1024"),
            ("10.78.0.1-10.78.0.3", "10.78.0.3-10.78.0.1", "backwards"),
        ] {
            let error = Settings::parse(&good.replace(from, to)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn clients_speak_to_the_server_only() {
        let mut settings = settings((1..=4).map(|i| Ipv4Addr::new(10, 78, 0, i)).collect());
        assert_eq!(settings.partners(), [0]);
        settings.index = 0;
        assert_eq!(settings.partners(), [1, 2, 3]);
        settings.traffic = Traffic::Mesh;
        settings.index = 2;
        assert_eq!(settings.partners(), [0, 1, 3]);
    }

    #[test]
    fn in_a_ring_each_speaks_to_its_neighbours_and_they_to_it() {
        let mut settings = settings((1..=5).map(|i| Ipv4Addr::new(10, 78, 0, i)).collect());
        settings.traffic = Traffic::Ring;
        let mut partners_of = |index| {
            settings.index = index;
            settings.partners()
        };
        assert_eq!(partners_of(0), [1, 4]);
        assert_eq!(partners_of(2), [1, 3]);
        assert_eq!(partners_of(4), [0, 3]);
        settings.peers.truncate(2);
        settings.index = 1;
        assert_eq!(settings.partners(), [0], "both neighbours are one");
        settings.peers.truncate(1);
        settings.index = 0;
        assert!(settings.partners().is_empty(), "no VM is its own neighbour");
    }

    #[test]
    fn the_rate_is_what_one_vm_receives_whoever_sends_it() {
        let mut settings = settings((1..=5).map(|i| Ipv4Addr::new(10, 78, 0, i)).collect());
        for (traffic, per_pair) in [
            (Traffic::Mesh, 25.0),
            (Traffic::ClientServer, 25.0),
            (Traffic::Ring, 50.0),
        ] {
            settings.traffic = traffic;
            assert_eq!(settings.rate_per_pair(), per_pair, "{traffic}");
        }
    }
}
