//! What holds for any input: hostile text never panics, the paper's proofs are true, order and
//! report agree.

use proptest::prelude::*;
use transhume_planner::input::{PlanInput, read};
use transhume_planner::report::Answer;
use transhume_planner::{K, Options, Strategy, generate, plan, validate};

const EXAMPLE: &str = include_str!("../../../docs/inventory.example.yaml");

fn one_resource(hosts: &[u64], vms: &[u64]) -> PlanInput {
    let mut text = String::from("hosts:\n  - {name: old, capacity: {memory: 1}, maintenance: true}\n");
    for (i, size) in hosts.iter().enumerate() {
        text += &format!("  - {{name: h{i}, capacity: {{memory: {size}}}}}\n");
    }
    text += "cluster:\n  name: c\n  vms:\n";
    for (i, size) in vms.iter().enumerate() {
        text += &format!("    - {{name: vm-{i}, host: old, demand: {{memory: {size}}}}}\n");
    }
    read("generated", &text).unwrap_or_else(|e| panic!("{e}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any text is read or refused with a place; never a panic.
    #[test]
    fn any_text_is_read_or_refused(text in "[\\[\\]{}:,\\- a-z0-9.#&*!|>'\"\n]{0,200}") {
        if let Err(error) = read("any", &text) {
            prop_assert!(error.to_string().starts_with("any:"));
        }
    }

    /// A good text with one stretch replaced is read or refused; what is read can be planned or
    /// refused.
    #[test]
    fn a_damaged_inventory_is_read_or_refused(at in 0usize..EXAMPLE.len(), cut in 0usize..12, put in "[a-z0-9:{}\\[\\],\n -]{0,6}") {
        let end = (at + cut).min(EXAMPLE.len());
        let text = format!("{}{put}{}", &EXAMPLE[..at], &EXAMPLE[end..]);
        if let Ok(input) = read("damaged", &text)
            && let Answer::Planned(planned) = plan(&input, &Options::default()).unwrap().answer {
            prop_assert_eq!(validate(&input, &planned), Vec::<String>::new());
        }
    }

    /// With one resource the paper's claim holds (where its work suffices, which it tells): same
    /// N(S2) as the exact strategy.
    #[test]
    fn with_one_resource_the_paper_is_optimal(
        hosts in prop::collection::vec(4u64..20, 1..5),
        vms in prop::collection::vec(1u64..10, 1..8),
    ) {
        let input = one_resource(&hosts, &vms);
        let by = |strategy| plan(&input, &Options { strategy, strict: true, ..Options::default() }).unwrap().answer;
        match (by(Strategy::Paper), by(Strategy::Exact)) {
            (Answer::Planned(paper), Answer::Planned(exact)) => {
                prop_assert_eq!(paper.targets.value, exact.targets.value);
                prop_assert_eq!(validate(&input, &paper), Vec::<String>::new());
            }
            (Answer::Impossible(paper), Answer::Impossible(exact)) => prop_assert_eq!(paper.addition, exact.addition),
            (paper, exact) => prop_assert!(false, "{paper:?} against {exact:?}"),
        }
    }

    /// Every plan for a data centre passes the validator, whatever k is asked for; k above the VMs
    /// that move is refused.
    #[test]
    fn plans_of_data_centres_are_valid(seed in 0u64..1_000_000, vms in 10usize..40, hosts in 3usize..8, k in prop::option::of(1usize..50)) {
        let shape = generate::DataCentre { vms, vm_kinds: 5, hosts, host_kinds: 2, resources: 3, anti_affinity_percent: 10 };
        let input = generate::data_centre(shape, seed);
        let options = Options { k: k.map_or(K::Chosen, K::AtMost), work_max: 300_000, ..Options::default() };
        let moving = match plan(&input, &Options { k: K::Chosen, ..options.clone() }).unwrap().answer {
            Answer::Planned(any) => any.placement.iter().filter(|p| p.source != p.target).count(),
            Answer::Impossible(_) | Answer::NotFound { .. } => 0,
        };
        if k.is_some_and(|k| 0 < moving && moving < k) {
            prop_assert!(plan(&input, &options).is_err());
            return Ok(());
        }
        if let Answer::Planned(planned) = plan(&input, &options).unwrap().answer {
            prop_assert_eq!(validate(&input, &planned), Vec::<String>::new());
        }
    }
}
