//! What a write costs beside the embedded journal, on the same disk.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redb::StorageBackend;
use redb::backends::FileBackend;
use transhume_coordinator::journal::{Journal, RedbJournal};
use transhume_model::MigrationId;

use crate::contract::cancel;
use crate::rig::Etcd;

const WRITES: u64 = 500;

/// A file whose syncs are counted.
#[derive(Debug)]
struct Counted(FileBackend, Arc<AtomicU64>);

impl StorageBackend for Counted {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

fn times(journal: &mut dyn Journal) -> Vec<Duration> {
    let write = |number| {
        let asked = Instant::now();
        journal.append(MigrationId(1), &[cancel(number)], None).unwrap();
        asked.elapsed()
    };
    let mut times: Vec<Duration> = (0..WRITES).map(write).collect();
    times.sort();
    times
}

fn row(what: &str, times: &[Duration], syncs: f64) {
    let ms = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!(
        "| {what} | {:.2} | {:.2} | {:.2} | {syncs:.1} |",
        ms(0.5),
        ms(0.9),
        ms(0.99)
    );
}

#[test]
#[ignore = "soak: prints a table, a minute"]
fn a_write_beside_the_embedded_journal() {
    println!("| journal | median ms | p90 | p99 | fsyncs a write, all members |\n|---|---|---|---|---|");
    // On a disk, where TMPDIR says one.
    let directory = tempfile::tempdir().unwrap();
    let file = std::fs::File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(directory.path().join("journal.redb"))
        .unwrap();
    let syncs = Arc::new(AtomicU64::new(0));
    let storage = Counted(FileBackend::new(file).unwrap(), syncs.clone());
    let mut journal = RedbJournal::on(storage, "counted").unwrap();
    let before = syncs.load(Ordering::Relaxed);
    let all = times(&mut journal);
    let made = syncs.load(Ordering::Relaxed) - before;
    row("redb", &all, made as f64 / WRITES as f64);
    for members in [1, 3] {
        let etcd = Etcd::start(members);
        let mut journal = etcd.lead(1).unwrap();
        let before = etcd.syncs();
        let all = times(&mut journal);
        let made = etcd.syncs() - before;
        row(&format!("etcd, {members} members"), &all, made / WRITES as f64);
    }
    let place = std::env::temp_dir();
    println!("on {}", Path::new(&place).display());
}
