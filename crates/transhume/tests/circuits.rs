//! One circuit for all bands: what goes where, on the hosts and in the fabric, while a cluster
//! moves.

mod user;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use transhume_lab::{Lab, LabError, Meter, Namespace, faults};
use transhume_model::Band;
use user::{UserLab, assert_no_frame_lost, lab, moved, says, start, transhume};

/// The agent looks once a second.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// For one round trip; a cut one waits for all of it.
const ANSWER_MAX: Duration = Duration::from_secs(2);
const CLOSED_PORT: u16 = 9;
/// An Ethernet frame of a message.
const FRAME_BYTES_MIN: u64 = 60;
/// What a guest writes to its disk at once.
const BLOCK_BYTES: u64 = 4096;
const SOURCES: [&str; 2] = ["h1", "h2"];
const LAB: &str = "--hosts 4 --vms 2 --rate 300 --link 200mbit";

#[test]
fn a_shared_circuit_keeps_the_bands_apart_and_stays_divided() {
    let lab = lab(&format!("{LAB} --circuits shared"));
    let opened = lab.open();
    what_guests_do_is_ct_and_nast(&lab, &opened);
    a_link_is_checked_beside_the_guests(&lab);

    let fabric = Meter::read(&opened).unwrap();
    let hosts = sent(&opened, &SOURCES);
    let mut moving = start(&["migrate", "lab", "--from", "h1,h2", "--to", "h3"]);
    moving.until("step 4:");
    run("th-lab-h3", "tc qdisc del dev all0 root");
    assert_eq!(moving.finish().code, Some(0));
    let report = says("report --json").succeeded().json();
    assert_no_frame_lost(&report);
    lab.assert_one_of_each(2);
    lab.assert_clean("after the move");

    let memory = bytes_sent(&report);
    assert!(memory > 0, "{report}");
    let fabric = Meter::read(&opened).unwrap().since(&fabric);
    let fabric = Band::ALL.map(|band| fabric.bytes(band).unwrap());
    let now = sent(&opened, &SOURCES);
    let hosts = [0, 1, 2].map(|band| now[band] - hosts[band]);
    for (place, [ct, vmct, nast]) in [("hosts", hosts), ("fabric", fabric)] {
        let told = format!("{place}: CT {ct}, VMCT {vmct}, NAST {nast}; memory {memory}");
        // Headers come on top.
        assert!((memory..memory * 5 / 4).contains(&vmct), "{told}");
        assert!(ct > 0 && ct < memory / 2, "{told}");
        assert!(nast > 0 && nast < memory / 2, "{told}");
    }

    // Whole again, and told.
    sent(&opened, &["h3"]);
    let begun = Instant::now();
    while put_back("h3") == 0 {
        assert!(begun.elapsed() < WAIT_MAX, "nobody told");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!((put_back("h3"), put_back("h1")), (1, 0));
    band_by_band_is_cut(&opened);
    moved("migrate lab --from h3 --to h1,h2");
    lab.assert_clean("on the way back");
}

/// Every message between VMs of two hosts crosses the fabric, and every block goes to the storage.
/// Two seconds of VMCT, which takes nothing from CT.
fn a_link_is_checked_beside_the_guests(lab: &UserLab) {
    let view = says("check link h1 h3 --json").succeeded().json();
    let figure = |name: &str| view["figures"][name].as_u64().unwrap();
    let bits_per_s = figure("bytes") as f64 * 8e6 / figure("sent_us") as f64;
    assert!((20e6..210e6).contains(&bits_per_s), "of 200 Mbit/s: {view}");
    assert!(
        figure("source_cpu_us") > 0 && figure("target_cpu_us") > 0,
        "{view}"
    );
    assert_eq!(view["figures"]["encrypted"], true, "{view}");
    let told = says("check link h3 h1");
    assert!(told.succeeded().stdout.contains("limited by"), "{told:?}");
    says("check link h1 h33").refused(3, &["h33", "did you mean"]);
    says("check link h1 h1").refused(3, &["h1", "two hosts"]);
    lab.assert_clean("after the link was checked");
}

fn what_guests_do_is_ct_and_nast(lab: &UserLab, opened: &Lab) {
    let figures = lab.workload();
    let sum = |key: &str| -> u64 {
        let vms = figures["vms"].as_array().unwrap();
        vms.iter().map(|vm| vm[key].as_u64().unwrap()).sum()
    };
    let fabric = Meter::read(opened).unwrap();
    let [ct, vmct, nast] = Band::ALL.map(|band| fabric.bytes(band).unwrap());
    let told = format!("CT {ct}, VMCT {vmct}, NAST {nast}: {figures}");
    assert!(ct > sum("received") * FRAME_BYTES_MIN, "{told}");
    assert!(nast > sum("disk_writes") * BLOCK_BYTES, "{told}");
    assert_eq!(vmct, 0, "{told}");
}

/// Whoever is off one band is still on the others: what all share is cut by what it carries.
fn band_by_band_is_cut(lab: &Lab) {
    let h2 = lab.host("h2").unwrap().clone();
    let coordinator = lab.layout.coordinator_namespace(0);
    let storage = lab.layout.storage_namespace();
    // A port that nobody listens at: who hears says so.
    let hears = |from: &str, address: Ipv4Addr| {
        let address = SocketAddr::from((address, CLOSED_PORT));
        let asked = || {
            Ok(TcpStream::connect_timeout(&address, ANSWER_MAX)
                .unwrap_err()
                .kind())
        };
        Namespace::named(from).run(asked).unwrap() == ErrorKind::ConnectionRefused
    };
    let heard = || {
        [
            hears(&coordinator, h2.ct),
            hears("th-lab-h1", h2.vmct),
            hears(&storage, h2.nast),
        ]
    };
    assert_eq!(heard(), [true; 3], "a whole link");
    for (band, expected) in
        Band::ALL
            .into_iter()
            .zip([[false, true, true], [true, false, true], [true, true, false]])
    {
        let cut = faults::cut_link(lab, "h2", band).unwrap();
        assert_eq!(heard(), expected, "{band} is cut");
        drop(cut);
    }
    assert_eq!(heard(), [true; 3], "whole again");
}

/// Bytes of each band that hosts sent, by their own classes, as soon as their links are divided.
fn sent(lab: &Lab, hosts: &[&str]) -> [u64; 3] {
    let mut sums = [0; 3];
    for host in hosts {
        let begun = Instant::now();
        let link = loop {
            let link = shown(lab, host);
            if link["missing"].as_array().is_some_and(Vec::is_empty) {
                break link;
            }
            assert!(begun.elapsed() < WAIT_MAX, "{host} is not divided: {link}");
            std::thread::sleep(Duration::from_millis(100));
        };
        let classes = link["classes"].as_array().unwrap();
        for (sum, (class, band)) in sums.iter_mut().zip(classes.iter().zip(Band::ALL)) {
            assert_eq!(class["band"], serde_json::to_value(band).unwrap());
            *sum += class["sent_bytes"].as_u64().unwrap();
        }
    }
    sums
}

/// What `bands show` says of a host's link.
fn shown(lab: &Lab, host: &str) -> Value {
    let binary = env!("CARGO_BIN_EXE_transhume");
    let config = lab.host(host).unwrap().config.display().to_string();
    let show = ["bands", "show", "--json", "--config", &config];
    let command = [&["lab", "exec", host, "--", binary][..], &show].concat();
    transhume(&command).succeeded().json()["links"][0].clone()
}

/// What a command in a namespace prints; its failure is the test's.
fn run(namespace: &str, command: &str) -> String {
    let words: Vec<_> = command.split(' ').collect();
    let ran = Namespace::named(namespace).run(|| {
        let done = Command::new(words[0]).args(&words[1..]).output();
        done.map_err(|source| LabError::Start {
            program: command.to_owned(),
            source,
        })
    });
    let done = ran.unwrap();
    assert!(done.status.success(), "{command}: {done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// How often a host's bands were put back, as the coordinator knows it by now.
fn put_back(host: &str) -> u64 {
    let hosts = says("hosts --json").succeeded().json();
    let hosts = hosts["hosts"].as_array().unwrap();
    let host = hosts.iter().find(|view| view["name"] == host).unwrap();
    host["bands"]["put_back"].as_u64().expect("bands are configured")
}

/// Bytes of memory that a move sent, by its report.
fn bytes_sent(report: &Value) -> u64 {
    let bytes = &report["forecast"]["bytes"]["actual"];
    bytes.as_f64().expect("a committed move has its bytes") as u64
}

#[test]
fn an_undivided_circuit_carries_a_move_as_well() {
    let lab = lab(&format!("{LAB} --circuits undivided"));
    let opened = lab.open();
    moved("migrate lab --from h1,h2 --to h3,h4");
    lab.assert_clean("after the move");
    let queues = |namespace: &str, device: &str| run(namespace, &format!("tc qdisc show dev {device} root"));
    let fabric = opened.layout.fabric_namespace();
    for shown in [queues("th-lab-h1", "all0"), queues(&fabric, "all-h1")] {
        assert!(shown.contains("tbf") && !shown.contains("htb"), "{shown}");
    }
    let unknown = Meter::read(&opened).unwrap().bytes(Band::Vmct).unwrap_err();
    assert!(unknown.to_string().contains("VMCT"), "{unknown}");
}

#[test]
fn a_shared_circuit_of_unknown_speed_is_refused() {
    for circuits in ["shared", "undivided"] {
        says(&format!("lab up --circuits {circuits} --link unlimited")).refused(3, &["link speed"]);
    }
    assert!(
        Lab::open(&transhume_lab::LabName::default()).is_err(),
        "nothing is left"
    );
}
