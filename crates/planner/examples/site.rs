//! Large sites of which little moves, from the text of their inventory:
//! `cargo run --release -p transhume-planner --example site -- drain 20000`,
//! `rack 10000`, `islands 100` or `file PATH`.
#![allow(clippy::disallowed_methods, reason = "measures times and memory")]

use std::path::Path;
use std::time::Instant;

use transhume_planner::input::read;
use transhume_planner::report::Answer;
use transhume_planner::{Go, Options, generate, plan_while, validate};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, or: usize| arguments.get(at).and_then(|n| n.parse().ok()).unwrap_or(or);
    if let [word, path] = arguments.as_slice()
        && word == "file"
    {
        return planned(path.as_ref());
    }
    let input = match arguments.first().map(String::as_str) {
        Some("drain") => generate::drain_one_of_many(number(1, 20_000)),
        Some("rack") => generate::drain_a_rack(number(1, 10_000), 10, 40, 1),
        Some("islands") => generate::islands(number(1, 100), 6, 7),
        _ => {
            eprintln!("site drain HOSTS | rack HOSTS | islands COUNT");
            return;
        }
    };
    let path = std::env::temp_dir().join(format!("site-{}.json", std::process::id()));
    let text = serde_json::to_string(&input).expect("an input is JSON");
    // A process of its own would have to read the text; this one forgets how it was made.
    drop(input);
    std::fs::write(&path, &text).expect("the temporary directory is writable");
    drop(text);
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    planned(&path);
    let _ = std::fs::remove_file(&path);
}

fn planned(path: &Path) {
    let begun = Instant::now();
    let text = std::fs::read_to_string(path).expect("it can be read");
    let input = read("site", &text).expect("it is a good inventory");
    let read_s = begun.elapsed().as_secs_f64();
    let mut ask = || match begun.elapsed().as_secs_f64() < 30.0 {
        true => Go::On,
        false => Go::Deadline,
    };
    let report = plan_while(&input, &Options::default(), &mut ask).expect("it is planned");
    let all_s = begun.elapsed().as_secs_f64();
    let said = match &report.answer {
        Answer::Planned(plan) => {
            assert_eq!(validate(&input, plan), Vec::<String>::new());
            let moving = plan.placement.iter().filter(|p| p.source != p.target).count();
            format!(
                "{moving} move, targets {}, {} unplaced, {} in a cycle",
                plan.targets,
                plan.unplaced.len(),
                plan.cycle.len()
            )
        }
        Answer::Impossible(why) => format!("impossible: {}", why.sentence()),
        Answer::NotFound { hosts_min, .. } => format!("not found, at least {hosts_min}"),
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let most = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap_or("");
    println!(
        "read {read_s:.2} s, all {all_s:.2} s, {most}; {:?}; {said}",
        report.ended
    );
}
