//! The tables keep to the conventions of Prometheus, so that whoever knows those finds what is
//! there.
#![allow(missing_docs)]

use std::collections::BTreeSet;

use transhume_metrics::{About, Kind, agent, coordinator};

fn all() -> impl Iterator<Item = &'static About> {
    coordinator::ALL.iter().chain(agent::ALL)
}

#[test]
fn no_name_is_there_twice() {
    let names: BTreeSet<&str> = all().map(|about| about.name).collect();
    assert_eq!(names.len(), all().count());
}

#[test]
fn agents_and_coordinator_share_no_prefix_but_the_products() {
    assert!(
        agent::ALL
            .iter()
            .all(|about| about.name.starts_with("transhume_agent_"))
    );
    let names = coordinator::ALL.iter().map(|about| about.name);
    assert!(
        names
            .clone()
            .all(|name| name.starts_with("transhume_") && !name.starts_with("transhume_agent_"))
    );
}

#[test]
fn counters_and_only_they_end_in_total() {
    for about in all() {
        assert_eq!(
            about.name.ends_with("_total"),
            about.kind == Kind::Counter,
            "{}",
            about.name
        );
    }
}

#[test]
fn units_are_base_units() {
    let others = [
        "_ms", "milli", "micro", "_kb", "_mb", "_mib", "bits", "percent", "minutes",
    ];
    for about in all() {
        let found = others.iter().find(|unit| about.name.contains(**unit));
        assert_eq!(found, None, "{}", about.name);
    }
}

#[test]
fn what_is_told_of_one_vm_is_the_agents() {
    let unbounded = ["vm", "migration", "cluster", "order", "epoch", "reason"];
    for about in coordinator::ALL {
        let found = about.labels.iter().find(|label| unbounded.contains(label));
        assert_eq!(found, None, "{}: it grows without end", about.name);
    }
    assert!(all().all(|about| about.labels.len() <= 2));
}

#[test]
fn help_is_there_and_bounds_grow() {
    for about in all() {
        assert!(
            !about.help.is_empty() && !about.help.ends_with('.'),
            "{}",
            about.name
        );
        if let Kind::Histogram(bounds) = about.kind {
            assert!(bounds.is_sorted_by(|a, b| a < b), "{}", about.name);
        }
    }
}
