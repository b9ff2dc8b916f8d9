//! Long runs: `cargo run -p transhume-sim --example storm -- --schedules 100000 --seed 0`, with
//! `--threads N` for another number than two. `--power-loss` runs moves in which one host loses its
//! power for good, `--power-cycle` those in which it comes back.
//!
//! Seeds are taken one after the other, so that ranges can be run at any time and added up. Every
//! violation is printed with its seed; `--seed S --watch` shows all that happens in one. The exit
//! code says whether there was one.
#![allow(
    clippy::disallowed_methods,
    reason = "long runs use threads and say how long they took"
)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use transhume_sim::{PowerLoss, Scenario, World};

/// Schedules between two lines on the terminal.
const PROGRESS_EVERY: u64 = 20_000;
/// Violations that are printed in full.
const PRINTED_MAX: usize = 50;

#[derive(Debug, Default)]
struct Sums {
    schedules: u64,
    simulated_ms: u64,
    steps: u64,
    endings: BTreeMap<String, u64>,
    violations: Vec<(u64, String)>,
}

fn option(name: &str, default: u64) -> u64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().map_or(default, |value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} takes a number, not `{value}`"))
    })
}

fn is_given(name: &str) -> bool {
    std::env::args().any(|argument| argument == name)
}

fn scenario(seed: u64) -> Scenario {
    match (is_given("--power-loss"), is_given("--power-cycle")) {
        (true, _) => Scenario::power_loss(seed, PowerLoss::ForGood),
        (false, true) => Scenario::power_loss(seed, PowerLoss::ComesBack),
        (false, false) => Scenario::storm(seed),
    }
}

fn one(seed: u64, sums: &Mutex<Sums>) {
    let outcome = World::new(scenario(seed)).run();
    let mut sums = sums.lock().expect("no thread panics while it adds up");
    sums.schedules += 1;
    match outcome {
        Ok(outcome) => {
            sums.simulated_ms += outcome.lasted.0;
            sums.steps += outcome.steps;
            *sums
                .endings
                .entry(format!("{:?}", outcome.report.outcome))
                .or_default() += 1;
        }
        Err(violation) => {
            if sums.violations.len() < PRINTED_MAX {
                let text = format!("{violation}: {violation:?}");
                let short: String = text.chars().take(600).collect();
                println!("seed {seed}: {short}");
            }
            sums.violations.push((seed, violation.to_string()));
        }
    }
}

/// What this process has used of processors, by Linux: all of its threads.
fn processor_seconds() -> Option<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

/// One seed with everything that happens in it.
fn look_into(seed: u64) -> ExitCode {
    let scenario = scenario(seed);
    println!("{scenario:#?}");
    let watched =
        World::new(scenario).watched(|micros, what| println!("{:>12.3} {what:?}", micros as f64 / 1e3));
    match watched.run() {
        Ok(outcome) => {
            println!("{:?} after {}", outcome.report.outcome, outcome.lasted);
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("{violation}: {violation:?}");
            ExitCode::FAILURE
        }
    }
}

fn main() -> ExitCode {
    if is_given("--watch") {
        return look_into(option("--seed", 0));
    }
    let (schedules, first) = (option("--schedules", 100_000), option("--seed", 0));
    let threads = option("--threads", 2);
    let (next, sums) = (AtomicU64::new(first), Mutex::new(Sums::default()));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + schedules {
                        return;
                    }
                    one(seed, &sums);
                    if (seed - first + 1) % PROGRESS_EVERY == 0 {
                        println!(
                            "{} schedules after {:.0} s",
                            seed - first + 1,
                            begun.elapsed().as_secs_f64()
                        );
                    }
                }
            });
        }
    });
    let core_hours = processor_seconds().unwrap_or(begun.elapsed().as_secs_f64() * threads as f64) / 3_600.0;
    let sums = sums.into_inner().expect("no thread panicked");
    let hours = sums.simulated_ms as f64 / 3_600_000.0;
    println!("seeds {first} to {}", first + schedules - 1);
    println!("schedules            {}", sums.schedules);
    println!("endings              {:?}", sums.endings);
    println!("events               {}", sums.steps);
    println!("simulated hours      {hours:.1}");
    println!("core hours           {core_hours:.3}");
    println!("simulated per core   {:.0} hours an hour", hours / core_hours);
    println!("violations           {}", sums.violations.len());
    match sums.violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
