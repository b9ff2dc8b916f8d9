//! The files with an agent's records: what the next agent finds.

use transhume_agent_core::{Change, Record};

use crate::network::VmIx;

/// One VM's file.
#[derive(Debug, Default)]
pub(crate) enum File {
    /// There is none.
    #[default]
    None,
    /// A record, whole.
    Record(Box<Record>),
    /// Something that is no record.
    Unreadable,
}

/// A state directory.
#[derive(Debug)]
pub(crate) struct Disk {
    files: Vec<File>,
    /// So many reasons why nothing can be written.
    pub(crate) full: u32,
}

impl Disk {
    pub(crate) fn new(vms: usize) -> Self {
        Disk {
            files: (0..vms).map(|_| File::None).collect(),
            full: 0,
        }
    }

    pub(crate) fn file(&self, vm: VmIx) -> &File {
        &self.files[vm]
    }

    pub(crate) fn record(&self, vm: VmIx) -> Option<&Record> {
        match &self.files[vm] {
            File::Record(record) => Some(record),
            File::None | File::Unreadable => None,
        }
    }

    pub(crate) fn is_empty(&self, vm: VmIx) -> bool {
        matches!(self.files[vm], File::None)
    }

    /// Durably, or not at all.
    pub(crate) fn write(&mut self, vm: VmIx, change: &Change) -> Result<(), String> {
        if self.full > 0 {
            return Err("No space left on device".to_owned());
        }
        self.files[vm] = match change {
            Change::Write(record) => File::Record(record.clone()),
            Change::Remove => File::None,
        };
        Ok(())
    }

    pub(crate) fn spoil(&mut self, vm: VmIx) {
        self.files[vm] = File::Unreadable;
    }

    pub(crate) fn remove(&mut self, vm: VmIx) {
        self.files[vm] = File::None;
    }
}
