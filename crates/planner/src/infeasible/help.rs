//! What would make it possible. Each answer was planned again with the change: what is told is
//! known to do.

use serde::Serialize;
use transhume_model::{HostName, VmName};
use utoipa::ToSchema;

use super::{Constraint, is_feasible};
use crate::input::PlanInput;
use crate::problem::{Problem, Roles, Without};
use crate::solve::Watch;
use crate::words::listed;

/// Changes tried of each kind.
const TRIED_MAX: usize = 8;

/// A change with which every VM has a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "help")]
pub enum Help {
    /// VMs of further hosts may move too.
    WidenFrom {
        /// Hosts to add to `from`.
        hosts: Vec<HostName>,
        /// Hosts to name in `to` then, those that are targets now.
        to: Vec<HostName>,
    },
    /// Further hosts may be targets.
    WidenTo {
        /// Hosts to add to `to`.
        hosts: Vec<HostName>,
    },
    /// Without one constraint.
    Loosen {
        /// The constraint.
        constraint: Constraint,
    },
    /// A host has a model that a VM asks for, if that is true.
    TellModel {
        /// A host that gives none.
        host: HostName,
        /// The model.
        model: String,
    },
}

impl Help {
    /// In words.
    pub fn sentence(&self) -> String {
        match self {
            Help::WidenFrom { hosts, to } => format!(
                "with `from` widened to {}, and `to: [{}]`, it can be done",
                listed(hosts.iter().map(HostName::as_str)),
                listed(to.iter().map(HostName::as_str))
            ),
            Help::WidenTo { hosts } => format!(
                "with `to` widened to {} it can be done",
                listed(hosts.iter().map(HostName::as_str))
            ),
            Help::Loosen { constraint } => format!("without {} it can be done", constraint.phrase()),
            Help::TellModel { host, model } => {
                format!("if {host} has processor model {model}, `cpu-model` there would do")
            }
        }
    }
}

/// All changes that were tried and do.
pub(super) fn help(input: &PlanInput, conflict: &[Constraint], watch: &mut Watch<'_>) -> Vec<Help> {
    let mut found = widen_from(input, watch);
    found.extend(widen_to(input, watch));
    found.extend(tell_model(input, watch));
    found.extend(loosen(input, conflict, watch));
    found
}

/// Whether all VMs have a place after a change; large inputs are not copied when time is over.
fn does(input: &PlanInput, watch: &mut Watch<'_>, change: impl FnOnce(&mut PlanInput)) -> bool {
    if watch.is_over() {
        return false;
    }
    let mut changed = input.clone();
    change(&mut changed);
    is_feasible(&Problem::of(&changed), watch) == Ok(true)
}

/// One more host whose VMs may move, else all of them.
fn widen_from(input: &PlanInput, watch: &mut Watch<'_>) -> Vec<Help> {
    if input.from.is_empty() {
        return Vec::new();
    }
    let roles = Roles::of(input);
    let to: Vec<HostName> = {
        let hosts = input.hosts.iter().map(|h| &h.name);
        hosts.filter(|name| roles.receives(name)).cloned().collect()
    };
    let has_vms = |name: &HostName| input.cluster.vms.iter().any(|vm| vm.host == *name);
    let more: Vec<HostName> = to
        .iter()
        .filter(|name| !roles.leaves(name))
        .take(TRIED_MAX * TRIED_MAX)
        .filter(|name| has_vms(name))
        .cloned()
        .collect();
    let mut widened = |hosts: Vec<HostName>| {
        let to = to.clone();
        let widen = |changed: &mut PlanInput| {
            changed.from.extend(hosts.iter().cloned());
            changed.to.clone_from(&to);
        };
        does(input, watch, widen).then_some(Help::WidenFrom { hosts, to })
    };
    let singles = more.iter().take(TRIED_MAX);
    let one = singles.cloned().find_map(|host| widened(vec![host]));
    let all = || (more.len() > 1).then(|| more.clone());
    match one {
        Some(one) => vec![one],
        None => all().and_then(widened).into_iter().collect(),
    }
}

fn widen_to(input: &PlanInput, watch: &mut Watch<'_>) -> Vec<Help> {
    if input.to.is_empty() {
        return Vec::new();
    }
    let more = input.hosts.iter().filter(|host| !host.maintenance);
    let more = more.map(|host| &host.name);
    let more: Vec<&HostName> = more
        .filter(|name| !input.to.contains(name) && !input.from.contains(name))
        .take(TRIED_MAX)
        .collect();
    let mut widened = |hosts: Vec<HostName>| {
        let widen = |changed: &mut PlanInput| changed.to.extend(hosts.iter().cloned());
        does(input, watch, widen).then_some(Help::WidenTo { hosts })
    };
    let one = more.iter().find_map(|host| widened(vec![(*host).clone()]));
    let all = more.into_iter().cloned().collect();
    one.or_else(|| widened(all)).into_iter().collect()
}

/// A host that gives no model might have one that is asked for.
fn tell_model(input: &PlanInput, watch: &mut Watch<'_>) -> Vec<Help> {
    let roles = Roles::of(input);
    let asking = input.cluster.vms.iter();
    let mut asking = asking.filter(|vm| roles.leaves(&vm.host) && !vm.cpu_models.is_empty());
    let Some(model) = asking.find_map(|vm| vm.cpu_models.first()) else {
        return Vec::new();
    };
    let silent = input.hosts.iter().enumerate();
    let silent = silent.filter(|(_, host)| host.cpu_model.is_none() && roles.receives(&host.name));
    let found = silent.take(TRIED_MAX).find_map(|(h, host)| {
        let tell = |changed: &mut PlanInput| changed.hosts[h].cpu_model = Some(model.clone());
        does(input, watch, tell).then(|| Help::TellModel {
            host: host.name.clone(),
            model: model.clone(),
        })
    });
    found.into_iter().collect()
}

fn loosen(input: &PlanInput, conflict: &[Constraint], watch: &mut Watch<'_>) -> Vec<Help> {
    let position = |name: &VmName| input.cluster.vms.iter().position(|vm| vm.name == *name);
    let tried = conflict.iter().take(TRIED_MAX).filter(|constraint| {
        if watch.is_over() {
            return false;
        }
        let mut without = Without::default();
        match constraint {
            Constraint::Group(name) => {
                without.groups.insert(name.clone());
            }
            Constraint::LimitsOf(vm) => without.limits_of.extend(position(vm)),
        }
        is_feasible(&Problem::without(input, &without), watch) == Ok(true)
    });
    tried
        .map(|constraint| Help::Loosen {
            constraint: constraint.clone(),
        })
        .collect()
}
