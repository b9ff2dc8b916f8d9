//! The contract of the journal port on every answer to it, and what crashes and damage do to the
//! embedded one (G6).

mod contract;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use redb::StorageBackend;
use transhume_api::{ClusterStage, DrainStage};
use transhume_coordinator::journal::{
    ClusterRecord, DrainRecord, HostRecord, Journal, JournalError, MemoryJournal, RedbJournal,
};
use transhume_model::{DrainId, Epoch, MigrationId};
use transhume_protocol::migration::JournalEntry;

use crate::contract::{cancel, cluster, contract, drain};

#[test]
fn memory_keeps_the_contract() {
    contract(&mut MemoryJournal::default());
}

#[test]
fn redb_keeps_the_contract_and_remembers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal.redb");
    contract(&mut RedbJournal::open(&path).unwrap());
    let mut journal = RedbJournal::open(&path).unwrap();
    assert_eq!(
        journal.migrations().unwrap(),
        BTreeMap::from([(MigrationId(2), vec![cancel(9)])])
    );
    assert_eq!(
        journal.clusters().unwrap(),
        [cluster("moved", ClusterStage::Live)]
    );
    assert_eq!(journal.new_migration().unwrap(), MigrationId(4));
    assert_eq!(journal.new_epochs(1).unwrap(), Epoch(5));
}

#[test]
fn a_journal_has_one_owner() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal.redb");
    let _owner = RedbJournal::open(&path).unwrap();
    let error = RedbJournal::open(&path).unwrap_err();
    assert!(matches!(error, JournalError::InUse { .. }), "{error}");
    assert!(
        error.to_string().ends_with("is another coordinator running?"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_no_journal_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal.redb");
    std::fs::write(&path, vec![7; 8192]).unwrap();
    assert!(matches!(
        RedbJournal::open(&path),
        Err(JournalError::Database { .. })
    ));
}

#[test]
fn damage_on_the_disk_is_an_error_that_names_the_record() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal.redb");
    let mut journal = RedbJournal::open(&path).unwrap();
    journal
        .append(MigrationId(3), &[cancel(1), cancel(424_242)], None)
        .unwrap();
    drop(journal);
    let mut bytes = std::fs::read(&path).unwrap();
    let marks: Vec<usize> = (0..bytes.len() - 6)
        .filter(|at| bytes[*at..].starts_with(b"424242"))
        .collect();
    assert!(!marks.is_empty(), "the entry lies in the file as it was written");
    for mark in marks {
        bytes[mark] = b'5';
    }
    std::fs::write(&path, bytes).unwrap();
    let read = RedbJournal::open(&path).and_then(|journal| journal.migrations());
    let error = read.unwrap_err();
    assert!(matches!(error, JournalError::Damaged { .. }), "{error}");
    let text = error.to_string().replace(&path.display().to_string(), "FILE");
    assert_eq!(
        text,
        "the journal FILE holds a damaged record: entry 1 of migration 3; move it away and put a backup in its place with \
         `transhume journal restore`"
    );
}

/// One thing a coordinator asks of its journal.
type Step = fn(&mut dyn Journal) -> Result<(), JournalError>;

/// A coordinator's day: numbers, entries, a commit with its cluster, an end.
const SCRIPT: [Step; 10] = [
    |journal| journal.new_epochs(1).map(drop),
    |journal| journal.put_cluster(&cluster("lab", ClusterStage::Starting)),
    |journal| journal.put_cluster(&cluster("lab", ClusterStage::Live)),
    |journal| journal.new_migration().map(drop),
    |journal| journal.append(MigrationId(1), &[cancel(1), cancel(2)], None),
    |journal| {
        journal.append(
            MigrationId(1),
            &[cancel(3)],
            Some(&cluster("lab", ClusterStage::Ending)),
        )
    },
    |journal| journal.append(MigrationId(2), &(0..200).map(cancel).collect::<Vec<_>>(), None),
    |journal| {
        let cordoned = HostRecord::new("h1".parse().unwrap());
        journal.put_drain(&drain(DrainId(1), DrainStage::Running), &[cordoned])
    },
    |journal| journal.remove_migration(MigrationId(1)),
    |journal| journal.remove_cluster(&"lab".parse().unwrap()),
];

type Contents = (
    BTreeMap<MigrationId, Vec<JournalEntry>>,
    Vec<ClusterRecord>,
    Vec<DrainRecord>,
    Vec<HostRecord>,
    MigrationId,
    Epoch,
);

/// Everything a journal holds, and the numbers it would give next.
fn contents(journal: &mut dyn Journal) -> Contents {
    (
        journal.migrations().unwrap(),
        journal.clusters().unwrap(),
        journal.drains().unwrap(),
        journal.hosts().unwrap(),
        journal.new_migration().unwrap(),
        journal.new_epochs(1).unwrap(),
    )
}

fn after_steps(steps: usize) -> Contents {
    let mut model = MemoryJournal::default();
    SCRIPT[..steps].iter().for_each(|step| step(&mut model).unwrap());
    contents(&mut model)
}

/// What of the writes since the last sync a power cut leaves.
#[derive(Debug, Clone, Copy)]
enum Left {
    Nothing,
    Everything,
    /// Each by itself or not, and some torn; chosen by this seed.
    Some(u64),
}

#[derive(Debug, Clone)]
enum Write {
    Length(u64),
    Bytes(u64, Vec<u8>),
}

impl Write {
    fn apply(&self, disk: &mut Vec<u8>) {
        match self {
            Write::Length(length) => disk.resize(*length as usize, 0),
            Write::Bytes(offset, bytes) => {
                let offset = *offset as usize;
                if disk.len() < offset + bytes.len() {
                    disk.resize(offset + bytes.len(), 0);
                }
                disk[offset..][..bytes.len()].copy_from_slice(bytes);
            }
        }
    }
}

/// A disk whose power goes at the n-th operation.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Platter>>);

#[derive(Debug, Default)]
struct Platter {
    synced: Vec<u8>,
    seen: Vec<u8>,
    unsynced: Vec<Write>,
    operations_left: Option<u64>,
}

impl Disk {
    fn with_power_for(operations: u64) -> Self {
        let disk = Disk::default();
        disk.0.lock().unwrap().operations_left = Some(operations);
        disk
    }

    fn change(&self, change: impl FnOnce(&mut Platter)) -> io::Result<()> {
        let mut platter = self.0.lock().unwrap();
        match &mut platter.operations_left {
            Some(0) => return Err(io::Error::other("the power is gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        change(&mut platter);
        Ok(())
    }

    fn write(&self, write: Write) -> io::Result<()> {
        self.change(|platter| {
            write.apply(&mut platter.seen);
            platter.unsynced.push(write);
        })
    }

    /// The disk as it is found when the power is back.
    fn after_the_cut(&self, left: Left) -> Disk {
        let platter = self.0.lock().unwrap();
        let mut found = platter.synced.clone();
        let mut random = match left {
            Left::Some(seed) => seed | 1,
            Left::Nothing | Left::Everything => 1,
        };
        let mut toss = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % 4
        };
        for write in &platter.unsynced {
            match (left, write) {
                (Left::Nothing, _) => {}
                (Left::Everything, write) => write.apply(&mut found),
                (Left::Some(_), write) => match (toss(), write) {
                    (0, _) => {}
                    (1, Write::Bytes(offset, bytes)) => {
                        Write::Bytes(*offset, bytes[..bytes.len() / 2].to_vec()).apply(&mut found);
                    }
                    _ => write.apply(&mut found),
                },
            }
        }
        let platter = Platter {
            synced: found.clone(),
            seen: found,
            ..Platter::default()
        };
        Disk(Arc::new(Mutex::new(platter)))
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.0.lock().unwrap();
        let end = offset as usize + out.len();
        let bytes = platter.seen.get(offset as usize..end);
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.write(Write::Length(length))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|platter| {
            platter.synced.clone_from(&platter.seen);
            platter.unsynced.clear();
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        Disk::write(self, Write::Bytes(offset, data.to_vec()))
    }
}

/// How many steps were confirmed before the power went, if the journal could be opened at all.
fn run_until_the_cut(disk: &Disk) -> Option<usize> {
    let mut journal = RedbJournal::on(disk.clone(), "disk").ok()?;
    Some(
        SCRIPT
            .iter()
            .take_while(|step| step(&mut journal).is_ok())
            .count(),
    )
}

#[test]
fn a_power_cut_at_any_write_leaves_all_or_nothing_of_the_step_under_way() {
    let cuts = [
        Left::Nothing,
        Left::Everything,
        Left::Some(3),
        Left::Some(1 << 40),
        Left::Some(0x9e37_79b9),
    ];
    let (mut operations, mut whole_runs) = (0, 0);
    while whole_runs == 0 {
        let disk = Disk::with_power_for(operations);
        let confirmed = run_until_the_cut(&disk);
        whole_runs += usize::from(confirmed == Some(SCRIPT.len()));
        for left in cuts {
            let found = disk.after_the_cut(left);
            let case =
                format!("power for {operations} operations, {left:?} left, {confirmed:?} steps confirmed");
            let mut journal = match (RedbJournal::on(found, "disk"), confirmed) {
                (Ok(journal), _) => journal,
                // Power went while the file was made: nothing was confirmed, and the error says
                // that it is not usable.
                (Err(JournalError::Database { .. }), None) => continue,
                (Err(error), _) => panic!("{case}: {error}"),
            };
            let (now, confirmed) = (contents(&mut journal), confirmed.unwrap_or(0));
            let one_more = (confirmed + 1).min(SCRIPT.len());
            assert!(
                now == after_steps(confirmed) || now == after_steps(one_more),
                "{case}: {now:?}"
            );
        }
        operations += 1;
    }
    assert!(
        operations > SCRIPT.len() as u64,
        "each step wrote: {operations} operations"
    );
}

#[test]
fn once_the_disk_failed_nothing_is_confirmed_any_more() {
    let disk = Disk::default();
    let mut journal = RedbJournal::on(disk.clone(), "disk").unwrap();
    disk.0.lock().unwrap().operations_left = Some(0);
    assert!(journal.new_epochs(1).is_err());
    disk.0.lock().unwrap().operations_left = None;
    assert!(
        journal.new_epochs(1).is_err(),
        "what is on the disk is unknown until it is opened anew"
    );
}

/// Set for the process that is killed.
const CHILD: &str = "TRANSHUME_TEST_JOURNAL";
const CONFIRMED_BEFORE_KILL: u64 = 40;

#[test]
fn kill_9_loses_nothing_that_was_confirmed() {
    if let Some(path) = std::env::var_os(CHILD) {
        return append_for_ever(Path::new(&path));
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal.redb");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "kill_9_loses_nothing_that_was_confirmed",
            "--nocapture",
        ])
        .env(CHILD, &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let numbers = lines
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("confirmed ")?.parse().ok());
    let confirmed = numbers
        .take_while(|number: &u64| *number < CONFIRMED_BEFORE_KILL)
        .last();
    child.kill().unwrap();
    child.wait().unwrap();
    let entries = RedbJournal::open(&path)
        .unwrap()
        .migrations()
        .unwrap()
        .remove(&MigrationId(1))
        .unwrap();
    assert!(
        entries.len() as u64 > confirmed.unwrap(),
        "{} of more than {confirmed:?}",
        entries.len()
    );
    assert_eq!(entries, (0..entries.len() as u64).map(cancel).collect::<Vec<_>>());
}

fn append_for_ever(path: &Path) {
    let mut journal = RedbJournal::open(path).unwrap();
    for number in 0.. {
        journal.append(MigrationId(1), &[cancel(number)], None).unwrap();
        println!("confirmed {number}");
    }
}
