//! Why a VM stays behind while others go: what is in its way, host by host.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use transhume_model::{HostName, VmName};
use utoipa::ToSchema;

use super::reason::{limits, who};
use crate::input::{GroupKind, PlanInput};
use crate::partial::{Behind, Partial};
use crate::problem::{Problem, Roles};
use crate::solve;
use crate::words::listed;

/// VMs whose reasons are looked up host by host; of more, only that they found no place.
const LOOKED_UP_MAX: usize = 200;

/// VMs that have no place in a plan and stay where they are: one, or several tied together by
/// affinity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Unplaced {
    /// The VMs.
    pub vms: Vec<VmName>,
    /// The host has to be empty in the end, and is not: they are in the way. Otherwise they may
    /// stay where they are.
    pub must_leave: bool,
    /// What kind of thing is in the way.
    pub cause: Cause,
    /// In words.
    pub why: String,
    /// Proved: there is no placement of all the others with these too.
    pub proved: bool,
}

/// What is in the way of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// There is no target at all.
    NoTarget,
    /// Its pin.
    Pin,
    /// Its selector.
    Selector,
    /// Its processor models.
    CpuModels,
    /// Each of its pin, selector and processor models leaves hosts, but together none.
    Limits,
    /// A group with VMs that are elsewhere.
    Group,
    /// Amounts: no allowed host has enough, others aside.
    Amounts,
    /// No allowed host has enough beside the others.
    Room,
}

/// What stays behind in a partial plan, each with what is in its way.
pub(crate) fn unplaced(input: &PlanInput, partial: &Partial) -> Vec<Unplaced> {
    let scene = Scene::of(input, partial);
    let behind = partial.behind.iter().enumerate();
    behind
        .map(|(i, behind)| scene.unplaced(behind, i < LOOKED_UP_MAX))
        .collect()
}

struct Scene<'a> {
    input: &'a PlanInput,
    roles: Roles<'a>,
    /// Where each VM is in the end.
    at: Vec<usize>,
    vm: HashMap<&'a VmName, usize>,
    /// Groups of each VM that is in any.
    groups: BTreeMap<usize, Vec<usize>>,
    problem: &'a Problem,
    /// What hosts have beside all; the problem says what they have beside what stays.
    free: Vec<Vec<u64>>,
}

impl<'a> Scene<'a> {
    fn of(input: &'a PlanInput, partial: &'a Partial) -> Self {
        let (vms, problem) = (&input.cluster.vms, &partial.problem);
        let hosts = input.hosts.iter().enumerate();
        let host: HashMap<&HostName, usize> = hosts.map(|(i, h)| (&h.name, i)).collect();
        let mut at: Vec<usize> = vms.iter().map(|v| host[&v.host]).collect();
        let host_of = partial.solution.host_of.as_deref().unwrap_or_default();
        for (item, host) in problem.items.iter().zip(host_of) {
            item.vms.iter().for_each(|vm| at[*vm] = *host);
        }
        let vm: HashMap<&VmName, usize> = vms.iter().enumerate().map(|(i, v)| (&v.name, i)).collect();
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (g, group) in input.cluster.groups.iter().enumerate() {
            group
                .vms
                .iter()
                .for_each(|name| groups.entry(vm[name]).or_default().push(g));
        }
        Self {
            input,
            roles: Roles::of(input),
            at,
            vm,
            groups,
            problem,
            free: solve::left_free(problem, host_of),
        }
    }

    fn unplaced(&self, behind: &Behind, look_up: bool) -> Unplaced {
        let names: Vec<VmName> = behind
            .vms
            .iter()
            .map(|vm| self.input.cluster.vms[*vm].name.clone())
            .collect();
        let home = |vm: &usize| &self.input.cluster.vms[*vm].host;
        let (cause, why) = match look_up {
            true => self.in_the_way(behind),
            false => (Cause::Room, "no place was found beside the others".to_owned()),
        };
        Unplaced {
            must_leave: behind
                .vms
                .iter()
                .any(|vm| self.roles.is_emptied(home(vm)) && !self.roles.receives(home(vm))),
            why: format!("{} stays: {why}", who(&names)),
            vms: names,
            cause,
            proved: behind.proved,
        }
    }

    /// The first thing that leaves no host.
    fn in_the_way(&self, behind: &Behind) -> (Cause, String) {
        let hosts = self.input.hosts.iter().enumerate();
        let mut left: Vec<usize> = hosts
            .filter(|(_, host)| self.roles.receives(&host.name))
            .map(|(h, _)| h)
            .collect();
        if left.is_empty() {
            return (
                Cause::NoTarget,
                "there is no host that may be a target".to_owned(),
            );
        }
        for vm in &behind.vms {
            let vm = &self.input.cluster.vms[*vm];
            if let Some(found) = limits(self.input, &self.roles, vm) {
                return found;
            }
            left.retain(|host| self.roles.admits(vm, &self.input.hosts[*host], true));
        }
        if left.is_empty() {
            let why = "their pins, selectors and processor models leave no host in common".to_owned();
            return (Cause::Limits, why);
        }
        if let Some(why) = self.keep_to_groups(behind, &mut left) {
            return (Cause::Group, why);
        }
        self.short_of(behind, &left)
    }

    /// Leaves out hosts that groups close; the sentence where none is left.
    fn keep_to_groups(&self, behind: &Behind, left: &mut Vec<usize>) -> Option<String> {
        let these: BTreeSet<usize> = behind.vms.iter().copied().collect();
        for vm in &behind.vms {
            for group in self.groups.get(vm).into_iter().flatten() {
                let group = &self.input.cluster.groups[*group];
                let others = group.vms.iter().map(|name| self.vm[name]);
                let others: Vec<usize> = others.filter(|vm| !these.contains(vm)).collect();
                if others.is_empty() {
                    continue;
                }
                let taken: BTreeSet<usize> = others.iter().map(|vm| self.at[*vm]).collect();
                left.retain(|host| match group.kind {
                    GroupKind::AntiAffinity => !taken.contains(host),
                    GroupKind::Affinity => taken.contains(host),
                });
                if left.is_empty() {
                    let where_they_are = others.iter().map(|vm| {
                        let host = &self.input.hosts[self.at[*vm]].name;
                        format!("{} on {host}", self.input.cluster.vms[*vm].name)
                    });
                    let kind = match group.kind {
                        GroupKind::AntiAffinity => "keeps it apart from",
                        GroupKind::Affinity => "ties it to",
                    };
                    return Some(format!("group {} {kind} {}", group.name, listed(where_they_are)));
                }
            }
        }
        None
    }

    /// The host that lacks least, alone or beside the others.
    fn short_of(&self, behind: &Behind, left: &[usize]) -> (Cause, String) {
        let vms = behind.vms.iter().map(|vm| &self.input.cluster.vms[*vm]);
        let mut demand = vec![0; self.problem.resources.len()];
        for vm in vms {
            let of_vm = self.problem.demand(vm);
            demand.iter_mut().zip(of_vm).for_each(|(sum, one)| *sum += one);
        }
        let lacks = |has: &[u64]| -> Vec<(usize, u64)> {
            let pairs = demand.iter().zip(has).enumerate();
            let short = pairs.filter(|(_, (d, has))| d > has);
            short.map(|(r, (d, has))| (r, d - has)).collect()
        };
        let share = |has: &[u64]| -> f64 {
            let short = lacks(has).into_iter();
            short
                .map(|(r, by)| by as f64 / demand[r] as f64)
                .fold(0.0, f64::max)
        };
        let nearest = |all: &[Vec<u64>]| -> (usize, Vec<(usize, u64)>) {
            let by_share = left
                .iter()
                .copied()
                .min_by(|a, b| share(&all[*a]).total_cmp(&share(&all[*b])));
            let host = by_share.expect("a host is left");
            (host, lacks(&all[host]))
        };
        let phrase = |host: usize, short: &[(usize, u64)]| {
            let short = short
                .iter()
                .map(|(r, by)| {
                    (
                        self.problem.total(*r, u128::from(*by)),
                        &self.problem.resources[*r],
                    )
                })
                .map(|(by, resource)| format!("{by} of {resource}"));
            format!("{} lacks {}", self.input.hosts[host].name, listed(short))
        };
        let (host, short) = nearest(&self.problem.hosts);
        if !short.is_empty() {
            let why = match left.len() {
                1 => format!("it does not fit the one host allowed: {}", phrase(host, &short)),
                n => format!(
                    "it fits none of the {n} hosts allowed; the nearest, {}",
                    phrase(host, &short)
                ),
            };
            return (Cause::Amounts, why);
        }
        let (host, short) = nearest(&self.free);
        let why = match (short.is_empty(), behind.proved) {
            (true, _) => "no place was found beside the others".to_owned(),
            (false, true) => format!(
                "there is no placement with it beside the others; the nearest, {}",
                phrase(host, &short)
            ),
            (false, false) => format!(
                "no place was found beside the others; the nearest, {}",
                phrase(host, &short)
            ),
        };
        (Cause::Room, why)
    }
}
