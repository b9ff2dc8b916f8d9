//! Whether an input makes sense: names unique and known, amounts usable, constraints not
//! contradicting each other. What is merely impossible to place is not a mistake of the input; the
//! solver explains that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use super::amount::{THOUSANDTH, decimal};
use super::steps::{HOST_STEPS_MAX, SUM_STEPS_MAX, Steps};
use super::together::Together;
use super::{
    Amounts, Bands, Group, GroupKind, InputError, Place, PlanInput, RESOURCES_MAX, VMS_MAX, WEIGHT_MAX,
    nearest,
};
use crate::problem::promised;

/// Largest dirty rate or memory figure accepted, MiB/s or MiB.
const FIGURE_MAX: f64 = 1e9;

fn error(path: impl Display, what: impl Display, hint: Option<String>) -> InputError {
    InputError {
        place: Place {
            path: path.to_string(),
            ..Place::default()
        },
        what: what.to_string(),
        hint,
    }
}

fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(name, known).map(|near| format!("did you mean `{near}`?"))
}

/// Checks everything that can be wrong with an input before it is solved.
pub fn check(input: &PlanInput) -> Result<(), InputError> {
    check_hosts(input)?;
    let hosts: BTreeSet<&str> = input.hosts.iter().map(|h| h.name.as_str()).collect();
    for (list, names) in [("from", &input.from), ("to", &input.to)] {
        for (i, name) in names.iter().enumerate() {
            known_host(&format!("{list}[{i}]"), name.as_str(), &hosts)?;
        }
    }
    check_vms(input, &hosts)?;
    check_groups(input)?;
    check_sums(input)?;
    check_traffic(input)
}

fn known_host(path: &str, name: &str, hosts: &BTreeSet<&str>) -> Result<(), InputError> {
    match hosts.contains(name) {
        true => Ok(()),
        false => Err(error(
            path,
            format!("there is no host `{name}`"),
            did_you_mean(name, hosts.iter().copied()),
        )),
    }
}

fn check_hosts(input: &PlanInput) -> Result<(), InputError> {
    if input.hosts.is_empty() {
        return Err(error(
            "hosts",
            "no host is listed",
            Some("list at least one".into()),
        ));
    }
    let mut seen = BTreeMap::new();
    let mut resources = BTreeSet::new();
    for (i, host) in input.hosts.iter().enumerate() {
        let path = format!("hosts[{i}]");
        if let Some(first) = seen.insert(&host.name, i) {
            let what = format!("host {} is listed twice, first as hosts[{first}]", host.name);
            return Err(error(format!("{path}.name"), what, None));
        }
        resources.extend(host.capacity.keys());
        if resources.len() > RESOURCES_MAX {
            let what = format!(
                "with host {} there are more than {RESOURCES_MAX} different resources",
                host.name
            );
            let hint = "give the same resource the same name on every host".to_owned();
            return Err(error(format!("{path}.capacity"), what, Some(hint)));
        }
        if host.bands.vmct_mbit_s == 0 {
            let what = format!("host {} has no bandwidth for migration", host.name);
            let hint = format!(
                "give its link's rate in Mbit/s, or leave it out for {}",
                Bands::default().vmct_mbit_s
            );
            return Err(error(format!("{path}.bands.vmct-mbit-s"), what, Some(hint)));
        }
        let named = host.overcommit.keys().map(|k| ("overcommit", k));
        for (field, name) in named.chain(host.used.keys().map(|k| ("used", k))) {
            // A host whose capacity is not known is no target; what else is said of it is no
            // matter.
            if !host.capacity.contains_key(name) && !host.capacity.is_empty() {
                let what = format!("host {} has no resource `{name}`", host.name);
                let hint = did_you_mean(name, host.capacity.keys().map(String::as_str));
                return Err(error(format!("{path}.{field}.{name}"), what, hint));
            }
        }
    }
    Ok(())
}

fn check_vms(input: &PlanInput, hosts: &BTreeSet<&str>) -> Result<(), InputError> {
    if input.cluster.vms.is_empty() {
        let what = format!("cluster {} has no VM", input.cluster.name);
        return Err(error("cluster.vms", what, None));
    }
    if input.cluster.vms.len() > VMS_MAX {
        let what = format!(
            "cluster {} has {} VMs, more than {VMS_MAX}",
            input.cluster.name,
            input.cluster.vms.len()
        );
        return Err(error("cluster.vms", what, None));
    }
    let resources: BTreeSet<&str> = input
        .hosts
        .iter()
        .flat_map(|h| h.capacity.keys().map(String::as_str))
        .collect();
    let mut seen = BTreeMap::new();
    for (i, vm) in input.cluster.vms.iter().enumerate() {
        let path = format!("cluster.vms[{i}]");
        if let Some(first) = seen.insert(&vm.name, i) {
            let what = format!("VM {} is listed twice, first as cluster.vms[{first}]", vm.name);
            return Err(error(format!("{path}.name"), what, None));
        }
        known_host(&format!("{path}.host"), vm.host.as_str(), hosts)?;
        for (j, host) in vm.pin.iter().enumerate() {
            known_host(&format!("{path}.pin[{j}]"), host.as_str(), hosts)?;
        }
        for name in vm.demand.keys() {
            if !resources.contains(name.as_str()) {
                let what = format!("no host has a resource named `{name}`");
                return Err(error(
                    format!("{path}.demand.{name}"),
                    what,
                    did_you_mean(name, resources.iter().copied()),
                ));
            }
        }
        if vm.weight > WEIGHT_MAX {
            let what = format!(
                "VM {} has a weight of {}, more than {WEIGHT_MAX}",
                vm.name, vm.weight
            );
            return Err(error(format!("{path}.weight"), what, None));
        }
        check_figures(&path, &vm.memory)?;
    }
    Ok(())
}

fn check_figures(path: &str, figures: &super::MemoryFigures) -> Result<(), InputError> {
    let rates = figures
        .dirty_mib_s
        .iter()
        .map(|v| ("dirty-mib-s", *v, FIGURE_MAX));
    let sizes = figures
        .working_set_mib
        .iter()
        .map(|v| ("working-set-mib", *v, FIGURE_MAX));
    let touched = figures
        .touched_mib
        .iter()
        .map(|v| ("touched-mib", *v, FIGURE_MAX));
    let shares = figures.compressed_to.iter().map(|v| ("compressed-to", *v, 1.0));
    for (field, value, most) in rates.chain(sizes).chain(touched).chain(shares) {
        if !(0.0..=most).contains(&value) {
            let what = format!("{value} is outside 0 to {most}");
            return Err(error(format!("{path}.memory.{field}"), what, None));
        }
    }
    Ok(())
}

fn check_groups(input: &PlanInput) -> Result<(), InputError> {
    let vms: BTreeSet<&str> = input.cluster.vms.iter().map(|v| v.name.as_str()).collect();
    let mut seen = BTreeSet::new();
    let mut together = Together::default();
    for (i, group) in input.cluster.groups.iter().enumerate() {
        let path = format!("cluster.groups[{i}]");
        if !seen.insert(&group.name) {
            return Err(error(
                format!("{path}.name"),
                format!("group {} is listed twice", group.name),
                None,
            ));
        }
        if group.vms.len() < 2 {
            let what = format!("group {} needs at least two VMs", group.name);
            return Err(error(format!("{path}.vms"), what, None));
        }
        let mut members = BTreeSet::new();
        for (j, vm) in group.vms.iter().enumerate() {
            let path = format!("{path}.vms[{j}]");
            if !vms.contains(vm.as_str()) {
                let hint = did_you_mean(vm.as_str(), vms.iter().copied());
                return Err(error(path, format!("there is no VM `{vm}` in the cluster"), hint));
            }
            if !members.insert(vm) {
                return Err(error(
                    path,
                    format!("VM {vm} is in group {} twice", group.name),
                    None,
                ));
            }
        }
        if group.kind == GroupKind::Affinity {
            for vm in &group.vms[1..] {
                together.join(group.vms[0].as_str(), vm.as_str());
            }
        }
    }
    for (i, group) in input.cluster.groups.iter().enumerate() {
        if group.kind == GroupKind::AntiAffinity {
            let mut roots = BTreeMap::new();
            for vm in &group.vms {
                if let Some(other) = roots.insert(together.root(vm.as_str()).to_owned(), vm) {
                    let what = format!(
                        "group {} keeps VMs {other} and {vm} apart, but affinity groups keep them together",
                        group.name
                    );
                    return Err(error(
                        format!("cluster.groups[{i}]"),
                        what,
                        Some("take one of them out".into()),
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Refuses demands whose sum the solvers could not hold. Any group, host or pair asks for no more
/// than all VMs do.
fn check_sums(input: &PlanInput) -> Result<(), InputError> {
    let steps = Steps::of(input);
    let hint = |resource: &str| {
        let to_the_byte = steps.step(resource) < THOUSANDTH;
        Some(match to_the_byte {
            true => "give all of it in whole MiB".to_owned(),
            false => "use a larger unit".to_owned(),
        })
    };
    for (i, host) in input.hosts.iter().enumerate() {
        for resource in host.capacity.keys() {
            let (has, most) = (promised(host, resource), HOST_STEPS_MAX * steps.step(resource));
            if has > most {
                let what = format!(
                    "host {} may promise {} of {resource}, more than {}",
                    host.name,
                    decimal(has),
                    decimal(most)
                );
                let path = format!("hosts[{i}].capacity.{resource}");
                return Err(error(path, what, hint(resource)));
            }
        }
    }
    let most = |resource: &str| SUM_STEPS_MAX * steps.step(resource);
    let vms = &input.cluster.vms;
    let sums = sums(vms.iter().map(|vm| &vm.demand));
    let Some((resource, sum)) = sums.iter().find(|(resource, sum)| **sum > most(resource)) else {
        return Ok(());
    };
    let demand: BTreeMap<&str, &Amounts> = vms.iter().map(|vm| (vm.name.as_str(), &vm.demand)).collect();
    let of_group = |group: &Group| {
        let members = group.vms.iter().map(|vm| demand[vm.as_str()]);
        self::sums(members).get(resource).copied().unwrap_or(0)
    };
    // A group that is too much alone is the better place to look.
    let groups = input.cluster.groups.iter().enumerate();
    let mut tied = groups.filter(|(_, group)| group.kind == GroupKind::Affinity);
    let found = tied.find_map(|(i, group)| {
        let sum = of_group(group);
        (sum > most(resource)).then(|| {
            let path = format!("cluster.groups[{i}]");
            (path, format!("affinity group {}", group.name), sum)
        })
    });
    let all = || {
        (
            "cluster.vms".to_owned(),
            format!("cluster {}", input.cluster.name),
            *sum,
        )
    };
    let (path, whose, sum) = found.unwrap_or_else(all);
    let what = format!(
        "the VMs of {whose} need {} of {resource} together, more than {}",
        decimal(sum),
        decimal(most(resource))
    );
    Err(error(path, what, hint(resource)))
}

/// Sum of each resource, in parts of a unit.
fn sums<'a>(demands: impl Iterator<Item = &'a Amounts>) -> BTreeMap<&'a str, u128> {
    let mut sums = BTreeMap::new();
    for (resource, amount) in demands.flatten() {
        *sums.entry(resource.as_str()).or_default() += amount.parts();
    }
    sums
}

fn check_traffic(input: &PlanInput) -> Result<(), InputError> {
    let vms: BTreeSet<&str> = input.cluster.vms.iter().map(|v| v.name.as_str()).collect();
    for (i, traffic) in input.cluster.traffic.iter().enumerate() {
        let path = format!("cluster.traffic[{i}].between");
        for vm in &traffic.between {
            if !vms.contains(vm.as_str()) {
                let hint = did_you_mean(vm.as_str(), vms.iter().copied());
                return Err(error(path, format!("there is no VM `{vm}` in the cluster"), hint));
            }
        }
        if traffic.between[0] == traffic.between[1] {
            return Err(error(
                path,
                format!("VM {} talks to itself", traffic.between[0]),
                None,
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Amount;
    use super::*;

    #[test]
    fn resources_are_bounded_and_a_band_carries_something() {
        let mut input = crate::generate::small(1);
        for i in 0..RESOURCES_MAX {
            let amount = Amount::units(1);
            input.hosts[0].capacity.insert(format!("own-{i}"), amount);
        }
        let error = check(&input).unwrap_err();
        assert!(error.what.contains("more than 64 different resources"), "{error}");
        let mut input = crate::generate::small(1);
        input.hosts[0].bands.vmct_mbit_s = 0;
        let error = check(&input).unwrap_err();
        assert_eq!(error.place.path, "hosts[0].bands.vmct-mbit-s");
        assert!(error.hint.unwrap().contains("5000"));
    }
}
