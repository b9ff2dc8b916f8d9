//! Every target on its seeds and some thousands of inputs made of them. TRANSHUME_SEED makes
//! others, TRANSHUME_EXECUTIONS more; `make fuzz` sees what they reach.
#![allow(missing_docs)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use transhume_fuzz::{TARGETS, drive, target};

fn seeds_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds")
}

/// In the order of their names, so that every machine makes the same of them.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(seeds_dir().join(name))
        .unwrap_or_else(|error| panic!("the seeds of {name}: {error}"))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn holds(name: &str) {
    let target = target(name);
    let number = |variable: &str| {
        let text = std::env::var(variable).ok()?;
        Some(
            text.parse::<u32>()
                .unwrap_or_else(|_| panic!("{variable} is no number")),
        )
    };
    let seed = number("TRANSHUME_SEED").unwrap_or(1);
    let executions = number("TRANSHUME_EXECUTIONS").unwrap_or(target.quick);
    if let Err(input) = drive::drive(&target, &seeds(name), seed.into(), executions) {
        let mut hex = String::new();
        input.iter().for_each(|byte| write!(hex, "{byte:02x}").unwrap());
        panic!(
            "{name} does not keep its promise, seed {seed}, input of {} bytes: {hex}",
            input.len()
        );
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        const TRIED: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { holds(stringify!($name)); })*
    };
}

targets! {
    messages hello names tunnel sealed handshake spool ether qmp returnpath nbd records journal
    recover inventory bodies events
    stream decoder frames answers store delta wkdm lz4 lzo zstd
}

#[test]
fn every_target_is_tried_and_every_directory_of_seeds_is_a_targets() {
    let all: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(TRIED, all);
    for entry in fs::read_dir(seeds_dir()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(all.contains(&name.as_str()), "seeds of no target: {name}");
    }
}

/// Of what would every promise be worth if the driver saw none broken?
#[test]
fn a_broken_promise_is_found() {
    let breaks = transhume_fuzz::Target {
        check: |input| assert!(!input.windows(4).any(|four| four == [0xff; 4]), "as it must be"),
        ..target("names")
    };
    let found = drive::drive(&breaks, &[b"some seed".to_vec()], 1, 100_000);
    assert!(found.is_err());
}
