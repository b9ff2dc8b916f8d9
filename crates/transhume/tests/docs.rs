//! docs/schema holds a schema of each document of `--json`. Those of the coordinator's types are
//! derived (see the coordinator's tests); the lab's are written by hand, so this holds them against
//! what the types write, field by field.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use transhume_lab::apps::{AppFigures, AppRow};
use transhume_lab::{App, AppStats, Figures, PairFigures, VmFigures};

fn docs() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs"))
}

fn keys(object: &Value) -> BTreeSet<&str> {
    let object = object.as_object().expect("an object");
    object.keys().map(String::as_str).collect()
}

/// The same fields on both sides, all required, each of its type.
fn assert_same(schema: &Value, value: &Value, place: &str) {
    let is = match value {
        Value::Object(fields) => {
            assert_eq!(keys(&schema["properties"]), keys(value), "{place}");
            let required = schema["required"].as_array().expect("a list");
            assert_eq!(
                required.iter().filter_map(Value::as_str).collect::<BTreeSet<_>>(),
                keys(value),
                "{place}"
            );
            assert_eq!(schema["additionalProperties"], false, "{place}");
            for (name, value) in fields {
                assert_same(&schema["properties"][name], value, &format!("{place}/{name}"));
            }
            "object"
        }
        Value::Array(values) => {
            assert!(!values.is_empty(), "{place}: a sample of each list");
            values
                .iter()
                .for_each(|value| assert_same(&schema["items"], value, place));
            "array"
        }
        Value::String(_) => "string",
        Value::Number(_) => "integer",
        Value::Bool(_) => "boolean",
        Value::Null => "null",
    };
    match schema["type"].as_array() {
        // What may be absent; the sample has it.
        Some(types) => assert_eq!(types, &[json!(is), json!("null")], "{place}"),
        None => assert_eq!(schema["type"], is, "{place}"),
    }
}

#[test]
fn the_workloads_schema_is_what_its_type_writes() {
    let vm = |name: &str| name.parse().unwrap();
    let figures = Figures {
        vms: vec![VmFigures {
            id: vm("vm1"),
            sent: 1,
            received: 2,
            lost: 3,
            duplicated: 4,
            reordered: 5,
            gap_ms: 6,
            tcp_broken: 7,
            tcp_stall_ms: 8,
            disk_errors: 9,
            disk_writes: 10,
        }],
        pairs: vec![PairFigures {
            from: vm("vm1"),
            to: vm("vm2"),
            sent: 1,
            received: 2,
            duplicated: 3,
            reordered: 4,
        }],
    };
    let schema = std::fs::read_to_string(docs().join("schema/lab-workload.json")).unwrap();
    assert_same(&serde_json::from_str(&schema).unwrap(), &json!(figures), "");
}

#[test]
fn the_apps_schema_is_what_its_type_writes() {
    let stats = AppStats {
        trouble: Some("no answer".to_owned()),
        ..AppStats::default()
    };
    let figures = AppFigures {
        app: App::Etcd,
        total: stats.clone(),
        vms: vec![AppRow {
            id: "vm1".parse().unwrap(),
            stats,
        }],
    };
    let schema = std::fs::read_to_string(docs().join("schema/lab-app.json")).unwrap();
    assert_same(&serde_json::from_str(&schema).unwrap(), &json!(figures), "");
}

#[test]
fn every_schema_is_named_on_a_page() {
    let pages = ["cli.md", "api.md"].map(|page| std::fs::read_to_string(docs().join(page)).unwrap());
    for file in std::fs::read_dir(docs().join("schema")).unwrap() {
        let name = format!("schema/{}", file.unwrap().file_name().to_string_lossy());
        assert!(pages.iter().any(|page| page.contains(&name)), "{name}");
    }
}

#[test]
fn the_configurations_of_the_operators_page_are_taken() {
    let page = std::fs::read_to_string(docs().join("operating.md")).unwrap();
    let blocks = page.split("```toml\n").skip(1);
    let blocks: Vec<&str> = blocks.filter_map(|block| block.split("```").next()).collect();
    let [agent, coordinator] = blocks.as_slice() else {
        panic!("an agent's and a coordinator's, not {} blocks", blocks.len());
    };
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("operating-{}.toml", std::process::id()));
    std::fs::write(&file, agent).unwrap();
    transhume_agent::Config::read(&file).unwrap_or_else(|error| panic!("{error:?}"));
    std::fs::write(&file, coordinator).unwrap();
    transhume_coordinator::Config::read(&file).unwrap_or_else(|error| panic!("{error:?}"));
    std::fs::remove_file(&file).unwrap();
}
