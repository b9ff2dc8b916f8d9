//! OpenStack: what `openstack hypervisor list --long`, `server list --all-projects --long`, `flavor
//! list --all` and `server group list --long` print with `-f json`. Which list a file holds is told
//! by its fields. Memory is in MiB (Nova API).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use transhume_model::GroupKind;
use transhume_planner::words::some;

use super::{Site, SiteGroup, SiteHost, SiteVm, Unreadable, number, text, unique, vcpus};

const HINT: &str = "give the `-f json` output of `openstack hypervisor list --long`, `openstack server list --all-projects --long`, \
    `openstack flavor list --all`, and of `openstack server group list --long` if there are any";
const FIGURES: &str =
    "newer API versions leave the figures of hypervisors out: add `--os-compute-api-version 2.87`";

pub(super) fn read(documents: &[Value]) -> Result<Site, Unreadable> {
    let mut site = Site::default();
    let mut flavors: BTreeMap<String, (u64, u128)> = BTreeMap::new();
    let (mut servers, mut groups) = (Vec::new(), Vec::new());
    for document in documents {
        let items = document
            .as_array()
            .ok_or_else(|| Unreadable::new("a document is no list", HINT))?;
        for item in items {
            let has = |field: &str| item.get(field).is_some();
            if has("Hypervisor Hostname") {
                site.hosts.push(hypervisor(item)?);
            } else if has("VCPUs") && has("RAM") {
                let name = text(item, &["Name"], "a flavor", HINT)?;
                let of = format!("flavor {name}");
                let vcpus = vcpus(item, &["VCPUs"], &of, HINT)?;
                let memory = u128::from(number(item, &["RAM"], &of, HINT)?) << 20;
                flavors.insert(name, (vcpus, memory));
            } else if has("Members") {
                groups.push(item);
            } else if has("Status") && has("Host") {
                servers.push(item);
            } else {
                return Err(Unreadable::new("a document is none of the four lists", HINT));
            }
        }
    }
    if site.hosts.is_empty() {
        return Err(Unreadable::new("no list has a hypervisor", HINT));
    }
    let names = take_servers(&mut site, &servers, &flavors)?;
    for group in groups {
        site.groups.extend(server_group(group, &names)?);
    }
    site.notes
        .push("allocation ratios are not in these lists: add `overcommit` by hand".to_owned());
    site.hosts.sort_by(|a, b| a.name.cmp(&b.name));
    site.vms.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(site)
}

fn hypervisor(item: &Value) -> Result<SiteHost, Unreadable> {
    let name = text(item, &["Hypervisor Hostname"], "a hypervisor", HINT)?;
    let of = format!("hypervisor {name}");
    let figure = |field: &str| number(item, &[field], &of, FIGURES);
    let up = item.get("State").and_then(Value::as_str) != Some("down");
    let kind = item.get("Hypervisor Type").and_then(Value::as_str);
    Ok(SiteHost {
        vcpus: vcpus(item, &["vCPUs"], &of, FIGURES)?,
        memory_bytes: u128::from(figure("Memory MB")?) << 20,
        used_vcpus: vcpus(item, &["vCPUs Used"], &of, FIGURES)?,
        used_memory_bytes: u128::from(figure("Memory MB Used")?) << 20,
        labels: kind
            .map(|kind| ("hypervisor-type".to_owned(), kind.to_owned()))
            .into_iter()
            .collect(),
        maintenance: !up,
        name,
    })
}

/// The name of each server by its id. What a host has promised to these servers is not promised to
/// others.
fn take_servers(
    site: &mut Site,
    servers: &[&Value],
    flavors: &BTreeMap<String, (u64, u128)>,
) -> Result<BTreeMap<String, String>, Unreadable> {
    let mut names = Vec::new();
    let mut vms = Vec::new();
    let mut left_out = 0;
    for item in servers {
        let id = text(item, &["ID"], "a server", HINT)?;
        let of = format!("server {id}");
        let status = text(item, &["Status"], &of, HINT)?;
        let host = item.get("Host").and_then(Value::as_str).unwrap_or_default();
        if !matches!(status.as_str(), "ACTIVE" | "PAUSED") || host.is_empty() {
            left_out += 1;
            continue;
        }
        let flavor = text(item, &["Flavor Name", "Flavor"], &of, HINT)?;
        let Some((vcpus, memory)) = flavors.get(&flavor) else {
            let what = format!("{of} has the flavor `{flavor}`, which no list describes");
            return Err(Unreadable::new(
                what,
                "give `openstack flavor list --all -f json` too",
            ));
        };
        let zone = item.get("Availability Zone").and_then(Value::as_str);
        names.push((
            item.get("Name")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            id,
        ));
        vms.push(SiteVm {
            host: host.to_owned(),
            milli_vcpus: vcpus * 1000,
            memory_bytes: *memory,
            remarks: zone
                .map(|zone| format!("availability zone: {zone}"))
                .into_iter()
                .collect(),
            ..SiteVm::default()
        });
    }
    let ids: Vec<String> = names.iter().map(|(_, id)| id.clone()).collect();
    let names = unique(names);
    for (vm, name) in vms.iter_mut().zip(&names) {
        vm.name.clone_from(name);
        // A server names its host as the compute service is called, often without the domain.
        let own = |host: &&mut SiteHost| {
            host.name == vm.host || host.name.split('.').next() == Some(vm.host.as_str())
        };
        if let Some(host) = site.hosts.iter_mut().find(own) {
            vm.host.clone_from(&host.name);
            host.used_vcpus = host.used_vcpus.saturating_sub(vm.milli_vcpus / 1000);
            host.used_memory_bytes = host.used_memory_bytes.saturating_sub(vm.memory_bytes);
        }
    }
    site.vms = vms;
    if left_out > 0 {
        site.notes
            .push(format!("{} that do not run: left out", some(left_out, "server")));
    }
    Ok(ids.into_iter().zip(names).collect())
}

/// A server group with a policy that binds; soft ones do not.
fn server_group(item: &Value, names: &BTreeMap<String, String>) -> Result<Option<SiteGroup>, Unreadable> {
    let name = text(item, &["Name"], "a server group", HINT)?;
    let of = format!("server group {name}");
    let policy = text(item, &["Policy", "Policies"], &of, HINT)?;
    let kind = match policy.trim_matches(|c: char| !c.is_ascii_alphabetic()) {
        "affinity" => GroupKind::Affinity,
        "anti-affinity" => GroupKind::AntiAffinity,
        _ => return Ok(None),
    };
    let members: BTreeSet<String> = match item.get("Members") {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(Value::String(ids)) => ids.split(',').map(|id| id.trim().to_owned()).collect(),
        _ => BTreeSet::new(),
    };
    Ok(Some(SiteGroup {
        name,
        kind,
        vms: members.iter().filter_map(|id| names.get(id)).cloned().collect(),
    }))
}
