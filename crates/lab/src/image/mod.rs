//! What the guests boot: the distribution's kernel and one initramfs for all VMs of a lab.

mod cpio;
mod kernel;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use transhume_model::Mebibytes;

use crate::{LabError, Progress};
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
    if let Some(overlay) = additions.overlay {
        overlay_bytes = tree.overlay(overlay)?;
    }
    if let Some(script) = additions.run {
        tree.file("etc/transhume/run", 0o755, script.as_bytes().to_vec())?;
    }
    // While the kernel unpacks, the archive and the files are both in memory.
    let needed = BASE_MEMORY + Mebibytes((2 * overlay_bytes).div_ceil(1 << 20));
    if memory < needed {
        return Err(LabError::TooLittleMemory { memory, needed });
    }
    fs::write(&initrd, cpio::archive(&tree)).map_err(|source| LabError::File {
        action: "write",
        path: initrd.clone(),
        source,
    })?;
    Ok(Image {
        kernel: kernel.image,
        initrd,
    })
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
    let bytes = fs::read(path).map_err(|source| LabError::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    if needs_interpreter(&bytes) {
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

/// Whether an ELF program is dynamic: it then needs libraries, of which the guest has none.
fn needs_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| {
        elf.get(at..at + 2)
            .map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])))
    };
    let table = elf
        .get(32..40)
        .and_then(|b| usize::try_from(u64::from_le_bytes(b.try_into().ok()?)).ok());
    let (Some(table), Some(size), Some(count)) = (table, u16_at(54), u16_at(56)) else {
        return true;
    };
    (0..count).any(|entry| {
        let at = table.saturating_add(entry * size);
        elf.get(at..at.saturating_add(4)) == Some(&PT_INTERP.to_le_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_programs_are_told_from_dynamic_ones() {
        assert!(
            !needs_interpreter(GUEST_PROGRAM),
            "the guest's program must be static"
        );
        assert!(
            needs_interpreter(&fs::read("/proc/self/exe").unwrap()),
            "this test's program is dynamic"
        );
        assert!(needs_interpreter(b"\x7fELF"), "a cut file is no static program");
    }
}
