//! The same between a file and etcd: a fleet changes from an embedded journal to one that several
//! coordinators share, and back, and has backups of it.
//!
//! What is put into etcd is not used before it is whole: a mark is written first and removed with
//! the last write, and a coordinator that finds it does not begin. What is read from there is of
//! one instant, although a coordinator may lead meanwhile: nothing was written while it was read.

use std::fs;
use std::path::Path;

use transhume_protocol::message::FleetId;

use super::etcd::EtcdJournal;
use super::fleet::{self, new_id};
use super::redb::RedbJournal;
use super::upkeep::{Summary, check_free, check_over, check_same, raised, summary, sync_directory};
use super::{Journal, JournalError};
use crate::etcd_spec::EtcdSpec;

/// Entries of a move that are written at once.
const ENTRIES_AT_ONCE: usize = 64;
/// A journal that somebody writes to is read so often.
const COPIES_MAX: usize = 5;

/// Reads every record of a journal in etcd. `local` names files of this machine, as for a
/// coordinator.
pub fn verify_in_etcd(spec: &EtcdSpec, local: &Path) -> Result<Summary, JournalError> {
    summary(&EtcdJournal::read(spec, local)?)
}

/// Whether [`backup_from_etcd`] could be made; nothing is written.
pub fn check_backup_from_etcd(spec: &EtcdSpec, local: &Path, to: &Path) -> Result<Summary, JournalError> {
    check_free(to)?;
    verify_in_etcd(spec, local)
}

/// Copies a journal in etcd to a file that is not there yet, also while a coordinator leads.
pub fn backup_from_etcd(spec: &EtcdSpec, local: &Path, to: &Path) -> Result<Summary, JournalError> {
    check_free(to)?;
    let new = to.with_extension("new");
    check_free(&new)?;
    let copied = copy_from_etcd(spec, local, &new).and_then(|summary| {
        let moved = fs::rename(&new, to).and_then(|()| sync_directory(to));
        moved.map(|()| summary).map_err(|source| JournalError::Copy {
            path: to.to_owned(),
            source,
        })
    });
    if copied.is_err() {
        // What failed is told; that the rest cannot be removed either would not help.
        let _ = fs::remove_file(&new);
    }
    copied
}

/// Of one instant.
fn copy_from_etcd(spec: &EtcdSpec, local: &Path, new: &Path) -> Result<Summary, JournalError> {
    let changing = || JournalError::Changing {
        place: spec.prefix.clone(),
        tries: COPIES_MAX,
    };
    let mut last = changing();
    for _ in 0..COPIES_MAX {
        // What was removed meanwhile may look like damage.
        let journal = match EtcdJournal::read(spec, local) {
            Err(damaged @ JournalError::Damaged { .. }) => {
                last = damaged;
                continue;
            }
            other => other?,
        };
        let mut copy = RedbJournal::open(new)?;
        let copied = copy_records(&journal, &mut copy);
        if journal.is_unchanged(spec, local)? {
            copied?;
            if let Some(fleet) = journal.known_fleet()? {
                copy.set_fleet(&fleet)?;
            }
            copy.set_numbers(journal.numbers())?;
            return summary(&copy);
        }
        last = changing();
        drop(copy);
        let removed = fs::remove_file(new);
        removed.map_err(|source| JournalError::Copy {
            path: new.to_owned(),
            source,
        })?;
    }
    Err(last)
}

/// Whether [`restore_into_etcd`] could be done; nothing is written.
pub fn check_restore_into_etcd(from: &Path, spec: &EtcdSpec, local: &Path) -> Result<Summary, JournalError> {
    let backup = Backup::open(from, local)?;
    EtcdJournal::check_free(spec, local, &backup.fleet)?;
    Ok(backup.summary)
}

/// Makes a backup, or the journal of a coordinator that has ended, the journal of those that share
/// a prefix of etcd: the same records, and epochs and terms above all that agents can have seen.
/// There is nothing below the prefix yet, but for what is left of an attempt that did not come to
/// its end.
pub fn restore_into_etcd(from: &Path, spec: &EtcdSpec, local: &Path) -> Result<Summary, JournalError> {
    let Backup {
        journal,
        fleet,
        summary,
    } = Backup::open(from, local)?;
    let mut to = EtcdJournal::begin_restore(spec, local, &fleet)?;
    copy_records(&journal, &mut to)?;
    let numbers = raised(journal.numbers()?);
    to.end_restore(numbers)?;
    // The file that it came from, where it lies beside this, is an old copy from now on.
    fleet::keep_term(local, &fleet, numbers.term)?;
    Ok(summary)
}

/// A file that may be put to use.
struct Backup {
    journal: RedbJournal,
    fleet: FleetId,
    summary: Summary,
}

impl Backup {
    /// It is held open, so that no coordinator writes to it meanwhile.
    fn open(from: &Path, local: &Path) -> Result<Self, JournalError> {
        let journal = RedbJournal::open_existing(from)?;
        let summary = summary(&journal)?;
        check_over(&summary, from)?;
        let (own, beside) = (journal.known_fleet()?, fleet::beside(local)?);
        check_same(from, own.clone(), beside.clone())?;
        let fleet = own.or(beside).map_or_else(new_id, Ok)?;
        Ok(Self {
            journal,
            fleet,
            summary,
        })
    }
}

fn copy_records(from: &dyn Journal, to: &mut dyn Journal) -> Result<(), JournalError> {
    for cluster in from.clusters()? {
        to.put_cluster(&cluster)?;
    }
    to.put_hosts(&from.hosts()?, None)?;
    for drain in from.drains()? {
        to.put_drain(&drain, &[])?;
    }
    for (migration, entries) in from.migrations()? {
        for part in entries.chunks(ENTRIES_AT_ONCE) {
            to.append(migration, part, None)?;
        }
    }
    Ok(())
}
