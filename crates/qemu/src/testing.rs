//! What takes bytes of others apart, without the sockets around it: for the fuzz targets
//! (`crates/fuzz`).

use serde_json::Value;
use transhume_model::Mebibytes;

use crate::qmp::{QmpEvent, Said};
use crate::{DirtyRate, MigrationProgress, dirty_rate, migration};

/// What QEMU says in one line.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    /// By itself.
    Event(QmpEvent),
    /// To the command of that number.
    Answer(Option<u64>, Value),
    /// A refusal of the command of that number: class and words.
    Refusal(Option<u64>, String, String),
    /// Nothing that anybody waits for.
    Nothing,
}

/// Reads a line of QMP; `None` where it is not JSON, which ends the connection.
pub fn line(bytes: &[u8]) -> Option<Line> {
    Some(match Said::read(bytes).ok()? {
        Said::Event(event) => Line::Event(event),
        Said::Answer(id, Ok(value)) => Line::Answer(id, value),
        Said::Answer(id, Err((class, text))) => Line::Refusal(id, class, text),
        Said::Nothing => Line::Nothing,
    })
}

/// What an answer says of a migration.
pub fn progress(answer: &Value) -> Option<MigrationProgress> {
    let answer: migration::Answer = serde_json::from_value(answer.clone()).ok()?;
    Some(answer.into())
}

/// What an answer says of how fast a guest of so much memory writes to it.
pub fn dirty_rate(answer: &Value, memory: Mebibytes) -> Option<DirtyRate> {
    let answer: dirty_rate::Answer = serde_json::from_value(answer.clone()).ok()?;
    answer.rate(memory)
}
