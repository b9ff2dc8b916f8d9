//! When did the guest itself last, or first, send a frame? For the gap that a peer sees (§4.2).
//!
//! A packet socket on the tap, set to ignore what goes to the guest; the kernel stamps each frame.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::sys::{self, PacketUse};
use crate::{clock, frame};

/// Frames looked at in one go; what is left is looked at next time.
const LOOK_FRAMES_MAX: usize = 10_000;

/// Watches one tap.
#[derive(Debug)]
pub(crate) struct Watch {
    socket: OwnedFd,
    first_us: Option<u64>,
    last_us: Option<u64>,
}

impl Watch {
    pub(crate) fn start(index: u32) -> io::Result<Self> {
        Ok(Self {
            socket: sys::packet_socket(index, PacketUse::Watch)?,
            first_us: None,
            last_us: None,
        })
    }

    /// Looks at what was sent since the last look. Announcements are ours, not the guest's.
    pub(crate) fn look(&mut self) {
        let mut head = [0; frame::ETHERNET_BYTES];
        for _ in 0..LOOK_FRAMES_MAX {
            let Ok((length, stamp)) = sys::receive_stamped(self.socket.as_fd(), &mut head) else {
                return;
            };
            if length == head.len() && !frame::is_announcement(&head) && stamp.is_some() {
                let dated = stamp.map(clock::as_dated_here);
                self.first_us = self.first_us.or(dated);
                self.last_us = dated;
            }
        }
    }

    pub(crate) fn first_us(&self) -> Option<u64> {
        self.first_us
    }

    pub(crate) fn last_us(&self) -> Option<u64> {
        self.last_us
    }
}
