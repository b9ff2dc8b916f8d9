//! The table of docs/design/planner-figures.md:
//! `cargo run --release -p transhume-planner --example table -- CASE SEEDS SECONDS [FIRST SEED]`.
//!
//! Seconds are of the processor, so that the table is the same beside other work.
#![allow(clippy::disallowed_methods, reason = "measures times")]

use rustix::time::{ClockId, clock_gettime};
use transhume_planner::{Go, Watch, generate, measure};

/// Seconds of the processor that this process has had.
fn used_s() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

fn timed<T>(run: impl FnOnce() -> T) -> (T, f64) {
    let start = used_s();
    let result = run();
    (result, used_s() - start)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (case, seeds, seconds, first) = match arguments.as_slice() {
        [case, seeds, seconds] => (case, seeds, seconds, "0"),
        [case, seeds, seconds, first] => (case, seeds, seconds, first.as_str()),
        _ => return eprintln!("table CASE SEEDS SECONDS [FIRST SEED]"),
    };
    let seeds: u64 = seeds.parse().expect("SEEDS is a number");
    let seconds: f64 = seconds.parse().expect("SECONDS is a number");
    let first: u64 = first.parse().expect("FIRST SEED is a number");
    println!("case seed | exact bound s ended | first-fit s | best-fit s | paper s");
    let (mut times, mut proved) = (Vec::new(), 0);
    for seed in first..first + seeds {
        let Some(input) = generate::named(case, seed) else {
            eprintln!("no such case: {case}; there are {}", generate::NAMES.join(", "));
            return;
        };
        let start = used_s();
        let mut ask = || match used_s() - start > seconds {
            true => Go::Deadline,
            false => Go::On,
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
