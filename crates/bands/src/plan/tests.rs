use proptest::prelude::*;

use super::*;
use crate::config::Bands;

const SHARED: &str = r#"
    form = "shared"
    interface = "eth0"
    ct = { share = 50 }
    vmct = { share = 30, ceil = 90 }
    nast = { share = 20, own = "10.0.0.1", servers = ["10.0.0.9:10809", "10.1.0.0/16"] }
"#;

fn bands(text: &str) -> Bands {
    toml::from_str(text).unwrap()
}

fn seen(root: Root) -> Seen {
    Seen {
        link: Link {
            index: 7,
            role: Role::Leaf,
            speed: "1gbit".parse().ok(),
        },
        root,
    }
}

fn planned(text: &str, seen: Seen) -> Result<Plan, BandsError> {
    let mut plans = plan(&bands(text), |name| (name == "eth0").then(|| seen.clone()))?;
    assert_eq!(plans.len(), 1);
    Ok(plans.remove(0))
}

/// The kernel, as far as trees go.
fn carry_out(root: Root, steps: &[Step]) -> Root {
    let mut root = root;
    for step in steps {
        match (step, &mut root) {
            (Step::PutRoot { default }, Root::ByKernel | Root::Others(_)) => {
                root = Root::Ours {
                    classes: Vec::new(),
                    filters: Vec::new(),
                    default: *default,
                };
            }
            (Step::RemoveRoot, Root::Ours { .. }) => root = Root::ByKernel,
            (Step::PutBack(previous), Root::ByKernel) => root = Root::Others(previous.clone()),
            (Step::AddClass(class), Root::Ours { classes, .. }) => {
                let parent = |above: &Class| above.minor == class.parent;
                assert!(class.parent == 0 || classes.iter().any(parent), "{step}");
                assert!(classes.iter().all(|other| other.minor != class.minor), "{step}");
                classes.push(*class);
            }
            (Step::ChangeClass(class), Root::Ours { classes, .. }) => {
                let there = classes.iter_mut().find(|other| other.minor == class.minor);
                let there = there.expect("it is there");
                assert_eq!(there.parent, class.parent, "{step}");
                *there = *class;
            }
            (Step::RemoveClass(minor), Root::Ours { classes, filters, .. }) => {
                assert!(classes.iter().all(|class| class.parent != *minor), "{step}");
                assert!(filters.iter().all(|filter| filter.class != *minor), "{step}");
                classes.retain(|class| class.minor != *minor);
            }
            (Step::AddFilter(filter), Root::Ours { filters, .. }) => {
                filters.push(filter.clone());
                filters.sort_by_key(|filter| filter.preference);
            }
            (Step::RemoveFilter(preference), Root::Ours { filters, .. }) => {
                let before = filters.len();
                filters.retain(|filter| filter.preference != *preference);
                assert!(filters.len() < before, "{step}");
            }
            (step, root) => panic!("{step} on {root:?}"),
        }
    }
    root
}

/// In no order that matters.
fn sorted(root: Root) -> Root {
    match root {
        Root::Ours {
            mut classes,
            filters,
            default,
        } => {
            classes.sort_by_key(|class| class.minor);
            Root::Ours {
                classes,
                filters,
                default,
            }
        }
        other => other,
    }
}

fn applied() -> Root {
    let plan = planned(SHARED, seen(Root::ByKernel)).unwrap();
    carry_out(Root::ByKernel, &plan.steps)
}

fn others(kind: &str, has_parts: bool) -> Root {
    Root::Others(Previous {
        kind: kind.to_owned(),
        major: 1,
        options: vec![1, 2, 3],
        has_parts,
    })
}

#[test]
fn a_free_link_is_divided_and_then_left_alone() {
    let again = planned(SHARED, seen(applied())).unwrap();
    assert_eq!(again.steps, []);
    assert_eq!(
        (again.index, again.band, again.speed.bits_per_s()),
        (7, None, 1_000_000_000)
    );
}

#[test]
fn vmct_has_its_share_and_its_ceiling_of_what_is_used() {
    let plans = [planned(SHARED, seen(Root::ByKernel)).unwrap()];
    let BandRates {
        guaranteed: always,
        ceiling: at_most,
    } = vmct_rates(&bands(SHARED), &plans).unwrap();
    assert_eq!(
        (always.to_string(), at_most.to_string()),
        ("291mbit".to_owned(), "873mbit".to_owned())
    );
}

#[test]
fn other_shares_change_rates_and_nothing_else() {
    let wanted = SHARED.replace("share = 50", "share = 40");
    let steps = planned(&wanted, seen(applied())).unwrap().steps;
    assert!(
        matches!(&steps[..], [Step::ChangeClass(class)] if class.minor == 0x10),
        "{steps:?}"
    );
}

#[test]
fn others_queues_are_refused_or_taken_over_by_consent_and_put_back() {
    let consent = format!("take_over = true\n{SHARED}");
    for (root, without, with) in [
        (others("fq_codel", false), true, None),
        (others("htb", true), false, Some(false)),
        (others("prio", false), false, Some(false)),
    ] {
        let refused = planned(SHARED, seen(root.clone())).unwrap_err();
        let BandsError::InUse { replaceable, .. } = &refused else {
            panic!("{refused}")
        };
        assert_eq!(*replaceable, without);
        assert!(refused.to_string().contains("eth0") && refused.hint().contains("eth0"));
        match with {
            Some(replaceable) => {
                let refused = planned(&consent, seen(root)).unwrap_err();
                assert!(matches!(refused, BandsError::InUse { replaceable: r, .. } if r == replaceable));
            }
            None => {
                let plan = planned(&consent, seen(root.clone())).unwrap();
                let divided = carry_out(root.clone(), &plan.steps);
                let cleared = clear(&seen(divided.clone()), plan.previous);
                assert_eq!(carry_out(divided, &cleared), root);
            }
        }
    }
}

#[test]
fn what_is_not_ours_is_not_cleared() {
    assert_eq!(clear(&seen(others("htb", true)), None), []);
    assert_eq!(clear(&seen(Root::ByKernel), None), []);
    assert_eq!(clear(&seen(applied()), None), [Step::RemoveRoot]);
}

#[test]
fn a_link_that_cannot_be_divided_is_named() {
    let mut bridge = seen(Root::ByKernel);
    bridge.link.role = Role::Bridge;
    let mut member = seen(Root::ByKernel);
    member.link.role = Role::Member;
    let mut unknown = seen(Root::ByKernel);
    unknown.link.speed = None;
    let mut slow = seen(Root::ByKernel);
    slow.link.speed = "10kbit".parse().ok();
    for (seen, named) in [
        (bridge, "is a bridge"),
        (member, "is a member of a bond"),
        (unknown.clone(), "nobody knows the speed of eth0"),
        (slow, "eth0 at 10kbit"),
    ] {
        let error = planned(SHARED, seen).unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
        assert!(!error.hint().is_empty());
    }
    let error = plan(&bands(SHARED), |_| None).unwrap_err();
    assert_eq!(error.to_string(), "there is no interface eth0");
    let said = format!("rate = \"10gbit\"\n{SHARED}");
    assert_eq!(
        planned(&said, unknown).unwrap().speed.bits_per_s(),
        10_000_000_000
    );
}

#[test]
fn separate_circuits_are_looked_at_and_left_alone() {
    let separate = r#"
        form = "separate"
        ct = { interface = "eth0" }
        vmct = { interface = "eth1", rate = "10gbit" }
        nast = { interface = "eth2" }
    "#;
    let plans = plan(&bands(separate), |_| Some(seen(others("htb", true)))).unwrap();
    let speeds: Vec<_> = plans
        .iter()
        .map(|plan| (plan.band, plan.speed.to_string()))
        .collect();
    assert_eq!(
        speeds,
        [
            (Some(Band::Ct), "1gbit".to_owned()),
            (Some(Band::Vmct), "10gbit".to_owned()),
            (Some(Band::Nast), "1gbit".to_owned())
        ]
    );
    assert!(plans.iter().all(|plan| plan.steps.is_empty()));
    let BandRates {
        guaranteed: always,
        ceiling: at_most,
    } = vmct_rates(&bands(separate), &plans).unwrap();
    assert_eq!((always, at_most), (plans[1].speed, plans[1].speed));
    let lacking = plan(&bands(separate), |name| {
        (name != "eth2").then(|| seen(Root::ByKernel))
    });
    assert_eq!(lacking.unwrap_err().to_string(), "there is no interface eth2");
}

#[test]
fn steps_read_as_tc_is_told() {
    let steps = planned(SHARED, seen(Root::ByKernel)).unwrap().steps;
    let lines: Vec<_> = steps.iter().map(ToString::to_string).collect();
    assert_eq!(lines[0], "qdisc replace root handle 7e57: htb default 10");
    assert_eq!(
        lines[3],
        "class add parent 7e57:1 classid 7e57:20 htb rate 291000000bit ceil 873000000bit prio 2"
    );
    assert_eq!(
        lines[5],
        "filter add pref 1 u32 match u32 0x45000000 0xff000000 at 0 match u32 0xa000001 0xffffffff at 12 \
         match u32 0xa000009 0xffffffff at 16 match u32 0x2a39 0xffff at 20 classid 7e57:30"
    );
}

fn any_class() -> impl Strategy<Value = Class> {
    (1u16..4, 0u32..3, 1u64..1000).prop_map(|(which, priority, rate)| Class {
        minor: [0x10, 0x20, 0x99][usize::from(which) - 1],
        parent: 1,
        bytes_per_s: rate,
        ceil_bytes_per_s: rate,
        burst_ticks: 1,
        ceil_burst_ticks: 1,
        priority,
    })
}

proptest! {
    /// Whatever somebody has done to our tree, the steps lead back to it, each in an order that the
    /// kernel takes.
    #[test]
    fn a_tampered_tree_is_brought_in_line(
        removed_filters in proptest::collection::vec(0usize..2, 0..3),
        removed_class in proptest::option::of(0usize..4),
        tampered in proptest::collection::vec(any_class(), 0..4),
        changed_filter in proptest::option::of(0u16..9),
        default in prop_oneof![Just(0x10u16), Just(0x20u16)],
    ) {
        let Root::Ours { mut classes, mut filters, .. } = applied() else { unreachable!() };
        for which in removed_filters {
            if which < filters.len() {
                filters.remove(which);
            }
        }
        // Removing the uppermost takes all.
        match removed_class {
            Some(0) => { classes.clear(); filters.clear(); }
            Some(which) => {
                let gone = classes.remove(which);
                filters.retain(|filter| filter.class != gone.minor);
            }
            None => {}
        }
        for class in tampered {
            let has_root = classes.iter().any(|other| other.minor == 1);
            match classes.iter_mut().find(|other| other.minor == class.minor) {
                Some(there) => *there = class,
                None if has_root => classes.push(class),
                None => {}
            }
        }
        if let (Some(preference), Some(filter)) = (changed_filter, filters.first_mut()) {
            filter.preference = preference;
            filter.keys.pop();
        }
        filters.sort_by_key(|filter| filter.preference);
        let root = Root::Ours { classes, filters, default };
        let plan = planned(SHARED, seen(root.clone())).unwrap();
        prop_assert_eq!(sorted(carry_out(root, &plan.steps)), sorted(applied()));
    }
}
