//! What a QEMU writes without end is kept short: its guest's console, and its own errors, which a
//! guest can cause.
//!
//! QEMU has the files open and goes on writing to them, so none can be renamed: what was written
//! last is copied aside and the file is shortened to nothing. QEMU appends, so that it goes on at
//! the new end. What it writes between the copy and the shortening is lost; a guest that hurries so
//! has written more than anybody keeps. While no agent runs, the kernel ends each file at
//! [`transhume_qemu::LOG_BYTES_MAX`], and neither QEMU nor its guest waits for anybody.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;
use tracing::warn;
use transhume_qemu::VmPaths;

use crate::limits::{LOG_KEPT_BYTES_MAX, LOG_LOOK};

/// Behind a log's name: what was written before.
const BEFORE: &str = "1";
/// While that is being copied.
const COPYING: &str = "1.new";

/// Keeps the logs of one QEMU short until it is dropped.
#[derive(Debug)]
pub(crate) struct ShortLogs(JoinHandle<()>);

impl ShortLogs {
    /// From now on.
    pub(crate) fn of(paths: &VmPaths) -> Self {
        Self(tokio::spawn(keep_short([paths.console(), paths.stderr()])))
    }
}

impl Drop for ShortLogs {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn keep_short(logs: [PathBuf; 2]) {
    loop {
        for log in &logs {
            let path = log.clone();
            let shortened = spawn_blocking(move || shorten(&path, LOG_KEPT_BYTES_MAX)).await;
            if let Ok(Err(error)) = shortened {
                warn!(log = %log.display(), "is not kept short: {error}");
            }
        }
        sleep(LOG_LOOK).await;
    }
}

/// Lays aside what was written last, where a log is longer than it may be.
fn shorten(path: &Path, kept: u64) -> io::Result<()> {
    let mut log = match File::options().read(true).write(true).open(path) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let length = log.metadata()?.len();
    if length <= kept {
        return Ok(());
    }
    let beside = |name: &str| {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".");
        beside.push(name);
        PathBuf::from(beside)
    };
    let (before, copying) = (beside(BEFORE), beside(COPYING));
    log.seek(SeekFrom::Start(length - kept))?;
    // What has come meanwhile is taken along, and nobody can write so fast that there is no end.
    io::copy(&mut (&mut log).take(2 * kept), &mut File::create(&copying)?)?;
    log.set_len(0)?;
    fs::rename(copying, before)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_log_that_is_too_long_is_laid_aside_and_its_writer_goes_on_at_its_new_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        shorten(&path, 100).unwrap();
        let mut writer = File::options().create(true).append(true).open(&path).unwrap();
        for line in 0..20 {
            writeln!(writer, "line {line:04}").unwrap();
            shorten(&path, 100).unwrap();
        }
        let (now, before) = (
            fs::read_to_string(&path).unwrap(),
            fs::read_to_string(dir.path().join("console.log.1")).unwrap(),
        );
        // Ten lines of ten bytes fit, the eleventh is one too many.
        assert_eq!((now.len(), before.len()), (90, 100));
        assert!(
            before.starts_with("line 0001\n") && before.ends_with("line 0010\n"),
            "{before}"
        );
        assert!(
            now.starts_with("line 0011\n") && now.ends_with("line 0019\n"),
            "{now}"
        );
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            2,
            "nothing else is left"
        );
    }

    #[test]
    fn what_was_written_long_ago_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qemu.stderr");
        fs::write(&path, [vec![b'a'; 1000], vec![b'b'; 100]].concat()).unwrap();
        shorten(&path, 100).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        assert_eq!(
            fs::read(dir.path().join("qemu.stderr.1")).unwrap(),
            vec![b'b'; 100]
        );
    }
}
