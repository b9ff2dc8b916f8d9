//! `transhume inventory import`: what others know of hosts and VMs, as an inventory that `plan
//! --inventory` reads. Nothing is asked but read, nothing is changed.
//!
//! ```text
//!  lists as their tools print them ─▶ Site ─▶ YAML ─▶ read by the planner's own reader ─▶ stdout
//! ```
//!
//! Deliberately absent: dirty rates, links and traffic, which none of these lists has.

mod kubevirt;
mod openstack;
mod proxmox;
mod virsh;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::Value;
use transhume_model::GroupKind;
use transhume_planner::input::{TEXT_BYTES_MAX, read};
use transhume_planner::words::some;

use crate::args::ImportSource;
use crate::failure::{Failure, Kind};
use crate::plan_file::read_text;

/// What was read, in the inventory's words. Amounts are texts with their units: the planner's
/// reader rounds them to the safe side.
#[derive(Debug, Default, PartialEq)]
struct Site {
    hosts: Vec<SiteHost>,
    vms: Vec<SiteVm>,
    groups: Vec<SiteGroup>,
    /// What was left out or assumed.
    notes: Vec<String>,
}

#[derive(Debug, Default, PartialEq)]
struct SiteHost {
    name: String,
    vcpus: u64,
    memory_bytes: u128,
    used_vcpus: u64,
    used_memory_bytes: u128,
    labels: BTreeMap<String, String>,
    /// Nothing is to be put on it.
    maintenance: bool,
}

#[derive(Debug, Default, PartialEq)]
struct SiteVm {
    name: String,
    host: String,
    /// Thousandths of a processor.
    milli_vcpus: u64,
    memory_bytes: u128,
    selector: BTreeMap<String, String>,
    /// What the inventory has no field for; kept as a comment.
    remarks: Vec<String>,
}

#[derive(Debug, PartialEq)]
struct SiteGroup {
    name: String,
    kind: GroupKind,
    vms: Vec<String>,
}

/// Why a list cannot be read, and what would help.
#[derive(Debug, PartialEq, Eq)]
struct Unreadable {
    what: String,
    hint: String,
}

impl Unreadable {
    fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            hint: hint.into(),
        }
    }
}

pub async fn run(command: ImportSource) -> Result<ExitCode, Failure> {
    let (read, cluster) = match command {
        ImportSource::Proxmox { files, cluster } => (proxmox::read(&documents(&files)?), cluster),
        ImportSource::Openstack { files, cluster } => (openstack::read(&documents(&files)?), cluster),
        ImportSource::Kubevirt { files, cluster } => (kubevirt::read(&documents(&files)?), cluster),
        ImportSource::Libvirt { uris, cluster } => (virsh::read(&uris).await, cluster),
    };
    let site = read.map_err(|error| Failure::new(Kind::Refused, error.what, error.hint))?;
    let text = written(site, &cluster)?;
    out!("{text}");
    Ok(ExitCode::SUCCESS)
}

/// The inventory as text, which the planner's own reader takes.
fn written(mut site: Site, cluster: &str) -> Result<String, Failure> {
    tidy(&mut site);
    let text = yaml::write(&site, cluster);
    let hint = "the list has something that no inventory can hold; leave it out of the list";
    read("inventory", &text).map_err(|error| Failure::new(Kind::Refused, error.to_string(), hint))?;
    site.notes.iter().for_each(|note| eprintln!("note: {note}"));
    eprintln!(
        "{} on {}; links are assumed, and constraints that the lists do not tell are missing: add them by hand",
        some(site.vms.len(), "VM"),
        some(site.hosts.len(), "host")
    );
    Ok(text)
}

/// Names are told apart, VMs without a host left out, groups of one too.
fn tidy(site: &mut Site) {
    let hosts: BTreeSet<&str> = site.hosts.iter().map(|host| host.name.as_str()).collect();
    let (kept, left): (Vec<SiteVm>, Vec<SiteVm>) = std::mem::take(&mut site.vms)
        .into_iter()
        .partition(|vm| hosts.contains(vm.host.as_str()));
    if !left.is_empty() {
        let count = some(left.len(), "VM");
        site.notes
            .push(format!("{count} on hosts that are not listed: left out"));
    }
    site.vms = kept;
    let known: BTreeSet<String> = site.vms.iter().map(|vm| vm.name.clone()).collect();
    for group in &mut site.groups {
        group.vms.retain(|vm| known.contains(vm));
    }
    site.groups.retain(|group| group.vms.len() > 1);
}

/// The documents in the files; `-` is stdin.
fn documents(files: &[PathBuf]) -> Result<Vec<Value>, Failure> {
    let hint = "give the files that the tools printed; `transhume inventory import --help` says how";
    let read = |file: &PathBuf| {
        let text = match file.as_os_str() == "-" {
            true => from_stdin()?,
            false => read_text(file, "the list", hint)?,
        };
        serde_json::from_str(&text).map_err(|error| {
            let what = format!("{} is not JSON: {error}", file.display());
            Failure::new(Kind::Refused, what, hint)
        })
    };
    files.iter().map(read).collect()
}

fn from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin()
        .take(TEXT_BYTES_MAX as u64 + 1)
        .read_to_string(&mut text);
    match read {
        Ok(length) if length <= TEXT_BYTES_MAX => Ok(text),
        Ok(_) => Err(Failure::new(
            Kind::Refused,
            format!("more than {TEXT_BYTES_MAX} bytes"),
            "import one cluster at a time",
        )),
        Err(error) => Err(Failure::other(error)),
    }
}

/// More processors than any host or VM has: what is above is a slip.
const VCPUS_MAX: u64 = 1_000_000;

/// A number of processors.
fn vcpus(item: &Value, names: &[&str], of: &str, hint: &str) -> Result<u64, Unreadable> {
    let read = number(item, names, of, hint)?;
    match read <= VCPUS_MAX {
        true => Ok(read),
        false => Err(Unreadable::new(
            format!("{of} is said to have {read} processors"),
            hint,
        )),
    }
}

/// A name for each of several things that others allow to be called alike.
fn unique(names: Vec<(String, String)>) -> Vec<String> {
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for (name, _) in &names {
        *times.entry(name.clone()).or_default() += 1;
    }
    let alone = |name: &str| times.get(name) == Some(&1);
    // A name that is one thing's own is not given to another.
    let mut taken: BTreeSet<String> = times.keys().cloned().collect();
    let mut given = |name: String, id: &str| {
        let first = if name.is_empty() {
            id.to_owned()
        } else {
            format!("{name}-{id}")
        };
        let mut new = first;
        while !taken.insert(new.clone()) {
            new = format!("{new}-{id}");
        }
        new
    };
    names
        .into_iter()
        .map(|(name, id)| match !name.is_empty() && alone(&name) {
            true => name,
            false => given(name, &id),
        })
        .collect()
}

/// A field of a list that has to be there.
fn field<'a>(item: &'a Value, names: &[&str], of: &str, hint: &str) -> Result<&'a Value, Unreadable> {
    let found = names.iter().find_map(|name| item.get(name));
    found
        .filter(|value| !value.is_null())
        .ok_or_else(|| Unreadable::new(format!("{of} has no field `{}`", names[0]), hint))
}

fn text(item: &Value, names: &[&str], of: &str, hint: &str) -> Result<String, Unreadable> {
    match field(item, names, of, hint)? {
        Value::String(text) => Ok(text.clone()),
        other => Ok(other.to_string()),
    }
}

fn number(item: &Value, names: &[&str], of: &str, hint: &str) -> Result<u64, Unreadable> {
    let value = field(item, names, of, hint)?;
    let read = match value {
        Value::String(text) => text.trim().parse().ok(),
        // Some tools print whole numbers as floating ones.
        other => other.as_u64().or_else(|| {
            let float = other
                .as_f64()
                .filter(|float| *float >= 0.0 && float.fract() == 0.0)?;
            Some(float as u64)
        }),
    };
    read.ok_or_else(|| {
        let what = format!("{of}: `{}` is {value}, and should be a whole number", names[0]);
        Unreadable::new(what, hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use transhume_planner::report::Answer;
    use transhume_planner::{Options, plan};

    fn sample(name: &str) -> Value {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/import/samples");
        let text = std::fs::read_to_string(dir.join(name)).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// The inventory of some lists, read again.
    fn imported(site: Result<Site, Unreadable>) -> transhume_planner::input::PlanInput {
        let text = written(site.unwrap(), "prod").unwrap();
        read("imported", &text).unwrap()
    }

    /// A drain of a host is planned from what was imported.
    fn drained(mut input: transhume_planner::input::PlanInput, host: &str) -> Vec<(String, String)> {
        input.from = vec![host.parse().unwrap()];
        let Answer::Planned(plan) = plan(&input, &Options::default()).unwrap().answer else {
            panic!("{host} can be drained");
        };
        let steps = plan.batches.iter().flat_map(|batch| &batch.moves);
        let mut moves: Vec<_> = steps
            .map(|one| (one.step.vm.to_string(), one.step.target.to_string()))
            .collect();
        moves.sort();
        moves
    }

    #[test]
    fn a_proxmox_cluster_is_imported_and_drained() {
        let input = imported(proxmox::read(&[sample("proxmox.json")]));
        assert_eq!((input.hosts.len(), input.cluster.vms.len()), (3, 3));
        let pve1 = &input.hosts[0];
        assert_eq!(pve1.capacity["memory"].to_string(), "64000");
        // A container takes room, and does not move.
        assert_eq!(pve1.used["vcpus"].to_string(), "2");
        assert!(input.hosts[2].maintenance, "pve3 is offline");
        let names: Vec<&str> = input.cluster.vms.iter().map(|vm| vm.name.as_str()).collect();
        assert_eq!(names, ["db", "web-101", "web-102"], "two are called web");
        let moved = drained(input, "pve1");
        assert_eq!(
            moved,
            [("db".into(), "pve2".into()), ("web-101".into(), "pve2".into())]
        );
    }

    #[test]
    fn an_openstack_cloud_is_imported_with_its_server_groups() {
        let lists = ["hypervisors", "servers", "flavors", "groups"];
        let lists: Vec<Value> = lists.map(|name| sample(&format!("openstack-{name}.json"))).into();
        let input = imported(openstack::read(&lists));
        assert_eq!((input.hosts.len(), input.cluster.vms.len()), (3, 3));
        assert_eq!(input.cluster.groups[0].kind, GroupKind::AntiAffinity);
        assert_eq!(input.cluster.vms[0].demand["memory"].to_string(), "4096");
        // 8 of 20 are used, 6 of them by servers in the list.
        assert_eq!(input.hosts[0].used["vcpus"].to_string(), "2");
        let moved = drained(input, "compute1.example.org");
        let targets: BTreeSet<&String> = moved.iter().map(|(_, target)| target).collect();
        assert_eq!((moved.len(), targets.len()), (2, 2), "{moved:?}");
    }

    #[test]
    fn a_kubevirt_cluster_is_imported_with_selectors_and_cordons() {
        let input = imported(kubevirt::read(&[sample("kubevirt.json")]));
        assert_eq!((input.hosts.len(), input.cluster.vms.len()), (3, 2));
        assert!(input.hosts[2].maintenance, "node3 is cordoned");
        assert_eq!(input.hosts[0].labels["topology.kubernetes.io/zone"], "a");
        let vm = &input.cluster.vms[0];
        assert_eq!(
            (vm.name.as_str(), vm.demand["memory"].to_string()),
            ("prod.db", "2048".to_owned())
        );
        assert_eq!(vm.demand["vcpus"].to_string(), "4");
        assert_eq!(vm.selector["topology.kubernetes.io/zone"], "a");
    }

    #[test]
    fn what_is_no_such_list_is_refused_by_name() {
        let wrong = |read: Result<Site, Unreadable>| read.unwrap_err();
        let lists = [
            wrong(proxmox::read(&[serde_json::json!({ "kind": "List" })])),
            wrong(openstack::read(&[serde_json::json!([{ "vmid": 1 }])])),
            wrong(kubevirt::read(&[serde_json::json!([])])),
            wrong(proxmox::read(&[
                serde_json::json!([{ "type": "node", "node": "a", "status": "online" }]),
            ])),
        ];
        for error in lists {
            assert!(!error.what.is_empty() && !error.hint.is_empty(), "{error:?}");
        }
    }

    #[test]
    fn names_that_others_share_are_told_apart() {
        let names = [("web", "101"), ("web", "102"), ("db", "103"), ("", "104")];
        let names = names.map(|(name, id)| (name.to_owned(), id.to_owned()));
        assert_eq!(unique(names.into()), ["web-101", "web-102", "db", "104"]);
        let names = [("web", "101"), ("web", "102"), ("web-101", "103")];
        let names = names.map(|(name, id)| (name.to_owned(), id.to_owned()));
        assert_eq!(unique(names.into()), ["web-101-101", "web-102", "web-101"]);
    }
}
