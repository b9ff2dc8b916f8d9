//! What the guests do with their memory while the page path is measured.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use transhume_model::Mebibytes;

use crate::{LabError, LabUp, Traffic};

/// Guests of the benchmark.
const MEMORY: Mebibytes = Mebibytes(128);
/// Memory that a rewriting guest goes through, MiB.
const REWRITTEN_MIB: u64 = 32;
/// How fast, MiB/s: a tenth of a Gbit/s link.
const REWRITTEN_MIB_S: u64 = 10;
/// Files that fill the page cache; with the rest of the guest they must fit its memory.
const CACHED_BYTES_MAX: u64 = 16 << 20;
/// Where a distribution keeps files to fill it with.
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";

/// One load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryLoad {
    /// Booted, and quiet.
    Idle,
    /// The same files in every guest's page cache.
    Cache,
    /// Memory that compresses well, rewritten at a set rate.
    Compressible,
    /// Memory that does not compress, rewritten at a set rate.
    Random,
}

impl MemoryLoad {
    /// All of them.
    pub const ALL: [MemoryLoad; 4] = [
        MemoryLoad::Idle,
        MemoryLoad::Cache,
        MemoryLoad::Compressible,
        MemoryLoad::Random,
    ];

    /// As it stands in tables.
    pub fn name(self) -> &'static str {
        match self {
            MemoryLoad::Idle => "idle",
            MemoryLoad::Cache => "cache",
            MemoryLoad::Compressible => "compressible",
            MemoryLoad::Random => "random",
        }
    }

    /// A lab of two hosts under this load; `scratch` is an empty directory for what is laid into
    /// the guests.
    pub fn lab(self, vms: u16, bits_per_s: Option<u64>, scratch: &Path) -> Result<LabUp, LabError> {
        let rewrite = |kind| Some(format!("/init load {kind} {REWRITTEN_MIB} {REWRITTEN_MIB_S}"));
        let (overlay, run) = match self {
            MemoryLoad::Idle => (None, None),
            MemoryLoad::Cache => (Some(libraries(scratch)?), None),
            MemoryLoad::Compressible => (None, rewrite("compressible")),
            MemoryLoad::Random => (None, rewrite("random")),
        };
        Ok(LabUp {
            hosts: 2,
            vms,
            memory: MEMORY,
            link_bits_per_s: bits_per_s,
            traffic: Traffic::None,
            overlay,
            run,
            ..LabUp::default()
        })
    }
}

/// A directory with libraries of this machine, by name, up to the limit. A guest's root file system
/// is its page cache.
fn libraries(scratch: &Path) -> Result<PathBuf, LabError> {
    let failed = |path: &Path, source| LabError::File {
        action: "copy",
        path: path.to_owned(),
        source,
    };
    let from = Path::new(LIBRARIES);
    let listed = fs::read_dir(from).map_err(|source| failed(from, source))?;
    let mut files: Vec<PathBuf> = listed
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file()))
        .collect();
    files.sort();
    let to = scratch.join("cached");
    fs::create_dir_all(to.join("opt")).map_err(|source| failed(&to, source))?;
    let mut left = CACHED_BYTES_MAX;
    for file in files {
        let size = fs::metadata(&file).map_or(u64::MAX, |meta| meta.len());
        if size <= left {
            let name = file.file_name().unwrap_or_default();
            fs::copy(&file, to.join("opt").join(name)).map_err(|source| failed(&file, source))?;
            left -= size;
        }
    }
    Ok(to)
}
