//! The wall clock of this host, the one that everything an agent dates goes by.
//!
//! A lab makes hosts of one machine, whose clock they share. So that one of them can be wrong, the
//! file named by `TRANSHUME_LAB_CLOCK` holds the milliseconds that are added, signed; it is read
//! anew now and then.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use transhume_model::WallMicros;

/// Names the file.
const LAB_CLOCK: &str = "TRANSHUME_LAB_CLOCK";

/// How long what was read holds.
const READ_AGAIN: Duration = Duration::from_millis(50);

/// Now, as this host's clock has it.
pub fn wall() -> WallMicros {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    WallMicros(as_dated_here(
        since_1970.map_or(0, |time| time.as_micros() as u64),
    ))
}

/// The kernel's stamp on a frame, microseconds since 1970, as this host dates it.
pub(crate) fn as_dated_here(micros: u64) -> u64 {
    micros.saturating_add_signed(offset_micros())
}

fn offset_micros() -> i64 {
    static LAB: OnceLock<Option<Lab>> = OnceLock::new();
    let lab = LAB.get_or_init(|| std::env::var_os(LAB_CLOCK).map(|path| Lab::new(path.into())));
    lab.as_ref().map_or(0, Lab::offset_micros)
}

/// The clock of one host of a lab.
#[derive(Debug)]
struct Lab {
    path: PathBuf,
    read: Mutex<Option<(Instant, i64)>>,
}

impl Lab {
    fn new(path: PathBuf) -> Self {
        let read = Mutex::new(None);
        Self { path, read }
    }

    fn offset_micros(&self) -> i64 {
        // What a holder that panicked left is an offset all the same.
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match *read {
            Some((at, offset)) if at.elapsed() < READ_AGAIN => offset,
            _ => {
                let offset = read_offset(&self.path);
                *read = Some((Instant::now(), offset));
                offset
            }
        }
    }
}

/// Nothing is added where there is no file, or something else in it.
fn read_offset(path: &Path) -> i64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let ms: i64 = text.trim().parse().unwrap_or(0);
    ms.saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_steps_a_clock_by_a_file_and_nothing_else_does() {
        let path = std::env::temp_dir().join(format!("transhume-clock-{}", std::process::id()));
        assert_eq!(Lab::new(path.clone()).offset_micros(), 0, "no file");
        for (text, offset) in [("-1500", -1_500_000), ("3600000\n", 3_600_000_000), ("soon", 0)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Lab::new(path.clone()).offset_micros(), offset, "{text}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
