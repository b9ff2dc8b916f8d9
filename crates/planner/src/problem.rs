//! The input as numbers: what every solver works on.
//!
//! VMs that affinity ties together are one item. Hosts that do not differ share a kind, items
//! too; solvers break symmetry over kinds. Amounts are thousandths of units, so every comparison is
//! exact.

use std::collections::{BTreeMap, BTreeSet};

use transhume_model::HostName;

use crate::input::{Group, GroupKind, MEMORY, PlanInput, Vm};
use crate::offer::Resource;
use crate::paper::Lists;

/// One or more VMs that go together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Item {
    /// Indices into the cluster's VMs.
    pub vms: Vec<usize>,
    /// Sum of their demands, by resource; the input's checks keep the sum over all items below
    /// 2^63.
    pub demand: Vec<u64>,
    /// Index into [`Problem::allow`].
    pub allow: usize,
    /// Memory that does not move when the item goes to this host, by host.
    pub homes: Vec<(usize, u128)>,
    /// All their memory.
    pub memory: u128,
    /// Anti-affinity groups it is in, indices into [`Problem::groups`].
    pub groups: Vec<usize>,
    /// Traffic with other items.
    pub peers: Vec<(usize, u128)>,
    /// Items of one kind have the same demand and the same allowed hosts.
    pub kind: usize,
}

impl Item {
    /// Memory that moves when the item goes to `host`.
    pub fn moved(&self, host: usize) -> u128 {
        let stays = self.homes.iter().find(|(h, _)| *h == host);
        self.memory - stays.map_or(0, |(_, memory)| *memory)
    }
}

/// What has to be placed where.
#[derive(Debug, Clone, Default)]
pub(crate) struct Problem {
    /// Names of the resources.
    pub resources: Vec<String>,
    /// What each host holds for the cluster, by resource. Indices are those of the input's hosts.
    pub hosts: Vec<Vec<u64>>,
    /// Kind of each host: equal amounts and allowed to the same items.
    pub host_kind: Vec<usize>,
    /// Hosts of each kind.
    pub kinds: Vec<Vec<usize>>,
    /// What has to be placed.
    pub items: Vec<Item>,
    /// Distinct sets of allowed hosts.
    pub allow: Vec<Vec<bool>>,
    /// Items that must not share a host.
    pub groups: Vec<Vec<usize>>,
    /// Name of each anti-affinity group.
    pub group_names: Vec<String>,
    /// Members of each item kind.
    pub item_kinds: Vec<Vec<usize>>,
}

/// Which constraints to consider; explanations leave some out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Without {
    /// Names of groups to ignore.
    pub groups: BTreeSet<String>,
    /// VMs whose pin, selector and processor models are ignored.
    pub limits_of: BTreeSet<usize>,
}

/// Which hosts are left, and which may be targets.
pub(crate) struct Roles<'a> {
    from: BTreeSet<&'a HostName>,
    to: BTreeSet<&'a HostName>,
}

impl<'a> Roles<'a> {
    pub fn of(input: &'a PlanInput) -> Self {
        let named: BTreeSet<&HostName> = input.from.iter().collect();
        let usable = input.hosts.iter().filter(|h| !h.maintenance);
        let to = match input.to.is_empty() {
            true => usable.map(|h| &h.name).filter(|h| !named.contains(h)).collect(),
            false => {
                let to: BTreeSet<&HostName> = input.to.iter().collect();
                usable.map(|h| &h.name).filter(|h| to.contains(h)).collect()
            }
        };
        let maintained = input.hosts.iter().filter(|h| h.maintenance).map(|h| &h.name);
        let from = match named.is_empty() {
            true => input.cluster.vms.iter().map(|v| &v.host).collect(),
            false => named.into_iter().chain(maintained).collect(),
        };
        Self { from, to }
    }

    /// Whether the VMs of a host are to leave it or be placed anew.
    pub fn leaves(&self, host: &HostName) -> bool {
        self.from.contains(host)
    }

    /// Whether a host may take VMs.
    pub fn receives(&self, host: &HostName) -> bool {
        self.to.contains(host)
    }

    /// Whether a VM that has to be placed may run on a host, constraints of groups aside.
    fn admits(&self, vm: &Vm, host: &crate::input::Host, limits: bool) -> bool {
        if !self.leaves(&vm.host) {
            return vm.host == host.name;
        }
        if !self.receives(&host.name) {
            return false;
        }
        !limits
            || (vm.pin.is_empty() || vm.pin.contains(&host.name))
                && vm
                    .selector
                    .iter()
                    .all(|(key, value)| host.labels.get(key) == Some(value))
                && (vm.cpu_models.is_empty()
                    || host.cpu_model.as_ref().is_some_and(|m| vm.cpu_models.contains(m)))
    }
}

impl Problem {
    /// The whole input.
    pub fn of(input: &PlanInput) -> Self {
        Self::without(input, &Without::default())
    }

    /// The input with some constraints left out.
    pub fn without(input: &PlanInput, without: &Without) -> Self {
        let names: BTreeSet<&String> = input.hosts.iter().flat_map(|h| h.capacity.keys()).collect();
        let resources: Vec<String> = names.into_iter().cloned().collect();
        let hosts = input.hosts.iter().map(|h| host_amounts(h, &resources)).collect();
        let mut problem = Self {
            resources,
            hosts,
            ..Self::default()
        };
        let groups: Vec<&Group> = input
            .cluster
            .groups
            .iter()
            .filter(|g| !without.groups.contains(&g.name))
            .collect();
        let item_of = problem.bundle(input, &groups);
        problem.allow_hosts(input, without);
        problem.keep_apart(input, &groups, &item_of);
        problem.connect(input, &item_of);
        problem.sort_into_kinds();
        problem
    }

    /// Two lists without constraints; the second resource is memory.
    pub fn of_lists(lists: &Lists) -> Self {
        let items = lists.requests.iter().zip(&lists.home).map(|(demand, home)| {
            let memory = u128::from(demand.get(1).copied().unwrap_or(0));
            Item {
                demand: demand.clone(),
                memory,
                homes: home.iter().map(|h| (*h, memory)).collect(),
                ..Item::default()
            }
        });
        let mut problem = Self {
            resources: Resource::ALL.iter().map(Resource::to_string).collect(),
            hosts: lists.hosts.clone(),
            items: items.collect(),
            allow: vec![vec![true; lists.hosts.len()]],
            ..Self::default()
        };
        problem.sort_into_kinds();
        problem
    }

    /// Makes the items; returns the item of each VM.
    fn bundle(&mut self, input: &PlanInput, groups: &[&Group]) -> Vec<usize> {
        let vms = &input.cluster.vms;
        let index: BTreeMap<&str, usize> = vms
            .iter()
            .enumerate()
            .map(|(i, v)| (v.name.as_str(), i))
            .collect();
        let mut leader: Vec<usize> = (0..vms.len()).collect();
        for group in groups.iter().filter(|g| g.kind == GroupKind::Affinity) {
            let members = group.vms.iter().map(|v| index[v.as_str()]);
            let roots: Vec<usize> = members.map(|vm| root(&mut leader, vm)).collect();
            for other in &roots[1..] {
                let (a, b) = (root(&mut leader, roots[0]), root(&mut leader, *other));
                leader[a.max(b)] = a.min(b);
            }
        }
        let host_index: BTreeMap<&HostName, usize> = input
            .hosts
            .iter()
            .enumerate()
            .map(|(i, h)| (&h.name, i))
            .collect();
        let mut item_of = vec![0; vms.len()];
        for (i, vm) in vms.iter().enumerate() {
            let first = root(&mut leader, i);
            if first == i {
                self.items.push(Item {
                    demand: vec![0; self.resources.len()],
                    ..Item::default()
                });
                item_of[i] = self.items.len() - 1;
            } else {
                item_of[i] = item_of[first];
            }
            let item = &mut self.items[item_of[i]];
            item.vms.push(i);
            for (r, name) in self.resources.iter().enumerate() {
                item.demand[r] += vm.demand.get(name).map_or(0, |a| a.thousandths());
            }
            let memory = vm.demand.get(MEMORY).map_or(0, |a| u128::from(a.thousandths()));
            item.memory += memory;
            let host = host_index[&vm.host];
            match item.homes.iter_mut().find(|(h, _)| *h == host) {
                Some((_, stays)) => *stays += memory,
                None => item.homes.push((host, memory)),
            }
        }
        item_of
    }

    fn allow_hosts(&mut self, input: &PlanInput, without: &Without) {
        let roles = Roles::of(input);
        let mut known: BTreeMap<Vec<bool>, usize> = BTreeMap::new();
        // VMs with equal limits share the work of testing every host.
        let mut by_limits: BTreeMap<Limits<'_>, Vec<bool>> = BTreeMap::new();
        for item in &mut self.items {
            let mut allowed = vec![true; input.hosts.len()];
            for &i in &item.vms {
                let vm = &input.cluster.vms[i];
                let limited = !without.limits_of.contains(&i);
                let fixed = (!roles.leaves(&vm.host)).then_some(&vm.host);
                let key = (fixed, limited, &vm.pin, &vm.selector, &vm.cpu_models);
                let of_vm = by_limits
                    .entry(key)
                    .or_insert_with(|| input.hosts.iter().map(|h| roles.admits(vm, h, limited)).collect());
                allowed.iter_mut().zip(of_vm).for_each(|(all, one)| *all &= *one);
            }
            let next = known.len();
            item.allow = *known.entry(allowed).or_insert(next);
        }
        let mut sets: Vec<(usize, Vec<bool>)> = known.into_iter().map(|(set, i)| (i, set)).collect();
        sets.sort_unstable_by_key(|(i, _)| *i);
        self.allow = sets.into_iter().map(|(_, set)| set).collect();
    }

    fn keep_apart(&mut self, input: &PlanInput, groups: &[&Group], item_of: &[usize]) {
        let vms = input.cluster.vms.iter().enumerate();
        let index: BTreeMap<&str, usize> = vms.map(|(i, v)| (v.name.as_str(), i)).collect();
        for group in groups.iter().filter(|g| g.kind == GroupKind::AntiAffinity) {
            let members: Vec<usize> = group.vms.iter().map(|v| item_of[index[v.as_str()]]).collect();
            for item in &members {
                self.items[*item].groups.push(self.groups.len());
            }
            self.groups.push(members);
            self.group_names.push(group.name.clone());
        }
    }

    fn connect(&mut self, input: &PlanInput, item_of: &[usize]) {
        let vms = input.cluster.vms.iter().enumerate();
        let index: BTreeMap<&str, usize> = vms.map(|(i, v)| (v.name.as_str(), i)).collect();
        let mut pairs: BTreeMap<(usize, usize), u128> = BTreeMap::new();
        for traffic in &input.cluster.traffic {
            let [a, b] = [0, 1].map(|end| item_of[index[traffic.between[end].as_str()]]);
            if a != b {
                *pairs.entry((a.min(b), a.max(b))).or_default() += u128::from(traffic.mbit_s.thousandths());
            }
        }
        for ((a, b), amount) in pairs {
            self.items[a].peers.push((b, amount));
            self.items[b].peers.push((a, amount));
        }
    }

    fn sort_into_kinds(&mut self) {
        let mut kinds: BTreeMap<(Vec<u64>, usize), usize> = BTreeMap::new();
        for (i, item) in self.items.iter_mut().enumerate() {
            let next = kinds.len();
            item.kind = *kinds.entry((item.demand.clone(), item.allow)).or_insert(next);
            match self.item_kinds.get_mut(item.kind) {
                Some(members) => members.push(i),
                None => self.item_kinds.push(vec![i]),
            }
        }
        let mut kinds: BTreeMap<(&Vec<u64>, Vec<bool>), usize> = BTreeMap::new();
        for (h, amounts) in self.hosts.iter().enumerate() {
            let admitted = self.allow.iter().map(|set| set[h]).collect();
            let next = kinds.len();
            let kind = *kinds.entry((amounts, admitted)).or_insert(next);
            self.host_kind.push(kind);
            match self.kinds.get_mut(kind) {
                Some(members) => members.push(h),
                None => self.kinds.push(vec![h]),
            }
        }
    }

    /// Whether an item may run on a host and fits it empty, other items aside.
    pub fn admits(&self, item: usize, host: usize) -> bool {
        self.allow[self.items[item].allow][host] && fits(&self.items[item].demand, &self.hosts[host])
    }
}

type Limits<'a> = (
    Option<&'a HostName>,
    bool,
    &'a Vec<HostName>,
    &'a BTreeMap<String, String>,
    &'a Vec<String>,
);

/// Whether a demand fits into what is free.
pub(crate) fn fits(demand: &[u64], free: &[u64]) -> bool {
    demand.iter().zip(free).all(|(d, f)| d <= f)
}

/// Who stands for all that `i` is tied to; every walk shortens the next.
pub(crate) fn root(leader: &mut [usize], mut i: usize) -> usize {
    while leader[i] != i {
        leader[i] = leader[leader[i]];
        i = leader[i];
    }
    i
}

fn host_amounts(host: &crate::input::Host, resources: &[String]) -> Vec<u64> {
    let amount = |name: &String| {
        let capacity = host.capacity.get(name).copied().unwrap_or_default();
        let promised = host
            .overcommit
            .get(name)
            .map_or(capacity.thousandths(), |ratio| ratio.of(capacity));
        promised.saturating_sub(host.used.get(name).map_or(0, |used| used.thousandths()))
    };
    resources.iter().map(amount).collect()
}
