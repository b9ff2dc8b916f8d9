//! Synchronous routing netlink for the path of a switchover: one open socket, one message, one acknowledgement.
//!
//! Everything that is not on that path is `netcfg`'s. Layouts: rtnetlink(7), linux/pkt_sched.h, linux/if_link.h.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{RecvFlags, SendFlags};
use transhume_model::Mac;

use crate::sys;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_NEWQDISC: u16 = 36;
const RTM_GETQDISC: u16 = 38;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const IFF_UP: u32 = 1;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_TXQLEN: u16 = 13;
const IFLA_STATS64: u16 = 23;
const NLA_F_NESTED: u16 = 0x8000;
const AF_BRIDGE: u8 = 7;
const BRPORT_UNICAST_FLOOD: u16 = 9;
const BRPORT_MCAST_FLOOD: u16 = 27;
const BRPORT_BCAST_FLOOD: u16 = 30;
const NDA_LLADDR: u16 = 2;
const NTF_MASTER: u8 = 0x04;
const NTF_STICKY: u8 = 0x40;
const NUD_REACHABLE: u16 = 0x02;
const NUD_NOARP: u16 = 0x40;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_STATS: u16 = 3;
const STATS64_TX_DROPPED: usize = 7;
/// Offset of `drops` in struct tc_stats: bytes (8), packets (4).
const TC_STATS_DROPS: usize = 12;
/// Longest answer read at once; the kernel splits longer dumps.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Answers read for one dump; a namespace has some hundred interfaces at most.
const ANSWERS_MAX: usize = 4096;

/// An open netlink socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// A message under construction.
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        Self { bytes }
    }

    fn link(kind: u16, family: u8, index: u32, flags: u32, change: u32) -> Self {
        let mut message = Self::new(kind, NLM_F_ACK);
        message.bytes.extend([family, 0, 0, 0]);
        message.bytes.extend(index.to_ne_bytes());
        message.bytes.extend(flags.to_ne_bytes());
        message.bytes.extend(change.to_ne_bytes());
        message
    }

    fn qdisc(kind: u16, flags: u16, index: u32, handle: u32) -> Self {
        let mut message = Self::new(kind, flags);
        message.bytes.extend([0; 4]);
        message.bytes.extend(index.to_ne_bytes());
        message.bytes.extend(handle.to_ne_bytes());
        message.bytes.extend(TC_H_ROOT.to_ne_bytes());
        message.bytes.extend([0; 4]);
        message
    }

    /// struct ndmsg of a bridge's forwarding entry.
    fn forwarding(kind: u16, flags: u16, index: u32, mac: Mac, state: u16, entry_flags: u8) -> Self {
        let mut message = Self::new(kind, NLM_F_ACK | flags);
        message.bytes.extend([AF_BRIDGE, 0, 0, 0]);
        message.bytes.extend(index.to_ne_bytes());
        message.bytes.extend(state.to_ne_bytes());
        message.bytes.extend([entry_flags, 0]);
        message.attribute(NDA_LLADDR, &mac.bytes())
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        push_attribute(&mut self.bytes, kind, value);
        self
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// Appends one attribute, padded to four bytes.
pub(crate) fn push_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend(((value.len() + 4) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind & !NLA_F_NESTED, value))
    })
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            socket: sys::netlink_socket()?,
            sequence: 0,
        })
    }

    /// Sends a message and hands each part of the answer to `take`: type and payload.
    fn ask(&mut self, message: Message, mut take: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.sequence += 1;
        let bytes = message.finish(self.sequence);
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        let mut answer = vec![0; ANSWER_BYTES_MAX];
        for _ in 0..ANSWERS_MAX {
            let (length, _) = rustix::net::recv(&self.socket, &mut answer, RecvFlags::empty())?;
            let mut rest = &answer[..length];
            while rest.len() >= 16 {
                let length = u32::from_ne_bytes(rest[..4].try_into().expect("four bytes")) as usize;
                let kind = u16::from_ne_bytes(rest[4..6].try_into().expect("two bytes"));
                let Some(payload) = rest.get(16..length) else {
                    break;
                };
                match kind {
                    NLMSG_ERROR => {
                        let code = payload
                            .get(..4)
                            .map(|code| i32::from_ne_bytes(code.try_into().expect("four")));
                        return match code {
                            Some(0) => Ok(()),
                            Some(code) => Err(io::Error::from_raw_os_error(-code)),
                            None => Err(io::ErrorKind::InvalidData.into()),
                        };
                    }
                    NLMSG_DONE => return Ok(()),
                    _ => take(kind, payload),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "netlink gave no end to its answer",
        ))
    }

    fn order(&mut self, message: Message) -> io::Result<()> {
        self.ask(message, |_, _| {})
    }

    /// MTU, transmit queue and bridge of a link that is down.
    pub(crate) fn set_up_port(
        &mut self,
        index: u32,
        mtu: u16,
        queue_frames: u32,
        bridge: u32,
    ) -> io::Result<()> {
        self.order(
            Message::link(RTM_NEWLINK, 0, index, 0, 0)
                .attribute(IFLA_MTU, &u32::from(mtu).to_ne_bytes())
                .attribute(IFLA_TXQLEN, &queue_frames.to_ne_bytes()),
        )?;
        self.order(Message::link(RTM_SETLINK, 0, index, 0, 0).attribute(IFLA_MASTER, &bridge.to_ne_bytes()))
    }

    /// Lets frames pass.
    pub(crate) fn up(&mut self, index: u32) -> io::Result<()> {
        self.order(Message::link(RTM_NEWLINK, 0, index, IFF_UP, IFF_UP))
    }

    /// Removes a link.
    pub(crate) fn delete(&mut self, index: u32) -> io::Result<()> {
        self.order(Message::link(RTM_DELLINK, 0, index, 0, 0))
    }

    /// Whether the bridge floods unknown unicast, multicast and broadcast to this port.
    pub(crate) fn set_flooding(&mut self, index: u32, on: bool) -> io::Result<()> {
        let mut flags = Vec::new();
        for flag in [BRPORT_UNICAST_FLOOD, BRPORT_MCAST_FLOOD, BRPORT_BCAST_FLOOD] {
            push_attribute(&mut flags, flag, &[u8::from(on)]);
        }
        self.order(
            Message::link(RTM_SETLINK, AF_BRIDGE, index, 0, 0)
                .attribute(IFLA_PROTINFO | NLA_F_NESTED, &flags),
        )
    }

    /// Whether the bridge floods unknown unicast to this port.
    pub(crate) fn set_flooding_unicast(&mut self, index: u32, on: bool) -> io::Result<()> {
        let mut flags = Vec::new();
        push_attribute(&mut flags, BRPORT_UNICAST_FLOOD, &[u8::from(on)]);
        self.order(
            Message::link(RTM_SETLINK, AF_BRIDGE, index, 0, 0)
                .attribute(IFLA_PROTINFO | NLA_F_NESTED, &flags),
        )
    }

    /// Frames for `mac` go to this port whatever the bridge hears from elsewhere.
    pub(crate) fn pin(&mut self, index: u32, mac: Mac) -> io::Result<()> {
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.order(Message::forwarding(
            RTM_NEWNEIGH,
            flags,
            index,
            mac,
            NUD_NOARP,
            NTF_MASTER | NTF_STICKY,
        ))
    }

    /// Frames for `mac` go to this port until the bridge hears of another.
    pub(crate) fn unpin(&mut self, index: u32, mac: Mac) -> io::Result<()> {
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.order(Message::forwarding(
            RTM_NEWNEIGH,
            flags,
            index,
            mac,
            NUD_REACHABLE,
            NTF_MASTER,
        ))
    }

    /// The bridge no longer knows that `mac` was here.
    pub(crate) fn forget(&mut self, index: u32, mac: Mac) -> io::Result<()> {
        self.order(Message::forwarding(RTM_DELNEIGH, 0, index, mac, 0, NTF_MASTER))
    }

    /// Installs a root qdisc where none of ours is yet.
    pub(crate) fn add_qdisc(
        &mut self,
        index: u32,
        handle: u32,
        kind: &str,
        options: &[u8],
    ) -> io::Result<()> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.order(qdisc_message(flags, index, handle, kind, options))
    }

    /// Changes the root qdisc; frames in it stay.
    pub(crate) fn change_qdisc(
        &mut self,
        index: u32,
        handle: u32,
        kind: &str,
        options: &[u8],
    ) -> io::Result<()> {
        self.order(qdisc_message(NLM_F_ACK, index, handle, kind, options))
    }

    /// Frames that the link and its root qdisc dropped since they were made.
    pub(crate) fn dropped(&mut self, index: u32) -> io::Result<u64> {
        let mut dropped = 0;
        self.ask(Message::link(RTM_GETLINK, 0, index, 0, 0), |kind, payload| {
            if kind != RTM_NEWLINK {
                return;
            }
            let stats = attributes(payload.get(16..).unwrap_or(&[])).find(|(kind, _)| *kind == IFLA_STATS64);
            if let Some(count) = stats.and_then(|(_, stats)| stats.get(STATS64_TX_DROPPED * 8..)?.get(..8)) {
                dropped += u64::from_ne_bytes(count.try_into().expect("eight bytes"));
            }
        })?;
        let query = Message::qdisc(RTM_GETQDISC, NLM_F_DUMP, index, 0);
        self.ask(query, |kind, payload| {
            let of = payload
                .get(4..8)
                .map(|of| u32::from_ne_bytes(of.try_into().expect("four bytes")));
            if kind != RTM_NEWQDISC || of != Some(index) {
                return;
            }
            let stats = attributes(payload.get(20..).unwrap_or(&[])).find(|(kind, _)| *kind == TCA_STATS);
            if let Some(count) = stats.and_then(|(_, stats)| stats.get(TC_STATS_DROPS..)?.get(..4)) {
                dropped += u64::from(u32::from_ne_bytes(count.try_into().expect("four bytes")));
            }
        })?;
        Ok(dropped)
    }
}

fn qdisc_message(flags: u16, index: u32, handle: u32, kind: &str, options: &[u8]) -> Message {
    let name: Vec<u8> = kind.bytes().chain([0]).collect();
    Message::qdisc(RTM_NEWQDISC, flags, index, handle)
        .attribute(TCA_KIND, &name)
        .attribute(TCA_OPTIONS, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qdisc_message_is_laid_out_as_rtnetlink_says() {
        let bytes = qdisc_message(NLM_F_ACK, 7, 0x10000, "tbf", &[1, 2, 3]).finish(9);
        let expected: Vec<u8> = [
            &56u32.to_ne_bytes()[..],
            &36u16.to_ne_bytes(),
            &5u16.to_ne_bytes(),
            &9u32.to_ne_bytes(),
            &[0; 4],
            &[0; 4],
            &7u32.to_ne_bytes(),
            &0x10000u32.to_ne_bytes(),
            &TC_H_ROOT.to_ne_bytes(),
            &[0; 4],
            &8u16.to_ne_bytes(),
            &1u16.to_ne_bytes(),
            b"tbf\0",
            &7u16.to_ne_bytes(),
            &2u16.to_ne_bytes(),
            &[1, 2, 3, 0],
        ]
        .concat();
        assert_eq!(bytes.len(), expected.len());
        assert_eq!(bytes[4..], expected[4..]);
    }

    #[test]
    fn hostile_attributes_end_the_walk() {
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 5]).count(), 0);
        assert_eq!(
            attributes(&[5, 0, 1, 0, 9]).collect::<Vec<_>>(),
            vec![(1, &[9u8][..])]
        );
    }
}
