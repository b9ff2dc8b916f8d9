//! What the planner gets to know of live hosts and clusters: one input for the choice of targets,
//! for the order and for the forecast.
//!
//! Hosts that nobody asked about are listed with nothing, so that rules may name them. VMs that
//! stay need nothing: what they take is part of what their host's agent has promised.

use std::collections::{BTreeMap, BTreeSet};

use transhume_model::{Capacity, ClusterName, ClusterSpec, Demand, HostName, Interval, PlacedVm, VmName};
use transhume_planner::input::{
    Amount, Amounts, Bands, Cluster, Group, Host, MEMORY, MemoryFigures, PlanInput, Vm,
};
use transhume_protocol::message::{HostState, VmState};

use crate::hosts::is_off;

const VCPUS: &str = "vcpus";

/// Labels of all hosts that the configuration names.
pub(crate) type Labels = BTreeMap<HostName, BTreeMap<String, String>>;

/// VMs and the hosts that alone will do for them.
pub(super) type Bound = BTreeMap<VmName, Vec<HostName>>;

/// What an input is made of.
pub(super) struct Parts<'a> {
    /// What is planned, for reports.
    pub(super) name: &'a ClusterName,
    /// Whose VMs may leave.
    pub(super) clusters: Vec<&'a ClusterSpec>,
    /// S1.
    pub(super) from: &'a [HostName],
    /// S2.
    pub(super) to: &'a [HostName],
    /// Messages B.
    pub(super) states: &'a BTreeMap<HostName, HostState>,
    pub(super) labels: &'a Labels,
    /// Speeds of migration links that are known, Mbit/s.
    pub(super) vmct_mbit_s: &'a BTreeMap<HostName, u32>,
    /// Measured dirty rates, MiB/s.
    pub(super) dirty: &'a BTreeMap<VmName, Interval>,
    /// VMs that may use these hosts only, whatever the rules say.
    pub(super) bound: &'a Bound,
}

impl Parts<'_> {
    pub(super) fn input(&self) -> PlanInput {
        let vms = self.clusters.iter().flat_map(|cluster| {
            let vms = cluster.vms.iter();
            vms.map(|placed| self.vm(cluster, placed))
        });
        PlanInput {
            hosts: self
                .host_names()
                .into_iter()
                .map(|name| self.host(name))
                .collect(),
            cluster: Cluster {
                name: self.name.clone(),
                vms: vms.collect(),
                groups: self.groups(),
                traffic: Vec::new(),
            },
            from: self.from.to_vec(),
            to: self.to.to_vec(),
        }
    }

    fn leaves(&self, placed: &PlacedVm) -> bool {
        self.from.contains(&placed.host)
    }

    /// Every host that is named anywhere.
    fn host_names(&self) -> BTreeSet<&HostName> {
        let rules = self
            .clusters
            .iter()
            .flat_map(|cluster| cluster.rules.vms.values());
        let homes = self.clusters.iter().flat_map(|cluster| &cluster.vms);
        let named = self.from.iter().chain(self.to).chain(self.labels.keys());
        named
            .chain(homes.map(|placed| &placed.host))
            .chain(rules.flat_map(|rules| &rules.pin))
            .collect()
    }

    fn host(&self, name: &HostName) -> Host {
        let state = self.states.get(name);
        let bands = Bands {
            vmct_mbit_s: vmct(self.vmct_mbit_s, name).0,
            ..Bands::default()
        };
        Host {
            name: name.clone(),
            capacity: state.map_or(Amounts::new(), |state| of_capacity(&state.capacity)),
            overcommit: BTreeMap::new(),
            used: state.map_or(Amounts::new(), |state| {
                of_capacity(&self.used_by_others(name, state))
            }),
            labels: self.labels.get(name).cloned().unwrap_or_default(),
            cpu_model: None,
            maintenance: false,
            bands,
        }
    }

    /// What a host has promised to all but those VMs that may leave it. Of a host that has promised
    /// more than it has, its agent only says that nothing is free, so its VMs are counted too.
    fn used_by_others(&self, host: &HostName, state: &HostState) -> Capacity {
        let own = self.clusters.iter().flat_map(|cluster| &cluster.vms);
        let leaving: BTreeMap<&VmName, Demand> = own
            .filter(|placed| placed.host == *host && self.leaves(placed))
            .map(|placed| (&placed.spec.name, placed.spec.demand()))
            .collect();
        let promised = state.capacity.minus(&demand_of(&state.free));
        let without = leaving.values().fold(promised, |left, demand| left.minus(demand));
        let others = state.vms.iter().filter(|vm| !leaving.contains_key(&vm.spec.name));
        let counted = others.fold(Capacity::default(), |sum, vm| sum.plus(&vm.spec.demand()));
        Capacity {
            vcpus: without.vcpus.max(counted.vcpus),
            memory: without.memory.max(counted.memory),
        }
    }

    fn vm(&self, cluster: &ClusterSpec, placed: &PlacedVm) -> Vm {
        let name = &placed.spec.name;
        let rules = cluster.rules.vms.get(name);
        let range = self.dirty.get(name);
        let pinned = || rules.map_or(Vec::new(), |rules| rules.pin.clone());
        let pin = self.bound.get(name).cloned().unwrap_or_else(pinned);
        Vm {
            name: name.clone(),
            host: placed.host.clone(),
            demand: match self.leaves(placed) {
                true => of_capacity(&Capacity::default().plus(&placed.spec.demand())),
                false => Amounts::new(),
            },
            pin,
            selector: rules.map_or(BTreeMap::new(), |rules| rules.selector.clone()),
            cpu_models: Vec::new(),
            weight: rules.and_then(|rules| rules.weight).unwrap_or(1),
            storage_mbit_s: Amount::default(),
            memory: match state_of(self.states, placed).is_some_and(is_off) {
                // Only its place moves.
                true => MemoryFigures {
                    dirty_mib_s: vec![0.0],
                    touched_mib: Some(0.0),
                    ..MemoryFigures::default()
                },
                false => MemoryFigures {
                    dirty_mib_s: range.map_or(Vec::new(), |range| vec![range.low, range.high]),
                    ..MemoryFigures::default()
                },
            },
        }
    }

    /// Groups of several clusters may have the same name.
    fn groups(&self) -> Vec<Group> {
        let several = self.clusters.len() > 1;
        let all = self.clusters.iter().flat_map(|cluster| {
            cluster.rules.groups.iter().map(move |group| Group {
                name: match several {
                    true => format!("{}/{}", cluster.name, group.name),
                    false => group.name.clone(),
                },
                ..group.clone()
            })
        });
        all.collect()
    }
}

/// What its host's agent answered of a VM.
pub(super) fn state_of<'a>(
    states: &'a BTreeMap<HostName, HostState>,
    placed: &PlacedVm,
) -> Option<&'a VmState> {
    let mut vms = states.get(&placed.host)?.vms.iter();
    vms.find(|state| state.spec.name == placed.spec.name)
}

/// Speed of a host's migration link, Mbit/s, and whether that is only assumed.
pub(super) fn vmct(known: &BTreeMap<HostName, u32>, host: &HostName) -> (u32, bool) {
    match known.get(host) {
        Some(named) => (*named, false),
        None => (Bands::default().vmct_mbit_s, true),
    }
}

fn of_capacity(capacity: &Capacity) -> Amounts {
    Amounts::from([
        (VCPUS.to_owned(), Amount::units(capacity.vcpus.0)),
        (MEMORY.to_owned(), Amount::units(capacity.memory.0)),
    ])
}

fn demand_of(capacity: &Capacity) -> Demand {
    Demand {
        vcpus: capacity.vcpus,
        memory: capacity.memory,
    }
}
