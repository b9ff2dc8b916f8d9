//! The agent's own directories: made where they are missing, and nobody else's. What lies in them
//! is guests' memory on its way, sockets that lead QEMU, and records that an agent believes.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Only its owner looks into what is made here.
const MODE: u32 = 0o700;
/// Others may write: their group, everybody.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// Where only a file's owner may take it away, as in `/dev/shm`.
const STICKY: u32 = 0o1000;
const ROOT: u32 = 0;

/// By its one name: the paths below it are the marks of this agent's QEMUs. An error where it, or a
/// directory above it, is another user's, who could put something else in its place.
pub(crate) fn directory(path: &Path) -> io::Result<PathBuf> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(MODE).create(path)?;
    let path = std::fs::canonicalize(path)?;
    let own = rustix::process::geteuid().as_raw();
    for (above, at) in path.ancestors().enumerate() {
        let found = std::fs::symlink_metadata(at)?;
        if found.uid() != own && found.uid() != ROOT {
            return Err(refused(at, &format!("belongs to user {}", found.uid())));
        }
        let sticky = above > 0 && found.mode() & STICKY != 0;
        if found.mode() & WRITABLE_BY_OTHERS != 0 && !sticky {
            return Err(refused(at, "can be written to by other users"));
        }
    }
    Ok(path)
}

fn refused(at: &Path, why: &str) -> io::Error {
    let text = format!(
        "{} {why}: give it to this agent's user alone, or name another directory",
        at.display()
    );
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_others_may_write_to_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        assert!(directory(&path).unwrap().ends_with("a/b"));
        let mode = std::fs::metadata(&path).unwrap().mode() & 0o777;
        assert_eq!(mode, MODE);
        let set = |at: &Path, mode| std::fs::set_permissions(at, Permissions::from_mode(mode)).unwrap();
        set(&path, 0o770);
        let error = directory(&path).unwrap_err().to_string();
        assert!(error.contains("by other users"), "{error}");
        // A sticky one may only stand above it.
        set(&path, 0o1777);
        assert!(directory(&path).is_err());
        set(&path, 0o755);
        set(&dir.path().join("a"), 0o777);
        assert!(directory(&path).is_err());
        set(&dir.path().join("a"), 0o1777);
        directory(&path).unwrap();
    }
}
