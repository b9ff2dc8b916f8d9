//! The order of the moves: found wherever there is one, called impossible only where there is none.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use transhume_planner::generate::Seeded;
use transhume_planner::input::{PlanInput, read};
use transhume_planner::report::{Answer, Plan, Total};
use transhume_planner::{K, Options, plan};

/// Seeds tried against every order there is.
const CASES: u64 = 3_000;

/// A VM's memory, its host, and the hosts it may run on.
type Vm = (u64, usize, Vec<usize>);

struct Case {
    capacity: Vec<u64>,
    vms: Vec<Vm>,
}

/// Nearly full hosts and pins that mostly forbid staying: many moves wait for each other.
fn case(seed: u64) -> Case {
    let mut rng = Seeded::new(seed);
    let hosts = rng.between(2, 4) as usize;
    let capacity: Vec<u64> = (0..hosts).map(|_| rng.between(4, 9)).collect();
    let mut free = capacity.clone();
    let mut vms = Vec::new();
    for _ in 0..rng.between(2, 5) {
        let memory = rng.between(1, 5);
        let homes: Vec<usize> = (0..hosts).filter(|h| free[*h] >= memory).collect();
        if homes.is_empty() {
            continue;
        }
        let home = homes[rng.between(0, homes.len() as u64 - 1) as usize];
        free[home] -= memory;
        let mut pins: Vec<usize> = (0..hosts).filter(|_| rng.chance(55)).collect();
        if pins.is_empty() {
            pins.push(rng.between(0, hosts as u64 - 1) as usize);
        }
        if pins.len() > 1 && rng.chance(70) {
            pins.retain(|h| *h != home);
        }
        vms.push((memory, home, pins));
    }
    Case { capacity, vms }
}

impl Case {
    fn input(&self) -> PlanInput {
        let mut text = String::from("hosts:\n");
        for (h, size) in self.capacity.iter().enumerate() {
            text += &format!("  - {{name: h{h}, capacity: {{memory: {size}}}}}\n");
        }
        text += "cluster:\n  name: c\n  vms:\n";
        for (v, (memory, home, pins)) in self.vms.iter().enumerate() {
            let pins: Vec<String> = pins.iter().map(|h| format!("h{h}")).collect();
            let pins = pins.join(", ");
            text += &format!(
                "    - {{name: v{v}, host: h{home}, demand: {{memory: {memory}}}, pin: [{pins}]}}\n"
            );
        }
        input(&text)
    }

    /// Whether moves one by one lead to the goal, by trying all.
    fn can_be_ordered(&self, goal: &[usize]) -> bool {
        let start: Vec<usize> = self.vms.iter().map(|(_, home, _)| *home).collect();
        let mut seen = BTreeSet::from([start.clone()]);
        let mut queue = VecDeque::from([start]);
        while let Some(at) = queue.pop_front() {
            if at == goal {
                return true;
            }
            let mut load = vec![0; self.capacity.len()];
            self.vms
                .iter()
                .zip(&at)
                .for_each(|((memory, ..), h)| load[*h] += memory);
            for (v, (memory, _, pins)) in self.vms.iter().enumerate() {
                for host in pins {
                    let mut next = at.clone();
                    next[v] = *host;
                    if *host != at[v]
                        && load[*host] + memory <= self.capacity[*host]
                        && seen.insert(next.clone())
                    {
                        queue.push_back(next);
                    }
                }
            }
        }
        false
    }
}

fn input(text: &str) -> PlanInput {
    read("test.yaml", text).unwrap_or_else(|e| panic!("{e}"))
}

fn planned(input: &PlanInput) -> Option<Plan> {
    match plan(input, &Options::default()).unwrap().answer {
        Answer::Planned(plan) => Some(*plan),
        Answer::Impossible(_) | Answer::NotFound { .. } => None,
    }
}

fn hops(plan: &Plan) -> usize {
    let moves = plan.batches.iter().flat_map(|batch| &batch.moves);
    moves.filter(|m| m.step.spare).count()
}

#[test]
fn an_order_is_found_wherever_there_is_one() {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..CASES {
        let case = case(seed);
        let plan = (!case.vms.is_empty()).then(|| planned(&case.input())).flatten();
        let Some(plan) = plan else {
            *counts.entry("no placement").or_default() += 1;
            continue;
        };
        let hosts = plan.placement.iter().map(|p| p.target.as_str()[1..].parse());
        let goal: Vec<usize> = hosts.collect::<Result<_, _>>().unwrap();
        assert_eq!(plan.cycle.is_empty(), case.can_be_ordered(&goal), "seed {seed}");
        assert_eq!(
            plan.cycle_states, None,
            "seed {seed}: so few VMs are searched to the end"
        );
        let what = match (plan.cycle.is_empty(), hops(&plan)) {
            (false, _) => "cycle",
            (true, 0) => "direct",
            (true, _) => "by way of a spare host",
        };
        *counts.entry(what).or_default() += 1;
    }
    println!("{counts:?}");
    for what in ["cycle", "direct", "by way of a spare host"] {
        assert!(
            counts[what] > 20,
            "every outcome is common enough to mean something: {counts:?}"
        );
    }
}

/// Whoever fits first takes room that another needs first: only v1 to h2, v2 to h0, v0, v1 to h1,
/// v3 works.
#[test]
fn a_move_that_fits_may_have_to_wait() {
    let tight = input(
        "
hosts:
  - {name: h0, capacity: {memory: 600}}
  - {name: h1, capacity: {memory: 500}}
  - {name: h2, capacity: {memory: 500}}
cluster:
  name: c
  vms:
    - {name: v0, host: h1, demand: {memory: 100}, pin: [h0, h2]}
    - {name: v1, host: h0, demand: {memory: 500}, pin: [h0, h1, h2]}
    - {name: v2, host: h1, demand: {memory: 400}, pin: [h0]}
    - {name: v3, host: h0, demand: {memory: 100}, pin: [h2]}
",
    );
    assert!(planned(&tight).unwrap().is_executable());
}

/// Exchanging the two by way of s carries three times 80; ending on s and a, also two hosts,
/// carries two times 80.
#[test]
fn a_vm_stays_on_the_spare_host_where_that_is_as_good() {
    let swap = "
hosts:
  - {name: a, capacity: {memory: 100}}
  - {name: b, capacity: {memory: 100}}
  - {name: s, capacity: {memory: 100}}
cluster:
  name: c
  vms:
    - {name: x, host: a, demand: {memory: 80}, pin: [b, s]}
    - {name: y, host: b, demand: {memory: 80}, pin: [a, s]}
";
    let plan = planned(&input(swap)).unwrap();
    assert_eq!((plan.targets.value, hops(&plan)), (Total::units(2), 0));
    assert_eq!(plan.memory_carried_mib, Total::units(160));
    assert_eq!(plan.memory_moved_mib.value, Total::units(160));
    // A VM that must stay on b makes s one host more: then the way by s is worth it.
    let held = format!("{swap}    - {{name: z, host: b, demand: {{memory: 5}}, pin: [b]}}\n");
    let held = format!("{held}    - {{name: w, host: a, demand: {{memory: 5}}, pin: [a]}}\n");
    let plan = planned(&input(&held)).unwrap();
    assert_eq!((plan.targets.value, hops(&plan)), (Total::units(2), 1));
    assert_eq!(plan.memory_moved_mib.value, Total::units(160));
    assert_eq!(plan.memory_carried_mib, Total::units(240));
    let told = plan.explanation.join("\n");
    assert!(told.contains("240 MiB carried"), "{told}");
}

/// Two large VMs can never change places; small ones that may be anywhere make more states around
/// them than are looked at.
#[test]
fn a_search_that_is_given_up_does_not_claim_that_there_is_no_order() {
    let mut text = String::from("hosts:\n");
    for h in 0..12 {
        text += &format!("  - {{name: h{h}, capacity: {{memory: 10, slot: 2}}}}\n");
    }
    text += "cluster:\n  name: c\n  vms:\n";
    for (v, (here, there)) in [(0, 1), (1, 0)].iter().enumerate() {
        text += &format!(
            "    - {{name: large-{v}, host: h{here}, demand: {{memory: 9, slot: 1}}, pin: [h{there}]}}\n"
        );
    }
    for v in 2..12 {
        text += &format!("    - {{name: small-{v}, host: h{v}, demand: {{memory: 1}}}}\n");
    }
    let plan = planned(&input(&text)).unwrap();
    let names: Vec<&str> = plan.cycle.iter().map(|step| step.vm.as_str()).collect();
    assert_eq!(names, ["large-0", "large-1"]);
    let told = plan.explanation.join("\n");
    let states = plan.cycle_states.expect("more states than are looked at");
    assert!(
        told.contains(&format!("No order was found within {states} states")),
        "{told}"
    );
}

/// A server and five clients over one link, with dirty rates measured or not.
fn server_and_clients(server_mib: u32, dirty: &str, traffic_mbit_s: u32) -> PlanInput {
    let mut text = String::from(
        "
hosts:
  - {name: a, capacity: {memory: 65536}, maintenance: true}
  - {name: b, capacity: {memory: 65536}}
cluster:
  name: c
  vms:
",
    );
    text += &format!("    - {{name: server, host: a, demand: {{memory: {server_mib}}}{dirty}}}\n");
    for c in 0..5 {
        text += &format!("    - {{name: c{c}, host: a, demand: {{memory: 4096}}{dirty}}}\n");
    }
    text += "  traffic:\n";
    for c in 0..5 {
        text += &format!("    - {{between: [server, c{c}], mbit-s: {traffic_mbit_s}}}\n");
    }
    input(&text)
}

#[test]
fn talkers_are_kept_together_where_it_costs_little_time() {
    // VMs of one size at known rates: all at once takes as long as one by one.
    let calm = ", memory: {dirty-mib-s: [1], compressed-to: [1]}";
    let together = planned(&server_and_clients(4096, calm, 2400)).unwrap();
    assert_eq!((together.k, together.split_mbit), (6, 0.0));
    // Rates that are only assumed: at worst each further VM at once costs time, so it stays near
    // the least.
    let talking = server_and_clients(8192, "", 2400);
    let chosen = planned(&talking).unwrap();
    let with_k = |k| {
        let options = Options {
            k: K::AtMost(k),
            ..Options::default()
        };
        match plan(&talking, &options).unwrap().answer {
            Answer::Planned(plan) => *plan,
            other => panic!("{other:?}"),
        }
    };
    let all: Vec<Plan> = [1, 2, 4, 6].map(with_k).into();
    let least_s = all.iter().map(|p| p.duration_s.high).fold(f64::MAX, f64::min);
    let near: Vec<&Plan> = all
        .iter()
        .filter(|p| p.duration_s.high <= 1.10 * least_s)
        .collect();
    assert!(near.len() > 1 && near.len() < all.len());
    let least_split = near.iter().map(|p| p.split_mbit).fold(f64::MAX, f64::min);
    assert_eq!(chosen.split_mbit, least_split);
    assert!(
        chosen.explanation.join(" ").contains("not the fastest"),
        "{:?}",
        chosen.explanation
    );
    // Nobody talks: the fastest it is.
    let silent = planned(&server_and_clients(8192, "", 0)).unwrap();
    assert_eq!((silent.split_mbit, silent.duration_s.high), (0.0, least_s));
}

/// What would free two VMs that wait for each other is tried before it is said.
#[test]
fn one_more_host_is_hinted_at_only_where_it_helps() {
    let swap = |ora: &str, web: &str| {
        let text = format!(
            "hosts:
  - {{name: h1, capacity: {{memory: 16GiB}}, labels: {{lic: ora}}}}
  - {{name: h2, capacity: {{memory: 16GiB}}}}
cluster:
  name: swap
  vms:
    - {{name: ora, host: h2, demand: {{memory: 16GiB}}, {ora}}}
    - {{name: web, host: h1, demand: {{memory: 16GiB}}{web}}}
"
        );
        let input = read("swap.yaml", &text).unwrap();
        match plan(&input, &Options::default()).unwrap().answer {
            Answer::Planned(plan) => {
                assert_eq!(plan.cycle.len(), 2);
                plan.cycle_freed_by.map(|host| host.to_string())
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(swap("selector: {lic: ora}", "").as_deref(), Some("h1"));
    assert_eq!(swap("pin: [h1]", "").as_deref(), Some("h1"), "web can wait there");
    assert_eq!(swap("pin: [h1]", ", pin: [h2]"), None);
}
