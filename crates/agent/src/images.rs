//! Files that VMs boot from and keep their data in: only beneath the directories that this host's
//! configuration names, whatever an order says.
//!
//! The kernel resolves each path beneath its directory (openat2, `RESOLVE_BENEATH`): no `..` and no
//! symbolic link leads out. Nothing is waited for, and what is neither a file nor a block device is
//! refused before anybody reads or writes it. QEMU is handed what was opened here and opens no
//! path.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("{path} is not beneath any directory that this host permits")]
    Outside { path: PathBuf },
    #[error("{path} is {what}: a file or a block device is wanted")]
    Kind { path: PathBuf, what: &'static str },
    #[error("cannot open {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("it cannot be handed to QEMU")]
    Hand(#[from] io::Error),
}

impl ImageError {
    /// What would help.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            ImageError::Outside { .. } => {
                "put it beneath one of `images` of agent.toml, without symbolic links that lead out, or name its directory there"
            }
            ImageError::Kind { .. } => "name a file, or a block device",
            ImageError::Open { .. } => {
                "put the file there and let the agent's user read it (and write, for a disk), or mount the file system that \
                 holds it"
            }
            ImageError::Hand(_) => {
                "put it on a file system with direct access; let everybody read what VMs boot from"
            }
        }
    }
}

/// What is to be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Write,
}

/// Whether a file is there and may be used.
pub(crate) fn check(roots: &[PathBuf], path: &Path, use_as: Use) -> Result<(), ImageError> {
    open(roots, path, use_as).map(drop)
}

/// Opens it, for a QEMU that may not.
pub(crate) fn open(roots: &[PathBuf], path: &Path, use_as: Use) -> Result<OwnedFd, ImageError> {
    let beneath = |root: &PathBuf| {
        let rest = path.strip_prefix(root).ok()?;
        let rest = if rest == Path::new("") {
            Path::new(".")
        } else {
            rest
        };
        Some((root.clone(), rest.to_owned()))
    };
    let mut refused = ImageError::Outside {
        path: path.to_owned(),
    };
    // Of roots in each other the first one that has it.
    for (root, rest) in roots.iter().filter_map(beneath) {
        match open_beneath(&root, &rest, use_as) {
            Ok(file) => return check_kind(path, &file).map(|()| file),
            // Something led out of it.
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {}
            Err(source) => {
                refused = ImageError::Open {
                    path: path.to_owned(),
                    source,
                };
            }
        }
    }
    Err(refused)
}

fn open_beneath(root: &Path, rest: &Path, use_as: Use) -> io::Result<OwnedFd> {
    let directory = rustix::fs::openat(
        CWD,
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let access = match use_as {
        Use::Read => OFlags::RDONLY,
        Use::Write => OFlags::RDWR,
    };
    // A FIFO without a reader, or a device that is not ready, is not waited for.
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(
        directory,
        rest,
        flags,
        Mode::empty(),
        resolve,
    )?)
}

/// Whether there is openat2 here. systemd answers ENOSYS to all of it where a unit restricts which
/// modes files may have (`RestrictSUIDSGID=`): its filter cannot look into the argument.
pub(crate) fn openat2_is_permitted() -> bool {
    let beneath = open_beneath(Path::new("/"), Path::new("."), Use::Read);
    !beneath.is_err_and(|error| error.raw_os_error() == Some(rustix::io::Errno::NOSYS.raw_os_error()))
}

fn check_kind(path: &Path, file: &OwnedFd) -> Result<(), ImageError> {
    let found = rustix::fs::fstat(file).map_err(|error| ImageError::Open {
        path: path.to_owned(),
        source: error.into(),
    })?;
    let what = match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile | FileType::BlockDevice => return Ok(()),
        FileType::Fifo => "a FIFO",
        FileType::Directory => "a directory",
        FileType::CharacterDevice => "a character device",
        FileType::Socket => "a socket",
        _ => "something else",
    };
    Err(ImageError::Kind {
        path: path.to_owned(),
        what,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn refused(roots: &[PathBuf], path: &Path, use_as: Use) -> ImageError {
        check(roots, path, use_as).unwrap_err()
    }

    #[test]
    fn only_what_lies_beneath_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("images"), dir.path().join("outside"));
        std::fs::create_dir_all(root.join("deep")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        for file in [root.join("deep/disk"), outside.join("secret")] {
            std::fs::write(file, "bytes").unwrap();
        }
        symlink("deep/disk", root.join("inside")).unwrap();
        symlink("../outside/secret", root.join("relative")).unwrap();
        symlink(outside.join("secret"), root.join("absolute")).unwrap();
        symlink(&outside, root.join("elsewhere")).unwrap();
        let roots = [root.clone()];
        for use_as in [Use::Read, Use::Write] {
            for path in ["deep/disk", "inside", "deep/../deep/disk"] {
                check(&roots, &root.join(path), use_as).unwrap();
            }
            for path in ["relative", "absolute", "elsewhere/secret", "../outside/secret"] {
                let error = refused(&roots, &root.join(path), use_as);
                assert!(matches!(error, ImageError::Outside { .. }), "{path}: {error}");
            }
            for path in [outside.join("secret"), "relative".into(), "/etc/passwd".into()] {
                let error = refused(&roots, &path, use_as);
                assert!(matches!(error, ImageError::Outside { .. }), "{error}");
            }
        }
        assert!(matches!(
            refused(&[], &root.join("deep/disk"), Use::Read),
            ImageError::Outside { .. }
        ));
        assert!(matches!(
            refused(&roots, &root.join("missing"), Use::Read),
            ImageError::Open { .. }
        ));
    }

    #[test]
    fn what_is_no_disk_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(CWD, &fifo, mode).unwrap();
        let roots = [dir.path().to_owned(), "/dev".into()];
        for (path, use_as, says) in [
            (fifo.as_path(), Use::Read, "a FIFO"),
            (fifo.as_path(), Use::Write, "a FIFO"),
            (dir.path(), Use::Read, "a directory"),
            (Path::new("/dev/null"), Use::Write, "a character device"),
        ] {
            let error = refused(&roots, path, use_as).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
