//! The distribution's own kernel for virtual machines: found through apt, downloaded, unpacked,
//! never installed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use tokio::process::Command;

use crate::{LabError, Progress};

/// Kernels small enough for many guests, by distribution: Debian's first, then Ubuntu's.
const META_PACKAGES: [&str; 3] = [
    "linux-image-cloud-amd64",
    "linux-image-kvm",
    "linux-image-virtual",
];
const APT_TIMEOUT: Duration = Duration::from_secs(300);
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
        kept.map_err(|source| LabError::File {
            action: "keep the kernel in",
            path: root.clone(),
            source,
        })?;
    }
    find(&root)
}

async fn fetch(work: &Path) -> Result<(), LabError> {
    let root = work.join("root");
    fs::create_dir_all(&root).map_err(|source| LabError::File {
        action: "create",
        path: root.clone(),
        source,
    })?;
    for package in kernel_packages().await? {
        let download = run(Command::new("apt-get")
            .args(["download", "-q", &package])
            .current_dir(work))
        .await?;
        expect_success(&format!("apt-get download {package}"), &download)?;
    }
    let debs = list(work)?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "deb"));
    for deb in debs {
        let unpack = run(Command::new("dpkg").arg("-x").arg(&deb).arg(&root)).await?;
        expect_success(&format!("dpkg -x {}", deb.display()), &unpack)?;
    }
    Ok(())
}

/// The image package behind the first meta package that apt knows, and its package of modules where
/// that is separate.
async fn kernel_packages() -> Result<Vec<String>, LabError> {
    for meta in META_PACKAGES {
        let output = run(Command::new("apt-cache").args(["show", "--no-all-versions", meta])).await?;
        let text = String::from_utf8_lossy(&output.stdout);
        if let Some(image) = text.lines().find_map(|line| dependency(line, "linux-image-")) {
            let show = run(Command::new("apt-cache").args(["show", "--no-all-versions", &image])).await?;
            let modules = String::from_utf8_lossy(&show.stdout)
                .lines()
                .find_map(|line| dependency(line, "linux-modules-"));
            return Ok([Some(image), modules].into_iter().flatten().collect());
        }
    }
    Err(LabError::NoKernelPackage {
        tried: META_PACKAGES.join(", "),
    })
}

fn dependency(line: &str, prefix: &str) -> Option<String> {
    let names = line.strip_prefix("Depends:")?.split([',', '|']);
    names
        .filter_map(|name| name.split_ascii_whitespace().next())
        .find(|name| name.starts_with(prefix))
        .map(str::to_owned)
}

async fn run(command: &mut Command) -> Result<Output, LabError> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    match tokio::time::timeout(APT_TIMEOUT, command.kill_on_drop(true).output()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(source)) => Err(LabError::Start {
            program: name,
            source,
        }),
        Err(_) => Err(LabError::Tool {
            tool: name,
            said: format!("no answer in {} s", APT_TIMEOUT.as_secs()),
        }),
    }
}

fn expect_success(tool: &str, output: &Output) -> Result<(), LabError> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(LabError::Tool {
        tool: tool.to_owned(),
        said,
    })
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, LabError> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let mut paths = fs::read_dir(directory)?
            .map(|e| e.map(|e| e.path()))
            .collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    };
    read().map_err(|source| LabError::File {
        action: "list",
        path: directory.to_owned(),
        source,
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
    let failed = |source| LabError::File {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let bytes = fs::read(path).map_err(failed)?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("zst") => zstd::decode_all(bytes.as_slice()).map_err(failed),
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
    fn the_image_behind_a_meta_package_is_found() {
        let line = "Depends: foo (>= 1), linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)";
        assert_eq!(
            dependency(line, "linux-image-").unwrap(),
            "linux-image-6.1.0-56-cloud-amd64"
        );
        assert_eq!(dependency("Description: linux-image-x", "linux-image-"), None);
    }

    #[test]
    fn a_module_names_what_it_needs() {
        let module = b"junk\0license=GPL\0depends=virtio,net-failover\0name=virtio_net\0";
        assert_eq!(depends(module), ["virtio", "net_failover"]);
        assert!(depends(b"license=GPL\0depends=\0x").is_empty());
    }
}
