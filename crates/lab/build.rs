//! Builds the guest's program as a static binary and hands its path to the crate, which carries it
//! inside.
//!
//! It is a cargo run of its own, in its own target directory: the guest needs `crt-static`,
//! everything else must not have it.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let guest = manifest_dir.join("../guest");
    println!("cargo::rerun-if-changed={}", guest.display());
    println!("cargo::rerun-if-changed=build.rs");
    let target_dir = out_dir.join("guest");
    let status = Command::new(env::var_os("CARGO").expect("cargo sets it"))
        .args([
            "build",
            "--release",
            "--bin",
            "transhume-guest",
            "--target",
            TARGET,
            "--manifest-path",
        ])
        .arg(guest.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env("CARGO_PROFILE_RELEASE_STRIP", "true")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .env("CARGO_PROFILE_RELEASE_LTO", "true")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()
        .expect("cargo runs");
    assert!(status.success(), "building the guest's program failed: {status}");
    let program = target_dir.join(TARGET).join("release/transhume-guest");
    println!("cargo::rustc-env=TRANSHUME_GUEST_PROGRAM={}", program.display());
}
