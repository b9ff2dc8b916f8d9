//! `ALL` of an enum is all of it: what metrics begin at 0 with, and tables list.
#![allow(missing_docs)]

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{from_value, json};
use transhume_protocol::message::{FaultKind, GuestState, RefusalKind, VmRole};
use transhume_protocol::report::Ending;

/// The names that a reader knows, as it says itself of one that it does not.
fn known<T: DeserializeOwned + std::fmt::Debug>() -> Vec<String> {
    let error = from_value::<T>(json!("?")).unwrap_err().to_string();
    let names = error.split('`').skip(1).step_by(2);
    names.skip(1).map(str::to_owned).collect()
}

fn written<T: Serialize>(all: &[T]) -> Vec<String> {
    let names = all.iter().map(|one| json!(one));
    names.map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn all_variants_are_listed_in_their_order() {
    assert_eq!(written(&RefusalKind::ALL), known::<RefusalKind>());
    assert_eq!(written(&FaultKind::ALL), known::<FaultKind>());
    assert_eq!(written(&VmRole::ALL), known::<VmRole>());
    assert_eq!(written(&GuestState::ALL), known::<GuestState>());
    let over = known::<Ending>().into_iter().filter(|name| name != "running");
    assert_eq!(written(&Ending::OVER), over.collect::<Vec<_>>());
}

#[test]
fn a_name_is_what_is_written() {
    for ending in Ending::OVER.into_iter().chain([Ending::Running]) {
        assert_eq!(json!(ending), ending.name());
    }
    for state in GuestState::ALL {
        assert_eq!(json!(state), state.name());
    }
}
