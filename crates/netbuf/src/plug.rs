//! The plug: a qdisc on the tap that holds frames while it is shut and loses none when it changes
//! (design §4).
//!
//! ```text
//!            shut()                                   open()
//!  Open ───────────▶ Shut: rate 1 byte/s,   ────────────────▶ Open: rate as good as unlimited
//!                    dummy 1 burns the tokens that
//!                    every change hands out,
//!                    dummy 2 stands at the head
//! ```
//!
//! TBF hands out a full burst of tokens at each change, so a dummy as large as the burst is sent to
//! use them up: it goes to the guest, whose NIC filters it out. Tokens go on growing by a byte a
//! second; a second dummy stands at the head of the queue and would need as many seconds as it has
//! bytes, so no real frame leaks however long the plug is shut. A plug that is shut is therefore
//! never shut again: the burst would let the dummy at its head pass. Changing TBF wakes nobody:
//! after opening, one more dummy does.
//!
//! Installed when the tap is made and only changed later: adding or removing a qdisc on a live tap
//! loses frames. Deliberately absent: `sch_plug`. It would need no dummies, but the kernel this is
//! tested on does not have it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::SendFlags;
use transhume_netcfg::{Netlink, QueueState, TokenBucket};

use crate::frame;
use crate::sys::{self, PacketUse};

/// A VLAN tag may come on top of the MTU.
const VLAN_BYTES: usize = 4;
/// Open: more than any tap carries.
const OPEN_BYTES_PER_S: u64 = 1 << 36;
/// Open: a burst is never cut.
const OPEN_BURST_BYTES: u32 = 64 << 20;
/// Shut: the least TBF knows.
const SHUT_BYTES_PER_S: u64 = 1;

/// Where the plug is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlugState {
    /// Frames pass.
    Open,
    /// Frames wait.
    Shut,
}

/// The plug of one tap.
#[derive(Debug)]
pub(crate) struct Plug {
    netlink: Netlink,
    index: u32,
    /// Largest frame of the tap: MTU and Ethernet header.
    frame_bytes_max: usize,
    queue_bytes_max: u32,
    dummies: OwnedFd,
}

impl Plug {
    /// The plug of a tap, not yet installed.
    pub(crate) fn of(index: u32, mtu: u16, queue_bytes_max: u32) -> io::Result<Self> {
        Ok(Self {
            netlink: Netlink::open()?,
            index,
            frame_bytes_max: usize::from(mtu) + frame::ETHERNET_BYTES,
            queue_bytes_max,
            dummies: sys::packet_socket(index, PacketUse::Queue)?,
        })
    }

    fn settings(&self, state: PlugState) -> TokenBucket {
        let (bytes_per_s, burst_bytes) = match state {
            PlugState::Open => (OPEN_BYTES_PER_S, OPEN_BURST_BYTES),
            PlugState::Shut => (SHUT_BYTES_PER_S, self.shut_burst_bytes()),
        };
        TokenBucket {
            bytes_per_s,
            burst_bytes,
            queue_bytes_max: self.queue_bytes_max,
        }
    }

    /// The largest frame must pass TBF's check of its size, and one dummy must use the burst up.
    fn shut_burst_bytes(&self) -> u32 {
        (self.frame_bytes_max + VLAN_BYTES) as u32
    }

    /// Installs the qdisc on a link that is still down; returns before any frame can pass.
    pub(crate) fn install(&mut self, state: PlugState) -> io::Result<()> {
        self.netlink.add_queue(self.index, &self.settings(state))
    }

    /// Burns the tokens and puts the dummy at the head; the link must be up.
    pub(crate) fn block(&self) -> io::Result<()> {
        self.send_dummy(self.frame_bytes_max)?;
        self.send_dummy(self.frame_bytes_max)
    }

    /// Holds every frame from here on. The kernel is asked whether it does already: an agent that
    /// comes after a kill cannot know.
    pub(crate) fn shut(&mut self) -> io::Result<()> {
        let now = self.state()?;
        if now.bytes_per_s == Some(SHUT_BYTES_PER_S) {
            // Nothing waits: killed between the change and its dummies.
            return if now.waiting_frames == 0 {
                self.block()
            } else {
                Ok(())
            };
        }
        self.netlink
            .change_queue(self.index, &self.settings(PlugState::Shut))?;
        self.block()
    }

    /// Lets the held frames pass, in order, and all that follow.
    pub(crate) fn open(&mut self) -> io::Result<()> {
        self.netlink
            .change_queue(self.index, &self.settings(PlugState::Open))?;
        self.send_dummy(0)
    }

    fn send_dummy(&self, bytes: usize) -> io::Result<()> {
        rustix::net::send(self.dummies.as_fd(), &frame::dummy(bytes), SendFlags::empty())?;
        Ok(())
    }

    pub(crate) fn set_flooding(&mut self, on: bool) -> io::Result<()> {
        self.netlink.set_flooding(self.index, on)
    }

    /// What waits in the plug, and what it and the tap have dropped since they were made.
    pub(crate) fn state(&mut self) -> io::Result<QueueState> {
        self.netlink.queue_state(self.index)
    }

    pub(crate) fn netlink(&mut self) -> &mut Netlink {
        &mut self.netlink
    }
}
