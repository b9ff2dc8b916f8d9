//! Frames for an address that come in by a port go to another device, past the bridge: tc-u32(8),
//! tc-mirred(8).
//!
//! ```text
//!  wire ─▶ port ─▶ filter: destination is the VM? ──yes──▶ its tap
//!                      └──────────no──────────▶ bridge
//! ```

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption, TcActionOption,
    TcActionType, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcMirror,
    TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};
use rustix::io::Errno;
use transhume_model::Mac;

use crate::socket::{Mode, Netlink};

const CLSACT: &str = "clsact";
/// The filters of arriving frames below a clsact.
const ARRIVING: TcHandle = TcHandle {
    major: u16::MAX,
    minor: TcHandle::MIN_INGRESS,
};
/// Ours among the filters of a port; first of all, and in one chain.
const PRIORITY: u16 = 1;
const ETH_P_ALL: u16 = 0x0003;
/// Filters count from the network header; the destination is the first of fourteen bytes before it.
const DESTINATION_AT: i32 = -14;
/// Filters taken away from a port for one address; more than one only after a crash.
const FOUND_MAX: usize = 64;

fn filter(port: u32) -> TcMessage {
    let mut message = TcMessage::with_index(port as i32);
    message.header.parent = ARRIVING;
    message.header.info = u32::from(PRIORITY) << 16 | u32::from(ETH_P_ALL.to_be());
    message
}

/// The keys that match a destination.
fn keys(mac: Mac) -> Vec<TcU32Key> {
    let [a, b, c, d, e, f] = mac.bytes();
    let key = |mask: [u8; 4], value: [u8; 4], off| {
        let mut key = TcU32Key::default();
        // The library puts both on the wire in network order.
        key.mask = u32::from_be_bytes(mask);
        key.val = u32::from_be_bytes(value);
        key.off = off;
        key
    };
    vec![
        key([0xff; 4], [a, b, c, d], DESTINATION_AT),
        key([0xff, 0xff, 0, 0], [e, f, 0, 0], DESTINATION_AT + 4),
    ]
}

fn redirect(to: u32) -> TcAction {
    let mut generic = TcActionGeneric::default();
    generic.action = TcActionType::Stolen;
    let mut mirror = TcMirror::default();
    mirror.generic = generic;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to;
    let mut action = TcAction::default();
    action.tab = 1;
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    action
}

impl Netlink {
    /// Makes a port ready for diversions; nothing to do where it is. On a link that is up this
    /// takes its queue away for a moment, and what is in the queue is lost (`qdisc_graft` in
    /// net/sched/sch_api.c deactivates the device).
    pub fn hook(&mut self, port: u32) -> io::Result<()> {
        let mut hook = TcMessage::with_index(port as i32);
        hook.header.parent = TcHandle::CLSACT;
        hook.header.handle = TcHandle {
            major: u16::MAX,
            minor: 0,
        };
        hook.attributes = vec![TcAttribute::Kind(CLSACT.to_owned())];
        match self.order(Mode::Create, RouteNetlinkMessage::NewQueueDiscipline(hook)) {
            Err(error) if error.raw_os_error() == Some(Errno::EXIST.raw_os_error()) => Ok(()),
            done => done,
        }
    }

    /// The links that are ready for diversions.
    pub fn hooked_links(&mut self) -> io::Result<Vec<u32>> {
        let mut hooked = Vec::new();
        let question = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        self.dump(question, |message| {
            if let RouteNetlinkMessage::NewQueueDiscipline(queue) = message
                && queue.attributes.contains(&TcAttribute::Kind(CLSACT.to_owned()))
            {
                hooked.push(queue.header.index as u32);
            }
        })?;
        Ok(hooked)
    }

    /// From now on frames for `mac` that come in by `port` leave by the device `to`; the bridge
    /// does not see them. The port has its hook.
    pub fn divert(&mut self, port: u32, mac: Mac, to: u32) -> io::Result<()> {
        self.undivert(port, mac)?;
        let mut selector = TcU32Selector::default();
        selector.flags = TcU32SelectorFlags::Terminal;
        selector.keys = keys(mac);
        selector.nkeys = selector.keys.len() as u8;
        let mut message = filter(port);
        message.attributes = vec![
            TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
            TcAttribute::Options(vec![
                TcOption::U32(TcFilterU32Option::Selector(selector)),
                TcOption::U32(TcFilterU32Option::Action(vec![redirect(to)])),
            ]),
        ];
        self.order(Mode::Create, RouteNetlinkMessage::NewTrafficFilter(message))
    }

    /// The bridge gets the frames for `mac` again. Nothing to do where nothing was diverted.
    pub fn undivert(&mut self, port: u32, mac: Mac) -> io::Result<()> {
        let wanted = keys(mac);
        let mut found = Vec::new();
        self.dump(RouteNetlinkMessage::GetTrafficFilter(filter(port)), |message| {
            if let RouteNetlinkMessage::NewTrafficFilter(filter) = message
                && selects(&filter, &wanted)
                && found.len() < FOUND_MAX
            {
                found.push(filter.header.handle);
            }
        })?;
        for handle in found {
            let mut message = filter(port);
            message.header.handle = handle;
            message.attributes = vec![TcAttribute::Kind(TcFilterU32::KIND.to_owned())];
            self.order(Mode::Change, RouteNetlinkMessage::DelTrafficFilter(message))?;
        }
        Ok(())
    }
}

fn selects(filter: &TcMessage, wanted: &[TcU32Key]) -> bool {
    let mut options = filter.attributes.iter().flat_map(|attribute| match attribute {
        TcAttribute::Options(options) => &options[..],
        _ => &[],
    });
    options.any(|option| {
        matches!(option, TcOption::U32(TcFilterU32Option::Selector(selector)) if selector.keys == wanted)
    })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;

    use super::*;

    #[test]
    fn the_keys_match_the_destination_as_it_lies_on_the_wire() {
        let keys = keys("52:54:00:12:34:56".parse().unwrap());
        let mut bytes = vec![0; keys[0].buffer_len()];
        keys[0].emit(&mut bytes);
        assert_eq!(bytes[..8], [0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0x00, 0x12]);
        keys[1].emit(&mut bytes);
        assert_eq!(bytes[..8], [0xff, 0xff, 0, 0, 0x34, 0x56, 0, 0]);
    }
}
