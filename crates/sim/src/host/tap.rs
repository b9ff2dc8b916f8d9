//! A simulated tap with its plug, and the spools: kernel and files, which live on when their agent
//! does not.

use std::collections::{BTreeMap, VecDeque};

/// A VM's tap. Frames come through the plug into the ring, where QEMU or a buffer reads them.
#[derive(Debug, Default)]
pub(crate) struct Tap {
    pub(crate) shut: bool,
    /// In front of the plug.
    pub(crate) plugged: VecDeque<u64>,
    /// Behind it.
    pub(crate) ring: VecDeque<u64>,
}

impl Tap {
    pub(crate) fn arrive(&mut self, frame: u64) {
        if self.shut {
            self.plugged.push_back(frame);
        } else {
            self.ring.push_back(frame);
        }
    }

    pub(crate) fn open(&mut self) {
        self.shut = false;
        self.ring.append(&mut self.plugged);
    }
}

/// What a source captured. The place of a frame, plus one, is its number in the tunnel.
#[derive(Debug, Default)]
pub(crate) struct SourceSpool {
    pub(crate) kept: Vec<u64>,
    /// So many were put back.
    pub(crate) put_back: usize,
    /// Its ring was read, and may hold more.
    pub(crate) reads: bool,
    /// Frames that went with what QEMU had read.
    pub(crate) untaken: u64,
}

/// What came to a target.
#[derive(Debug, Default)]
pub(crate) struct TargetSpool {
    /// By number, those that are not injected.
    pub(crate) waiting: BTreeMap<u64, u64>,
    /// The highest number up to which all came.
    pub(crate) came: u64,
    /// So many are with the guest.
    pub(crate) injected: u64,
    /// The last number, once FIN said it.
    pub(crate) fin: Option<u64>,
    /// The guest was activated.
    pub(crate) active: bool,
    /// Numbers that came twice.
    pub(crate) duplicated: u64,
    /// No FIN comes: what still does is dropped.
    pub(crate) cut: bool,
    /// FIN was carried out: the plug is open.
    pub(crate) closed: bool,
}
