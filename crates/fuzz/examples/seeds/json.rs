//! Of everything that is text.

use std::io::Result;
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};
use transhume_agent_core::Record;
use transhume_api::{
    Decision, DrainStage, HostFence, MoveOrder, MoveResolution, VmCheck, VmRestart, VmStart, VmStop,
};
use transhume_coordinator::journal::{DrainRecord, HostRecord};
use transhume_model::*;
use transhume_planner::input::read;
use transhume_protocol::message::*;
use transhume_protocol::migration::{Converge, JournalEntry, RunOn};

use super::{answer, put};

pub fn write(folder: &Path) -> Result<()> {
    messages(folder)?;
    monitor(folder)?;
    kept(folder)?;
    users(folder)?;
    names(folder)
}

/// One byte that says which, then the text.
fn put_text(folder: &Path, target: &str, name: &str, kind: u8, of: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec(of)?;
    put(folder, target, name, &[&[kind][..], &text].concat())
}

fn vm() -> VmName {
    "vm1".parse().expect("a VM's name")
}

fn host(name: &str) -> HostName {
    name.parse().expect("a host's name")
}

fn spec() -> VmSpec {
    let text = json!({
        "name": "vm1", "cluster": "herd", "vcpus": 1, "memory": 96, "machine": "pc-q35-10.0",
        "nics": [{"mac": "52:54:00:00:00:01", "mtu": 1500}],
        "disks": [{"kind": "nbd", "host": "10.0.0.9", "port": 10809, "export": "vm1"},
                  {"kind": "file", "path": "/images/vm1.raw"}],
        "boot": {"kernel": "/k", "initrd": "/i", "cmdline": "quiet"},
    });
    serde_json::from_value(text).expect("a VM")
}

fn commands() -> Vec<Command> {
    let (vm, migration, end) = (vm(), MigrationId(7), answer::address(9));
    vec![
        Command::Inspect {
            dirty_of: vec![vm.clone()],
        },
        Command::Pace {
            rates: vec![VmRates {
                vm: vm.clone(),
                copying: None,
                switching: None,
                processor_percent: Some(20),
            }],
        },
        Command::StartVm { spec: spec() },
        Command::StopVm {
            vm: vm.clone(),
            force: true,
        },
        Command::Reserve {
            migration,
            spec: spec(),
            powered_off: false,
        },
        Command::PreCopy {
            migration,
            vm: vm.clone(),
            page_stream: end.clone(),
            mode: Mode::Live,
            blackout_max: Millis(300),
        },
        Command::ConnectBuffers {
            vm: vm.clone(),
            tunnels: vec![end.clone(), end],
        },
        Command::AwaitLoaded {
            vm: vm.clone(),
            guest: GuestState::Paused,
        },
        Command::Activate { vm, run: true },
    ]
}

fn messages(folder: &Path) -> Result<()> {
    let fleet = FleetId::of([1; FLEET_BYTES]);
    let hello = Hello::of(Leader {
        fleet,
        term: 3,
        life: 7,
    });
    put_text(folder, "messages", "hello", 0, &hello)?;
    put_text(folder, "records", "leader", 1, &hello.leader)?;
    for command in commands() {
        let name = format!("order-{}", command.name());
        let order = Order {
            id: OrderId(4),
            epoch: Epoch(2),
            command,
        };
        put_text(folder, "messages", &name, 1, &order)?;
    }
    let at = WallMicros(1_700_000_000_000_000);
    let wanted = [
        "Prepare",
        "Converge",
        "OpenTargetBuffer",
        "Capture",
        "StopAndCopy",
        "AwaitLoaded",
        "Activate",
        "CloseSourceBuffer",
        "CloseTargetBuffer",
    ];
    let mut outcomes: Vec<(&str, Outcome)> = wanted
        .into_iter()
        .map(|order| (order, answer::natural(order, at)))
        .collect();
    let mut state = answer::host_state(host("h1"));
    state.vms = vec![VmState {
        spec: spec(),
        role: VmRole::Home,
        epoch: Epoch(2),
        guest: GuestState::Running,
        whole: false,
    }];
    outcomes.push(("Host", Outcome::Host(Box::new(state))));
    outcomes.push(("Refused", answer::refusal(RefusalKind::NoCapacity)));
    outcomes.push(("Failed", answer::fault(FaultKind::Qemu)));
    for (name, outcome) in outcomes {
        let report = Report {
            order: Some(OrderId(4)),
            epoch: Epoch(2),
            vm: Some(vm()),
            at,
            outcome,
        };
        put_text(folder, "messages", &format!("report-{name}"), 2, &report)?;
    }
    Ok(())
}

fn monitor(folder: &Path) -> Result<()> {
    let ram = json!({
        "total": 134_217_728, "transferred": 9_000_000, "remaining": 4096, "dirty-sync-count": 3,
        "dirty-pages-rate": 12, "page-size": 4096, "mbps": 94.7,
    });
    let lines = [
        (
            "greeting",
            json!({"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}}, "capabilities": ["oob"]}}),
        ),
        (
            "migrate",
            json!({"return": {"status": "active", "ram": ram, "expected-downtime": 300, "downtime": 41, "error-desc": "no"}, "id": 7}),
        ),
        (
            "dirty",
            json!({"return": {"status": "measured", "dirty-rate": 7, "sample-pages": 4096, "mode": "page-sampling"}, "id": 8}),
        ),
        (
            "status",
            json!({"return": {"status": "postmigrate", "running": false}, "id": 9}),
        ),
        (
            "refused",
            json!({"error": {"class": "GenericError", "desc": "State blocked"}, "id": 10}),
        ),
        (
            "pass",
            json!({"event": "MIGRATION_PASS", "data": {"pass": 2}, "timestamp": {"seconds": 1_700_000_000, "microseconds": 5}}),
        ),
        (
            "stop",
            json!({"event": "STOP", "timestamp": {"seconds": -1, "microseconds": -1}}),
        ),
    ];
    let all: Vec<String> = lines.iter().map(|(_, line)| line.to_string()).collect();
    for (name, line) in &lines {
        put(folder, "qmp", name, line.to_string().as_bytes())?;
    }
    put(folder, "qmp", "all", all.join("\n").as_bytes())
}

fn kept(folder: &Path) -> Result<()> {
    let process = json!({"pid": 4711, "start_ticks": 123_456, "boot": "b"});
    let end = json!(answer::address(9));
    let places = [
        (
            "home",
            json!({"role": "home", "process": process, "started": true, "arrival": null}),
        ),
        ("booting", json!({"role": "booting", "off": null})),
        (
            "source",
            json!({"role": "source", "process": process, "migration": 7, "guest": "running",
            "capturing": true, "restoring": false, "tunnels": [end]}),
        ),
        (
            "left",
            json!({"role": "left", "process": process, "migration": 7, "tunnels": [end], "closed": null}),
        ),
        (
            "target",
            json!({"role": "target", "process": process, "migration": 7, "tunnels": [end]}),
        ),
        (
            "arrived",
            json!({"role": "arrived", "process": process, "migration": 7, "run": true, "tunnels": [end],
            "activated": {"begun_at": 1, "running_at": 2, "injected_at": 3, "announced_at": 4}}),
        ),
    ];
    for (name, place) in places {
        let record = json!({"version": 3, "spec": spec(), "epoch": 2, "place": place});
        Record::read(record.to_string().as_bytes()).expect("an agent writes it so");
        put_text(folder, "records", name, 0, &record)?;
    }
    let divided = json!({"version": 1, "interface": "eth0", "index": 7,
        "previous": {"kind": "tbf", "major": 5, "options": [1, 2, 3], "has_parts": false}});
    transhume_agent::testing::divided(divided.to_string().as_bytes()).expect("an agent writes it so");
    put_text(folder, "records", "divided", 2, &divided)?;

    let text = include_str!("../../../protocol/testdata/journal_v4.json");
    let entries: Vec<Value> = serde_json::from_str(text)?;
    let mut seen = Vec::new();
    for entry in &entries {
        let name = entry["entry"].as_str().unwrap_or("entry").to_owned();
        let bytes = [&[0, 0][..], &serde_json::to_vec(entry)?].concat();
        if !seen.contains(&name) && bytes.len() < 3500 {
            put(folder, "journal", &name, &bytes)?;
            seen.push(name);
        }
    }
    let cancelled = JournalEntry::CancelAsked { at: WallMicros(1) };
    let damaged = [&[0, 100][..], &serde_json::to_vec(&cancelled)?].concat();
    put(folder, "journal", "damaged", &damaged)?;
    let cluster = json!({"spec": cluster(), "stage": "live"});
    put(
        folder,
        "journal",
        "cluster",
        &[&[1, 0][..], &serde_json::to_vec(&cluster)?].concat(),
    )?;
    let mut known = HostRecord::new(host("h1"));
    known.fenced_at = Some(WallMicros(7));
    put(
        folder,
        "journal",
        "host",
        &[&[2, 0][..], &serde_json::to_vec(&known)?].concat(),
    )?;
    let drain = DrainRecord {
        drain: DrainId(3),
        hosts: vec![host("h1")],
        order: order(),
        stage: DrainStage::Running,
        cancelled: false,
        moves: Vec::new(),
        stays: Vec::new(),
        dies: Some(WallMicros(9)),
    };
    put(
        folder,
        "journal",
        "drain",
        &[&[3, 0][..], &serde_json::to_vec(&drain)?].concat(),
    )?;

    put(folder, "recover", "whole", &[1; 32])?;
    put(
        folder,
        "recover",
        "disturbed",
        &[1, 1, 1, 130, 1, 1, 131, 0, 1, 1],
    )?;
    put(folder, "recover", "jumps", &[1, 1, 1, 1, 200, 1, 197, 1, 193, 1])?;
    put(
        folder,
        "recover",
        "lines",
        b"\0{\"entry\":\"cancel-asked\",\"at\":1}\n{}",
    )
}

fn cluster() -> Value {
    json!({"name": "herd", "vms": [{"spec": spec(), "host": "h1"}],
        "rules": {"groups": [{"name": "pair", "kind": "anti-affinity", "vms": ["vm1", "vm2"]}],
                  "vms": {"vm1": {"pin": ["h1"], "selector": {"rack": "a"}, "weight": 3}}}})
}

fn order() -> MoveOrder {
    MoveOrder {
        from: vec!["h1".into()],
        to: vec!["h2".into()],
        batch: Some(2),
        adaptive: true,
        blackout_ms_max: Some(300),
        converge: Some(Converge::Throttle { percent: 20 }),
        ..MoveOrder::default()
    }
}

fn users(folder: &Path) -> Result<()> {
    let rules = cluster()["rules"].clone();
    put_text(folder, "bodies", "order", 0, &order())?;
    put_text(folder, "bodies", "rules", 1, &rules)?;
    put_text(
        folder,
        "bodies",
        "start",
        2,
        &VmStart {
            host: Some("h2".into()),
        },
    )?;
    put_text(folder, "bodies", "restart", 3, &VmRestart { on: "h3".into() })?;
    put_text(folder, "bodies", "stop", 4, &VmStop { force: true })?;
    put_text(folder, "bodies", "check", 5, &VmCheck::Stop { force: true })?;
    let fence = HostFence {
        powered_off: true,
        ..HostFence::default()
    };
    put_text(folder, "bodies", "fence", 6, &fence)?;
    put_text(folder, "bodies", "decision", 7, &Decision { dry_run: true })?;
    let resolution = MoveResolution {
        vm: Some("vm1".into()),
        run_on: RunOn::Target,
        although_it_may_have_run: false,
        dry_run: false,
    };
    put_text(folder, "bodies", "resolution", 8, &resolution)?;
    let spec: ClusterSpec = serde_json::from_value(cluster()).expect("a cluster");
    assert_eq!(transhume_coordinator::testing::cluster_fault(&spec), None);
    put_text(folder, "bodies", "cluster", 9, &cluster())?;

    let inventory = "\
hosts:
  - name: h1
    capacity: &size {vcpus: 8, memory: 1024}
  - name: h2
    capacity: *size
    overcommit: {vcpus: 2.5}
    labels: {rack: \"a\"}
    bands: {ct-mbit-s: 10, vmct-mbit-s: 20, nast-mbit-s: 5}
    maintenance: true
cluster:
  name: c
  vms:
    - name: vm-1
      host: h1
      demand: {vcpus: 1, memory: 0x40}
      memory: {dirty-mib-s: [1.5, 2], working-set-mib: 12}
    - {name: vm-2, host: h1, demand: {vcpus: 0.5, memory: 64}}
  groups:
    - {name: g, kind: affinity, vms: [vm-1, vm-2]}
from: [h1]
";
    read("block", inventory).expect("an inventory");
    put(folder, "inventory", "block", inventory.as_bytes())?;
    let small = r#"{"hosts":[{"name":"h1","capacity":{"memory":64}}],"cluster":{"name":"c","vms":[{"name":"v","host":"h1","demand":{"memory":1e1}}]}}"#;
    read("json", small).expect("an inventory");
    put(folder, "inventory", "json", small.as_bytes())
}

fn names(folder: &Path) -> Result<()> {
    let texts: [(u8, &str, &str); 8] = [
        (0, "vm", "büro 2 (alt)"),
        (1, "host", "pve1.dc1.example.org"),
        (2, "cluster", "Finance_2026"),
        (3, "user", "alice"),
        (4, "mac", "52:54:00:0a:0B:ff"),
        (5, "fleet", "abababababababababababababababab"),
        (6, "identity", "transhume://agent/h1.example"),
        (7, "secret", "00112233445566778899aabbccddeeFF"),
    ];
    for (kind, name, text) in texts {
        put(folder, "names", name, &[&[kind][..], text.as_bytes()].concat())?;
    }
    Ok(())
}
