//! Named network namespaces under /run/netns, made as `ip netns` makes them, and work inside them.
//!
//! A namespace belongs to a thread. Work inside one therefore runs on a thread made for it, which
//! ends afterwards; child processes started there stay in the namespace.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::LabError;

const DIRECTORY: &str = "/run/netns";

/// A namespace by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// A handle; the namespace need not exist.
    pub fn named(name: impl Into<String>) -> Self {
        Namespace { name: name.into() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Makes it.
    pub fn create(&self) -> Result<(), LabError> {
        let failed = |action| move |source| self.error(action, source);
        fs::create_dir_all(DIRECTORY).map_err(failed("create /run/netns for"))?;
        let path = self.path();
        File::create_new(&path).map_err(failed("create the file of"))?;
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(
                Some("/proc/thread-self/ns/net"),
                &path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )?;
            Ok(())
        })
        .map_err(failed("create"))
    }

    /// Removes its name; the kernel removes the rest once no process is left in it.
    pub fn delete(&self) -> Result<(), LabError> {
        let path = self.path();
        match umount2(&path, MntFlags::MNT_DETACH) {
            // EINVAL: its maker died between creating the file and mounting on it.
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => return Err(self.error("unmount", error.into())),
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.error("remove the file of", error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Runs `work` inside, on a thread of its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T, LabError> + Send) -> Result<T, LabError> {
        let file = File::open(self.path()).map_err(|source| self.error("open", source))?;
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&file, CloneFlags::CLONE_NEWNET).map_err(|e| self.error("enter", e.into()))?;
                    work()
                })
                .join()
                .unwrap_or_else(|_| Err(self.error("finish the work in", io::Error::other("it panicked"))))
        })
    }

    /// Like `run`, with this namespace's devices below /sys.
    pub fn run_with_sysfs<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, LabError> + Send,
    ) -> Result<T, LabError> {
        self.run(|| {
            let private = || -> nix::Result<()> {
                unshare(CloneFlags::CLONE_NEWNS)?;
                mount(
                    None::<&str>,
                    "/",
                    None::<&str>,
                    MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                    None::<&str>,
                )?;
                mount(
                    Some("sysfs"),
                    "/sys",
                    Some("sysfs"),
                    MsFlags::empty(),
                    None::<&str>,
                )
            };
            private().map_err(|e| self.error("mount /sys of", e.into()))?;
            work()
        })
    }

    /// Identifies it among all namespaces of the machine: what /proc/PID/ns/net is compared with.
    pub fn inode(&self) -> Option<u64> {
        fs::metadata(self.path()).ok().map(|meta| meta.ino())
    }

    fn error(&self, action: &'static str, source: io::Error) -> LabError {
        LabError::Namespace {
            name: self.name.clone(),
            action,
            source,
        }
    }
}

/// All namespaces whose names start with `prefix`.
pub fn list(prefix: &str) -> Vec<Namespace> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<_> = names
        .filter(|name| name.starts_with(prefix))
        .map(Namespace::named)
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn on_thread(work: impl FnOnce() -> nix::Result<()> + Send) -> io::Result<()> {
    thread::scope(|scope| {
        let joined = scope.spawn(work).join();
        joined
            .map_err(|_| io::Error::other("its thread panicked"))?
            .map_err(io::Error::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Guard(Namespace);
    impl Drop for Guard {
        fn drop(&mut self) {
            let _gone = self.0.delete();
        }
    }

    #[test]
    fn work_runs_inside_and_nothing_stays_behind() {
        let namespace = Namespace::named(format!("th-test{}-ns", std::process::id()));
        let guard = Guard(namespace.clone());
        namespace.create().unwrap();
        assert!(namespace.create().is_err(), "a second one of the same name");
        let devices = namespace
            .run_with_sysfs(|| {
                let entries = fs::read_dir("/sys/class/net").unwrap();
                Ok(entries
                    .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                    .collect::<Vec<_>>())
            })
            .unwrap();
        assert_eq!(devices, ["lo"]);
        assert_eq!(list(namespace.name()), std::slice::from_ref(&namespace));
        drop(guard);
        assert!(namespace.inode().is_none() && list(namespace.name()).is_empty());
        namespace.delete().unwrap();
    }
}
