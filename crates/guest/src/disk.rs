//! The disk writer: numbered blocks, written around a region with O_DIRECT and flushed, at a low
//! rate.
//!
//! The number of each block's last write is kept in memory, which moves with the VM; the block's
//! contents follow from the number. Verification reads every block that was ever written back from
//! the device.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;
use transhume_guest::wire::DiskStats;

/// What is read or written at once.
pub const BLOCK_BYTES: usize = 4096;
const REGION_BLOCKS_MAX: u64 = 2048;
/// Pause between two writes; a guest that sends seldom writes seldom, too: it is to be cheap.
const WRITE_INTERVAL: Duration = Duration::from_millis(100);
const WRITE_INTERVAL_SELDOM: Duration = Duration::from_millis(500);
/// Messages a second below which a guest sends seldom.
const RATE_SELDOM: u32 = 10;
const WRITES_PER_FLUSH: u64 = 10;
/// Read at once when everything is verified: a request costs an emulated disk more than its bytes.
const BLOCKS_PER_READ: usize = 64;

/// The disk and what it must hold.
pub struct Disk {
    device: File,
    /// Number of the last write of each block; 0 where none.
    written: Vec<u64>,
    buffer: Aligned,
    stats: DiskStats,
}

impl Disk {
    /// Starts writing, beside `rate` messages a second; `None` where the VM has no such device.
    pub fn start(path: &Path, rate: u32) -> io::Result<Option<Arc<Mutex<Disk>>>> {
        let mut device = match OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::DIRECT.bits() as i32)
            .open(path)
        {
            Ok(device) => device,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let blocks = device.seek(SeekFrom::End(0))? / BLOCK_BYTES as u64;
        if blocks == 0 {
            return Ok(None);
        }
        let disk = Arc::new(Mutex::new(Disk {
            device,
            written: vec![0; blocks.min(REGION_BLOCKS_MAX) as usize],
            buffer: Aligned::new(1),
            stats: DiskStats::default(),
        }));
        let shared = Arc::clone(&disk);
        let interval = if rate < RATE_SELDOM {
            WRITE_INTERVAL_SELDOM
        } else {
            WRITE_INTERVAL
        };
        thread::spawn(move || {
            loop {
                thread::sleep(interval);
                shared.lock().expect("no holder panics").write_next();
            }
        });
        Ok(Some(disk))
    }

    fn write_next(&mut self) {
        let number = self.stats.writes + 1;
        let block = (number - 1) % self.written.len() as u64;
        fill(self.buffer.bytes(1), block, number);
        let mut result = self
            .device
            .write_all_at(self.buffer.bytes(1), block * BLOCK_BYTES as u64);
        if result.is_ok() && number.is_multiple_of(WRITES_PER_FLUSH) {
            result = self.device.sync_data();
        }
        match result {
            Ok(()) => {
                self.stats.writes = number;
                self.written[block as usize] = number;
            }
            Err(_) => self.stats.errors += 1,
        }
    }

    /// Reads back every block ever written and compares it with its last write. Where a read fails,
    /// each written block of it is an error.
    pub fn verify(&mut self) -> DiskStats {
        let mut pieces = Aligned::new(BLOCKS_PER_READ);
        let mut expected = vec![0; BLOCK_BYTES];
        self.stats.verified = 0;
        for (piece, numbers) in self.written.chunks(BLOCKS_PER_READ).enumerate() {
            if numbers.iter().all(|&number| number == 0) {
                continue;
            }
            let first = (piece * BLOCKS_PER_READ) as u64;
            let bytes = pieces.bytes(numbers.len());
            let read = self.device.read_exact_at(bytes, first * BLOCK_BYTES as u64);
            for ((block, &number), found) in (first..).zip(numbers).zip(bytes.chunks_exact(BLOCK_BYTES)) {
                if number == 0 {
                    continue;
                }
                fill(&mut expected, block, number);
                self.stats.verified += 1;
                if read.is_err() || found != expected {
                    self.stats.errors += 1;
                }
            }
        }
        self.stats
    }

    pub fn stats(&self) -> DiskStats {
        self.stats
    }
}

/// Every block and every write has contents of its own.
fn fill(bytes: &mut [u8], block: u64, number: u64) {
    let mut x = block << 40 ^ number ^ 0x5de1_9f2c_77a1_03b5;
    for word in bytes.chunks_exact_mut(8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        word.copy_from_slice(&x.to_le_bytes());
    }
}

/// Blocks at an address that O_DIRECT takes.
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    /// Room for so many.
    pub fn new(blocks: usize) -> Self {
        let memory = vec![0; (blocks + 1) * BLOCK_BYTES];
        let start = memory.as_ptr().align_offset(BLOCK_BYTES);
        Aligned { memory, start }
    }

    /// The first so many blocks.
    pub fn bytes(&mut self, blocks: usize) -> &mut [u8] {
        &mut self.memory[self.start..][..blocks * BLOCK_BYTES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_on(path: &Path) -> Disk {
        std::fs::write(path, vec![0; 8 * BLOCK_BYTES]).unwrap();
        let device = OpenOptions::new().read(true).write(true).open(path).unwrap();
        Disk {
            device,
            written: vec![0; 8],
            buffer: Aligned::new(1),
            stats: DiskStats::default(),
        }
    }

    #[test]
    fn lost_and_stale_blocks_are_found() {
        let path = std::env::temp_dir().join(format!("transhume-disk-{}", std::process::id()));
        let mut disk = disk_on(&path);
        (0..5).for_each(|_| disk.write_next());
        let early = std::fs::read(&path).unwrap();
        assert_eq!(
            disk.verify(),
            DiskStats {
                writes: 5,
                verified: 5,
                errors: 0
            }
        );
        (0..8).for_each(|_| disk.write_next()); // blocks 0 to 4 a second time
        assert_eq!(
            disk.verify(),
            DiskStats {
                writes: 13,
                verified: 8,
                errors: 0
            }
        );
        std::fs::write(&path, early).unwrap(); // all 13 writes beyond the fifth are undone
        assert_eq!(disk.verify().errors, 8);
        std::fs::remove_file(&path).unwrap();
    }
}
