//! Small clusters with every kind of constraint: the planner equals trying everything, and every
//! plan passes the validator.

use std::collections::BTreeSet;

use transhume_planner::input::{GroupKind, Host, PlanInput, Vm};
use transhume_planner::report::{Answer, Total};
use transhume_planner::{Ended, Options, PlanError, generate, plan, validate};

/// Cases of one run. The seeds are 0 to CASES.
const CASES: u64 = 20_000;

/// (targets, memory moved, traffic between hosts), the last two in parts of a unit.
type Cost = (usize, u128, u128);

struct Everything<'a> {
    input: &'a PlanInput,
    resources: Vec<&'a str>,
    free: Vec<Vec<i128>>,
    host_of: Vec<usize>,
    best: Option<Cost>,
}

fn parts(amount: Option<&transhume_planner::input::Amount>) -> i128 {
    amount.map_or(0, |a| i128::try_from(a.parts()).unwrap())
}

fn leaves(input: &PlanInput, vm: &Vm) -> bool {
    input.from.is_empty() || input.from.contains(&vm.host)
}

fn may(input: &PlanInput, vm: &Vm, host: &Host) -> bool {
    let home = input.hosts.iter().find(|h| h.name == vm.host).unwrap();
    if !leaves(input, vm) {
        return home.name == host.name;
    }
    let target = if !input.to.is_empty() {
        input.to.contains(&host.name)
    } else {
        input.from.is_empty() || !input.from.contains(&host.name)
    };
    target
        && !host.maintenance
        && (vm.pin.is_empty() || vm.pin.contains(&host.name))
        && vm.selector.iter().all(|(k, v)| host.labels.get(k) == Some(v))
        && (vm.cpu_models.is_empty() || vm.cpu_models.iter().any(|m| Some(m) == host.cpu_model.as_ref()))
}

impl<'a> Everything<'a> {
    fn new(input: &'a PlanInput) -> Self {
        let resources: BTreeSet<&str> = input
            .hosts
            .iter()
            .flat_map(|h| h.capacity.keys())
            .map(String::as_str)
            .collect();
        let resources: Vec<&str> = resources.into_iter().collect();
        let free = input.hosts.iter().map(|host| {
            let has = |r: &&str| {
                let Some(capacity) = host.capacity.get(*r) else {
                    return 0;
                };
                let promised = host
                    .overcommit
                    .get(*r)
                    .map_or(capacity.parts(), |o| o.of(*capacity));
                i128::try_from(promised).unwrap() - parts(host.used.get(*r))
            };
            resources.iter().map(has).collect()
        });
        Self {
            free: free.collect(),
            input,
            resources,
            host_of: Vec::new(),
            best: None,
        }
    }

    fn descend(&mut self) {
        let vm = self.host_of.len();
        if vm == self.input.cluster.vms.len() {
            if self.groups_hold() && self.amounts_hold() {
                let cost = self.cost();
                self.best = Some(self.best.map_or(cost, |best| best.min(cost)));
            }
            return;
        }
        for host in 0..self.input.hosts.len() {
            let (v, h) = (&self.input.cluster.vms[vm], &self.input.hosts[host]);
            let needs: Vec<i128> = self.resources.iter().map(|r| parts(v.demand.get(*r))).collect();
            // What stays may be where it does not fit, but takes its room first.
            let fits = needs.iter().zip(&self.free[host]).all(|(n, f)| *n == 0 || n <= f);
            if (fits || !leaves(self.input, v)) && may(self.input, v, h) {
                self.free[host].iter_mut().zip(&needs).for_each(|(f, n)| *f -= n);
                self.host_of.push(host);
                self.descend();
                self.host_of.pop();
                self.free[host].iter_mut().zip(&needs).for_each(|(f, n)| *f += n);
            }
        }
    }

    fn index(&self, vm: &transhume_model::VmName) -> usize {
        self.input.cluster.vms.iter().position(|v| v.name == *vm).unwrap()
    }

    fn groups_hold(&self) -> bool {
        self.input.cluster.groups.iter().all(|group| {
            let members = group.vms.iter().map(|v| self.index(v));
            let (put, stay): (Vec<usize>, Vec<usize>) =
                members.partition(|vm| leaves(self.input, &self.input.cluster.vms[*vm]));
            let of = |vms: &[usize]| -> BTreeSet<usize> { vms.iter().map(|vm| self.host_of[*vm]).collect() };
            let (on, staying_on) = (of(&put), of(&stay));
            match group.kind {
                GroupKind::Affinity => on.len() <= 1 && (stay.is_empty() || on.is_subset(&staying_on)),
                GroupKind::AntiAffinity => on.len() == put.len() && on.is_disjoint(&staying_on),
            }
        })
    }

    /// VMs that stay may come after others in the list: hosts are judged when all are placed.
    fn amounts_hold(&self) -> bool {
        let vms = self.input.cluster.vms.iter().zip(&self.host_of);
        vms.filter(|(vm, _)| leaves(self.input, vm)).all(|(vm, host)| {
            let needs = self.resources.iter().map(|r| parts(vm.demand.get(*r)));
            needs
                .zip(&self.free[*host])
                .all(|(need, free)| need == 0 || *free >= 0)
        })
    }

    fn cost(&self) -> Cost {
        let vms = self.input.cluster.vms.iter().zip(&self.host_of);
        let placed = vms.filter(|(vm, _)| leaves(self.input, vm));
        let used: BTreeSet<&usize> = placed.map(|(_, host)| host).collect();
        let vms = self.input.cluster.vms.iter().zip(&self.host_of);
        let moved = vms.filter(|(v, h)| self.input.hosts[**h].name != v.host);
        let memory = moved.map(|(v, _)| parts(v.demand.get("memory")) as u128).sum();
        let pairs = self.input.cluster.traffic.iter();
        let crossing = pairs
            .filter(|t| self.host_of[self.index(&t.between[0])] != self.host_of[self.index(&t.between[1])]);
        (used.len(), memory, crossing.map(|t| t.mbit_s.parts()).sum())
    }
}

fn compare(seed: u64) -> Result<&'static str, PlanError> {
    let input = generate::small(seed);
    let strict = Options {
        strict: true,
        ..Options::default()
    };
    let report = plan(&input, &strict)?;
    let mut all = Everything::new(&input);
    all.descend();
    assert_eq!(report.ended, Ended::Complete, "seed {seed}");
    match (report.answer, all.best) {
        (Answer::Planned(plan), Some((hosts, memory, traffic))) => {
            let told = (
                plan.targets.value,
                plan.memory_moved_mib.value,
                plan.traffic_mbit_s.value,
            );
            assert_eq!(
                told,
                (Total::units(hosts), Total(memory), Total(traffic)),
                "seed {seed}"
            );
            let memory_known = plan.memory_unknown.is_empty();
            assert!(
                !memory_known
                    || plan.targets.optimal && plan.memory_moved_mib.optimal && plan.traffic_mbit_s.optimal,
                "seed {seed}: proved"
            );
            assert_eq!(validate(&input, &plan), Vec::<String>::new(), "seed {seed}");
            Ok(if plan.cycle.is_empty() { "planned" } else { "cycle" })
        }
        (Answer::Impossible(why), None) => {
            assert!(!why.reasons.is_empty(), "seed {seed}: a reason is given");
            why.reasons.iter().for_each(|r| assert!(!r.sentence().is_empty()));
            Ok("impossible")
        }
        (answer, best) => panic!("seed {seed}: {answer:?} against {best:?}"),
    }
}

#[test]
fn the_planner_equals_trying_everything() {
    let mut counts = std::collections::BTreeMap::new();
    for seed in 0..CASES {
        *counts
            .entry(compare(seed).unwrap_or("contradictory input"))
            .or_insert(0) += 1;
    }
    println!("{counts:?}");
    // Every outcome is common enough to mean something.
    assert!(counts["planned"] > CASES / 4, "{counts:?}");
    assert!(counts["impossible"] > CASES / 10, "{counts:?}");
}
