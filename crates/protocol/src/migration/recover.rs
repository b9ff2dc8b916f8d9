//! From the journal back to the machine: without `Committed` the batch is undone, with it it is
//! finished.

use transhume_model::{Epoch, VmName, WallMicros};

use super::decision::Ran;
use super::journal::{JOURNAL_VERSION, JournalEntry, RunOn, VmSoFar};
use super::ready::{Now, Ready};
use super::request::{MoveRequest, RequestError};
use super::{Course, Link, Migration, News, trouble};
use crate::message::OrderKind;
use crate::step::{Phase, Side, Step};

/// Why a journal cannot be taken up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// The entries were written by a newer Transhume.
    #[error("the journal of the move has version {found}, this program knows up to {JOURNAL_VERSION}")]
    Version {
        /// As written.
        found: u16,
    },
    /// The entries cannot have been written by this machine.
    #[error("entry {index} of the move's journal does not fit the ones before it: {what}")]
    Order {
        /// Which entry, from 0.
        index: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// The new epoch would not fence the old orders off.
    #[error("epoch {given} is not newer than {held}, which the journal holds")]
    Epoch {
        /// As given.
        given: Epoch,
        /// Newest in the journal.
        held: Epoch,
    },
    /// The journal holds a request that could not have begun.
    #[error("the journal holds an impossible request")]
    Request(#[source] RequestError),
}

impl Migration {
    /// Takes a move up after a restart of the coordinator; `None` when it is over. No host is taken
    /// for connected: orders leave after each host's [`super::Input::AgentBack`]. `new_epoch` is
    /// above every epoch of `entries`, and the driver's next one is above
    /// [`Migration::epoch_last`].
    pub fn recover(
        now: Now,
        entries: &[JournalEntry],
        new_epoch: Epoch,
    ) -> Result<Option<(Self, Ready)>, RecoverError> {
        if let Some(JournalEntry::Ended { .. }) = entries.last() {
            return Ok(None);
        }
        let (request, begun_at) = first(entries)?;
        request.check().map_err(RecoverError::Request)?;
        let mut migration = Self::new(request, begun_at);
        migration.mark_phase(None, Phase::PreMigration, begun_at);
        for (index, entry) in entries.iter().enumerate().skip(1) {
            let replayed = migration.replay(entry);
            replayed.map_err(|what| RecoverError::Order { index, what })?;
        }
        if new_epoch <= migration.epoch {
            return Err(RecoverError::Epoch {
                given: new_epoch,
                held: migration.epoch,
            });
        }
        let ready = migration.take_up(now, new_epoch);
        Ok(Some((migration, ready)))
    }

    /// One entry, as it changed the machine when it was written.
    fn replay(&mut self, entry: &JournalEntry) -> Result<(), &'static str> {
        match entry {
            JournalEntry::Begun { .. } => return Err("a move begins once"),
            JournalEntry::Ended { .. } => return Err("nothing follows the end"),
            JournalEntry::BatchBegun { batch, epoch, at } => {
                let first = *batch == 1 && self.batch == 0 && self.course == Course::BeforeCommit;
                let next = *batch == self.batch + 2 && self.course == Course::Committed;
                if !first && !next {
                    return Err("this batch is not the next one");
                }
                self.batch = batch - 1;
                if self.batch >= self.request.batches.len() {
                    return Err("the move has no such batch");
                }
                self.epoch = *epoch;
                self.course = Course::BeforeCommit;
                self.step = Step::SelectBatch;
                self.mark_phase(Some(self.batch), Phase::Reservation, *at);
            }
            JournalEntry::RollingBack {
                batch,
                trouble,
                refused,
                put_off,
                vms,
                ..
            } => {
                self.expect(*batch, Course::BeforeCommit)?;
                self.course = Course::RollingBack;
                self.step = trouble.step;
                self.trouble = Some(trouble.clone());
                self.refused = *refused;
                self.put_off.clone_from(put_off);
                self.restore(vms)?;
            }
            JournalEntry::PutOff {
                vm, batch, epoch, at, ..
            } => {
                self.expect(*batch, Course::RollingBack)?;
                if self.put_off.take().as_ref() != Some(vm) {
                    return Err("this VM was not to be put off");
                }
                self.rearrange(vm);
                self.epoch = *epoch;
                self.course = Course::BeforeCommit;
                self.step = Step::SelectBatch;
                self.mark_phase(Some(self.batch), Phase::Reservation, *at);
            }
            JournalEntry::Rearranged { batch, batches, .. } => self.replay_arranged(*batch, batches)?,
            JournalEntry::Committed { batch, at, vms, .. } => {
                self.expect(*batch, Course::BeforeCommit)?;
                self.course = Course::Committed;
                self.step = Step::Activate;
                self.restore(vms)?;
                for vm in self.batch_vms_mut() {
                    vm.committed = true;
                    vm.set_prepared();
                    // An order may have left that nobody noted.
                    vm.told_to_run = true;
                    // Whether the buffers are still connected nobody knows.
                    vm.part_buffers();
                }
                self.mark_phase(Some(self.batch), Phase::Activation, *at);
            }
            JournalEntry::VmActivated { vm, times, at } => {
                let vm = self.vm_on_target(vm)?;
                vm.activated_at = Some(*at);
                vm.activation = Some(*times);
                vm.set_done(OrderKind::Activate);
            }
            JournalEntry::VmClosed {
                vm,
                source,
                target,
                without_fin,
                ..
            } => {
                let vm = self.vm_on_target(vm)?;
                (vm.source_frames, vm.target_frames) = (*source, *target);
                vm.without_fin = *without_fin;
                vm.set_done(OrderKind::CloseSourceBuffer);
                vm.set_done(OrderKind::CloseTargetBuffer);
                vm.set_done(OrderKind::OpenPlug);
            }
            JournalEntry::GivenUp { vm, side, .. } => {
                self.vm_of_batch(vm)?.given_up.insert(*side);
            }
            JournalEntry::LeftBehind { vm, host, .. } => {
                let vm = self.vm_of_batch(vm)?;
                let side = if vm.source == *host {
                    Side::Source
                } else {
                    Side::Target
                };
                vm.left_behind.insert(side);
            }
            JournalEntry::Resolved {
                vm,
                run_on: RunOn::Source,
                although_it_may_have_run,
                ..
            } => {
                self.vm_in(vm, Course::Committed)?;
                let ran = match although_it_may_have_run {
                    true => Ran::Maybe,
                    false => Ran::Never,
                };
                self.reclaim(self.places[vm], ran);
            }
            JournalEntry::Resolved { vm, run_on, .. } => {
                let vm = self.vm_of_batch(vm)?;
                vm.resolved = Some(*run_on);
                vm.committed |= *run_on == RunOn::Target;
                if vm.is_kept_on_target() {
                    vm.set_prepared();
                }
            }
            JournalEntry::VmLost { vm, fault, .. } => {
                let vm = self.vm_of_batch(vm)?;
                vm.lost = Some(fault.clone());
                vm.set_done(OrderKind::Activate);
            }
            JournalEntry::VmDiscarded { vm, at, source } => {
                let vm = self.vm_in(vm, Course::Committed)?;
                vm.over_at = Some(*at);
                vm.source_frames = vm.source_frames.or(*source);
                vm.set_done(OrderKind::Discard);
            }
            JournalEntry::VmRestored {
                vm,
                at,
                restored_at,
                source,
            } => {
                let vm = self.vm_of_batch(vm)?;
                (vm.source_frames, vm.restored_at, vm.over_at) = (*source, *restored_at, Some(*at));
                vm.set_done(match vm.is_reclaimed() {
                    true => OrderKind::Reclaim,
                    false => OrderKind::AbortSource,
                });
            }
            JournalEntry::CancelAsked { .. } => {
                self.cancelled = true;
                self.put_off = None;
            }
            JournalEntry::Recovered { epoch, .. } => self.epoch = *epoch,
        }
        Ok(())
    }

    fn take_up(&mut self, now: Now, new_epoch: Epoch) -> Ready {
        let mut ready = Ready::default();
        self.epoch = new_epoch;
        self.recovered = true;
        ready.persist.push(JournalEntry::Recovered {
            batch: self.batch_number(),
            epoch: new_epoch,
            at: now.wall,
        });
        self.links
            .values_mut()
            .for_each(|link| *link = Link::Lost { since: now.mono });
        for host in self.links.keys().cloned().collect::<Vec<_>>() {
            self.set_host_timer(now, &host, &mut ready);
        }
        for vm in self.batch_vms_mut() {
            vm.touch(Side::Target);
            if !vm.powered_off {
                vm.touch(Side::Source);
            }
        }
        // Whoever is to decide is told anew; of a host, when it is lost anew.
        for index in self.batch_range() {
            self.ask_whether_reclaimed(index, now, &mut ready);
        }
        self.set_move_deadline(now, &mut ready);
        if self.course == Course::BeforeCommit {
            self.roll_back(now, trouble::coordinator_restarted(self.step), &mut ready);
        }
        let was = self.place();
        self.advance(now, was, News::OfAll, &mut ready);
        ready
    }

    fn expect(&self, batch: usize, course: Course) -> Result<(), &'static str> {
        if batch == self.batch_number() && self.course == course {
            Ok(())
        } else {
            Err("the batch is not open to this decision")
        }
    }

    fn vm_in(&mut self, name: &VmName, course: Course) -> Result<&mut super::vm::Vm, &'static str> {
        let place = *self.places.get(name).ok_or("the VM is not in the move")?;
        let vm = &mut self.vms[place];
        if vm.batch == self.batch && self.course == course {
            Ok(vm)
        } else {
            Err("the VM's batch is not in this stage")
        }
    }

    fn vm_of_batch(&mut self, name: &VmName) -> Result<&mut super::vm::Vm, &'static str> {
        match self.course {
            Course::Committed | Course::RollingBack => self.vm_in(name, self.course),
            Course::BeforeCommit | Course::Over => Err("nothing is decided about the VM yet"),
        }
    }

    /// A VM that is committed, with its batch or by an operator's word.
    fn vm_on_target(&mut self, name: &VmName) -> Result<&mut super::vm::Vm, &'static str> {
        let vm = self.vm_of_batch(name)?;
        match vm.committed {
            true => Ok(vm),
            false => Err("the VM is not committed"),
        }
    }

    fn restore(&mut self, vms: &[VmSoFar]) -> Result<(), &'static str> {
        for so_far in vms {
            self.vm_in(&so_far.vm, self.course)?.so_far = so_far.clone();
        }
        Ok(())
    }

    /// Like `enter_phase`, without an event: it was given in the coordinator's earlier life.
    fn mark_phase(&mut self, batch: Option<usize>, phase: Phase, at: WallMicros) {
        for vm in self
            .vms
            .iter_mut()
            .filter(|vm| batch.is_none_or(|batch| vm.batch == batch))
        {
            vm.enter(phase, at);
        }
    }
}

fn first(entries: &[JournalEntry]) -> Result<(MoveRequest, WallMicros), RecoverError> {
    match entries.first() {
        Some(JournalEntry::Begun { version, .. }) if *version > JOURNAL_VERSION => {
            Err(RecoverError::Version { found: *version })
        }
        Some(JournalEntry::Begun { at, request, .. }) => Ok((request.clone(), *at)),
        Some(_) | None => Err(RecoverError::Order {
            index: 0,
            what: "a move's journal opens with `begun`",
        }),
    }
}
