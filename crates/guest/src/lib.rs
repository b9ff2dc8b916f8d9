//! What the lab and the program inside its guests agree on: the lines of the console channel and
//! the kernel command line.
//!
//! The program itself is the binary of this crate; the lab links only this library.
#![forbid(unsafe_code)]

pub mod settings;
pub mod wire;
