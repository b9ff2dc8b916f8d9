//! What a QEMU is handed open: it runs as somebody who may open none of it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{FileType, MemfdFlags, OFlags, SealFlags};
use transhume_model::{Disk, VmSpec};

use crate::limits::BOOT_FILE_BYTES_MAX;
use crate::paths::VmPaths;

/// Whoever opens the file anew may read it.
const READ_BY_OTHERS: u32 = 0o004;

/// A VM's files, opened by whoever may: what its guest boots from, and its disks, by their place in
/// the description; none where a disk is no file.
#[derive(Debug)]
pub struct VmFiles {
    pub(crate) kernel: OwnedFd,
    pub(crate) initrd: OwnedFd,
    pub(crate) disks: Vec<Option<OwnedFd>>,
}

impl VmFiles {
    /// Opens them; `open` is told which, and whether it is to be written.
    ///
    /// QEMU reads kernel and initial file system through `/proc/self/fd`, for which they must be
    /// readable by everybody; of one that is not it gets a sealed copy in memory.
    pub fn open<E: From<io::Error>>(
        spec: &VmSpec,
        mut open: impl FnMut(&Path, bool) -> Result<OwnedFd, E>,
    ) -> Result<Self, E> {
        let kernel = readable_anew(open(&spec.boot.kernel, false)?)?;
        let initrd = readable_anew(open(&spec.boot.initrd, false)?)?;
        let mut disks = Vec::new();
        for disk in &spec.disks {
            disks.push(match disk {
                Disk::File { path } => Some(past_the_cache(open(path, true)?)?),
                Disk::Nbd { .. } => None,
            });
        }
        Ok(Self {
            kernel,
            initrd,
            disks,
        })
    }

    /// The end of the largest disk file, bytes: nobody writes behind it.
    pub(crate) fn disk_bytes_max(&self) -> u64 {
        let sizes = self.disks.iter().flatten().filter_map(|disk| {
            let found = rustix::fs::fstat(disk).ok()?;
            u64::try_from(found.st_size).ok()
        });
        sizes.max().unwrap_or(0)
    }
}

/// Whether it is a device; QEMU has another driver for those.
pub(crate) fn is_block_device(file: &impl AsFd) -> bool {
    rustix::fs::fstat(file).is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::BlockDevice)
}

/// QEMU takes a descriptor only as it would open the file, and does not change it (since 9.1).
fn past_the_cache(disk: OwnedFd) -> io::Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(&disk)?;
    rustix::fs::fcntl_setfl(&disk, flags.difference(OFlags::NONBLOCK) | OFlags::DIRECT).map_err(|error| {
        let text = format!("its file system has no direct access, which disks of VMs need: {error}");
        io::Error::new(io::Error::from(error).kind(), text)
    })?;
    Ok(disk)
}

fn readable_anew(file: OwnedFd) -> io::Result<OwnedFd> {
    let found = rustix::fs::fstat(&file)?;
    let regular = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
    match regular && found.st_mode & READ_BY_OTHERS != 0 {
        true => Ok(file),
        false => sealed_copy(File::from(file)),
    }
}

/// Nobody can write to it any more.
fn sealed_copy(mut from: File) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = rustix::fs::memfd_create("transhume-boot", flags)?;
    let mut to = File::from(copy);
    let copied = io::copy(&mut (&mut from).take(BOOT_FILE_BYTES_MAX + 1), &mut to)?;
    if copied > BOOT_FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!(
                "it is longer than {BOOT_FILE_BYTES_MAX} bytes, and users other than its owner may not read it"
            ),
        ));
    }
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&to, seals)?;
    Ok(to.into())
}

/// Sockets on which a QEMU is reached and logs that it writes: this agent's, in a directory of its
/// own, so that nothing of them can be put in another's place.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) qmp: OwnedFd,
    pub(crate) user_qmp: OwnedFd,
    pub(crate) serial: OwnedFd,
    pub(crate) console: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl Ends {
    pub(crate) fn make(paths: &VmPaths) -> io::Result<Self> {
        let stderr = append(&paths.stderr())?;
        stderr.set_len(0)?;
        Ok(Self {
            qmp: listen(&paths.qmp())?,
            user_qmp: listen(&paths.user_qmp())?,
            serial: listen(&paths.serial())?,
            console: append(&paths.console())?.into(),
            stderr: stderr.into(),
        })
    }
}

fn listen(path: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    Ok(UnixListener::bind(path)?.into())
}

/// Whoever shortens it meanwhile finds what is written next at its new end.
fn append(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW.bits() as i32;
    let mut options = File::options();
    options.create(true).append(true).mode(0o600);
    options.custom_flags(flags).open(path)
}

/// Numbers under which a QEMU finds what it was handed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handed {
    pub(crate) taps: Vec<RawFd>,
    pub(crate) kernel: RawFd,
    pub(crate) initrd: RawFd,
    /// With whether it is a device.
    pub(crate) disks: Vec<Option<(RawFd, bool)>>,
    pub(crate) console: RawFd,
    pub(crate) qmp: RawFd,
    pub(crate) user_qmp: RawFd,
    pub(crate) serial: RawFd,
}

impl Handed {
    pub(crate) fn of(taps: &[BorrowedFd<'_>], files: &VmFiles, ends: &Ends) -> Self {
        let disk = |disk: &OwnedFd| (disk.as_raw_fd(), is_block_device(disk));
        Self {
            taps: taps.iter().map(AsRawFd::as_raw_fd).collect(),
            kernel: files.kernel.as_raw_fd(),
            initrd: files.initrd.as_raw_fd(),
            disks: files.disks.iter().map(|file| file.as_ref().map(disk)).collect(),
            console: ends.console.as_raw_fd(),
            qmp: ends.qmp.as_raw_fd(),
            user_qmp: ends.user_qmp.as_raw_fd(),
            serial: ends.serial.as_raw_fd(),
        }
    }

    /// All of them.
    pub(crate) fn numbers(&self) -> Vec<RawFd> {
        let single = [
            self.kernel,
            self.initrd,
            self.console,
            self.qmp,
            self.user_qmp,
            self.serial,
        ];
        let disks = self.disks.iter().flatten().map(|(number, _)| *number);
        self.taps.iter().copied().chain(single).chain(disks).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_others_may_not_read_is_copied_and_the_copy_cannot_be_changed() {
        let path = std::env::temp_dir().join(format!("transhume-boot-{}", std::process::id()));
        fs::write(&path, "kernel").unwrap();
        let opened = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let file = File::open(&path).unwrap();
            let number = file.as_raw_fd();
            let handed = readable_anew(file.into()).unwrap();
            (handed.as_raw_fd() == number, handed)
        };
        assert!(opened(0o644).0, "as it is");
        let (same, copy) = opened(0o600);
        assert!(!same, "a copy");
        let again = format!("/proc/self/fd/{}", copy.as_raw_fd());
        assert_eq!(fs::read_to_string(&again).unwrap(), "kernel");
        assert!(File::from(copy).write_all(b"more").is_err());
        fs::remove_file(&path).unwrap();
    }
}
