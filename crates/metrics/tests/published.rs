//! What is published beside the code names the metrics that there are: the dashboard none that are
//! not, the page each of them.
#![allow(missing_docs)]
#![allow(clippy::disallowed_methods, reason = "the files that are published")]

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use transhume_metrics::{About, Kind, agent, coordinator};

fn published(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(path).unwrap()
}

fn all() -> impl Iterator<Item = &'static About> {
    coordinator::ALL.iter().chain(agent::ALL)
}

/// The names that a metric's samples have.
fn series(about: &About) -> Vec<String> {
    let of = |suffix| format!("{}{suffix}", about.name);
    match about.kind {
        Kind::Histogram(_) => ["_bucket", "_sum", "_count"].map(of).to_vec(),
        Kind::Counter | Kind::Gauge => vec![of("")],
    }
}

fn dashboard() -> Value {
    serde_json::from_str(&published("packaging/grafana/transhume.json")).unwrap()
}

/// Every `expr` of a document, at whatever depth.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| expressions(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_of_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter| !is_of_name(letter));
    words.filter(|word| word.starts_with("transhume_")).collect()
}

/// What an expression groups by, or matches.
fn labels_of(expression: &str) -> Vec<&str> {
    let mut labels = Vec::new();
    for list in expression.split(" by (").skip(1) {
        let list = list.split(')').next().unwrap_or_default();
        labels.extend(list.split(',').map(str::trim));
    }
    for matchers in expression.split('{').skip(1) {
        let matchers = matchers.split('}').next().unwrap_or_default();
        let names = matchers
            .split(',')
            .filter_map(|matcher| matcher.split(['=', '!']).next());
        labels.extend(names);
    }
    // Prometheus' own.
    labels.retain(|label| !["le", "instance", "job"].contains(label));
    labels
}

#[test]
fn the_dashboard_asks_only_for_what_there_is() {
    let known: BTreeSet<String> = all().flat_map(series).collect();
    let mut asked = Vec::new();
    expressions(&dashboard(), &mut asked);
    assert!(asked.len() > 50, "only {} expressions were found", asked.len());
    for expression in &asked {
        let names = names(expression);
        assert!(!names.is_empty(), "{expression} asks for nothing");
        for name in names {
            assert!(known.contains(name), "there is no {name}: {expression}");
            let about = all().find(|about| series(about).iter().any(|series| series == name));
            for label in labels_of(expression) {
                let labels = about.unwrap().labels;
                assert!(
                    labels.contains(&label),
                    "{name} has no label {label}: {expression}"
                );
            }
        }
    }
}

#[test]
fn the_dashboard_shows_every_metric() {
    let text = dashboard().to_string();
    let shown = names(&text);
    for about in all() {
        let shown = series(about).iter().any(|name| shown.contains(name.as_str()));
        assert!(shown, "{} is on no panel", about.name);
    }
}

#[test]
fn rates_are_taken_of_counters_only() {
    let mut asked = Vec::new();
    expressions(&dashboard(), &mut asked);
    for about in all().filter(|about| about.kind == Kind::Gauge) {
        for function in ["rate", "increase"] {
            let wrong = format!("{function}({}", about.name);
            let found = asked.iter().find(|expression| expression.contains(&wrong));
            assert_eq!(found, None, "{} is a gauge", about.name);
        }
    }
}

#[test]
fn panels_have_numbers_of_their_own_and_do_not_overlap() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut taken = BTreeSet::new();
    for panel in panels {
        let at = |field: &str| panel["gridPos"][field].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{}", panel["title"]);
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{} lies on another panel", panel["title"]);
            }
        }
    }
}

#[test]
fn the_page_names_every_metric_and_no_other() {
    let page = published("docs/design/metrics.md");
    let told = names(&page);
    let known: BTreeSet<&str> = all().map(|about| about.name).collect();
    assert_eq!(told, known);
}
