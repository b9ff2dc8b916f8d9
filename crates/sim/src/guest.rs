//! A VM's guest as its user and its peers know it: one flow of numbered frames that it must see
//! without gap.

use std::collections::BTreeSet;

use transhume_model::{HostName, VmName};

use crate::check::Violation;
use crate::host::qemu::Qemu;
use crate::network::HostIx;
use crate::scenario::GuestKind;

/// The truth about one VM.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) name: VmName,
    pub(crate) source: HostIx,
    pub(crate) target: HostIx,
    /// What it does by itself.
    pub(crate) kind: GuestKind,
    /// Frames that peers sent to it.
    pub(crate) sent: u64,
    /// Where the fabric takes it to be.
    pub(crate) learned: HostIx,
    /// The journal holds `Committed` for its batch.
    pub(crate) committed: bool,
    /// It was told to run on its target.
    pub(crate) ran_on_target: bool,
    /// What it did by itself when its batch was committed: what the copy on its source knows.
    pub(crate) kind_at_commit: GuestKind,
    /// A copy that may have been the only one was ended by a fault.
    pub(crate) killed: bool,
    /// A host that held frames for it is lost: some may be missing.
    pub(crate) may_miss_frames: bool,
    /// Its plug was opened without FIN: the report must say so.
    pub(crate) cut: bool,
    /// What QEMU had read for a guest that took nothing.
    pub(crate) untaken: BTreeSet<u64>,
}

impl Guest {
    pub(crate) fn new(name: VmName, source: HostIx, target: HostIx, kind: GuestKind) -> Self {
        Guest {
            name,
            source,
            target,
            kind,
            sent: 0,
            learned: source,
            committed: false,
            ran_on_target: false,
            kind_at_commit: kind,
            killed: false,
            may_miss_frames: false,
            cut: false,
            untaken: BTreeSet::new(),
        }
    }

    pub(crate) fn is_off(&self) -> bool {
        self.kind == GuestKind::Off
    }

    /// Whether its processors are to run, wherever it is.
    pub(crate) fn is_to_run(&self) -> bool {
        matches!(self.kind, GuestKind::Healthy | GuestKind::Deaf)
    }

    /// The frame that is due after this one.
    pub(crate) fn due_after(&self, seen: u64) -> u64 {
        let mut due = seen + 1;
        while self.untaken.contains(&due) {
            due += 1;
        }
        due
    }

    /// A frame reaches the guest in a QEMU.
    pub(crate) fn receive(&self, host: &HostName, qemu: &mut Qemu, frame: u64) -> Result<(), Violation> {
        let expected = self.due_after(qemu.seen);
        let in_turn = frame == expected || (self.may_miss_frames && frame > expected);
        if !in_turn {
            return Err(Violation::OutOfTurn {
                vm: self.name.clone(),
                host: host.clone(),
                expected,
                got: frame,
            });
        }
        qemu.seen = frame;
        Ok(())
    }
}
