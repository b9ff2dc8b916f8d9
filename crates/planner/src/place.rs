//! §3.2 for the coordinator: offers and requests in, the target of every VM or what is short out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use transhume_model::{Capacity, Demand, HostName, VmName};

use crate::offer::{Offers, Request, Resource};
use crate::paper::{self, Amounts, Lists, Outcome};
use crate::problem::Problem;
use crate::solve::{self, Go, Watch};

/// Work that [`Strategy::Exact`] may do here; a few seconds at most.
const EXACT_WORK_MAX: u64 = 50_000_000;

/// How the targets are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The paper's sorted lists and recursive selection (§3.2). Knows amounts only.
    Paper,
    /// Bounds, patterns, branch and bound: fewest targets with a proof or a gap, then least memory
    /// moved, then least traffic.
    #[default]
    Exact,
}

/// One VM and where it goes. It stays when `source` and `target` are the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The VM.
    pub vm: VmName,
    /// Where it runs.
    pub source: HostName,
    /// Where it is to run.
    pub target: HostName,
    /// What it needs there.
    pub demand: Demand,
}

impl Move {
    /// Whether the VM keeps its host.
    pub fn stays(&self) -> bool {
        self.source == self.target
    }
}

/// Every requested VM has a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// One entry per request, in the order of the requests.
    pub moves: Vec<Move>,
    /// N(S2): targets that receive or keep at least one VM.
    pub hosts_used: usize,
    /// No placement can use fewer targets than this.
    pub hosts_min: usize,
    /// What each target had free before the first move; [`batches`](crate::batches) counts with it.
    pub free: BTreeMap<HostName, Capacity>,
}

impl Placement {
    /// Whether the number of targets is proved to be the least possible (G4).
    pub fn is_proved_minimal(&self) -> bool {
        self.hosts_used == self.hosts_min
    }
}

/// What one host lacks for one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortage {
    /// The resource.
    pub resource: Resource,
    /// How much is missing.
    pub by: u64,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource.show(self.by))
    }
}

fn list(shortages: &[Shortage]) -> String {
    let texts: Vec<String> = shortages.iter().map(Shortage::to_string).collect();
    texts.join(" and ")
}

/// Why the requests cannot be placed. "If the solution does not exist the set S2 must be modified"
/// (§3.2).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSolution {
    /// S2 is empty.
    #[error("no target host is offered for {vms} VMs: name at least one")]
    NoTargets {
        /// How many VMs want a place.
        vms: usize,
    },
    /// A VM is requested twice.
    #[error("VM {0} is requested twice")]
    DuplicateVm(VmName),
    /// No single host can hold this VM, even empty of the cluster's others.
    #[error("VM {vm} fits no target: the nearest is {nearest}, short of {}", list(.short))]
    VmTooLarge {
        /// The VM.
        vm: VmName,
        /// The host that lacks least.
        nearest: HostName,
        /// What it lacks.
        short: Vec<Shortage>,
    },
    /// All targets together hold too little.
    #[error(
        "the {hosts} targets together are short of {short}: what they have ends at VM {vm}, the largest requests first"
    )]
    Total {
        /// Offered hosts.
        hosts: usize,
        /// What is missing in all.
        short: Shortage,
        /// The VM, in descending order of requests, with which the sum passes what is offered.
        vm: VmName,
    },
    /// The sums suffice, but not host by host; every selection was tried.
    #[error("the targets have enough in all, but split so that VM {vm} finds no place: {nearest} lacks least, {}", list(.short))]
    Fragmented {
        /// The VM at which the selection got stuck farthest down the list.
        vm: VmName,
        /// The host that lacked least there.
        nearest: HostName,
        /// What it lacked.
        short: Vec<Shortage>,
    },
    /// The bound on the recursion's work was reached before a placement was found; there may be
    /// one.
    #[error("no place found for VM {vm} within the work allowed to the search: {nearest} lacks least, {}; another target would help", list(.short))]
    WorkBound {
        /// The VM at which the selection got stuck farthest down the list.
        vm: VmName,
        /// The host that lacked least there.
        nearest: HostName,
        /// What it lacked.
        short: Vec<Shortage>,
    },
}

/// Maps every request onto the offers with few hosts. VMs that run on an offered host may stay
/// there.
///
/// Requests are the cluster's VMs that run on S1; VMs of the cluster elsewhere are not asked to
/// move, so what they occupy is not free.
pub fn place(offers: &Offers, requests: &[Request], strategy: Strategy) -> Result<Placement, NoSolution> {
    check_unique(requests)?;
    if requests.is_empty() {
        return Ok(placement(offers, Vec::new(), 0));
    }
    let names: Vec<&HostName> = offers.iter().map(|(name, _)| name).collect();
    if names.is_empty() {
        return Err(NoSolution::NoTargets { vms: requests.len() });
    }
    let lists = lists(offers, requests, &names);
    verify(&lists, requests, &names)?;
    let outcome = match strategy {
        Strategy::Paper => paper::map(&lists),
        Strategy::Exact => exact(&lists),
    };
    match outcome {
        Outcome::Mapped {
            host_of, hosts_min, ..
        } => {
            let moves = requests.iter().zip(host_of).map(|(request, host)| Move {
                vm: request.vm.clone(),
                source: request.source.clone(),
                target: names[host].clone(),
                demand: request.demand,
            });
            Ok(placement(offers, moves.collect(), hosts_min))
        }
        Outcome::Unmapped {
            stuck_at,
            left,
            exhausted,
        } => {
            let (nearest, short) = nearest(&left, &lists.requests[stuck_at]);
            let (vm, nearest) = (requests[stuck_at].vm.clone(), names[nearest].clone());
            Err(if exhausted {
                NoSolution::Fragmented { vm, nearest, short }
            } else {
                NoSolution::WorkBound { vm, nearest, short }
            })
        }
    }
}

/// The exact solver on two lists.
fn exact(lists: &Lists) -> Outcome {
    let problem = Problem::of_lists(lists);
    let solution = solve::solve(&problem, &mut Watch::new(EXACT_WORK_MAX, &mut || Go::On));
    match solution.host_of {
        Some(host_of) => Outcome::Mapped {
            host_of,
            proved: solution.cost.hosts == solution.least.hosts,
            hosts_min: solution.least.hosts,
        },
        // The recursion reports where it got stuck.
        None => match paper::map(lists) {
            Outcome::Unmapped {
                stuck_at,
                left,
                exhausted,
            } => Outcome::Unmapped {
                stuck_at,
                left,
                exhausted: exhausted || solution.impossible,
            },
            mapped @ Outcome::Mapped { .. } => mapped,
        },
    }
}

fn check_unique(requests: &[Request]) -> Result<(), NoSolution> {
    let mut seen = BTreeSet::new();
    match requests.iter().find(|r| !seen.insert(&r.vm)) {
        Some(twice) => Err(NoSolution::DuplicateVm(twice.vm.clone())),
        None => Ok(()),
    }
}

fn placement(offers: &Offers, moves: Vec<Move>, hosts_min: usize) -> Placement {
    let used: BTreeSet<&HostName> = moves.iter().map(|m| &m.target).collect();
    Placement {
        hosts_used: used.len(),
        hosts_min: hosts_min.min(used.len()),
        free: offers.iter().map(|(host, free)| (host.clone(), *free)).collect(),
        moves,
    }
}

/// Step 1 of §3.2: the free resources of each host, incremented by the requests that run there.
fn lists(offers: &Offers, requests: &[Request], names: &[&HostName]) -> Lists {
    let index: BTreeMap<&HostName, usize> = names.iter().enumerate().map(|(i, n)| (*n, i)).collect();
    let mut free: Vec<Capacity> = offers.iter().map(|(_, free)| *free).collect();
    let home: Vec<Option<usize>> = requests.iter().map(|r| index.get(&r.source).copied()).collect();
    for (request, home) in requests.iter().zip(&home) {
        if let Some(home) = home {
            free[*home] = free[*home].plus(&request.demand);
        }
    }
    Lists {
        hosts: free.iter().map(|c| vec![c.vcpus.0, c.memory.0]).collect(),
        requests: requests
            .iter()
            .map(|r| vec![r.demand.vcpus.0, r.demand.memory.0])
            .collect(),
        home,
    }
}

/// Step 2 of §3.2: "the verification relative to the intended migration solution existence".
fn verify(lists: &Lists, requests: &[Request], names: &[&HostName]) -> Result<(), NoSolution> {
    let order = paper::sorted_descending(&lists.requests);
    for &i in &order {
        let (host, short) = nearest(&lists.hosts, &lists.requests[i]);
        if !short.is_empty() {
            return Err(NoSolution::VmTooLarge {
                vm: requests[i].vm.clone(),
                nearest: names[host].clone(),
                short,
            });
        }
    }
    for (r, resource) in Resource::ALL.into_iter().enumerate() {
        let offered: u128 = lists.hosts.iter().map(|a| u128::from(a[r])).sum();
        let needed: u128 = lists.requests.iter().map(|a| u128::from(a[r])).sum();
        if needed > offered {
            let mut sum = 0;
            let passing = order.iter().find(|i| {
                sum += u128::from(lists.requests[**i][r]);
                sum > offered
            });
            let passing = *passing.expect("the sum of all requests passes what is offered");
            return Err(NoSolution::Total {
                hosts: names.len(),
                short: Shortage {
                    resource,
                    by: u64::try_from(needed - offered).unwrap_or(u64::MAX),
                },
                vm: requests[passing].vm.clone(),
            });
        }
    }
    Ok(())
}

/// The host that lacks least for a request, measured by the largest missing share of the request,
/// and what it lacks.
fn nearest(free: &[Amounts], needed: &[u64]) -> (usize, Vec<Shortage>) {
    let lacks = |host: &Amounts| -> f64 {
        let shares = host.iter().zip(needed);
        shares
            .map(|(f, n)| n.saturating_sub(*f) as f64 / (*n).max(1) as f64)
            .fold(0.0, f64::max)
    };
    let best = (0..free.len())
        .min_by(|a, b| lacks(&free[*a]).total_cmp(&lacks(&free[*b])))
        .expect("at least one host");
    let short = Resource::ALL
        .into_iter()
        .enumerate()
        .filter(|(r, _)| needed[*r] > free[best][*r])
        .map(|(r, resource)| Shortage {
            resource,
            by: needed[r] - free[best][r],
        });
    (best, short.collect())
}
