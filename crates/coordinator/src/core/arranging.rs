//! What is done for the batches to come while one is under way.

use transhume_model::{Epoch, MigrationId};
use transhume_protocol::message::Command;
use transhume_protocol::migration::{Input, MoveVm};

use super::{Core, CoreError};
use crate::arranging::Moment;
use crate::governing::network;

impl Core {
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
