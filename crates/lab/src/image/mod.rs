//! What the guests boot: the distribution's kernel and one initramfs for all VMs of a lab.

mod cpio;
pub(crate) mod debian;
pub(crate) mod elf;
mod kernel;
mod tree;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use transhume_guest::app::App;
use transhume_model::Mebibytes;

use crate::{LabError, Progress, apps};
use tree::{Node, Tree};

pub use tree::OVERLAY_BYTES_MAX;

/// Kept over the life of a lab.
pub const CACHE: &str = "/var/cache/transhume/guest";
const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];
/// The guest's program, carried inside this one.
const GUEST_PROGRAM: &[u8] = include_bytes!(env!("TRANSHUME_GUEST_PROGRAM"));
const MODULES: &str = "usr/lib/transhume/modules";
/// What a guest needs besides its overlay.
const BASE_MEMORY: Mebibytes = Mebibytes(80);
/// What the kernel takes for itself, and three times our own files.
const UNPACKING_MEMORY: Mebibytes = Mebibytes(64);
/// Directories that programs expect, and today's links between them.
const DIRECTORIES: [&str; 15] = [
    "dev",
    "proc",
    "sys",
    "run",
    "tmp",
    "root",
    "etc",
    "var/log",
    "var/tmp",
    "usr/bin",
    "usr/sbin",
    "usr/lib",
    "usr/lib64",
    "mnt",
    "opt",
];
const LINKS: [(&str, &str); 4] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
];

/// What every VM of a lab boots.
#[derive(Debug, Clone)]
pub struct Image {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
}

/// What the user adds to the guests.
#[derive(Debug, Clone, Default)]
pub struct Additions<'a> {
    /// A cluster: its programs, and the script that starts it.
    pub app: Option<App>,
    /// A directory laid over the guest's root.
    pub overlay: Option<&'a Path>,
    /// A shell script that every guest runs.
    pub run: Option<&'a str>,
}

/// Prepares the kernel below `cache` and writes the initramfs to `initrd`.
pub async fn build(
    cache: &Path,
    initrd: PathBuf,
    additions: &Additions<'_>,
    memory: Mebibytes,
    progress: &Progress,
) -> Result<Image, LabError> {
    let kernel = kernel::obtain(cache, progress).await?;
    let mut tree = base(&kernel)?;
    let mut overlay_bytes = 0;
    if let Some(app) = additions.app {
        overlay_bytes += tree.overlay(&apps::obtain(app, progress).await?)?;
        tree.file("etc/transhume/run", 0o755, apps::script(app).into())?;
    }
    if let Some(overlay) = additions.overlay {
        overlay_bytes += tree.overlay(overlay)?;
    }
    if let Some(script) = additions.run {
        tree.file("etc/transhume/run", 0o755, script.as_bytes().to_vec())?;
    }
    let needed = needed_memory(overlay_bytes);
    if memory < needed {
        return Err(LabError::TooLittleMemory { memory, needed });
    }
    fs::write(&initrd, cpio::archive(&tree)).map_err(file_error("write", &initrd))?;
    Ok(Image {
        kernel: kernel.image,
        initrd,
    })
}

/// A guest with an overlay has room for its programs, and for the archive while the kernel unpacks
/// it: the files have at most half of what the archive leaves
/// (`Documentation/filesystems/tmpfs.rst`). What does not fit is left out, and the guest boots on.
fn needed_memory(overlay_bytes: u64) -> Mebibytes {
    let times = |times: u64| Mebibytes((times * overlay_bytes).div_ceil(1 << 20));
    (BASE_MEMORY + times(2)).max(UNPACKING_MEMORY + times(3))
}

/// Says what could not be done with which file.
pub(crate) fn file_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> LabError {
    move |source| LabError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

/// What lies in a directory, by name.
pub(crate) fn list(directory: &Path) -> Result<Vec<PathBuf>, LabError> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let mut paths = fs::read_dir(directory)?
            .map(|e| e.map(|e| e.path()))
            .collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    };
    read().map_err(file_error("list", directory))
}

fn base(kernel: &kernel::Kernel) -> Result<Tree, LabError> {
    let mut tree = Tree::default();
    for directory in DIRECTORIES {
        tree.put(directory, Node::Directory { mode: 0o755 })?;
    }
    for (path, to) in LINKS {
        tree.link(path, to)?;
    }
    tree.put(
        "dev/console",
        Node::Device {
            mode: 0o600,
            major: 5,
            minor: 1,
        },
    )?;
    tree.file("init", 0o755, GUEST_PROGRAM.to_vec())?;
    add_busybox(&mut tree)?;
    let mut order = String::new();
    for path in &kernel.modules {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        tree.file(&format!("{MODULES}/{name}"), 0o644, kernel::load(path)?)?;
        order.push_str(&name);
        order.push('\n');
    }
    tree.file(&format!("{MODULES}/order"), 0o644, order.into_bytes())?;
    tree.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n".to_vec())?;
    tree.file("etc/group", 0o644, b"root:x:0:\n".to_vec())?;
    tree.file("etc/hosts", 0o644, b"127.0.0.1 localhost\n".to_vec())?;
    Ok(tree)
}

fn add_busybox(tree: &mut Tree) -> Result<(), LabError> {
    let path = BUSYBOX
        .iter()
        .map(Path::new)
        .find(|path| path.exists())
        .ok_or(LabError::NoBusybox)?;
    let bytes = fs::read(path).map_err(file_error("read", path))?;
    // A dynamic one needs libraries, of which a plain guest has none.
    if !elf::is_static(&bytes) {
        return Err(LabError::NoBusybox);
    }
    let list = std::process::Command::new(path)
        .arg("--list")
        .output()
        .map_err(|source| LabError::Start {
            program: path.display().to_string(),
            source,
        })?;
    for applet in String::from_utf8_lossy(&list.stdout)
        .lines()
        .filter(|name| *name != "busybox")
    {
        tree.link(&format!("usr/bin/{applet}"), "busybox")?;
    }
    tree.file("usr/bin/busybox", 0o755, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by a benchmark: of 24 MiB in a guest of 128 MiB the kernel left out the modules of its
    /// network.
    #[test]
    fn an_overlay_has_room_where_it_is_unpacked() {
        assert!(needed_memory(24 << 20) > Mebibytes(128));
        assert!(needed_memory(16 << 20) <= Mebibytes(128));
        assert_eq!(needed_memory(0), BASE_MEMORY);
    }
}
