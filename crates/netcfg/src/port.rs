//! Links, as ports of a bridge.

use std::io;

use netlink_packet_core::DefaultNla;
use netlink_packet_route::link::{
    InfoKind, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkProtoInfoBridge,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use rustix::io::Errno;
use transhume_bands::{Link, Role};
use transhume_model::{BitRate, Mac};

use crate::socket::{Mode, Netlink};

/// Port settings as `RTM_SETLINK` takes them: linux/if_link.h.
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
const IFLA_BRPORT_MCAST_FLOOD: u16 = 27;
const IFLA_BRPORT_BCAST_FLOOD: u16 = 30;

/// What is behind a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortKind {
    /// A process: tun, tap.
    Tap,
    /// The other end of a pair, mostly in a container of this host.
    Veth,
    /// Anything else: a card, or something that leads to one.
    Wire,
}

/// A port of a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Index of its interface.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What is behind it.
    pub kind: PortKind,
    /// Its alias; empty where it has none.
    pub alias: String,
}

fn link(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn port_settings(index: u32, settings: &[(u16, bool)]) -> RouteNetlinkMessage {
    let mut message = link(index);
    message.header.interface_family = AddressFamily::Bridge;
    let settings = settings
        .iter()
        .map(|(kind, on)| LinkProtoInfoBridge::Other(DefaultNla::new(*kind, vec![u8::from(*on)])))
        .collect();
    message.attributes = vec![LinkAttribute::ProtoInfoBridge(settings)];
    RouteNetlinkMessage::SetLink(message)
}

impl Netlink {
    /// Address, MTU in bytes, transmit queue in frames, and bridge of a link that is down.
    ///
    /// The address is the host's end of the wire, not the guest's: a bridge takes the lowest of its
    /// ports' as its own, and one that changes it with each port that comes and goes cannot be
    /// reached until its neighbours have noticed.
    pub fn set_up_port(
        &mut self,
        index: u32,
        address: Mac,
        mtu: u16,
        queue_frames: u32,
        bridge: u32,
    ) -> io::Result<()> {
        let mut sizes = link(index);
        sizes.attributes = vec![
            LinkAttribute::Address(address.bytes().to_vec()),
            LinkAttribute::Mtu(u32::from(mtu)),
            LinkAttribute::TxQueueLen(queue_frames),
        ];
        self.order(Mode::Change, RouteNetlinkMessage::NewLink(sizes))?;
        let mut attached = link(index);
        attached.attributes = vec![LinkAttribute::Controller(bridge)];
        self.order(Mode::Change, RouteNetlinkMessage::SetLink(attached))
    }

    /// A text that the link carries as long as it exists (ip-link(8), `alias`).
    pub fn set_alias(&mut self, index: u32, alias: &str) -> io::Result<()> {
        let mut message = link(index);
        message.attributes = vec![LinkAttribute::IfAlias(alias.to_owned())];
        self.order(Mode::Change, RouteNetlinkMessage::SetLink(message))
    }

    /// Lets frames pass.
    pub fn up(&mut self, index: u32) -> io::Result<()> {
        let mut message = link(index);
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.order(Mode::Change, RouteNetlinkMessage::NewLink(message))
    }

    /// Removes a link.
    pub fn delete(&mut self, index: u32) -> io::Result<()> {
        self.order(Mode::Change, RouteNetlinkMessage::DelLink(link(index)))
    }

    /// Whether the bridge floods unknown unicast, multicast and broadcast to this port.
    pub fn set_flooding(&mut self, index: u32, on: bool) -> io::Result<()> {
        let kinds = [
            IFLA_BRPORT_UNICAST_FLOOD,
            IFLA_BRPORT_MCAST_FLOOD,
            IFLA_BRPORT_BCAST_FLOOD,
        ];
        self.order(Mode::Change, port_settings(index, &kinds.map(|kind| (kind, on))))
    }

    /// Whether the bridge floods unknown unicast to this port.
    pub fn set_flooding_unicast(&mut self, index: u32, on: bool) -> io::Result<()> {
        self.order(
            Mode::Change,
            port_settings(index, &[(IFLA_BRPORT_UNICAST_FLOOD, on)]),
        )
    }

    /// The ports of a bridge.
    pub fn ports_of(&mut self, bridge: u32) -> io::Result<Vec<Port>> {
        let links = self.links()?.into_iter();
        Ok(links
            .filter_map(|(port, of)| (of == Some(bridge)).then_some(port))
            .collect())
    }

    /// The other ports of the bridge that `member` is a port of; none when it is a port of none.
    pub fn ports_beside(&mut self, member: u32) -> io::Result<Vec<Port>> {
        let links = self.links()?;
        let of_member = links.iter().find(|(port, _)| port.index == member);
        let bridge = of_member.and_then(|(_, bridge)| *bridge);
        let beside = |(port, of): (Port, Option<u32>)| {
            (of.is_some() && of == bridge && port.index != member).then_some(port)
        };
        Ok(links.into_iter().filter_map(beside).collect())
    }

    /// All links of this namespace.
    pub fn all_links(&mut self) -> io::Result<Vec<Port>> {
        Ok(self.links()?.into_iter().map(|(port, _)| port).collect())
    }

    /// The link of this name as the bands look at it; `None` where there is none.
    pub fn look_at(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut question = LinkMessage::default();
        question.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        let mut found = None;
        let asked = self.get(RouteNetlinkMessage::GetLink(question), |message| {
            if let RouteNetlinkMessage::NewLink(link) = message {
                found = Some((link.header.index, role_of(&link)));
            }
        });
        match asked {
            Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(None),
            // Longer than any name.
            Err(error) if error.raw_os_error() == Some(Errno::RANGE.raw_os_error()) => Ok(None),
            asked => asked.map(|()| {
                found.map(|(index, role)| Link {
                    index,
                    role,
                    speed: speed_of(name, index),
                })
            }),
        }
    }

    /// All links, each with its bridge.
    fn links(&mut self) -> io::Result<Vec<(Port, Option<u32>)>> {
        let mut links = Vec::new();
        self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |message| {
            if let RouteNetlinkMessage::NewLink(link) = message {
                links.extend(describe(&link));
            }
        })?;
        Ok(links)
    }

    /// Bytes that the link has sent since it was made. What a tap sends is what its guest is given.
    pub fn sent_bytes(&mut self, index: u32) -> io::Result<u64> {
        Ok(self.link_counts(index)?.bytes)
    }

    /// What passed the link since it was made, and whether it is up.
    pub(crate) fn link_counts(&mut self, index: u32) -> io::Result<LinkCounts> {
        let mut counts = LinkCounts::default();
        self.get(RouteNetlinkMessage::GetLink(link(index)), |message| {
            let RouteNetlinkMessage::NewLink(link) = message else {
                return;
            };
            counts.up = link.header.flags.contains(LinkFlags::Up);
            for attribute in &link.attributes {
                if let LinkAttribute::Stats64(stats) = attribute {
                    counts.passed = stats.tx_packets;
                    counts.bytes = stats.tx_bytes;
                    counts.dropped = stats.tx_dropped;
                }
            }
        })?;
        Ok(counts)
    }
}

fn role_of(link: &LinkMessage) -> Role {
    let infos = link.attributes.iter().flat_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => &infos[..],
        _ => &[],
    });
    let mut role = Role::Leaf;
    for info in infos {
        match info {
            LinkInfo::Kind(InfoKind::Bridge) => role = Role::Bridge,
            LinkInfo::PortKind(InfoPortKind::Bond | InfoPortKind::Team) => role = Role::Member,
            _ => {}
        }
    }
    role
}

/// The speed that the driver tells, from sysfs; `None` where it does not know, and where sysfs
/// shows another namespace.
fn speed_of(name: &str, index: u32) -> Option<BitRate> {
    let read = |what: &str| {
        let text = std::fs::read_to_string(format!("/sys/class/net/{name}/{what}")).ok()?;
        text.trim().parse::<i64>().ok()
    };
    if read("ifindex") != Some(i64::from(index)) {
        return None;
    }
    // -1 where it is unknown; 0 while the link is down, with some drivers.
    let mbit = u64::try_from(read("speed")?).ok()?;
    BitRate::from_bits_per_s(mbit.checked_mul(1_000_000)?)
}

/// What passed a link on its way out.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LinkCounts {
    pub(crate) passed: u64,
    pub(crate) bytes: u64,
    pub(crate) dropped: u64,
    pub(crate) up: bool,
}

/// A link and its bridge.
fn describe(link: &LinkMessage) -> Option<(Port, Option<u32>)> {
    let mut port = Port {
        index: link.header.index,
        name: String::new(),
        kind: PortKind::Wire,
        alias: String::new(),
    };
    let mut bridge = None;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => port.name.clone_from(name),
            LinkAttribute::Controller(index) => bridge = Some(*index),
            LinkAttribute::IfAlias(alias) => port.alias.clone_from(alias),
            LinkAttribute::LinkInfo(infos) if infos.contains(&LinkInfo::Kind(InfoKind::Tun)) => {
                port.kind = PortKind::Tap;
            }
            LinkAttribute::LinkInfo(infos) if infos.contains(&LinkInfo::Kind(InfoKind::Veth)) => {
                port.kind = PortKind::Veth;
            }
            _ => {}
        }
    }
    (!port.name.is_empty()).then_some((port, bridge))
}
