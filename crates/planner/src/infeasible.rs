//! Why there is no placement: what is short, which constraints conflict, and the least that would make it possible.

use serde::Serialize;
use transhume_model::{HostName, VmName};
use utoipa::ToSchema;

use crate::input::{Host, PlanInput};
use crate::problem::{Problem, Roles, Without};
use crate::report::Total;
use crate::solve::{self, Watch};

/// Work for one question "would it be possible then?".
const QUESTION_WORK: u64 = 3_000_000;
/// More constraints than this are not sifted one by one.
const CONSTRAINTS_MAX: usize = 200;
/// Kinds of hosts tried as an addition.
const ADDITION_KINDS_MAX: usize = 16;

/// The explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Impossible {
    /// What is short; at least one.
    pub reasons: Vec<Reason>,
    /// Constraints that cannot all be kept, none of which can be left out of this list; empty when the amounts alone forbid it.
    pub conflict: Vec<Constraint>,
    /// The fewest hosts of an existing kind that would do; `None` where no number of them would.
    pub addition: Option<Addition>,
}

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
            } => {
                let names: Vec<&str> = vms.iter().map(VmName::as_str).collect();
                let who = match names.len() {
                    1 => format!("VM {}", names[0]),
                    _ => format!("VMs {}, tied together by affinity,", names.join(", ")),
                };
                match nearest {
                    None => format!(
                        "{who} may run on no target: pins, labels, processor models and the choice of targets exclude all"
                    ),
                    Some(nearest) => {
                        let short: Vec<String> = short.iter().map(|(r, by)| format!("{by} of {r}")).collect();
                        let short = short.join(" and ");
                        format!(
                            "{who} fits none of the {hosts_allowed} hosts allowed: {nearest} lacks least, {short}"
                        )
                    }
                }
            }
            Reason::GroupTooLarge {
                group,
                members,
                hosts,
            } => {
                format!("group {group} keeps {members} apart, but only {hosts} hosts may take any of them")
            }
            Reason::MoreHosts { hosts_min, hosts } => {
                format!("at least {hosts_min} targets are needed, and there are {hosts}")
            }
            Reason::Together => {
                "each VM fits somewhere, but not all together: every arrangement was excluded".to_owned()
            }
        }
    }
}

/// A constraint of the input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Constraint {
    /// A group.
    Group(String),
    /// Pin, selector or processor models of a VM.
    LimitsOf(VmName),
}

/// Hosts to add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Addition {
    /// Hosts equal to this one.
    pub like: HostName,
    /// So many.
    pub count: usize,
    /// Proved: one less of this kind would not do.
    pub smallest: bool,
}

/// Explains a problem that [`solve::solve`] proved impossible.
pub(crate) fn explain(
    input: &PlanInput,
    problem: &Problem,
    hosts_min: usize,
    watch: &mut Watch<'_>,
) -> Impossible {
    Impossible {
        reasons: reasons(input, problem, hosts_min),
        conflict: conflict(input, watch),
        addition: addition(input, watch),
    }
}

fn reasons(input: &PlanInput, problem: &Problem, hosts_min: usize) -> Vec<Reason> {
    let targets: Vec<usize> = (0..problem.hosts.len())
        .filter(|h| problem.allow.iter().any(|set| set[*h]))
        .collect();
    let mut reasons = Vec::new();
    for (r, resource) in problem.resources.iter().enumerate() {
        let needed = problem.items.iter().map(|i| u128::from(i.demand[r])).sum();
        let offered = targets.iter().map(|h| u128::from(problem.hosts[*h][r])).sum();
        if needed > offered {
            reasons.push(Reason::Total {
                resource: resource.clone(),
                needed: Total(needed),
                offered: Total(offered),
            });
        }
    }
    for item in 0..problem.items.len() {
        if !problem.kinds.iter().any(|kind| problem.admits(item, kind[0])) {
            reasons.push(fits_nowhere(input, problem, item));
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

fn fits_nowhere(input: &PlanInput, problem: &Problem, item: usize) -> Reason {
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
            .map(|(r, (d, has))| (problem.resources[r].clone(), Total(u128::from(d - has))))
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
    }
}

fn is_feasible(problem: &Problem, watch: &mut Watch<'_>) -> Option<bool> {
    watch.part(QUESTION_WORK, |part| solve::feasible(problem, part))
}

/// Sifts the constraints: one that can go without making it possible is not part of the conflict.
fn conflict(input: &PlanInput, watch: &mut Watch<'_>) -> Vec<Constraint> {
    let groups = input
        .cluster
        .groups
        .iter()
        .map(|g| Constraint::Group(g.name.clone()));
    let limited = input.cluster.vms.iter().enumerate();
    let limited =
        limited.filter(|(_, vm)| !(vm.pin.is_empty() && vm.selector.is_empty() && vm.cpu_models.is_empty()));
    let limits = limited.map(|(i, vm)| (Constraint::LimitsOf(vm.name.clone()), Some(i)));
    let all: Vec<(Constraint, Option<usize>)> = groups.map(|g| (g, None)).chain(limits).collect();
    if all.is_empty() || all.len() > CONSTRAINTS_MAX {
        return Vec::new();
    }
    let leave_out =
        |without: &mut Without, (constraint, vm): &(Constraint, Option<usize>)| match (constraint, vm) {
            (Constraint::LimitsOf(_), Some(vm)) => {
                without.limits_of.insert(*vm);
            }
            (Constraint::Group(name), _) => {
                without.groups.insert(name.clone());
            }
            (Constraint::LimitsOf(_), None) => unreachable!("limits are listed with their VM"),
        };
    let mut bare = Without::default();
    all.iter().for_each(|c| leave_out(&mut bare, c));
    if is_feasible(&Problem::without(input, &bare), watch) != Some(true) {
        return Vec::new();
    }
    let mut without = Without::default();
    let mut conflict = Vec::new();
    for constraint in &all {
        let mut tried = without.clone();
        leave_out(&mut tried, constraint);
        match is_feasible(&Problem::without(input, &tried), watch) {
            Some(false) => without = tried,
            Some(true) | None => conflict.push(constraint.0.clone()),
        }
    }
    conflict
}

/// The fewest additional hosts, over the kinds of hosts there are.
fn addition(input: &PlanInput, watch: &mut Watch<'_>) -> Option<Addition> {
    let mut kinds: Vec<&Host> = Vec::new();
    for host in &input.hosts {
        let same = |k: &&&Host| {
            k.capacity == host.capacity
                && k.overcommit == host.overcommit
                && k.labels == host.labels
                && k.cpu_model == host.cpu_model
        };
        if kinds.len() < ADDITION_KINDS_MAX && !kinds.iter().any(|k| same(&k)) {
            kinds.push(host);
        }
    }
    let mut best: Option<Addition> = None;
    for kind in kinds {
        let most = best.as_ref().map_or(input.cluster.vms.len(), |b| b.count - 1);
        if let Some((count, smallest)) = fewest(input, kind, most, watch) {
            best = Some(Addition {
                like: kind.name.clone(),
                count,
                smallest,
            });
        }
    }
    best
}

/// The fewest hosts like this one that make it possible, at most `most`; with whether one less is proved not to.
fn fewest(input: &PlanInput, kind: &Host, most: usize, watch: &mut Watch<'_>) -> Option<(usize, bool)> {
    let mut would = |count: usize| is_feasible(&Problem::of(&with_added(input, kind, count)), watch);
    let (mut low, mut proved, mut high) = (0, true, 1);
    loop {
        if high > most {
            high = most;
        }
        if high <= low {
            return None;
        }
        match would(high) {
            Some(true) => break,
            answer => {
                proved = answer == Some(false);
                low = high;
                high *= 2;
            }
        }
    }
    while high - low > 1 {
        let middle = (low + high) / 2;
        match would(middle) {
            Some(true) => high = middle,
            answer => {
                proved = answer == Some(false);
                low = middle;
            }
        }
    }
    Some((high, proved))
}

fn with_added(input: &PlanInput, kind: &Host, count: usize) -> PlanInput {
    let mut input = input.clone();
    let targets: Vec<HostName> = {
        let roles = Roles::of(&input);
        let names = input.hosts.iter().map(|h| &h.name);
        names.filter(|name| roles.receives(name)).cloned().collect()
    };
    let taken: std::collections::BTreeSet<HostName> = input.hosts.iter().map(|h| h.name.clone()).collect();
    let fresh = (1..).map(|i| format!("added-{i}").parse().expect("letters, digits and a dash"));
    let fresh: Vec<HostName> = fresh.filter(|name| !taken.contains(name)).take(count).collect();
    if input.from.is_empty() {
        input.from = input.cluster.vms.iter().map(|v| v.host.clone()).collect();
    }
    input.to = targets.into_iter().chain(fresh.iter().cloned()).collect();
    for name in fresh {
        input.hosts.push(Host {
            name,
            used: Default::default(),
            maintenance: false,
            ..kind.clone()
        });
    }
    input
}
