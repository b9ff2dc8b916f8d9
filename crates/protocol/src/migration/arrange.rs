//! Batches that are to come, cut anew: which VMs, how many at once, in which order.
//!
//! How to cut is the driver's: it knows links and dirty rates. What holds here is that no VM is
//! lost or doubled by it, and that the rounds of the planner stay apart: only within a round do the
//! targets hold what comes beside what is still there, whatever the order.

use std::collections::BTreeMap;

use transhume_model::VmName;

use super::course::Course;
use super::vm::Vm;
use super::{Illegal, JournalEntry, Migration, News, Now, Ready};
use crate::event::Happening;
use crate::migration::request::MoveVm;
use crate::step::Phase;

impl Migration {
    /// Batches behind the one under way, as the move would go on now.
    pub fn to_come(&self) -> &[Vec<MoveVm>] {
        &self.request.batches[self.batch_number()..]
    }

    /// Batches behind the one under way become these.
    pub(super) fn arrange(
        &mut self,
        now: Now,
        batches: Vec<Vec<VmName>>,
        ready: &mut Ready,
    ) -> Result<News, Illegal> {
        let forward = matches!(self.course, Course::BeforeCommit | Course::Committed);
        if !forward || self.names_to_come() == batches {
            return Ok(self.ignore());
        }
        let cut = self.cut(&batches);
        let cut = cut.map_err(|what| self.illegal(None, format!("an arrangement: {what}")))?;
        self.arrange_as(cut);
        ready.events.push(Happening::Rearranged {
            batches: self.request.batches.len(),
            batch_max: batches.iter().map(Vec::len).max().unwrap_or_default(),
        });
        ready.persist.push(JournalEntry::Rearranged {
            batch: self.batch_number(),
            batches,
            at: now.wall,
        });
        Ok(News::Nothing)
    }

    pub(super) fn replay_arranged(
        &mut self,
        batch: usize,
        batches: &[Vec<VmName>],
    ) -> Result<(), &'static str> {
        if batch != self.batch_number() {
            return Err("another batch is under way");
        }
        let cut = self.cut(batches)?;
        self.arrange_as(cut);
        Ok(())
    }

    fn names_to_come(&self) -> Vec<Vec<VmName>> {
        let names = |batch: &Vec<MoveVm>| batch.iter().map(|vm| vm.spec.name.clone()).collect();
        self.to_come().iter().map(names).collect()
    }

    /// The VMs behind these names, or why they are no arrangement.
    fn cut(&self, batches: &[Vec<VmName>]) -> Result<Vec<Vec<MoveVm>>, &'static str> {
        let Some(batch_max) = self.request.batch_max else {
            return Err("the batches of this move are fixed");
        };
        if batches
            .iter()
            .any(|batch| batch.is_empty() || batch.len() > batch_max)
        {
            return Err("it has a batch that is empty or too large");
        }
        let to_come = self.to_come().iter().flatten();
        let mut left: BTreeMap<&VmName, &MoveVm> = to_come.map(|vm| (&vm.spec.name, vm)).collect();
        let mut take = |name: &VmName| {
            let vm = left
                .remove(name)
                .ok_or("it has a VM twice, or one that is not to come")?;
            Ok(vm.clone())
        };
        let mut cut: Vec<Vec<MoveVm>> = Vec::new();
        for batch in batches {
            cut.push(batch.iter().map(&mut take).collect::<Result<_, _>>()?);
        }
        if !left.is_empty() {
            return Err("it leaves a VM out");
        }
        let rounds = |batch: &Vec<MoveVm>| batch.iter().map(|vm| vm.round).collect::<Vec<_>>();
        if cut
            .iter()
            .map(rounds)
            .any(|batch| batch.iter().any(|round| *round != batch[0]))
        {
            return Err("it mixes rounds");
        }
        if !cut.iter().flat_map(rounds).is_sorted() {
            return Err("it takes a round before an earlier one");
        }
        Ok(cut)
    }

    fn arrange_as(&mut self, cut: Vec<Vec<MoveVm>>) {
        self.request.batches.truncate(self.batch_number());
        self.request.batches.extend(cut);
        let vms = std::mem::take(&mut self.vms).into_iter();
        self.line_up(vms.map(|vm| (vm.name().clone(), vm)).collect());
    }

    /// The machine's VMs in the order of the request. Those that are not `known` begin anew.
    pub(super) fn line_up(&mut self, mut known: BTreeMap<VmName, Vm>) {
        let batches = self.request.batches.iter().enumerate();
        let vms = batches.flat_map(|(index, vms)| vms.iter().map(move |vm| (index, vm)));
        self.vms = vms
            .map(|(index, vm)| match known.remove(&vm.spec.name) {
                Some(mut known) => {
                    known.batch = index;
                    known
                }
                None => {
                    let mut anew = Vm::new(vm, index);
                    anew.enter(Phase::PreMigration, self.begun_at);
                    anew
                }
            })
            .collect();
        let names = self.vms.iter().enumerate();
        self.places = names.map(|(place, vm)| (vm.name().clone(), place)).collect();
    }
}
