//! What is short, one thing at a time.

use serde::Serialize;
use transhume_model::{HostName, VmName};
use utoipa::ToSchema;

use super::behind::Cause;
use crate::input::{Host, PlanInput, Vm, nearest as nearest_name};
use crate::problem::{Problem, Roles, is_selected, runs_on};
use crate::report::Total;
use crate::solve;
use crate::words::listed;

/// One thing that is short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "reason")]
pub enum Reason {
    /// All targets together.
    Total {
        /// The resource.
        resource: String,
        /// What the VMs need.
        needed: Total,
        /// What the targets have.
        offered: Total,
    },
    /// VMs (one, or several that affinity ties together) that no host can hold.
    FitsNowhere {
        /// The VMs.
        vms: Vec<VmName>,
        /// Hosts that their pins, selectors and processor models, and S2, allow.
        hosts_allowed: usize,
        /// The allowed host that lacks least.
        nearest: Option<HostName>,
        /// What it lacks.
        short: Vec<(String, Total)>,
        /// Pins, labels and processor models that no target has, in words.
        unknown: Vec<String>,
    },
    /// An anti-affinity group has more members than hosts to put them on.
    GroupTooLarge {
        /// The group.
        group: String,
        /// Its members.
        members: usize,
        /// Hosts that any of them may use.
        hosts: usize,
    },
    /// Every target is needed and more: a lower bound proves it.
    MoreHosts {
        /// The bound.
        hosts_min: usize,
        /// Targets there are.
        hosts: usize,
    },
    /// Amounts and constraints fit one by one but not together; every arrangement was excluded.
    Together,
}

impl Reason {
    /// In words.
    pub fn sentence(&self) -> String {
        match self {
            Reason::Total {
                resource,
                needed,
                offered,
            } => format!(
                "{resource} is short by {}: the VMs need {needed}, all targets together have {offered}",
                Total(needed.0 - offered.0)
            ),
            Reason::FitsNowhere {
                vms,
                hosts_allowed,
                nearest,
                short,
                unknown,
            } => {
                let who = who(vms);
                match nearest {
                    None if !unknown.is_empty() => {
                        format!("{who} may run on no target: {}", listed(unknown))
                    }
                    None => format!(
                        "{who} may run on no target: pins, labels, processor models and the choice of targets exclude all"
                    ),
                    Some(nearest) => {
                        let short = listed(short.iter().map(|(r, by)| format!("{by} of {r}")));
                        match hosts_allowed {
                            1 => format!("{who} does not fit the one host allowed: {nearest} lacks {short}"),
                            _ => format!(
                                "{who} fits none of the {hosts_allowed} hosts allowed: {nearest} lacks least, {short}"
                            ),
                        }
                    }
                }
            }
            Reason::GroupTooLarge {
                group,
                members,
                hosts,
            } => {
                let may = match hosts {
                    1 => "1 host may",
                    _ => &format!("{hosts} hosts may"),
                };
                format!("group {group} keeps {members} apart, but only {may} take any of them")
            }
            Reason::MoreHosts { hosts_min, hosts } => {
                let there = if *hosts == 1 { "is" } else { "are" };
                format!("at least {hosts_min} targets are needed, and there {there} {hosts}")
            }
            Reason::Together => {
                "each VM fits somewhere, but not all together: every arrangement was excluded".to_owned()
            }
        }
    }

    pub(super) fn is_about_vms(&self) -> bool {
        matches!(self, Reason::FitsNowhere { .. })
    }

    /// A VM is larger than every host that it may use.
    pub(super) fn is_too_large(&self) -> bool {
        matches!(self, Reason::FitsNowhere { nearest: Some(_), .. })
    }
}

pub(super) fn reasons(input: &PlanInput, problem: &Problem, hosts_min: usize) -> Vec<Reason> {
    let targets: Vec<usize> = (0..problem.hosts.len())
        .filter(|h| problem.allow.iter().any(|set| set[*h]))
        .collect();
    let roles = Roles::of(input);
    let mut reasons = Vec::new();
    // Where no host may be used at all, that is the reason, and no sum.
    let resources = problem.resources.iter().enumerate();
    for (r, resource) in resources.filter(|_| !targets.is_empty()) {
        let needed = problem.items.iter().map(|i| u128::from(i.demand[r])).sum();
        let offered = targets.iter().map(|h| u128::from(problem.hosts[*h][r])).sum();
        if needed > offered {
            reasons.push(Reason::Total {
                resource: resource.clone(),
                needed: problem.total(r, needed),
                offered: problem.total(r, offered),
            });
        }
    }
    for item in 0..problem.items.len() {
        if !solve::is_placeable(problem, item) {
            reasons.push(fits_nowhere(input, &roles, problem, item));
        }
    }
    for (members, name) in problem.groups.iter().zip(&problem.group_names) {
        let usable = |h: &&usize| members.iter().any(|item| problem.admits(*item, **h));
        let hosts = targets.iter().filter(usable).count();
        if members.len() > hosts {
            reasons.push(Reason::GroupTooLarge {
                group: name.clone(),
                members: members.len(),
                hosts,
            });
        }
    }
    if reasons.is_empty() {
        reasons.push(match hosts_min > targets.len() {
            true => Reason::MoreHosts {
                hosts_min,
                hosts: targets.len(),
            },
            false => Reason::Together,
        });
    }
    reasons
}

fn fits_nowhere(input: &PlanInput, roles: &Roles<'_>, problem: &Problem, item: usize) -> Reason {
    let it = &problem.items[item];
    let allowed: Vec<usize> = (0..problem.hosts.len())
        .filter(|h| problem.allow[it.allow][*h])
        .collect();
    let lacks = |host: usize| -> f64 {
        let pairs = it.demand.iter().zip(&problem.hosts[host]);
        pairs
            .map(|(d, has)| d.saturating_sub(*has) as f64 / (*d).max(1) as f64)
            .fold(0.0, f64::max)
    };
    let nearest = allowed
        .iter()
        .copied()
        .min_by(|a, b| lacks(*a).total_cmp(&lacks(*b)));
    let short = nearest.map_or(Vec::new(), |host| {
        let pairs = it.demand.iter().zip(&problem.hosts[host]).enumerate();
        pairs
            .filter(|(_, (d, has))| d > has)
            .map(|(r, (d, has))| {
                (
                    problem.resources[r].clone(),
                    problem.total(r, u128::from(d - has)),
                )
            })
            .collect()
    });
    Reason::FitsNowhere {
        vms: it
            .vms
            .iter()
            .map(|v| input.cluster.vms[*v].name.clone())
            .collect(),
        hosts_allowed: allowed.len(),
        nearest: nearest.map(|h| input.hosts[h].name.clone()),
        short,
        unknown: it
            .vms
            .iter()
            .filter_map(|v| limits(input, roles, &input.cluster.vms[*v]))
            .map(|(_, why)| why)
            .collect(),
    }
}

/// One VM, or several that go together.
pub(super) fn who(vms: &[VmName]) -> String {
    match vms {
        [one] => format!("VM {one}"),
        several => format!(
            "VMs {}, tied together by affinity,",
            listed(several.iter().map(VmName::as_str))
        ),
    }
}

/// The first of a VM's own limits that leaves no target, in words that say what targets have.
pub(super) fn limits(input: &PlanInput, roles: &Roles<'_>, vm: &Vm) -> Option<(Cause, String)> {
    let targets = || input.hosts.iter().filter(|host| roles.receives(&host.name));
    if !vm.pin.is_empty() && !targets().any(|host| vm.pin.contains(&host.name)) {
        let named = input.hosts.iter().filter(|host| vm.pin.contains(&host.name));
        let named = listed(named.map(|host| format!("{} ({})", host.name, no_target(roles, host))));
        return Some((Cause::Pin, format!("its pin allows only {named}")));
    }
    if !targets().any(|host| is_selected(vm, host)) {
        let missing = vm
            .selector
            .iter()
            .filter_map(|(key, value)| label(input, roles, key, value));
        let missing: Vec<String> = missing.collect();
        let why = match missing.is_empty() {
            false => listed(missing),
            true => "no target has all the labels that its selector asks for".to_owned(),
        };
        return Some((Cause::Selector, why));
    }
    if !targets().any(|host| runs_on(vm, host)) {
        let have = listed(targets().map(|host| match &host.cpu_model {
            Some(model) => format!("{} has {model}", host.name),
            None => format!("{} gives none", host.name),
        }));
        let asked = vm.cpu_models.join(" or ");
        let why = format!("no target has processor model {asked}: {have}");
        return Some((Cause::CpuModels, why));
    }
    let all = |host: &Host| roles.admits(vm, host, true);
    (!targets().any(all)).then(|| {
        let why = "no target meets its pin, its selector and its processor models at once".to_owned();
        (Cause::Limits, why)
    })
}

fn meant(near: Option<&str>) -> String {
    near.map_or(String::new(), |near| format!(" (did you mean `{near}`?)"))
}

/// Why a host is no target.
fn no_target(roles: &Roles<'_>, host: &Host) -> &'static str {
    match (host.maintenance, roles.is_emptied(&host.name)) {
        (true, _) => "in maintenance",
        (false, true) => "to be left",
        (false, false) => "no target",
    }
}

fn label(input: &PlanInput, roles: &Roles<'_>, key: &str, value: &str) -> Option<String> {
    let targets = || input.hosts.iter().filter(|host| roles.receives(&host.name));
    let mut values = targets().filter_map(|h| h.labels.get(key)).peekable();
    if values.peek().is_none() {
        let keys = targets().flat_map(|h| h.labels.keys().map(String::as_str));
        let near = meant(nearest_name(key, keys));
        return Some(format!("no target has a label `{key}`{near}"));
    }
    if values.clone().any(|has| has == value) {
        return None;
    }
    let near = meant(nearest_name(value, values.map(String::as_str)));
    Some(format!("no target has the label `{key}: {value}`{near}"))
}
