//! What is done for the batches to come while one is under way.

use std::collections::BTreeSet;

use transhume_model::{Epoch, HostName, MigrationId, VmName};
use transhume_protocol::message::Command;
use transhume_protocol::migration::{Input, MoveVm};

use super::{Core, CoreError};
use crate::arranging::Moment;
use crate::governing::network;

impl Core {
    /// VMs of batches to come that leave this host.
    pub(super) fn vms_to_come_on(&self, host: &HostName) -> BTreeSet<VmName> {
        let moves = self.moves.on_host(host).into_iter();
        let to_come = moves.filter_map(|id| Some(self.moves.running(id)?.to_come().iter().flatten()));
        let from_here = to_come.flatten().filter(|vm| vm.source == *host);
        from_here.map(|vm| vm.spec.name.clone()).collect()
    }

    /// While a batch is copied the VMs to come are measured; when it runs on its targets they are
    /// cut into batches anew, before the next one begins.
    pub(super) fn think_ahead(&mut self, id: MigrationId, moment: Moment) -> Result<(), CoreError> {
        let Some(migration) = self.moves.running(id) else {
            return Ok(());
        };
        if migration.request().batch_max.is_none() || migration.to_come().is_empty() {
            return Ok(());
        }
        match moment {
            Moment::Copies => {
                for (host, dirty_of) in self.arranging.to_measure(migration) {
                    // An answer that never comes leaves what was known before.
                    self.hosts
                        .ask(&host, Epoch::default(), Command::Inspect { dirty_of });
                }
                Ok(())
            }
            Moment::Runs => {
                let network = network(&self.hosts, &self.config);
                let report = migration.report(self.now());
                let Some(cut) = self.arranging.arrangement(&network, migration, &report) else {
                    return Ok(());
                };
                if !self.governing.arranged(id, &network, &cut) {
                    return Ok(());
                }
                let names = |batch: &Vec<MoveVm>| batch.iter().map(|vm| vm.spec.name.clone()).collect();
                let batches = cut.iter().map(names).collect();
                self.feed(id, Input::Arrange { batches })
            }
        }
    }
}
