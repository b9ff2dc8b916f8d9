//! Inputs that are refused because of what they add up to.

use transhume_planner::input::{Amount, GroupKind, PlanInput, read};
use transhume_planner::{Options, generate, plan};

/// So many VMs of the largest amount wrap around in 64 bits.
const WRAPPING_VMS: usize = 18_447;

fn enormous() -> PlanInput {
    let mut input = generate::triplets(WRAPPING_VMS, 1);
    for vm in &mut input.cluster.vms {
        vm.demand
            .insert("memory".into(), Amount::units(1_000_000_000_000));
    }
    input.hosts.truncate(3);
    input
}

fn refused(input: &PlanInput) -> String {
    plan(input, &Options::default()).unwrap_err().to_string()
}

#[test]
fn demands_that_64_bits_cannot_add_up_are_refused() {
    assert_eq!(
        refused(&enormous()),
        "cluster.vms: the VMs of cluster generated need 18447000000000000 of memory together, more than 9000000000000000"
    );
}

#[test]
fn an_affinity_group_that_is_too_much_alone_is_named() {
    let mut input = enormous();
    let vms: Vec<_> = input.cluster.vms.iter().map(|vm| vm.name.clone()).collect();
    for (name, kind, members) in [
        ("few", GroupKind::Affinity, 2),
        ("all", GroupKind::Affinity, vms.len()),
    ] {
        input.cluster.groups.push(transhume_planner::input::Group {
            name: name.into(),
            kind,
            vms: vms[..members].to_vec(),
        });
    }
    assert_eq!(
        refused(&input),
        "cluster.groups[1]: the VMs of affinity group all need 18447000000000000 of memory together, more than 9000000000000000"
    );
}

/// Just below the limit nothing wraps: it is short by what the sums say.
#[test]
fn the_largest_sum_accepted_is_planned_with() {
    let mut input = enormous();
    input.cluster.vms.truncate(9_000);
    let report = plan(&input, &Options::default()).unwrap();
    let told = format!("{:?}", report.answer);
    assert!(told.starts_with("Impossible"), "{told:.200}");
}

/// YAML 1.1 had more words for a boolean; the hint has the one that is left.
#[test]
fn another_word_for_a_boolean_is_refused_with_the_right_one() {
    for (word, write) in [
        ("yes", "write true, without quotes"),
        ("On", "write true, without quotes"),
        ("\"true\"", "write true, without quotes"),
        ("no", "write false, without quotes"),
        ("OFF", "write false, without quotes"),
        ("maybe", "write true or false, without quotes"),
        ("1", "write true or false, without quotes"),
    ] {
        let text = format!("hosts:\n  - name: h1\n    maintenance: {word}\n");
        let error = read("inventory.yaml", &text).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("inventory.yaml:3: hosts[0].maintenance"),
            "{error}"
        );
        assert!(
            error.hint.as_ref().unwrap().starts_with(write),
            "{word}: {error:?}"
        );
    }
}

/// Bytes typed where MiB are meant, beside an amount that is exact to the byte.
#[test]
fn more_in_use_than_can_be_counted_leaves_nothing() {
    let text = "hosts:
  - {name: h1, capacity: {memory: 4000000001B}}
  - {name: h2, capacity: {memory: 4096}, used: {memory: 200000000000}}
  - {name: h3, capacity: {memory: 4096}}
from: [h1]
cluster:
  name: c
  vms:
    - {name: v1, host: h1, demand: {memory: 1024}}
";
    let input = read("inventory.yaml", text).unwrap();
    let report = plan(&input, &Options::default()).unwrap();
    let text = format!("{report:?}");
    assert!(text.contains("h3"), "{text}");
}
