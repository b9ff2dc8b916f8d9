//! docs/api.md names every call and every code there is, and no other.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

fn page() -> String {
    std::fs::read_to_string(super::docs().join("api.md")).unwrap()
}

/// `$API/v1/clusters/web/plan` asked with POST → `post /v1/clusters/{}/plan`.
fn call(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let path = words.iter().find_map(|word| word.strip_prefix("$API"))?;
    let method = words
        .iter()
        .skip_while(|word| **word != "-X")
        .nth(1)
        .unwrap_or(&"GET");
    let parts = path.split('/').enumerate();
    let named = |place| place == 3 || place == 5;
    let parts = parts.map(|(place, part)| if named(place) { "{}" } else { part });
    Some(format!(
        "{} {}",
        method.to_lowercase(),
        parts.collect::<Vec<_>>().join("/")
    ))
}

#[test]
fn every_call_has_an_example() {
    let page = page();
    let examples: BTreeSet<String> = page
        .lines()
        .filter(|line| line.starts_with("curl "))
        .filter_map(call)
        .collect();
    let openapi: Value = serde_json::from_str(&transhume_coordinator::openapi()).unwrap();
    let paths = openapi["paths"].as_object().unwrap().iter();
    let calls: BTreeSet<String> = paths
        .flat_map(|(path, methods)| {
            let path = ["{name}", "{id}", "{vm}", "{target}"]
                .iter()
                .fold(path.clone(), |path, name| path.replace(name, "{}"));
            let methods = methods.as_object().unwrap().keys();
            methods
                .map(|method| format!("{method} {path}"))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(examples, calls);
}

#[test]
fn every_code_is_in_the_table() {
    let is_code = |text: &&str| {
        let letters = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        letters && (text.contains('-') || ["mtu", "busy"].contains(text))
    };
    let page = page();
    let table = page.lines().filter(|line| line.starts_with("| "));
    let told: BTreeSet<&str> = table
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .filter(is_code)
        .collect();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = [
        "clusters",
        "core/links",
        "core/mod",
        "core/operators",
        "core/plans",
        "core/requests",
        "error",
        "link_checks",
        "core/drains",
        "drains/mod",
        "hosts",
        "http/mod",
        "http/clusters",
        "http/drains",
        "http/hosts",
        "http/moves",
        "jobs/clusters",
        "jobs/effect",
        "jobs/vms",
        "moves",
        "planning/checks",
        "planning/choose",
        "planning/drain",
        "planning/rules",
        "planning/forecasts",
        "planning/scene",
        "surveys",
        "vm_checks",
    ];
    let text: String = files
        .map(|file| std::fs::read_to_string(sources.join(file).with_extension("rs")).unwrap())
        .concat();
    let text = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut given: BTreeSet<&str> = text
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .filter(is_code)
        .collect();
    // Made in `Refused::unknown` from what is unknown.
    given.extend([
        "unknown-cluster",
        "unknown-drain",
        "unknown-host",
        "unknown-migration",
        "unknown-vm",
    ]);
    // Named in the crate of the API: the client knows it too.
    given.extend([
        transhume_api::COORDINATOR_ENDING,
        transhume_api::NO_BANDWIDTH,
        transhume_api::NO_LEADER,
        transhume_api::NOT_LEADER,
        transhume_api::TOO_SLOW,
    ]);
    assert_eq!(told, given);
}

#[test]
fn every_schema_is_named() {
    let command_line = std::fs::read_to_string(super::docs().join("cli.md")).unwrap();
    let pages = [page(), command_line];
    for name in super::documents().keys() {
        let file = format!("schema/{name}.json");
        assert!(
            pages.iter().any(|page| page.contains(&file)),
            "neither docs/api.md nor docs/cli.md names {file}"
        );
    }
}
