//! Lines of a QEMU's monitor, as one that a guest has taken over may write them: each is an event,
//! an answer to the command that it names, or nothing; and no figure in an answer makes a sum of
//! ours overflow or a guest look nearer to ready than what is left of it says.

use transhume_model::Mebibytes;
use transhume_qemu::testing::{Line, dirty_rate, line, progress};
use transhume_qemu::{Passes, RunState};

pub(super) fn check(data: &[u8]) {
    let mut passes = Passes::default();
    for text in data.split(|byte| *byte == b'\n') {
        match line(text) {
            None | Some(Line::Nothing) => {}
            Some(Line::Event(event)) => {
                let _ = (event.timestamp.micros(), event.data["pass"].as_u64());
                assert!(!event.name.is_empty() || text.windows(2).any(|two| two == b"\"\""));
            }
            Some(Line::Refusal(id, class, words)) => {
                assert!(!class.is_empty() || !words.is_empty() || id.is_some() || !text.is_empty());
            }
            Some(Line::Answer(_, answer)) => {
                let _ = serde_json::from_value::<RunState>(answer.clone());
                if let Some(rate) = dirty_rate(&answer, Mebibytes(u64::MAX)) {
                    assert!(rate.per_second.0 <= i64::MAX as u64);
                }
                if let Some(seen) = progress(&answer) {
                    assert!(passes.left(&seen) >= seen.remaining);
                }
            }
        }
    }
}
