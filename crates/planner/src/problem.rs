//! The input as numbers: what every solver works on.
//!
//! Only VMs that have to be placed are items; of the others it matters what they leave free, which
//! hosts their groups close or ask for, and who talks to them. They are never judged. VMs that
//! affinity ties together are one item. Hosts that do not differ share a kind, items
//! too; solvers break symmetry over kinds. Amounts are whole numbers of steps ([`Steps`]), so every
//! comparison is exact.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use transhume_model::{HostName, VmName};

use crate::input::{Amount, Group, GroupKind, Host, MEMORY, PlanInput, Steps, Vm};
use crate::report::Total;

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
    /// Traffic with VMs that stay, by their host.
    pub peers_staying: Vec<(usize, u128)>,
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
    /// The step that each is counted in, in parts of a unit.
    pub steps: Vec<u128>,
    /// What each host has for the items, by resource: nothing where what stays there takes it all
    /// or more. Indices are those of the input's hosts.
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
    /// Traffic between hosts of VMs that stay.
    pub traffic_staying: u128,
}

/// What to leave out of the input: explanations ignore constraints, partial plans leave VMs where
/// they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Without {
    /// Names of groups to ignore.
    pub groups: BTreeSet<String>,
    /// VMs whose pin, selector and processor models are ignored.
    pub limits_of: BTreeSet<usize>,
    /// VMs that stay although they were to leave.
    pub moving: BTreeSet<usize>,
}

/// Which hosts are left, and which may be targets.
pub(crate) struct Roles<'a> {
    from: BTreeSet<&'a HostName>,
    to: BTreeSet<&'a HostName>,
    /// Hosts that have to be empty in the end, as far as they are no targets.
    emptied: BTreeSet<&'a HostName>,
}

impl<'a> Roles<'a> {
    pub fn of(input: &'a PlanInput) -> Self {
        let named: BTreeSet<&HostName> = input.from.iter().collect();
        let usable = input.hosts.iter().filter(|h| !h.maintenance && has_anything(h));
        let to = match input.to.is_empty() {
            true => usable.map(|h| &h.name).filter(|h| !named.contains(h)).collect(),
            false => {
                let to: BTreeSet<&HostName> = input.to.iter().collect();
                usable.map(|h| &h.name).filter(|h| to.contains(h)).collect()
            }
        };
        let maintained = input.hosts.iter().filter(|h| h.maintenance).map(|h| &h.name);
        let (from, emptied) = match named.is_empty() {
            true => (
                input.hosts.iter().map(|h| &h.name).collect(),
                maintained.collect(),
            ),
            false => (named.clone(), named),
        };
        Self { from, to, emptied }
    }

    /// Whether the VMs of a host are to leave it or be placed anew.
    pub fn leaves(&self, host: &HostName) -> bool {
        self.from.contains(host)
    }

    /// Whether the VMs of a host have to leave it, unless it is a target too.
    pub fn is_emptied(&self, host: &HostName) -> bool {
        self.emptied.contains(host)
    }

    /// Whether a host may take VMs.
    pub fn receives(&self, host: &HostName) -> bool {
        self.to.contains(host)
    }

    /// Whether a VM that has to be placed may run on a host, constraints of groups aside.
    pub fn admits(&self, vm: &Vm, host: &Host, limits: bool) -> bool {
        let pinned = |vm: &Vm| vm.pin.is_empty() || vm.pin.contains(&host.name);
        self.receives(&host.name) && (!limits || pinned(vm) && is_selected(vm, host) && runs_on(vm, host))
    }
}

impl Problem {
    /// The whole input.
    pub fn of(input: &PlanInput) -> Self {
        Self::without(input, &Without::default())
    }

    /// The input with some things left out.
    pub fn without(input: &PlanInput, without: &Without) -> Self {
        let names: BTreeSet<&String> = input.hosts.iter().flat_map(|h| h.capacity.keys()).collect();
        let resources: Vec<String> = names.into_iter().cloned().collect();
        let steps = Steps::of(input);
        let mut problem = Self {
            steps: resources.iter().map(|name| steps.step(name)).collect(),
            resources,
            ..Self::default()
        };
        problem.hosts = input.hosts.iter().map(|host| problem.has(host)).collect();
        let groups: Vec<&Group> = input
            .cluster
            .groups
            .iter()
            .filter(|g| !without.groups.contains(&g.name))
            .collect();
        let scene = Scene::of(input, without);
        let item_of = problem.bundle(&scene, &groups);
        problem.take_what_stays(&scene, &item_of);
        let near = scene.near_what_stays(&groups, &item_of);
        problem.allow_hosts(&scene, without, &near);
        problem.keep_apart(&scene, &groups, &item_of);
        problem.connect(&scene, &item_of);
        problem.sort_into_kinds();
        problem
    }

    /// Makes the items; returns the item of each VM that has to be placed.
    fn bundle(&mut self, scene: &Scene<'_>, groups: &[&Group]) -> Vec<Option<usize>> {
        let vms = &scene.input.cluster.vms;
        let mut leader: Vec<usize> = (0..vms.len()).collect();
        for group in groups.iter().filter(|g| g.kind == GroupKind::Affinity) {
            let members: Vec<usize> = group.vms.iter().map(|v| scene.vm[v]).collect();
            let mut moving = members.into_iter().filter(|vm| scene.moves[*vm]);
            let Some(first) = moving.next() else {
                continue;
            };
            for other in moving {
                join(&mut leader, first, other);
            }
        }
        let mut item_of = vec![None; vms.len()];
        for (i, vm) in vms.iter().enumerate().filter(|(i, _)| scene.moves[*i]) {
            let first = root(&mut leader, i);
            let at = *item_of[first].get_or_insert(self.items.len());
            item_of[i] = Some(at);
            if at == self.items.len() {
                self.items.push(Item {
                    demand: vec![0; self.resources.len()],
                    ..Item::default()
                });
            }
            let demand = self.demand(vm);
            let item = &mut self.items[at];
            item.vms.push(i);
            for (sum, steps) in item.demand.iter_mut().zip(&demand) {
                *sum += steps;
            }
            let memory = vm.demand.get(MEMORY).map_or(0, |amount| amount.parts());
            item.memory += memory;
            let host = scene.home[i];
            match item.homes.iter_mut().find(|(h, _)| *h == host) {
                Some((_, stays)) => *stays += memory,
                None => item.homes.push((host, memory)),
            }
        }
        item_of
    }

    /// What VMs that stay occupy is not there for others.
    fn take_what_stays(&mut self, scene: &Scene<'_>, item_of: &[Option<usize>]) {
        let vms = scene.input.cluster.vms.iter().enumerate();
        for (i, vm) in vms.filter(|(i, _)| item_of[*i].is_none()) {
            for (name, amount) in &vm.demand {
                if let Ok(r) = self.resources.binary_search(name) {
                    let takes = self.steps(r, *amount);
                    let free = &mut self.hosts[scene.home[i]][r];
                    *free = free.saturating_sub(takes);
                }
            }
        }
    }

    fn allow_hosts(&mut self, scene: &Scene<'_>, without: &Without, near: &[Near]) {
        let input = scene.input;
        let mut known: BTreeMap<Vec<bool>, usize> = BTreeMap::new();
        // VMs with equal limits share the work of testing every host.
        let mut by_limits: BTreeMap<Limits<'_>, Vec<bool>> = BTreeMap::new();
        for (item, near) in self.items.iter_mut().zip(near) {
            let mut allowed = vec![true; input.hosts.len()];
            for &i in &item.vms {
                let vm = &input.cluster.vms[i];
                let limited = !without.limits_of.contains(&i);
                let key = (limited, &vm.pin, &vm.selector, &vm.cpu_models);
                let of_vm = by_limits.entry(key).or_insert_with(|| {
                    let hosts = input.hosts.iter();
                    hosts.map(|h| scene.roles.admits(vm, h, limited)).collect()
                });
                allowed.iter_mut().zip(of_vm).for_each(|(all, one)| *all &= *one);
            }
            near.closed.iter().for_each(|host| allowed[*host] = false);
            for wanted in &near.wanted {
                let hosts = allowed.iter_mut().enumerate();
                hosts.for_each(|(host, may)| *may &= wanted.contains(&host));
            }
            let next = known.len();
            item.allow = *known.entry(allowed).or_insert(next);
        }
        let mut sets: Vec<(usize, Vec<bool>)> = known.into_iter().map(|(set, i)| (i, set)).collect();
        sets.sort_unstable_by_key(|(i, _)| *i);
        self.allow = sets.into_iter().map(|(_, set)| set).collect();
    }

    fn keep_apart(&mut self, scene: &Scene<'_>, groups: &[&Group], item_of: &[Option<usize>]) {
        for group in groups.iter().filter(|g| g.kind == GroupKind::AntiAffinity) {
            let members: Vec<usize> = group.vms.iter().filter_map(|v| item_of[scene.vm[v]]).collect();
            if members.len() < 2 {
                continue;
            }
            for item in &members {
                self.items[*item].groups.push(self.groups.len());
            }
            self.groups.push(members);
            self.group_names.push(group.name.clone());
        }
    }

    fn connect(&mut self, scene: &Scene<'_>, item_of: &[Option<usize>]) {
        let mut pairs: BTreeMap<(usize, usize), u128> = BTreeMap::new();
        let mut staying: BTreeMap<(usize, usize), u128> = BTreeMap::new();
        for traffic in &scene.input.cluster.traffic {
            let ends = [0, 1].map(|end| scene.vm[&traffic.between[end]]);
            let amount = traffic.mbit_s.parts();
            match ends.map(|vm| item_of[vm]) {
                [Some(a), Some(b)] if a == b => {}
                [Some(a), Some(b)] => *pairs.entry((a.min(b), a.max(b))).or_default() += amount,
                [Some(item), None] => *staying.entry((item, scene.home[ends[1]])).or_default() += amount,
                [None, Some(item)] => *staying.entry((item, scene.home[ends[0]])).or_default() += amount,
                [None, None] if scene.home[ends[0]] != scene.home[ends[1]] => self.traffic_staying += amount,
                [None, None] => {}
            }
        }
        for ((a, b), amount) in pairs {
            self.items[a].peers.push((b, amount));
            self.items[b].peers.push((a, amount));
        }
        for ((item, host), amount) in staying {
            self.items[item].peers_staying.push((host, amount));
        }
    }

    pub(crate) fn sort_into_kinds(&mut self) {
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

    /// A demand in steps of a resource.
    fn steps(&self, resource: usize, amount: Amount) -> u64 {
        u64::try_from(amount.parts() / self.steps[resource]).expect("`check` refuses more")
    }

    /// What a VM needs of each resource, in steps.
    pub fn demand(&self, vm: &Vm) -> Vec<u64> {
        let resources = self.resources.iter().enumerate();
        resources
            .map(|(r, name)| vm.demand.get(name).map_or(0, |amount| self.steps(r, *amount)))
            .collect()
    }

    /// What a host may promise of each resource, in steps.
    pub fn promised(&self, host: &Host) -> Vec<u64> {
        let resources = self.resources.iter().zip(&self.steps);
        resources
            .map(|(name, step)| u64::try_from(promised(host, name) / step).expect("`check` refuses more"))
            .collect()
    }

    /// The same without what is used already.
    fn has(&self, host: &Host) -> Vec<u64> {
        let mut has = self.promised(host);
        for (name, used) in &host.used {
            if let Ok(r) = self.resources.binary_search(name) {
                // More than fits is more than there is.
                let used = u64::try_from(used.parts() / self.steps[r]).unwrap_or(u64::MAX);
                has[r] = has[r].saturating_sub(used);
            }
        }
        has
    }

    /// An amount of a resource that is told.
    pub fn total(&self, resource: usize, steps: u128) -> Total {
        Total(steps * self.steps[resource])
    }

    /// Whether an item may run on a host and fits it empty, other items aside.
    pub fn admits(&self, item: usize, host: usize) -> bool {
        self.allow[self.items[item].allow][host] && fits(&self.items[item].demand, &self.hosts[host])
    }
}

/// The input with its names resolved, and who has to be placed.
struct Scene<'a> {
    input: &'a PlanInput,
    roles: Roles<'a>,
    vm: HashMap<&'a VmName, usize>,
    home: Vec<usize>,
    moves: Vec<bool>,
}

/// What groups with VMs that stay ask of an item.
#[derive(Debug, Clone, Default)]
struct Near {
    /// Hosts where a VM stays that it is kept apart from.
    closed: BTreeSet<usize>,
    /// Of each affinity group with VMs that stay, their hosts.
    wanted: Vec<BTreeSet<usize>>,
}

impl<'a> Scene<'a> {
    fn of(input: &'a PlanInput, without: &Without) -> Self {
        let hosts = input.hosts.iter().enumerate();
        let host: HashMap<&HostName, usize> = hosts.map(|(i, h)| (&h.name, i)).collect();
        let roles = Roles::of(input);
        let leaves: Vec<bool> = input.hosts.iter().map(|h| roles.leaves(&h.name)).collect();
        let vms = &input.cluster.vms;
        let home: Vec<usize> = vms.iter().map(|v| host[&v.host]).collect();
        let moves = home.iter().enumerate();
        let moves = moves.map(|(i, home)| leaves[*home] && !without.moving.contains(&i));
        Self {
            moves: moves.collect(),
            vm: vms.iter().enumerate().map(|(i, v)| (&v.name, i)).collect(),
            input,
            roles,
            home,
        }
    }

    fn near_what_stays(&self, groups: &[&Group], item_of: &[Option<usize>]) -> Vec<Near> {
        let items = item_of.iter().flatten().max().map_or(0, |last| last + 1);
        let mut near = vec![Near::default(); items];
        for group in groups {
            let members: Vec<usize> = group.vms.iter().map(|v| self.vm[v]).collect();
            let staying = members.iter().filter(|vm| item_of[**vm].is_none());
            let hosts: BTreeSet<usize> = staying.map(|vm| self.home[*vm]).collect();
            if hosts.is_empty() {
                continue;
            }
            let moving: BTreeSet<usize> = members.iter().filter_map(|vm| item_of[*vm]).collect();
            for item in moving {
                match group.kind {
                    GroupKind::AntiAffinity => near[item].closed.extend(&hosts),
                    GroupKind::Affinity => near[item].wanted.push(hosts.clone()),
                }
            }
        }
        near
    }
}

/// A host with nothing of any resource is no target.
fn has_anything(host: &crate::input::Host) -> bool {
    host.capacity.values().any(|amount| amount.parts() > 0)
}

type Limits<'a> = (
    bool,
    &'a Vec<HostName>,
    &'a BTreeMap<String, String>,
    &'a Vec<String>,
);

/// Whether a demand fits into what is free.
pub(crate) fn fits(demand: &[u64], free: &[u64]) -> bool {
    demand.iter().zip(free).all(|(d, f)| d <= f)
}

/// Whether a host has the labels that a VM's selector asks for.
pub(crate) fn is_selected(vm: &Vm, host: &Host) -> bool {
    let mut asked = vm.selector.iter();
    asked.all(|(key, value)| host.labels.get(key) == Some(value))
}

/// Whether a host has one of the processor models that a VM runs on.
pub(crate) fn runs_on(vm: &Vm, host: &Host) -> bool {
    let has = host.cpu_model.as_ref();
    vm.cpu_models.is_empty() || has.is_some_and(|model| vm.cpu_models.contains(model))
}

/// Who stands for all that `i` is tied to; every walk shortens the next.
pub(crate) fn root(leader: &mut [usize], mut i: usize) -> usize {
    while leader[i] != i {
        leader[i] = leader[leader[i]];
        i = leader[i];
    }
    i
}

/// Ties two together: the smaller stands for both.
pub(crate) fn join(leader: &mut [usize], a: usize, b: usize) {
    let (a, b) = (root(leader, a), root(leader, b));
    leader[a.max(b)] = a.min(b);
}

/// What a host may promise of a resource, overcommit included, in parts of a unit.
pub(crate) fn promised(host: &Host, name: &str) -> u128 {
    let capacity = host.capacity.get(name).copied().unwrap_or_default();
    let ratio = host.overcommit.get(name);
    ratio.map_or(capacity.parts(), |ratio| ratio.of(capacity))
}
