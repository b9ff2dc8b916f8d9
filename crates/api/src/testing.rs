//! What takes bytes of others apart, without the sockets around it: for the fuzz targets
//! (`crates/fuzz`).

use crate::client::sse::{LINE_BYTES_MAX, Lines};

/// Longest line of a stream of events that is kept.
pub const EVENT_LINE_BYTES_MAX: usize = LINE_BYTES_MAX;

/// A stream of events as its pieces arrive.
#[derive(Debug, Default)]
pub struct EventLines(Lines);

impl EventLines {
    /// Takes the next piece; the data of each line that is complete with it, `None` where a line is
    /// too long.
    pub fn take(&mut self, piece: &[u8]) -> Option<Vec<Vec<u8>>> {
        self.0.take(piece).ok()
    }
}
