//! Kubernetes with KubeVirt: `kubectl get nodes,vmi -A -o json` (Node v1, VirtualMachineInstance
//! kubevirt.io/v1; quantities as in the Kubernetes API).

use std::collections::BTreeMap;

use serde_json::Value;
use transhume_planner::words::some;

use super::{Site, SiteHost, SiteVm, Unreadable, VCPUS_MAX, text};

const HINT: &str = "give the output of `kubectl get nodes,vmi -A -o json`";

pub(super) fn read(documents: &[Value]) -> Result<Site, Unreadable> {
    let mut site = Site::default();
    let mut left_out = 0;
    for document in documents {
        let items = document
            .get("items")
            .and_then(Value::as_array)
            .ok_or_else(|| Unreadable::new("the document is no `List`", HINT))?;
        for item in items {
            match item.get("kind").and_then(Value::as_str) {
                Some("Node") => site.hosts.push(node(item)?),
                Some("VirtualMachineInstance") => match instance(item)? {
                    Some(vm) => site.vms.push(vm),
                    None => left_out += 1,
                },
                Some(_) => {}
                None => return Err(Unreadable::new("an item has no `kind`", HINT)),
            }
        }
    }
    if site.hosts.is_empty() {
        return Err(Unreadable::new("the list has no node", HINT));
    }
    if left_out > 0 {
        site.notes.push(format!(
            "{} that do not run: left out",
            some(left_out, "instance")
        ));
    }
    site.notes
        .push("what other pods take of the nodes is not in this list: add `used` by hand".to_owned());
    Ok(site)
}

fn node(item: &Value) -> Result<SiteHost, Unreadable> {
    let name = name_of(item, "a node")?;
    let of = format!("node {name}");
    let amounts = item
        .pointer("/status/allocatable")
        .or_else(|| item.pointer("/status/capacity"))
        .ok_or_else(|| Unreadable::new(format!("{of} has no field `status.allocatable`"), HINT))?;
    let cpu = text(amounts, &["cpu"], &of, HINT)?;
    let memory = text(amounts, &["memory"], &of, HINT)?;
    Ok(SiteHost {
        // Whole processors: a part of one is not offered.
        vcpus: milli(&cpu, &of)? / 1000,
        memory_bytes: bytes(&memory, &of)?,
        labels: strings(item.pointer("/metadata/labels")),
        maintenance: item.pointer("/spec/unschedulable").and_then(Value::as_bool) == Some(true),
        name,
        ..SiteHost::default()
    })
}

/// `None` where it does not run.
fn instance(item: &Value) -> Result<Option<SiteVm>, Unreadable> {
    let name = name_of(item, "an instance")?;
    let space = item
        .pointer("/metadata/namespace")
        .and_then(Value::as_str)
        .unwrap_or("default");
    let of = format!("instance {space}/{name}");
    let running = item.pointer("/status/phase").and_then(Value::as_str) == Some("Running");
    let Some(host) = item
        .pointer("/status/nodeName")
        .and_then(Value::as_str)
        .filter(|_| running)
    else {
        return Ok(None);
    };
    let at = |path: &str| item.pointer(&format!("/spec/domain/{path}"));
    let count = |path: &str| at(path).and_then(Value::as_u64);
    let sockets = count("cpu/cores")
        .or_else(|| count("cpu/sockets"))
        .or_else(|| count("cpu/threads"));
    let vcpus = match (
        sockets,
        at("resources/requests/cpu").or_else(|| at("resources/limits/cpu")),
    ) {
        (Some(_), _) => {
            let part = |path: &str| count(path).unwrap_or(1);
            let product = part("cpu/cores")
                .checked_mul(part("cpu/sockets"))
                .and_then(|cores| cores.checked_mul(part("cpu/threads")));
            product
                .filter(|vcpus| *vcpus <= VCPUS_MAX)
                .map(|vcpus| vcpus * 1000)
                .ok_or_else(|| Unreadable::new(format!("{of} is said to have too many processors"), HINT))?
        }
        (None, Some(Value::String(cpu))) => milli(cpu, &of)?,
        (None, Some(cpu)) => milli(&cpu.to_string(), &of)?,
        (None, None) => 1000,
    };
    let memory = at("memory/guest")
        .or_else(|| at("resources/requests/memory"))
        .and_then(Value::as_str)
        .ok_or_else(|| {
            Unreadable::new(
                format!("{of} has no `domain.memory.guest` and requests no memory"),
                HINT,
            )
        })?;
    let conditions = item.pointer("/status/conditions").and_then(Value::as_array);
    let stays = conditions.into_iter().flatten().find(|condition| {
        condition.get("type").and_then(Value::as_str) == Some("LiveMigratable")
            && condition.get("status").and_then(Value::as_str) == Some("False")
    });
    let why = stays
        .and_then(|condition| condition.get("message"))
        .and_then(Value::as_str);
    let labels = strings(item.pointer("/metadata/labels"));
    let labels = labels.iter().map(|(key, value)| format!("label {key}: {value}"));
    Ok(Some(SiteVm {
        name: format!("{space}.{name}"),
        host: host.to_owned(),
        milli_vcpus: vcpus,
        memory_bytes: bytes(memory, &of)?,
        selector: strings(item.pointer("/spec/nodeSelector")),
        remarks: why
            .map(|why| format!("not live-migratable there: {why}"))
            .into_iter()
            .chain(labels)
            .collect(),
    }))
}

fn name_of(item: &Value, of: &str) -> Result<String, Unreadable> {
    let metadata = item.get("metadata").unwrap_or(&Value::Null);
    text(metadata, &["name"], of, HINT)
}

fn strings(map: Option<&Value>) -> BTreeMap<String, String> {
    let fields = map.and_then(Value::as_object).into_iter().flatten();
    fields
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// Thousandths of a processor: `2`, `1500m`, `0.5`.
fn milli(quantity: &str, of: &str) -> Result<u64, Unreadable> {
    let read = match quantity.strip_suffix('m') {
        Some(milli) => milli.parse().ok().filter(|milli| *milli <= VCPUS_MAX * 1000),
        None => {
            let cpus: Option<f64> = quantity.parse().ok();
            cpus.filter(|cpus| (0.0..=1e6).contains(cpus))
                .map(|cpus| (cpus * 1000.0).ceil() as u64)
        }
    };
    read.ok_or_else(|| Unreadable::new(format!("{of}: `{quantity}` is no number of processors"), HINT))
}

/// Bytes: `2Gi`, `500M`, `1048576`, `1.5Gi`.
fn bytes(quantity: &str, of: &str) -> Result<u128, Unreadable> {
    const UNITS: [(&str, u64); 11] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("", 1),
    ];
    let found = UNITS.iter().find_map(|(suffix, unit)| {
        let amount = quantity.strip_suffix(suffix)?;
        let (whole, part) = amount.split_once('.').unwrap_or((amount, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 9 {
            return None;
        }
        let unit = u128::from(*unit);
        let whole = whole.parse::<u128>().ok()?.checked_mul(unit)?;
        let scale = 10u128.pow(u32::try_from(part.len()).ok()?);
        let part = match part.is_empty() {
            true => 0,
            false => (part.parse::<u128>().ok()? * unit).div_ceil(scale),
        };
        whole.checked_add(part)
    });
    found.ok_or_else(|| Unreadable::new(format!("{of}: `{quantity}` is no amount of memory"), HINT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_exactly() {
        let read = |text| bytes(text, "x").unwrap();
        assert_eq!(read("2Gi"), 2 << 30);
        assert_eq!(read("1.5Gi"), 3 << 29);
        assert_eq!(read("500M"), 500_000_000);
        assert_eq!(read("1048576"), 1 << 20);
        assert_eq!(milli("1500m", "x"), Ok(1500));
        assert_eq!(milli("0.5", "x"), Ok(500));
        for bad in ["", "Gi", "-1Gi", "2 Gi", "1e3", "x"] {
            assert!(bytes(bad, "x").is_err(), "{bad}");
        }
        assert!(milli("many", "x").is_err() && milli("-1", "x").is_err());
    }
}
