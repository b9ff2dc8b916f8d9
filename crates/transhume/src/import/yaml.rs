//! An inventory as text that people go on editing.

use std::collections::BTreeMap;
use std::fmt::Write;

use transhume_model::GroupKind;

use super::{Site, SiteHost, SiteVm};

/// As YAML in flow style, a line for each thing.
pub(super) fn write(site: &Site, cluster: &str) -> String {
    let mut out = String::from(
        "# Imported by `transhume inventory import`. Add `from:`, groups, traffic and dirty rates by hand.\nhosts:\n",
    );
    // Writing to a String cannot fail.
    for host in &site.hosts {
        let _ = writeln!(out, "  - {}", flow(&host_fields(host)));
    }
    let _ = write!(out, "cluster:\n  name: {}\n  vms:\n", scalar(cluster));
    for vm in &site.vms {
        let _ = writeln!(out, "    - {}", flow(&vm_fields(vm)));
        for remark in &vm.remarks {
            let _ = writeln!(out, "      # {}", one_line(remark));
        }
    }
    if !site.groups.is_empty() {
        out.push_str("  groups:\n");
    }
    for group in &site.groups {
        let kind = match group.kind {
            GroupKind::Affinity => "affinity",
            GroupKind::AntiAffinity => "anti-affinity",
        };
        let vms: Vec<String> = group.vms.iter().map(|vm| scalar(vm)).collect();
        let fields = [
            ("name".to_owned(), scalar(&group.name)),
            ("kind".to_owned(), kind.to_owned()),
            ("vms".to_owned(), format!("[{}]", vms.join(", "))),
        ];
        let _ = writeln!(out, "    - {}", flow(&fields));
    }
    out
}

fn host_fields(host: &SiteHost) -> Vec<(String, String)> {
    let mut fields = vec![
        ("name".to_owned(), scalar(&host.name)),
        (
            "capacity".to_owned(),
            amounts(host.vcpus * 1000, host.memory_bytes),
        ),
    ];
    if host.used_vcpus > 0 || host.used_memory_bytes > 0 {
        let used = amounts(host.used_vcpus * 1000, host.used_memory_bytes);
        fields.push(("used".to_owned(), used));
    }
    if !host.labels.is_empty() {
        fields.push(("labels".to_owned(), map(&host.labels)));
    }
    if host.maintenance {
        fields.push(("maintenance".to_owned(), "true".to_owned()));
    }
    fields
}

fn vm_fields(vm: &SiteVm) -> Vec<(String, String)> {
    let mut fields = vec![
        ("name".to_owned(), scalar(&vm.name)),
        ("host".to_owned(), scalar(&vm.host)),
        ("demand".to_owned(), amounts(vm.milli_vcpus, vm.memory_bytes)),
    ];
    if !vm.selector.is_empty() {
        fields.push(("selector".to_owned(), map(&vm.selector)));
    }
    fields
}

fn amounts(milli_vcpus: u64, memory_bytes: u128) -> String {
    let vcpus = match milli_vcpus % 1000 {
        0 => (milli_vcpus / 1000).to_string(),
        _ => format!("{milli_vcpus}m"),
    };
    let memory = match memory_bytes % (1 << 20) {
        0 => (memory_bytes >> 20).to_string(),
        _ => format!("{memory_bytes}B"),
    };
    format!("{{vcpus: {vcpus}, memory: {memory}}}")
}

fn map(fields: &BTreeMap<String, String>) -> String {
    let fields: Vec<_> = fields
        .iter()
        .map(|(key, value)| (key.clone(), scalar(value)))
        .collect();
    flow(&fields)
}

fn flow(fields: &[(String, String)]) -> String {
    let fields: Vec<String> = fields
        .iter()
        .map(|(key, value)| format!("{}: {value}", scalar(key)))
        .collect();
    format!("{{{}}}", fields.join(", "))
}

/// Plain where nothing could take it for anything else, quoted as in JSON otherwise.
fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'));
    let word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word));
    match plain && !word {
        true => text.to_owned(),
        false => serde_json::Value::from(text).to_string(),
    }
}

fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_taken_for_something_else_is_quoted() {
        for (text, written) in [
            ("web-1.example.org", "web-1.example.org"),
            ("true", "\"true\""),
            ("No", "\"No\""),
            ("1e3", "\"1e3\""),
            ("a: b", "\"a: b\""),
            ("", "\"\""),
            ("quote\"s", "\"quote\\\"s\""),
        ] {
            assert_eq!(scalar(text), written);
        }
    }

    #[test]
    fn amounts_are_exact() {
        assert_eq!(amounts(1500, 5 << 20), "{vcpus: 1500m, memory: 5}");
        assert_eq!(amounts(2000, (1 << 20) + 1), "{vcpus: 2, memory: 1048577B}");
    }
}
