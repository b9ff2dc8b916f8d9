//! The fuzz targets: each hands any bytes to a parser of what others send or keep, and asserts what
//! that parser promises beyond that it does not panic.
//!
//! ```text
//!  seeds/TARGET ─▶ drive: seeded mutations, a fixed number ─▶ check(bytes)     make quick
//!              └─▶ libfuzzer/: coverage, millions of them ──▶ check(bytes)     make fuzz
//! ```
//!
//! A target is a function of its input alone, so one that failed fails again. What it holds true
//! stands at the head of its file.
#![forbid(unsafe_code)]

mod choices;
pub mod drive;
mod targets;

pub mod pages;

pub use choices::Choices;
pub use targets::{TARGETS, Target, target};
