//! `transhume plan --inventory FILE`: no coordinator, no root, nothing but a file.

mod user;

use std::path::PathBuf;

use user::{Done, transhume};

/// A file that is removed again.
struct File(PathBuf);

impl File {
    fn of(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("transhume-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn plan(&self, options: &[&str]) -> Done {
        let path = self.0.display().to_string();
        transhume(&[&["plan", "--inventory", &path], options].concat())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn inventory(hosts: &str, vms: &str, more: &str) -> String {
    format!("hosts:\n{hosts}\ncluster:\n  name: c\n  vms:\n{vms}\n{more}")
}

const HOSTS: &str = "  - {name: h1, capacity: {vcpus: 8, memory: 8192}, maintenance: true}
  - {name: h2, capacity: {vcpus: 8, memory: 8192}}
  - {name: h3, capacity: {vcpus: 8, memory: 8192}}";
const VMS: &str = "    - {name: a, host: h1, demand: {vcpus: 2, memory: 1024}}
    - {name: b, host: h1, demand: {vcpus: 2, memory: 1024}}";

/// `transhume plan .. | head` printed a panic with its backtrace.
#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let (read, written) = std::io::pipe().unwrap();
    drop(read);
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_transhume"))
        .args(["completions", "bash"])
        .stdout(written)
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(141), "{done:?}");
    assert!(done.stderr.is_empty(), "{done:?}");
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_transhume"))
        .args(["completions", "bash"])
        .stdout(full)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error: standard output"), "{said}");
}

#[test]
fn the_published_example_is_planned_explained_and_drawn() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/inventory.example.yaml");
    let picture = File::of("picture.svg", "");
    let drawn = picture.0.display().to_string();
    let done = transhume(&["plan", "--inventory", example, "--explain", "--svg", &drawn]);
    done.succeeded();
    for part in ["BATCH", "targets: ", "optimal, proved", "head"] {
        assert!(done.stdout.contains(part), "{part}: {done:?}");
    }
    let svg = std::fs::read_to_string(&picture.0).unwrap();
    assert!(
        svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"),
        "{svg}"
    );
    let json = transhume(&["plan", "--inventory", example, "--json"])
        .succeeded()
        .json();
    assert_eq!(json["cluster"], "solver");
    assert_eq!(json["answer"]["answer"], "planned");
}

#[test]
fn the_fewest_hosts_are_used_by_both_strategies() {
    let file = File::of("fewest.yaml", &inventory(HOSTS, VMS, ""));
    for strategy in ["exact", "paper"] {
        let json = file.plan(&["--strategy", strategy, "--json"]).succeeded().json();
        assert_eq!(json["answer"]["targets"]["value"], 1, "{strategy}: {json}");
    }
}

#[test]
fn what_cannot_be_placed_is_explained_with_the_smallest_addition() {
    let vms = "    - {name: a, host: h1, demand: {vcpus: 8, memory: 1024}}
    - {name: b, host: h1, demand: {vcpus: 8, memory: 1024}}
    - {name: d, host: h1, demand: {vcpus: 8, memory: 1024}}";
    let file = File::of("impossible.yaml", &inventory(HOSTS, vms, ""));
    file.plan(&["--strict"])
        .refused(3, &["vcpus is short by 8", "1 more like h"]);
    file.plan(&["--strict", "--svg", "/nowhere/picture.svg"]).refused(
        3,
        &["/nowhere/picture.svg is not written: there is no plan to draw"],
    );
    let json = file.plan(&["--strict", "--json"]).json();
    assert_eq!(json["answer"]["answer"], "impossible");
}

#[test]
fn the_others_are_planned_where_one_cannot_go() {
    let vms = format!("{VMS}\n    - {{name: gpu, host: h1, demand: {{vcpus: 1, memory: 4GB}}, pin: [h1]}}");
    let file = File::of("partial.yaml", &inventory(HOSTS, &vms, ""));
    let done = file.plan(&[]);
    done.refused(
        3,
        &[
            "1 of 3 VMs cannot leave; the plan above is for the others: VM gpu stays: its pin allows only h1 (in maintenance)",
        ],
    );
    assert!(done.stdout.contains("targets: 1 (optimal, proved)"), "{done:?}");
    let json = file.plan(&["--json"]).json();
    assert_eq!(json["answer"]["answer"], "planned");
    assert_eq!(json["answer"]["unplaced"][0]["cause"], "pin");
}

#[test]
fn a_host_that_is_odd_is_noted_and_no_obstacle() {
    let hosts = HOSTS.replacen("{vcpus: 8, memory: 8192}}", "{vcpus: 0, memory: 0}}", 1);
    let file = File::of("nothing.yaml", &inventory(&hosts, VMS, ""));
    assert!(file.plan(&[]).succeeded().stdout.contains("h3"));
    let overfull = format!("{VMS}\n    - {{name: x, host: h2, demand: {{vcpus: 9}}}}");
    let text = format!("from: [h1]\n{}", inventory(HOSTS, &overfull, ""));
    let done = File::of("overfull.yaml", &text).plan(&[]);
    assert!(
        done.succeeded()
            .stderr
            .contains("note: host h2 is overfull already"),
        "{done:?}"
    );
    let ram = VMS.replace("memory", "ram");
    let hosts = HOSTS.replace("memory", "ram");
    let done = File::of("ram.yaml", &inventory(&hosts, &ram, "")).plan(&[]);
    let stdout = &done.succeeded().stdout;
    assert!(
        stdout.contains("which is unknown") && !stdout.contains("MiB: 0 (optimal"),
        "{done:?}"
    );
}

#[test]
fn mistakes_are_named_with_file_line_and_hint() {
    let refused = |name: &str, text: &str, named: &[&str]| {
        File::of(name, text).plan(&[]).refused(3, named);
    };
    let twice = format!("{VMS}\n    - {{name: a, host: h1, demand: {{vcpus: 1}}}}");
    refused("twice.yaml", &inventory(HOSTS, &twice, ""), &["twice.yaml", "a"]);
    refused(
        "host.yaml",
        &inventory(HOSTS, &VMS.replace("h1", "h7"), ""),
        &["h7"],
    );
    let negative = VMS.replacen("1024", "-5", 1);
    refused(
        "negative.yaml",
        &inventory(HOSTS, &negative, ""),
        &["negative.yaml:8", "-5"],
    );
    let nan = VMS.replacen("1024", ".nan", 1);
    refused("nan.yaml", &inventory(HOSTS, &nan, ""), &["nan.yaml:8"]);
    let unknown = HOSTS.replacen("maintenance", "maintenence", 1);
    refused(
        "unknown.yaml",
        &inventory(&unknown, VMS, ""),
        &["maintenence", "maintenance"],
    );
    refused(
        "empty.yaml",
        "hosts: []\ncluster: {name: c, vms: []}\n",
        &["empty.yaml"],
    );
    refused("nesting.yaml", &"[".repeat(10 << 20), &["nesting.yaml"]);
    refused("bytes.yaml", "\u{0}", &["bytes.yaml"]);
    let apart = "  groups:\n    - {name: t, kind: affinity, vms: [a, b]}\n    - {name: u, kind: anti-affinity, vms: [a, b]}";
    refused("apart.yaml", &inventory(HOSTS, VMS, apart), &["a"]);
    transhume(&["plan", "--inventory", "/nowhere.yaml"]).refused(3, &["/nowhere.yaml"]);
    let usage = transhume(&["plan", "lab", "--inventory", "x.yaml"]);
    assert_eq!(usage.code, Some(2), "{usage:?}");
}

#[test]
fn what_the_options_cannot_be_is_refused() {
    let file = File::of("options.yaml", &inventory(HOSTS, VMS, ""));
    let endless = file.plan(&["--deadline-s", "18446744073709551615"]);
    assert_eq!(endless.code, Some(2), "{endless:?}");
    assert!(endless.stderr.contains("604800"), "{endless:?}");
    file.plan(&["--batch", "3"])
        .refused(3, &["k = 3 is more than the 2 VMs that move", "from 1 to 2"]);
    file.plan(&["--batch", "2"]).succeeded();
}

#[test]
fn a_device_is_read_up_to_the_limit_only() {
    transhume(&["plan", "--inventory", "/dev/zero"]).refused(3, &["/dev/zero has more than 67108864 bytes"]);
}

#[test]
fn links_and_assumptions_stand_below_the_table() {
    let file = File::of("below.yaml", &inventory(HOSTS, VMS, ""));
    let done = file.plan(&[]);
    for part in [
        "1 batch of up to k = ",
        "0 VMs stay;",
        "links at their fullest: CT unused, VMCT 80-100 % (h1, batch 1)",
        "assumed, not measured: 0 to 50 MiB/s are dirtied (2 VMs)",
    ] {
        assert!(done.succeeded().stdout.contains(part), "{part}: {done:?}");
    }
}

#[test]
fn a_vm_that_is_refused_is_named_once() {
    let busy = VMS.replacen("host: h1,", "host: h1, memory: {dirty-mib-s: [5000]},", 1);
    let done = File::of("busy.yaml", &inventory(HOSTS, &busy, "")).plan(&["--batch", "1"]);
    done.refused(3, &["error: VM a dirties memory faster"]);
}
