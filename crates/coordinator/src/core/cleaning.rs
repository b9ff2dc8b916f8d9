//! What lost hosts still have is cleaned away when they are back.

use transhume_model::HostName;

use super::{Core, CoreError};
use crate::cleaning::Cleaned;
use crate::journal::{HostRecord, Leftover};

impl Core {
    /// Asks a host for everything that is left there, if it is connected.
    pub(super) fn clean(&mut self, host: &HostName) -> Result<(), CoreError> {
        if !self.hosts.is_connected(host) {
            return Ok(());
        }
        let leftovers = self.record_of(host).leftovers;
        if leftovers.is_empty() {
            return self.lift_fence(host);
        }
        let new = leftovers.into_iter().filter(|left| !self.cleaner.has(host, left));
        let new: Vec<Leftover> = new.collect();
        if new.is_empty() {
            return Ok(());
        }
        // Epochs are a VM's: one newer than all of them will do.
        let epoch = self.store.new_epochs(1)?;
        let now = self.now().mono;
        for leftover in new {
            self.cleaner.begin(host, leftover, epoch, now, &mut self.hosts);
        }
        Ok(())
    }

    pub(super) fn cleaned(&mut self, cleaned: Cleaned) -> Result<(), CoreError> {
        let Cleaned {
            host,
            leftover,
            frames,
        } = cleaned;
        let captured = frames.map(|frames| frames.captured.saturating_sub(frames.put_back));
        audit!(%host, vm = %leftover.vm, how = ?leftover.clean, frames_captured = captured, "cleaned away");
        let mut record = self.record_of(&host);
        record.leftovers.retain(|left| *left != leftover);
        let clean = record.leftovers.is_empty();
        self.store.keep_host(record)?;
        if clean {
            self.lift_fence(&host)?;
            self.hosts.inspect_all();
        }
        Ok(())
    }

    /// A host whose agent answers is not off, whatever was said before.
    pub(super) fn answers(&mut self, host: &HostName) -> Result<(), CoreError> {
        let stale = |record: &HostRecord| record.fenced_at.is_some() && record.leftovers.is_empty();
        match self.store.host(host).is_some_and(stale) {
            true => self.lift_fence(host),
            false => Ok(()),
        }
    }

    /// A host that is back and clean is a host like any other.
    fn lift_fence(&mut self, host: &HostName) -> Result<(), CoreError> {
        let record = self.record_of(host);
        if record.fenced_at.is_some() {
            audit!(%host, "answers and is clean: no longer fenced");
            let fenced_at = None;
            self.store.keep_host(HostRecord { fenced_at, ..record })?;
        }
        Ok(())
    }
}
