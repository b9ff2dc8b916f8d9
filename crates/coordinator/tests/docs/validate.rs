//! As much of JSON Schema (draft 2020-12) as our own schemas use. A keyword that is not known here
//! is reported, not passed over.

use serde_json::Value;

/// Keywords that say nothing about what is allowed.
const NOTES: [&str; 7] = [
    "$schema",
    "$defs",
    "title",
    "description",
    "example",
    "default",
    "format",
];

const UNKNOWN: &str = "unknown field";

/// Everything that is wrong with a value, each with its place.
pub fn check(root: &Value, value: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    at(root, root, value, "", &mut wrong);
    wrong
}

fn at(root: &Value, schema: &Value, value: &Value, place: &str, wrong: &mut Vec<String>) {
    let Some(keywords) = schema.as_object() else {
        return wrong.push(format!("{place}: {schema} is no schema"));
    };
    for (keyword, says) in keywords {
        let fits = |schema: &Value| {
            let mut inner = Vec::new();
            at(root, schema, value, place, &mut inner);
            inner
        };
        match (keyword.as_str(), says) {
            (note, _) if NOTES.contains(&note) => {}
            ("$ref", Value::String(reference)) => {
                let target = reference
                    .strip_prefix('#')
                    .and_then(|pointer| root.pointer(pointer));
                wrong.extend(fits(target.unwrap_or(&Value::Null)));
            }
            ("allOf", Value::Array(all)) => wrong.extend(all_of(all.iter().map(fits).collect())),
            ("oneOf", Value::Array(one)) => {
                let results: Vec<_> = one.iter().map(fits).collect();
                let fitting = results.iter().filter(|result| result.is_empty()).count();
                if fitting != 1 {
                    wrong.push(format!("{place}: fits {fitting} of {} forms", one.len()));
                    wrong.extend(results.into_iter().flatten());
                }
            }
            ("type", says) => {
                let is = |name: &Value| name.as_str().is_some_and(|name| is_type(value, name));
                if !says
                    .as_array()
                    .map_or_else(|| is(says), |names| names.iter().any(is))
                {
                    wrong.push(format!("{place}: {value} is not {says}"));
                }
            }
            ("enum", Value::Array(allowed)) if !allowed.contains(value) => {
                wrong.push(format!("{place}: {value} is none of {says}"));
            }
            ("enum", Value::Array(_)) => {}
            ("minimum", least) => {
                if value
                    .as_f64()
                    .zip(least.as_f64())
                    .is_some_and(|(value, least)| value < least)
                {
                    wrong.push(format!("{place}: {value} is below {least}"));
                }
            }
            ("pattern", Value::String(pattern)) => {
                if value.as_str().is_some_and(|text| !matches(pattern, text)) {
                    wrong.push(format!("{place}: {value} does not match {pattern}"));
                }
            }
            ("required", Value::Array(names)) => {
                let missing =
                    |name: &&Value| value.is_object() && value.get(name.as_str().unwrap()).is_none();
                wrong.extend(
                    names
                        .iter()
                        .filter(missing)
                        .map(|name| format!("{place}: no {name}")),
                );
            }
            ("properties", Value::Object(properties)) => {
                for (name, inner) in value.as_object().into_iter().flatten() {
                    match properties.get(name) {
                        Some(schema) => at(root, schema, inner, &format!("{place}/{name}"), wrong),
                        // Stricter than the standard: our documents have no field that their schema
                        // does not name.
                        None => wrong.push(format!("{place}: {UNKNOWN} {name}")),
                    }
                }
            }
            // Held of every object, above.
            ("additionalProperties", Value::Bool(false)) => {}
            // A map: of our objects with named fields none has others.
            ("additionalProperties", each) if !keywords.contains_key("properties") => {
                for (name, inner) in value.as_object().into_iter().flatten() {
                    at(root, each, inner, &format!("{place}/{name}"), wrong);
                }
            }
            ("propertyNames", names) => {
                for name in value.as_object().into_iter().flatten().map(|(name, _)| name) {
                    let name = Value::String(name.clone());
                    at(root, names, &name, place, wrong);
                }
            }
            ("prefixItems", Value::Array(each)) => {
                let inner = value.as_array().into_iter().flatten();
                for (index, (schema, inner)) in each.iter().zip(inner).enumerate() {
                    at(root, schema, inner, &format!("{place}/{index}"), wrong);
                }
            }
            ("items", items) => {
                let prefix = keywords.get("prefixItems").and_then(Value::as_array);
                let prefix = prefix.map_or(0, Vec::len);
                let inner = value.as_array().into_iter().flatten().enumerate().skip(prefix);
                for (index, inner) in inner {
                    at(root, items, inner, &format!("{place}/{index}"), wrong);
                }
            }
            (keyword, _) => wrong.push(format!("{place}: the keyword {keyword} is not known")),
        }
    }
}

/// Parts of one object: a field is unknown when no part names it.
fn all_of(parts: Vec<Vec<String>>) -> Vec<String> {
    let named = |what: &String| what.contains(UNKNOWN) && parts.iter().any(|part| !part.contains(what));
    let wrong = parts.iter().flatten().filter(|what| !named(what));
    wrong.cloned().collect()
}

fn is_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        _ => false,
    }
}

/// The patterns of `model`, by the types that check them.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern {
        r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$" => text.parse::<transhume_model::ClusterName>().is_ok(),
        r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,252}$" => text.parse::<transhume_model::HostName>().is_ok(),
        r"^[^\x00-\x20./\\-][^\x00-\x1f/\\]{0,199}$" => text.parse::<transhume_model::VmName>().is_ok(),
        "^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$" => text.parse::<transhume_model::Mac>().is_ok(),
        _ => false,
    }
}
