//! The console channel: one JSON object per line, over the guest's second serial port.
//!
//! ```text
//!  host                                   guest
//!   │  {"id":"a1","op":"exec","argv":[…]}   │
//!   │ ────────────────────────────────────▶ │ carries it out once per id
//!   │  {"id":"a1","seq":0,"stream":…}       │
//!   │ ◀──────────────────────────────────── │
//!   │  {"id":"a1","done":{…}}               │
//!   │ ◀──────────────────────────────────── │
//! ```
//!
//! A VM may move while a request is under way: lines are then cut, and the host asks again with the
//! same id. The guest remembers its latest replies by id and sends them again from the start, so
//! nothing is carried out twice. Lines that are not JSON are the rests of cut lines; both sides
//! skip them.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::app::AppStats;

/// A longer line is skipped by the guest.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// A longer line is skipped by the host.
pub const REPLY_BYTES_MAX: usize = 1024 * 1024;
/// Output bytes carried by one line of a reply.
pub const CHUNK_BYTES_MAX: usize = 16 * 1024;
/// What `exec` keeps of each of the two output streams; the rest is read and dropped, and the reply
/// says so.
pub const EXEC_OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// Most bytes of the workload's log in one reply.
pub const LOG_BYTES_MAX: usize = 128 * 1024;

/// One order to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the host; a repeated id gets the first reply again.
    pub id: String,
    /// What to do.
    #[serde(flatten)]
    pub op: Op,
}

/// What the host can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Op {
    /// Answers `Pong`.
    Ping,
    /// Runs a program and returns its output.
    Exec {
        /// Program and arguments.
        argv: Vec<String>,
        /// The program and its children are killed after this many milliseconds.
        time_limit_ms: u64,
    },
    /// The workload's figures so far.
    Stats,
    /// Stops sending messages; the figures that follow are exact once everything in flight has
    /// arrived.
    Quiesce,
    /// Sends messages again; longest silences are counted anew.
    Resume,
    /// Reads back every block that was ever written to the disk.
    VerifyDisk,
    /// Begins to ask a peer and to read the disk, by the clock, in place of what was begun before.
    ProbeStart {
        /// Who is asked.
        peer: Ipv4Addr,
        /// Questions a second.
        asks_per_s: u32,
        /// Reads a second.
        reads_per_s: u32,
    },
    /// Ends that.
    ProbeEnd,
    /// Begins to sleep for a moment again and again, in place of what was begun before, and notes
    /// when a sleep lasted longer than it should.
    PulseStart,
    /// Ends that.
    PulseEnd,
    /// The account of the app's checker, which begins anew.
    App,
    /// The user workload's log from a byte offset on.
    Log {
        /// Counted from the log's first byte, including what was dropped since.
        offset: u64,
    },
}

/// One line from the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reply {
    /// A piece of output.
    Chunk {
        /// The request's id.
        id: String,
        /// Place among the chunks of this reply, from 0.
        seq: u64,
        /// Where it was written to.
        stream: Stream,
        /// Base64.
        data: String,
    },
    /// The last line: it was carried out.
    Done {
        /// The request's id.
        id: String,
        /// How many chunks came before; fewer received means that one was cut.
        chunks: u64,
        /// The result.
        done: Outcome,
    },
    /// The last line: it was not carried out.
    Failed {
        /// The request's id.
        id: String,
        /// Why.
        error: String,
    },
}

impl Reply {
    /// The id of the request that this line answers.
    pub fn id(&self) -> &str {
        match self {
            Reply::Chunk { id, .. } | Reply::Done { id, .. } | Reply::Failed { id, .. } => id,
        }
    }
}

/// Which output a chunk belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Standard output, or the log.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Of `Ping`: since boot, by the guest's clock.
    Pong {
        /// Milliseconds since boot.
        uptime_ms: u64,
    },
    /// Of `Exec`.
    Exited {
        /// Exit code; 128 + signal where a signal ended it.
        code: i32,
        /// The time limit ended it.
        timed_out: bool,
        /// Output beyond the limit was dropped.
        truncated: bool,
    },
    /// Of `Stats`, `Quiesce` and `Resume`.
    Stats(Stats),
    /// Of `VerifyDisk`.
    Disk(DiskStats),
    /// Of `ProbeStart`.
    ProbeStarted,
    /// Of `ProbeEnd`.
    Probe(ProbeStats),
    /// Of `PulseStart`.
    PulseStarted,
    /// Of `PulseEnd`.
    Pulse(PulseStats),
    /// Of `App`.
    App(AppStats),
    /// Of `Log`: where the next read goes on.
    Log {
        /// Offset of the first byte of this reply.
        offset: u64,
        /// Offset after its last byte.
        next_offset: u64,
    },
}

/// The workload's figures in one guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// The VM's place in the cluster, from 0.
    pub index: u16,
    /// Senders are stopped.
    pub quiesced: bool,
    /// Milliseconds since boot, by the guest's clock.
    pub uptime_ms: u64,
    /// Messages, by peer.
    pub peers: Vec<PeerStats>,
    /// Streams, by peer.
    pub tcp: Vec<TcpStats>,
    /// The disk, where there is one.
    pub disk: Option<DiskStats>,
    /// The user workload's exit code, once it ended.
    pub run_exit: Option<i32>,
}

/// Numbered messages between this VM and one peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStats {
    /// The peer's place in the cluster.
    pub index: u16,
    /// The peer answered; before that nothing is numbered.
    pub ready: bool,
    /// Number of the last message sent to the peer; numbers start at 1.
    pub sent: u64,
    /// Different messages received from the peer.
    pub received: u64,
    /// Messages received once more.
    pub duplicated: u64,
    /// Messages that came after one with a higher number.
    pub reordered: u64,
    /// Longest time without a message from a sending peer, since the last `Resume`.
    pub gap_ms: u64,
}

/// One stream between this VM and one peer, as this end sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpStats {
    /// The peer's place in the cluster.
    pub index: u16,
    /// It was established once.
    pub connected: bool,
    /// It ended, or carried a wrong byte.
    pub broken: bool,
    /// Bytes handed to the kernel.
    pub bytes_sent: u64,
    /// Bytes received and found right.
    pub bytes_received: u64,
    /// Longest time without a byte from the peer, since the last `Resume`.
    pub stall_ms: u64,
}

/// The disk writer's figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStats {
    /// Blocks written and flushed.
    pub writes: u64,
    /// Different blocks that hold data and were read back by the last verification.
    pub verified: u64,
    /// Writes or reads that failed, and blocks that held something else than what was written last.
    pub errors: u64,
}

/// What a probe saw; at most `latency::SAMPLES_MAX` of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeStats {
    /// Microseconds from each question to its answer.
    pub answers_us: Vec<u32>,
    /// Questions without an answer.
    pub answers_missing: u64,
    /// Microseconds of each read.
    pub reads_us: Vec<u32>,
    /// Reads that failed.
    pub reads_failed: u64,
}

/// When a process that only sleeps stood still. By the guest's clock, which does not run while the
/// guest is stopped: the blackout itself is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulseStats {
    /// How often it woke.
    pub wakes: u64,
    /// Oversleeps of at least `pulse::STALL_MIN`, in their order; those of a guest that has no
    /// processor at all end at `pulse::STALLS_MAX`.
    pub stalls: Vec<Stall>,
}

/// One sleep that lasted longer than it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    /// When the sleep should have been over: microseconds since boot.
    pub at_us: u64,
    /// For how long after that it was not.
    pub micros: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_flat_object() {
        let request = Request {
            id: "a1".into(),
            op: Op::Exec {
                argv: vec!["true".into()],
                time_limit_ms: 5,
            },
        };
        let line = serde_json::to_string(&request).unwrap();
        assert_eq!(
            line,
            r#"{"id":"a1","op":"exec","argv":["true"],"time_limit_ms":5}"#
        );
        assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), request);
    }

    #[test]
    fn the_three_kinds_of_reply_are_told_apart() {
        let replies = [
            Reply::Chunk {
                id: "a".into(),
                seq: 0,
                stream: Stream::Stderr,
                data: "eA==".into(),
            },
            Reply::Done {
                id: "a".into(),
                chunks: 1,
                done: Outcome::Pong { uptime_ms: 7 },
            },
            Reply::Failed {
                id: "a".into(),
                error: "no disk".into(),
            },
        ];
        for reply in replies {
            let line = serde_json::to_string(&reply).unwrap();
            assert_eq!(serde_json::from_str::<Reply>(&line).unwrap(), reply, "{line}");
        }
    }
}
