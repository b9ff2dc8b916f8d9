//! The measurements of `transhume lab` do what they say, in their smallest form: each raises its
//! labs, moves, writes what it found, and leaves nothing.

mod user;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use transhume_lab::{Lab, LabName};
use user::{lab, measures, moved};

/// A directory of this test's own, empty.
fn out(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

/// A CSV file: each line after the header, by the header's names.
fn rows(file: &Path) -> Vec<std::collections::BTreeMap<String, String>> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned));
    let names: Vec<String> = lines.next().expect("a header").collect();
    lines
        .map(|line| names.iter().cloned().zip(line).collect())
        .collect()
}

fn assert_pictures(dir: &Path, names: &[&str]) {
    for name in names {
        let svg = std::fs::read_to_string(dir.join(format!("{name}.svg"))).unwrap();
        assert!(
            svg.contains("<path") || svg.contains("<polyline"),
            "{name}: no line is drawn"
        );
        let png = std::fs::read(dir.join(format!("{name}.png"))).unwrap();
        assert_eq!(png[1..4], *b"PNG", "{name}");
    }
}

fn nothing_is_left() {
    assert!(Lab::open(&LabName::default()).is_err(), "a lab is left");
}

/// §4.3 and §4.4: the time to move a cluster by its VMs, and what the buffers hold.
#[test]
fn figures_8_and_9_are_measured_and_drawn() {
    let dir = out("figures-8-9");
    let path = dir.display();
    let small = "--vm-counts 1,2 --memory-mib 80 --without-stock --vms 2 --rate 300 --batch 1 --reps 1";
    measures(&format!("lab figures 8 9 {small} --out {path}"));
    let moves = rows(&dir.join("figure-8.csv"));
    let kinds: Vec<(&str, &str)> = moves
        .iter()
        .map(|row| (row["vms"].as_str(), row["mover"].as_str()))
        .collect();
    let all = ["serial", "parallel", "governed", "auto"];
    let expected: Vec<(&str, &str)> = ["1", "2"]
        .iter()
        .flat_map(|vms| all.map(|way| (*vms, way)))
        .collect();
    assert_eq!(kinds, expected);
    for row in &moves {
        let clean = ["lost", "duplicated", "reordered"].map(|count| row[count].as_str());
        assert_eq!(clean, ["0"; 3], "{row:?}");
        assert!(row["seconds"].parse::<f64>().unwrap() > 0.0, "{row:?}");
    }
    let samples = rows(&dir.join("figure-9-samples.csv"));
    for side in ["out", "in"] {
        let held = samples.iter().filter(|row| row["side"] == side);
        let most = held.filter_map(|row| row["kept_bytes"].parse::<u64>().ok()).max();
        assert!(
            most > Some(0),
            "nothing went through the buffers {side}: {most:?}"
        );
    }
    assert_pictures(&dir, &["figure-8", "figure-8-80mib", "figure-9"]);
    nothing_is_left();
}

/// G5: what those who stay notice, on a shared circuit.
#[test]
fn neighbours_are_asked_and_their_waits_written() {
    let dir = out("neighbours");
    let path = dir.display();
    let small = "--parts rest,latency,alone --circuits shared --reps 1 --vms 1 --random-mib 8";
    measures(&format!("lab neighbours {small} --out {path}"));
    let measured = rows(&dir.join("neighbours.csv"));
    assert_eq!(measured.len(), 3, "{measured:?}");
    for row in &measured {
        for of in ["frames", "messages"] {
            let counts = ["lost", "duplicated", "reordered"].map(|count| &row[&format!("{of}_{count}")]);
            assert_eq!(counts, ["0"; 3], "{row:?}");
        }
    }
    nothing_is_left();
}

/// A move is in the metrics of the coordinator.
#[test]
fn a_move_is_counted_with_its_forecasts() {
    let lab = lab("--hosts 2 --vms 2 --rate 50");
    let before = metrics(&lab.open());
    assert!(
        !before.contains("transhume_moves_total{outcome=\"committed\"} 1"),
        "{before}"
    );
    moved("migrate lab --from h1 --to h2");
    let after = metrics(&lab.open());
    for line in [
        "transhume_moves_total{outcome=\"committed\"} 1",
        "transhume_forecast_ratio_count{figure=\"duration\"} 2",
    ] {
        assert!(
            after.lines().any(|one| one == line),
            "{line} is missing in\n{after}"
        );
    }
}

/// What the coordinator publishes.
fn metrics(lab: &Lab) -> String {
    let mut stream = UnixStream::connect(lab.layout.api_socket()).expect("the coordinator listens");
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}
