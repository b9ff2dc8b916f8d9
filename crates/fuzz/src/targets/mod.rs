//! All targets, by name.

mod bodies;
mod ether;
mod events;
mod handshake;
mod hello;
mod inventory;
mod journal;
mod messages;
mod names;
mod nbd;
mod qmp;
mod records;
mod recover;
mod returnpath;
mod sealed;
mod spool;
mod tunnel;

use crate::pages;

/// One parser and what it promises.
#[derive(Clone, Copy)]
pub struct Target {
    /// By which it is asked for, and its seeds are found.
    pub name: &'static str,
    /// Panics where the parser does not keep its promise for these bytes.
    pub check: fn(&[u8]),
    /// Inputs that `make quick` tries: half a second or so of them, without optimisation.
    pub quick: u32,
    /// Longest input that is worth trying.
    pub bytes_max: usize,
}

const fn of(name: &'static str, check: fn(&[u8]), quick: u32, bytes_max: usize) -> Target {
    Target {
        name,
        check,
        quick,
        bytes_max,
    }
}

/// Small inputs are tried more often where a target needs no whole page.
pub const TARGETS: &[Target] = &[
    of("messages", messages::check, 200_000, 4096),
    of("hello", hello::check, 200_000, 512),
    of("names", names::check, 300_000, 300),
    of("tunnel", tunnel::check, 100_000, 2048),
    of("sealed", sealed::check, 100_000, 1024),
    of("handshake", handshake::check, 40_000, 2048),
    of("spool", spool::check, 300_000, 2048),
    of("ether", ether::check, 400_000, 256),
    of("qmp", qmp::check, 200_000, 2048),
    of("returnpath", returnpath::check, 400_000, 512),
    of("nbd", nbd::check, 400_000, 1024),
    of("records", records::check, 300_000, 2048),
    of("journal", journal::check, 200_000, 4096),
    of("recover", recover::check, 2_000, 256),
    of("inventory", inventory::check, 100_000, 2048),
    of("bodies", bodies::check, 200_000, 2048),
    of("events", events::check, 400_000, 1024),
    of("stream", pages::stream::check, 100_000, 4608),
    of("decoder", pages::decoder::check, 20_000, 1024),
    of("frames", pages::frames::check, 20_000, 96),
    of("answers", pages::answers::check, 20_000, 128),
    of("store", pages::store::check, 100_000, 32),
    of("delta", pages::delta::check, 200_000, 4608),
    of("wkdm", pages::wkdm::check, 100_000, 900),
    of("lz4", pages::lz4::check, 100_000, 4608),
    of("lzo", pages::lzo::check, 100_000, 4608),
    of("zstd", pages::zstd::check, 30_000, 4608),
];

/// The target of that name; panics where there is none, at compile time if asked then.
pub const fn target(name: &str) -> Target {
    let mut at = 0;
    while at < TARGETS.len() {
        if same(TARGETS[at].name.as_bytes(), name.as_bytes()) {
            return TARGETS[at];
        }
        at += 1;
    }
    panic!("there is no fuzz target of that name")
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// What was accepted is written, read again, and then the same. As JSON.
fn survives<T>(accepted: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq,
{
    let bytes = serde_json::to_vec(accepted).expect("what was read can be written");
    let again: T = serde_json::from_slice(&bytes).expect("what was written can be read");
    assert!(again == *accepted, "another one came back");
}
