//! The running hash that proves, at the end of a move, that the target got the source's bytes.
//!
//! XXH3-128 finds accidents at memory speed; the channel below (TLS) is what keeps an attacker out.
//! The library picks the widest instructions that the processor has when it runs.

use twox_hash::xxhash3_128::Hasher;

/// Length and hash of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamDigest {
    /// Bytes hashed.
    pub bytes: u64,
    /// XXH3-128 of them.
    pub hash: u128,
}

/// Hash of the bytes seen so far.
#[derive(Default)]
pub struct RunningHash {
    state: Hasher,
    bytes: u64,
}

impl RunningHash {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.write(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// What was seen so far.
    pub fn digest(&self) -> StreamDigest {
        StreamDigest {
            bytes: self.bytes,
            hash: self.state.finish_128(),
        }
    }
}
