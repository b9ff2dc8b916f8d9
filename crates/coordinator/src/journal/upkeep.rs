//! What operators do with a journal's file while no coordinator has it open.
//!
//! A backup is an older state of the world: what moved since then is at another place than it says.
//! Epochs are raised when it is put to use, so that agents obey; where VMs really are, agents say
//! when they connect.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use serde::Serialize;
use transhume_protocol::message::FleetId;
use transhume_protocol::migration::JournalEntry;

use super::fleet::{self, check_fleet};
use super::redb::RedbJournal;
use super::{Journal, JournalError, Numbers};

/// By so much epochs and terms are raised: more than a fleet uses up between two backups.
const NUMBERS_RAISED: u64 = 1 << 32;

/// What a journal holds; every record of it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Clusters.
    pub clusters: usize,
    /// VMs of all clusters.
    pub vms: usize,
    /// Hosts of which something is remembered.
    pub hosts: usize,
    /// Drains.
    pub drains: usize,
    /// Moves.
    pub migrations: usize,
    /// Moves that are not over.
    pub under_way: usize,
}

/// Reads every record. Errors name the one that cannot be read.
pub fn verify(path: &Path) -> Result<Summary, JournalError> {
    summary(&RedbJournal::open_existing(path)?)
}

/// Whether [`backup`] could be made; nothing is written.
pub fn check_backup(from: &Path, to: &Path) -> Result<Summary, JournalError> {
    let summary = verify(from)?;
    check_free(to)?;
    Ok(summary)
}

/// Whether [`restore`] could be done; nothing is written.
pub fn check_restore(from: &Path, to: &Path) -> Result<Summary, JournalError> {
    let journal = RedbJournal::open_existing(from)?;
    let summary = summary(&journal)?;
    check_over(&summary, from)?;
    check_free(to)?;
    check_same(from, journal.known_fleet()?, fleet::beside(to)?)?;
    Ok(summary)
}

/// Nothing is written over.
pub(super) fn check_free(to: &Path) -> Result<(), JournalError> {
    match to.try_exists() {
        Ok(false) => Ok(()),
        Ok(true) => Err(JournalError::Copy {
            path: to.to_owned(),
            source: io::ErrorKind::AlreadyExists.into(),
        }),
        Err(source) => Err(JournalError::Copy {
            path: to.to_owned(),
            source,
        }),
    }
}

/// Copies a journal that is whole to a file that is not there yet.
pub fn backup(from: &Path, to: &Path) -> Result<Summary, JournalError> {
    // Held open, so that no coordinator writes meanwhile.
    let journal = RedbJournal::open_existing(from)?;
    let summary = summary(&journal)?;
    copy(from, to).map_err(|source| JournalError::Copy {
        path: to.to_owned(),
        source,
    })?;
    Ok(summary)
}

/// Makes a backup a coordinator's journal, at a file that is not there yet: the same records, and
/// epochs above all that agents can have seen. One with a move that was not over is refused: agents
/// would obey orders of a move that may long have ended otherwise.
pub fn restore(from: &Path, to: &Path) -> Result<Summary, JournalError> {
    check_restore(from, to)?;
    let summary = backup(from, to)?;
    let mut journal = RedbJournal::open_existing(to)?;
    check_fleet(&mut journal, to)?;
    let numbers = journal.numbers()?;
    journal.set_numbers(raised(numbers))?;
    Ok(summary)
}

/// Epochs and terms above all that agents can have seen, and above what another copy of the same
/// backup was raised to, if that was restored before.
pub(super) fn raised(numbers: Numbers) -> Numbers {
    let now = crate::wall().0;
    let above = |last: u64| last.max(now).saturating_add(NUMBERS_RAISED);
    Numbers {
        epoch: above(numbers.epoch),
        term: above(numbers.term),
        ..numbers
    }
}

/// One with a move that was not over is not put to use.
pub(super) fn check_over(summary: &Summary, from: &Path) -> Result<(), JournalError> {
    match summary.under_way {
        0 => Ok(()),
        moves => Err(JournalError::UnderWay {
            path: from.to_owned(),
            moves,
        }),
    }
}

/// Whether a backup of one fleet may be put where `beside` names another.
pub(super) fn check_same(
    from: &Path,
    of_copy: Option<FleetId>,
    beside: Option<FleetId>,
) -> Result<(), JournalError> {
    match (of_copy, beside) {
        (Some(found), Some(expected)) if found != expected => Err(JournalError::OtherFleet {
            path: from.to_owned(),
            found,
            expected,
        }),
        _ => Ok(()),
    }
}

/// What a journal holds, every record of it read.
pub(super) fn summary(journal: &dyn Journal) -> Result<Summary, JournalError> {
    let clusters = journal.clusters()?;
    let migrations = journal.migrations()?;
    let over = |entries: &&Vec<JournalEntry>| matches!(entries.last(), Some(JournalEntry::Ended { .. }));
    Ok(Summary {
        vms: clusters.iter().map(|cluster| cluster.spec.vms.len()).sum(),
        clusters: clusters.len(),
        hosts: journal.hosts()?.len(),
        drains: journal.drains()?.len(),
        under_way: migrations.len() - migrations.values().filter(over).count(),
        migrations: migrations.len(),
    })
}

/// Durable when it returns; nothing is left where it fails.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut target = OpenOptions::new().write(true).create_new(true).open(to)?;
    let copied = File::open(from)
        .and_then(|mut source| io::copy(&mut source, &mut target))
        .and_then(|_| target.sync_all())
        .and_then(|()| sync_directory(to));
    if copied.is_err() {
        // What failed is told; that the rest cannot be removed either would not help.
        let _ = fs::remove_file(to);
    }
    copied
}

/// That a file is in its directory is durable when it returns.
pub(super) fn sync_directory(file: &Path) -> io::Result<()> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new("."))).and_then(|directory| directory.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use transhume_api::ClusterStage;
    use transhume_model::{ClusterSpec, PlacementRules, WallMicros};

    use crate::journal::ClusterRecord;

    fn lab() -> ClusterRecord {
        ClusterRecord {
            spec: ClusterSpec {
                name: "lab".parse().unwrap(),
                vms: Vec::new(),
                rules: PlacementRules::default(),
            },
            stage: ClusterStage::Live,
        }
    }

    #[test]
    fn a_journal_is_verified_copied_and_put_to_use_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (file, copy, restored) = (path("journal.redb"), path("copy.redb"), path("again.redb"));
        let missing = verify(&file).unwrap_err();
        assert!(matches!(missing, JournalError::NotThere { .. }), "{missing}");
        assert!(!file.exists(), "none is begun");
        let mut journal = RedbJournal::open(&file).unwrap();
        journal.put_cluster(&lab()).unwrap();
        let id = journal.new_migration().unwrap();
        journal
            .append(id, &[JournalEntry::CancelAsked { at: WallMicros(1) }], None)
            .unwrap();
        let epoch = journal.new_epochs(5).unwrap();
        let in_use = backup(&file, &copy).unwrap_err();
        assert!(matches!(in_use, JournalError::InUse { .. }), "{in_use}");
        drop(journal);
        let whole = verify(&file).unwrap();
        assert_eq!((whole.clusters, whole.migrations, whole.under_way), (1, 1, 1));
        assert_eq!(backup(&file, &copy).unwrap(), whole);
        let again = backup(&file, &copy).unwrap_err();
        assert!(
            matches!(again, JournalError::Copy { .. }),
            "nothing is written over: {again}"
        );
        let midway = restore(&copy, &restored).unwrap_err();
        assert!(
            matches!(midway, JournalError::UnderWay { moves: 1, .. }),
            "{midway}"
        );
        assert!(!restored.exists(), "nothing is left of it");
        std::fs::remove_file(&copy).unwrap();
        let mut journal = RedbJournal::open(&file).unwrap();
        journal.remove_migration(id).unwrap();
        drop(journal);
        let whole = backup(&file, &copy).unwrap();
        assert_eq!(restore(&copy, &restored).unwrap(), whole);
        let mut journal = RedbJournal::open(&restored).unwrap();
        assert_eq!(journal.clusters().unwrap(), [lab()]);
        assert!(journal.new_epochs(1).unwrap().0 > epoch.0 + (1 << 32));
        let leader = journal.lead().unwrap();
        assert!(leader.term > 1 << 32, "agents obey it");
        // And another that is made of the same backup later.
        let second = path("second.redb");
        restore(&copy, &second).unwrap();
        assert!(RedbJournal::open(&second).unwrap().lead().unwrap().term > leader.term);
        let fleet = journal.fleet().unwrap();
        drop(journal);
        // In the place of another fleet's journal.
        let theirs = path("theirs.redb");
        std::fs::write(path("theirs.fleet"), "ab".repeat(16)).unwrap();
        let mut ours = RedbJournal::open(&copy).unwrap();
        ours.set_fleet(&fleet).unwrap();
        drop(ours);
        for refused in [
            check_restore(&copy, &theirs).unwrap_err(),
            restore(&copy, &theirs).unwrap_err(),
        ] {
            assert!(matches!(refused, JournalError::OtherFleet { .. }), "{refused}");
        }
        assert!(!theirs.exists(), "nothing is left of it");
    }
}
