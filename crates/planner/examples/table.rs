//! The table of docs/design/planner-figures.md:
//! `cargo run --release -p transhume-planner --example table -- CASE SEEDS SECONDS`.
#![allow(clippy::disallowed_methods, reason = "measures times")]

use std::time::Instant;

use transhume_planner::input::PlanInput;
use transhume_planner::{Go, Watch, generate, measure};

fn instance(case: &str, seed: u64) -> Option<PlanInput> {
    let shape = generate::DataCentre {
        vms: 400,
        vm_kinds: 0,
        hosts: 40,
        host_kinds: 1,
        resources: 3,
        anti_affinity_percent: 0,
    };
    Some(match case {
        "triplets-60" => generate::triplets(60, seed),
        "triplets-249" => generate::triplets(249, seed),
        "triplets-501" => generate::triplets(501, seed),
        "400-all-different" => generate::data_centre(shape, seed),
        "400-of-20-kinds" => generate::data_centre(
            generate::DataCentre {
                vm_kinds: 20,
                host_kinds: 3,
                anti_affinity_percent: 5,
                ..shape
            },
            seed,
        ),
        "30000" => generate::data_centre(
            generate::DataCentre {
                vms: 30_000,
                vm_kinds: 40,
                hosts: 5_000,
                host_kinds: 5,
                resources: 4,
                anti_affinity_percent: 5,
            },
            seed,
        ),
        _ => return None,
    })
}

fn timed<T>(run: impl FnOnce() -> T) -> (T, f64) {
    let start = Instant::now();
    let result = run();
    (result, start.elapsed().as_secs_f64())
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [case, seeds, seconds] = arguments.as_slice() else {
        eprintln!("table CASE SEEDS SECONDS");
        return;
    };
    let seeds: u64 = seeds.parse().expect("SEEDS is a number");
    let seconds: f64 = seconds.parse().expect("SECONDS is a number");
    println!("case seed | exact bound s ended | first-fit s | best-fit s | paper s");
    let (mut times, mut proved) = (Vec::new(), 0);
    for seed in 0..seeds {
        let Some(input) = instance(case, seed) else {
            eprintln!("no such case: {case}");
            return;
        };
        let start = Instant::now();
        let mut ask = || {
            if start.elapsed().as_secs_f64() > seconds {
                Go::Deadline
            } else {
                Go::On
            }
        };
        let (exact, time) = timed(|| measure::exact(&input, &mut Watch::new(u64::MAX, &mut ask)));
        let mut on = || Go::On;
        let (first, first_s) =
            timed(|| measure::first_fit_decreasing(&input, &mut Watch::new(u64::MAX, &mut on)));
        let (best, best_s) =
            timed(|| measure::best_fit_decreasing(&input, &mut Watch::new(u64::MAX, &mut on)));
        let constrained = !input.cluster.groups.is_empty();
        let (paper, paper_s) = if constrained {
            (None, 0.0)
        } else {
            timed(|| measure::paper(&input))
        };
        let show = |hosts: Option<usize>| hosts.map_or("-".to_owned(), |h| h.to_string());
        println!(
            "{case} {seed} | {} {} {time:.2} {:?} | {} {first_s:.3} | {} {best_s:.3} | {} {paper_s:.3}",
            show(exact.hosts),
            exact.hosts_min,
            exact.ended,
            show(first),
            show(best),
            show(paper)
        );
        proved += u64::from(exact.hosts == Some(exact.hosts_min));
        times.push(time);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "proved {proved} of {seeds}; median {:.2} s, longest {:.2} s",
        times[times.len() / 2],
        times[times.len() - 1]
    );
}
