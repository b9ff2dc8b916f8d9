//! Which fleet a journal is of: in the journal, and in a file beside it that outlives it.
//!
//! A journal that was lost and begun anew stays the fleet's by that file; one of another fleet that
//! is put in its place is refused before any agent is asked.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use transhume_protocol::message::{FLEET_BYTES, FleetId};

use super::{Journal, JournalError};

/// In front of the term in the file beside a journal.
const TERM: &str = "term ";

/// The file beside a journal.
fn file(journal: &Path) -> PathBuf {
    journal.with_extension("fleet")
}

/// What the file beside a journal says; `None` where there is none.
pub(super) fn beside(journal: &Path) -> Result<Option<FleetId>, JournalError> {
    let path = file(journal);
    let failed = |source| JournalError::FleetFile {
        path: path.clone(),
        source,
    };
    match fs::read_to_string(&path) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
        Ok(text) => {
            let parsed = text.lines().next().unwrap_or_default().trim().parse::<FleetId>();
            parsed
                .map(Some)
                .map_err(|why| failed(io::Error::new(io::ErrorKind::InvalidData, why)))
        }
    }
}

/// The journal and the file beside it name the same fleet from here on. A journal without one takes
/// the file's; where they differ it is another fleet's, and nothing is changed.
pub fn check_fleet(journal: &mut dyn Journal, path: &Path) -> Result<(), JournalError> {
    let beside = beside(path)?;
    if let Some(expected) = &beside {
        match journal.known_fleet()? {
            None => journal.set_fleet(expected)?,
            Some(found) if found == *expected => {}
            Some(found) => {
                return Err(JournalError::OtherFleet {
                    path: path.to_owned(),
                    found,
                    expected: expected.clone(),
                });
            }
        }
    }
    let fleet = journal.fleet()?;
    match beside {
        Some(_) => Ok(()),
        None => write(path, &fleet),
    }
}

/// The last term that was led in from here, by the file beside a journal; 0 where it says none.
pub(super) fn led(journal: &Path) -> Result<u64, JournalError> {
    let path = file(journal);
    match fs::read_to_string(&path) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(source) => Err(JournalError::FleetFile { path, source }),
        Ok(text) => {
            let mut lines = text.lines().skip(1);
            let term = lines.find_map(|line| line.strip_prefix(TERM)?.trim().parse().ok());
            Ok(term.unwrap_or(0))
        }
    }
}

/// The same, with the term that begins.
pub(super) fn keep_term(journal: &Path, fleet: &FleetId, term: u64) -> Result<(), JournalError> {
    replace(journal, &format!("{fleet}\n{TERM}{term}\n"))
}

/// Durable when it returns.
pub(super) fn write(journal: &Path, fleet: &FleetId) -> Result<(), JournalError> {
    replace(journal, &format!("{fleet}\n"))
}

/// All of it or what was there before, whenever this process or the machine ends.
fn replace(journal: &Path, text: &str) -> Result<(), JournalError> {
    let path = file(journal);
    let new = journal.with_extension("fleet.new");
    let written = fs::File::create(&new).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    });
    written.map_err(|source| JournalError::FleetFile { path, source })
}

/// A number by chance.
pub(super) fn chance() -> Result<u64, JournalError> {
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(JournalError::Random)?;
    Ok(u64::from_le_bytes(bytes))
}

/// An id that nobody else has.
pub(super) fn new_id() -> Result<FleetId, JournalError> {
    let mut bytes = [0; FLEET_BYTES];
    fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(JournalError::Random)?;
    Ok(FleetId::of(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::RedbJournal;

    #[test]
    fn a_journal_is_its_fleets_by_what_is_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.redb");
        let mut journal = RedbJournal::open(&path).unwrap();
        check_fleet(&mut journal, &path).unwrap();
        let (fleet, first) = (journal.fleet().unwrap(), journal.lead().unwrap());
        assert_eq!(beside(&path).unwrap(), Some(fleet.clone()));
        drop(journal);
        let mut again = RedbJournal::open(&path).unwrap();
        let second = again.lead().unwrap();
        assert_eq!((&second.fleet, second.term), (&first.fleet, first.term + 1));
        drop(again);
        // An old copy, put back.
        let copy = directory.path().join("copy");
        fs::copy(&path, &copy).unwrap();
        let third = RedbJournal::open(&path).unwrap().lead().unwrap();
        assert_ne!(third.life, second.life);
        fs::rename(&copy, &path).unwrap();
        let refused = RedbJournal::open(&path).unwrap().lead().unwrap_err();
        let named = matches!(refused, JournalError::OldCopy { found, led, .. } if (found, led) == (second.term, third.term));
        assert!(named, "{refused}");
        // Lost and begun anew.
        fs::remove_file(&path).unwrap();
        let mut anew = RedbJournal::open(&path).unwrap();
        check_fleet(&mut anew, &path).unwrap();
        assert_eq!(anew.fleet().unwrap(), fleet);
        assert!(matches!(anew.lead(), Err(JournalError::OldCopy { found: 0, .. })));
        // Another fleet's, put in its place.
        drop(anew);
        fs::remove_file(&path).unwrap();
        let mut other = RedbJournal::open(&path).unwrap();
        let theirs = other.fleet().unwrap();
        assert_ne!(theirs, fleet);
        let refused = check_fleet(&mut other, &path).unwrap_err();
        let named = matches!(&refused, JournalError::OtherFleet { found, expected, .. } if *found == theirs && *expected == fleet);
        assert!(named, "{refused}");
    }
}
