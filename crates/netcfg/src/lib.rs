//! The kernel's network configuration, synchronously: one open socket, one message, one
//! acknowledgement.
//!
//! Made for the path of a switchover, where a thread changes a queue or a forwarding entry and must
//! know that it is so before it goes on; a process of `tc` would cost more than the whole blackout.
//! Messages and their parsing are netlink-packet-route's.
//!
//! | file | what |
//! |---|---|
//! | `socket.rs` | ask and be answered |
//! | `port.rs` | links as ports of a bridge: MTU, queue, flooding, who is there |
//! | `forwarding.rs` | where a bridge sends the frames of an address |
//! | `queue.rs` | token bucket filters: install, change, look into |
//! | `htb.rs` | the bands' tree of queues: read, and changed step by step |
//! | `divert.rs` | frames for an address that come in by a port go past the bridge |
//!
//! Deliberately absent: namespaces (a socket belongs to the namespace of the thread that opened
//! it), and every decision about bands, which `transhume_bands` takes.

#![forbid(unsafe_code)]

mod divert;
mod forwarding;
mod htb;
mod port;
mod queue;
mod socket;

pub use htb::ClassCounts;
pub use port::{Port, PortKind};
pub use queue::{QueueState, TokenBucket};
pub use socket::Netlink;
