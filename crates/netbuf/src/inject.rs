//! Frames into the guest's ring, past the plug.
//!
//! A packet socket that bypasses the qdisc puts a frame straight into the tap's ring. A full ring
//! answers ENOBUFS; the frame is tried again, never dropped – though the kernel counts each refusal
//! as a drop of the tap, which the account takes off.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::sys::{self, PacketUse, SEND_BATCH_MAX};

/// Length of the virtio-net header that a packet socket takes.
const PACKET_VNET_BYTES: usize = 10;

/// Injects into one tap.
#[derive(Debug)]
pub(crate) struct Injector {
    socket: OwnedFd,
    refused: u64,
}

impl Injector {
    pub(crate) fn start(index: u32) -> io::Result<Self> {
        Ok(Self {
            socket: sys::packet_socket(index, PacketUse::Inject)?,
            refused: 0,
        })
    }

    /// Most frames of one call.
    pub(crate) const BATCH_MAX: usize = SEND_BATCH_MAX;

    /// Injects records (virtio-net header of `vnet_header_bytes`, frame); returns how many went in.
    /// Zero: the ring is full.
    pub(crate) fn inject(&mut self, records: &[&[u8]], vnet_header_bytes: usize) -> io::Result<usize> {
        let frames: Vec<[&[u8]; 2]> = records
            .iter()
            .map(|data| [&data[..PACKET_VNET_BYTES], &data[vnet_header_bytes..]])
            .collect();
        match sys::send_frames(self.socket.as_fd(), &frames) {
            Ok(sent) => {
                // The kernel tried one more frame than it took, unless it took all.
                self.refused += u64::from(sent < frames.len().min(SEND_BATCH_MAX));
                Ok(sent)
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN)) => {
                self.refused += 1;
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// How often the ring was full since this was last asked: the kernel counted so many drops that
    /// were none.
    pub(crate) fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }
}

/// Whether the kernel refuses this one frame, for its length or for what its virtio-net header says
/// of it.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE))
}
