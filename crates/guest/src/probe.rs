//! What this guest notices while others move: answers of a peer, and reads of its own disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::fs::OFlags;
use transhume_guest::latency::{Asker, PORT, SAMPLES_MAX, Turns};
use transhume_guest::wire::ProbeStats;

use crate::disk::{Aligned, BLOCK_BYTES};

/// Steps through the disk that no read-ahead of a server foresees; odd, so that it comes to every
/// block of a disk whose number of blocks is a power of two.
const STRIDE_BLOCKS: u64 = 1667;

/// Under way until it is ended.
pub struct Probe {
    asker: Asker,
    reader: Option<Reader>,
}

struct Reader {
    enough: Arc<AtomicBool>,
    thread: JoinHandle<Reads>,
}

#[derive(Default)]
struct Reads {
    micros: Vec<u32>,
    failed: u64,
}

impl Probe {
    /// Asks `peer` and reads `disk`, each so many times a second; a VM without that disk only asks.
    pub fn start(peer: Ipv4Addr, asks_per_s: u32, disk: &Path, reads_per_s: u32) -> io::Result<Self> {
        let reader = match Reader::start(disk, reads_per_s) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            started => Some(started?),
        };
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let asker = Asker::start(socket, SocketAddrV4::new(peer, PORT), asks_per_s)?;
        Ok(Probe { asker, reader })
    }

    /// Ends both; what they saw.
    pub fn end(self) -> ProbeStats {
        if let Some(reader) = &self.reader {
            reader.enough.store(true, Ordering::Relaxed);
        }
        let answers = self.asker.end();
        let reads = self.reader.and_then(|reader| reader.thread.join().ok());
        let reads = reads.unwrap_or_default();
        ProbeStats {
            answers_us: answers.micros,
            answers_missing: answers.missing,
            reads_us: reads.micros,
            reads_failed: reads.failed,
        }
    }
}

impl Reader {
    fn start(path: &Path, per_s: u32) -> io::Result<Self> {
        let mut disk = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(path)?;
        let blocks = disk.seek(SeekFrom::End(0))? / BLOCK_BYTES as u64;
        let enough = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&enough);
        let thread = thread::spawn(move || read(&disk, blocks.max(1), per_s, &told));
        Ok(Reader { enough, thread })
    }
}

fn read(disk: &File, blocks: u64, per_s: u32, enough: &AtomicBool) -> Reads {
    let (mut reads, mut block, mut buffer) = (Reads::default(), 0, Aligned::new(1));
    let mut turns = Turns::new(per_s);
    while !enough.load(Ordering::Relaxed) && reads.micros.len() < SAMPLES_MAX {
        turns.wait();
        let begun = Instant::now();
        match disk.read_exact_at(buffer.bytes(1), block * BLOCK_BYTES as u64) {
            Ok(()) => {
                let micros = begun.elapsed().as_micros();
                reads.micros.push(u32::try_from(micros).unwrap_or(u32::MAX));
            }
            Err(_) => reads.failed += 1,
        }
        block = (block + STRIDE_BLOCKS) % blocks;
    }
    reads
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn reads_are_timed_and_failures_counted() {
        let path = std::env::temp_dir().join(format!("transhume-probe-{}", std::process::id()));
        std::fs::write(&path, vec![0; 4 * BLOCK_BYTES]).unwrap();
        let file = File::open(&path).unwrap();
        let enough = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&enough);
        // Twice as many blocks as there are: each second read is behind the end.
        let thread = thread::spawn(move || read(&file, 8, 1000, &told));
        thread::sleep(Duration::from_millis(500));
        enough.store(true, Ordering::Relaxed);
        let reads = thread.join().unwrap();
        assert!(!reads.micros.is_empty() && reads.failed > 0);
        std::fs::remove_file(&path).unwrap();
    }
}
