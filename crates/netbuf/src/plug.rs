//! The plug: a qdisc on the tap that holds frames while it is shut and loses none when it changes (design §4).
//!
//! ```text
//!            shut()                                   open()
//!  Open ───────────▶ Shut: rate 1 byte/s,   ────────────────▶ Open: rate as good as unlimited
//!                    dummy 1 burns the tokens that
//!                    every change hands out,
//!                    dummy 2 stands at the head
//! ```
//!
//! TBF gives a full burst of tokens at each change, so a dummy as large as the burst is sent to use them up: it goes
//! to the guest, whose NIC filters it out. Tokens go on growing by a byte a second; a second dummy stands at the head of
//! the queue and would need as many seconds as it has bytes, so no real frame leaks however long the plug is shut.
//! Changing TBF wakes nobody: after opening, one more dummy does.
//!
//! Installed when the tap is made and only changed later: adding or removing a qdisc on a live tap loses frames.
//! Deliberately absent: `sch_plug`. It would need no dummies, but the kernel this is tested on does not have it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::SendFlags;

use crate::frame;
use crate::netlink::{Netlink, push_attribute};
use crate::sys::{self, PacketUse};

const KIND: &str = "tbf";
/// "1:" – ours; any number would do.
const HANDLE: u32 = 0x1_0000;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const LINKLAYER_ETHERNET: u8 = 1;
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

/// TBF's options: struct tc_tbf_qopt, 64-bit rate, burst in bytes.
fn options(bytes_per_s: u64, burst_bytes: u32, queue_bytes_max: u32) -> Vec<u8> {
    // struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate.
    let rate = [
        &[0, LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0][..],
        &u32::try_from(bytes_per_s).unwrap_or(u32::MAX).to_ne_bytes(),
    ]
    .concat();
    let parameters = [
        &rate[..],
        &[0; 12],
        &queue_bytes_max.to_ne_bytes(),
        &[0; 4],
        &[0; 4],
    ]
    .concat();
    let mut bytes = Vec::new();
    push_attribute(&mut bytes, TCA_TBF_PARMS, &parameters);
    push_attribute(&mut bytes, TCA_TBF_BURST, &burst_bytes.to_ne_bytes());
    if bytes_per_s > u64::from(u32::MAX) {
        push_attribute(&mut bytes, TCA_TBF_RATE64, &bytes_per_s.to_ne_bytes());
    }
    bytes
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

    fn options_of(&self, state: PlugState) -> Vec<u8> {
        match state {
            PlugState::Open => options(OPEN_BYTES_PER_S, OPEN_BURST_BYTES, self.queue_bytes_max),
            PlugState::Shut => options(SHUT_BYTES_PER_S, self.shut_burst_bytes(), self.queue_bytes_max),
        }
    }

    /// The largest frame must pass TBF's check of its size, and one dummy must use the burst up.
    fn shut_burst_bytes(&self) -> u32 {
        (self.frame_bytes_max + VLAN_BYTES) as u32
    }

    /// Installs the qdisc on a link that is still down; returns before any frame can pass.
    pub(crate) fn install(&mut self, state: PlugState) -> io::Result<()> {
        let options = self.options_of(state);
        self.netlink.add_qdisc(self.index, HANDLE, KIND, &options)
    }

    /// Burns the tokens and puts the dummy at the head; the link must be up.
    pub(crate) fn block(&self) -> io::Result<()> {
        self.send_dummy(self.frame_bytes_max)?;
        self.send_dummy(self.frame_bytes_max)
    }

    /// Holds every frame from here on.
    pub(crate) fn shut(&mut self) -> io::Result<()> {
        let options = self.options_of(PlugState::Shut);
        self.netlink.change_qdisc(self.index, HANDLE, KIND, &options)?;
        self.block()
    }

    /// Lets the held frames pass, in order, and all that follow.
    pub(crate) fn open(&mut self) -> io::Result<()> {
        let options = self.options_of(PlugState::Open);
        self.netlink.change_qdisc(self.index, HANDLE, KIND, &options)?;
        self.send_dummy(0)
    }

    fn send_dummy(&self, bytes: usize) -> io::Result<()> {
        rustix::net::send(self.dummies.as_fd(), &frame::dummy(bytes), SendFlags::empty())?;
        Ok(())
    }

    pub(crate) fn set_flooding(&mut self, on: bool) -> io::Result<()> {
        self.netlink.set_flooding(self.index, on)
    }

    /// Frames the tap and the plug dropped since they were made.
    pub(crate) fn dropped(&mut self) -> io::Result<u64> {
        self.netlink.dropped(self.index)
    }

    pub(crate) fn netlink(&mut self) -> &mut Netlink {
        &mut self.netlink
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_are_laid_out_as_pkt_sched_says() {
        let bytes = options(1, 1518, 4096);
        assert_eq!(bytes.len(), 40 + 8);
        assert_eq!(bytes[..4], [[40, 0], [1, 0]].concat()[..]);
        assert_eq!(bytes[12..16], 1u32.to_ne_bytes());
        assert_eq!(bytes[28..32], 4096u32.to_ne_bytes());
        assert_eq!(
            bytes[40..48],
            [&[8u8, 0, 6, 0][..], &1518u32.to_ne_bytes()].concat()[..]
        );
    }

    #[test]
    fn a_rate_above_32_bits_goes_into_its_own_attribute() {
        let bytes = options(1 << 36, 1, 1);
        assert_eq!(bytes[12..16], u32::MAX.to_ne_bytes());
        assert_eq!(
            bytes[48..60],
            [&[12u8, 0, 4, 0][..], &(1u64 << 36).to_ne_bytes()].concat()[..]
        );
    }
}
