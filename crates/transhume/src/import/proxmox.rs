//! Proxmox VE: `pvesh get /cluster/resources --output-format json` (Proxmox VE API, cluster
//! resources).

use std::collections::BTreeMap;

use serde_json::Value;
use transhume_planner::words::some;

use super::{Site, SiteHost, SiteVm, Unreadable, number, text, unique, vcpus};

const HINT: &str = "give the output of `pvesh get /cluster/resources --output-format json`";

pub(super) fn read(documents: &[Value]) -> Result<Site, Unreadable> {
    let mut site = Site::default();
    let mut ids = Vec::new();
    let mut used: BTreeMap<String, (u64, u128)> = BTreeMap::new();
    let (mut stopped, mut containers) = (0, 0);
    for document in documents {
        let items = document
            .as_array()
            .ok_or_else(|| Unreadable::new("the document is no list of resources", HINT))?;
        for item in items {
            let kind = item.get("type").and_then(Value::as_str);
            let running = item.get("status").and_then(Value::as_str) == Some("running");
            match kind {
                Some("node") => site.hosts.push(node(item)?),
                Some("qemu") if running => {
                    let (id, vm) = guest(item)?;
                    ids.push((vm.name.clone(), id));
                    site.vms.push(vm);
                }
                Some("lxc") if running => {
                    containers += 1;
                    let (_, guest) = guest(item)?;
                    let on = used.entry(guest.host).or_default();
                    *on = (on.0 + guest.milli_vcpus / 1000, on.1 + guest.memory_bytes);
                }
                Some("qemu" | "lxc") => stopped += 1,
                Some(_) => {}
                None => return Err(Unreadable::new("a resource has no `type`", HINT)),
            }
        }
    }
    if site.hosts.is_empty() {
        return Err(Unreadable::new("the list has no node", HINT));
    }
    for (vm, name) in site.vms.iter_mut().zip(unique(ids)) {
        vm.name = name;
    }
    for host in &mut site.hosts {
        if let Some((vcpus, memory)) = used.get(&host.name) {
            (host.used_vcpus, host.used_memory_bytes) = (*vcpus, *memory);
        }
    }
    if containers > 0 {
        site.notes.push(format!(
            "{}: what it may take counts as used, for containers do not move live",
            some(containers, "container")
        ));
    }
    if stopped > 0 {
        site.notes.push(format!(
            "{} that do not run, and take nothing: left out",
            some(stopped, "guest")
        ));
    }
    site.hosts.sort_by(|a, b| a.name.cmp(&b.name));
    site.vms.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(site)
}

fn node(item: &Value) -> Result<SiteHost, Unreadable> {
    let name = text(item, &["node"], "a node", HINT)?;
    let of = format!("node {name}");
    let online = item.get("status").and_then(Value::as_str) == Some("online");
    // A node that is off has no figures.
    let amount = |field: &str| match online {
        true => number(item, &[field], &of, HINT),
        false => Ok(item.get(field).and_then(Value::as_u64).unwrap_or(0)),
    };
    Ok(SiteHost {
        vcpus: match online {
            true => vcpus(item, &["maxcpu"], &of, HINT)?,
            false => 0,
        },
        memory_bytes: u128::from(amount("maxmem")?),
        maintenance: !online,
        name,
        ..SiteHost::default()
    })
}

fn guest(item: &Value) -> Result<(String, SiteVm), Unreadable> {
    let id = text(item, &["vmid"], "a guest", HINT)?;
    let of = format!("guest {id}");
    let name = item.get("name").and_then(Value::as_str).unwrap_or_default();
    let kept = ["tags", "pool", "hastate"].iter().filter_map(|field| {
        let value = item.get(field)?.as_str().filter(|text| !text.is_empty())?;
        Some(format!("{field}: {value}"))
    });
    let vm = SiteVm {
        name: name.to_owned(),
        host: text(item, &["node"], &of, HINT)?,
        milli_vcpus: vcpus(item, &["maxcpu"], &of, HINT)? * 1000,
        memory_bytes: u128::from(number(item, &["maxmem"], &of, HINT)?),
        remarks: kept.collect(),
        ..SiteVm::default()
    };
    Ok((id, vm))
}
