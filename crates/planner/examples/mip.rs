//! Instances of the table as mixed integer programs, for a solver of that kind to compare with:
//! `cargo run --release -p transhume-planner --example mip -- CASE SEEDS DIR` writes
//! `DIR/CASE-SEED.lp`, which `scripts/mip.py` solves.
//!
//! VMs that are alike are one integer variable a host, and equal hosts are used in their order:
//! without both, a solver tries the same thing under many names. Only the number of hosts is
//! minimised; amounts and anti-affinity groups are all that these instances ask for.
#![allow(clippy::disallowed_methods, reason = "writes files")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use transhume_planner::generate;
use transhume_planner::input::{Amount, Amounts, Host, PlanInput};

/// VMs that may stand for one another: their demand, and how many there are.
struct Kind<'a> {
    demand: &'a Amounts,
    count: usize,
    /// Anti-affinity groups of the VM; one that is in a group is alone.
    groups: Vec<usize>,
}

fn kinds(input: &PlanInput) -> Vec<Kind<'_>> {
    let mut alike: BTreeMap<&Amounts, usize> = BTreeMap::new();
    let mut kinds: Vec<Kind<'_>> = Vec::new();
    for vm in &input.cluster.vms {
        let groups = input.cluster.groups.iter().enumerate();
        let groups: Vec<usize> = groups
            .filter(|(_, group)| group.vms.contains(&vm.name))
            .map(|(place, _)| place)
            .collect();
        match alike.get(&vm.demand).filter(|_| groups.is_empty()) {
            Some(place) => kinds[*place].count += 1,
            None => {
                if groups.is_empty() {
                    alike.insert(&vm.demand, kinds.len());
                }
                kinds.push(Kind {
                    demand: &vm.demand,
                    count: 1,
                    groups,
                });
            }
        }
    }
    kinds
}

fn amount(of: &Amounts, name: &str) -> Amount {
    of.get(name).copied().unwrap_or_default()
}

/// In the LP format of CPLEX, which most solvers read.
fn program(input: &PlanInput) -> String {
    let hosts: Vec<&Host> = input.hosts.iter().filter(|host| !host.maintenance).collect();
    let kinds = kinds(input);
    let resources: BTreeSet<&String> = kinds.iter().flat_map(|kind| kind.demand.keys()).collect();
    let on_all = |name: &str| -> String { (0..hosts.len()).map(|h| format!(" + {name}{h}")).collect() };
    let mut lines = vec!["Minimize".to_owned(), format!(" hosts:{}", on_all("y"))];
    lines.push("Subject To".to_owned());
    for (k, kind) in kinds.iter().enumerate() {
        lines.push(format!("{} = {}", on_all(&format!("x{k}_")), kind.count));
    }
    for (h, host) in hosts.iter().enumerate() {
        for resource in &resources {
            let held = kinds.iter().enumerate();
            let held = held.map(|(k, kind)| (k, amount(kind.demand, resource)));
            let held = held.filter(|(_, amount)| *amount > Amount::default());
            let held: String = held.map(|(k, amount)| format!(" + {amount} x{k}_{h}")).collect();
            lines.push(format!("{held} - {} y{h} <= 0", amount(&host.capacity, resource)));
        }
        for group in 0..input.cluster.groups.len() {
            let members = kinds.iter().enumerate();
            let members = members.filter(|(_, kind)| kind.groups.contains(&group));
            let members: String = members.map(|(k, _)| format!(" + x{k}_{h}")).collect();
            lines.push(format!("{members} - y{h} <= 0"));
        }
        // Equal hosts in their order.
        if let Some(next) = (h + 1..hosts.len()).find(|next| hosts[*next].capacity == host.capacity) {
            lines.push(format!(" y{h} - y{next} >= 0"));
        }
    }
    let each = |kind: usize| (0..hosts.len()).map(move |h| format!(" x{kind}_{h}"));
    lines.push("Bounds".to_owned());
    for (k, kind) in kinds.iter().enumerate() {
        lines.extend(each(k).map(|x| format!(" 0 <={x} <= {}", kind.count)));
    }
    lines.push("Generals".to_owned());
    lines.extend((0..kinds.len()).flat_map(each));
    lines.push("Binaries".to_owned());
    lines.extend((0..hosts.len()).map(|h| format!(" y{h}")));
    lines.push("End\n".to_owned());
    lines.join("\n")
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [case, seeds, dir] = arguments.as_slice() else {
        return eprintln!("mip CASE SEEDS DIR");
    };
    let seeds: u64 = seeds.parse().expect("SEEDS is a number");
    for seed in 0..seeds {
        let Some(input) = generate::named(case, seed) else {
            return eprintln!("no such case: {case}; there are {}", generate::NAMES.join(", "));
        };
        let path = Path::new(dir).join(format!("{case}-{seed}.lp"));
        std::fs::write(&path, program(&input)).expect("the directory is there and writable");
    }
}
