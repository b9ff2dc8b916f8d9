//! What docs/ says about the API's documents is derived from the very types: `docs/openapi.json`
//! and `docs/schema/`.
//!
//! When a type has changed on purpose: `UPDATE_DOCS=1 cargo test -p transhume-coordinator --test
//! docs`, and commit the files.

mod happenings;
mod page;
mod samples;
mod validate;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use transhume_api::{
    Accepted, ClusterList, ClusterView, Decision, DrainList, DrainPlanView, DrainView, ForecastRecord,
    HostFence, HostList, HostView, LinkView, MigrationList, MoveOrder, MoveResolution, PlanView, Problem,
    Verdict, VmCheck, VmRestart, VmStart, VmStop,
};
use transhume_model::{ClusterSpec, PlacementRules};
use transhume_planner::report::PlanReport;
use transhume_protocol::event::Event;
use transhume_protocol::report::MigrationReport;
use utoipa::ToSchema;

const UPDATE: &str = "UPDATE_DOCS";

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// Compares a published file with what it should be, or publishes it.
fn publish(name: &str, current: &str) {
    let path = docs().join(name);
    let current = format!("{}\n", current.trim_end());
    if std::env::var_os(UPDATE).is_some() {
        return std::fs::write(&path, current).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        published == current,
        "docs/{name} is not what the types say: run `{UPDATE}=1 cargo test -p transhume-coordinator --test docs` and commit it"
    );
}

/// A type's schema as a document of its own: what OpenAPI keeps as components is under `$defs`.
fn document<T: ToSchema>(title: &str) -> Value {
    let mut components = Vec::new();
    T::schemas(&mut components);
    let components: BTreeMap<_, _> = components.into_iter().collect();
    let defs: Map<String, Value> = components
        .into_iter()
        .map(|(name, schema)| (name, serde_json::to_value(schema).unwrap()))
        .collect();
    let mut document = json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "title": title });
    let own = serde_json::to_value(T::schema()).unwrap();
    let all = document.as_object_mut().unwrap();
    all.extend(own.as_object().unwrap().clone());
    all.insert("$defs".to_owned(), Value::Object(defs));
    let text = document.to_string().replace("#/components/schemas/", "#/$defs/");
    serde_json::from_str(&text).unwrap()
}

/// Every document of a `--json`, and what goes in and comes out besides: file name under
/// docs/schema, schema.
fn documents() -> BTreeMap<&'static str, Value> {
    BTreeMap::from([
        ("hosts", document::<HostList>("transhume hosts --json")),
        (
            "cluster-list",
            document::<ClusterList>("transhume cluster list --json"),
        ),
        (
            "cluster-show",
            document::<ClusterView>("transhume cluster show NAME --json"),
        ),
        ("cluster", document::<ClusterSpec>("POST /v1/clusters")),
        (
            "cluster-rules",
            document::<PlacementRules>("`cluster rules NAME --json`, GET and PUT /v1/clusters/{name}/rules"),
        ),
        (
            "order",
            document::<MoveOrder>(
                "POST /v1/clusters/NAME/plan and …/migrations, /v1/drain-plan and /v1/drains",
            ),
        ),
        (
            "vm-start",
            document::<VmStart>("POST /v1/clusters/NAME/vms/VM/start"),
        ),
        (
            "vm-stop",
            document::<VmStop>("POST /v1/clusters/NAME/vms/VM/stop"),
        ),
        (
            "vm-check",
            document::<VmCheck>("POST /v1/clusters/NAME/vms/VM/check"),
        ),
        (
            "vm-restart",
            document::<VmRestart>("POST /v1/clusters/NAME/vms/VM/restart"),
        ),
        ("host-fence", document::<HostFence>("POST /v1/hosts/NAME/fence")),
        (
            "decision",
            document::<Decision>(
                "POST /v1/hosts/NAME/cordon, uncordon, forget; POST /v1/clusters/NAME/vms/VM/open-plug",
            ),
        ),
        (
            "move-resolution",
            document::<MoveResolution>("POST /v1/migrations/N/resolve"),
        ),
        (
            "verdict",
            document::<Verdict>("transhume host fence --json, migration resolve --json, vm open-plug --json"),
        ),
        ("link", document::<LinkView>("transhume check link H1 H2 --json")),
        ("host", document::<HostView>("transhume host show NAME --json")),
        (
            "drain",
            document::<DrainView>("transhume drain HOSTS --json, drains --cancel N --json"),
        ),
        ("drains", document::<DrainList>("transhume drains --json")),
        (
            "drain-plan",
            document::<DrainPlanView>("transhume drain HOSTS --dry-run --json"),
        ),
        ("plan", document::<PlanView>("transhume plan NAME --json")),
        (
            "report",
            document::<MigrationReport>("transhume report, migrate and follow --json"),
        ),
        (
            "migrations",
            document::<MigrationList>("transhume migrations --json"),
        ),
        (
            "forecasts",
            document::<ForecastRecord>("transhume report --all --json"),
        ),
        (
            "plan-inventory",
            document::<PlanReport>("transhume plan --inventory FILE --json"),
        ),
        ("cancel", document::<Accepted>("transhume cancel N --json")),
        (
            "event",
            document::<Event>("GET /v1/migrations/N/events, one event"),
        ),
        ("problem", document::<Problem>("any answer that is not a success")),
    ])
}

#[test]
fn the_openapi_document_is_published() {
    publish("openapi.json", &transhume_coordinator::openapi());
}

#[test]
fn every_schema_is_published() {
    for (name, schema) in documents() {
        publish(
            &format!("schema/{name}.json"),
            &serde_json::to_string_pretty(&schema).unwrap(),
        );
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let openapi: Value = serde_json::from_str(&transhume_coordinator::openapi()).unwrap();
    let mut documents = documents();
    documents.insert("openapi", openapi);
    for (name, document) in &documents {
        let mut found = BTreeSet::new();
        references(document, &mut found);
        for reference in found {
            let target = reference
                .strip_prefix('#')
                .and_then(|pointer| document.pointer(pointer));
            assert!(target.is_some(), "{name}: {reference}");
        }
    }
}

#[test]
fn what_the_types_write_is_what_the_schemas_say() {
    let documents = documents();
    let mut seen = BTreeSet::new();
    for (name, sample) in samples::all() {
        seen.insert(name);
        let wrong = validate::check(&documents[name], &sample);
        assert!(wrong.is_empty(), "{name}: {wrong:?}\n{sample:#}");
    }
    let names: BTreeSet<&str> = documents.keys().copied().collect();
    assert_eq!(seen, names, "each schema has a sample");
}

#[test]
fn what_is_not_what_the_schemas_say_is_found() {
    let documents = documents();
    let (_, report) = samples::all()
        .into_iter()
        .find(|(name, _)| *name == "report")
        .unwrap();
    let wrongs: [(&str, Value); 4] = [
        ("/vms/0/blackout_ms", json!("12 ms")),
        ("/outcome", json!("rolled_back")),
        ("/vms/0/frames/lost", json!(-1)),
        ("/cluster", json!("No Name")),
    ];
    for (place, value) in wrongs {
        let mut report = report.clone();
        *report.pointer_mut(place).unwrap() = value;
        let wrong = validate::check(&documents["report"], &report);
        assert!(
            wrong.iter().any(|what| what.contains(place)),
            "{place}: {wrong:?}"
        );
    }
    let mut report = report;
    report.as_object_mut().unwrap().remove("frames");
    assert!(!validate::check(&documents["report"], &report).is_empty());
}
