//! Names, addresses and secrets: what is accepted is written as it was read, or in one other way
//! that is read as the same; and no name leads out of a directory or breaks a line. First byte:
//! which.

use std::fmt::Display;
use std::path::{Component, Path};
use std::str::FromStr;

use transhume_model::{ClusterName, HostName, Mac, Secret, UserName, VmName};
use transhume_protocol::message::FleetId;
use transhume_trust::Identity;

use crate::Choices;

pub(super) fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let kind = choices.byte();
    let Ok(text) = std::str::from_utf8(choices.0) else {
        return;
    };
    match kind % 8 {
        0 => name::<VmName>(text),
        1 => name::<HostName>(text),
        2 => name::<ClusterName>(text),
        3 => name::<UserName>(text),
        4 => drop(again::<Mac>(text)),
        5 => drop(again::<FleetId>(text)),
        6 => drop(again::<Identity>(text)),
        _ => secret(text),
    }
}

fn again<T: FromStr + Display + PartialEq>(text: &str) -> Option<String> {
    let read: T = text.parse().ok()?;
    let written = read.to_string();
    assert!(written.parse().ok() == Some(read), "another one came back");
    Some(written)
}

fn name<T: FromStr + Display + PartialEq>(text: &str) {
    let Some(written) = again::<T>(text) else { return };
    assert_eq!(written, text);
    assert!(!text.contains(['/', '\0', '\n', '\r', '\u{1b}']));
    let mut parts = Path::new(text).components();
    assert!(matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none());
}

fn secret(text: &str) {
    if let Ok(secret) = text.parse::<Secret>() {
        assert_eq!(String::from(secret), text.to_ascii_lowercase());
    }
}
