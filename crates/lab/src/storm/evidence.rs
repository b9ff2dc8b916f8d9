//! Keeps what explains a violation: everything small that the lab wrote, and what the storm knew.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::LabError;
use crate::state::Lab;

/// A larger file is a disk, an image or a run-away log; its name is enough.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// Directories within directories.
const DEPTH_MAX: usize = 8;

/// Copies the lab's logs, records and journal into `dir`, beside what the storm knew of the round.
pub fn keep(lab: &Lab, dir: &Path, round: &impl Serialize) -> Result<PathBuf, LabError> {
    let text = serde_json::to_vec_pretty(round).expect("a round has only text and numbers");
    let kept = || -> io::Result<()> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join("round.json"), text)?;
        copy(&lab.layout.dir(), &dir.join("lab"), DEPTH_MAX)
    };
    kept().map_err(|source| LabError::File {
        action: "keep the lab's files in",
        path: dir.to_owned(),
        source,
    })?;
    Ok(dir.to_owned())
}

/// Files only: sockets and what vanishes meanwhile are passed over.
fn copy(from: &Path, to: &Path, depth: usize) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let Ok(meta) = entry.metadata() else { continue };
        let place = to.join(entry.file_name());
        if meta.is_dir() && depth > 0 {
            copy(&entry.path(), &place, depth - 1)?;
        } else if meta.is_file() && meta.len() <= FILE_BYTES_MAX {
            match fs::copy(entry.path(), place) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;
    use crate::{LabName, Layout};

    struct Scratch(PathBuf);
    impl Drop for Scratch {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn small_files_are_kept_and_large_ones_left() {
        let base = Scratch(std::env::temp_dir().join(format!("transhume-evidence-{}", std::process::id())));
        let (from, to) = (base.0.join("from"), base.0.join("to"));
        fs::create_dir_all(from.join("h1/vms/vm1")).unwrap();
        fs::write(from.join("h1/vms/vm1/state.json"), "{}").unwrap();
        fs::File::create(from.join("disk.raw"))
            .unwrap()
            .set_len(FILE_BYTES_MAX + 1)
            .unwrap();
        copy(&from, &to, DEPTH_MAX).unwrap();
        assert!(to.join("h1/vms/vm1/state.json").exists());
        assert!(!to.join("disk.raw").exists());
    }

    #[test]
    fn what_cannot_be_kept_is_named() {
        let name: LabName = "no-such-lab".parse().unwrap();
        let lab = Lab {
            layout: Layout::new(&name),
            state: State::default(),
        };
        let error = keep(&lab, Path::new("/proc/no/such"), &1).unwrap_err();
        assert!(error.to_string().contains("/proc/no/such"), "{error}");
    }
}
