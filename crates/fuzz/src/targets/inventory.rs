//! An inventory, YAML or JSON: read or refused at a line that it has, and what is read is the same
//! after being written as JSON.

use transhume_planner::input::read;

use super::survives;

pub(super) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match read("inventory", text) {
        Ok(input) => {
            survives(&input);
            let json = serde_json::to_string(&input).expect("what was read can be written");
            assert!(read("inventory", &json).is_ok_and(|again| again == input));
        }
        Err(error) => {
            assert!(!error.what.is_empty());
            // A form feed, a bare return: whatever YAML takes for the end of a line.
            let lines = text
                .chars()
                .filter(|c| c.is_control() || *c == '\u{2028}')
                .count();
            assert!(error.place.line.is_none_or(|line| line <= lines + 2), "{error}");
        }
    }
}
