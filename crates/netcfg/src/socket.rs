//! A routing netlink socket: rtnetlink(7).

use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Longest answer read at once; the kernel splits longer dumps.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Answers read for one question; a namespace has some hundred interfaces at most.
const ANSWERS_MAX: usize = 4096;

/// An open netlink socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// What an order does when its object is there, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is there.
    Change,
    /// Make it; there already is an error.
    Create,
    /// Make it, or take the place of what is there.
    Put,
}

impl Netlink {
    /// Opens a socket. An error is the kernel's.
    pub fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE is protocol 0.
            None,
        )?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a message and waits for its acknowledgement.
    pub(crate) fn order(&mut self, mode: Mode, message: RouteNetlinkMessage) -> io::Result<()> {
        let mode = match mode {
            Mode::Change => 0,
            Mode::Create => NLM_F_CREATE | NLM_F_EXCL,
            Mode::Put => NLM_F_CREATE | NLM_F_REPLACE,
        };
        self.ask(NLM_F_ACK | mode, message, |_| {})
    }

    /// Asks for one object.
    pub(crate) fn get(
        &mut self,
        message: RouteNetlinkMessage,
        take: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.ask(NLM_F_ACK, message, take)
    }

    /// Asks for all objects.
    pub(crate) fn dump(
        &mut self,
        message: RouteNetlinkMessage,
        take: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.ask(NLM_F_DUMP, message, take)
    }

    fn ask(
        &mut self,
        flags: u16,
        message: RouteNetlinkMessage,
        mut take: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        let mut answer = vec![0; ANSWER_BYTES_MAX];
        for _ in 0..ANSWERS_MAX {
            let (length, _) = rustix::net::recv(&self.socket, &mut answer, RecvFlags::empty())?;
            let mut rest = answer.get(..length).unwrap_or(&[]);
            while !rest.is_empty() {
                let part =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                let length = part.header.length as usize;
                // An answer to an earlier question that ended in an error.
                let ours = part.header.sequence_number == self.sequence;
                match part.payload {
                    NetlinkPayload::InnerMessage(inner) if ours => take(inner),
                    NetlinkPayload::Error(error) if ours => {
                        return error.code.map_or(Ok(()), |_| Err(error.to_io()));
                    }
                    NetlinkPayload::Done(_) if ours => return Ok(()),
                    _ => {}
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "netlink gave no end to its answer",
        ))
    }
}
