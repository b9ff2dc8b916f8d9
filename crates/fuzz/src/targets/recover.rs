//! A journal whose entries are sound one by one and do not fit each other: taken up or refused, no
//! order leaves before a host is back, and none runs a VM on its target unless the journal holds
//! the decision. First byte: 0 for lines of JSON, else which entries of an honest journal, in which
//! order, and what numbers are changed in them.

use std::sync::LazyLock;

use serde_json::Value;
use transhume_model::{Epoch, Millis, WallMicros};
use transhume_protocol::message::OrderKind;
use transhume_protocol::migration::{JournalEntry, Migration, Now};

use crate::Choices;

static HONEST: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let text = include_str!("../../../protocol/testdata/journal_v4.json");
    serde_json::from_str(text).expect("a list of entries")
});

const ENTRIES_MAX: usize = 24;

pub(super) fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let entries = match choices.byte() {
        0 => lines(choices.0),
        _ => shuffled(&mut choices),
    };
    let now = Now {
        mono: Millis(1_000),
        wall: WallMicros(2_000_000),
    };
    let Ok(Some((_, ready))) = Migration::recover(now, &entries, Epoch(u64::MAX / 2)) else {
        return;
    };
    let decided = entries.iter().any(|entry| {
        matches!(
            entry,
            JournalEntry::Committed { .. } | JournalEntry::Resolved { .. }
        )
    });
    let activates = |kind| matches!(kind, OrderKind::Activate);
    assert!(
        decided
            || !ready
                .send
                .iter()
                .any(|(_, order)| activates(order.command.kind()))
    );
    assert!(ready.send.is_empty(), "an order leaves before a host is back");
}

fn lines(bytes: &[u8]) -> Vec<JournalEntry> {
    let lines = bytes.split(|byte| *byte == b'\n').take(ENTRIES_MAX);
    lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect()
}

fn shuffled(choices: &mut Choices<'_>) -> Vec<JournalEntry> {
    let mut entries = Vec::new();
    // Nothing is taken up without a beginning.
    let mut next = 0;
    while entries.len() < ENTRIES_MAX {
        let mut entry = HONEST[next].clone();
        let change = choices.byte();
        if change >= 128 {
            disturb(&mut entry, usize::from(change - 128), choices.byte());
        }
        entries.extend(serde_json::from_value(entry));
        if choices.done() {
            break;
        }
        let jump = choices.byte();
        next = match jump {
            0..=191 => (next + 1) % HONEST.len(),
            _ => usize::from(jump) % HONEST.len(),
        };
    }
    entries
}

/// Changes the so manieth number or truth in it.
fn disturb(value: &mut Value, mut at: usize, how: u8) {
    fn walk(value: &mut Value, at: &mut usize, how: u8) -> bool {
        match value {
            Value::Number(number) => {
                if *at > 0 {
                    *at -= 1;
                    return false;
                }
                let old = number.as_u64().unwrap_or(0);
                *value = match how % 6 {
                    0 => 0.into(),
                    1 => u64::MAX.into(),
                    2 => (i64::MAX as u64).into(),
                    3 => old.wrapping_add(1).into(),
                    4 => old.wrapping_sub(1).into(),
                    _ => u64::from(how).into(),
                };
                true
            }
            Value::Bool(truth) => {
                if *at > 0 {
                    *at -= 1;
                    return false;
                }
                *truth = !*truth;
                true
            }
            Value::Array(values) => values.iter_mut().any(|value| walk(value, at, how)),
            Value::Object(fields) => fields.values_mut().any(|value| walk(value, at, how)),
            Value::Null | Value::String(_) => false,
        }
    }
    walk(value, &mut at, how);
}
