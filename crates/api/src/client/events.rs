//! The events of a move as they come.

use std::collections::VecDeque;

use transhume_protocol::event::Event;

use super::error::ClientError;
use super::sse::{LINE_BYTES_MAX, Lines};
use super::transport::Answer;

/// The events of one move, from [`Client::events`](super::Client::events).
#[derive(Debug)]
pub struct Events {
    response: Answer,
    address: String,
    lines: Lines,
    waiting: VecDeque<Event>,
}

impl Events {
    pub(super) fn new(response: Answer, address: String) -> Self {
        Self {
            response,
            address,
            lines: Lines::default(),
            waiting: VecDeque::new(),
        }
    }

    /// The next event; `None` when the stream is at its end: the move is over, or the coordinator
    /// went away. May be dropped before it is done, nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Some(event));
            }
            let chunk = self.response.chunk().await;
            let chunk = chunk.map_err(|source| ClientError::Unreachable {
                address: self.address.clone(),
                source: source.into(),
            })?;
            let Some(chunk) = chunk else { return Ok(None) };
            self.take(&chunk)?;
        }
    }

    fn take(&mut self, chunk: &[u8]) -> Result<(), ClientError> {
        let too_long = || ClientError::LongLine {
            address: self.address.clone(),
            bytes_max: LINE_BYTES_MAX,
        };
        for data in self.lines.take(chunk).map_err(|_| too_long())? {
            let event = serde_json::from_slice(&data).map_err(|source| ClientError::Document {
                address: self.address.clone(),
                source,
            })?;
            self.waiting.push_back(event);
        }
        Ok(())
    }
}
