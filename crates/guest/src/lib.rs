//! What the lab and the program inside its guests agree on: the lines of the console channel, the
//! kernel command line, and how a question and its answer are timed.
//!
//! The program itself is the binary of this crate; the lab links only this library.
#![forbid(unsafe_code)]

pub mod app;
pub mod latency;
pub mod settings;
pub mod wire;
