//! Small file systems in memory: a state directory of its own size, which can be filled without
//! filling the machine's disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use transhume_model::Bytes;

use crate::LabError;

const TABLE: &str = "/proc/self/mountinfo";

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LabError {
    let path = path.to_owned();
    move |source| LabError::File { action, path, source }
}

/// Mounts a file system in memory of this size at a directory.
pub fn memory(dir: &Path, size: Bytes) -> Result<(), LabError> {
    let options = format!("size={},mode=0755", size.0);
    mount(
        Some("tmpfs"),
        dir,
        Some("tmpfs"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .map_err(|error| failed("mount memory at", dir)(error.into()))
}

/// Unmounts everything below a directory, the innermost first.
pub fn unmount_below(dir: &Path) -> Result<(), LabError> {
    let table = fs::read_to_string(TABLE).map_err(failed("read", Path::new(TABLE)))?;
    for place in below(&table, dir).into_iter().rev() {
        umount2(&place, MntFlags::MNT_DETACH).map_err(|error| failed("unmount", &place)(error.into()))?;
    }
    Ok(())
}

/// Mount points below `dir` in the kernel's table, in the order of mounting (proc(5)): the fifth
/// field of each line.
fn below(table: &str, dir: &Path) -> Vec<PathBuf> {
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    places
        .map(PathBuf::from)
        .filter(|place| place != dir && place.starts_with(dir))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_below_is_found() {
        let table = "36 1 8:1 / / rw - ext4 a rw\n40 36 0:9 / /run/th/h1 rw - tmpfs b rw\n\
                     41 36 0:9 / /run/th/h10 rw - tmpfs b rw\n42 36 0:9 / /run/other rw - tmpfs b rw\n";
        let found = below(table, Path::new("/run/th"));
        assert_eq!(found, [PathBuf::from("/run/th/h1"), PathBuf::from("/run/th/h10")]);
    }
}
