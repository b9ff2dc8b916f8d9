//! The distribution's own kernel for virtual machines: found through apt, downloaded, unpacked,
//! never installed.

use std::fs;
use std::path::{Path, PathBuf};

use super::debian::{dependency, expect_success, show, unpack};
use super::{file_error, list};
use crate::{LabError, Progress};

/// Kernels small enough for many guests, by distribution: Debian's first, then Ubuntu's.
const META_PACKAGES: [&str; 3] = [
    "linux-image-cloud-amd64",
    "linux-image-kvm",
    "linux-image-virtual",
];
/// What a guest needs besides the kernel, the last two to hear of its power button; what these
/// depend on is found in the modules themselves.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_net", "virtio_blk", "button", "evdev"];

/// A kernel and its modules in the order in which they must be loaded.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The bootable image.
    pub image: PathBuf,
    /// Uncompressed or compressed as the distribution ships them; built-in ones are absent.
    pub modules: Vec<PathBuf>,
}

/// The kernel below `cache`, fetched on first use.
pub async fn obtain(cache: &Path, progress: &Progress) -> Result<Kernel, LabError> {
    let root = cache.join("kernel");
    if !root.exists() {
        progress.step("fetching the distribution's kernel for virtual machines");
        let work = cache.join(format!("kernel.part-{}", std::process::id()));
        let fetched = fetch(&work).await;
        let kept = match fetched {
            // Another lab may have been faster; its kernel is as good.
            Ok(()) => {
                fs::rename(work.join("root"), &root).or_else(|e| if root.exists() { Ok(()) } else { Err(e) })
            }
            Err(error) => {
                let _leftover = fs::remove_dir_all(&work);
                return Err(error);
            }
        };
        let _leftover = fs::remove_dir_all(&work);
        kept.map_err(file_error("keep the kernel in", &root))?;
    }
    find(&root)
}

async fn fetch(work: &Path) -> Result<(), LabError> {
    for package in kernel_packages().await? {
        unpack(&package, work, &work.join("root")).await?;
    }
    Ok(())
}

/// The image package behind the first meta package that apt knows, and its package of modules where
/// that is separate.
async fn kernel_packages() -> Result<Vec<String>, LabError> {
    for meta in META_PACKAGES {
        if let Some(image) = dependency(&show(meta).await?, "linux-image-") {
            let modules = dependency(&show(&image).await?, "linux-modules-");
            return Ok([Some(image), modules].into_iter().flatten().collect());
        }
    }
    Err(LabError::NoKernelPackage {
        tried: META_PACKAGES.join(", "),
    })
}

fn find(root: &Path) -> Result<Kernel, LabError> {
    let image = list(&root.join("boot"))?
        .into_iter()
        .rfind(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
        })
        .ok_or_else(|| LabError::NoKernelPackage {
            tried: root.display().to_string(),
        })?;
    let mut found = Vec::new();
    for base in ["lib/modules", "usr/lib/modules"] {
        let base = root.join(base);
        if base.exists() {
            walk(&base, &mut found)?;
        }
    }
    let mut modules = Vec::new();
    for name in MODULES {
        add_with_dependencies(name, &found, &mut modules)?;
    }
    Ok(Kernel { image, modules })
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) -> Result<(), LabError> {
    for path in list(directory)? {
        if path.is_dir() && !path.is_symlink() {
            walk(&path, found)?;
        } else if module_name(&path).is_some() {
            found.push(path);
        }
    }
    Ok(())
}

/// `virtio_net` of `…/virtio-net.ko.xz`: `-` and `_` are one to the kernel.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let stem = [".ko", ".ko.xz", ".ko.zst", ".ko.gz"]
        .iter()
        .find_map(|end| name.strip_suffix(end))?;
    Some(stem.replace('-', "_"))
}

fn add_with_dependencies(name: &str, found: &[PathBuf], order: &mut Vec<PathBuf>) -> Result<(), LabError> {
    let Some(path) = found
        .iter()
        .find(|path| module_name(path).as_deref() == Some(name))
    else {
        return Ok(()); // built into the kernel
    };
    if order.contains(path) {
        return Ok(());
    }
    for dependency in depends(&load(path)?) {
        add_with_dependencies(&dependency, found, order)?;
    }
    order.push(path.clone());
    Ok(())
}

/// The `depends=` line of a module's description.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module[start + KEY.len()..]
        .split(|&b| b == 0)
        .next()
        .unwrap_or_default();
    let text = String::from_utf8_lossy(value);
    text.split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

/// A module's bytes as the kernel's `init_module` takes them.
pub fn load(path: &Path) -> Result<Vec<u8>, LabError> {
    let bytes = fs::read(path).map_err(file_error("read", path))?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("zst") => zstd::decode_all(bytes.as_slice()).map_err(file_error("read", path)),
        Some(end @ ("xz" | "gz")) => {
            let program = if end == "xz" { "xz" } else { "gzip" };
            let output = std::process::Command::new(program)
                .arg("-dc")
                .arg(path)
                .output()
                .map_err(|source| LabError::Start {
                    program: program.to_owned(),
                    source,
                })?;
            expect_success(&format!("{program} -dc {}", path.display()), &output)?;
            Ok(output.stdout)
        }
        Some(_) | None => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_what_it_needs() {
        let module = b"junk\0license=GPL\0depends=virtio,net-failover\0name=virtio_net\0";
        assert_eq!(depends(module), ["virtio", "net_failover"]);
        assert!(depends(b"license=GPL\0depends=\0x").is_empty());
    }
}
