//! Writes the kept inputs anew, from what the real parts say:
//! `cargo run -p transhume-fuzz --example seeds -- crates/fuzz/seeds`. Those that a fuzzer found
//! are left alone: they have hexadecimal names.

#[allow(dead_code, reason = "the protocol's tests use the rest")]
#[path = "../../../protocol/tests/support/answer.rs"]
mod answer;
mod binary;
mod json;
mod pages;

use std::io::Result;
use std::path::Path;

/// Longest seed: small inputs are tried most often.
const SEED_BYTES_MAX: usize = 4600;

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "seeds".into());
    let folder = Path::new(&folder);
    pages::write(folder)?;
    binary::write(folder)?;
    json::write(folder)
}

fn put(folder: &Path, target: &str, name: &str, bytes: &[u8]) -> Result<()> {
    assert!(
        bytes.len() <= SEED_BYTES_MAX,
        "{target}/{name} is too long a seed"
    );
    std::fs::create_dir_all(folder.join(target))?;
    std::fs::write(folder.join(target).join(name), bytes)
}
