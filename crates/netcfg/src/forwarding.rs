//! Where a bridge sends the frames of an address: bridge(8), `fdb`.

use std::io;

use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
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

    /// The bridge no longer knows that `mac` was here.
    pub fn forget(&mut self, port: u32, mac: Mac) -> io::Result<()> {
        let gone = entry(port, mac, NeighbourState::None, NeighbourFlags::empty());
        self.order(Mode::Change, RouteNetlinkMessage::DelNeighbour(gone))
    }
}
