//! Buffers that go round between the stages of one stream: fresh memory costs a fault for each page
//! of it, and that is more than the copy into it.

use std::sync::{Arc, Mutex};

use super::share::locked;
use crate::limits::{PAGE_BUFFER_KEPT_BYTES_MAX, PAGE_BUFFERS_KEPT_MAX, PAGE_CHUNK_BYTES};

/// Empty buffers that wait for their next use.
#[derive(Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// One that was used before, or a new one without memory.
    pub fn take(&self) -> Vec<u8> {
        locked(&self.0).pop().unwrap_or_default()
    }

    /// Its bytes are done with. Where enough wait already, or it is too small for a chunk or has
    /// become large, its memory is let go.
    pub fn give(&self, mut buffer: Vec<u8>) {
        let mut kept = locked(&self.0);
        let worth_keeping = (PAGE_CHUNK_BYTES..=PAGE_BUFFER_KEPT_BYTES_MAX).contains(&buffer.capacity());
        if worth_keeping && kept.len() < PAGE_BUFFERS_KEPT_MAX {
            buffer.clear();
            kept.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_and_what_is_kept_is_bounded() {
        let buffers = Buffers::default();
        buffers.give(vec![7; PAGE_CHUNK_BYTES]);
        let back = buffers.take();
        assert!(back.is_empty() && back.capacity() >= PAGE_CHUNK_BYTES);
        for unfit in [0, PAGE_CHUNK_BYTES - 1, PAGE_BUFFER_KEPT_BYTES_MAX + 1] {
            buffers.give(Vec::with_capacity(unfit));
            assert_eq!(buffers.take().capacity(), 0);
        }
        for _ in 0..2 * PAGE_BUFFERS_KEPT_MAX {
            buffers.give(Vec::with_capacity(PAGE_CHUNK_BYTES));
        }
        assert_eq!(locked(&buffers.0).len(), PAGE_BUFFERS_KEPT_MAX);
    }
}
