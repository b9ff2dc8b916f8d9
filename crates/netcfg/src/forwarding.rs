//! Where a bridge sends the frames of an address: bridge(8), `fdb`.

use std::io;

use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use transhume_model::Mac;

use crate::socket::{Mode, Netlink};

fn entry(port: u32, mac: Mac, state: NeighbourState, flags: NeighbourFlags) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = port;
    message.header.state = state;
    message.header.flags = NeighbourFlags::Controller | flags;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.bytes().to_vec())];
    message
}

fn address(entry: &NeighbourMessage) -> Option<Mac> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => {
            bytes[..].try_into().ok().and_then(|bytes| Mac::new(bytes).ok())
        }
        _ => None,
    })
}

impl Netlink {
    /// Frames for `mac` go to this port whatever the bridge hears from elsewhere.
    pub fn pin(&mut self, port: u32, mac: Mac) -> io::Result<()> {
        let pinned = entry(port, mac, NeighbourState::Noarp, NeighbourFlags::Sticky);
        self.order(Mode::Put, RouteNetlinkMessage::NewNeighbour(pinned))
    }

    /// Frames for `mac` go to this port until the bridge hears of another.
    pub fn unpin(&mut self, port: u32, mac: Mac) -> io::Result<()> {
        let learned = entry(port, mac, NeighbourState::Reachable, NeighbourFlags::empty());
        self.order(Mode::Put, RouteNetlinkMessage::NewNeighbour(learned))
    }

    /// The addresses that the bridge has on this port, learned or pinned, in the order of its list;
    /// at most `most` of them. The port's own is not among them.
    pub fn addresses_on(&mut self, port: u32, most: usize) -> io::Result<Vec<Mac>> {
        let mut question = NeighbourMessage::default();
        question.header.family = AddressFamily::Bridge;
        let mut found: Vec<Mac> = Vec::new();
        self.dump(RouteNetlinkMessage::GetNeighbour(question), |message| {
            let RouteNetlinkMessage::NewNeighbour(entry) = message else {
                return;
            };
            let learned = matches!(
                entry.header.state,
                NeighbourState::Reachable | NeighbourState::Stale | NeighbourState::Noarp
            );
            if entry.header.ifindex != port || !learned {
                return;
            }
            // The same address may stand there once for each VLAN.
            if let Some(mac) = address(&entry).filter(|mac| !found.contains(mac) && found.len() < most) {
                found.push(mac);
            }
        })?;
        Ok(found)
    }

    /// The bridge no longer knows that `mac` was here. Nothing to do where it does not.
    pub fn forget(&mut self, port: u32, mac: Mac) -> io::Result<()> {
        let gone = entry(port, mac, NeighbourState::None, NeighbourFlags::empty());
        match self.order(Mode::Change, RouteNetlinkMessage::DelNeighbour(gone)) {
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(()),
            done => done,
        }
    }
}
