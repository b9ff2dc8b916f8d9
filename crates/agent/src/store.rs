//! The records on disk: one file per VM, replaced atomically and durably; one agent per directory.
//!
//! ```text
//! state_dir/agent.lock                    held as long as the agent lives
//! state_dir/leader.json                   whom this host obeys
//! state_dir/vms/VM/state.json             the record
//! state_dir/vms/VM/state.json.new         one that was being written
//! state_dir/vms/VM/state.json.unreadable  one that was set aside
//! ```
//!
//! A write is: new file, its bytes and its length to disk, renamed over the old one, and the
//! directory to disk. A kill at any point leaves the old record or the new one.

mod meter;

use std::fs;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use transhume_agent_core::{Change, Record};
use transhume_model::VmName;
use transhume_protocol::message::Leader;

use self::meter::WriteMeter;
pub(crate) use self::meter::Writes;
use crate::text::chain;

const LOCK: &str = "agent.lock";
const VMS: &str = "vms";
const LEADER: &str = "leader.json";
const LEADER_NEW: &str = "leader.json.new";
const RECORD: &str = "state.json";
const RECORD_NEW: &str = "state.json.new";
const RECORD_UNREADABLE: &str = "state.json.unreadable";

/// Why records cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Two agents would end each other's VMs.
    #[error("another agent{holder} uses the state directory {path}; give each agent a directory of its own")]
    Taken {
        /// The directory.
        path: PathBuf,
        /// Who, if that is known.
        holder: String,
    },
    /// Nothing can be written.
    #[error("cannot {step} {path}: its file system is read-only; remount it, or name another `state_dir`")]
    ReadOnly {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
    },
    /// There is no room.
    #[error("cannot {step} {path}: its file system is full; make room there, or name another `state_dir`")]
    Full {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot {step} {path}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn error(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly { step, path },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { step, path },
        _ => StoreError::Io { step, path, source },
    }
}

/// What the store does to a file system, one durable step at a time.
pub(crate) trait Files {
    /// Makes a directory where there is none.
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Writes a file and syncs it.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Renames over whatever has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; fine where there is none.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all that is in it; fine where there is none.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes what was renamed, made or removed in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// The real one.
#[derive(Debug, Default)]
pub(crate) struct Disk;

fn fine_where_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

impl Files for Disk {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Err(there) if there.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = fs::File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fine_where_missing(fs::remove_file(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fine_where_missing(fs::remove_dir_all(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }
}

/// What lies in a VM's directory.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) vm: VmName,
    pub(crate) found: KeptRecord,
}

#[derive(Debug)]
pub(crate) enum KeptRecord {
    Readable(Box<Record>),
    /// It was set aside, now or by an earlier agent.
    Unreadable {
        why: String,
    },
    /// An agent was killed before it had written one.
    Missing,
}

/// The records of this agent's VMs.
#[derive(Debug)]
pub(crate) struct Store<F = Disk> {
    vms: PathBuf,
    files: F,
    meter: WriteMeter,
    /// Unlocked when it is closed, however the agent ends.
    _lock: fs::File,
}

impl Store<Disk> {
    /// Takes the state directory for this agent.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(state_dir, Disk)
    }
}

impl<F: Files> Store<F> {
    fn open_with(state_dir: &Path, files: F) -> Result<Self, StoreError> {
        fs::create_dir_all(state_dir).map_err(error("create", state_dir))?;
        let lock = lock(state_dir)?;
        let vms = state_dir.join(VMS);
        files.make_dir(&vms).map_err(error("create", &vms))?;
        files.sync_dir(state_dir).map_err(error("sync", state_dir))?;
        Ok(Self {
            vms,
            files,
            meter: WriteMeter::default(),
            _lock: lock,
        })
    }

    /// Where the VMs' directories are.
    pub(crate) fn vms_dir(&self) -> &Path {
        &self.vms
    }

    /// The directory of one VM's record, sockets and logs.
    pub(crate) fn vm_dir(&self, vm: &VmName) -> PathBuf {
        self.vms.join(vm.as_str())
    }

    /// Makes a change durable; when it fails the old record is as it was.
    pub(crate) fn apply(&self, vm: &VmName, change: &Change) -> Result<(), StoreError> {
        self.meter.count(|| match change {
            Change::Write(record) => self.write(vm, record),
            Change::Remove => self.forget(vm),
        })
    }

    fn state_dir(&self) -> &Path {
        self.vms.parent().unwrap_or(&self.vms)
    }

    /// Whom this host has obeyed last; `None` where nobody yet.
    pub(crate) fn leader(&self) -> Result<Option<Leader>, StoreError> {
        let path = self.state_dir().join(LEADER);
        match fs::read(&path) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
            read => {
                let leader = read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from));
                leader.map(Some).map_err(error("read", &path))
            }
        }
    }

    /// From here on this host obeys nobody older: durable when it returns.
    pub(crate) fn keep_leader(&self, leader: &Leader) -> Result<(), StoreError> {
        let dir = self.state_dir();
        let (path, new) = (dir.join(LEADER), dir.join(LEADER_NEW));
        let bytes = serde_json::to_vec(leader).map_err(io::Error::from);
        let written = bytes.and_then(|bytes| self.files.write(&new, &bytes));
        written.map_err(error("write", &new))?;
        self.files.rename(&new, &path).map_err(error("replace", &path))?;
        self.files.sync_dir(dir).map_err(error("sync", dir))
    }

    /// Changes that were made, or were not.
    pub(crate) fn writes(&self) -> Writes {
        self.meter.read()
    }

    fn write(&self, vm: &VmName, record: &Record) -> Result<(), StoreError> {
        let dir = self.vm_dir(vm);
        let (path, new) = (dir.join(RECORD), dir.join(RECORD_NEW));
        if !dir.is_dir() {
            self.files.make_dir(&dir).map_err(error("create", &dir))?;
            self.files.sync_dir(&self.vms).map_err(error("sync", &self.vms))?;
        }
        let written = self.files.write(&new, &record.to_bytes());
        written.map_err(error("write", &new))?;
        self.files.rename(&new, &path).map_err(error("replace", &path))?;
        self.files.sync_dir(&dir).map_err(error("sync", &dir))
    }

    /// Removes the VM's directory: the record first, so that no half of it is ever taken for the
    /// whole.
    pub(crate) fn forget(&self, vm: &VmName) -> Result<(), StoreError> {
        let dir = self.vm_dir(vm);
        if !dir.is_dir() {
            return Ok(());
        }
        let path = dir.join(RECORD);
        self.files.remove(&path).map_err(error("remove", &path))?;
        self.files.sync_dir(&dir).map_err(error("sync", &dir))?;
        self.files.remove_dir(&dir).map_err(error("remove", &dir))?;
        self.files.sync_dir(&self.vms).map_err(error("sync", &self.vms))
    }

    /// What an earlier agent left, by VM. A record that cannot be read is set aside: the others go
    /// on.
    pub(crate) fn read_all(&self) -> Result<Vec<Kept>, StoreError> {
        let read = error("read", &self.vms);
        let entries = fs::read_dir(&self.vms).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut kept = Vec::new();
        for entry in entries.map_err(read)? {
            let vm = entry.file_name().to_str().and_then(plain_name);
            match vm {
                Some(vm) => {
                    let found = self.read(&vm)?;
                    kept.push(Kept { vm, found });
                }
                None => tracing::warn!(path = %entry.path().display(), "not a VM's directory; left alone"),
            }
        }
        kept.sort_by(|a, b| a.vm.cmp(&b.vm));
        Ok(kept)
    }

    fn read(&self, vm: &VmName) -> Result<KeptRecord, StoreError> {
        let dir = self.vm_dir(vm);
        let (path, aside) = (dir.join(RECORD), dir.join(RECORD_UNREADABLE));
        let why = match fs::read(&path) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                return Ok(match aside.exists() {
                    true => KeptRecord::Unreadable {
                        why: "an earlier agent could not read it".to_owned(),
                    },
                    false => KeptRecord::Missing,
                });
            }
            Err(unreadable) => unreadable.to_string(),
            Ok(bytes) => match Record::read(&bytes) {
                Ok(record) if record.spec.name == *vm => return Ok(KeptRecord::Readable(Box::new(record))),
                Ok(record) => format!("it is about VM {}", record.spec.name),
                Err(error) => chain(&error),
            },
        };
        let moved = self.files.rename(&path, &aside);
        moved.map_err(error("set aside", &path))?;
        self.files.sync_dir(&dir).map_err(error("sync", &dir))?;
        Ok(KeptRecord::Unreadable { why })
    }
}

/// What lies in a state directory, looked at from outside: nothing is locked or set aside.
pub(crate) fn look(state_dir: &Path) -> Result<Vec<Kept>, StoreError> {
    let vms = state_dir.join(VMS);
    let entries = match fs::read_dir(&vms) {
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect::<io::Result<Vec<_>>>),
    };
    let names = entries.map_err(error("read", &vms))?.into_iter();
    let mut names: Vec<VmName> = names
        .filter_map(|entry| entry.file_name().to_str().and_then(plain_name))
        .collect();
    names.sort();
    let kept = names.into_iter().map(|vm| {
        let found = match fs::read(vms.join(vm.as_str()).join(RECORD)) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => KeptRecord::Missing,
            Err(unreadable) => KeptRecord::Unreadable {
                why: unreadable.to_string(),
            },
            Ok(bytes) => match Record::read(&bytes) {
                Ok(record) => KeptRecord::Readable(Box::new(record)),
                Err(error) => KeptRecord::Unreadable { why: chain(&error) },
            },
        };
        Kept { vm, found }
    });
    Ok(kept.collect())
}

/// The directory of one VM in a state directory.
pub(crate) fn vm_dir(state_dir: &Path, vm: &VmName) -> PathBuf {
    state_dir.join(VMS).join(vm.as_str())
}

/// One agent per directory: a kernel lock, gone with its holder however that ends. Writing our
/// number into the file also tells whether the file system takes writes at all.
fn lock(state_dir: &Path) -> Result<fs::File, StoreError> {
    let path = state_dir.join(LOCK);
    let opened = fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let mut file = opened.map_err(error("open", &path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut number = String::new();
            // Only for the text; one that has not written its number yet stays unnamed.
            let _ = file.read_to_string(&mut number);
            let holder = match number.trim() {
                "" => String::new(),
                number => format!(" (process {number})"),
            };
            return Err(StoreError::Taken {
                path: state_dir.to_owned(),
                holder,
            });
        }
        locked => locked.map_err(io::Error::from).map_err(error("lock", &path))?,
    }
    let number = format!("{}\n", std::process::id());
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(number.as_bytes()))
        .and_then(|()| file.sync_all());
    written.map_err(error("write", &path))?;
    Ok(file)
}

/// Whether an agent uses the directory: its process in words, empty where it has no number yet.
pub fn holder(state_dir: &Path) -> Result<Option<String>, StoreError> {
    if !state_dir.join(LOCK).exists() {
        return Ok(None);
    }
    match lock(state_dir) {
        Err(StoreError::Taken { holder, .. }) => Ok(Some(holder)),
        locked => locked.map(|_| None),
    }
}

/// VMs that we start have plain names; a file system's own `lost+found` is none.
fn plain_name(name: &str) -> Option<VmName> {
    name.parse().ok().filter(VmName::is_plain)
}

#[cfg(test)]
mod tests;
