//! A known course gives exactly these lines.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use transhume_metrics::coordinator::ALL;
use transhume_model::{MigrationId, Millis, WallMicros};
use transhume_protocol::message::{Fault, Refusal};
use transhume_protocol::migration::{JournalEntry, Now, OrderIds};
use transhume_protocol::report::MigrationReport;

use super::*;
use crate::clusters::Clusters;
use crate::hosts::Hosts;
use crate::journal::MemoryJournal;
use crate::moves::Moves;

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn new() -> Metrics {
    Metrics::new([host("h1"), host("h2")].into_iter())
}

fn scraped(metrics: &Metrics) -> String {
    let now = Now {
        mono: Millis(0),
        wall: WallMicros(0),
    };
    let names = [host("h1"), host("h2")].into_iter();
    let state = State {
        hosts: &Hosts::new(names, OrderIds::of(MigrationId(0))),
        clusters: &Clusters::new(Vec::new()),
        moves: &Moves::default(),
        now,
    };
    metrics.scrape(state).text()
}

/// Samples that differ, as they are afterwards.
fn changed(before: &str, after: &str) -> Vec<String> {
    let before: BTreeSet<&str> = before.lines().collect();
    let new = after.lines().filter(|line| !before.contains(line));
    new.map(str::to_owned).collect()
}

fn figure(low: f64, high: f64, actual: f64) -> Value {
    let inside = (low..=high).contains(&actual);
    json!({ "forecast": { "low": low, "high": high }, "actual": actual, "inside": inside })
}

/// One VM that arrived, one that is powered off and one that went back.
fn report() -> MigrationReport {
    let frames = |captured: u64, lost: u64, late: u64| {
        json!({ "captured": captured, "delivered": captured - lost, "lost": lost, "duplicated": 0,
                "reordered": 0, "late": late, "broadcast": 1, "own_echo": 0 })
    };
    let class = |pages: u64, bytes: u64| json!({ "pages": pages, "bytes": bytes });
    let none = class(0, 0);
    let pages = json!({
        "total": 0, "transferred": 0, "remaining": 0, "wire": 5_000, "rounds": 2,
        "dirty_per_second": 0, "blackout": 0,
        "classes": { "zero": class(10, 80), "fill": none, "known": none, "delta": none,
                     "wkdm": none, "lz4": class(3, 4_000), "zstd": none, "raw": none },
    });
    let vm = |name: &str, arrived: bool, guest: &str| {
        json!({
            "id": name, "batch": 1, "source": "h1", "target": "h2", "guest": guest,
            "host": if arrived { "h2" } else { "h1" },
            "phase": "activation", "blackout_ms": null, "blackout_parts": null, "gap_ms": null,
            "frames": null, "old_path": null, "buffer_peak_bytes": 0, "phases": [],
            "pages": { "total": 0, "transferred": 0, "remaining": 0, "wire": 0, "rounds": 0,
                       "dirty_per_second": 0, "blackout": 0 },
        })
    };
    let mut moved = vm("vm1", true, "running");
    moved["blackout_ms"] = json!(25.0);
    moved["gap_ms"] = json!(40.0);
    moved["frames"] = frames(7, 0, 2);
    moved["buffer_peak_bytes"] = json!(5_000);
    moved["pages"] = pages;
    moved["phases"] = json!([{ "phase": "pre-copy", "ms": 2_000.0 }]);
    moved["forecast"] = json!({
        "rate_mbit_s": 1_000.0, "dirty_mib_s": null, "assumed": [],
        "figures": { "bytes": figure(4_000.0, 6_000.0, 5_000.0),
                     "duration_ms": figure(1_000.0, 1_000.0, 2_000.0),
                     "blackout_ms": { "forecast": { "low": 0.0, "high": 0.0 }, "actual": null, "inside": null } },
    });
    let mut back = vm("vm3", false, "running");
    back["blackout_ms"] = json!(90.0);
    back["frames"] = frames(5, 1, 0);
    let report = json!({
        "migration": 1, "cluster": "lab", "outcome": "partly-committed", "mode": "live",
        "from": ["h1"], "to": ["h2"], "used": ["h2"], "batch": 1, "started_at": 0,
        "duration_ms": 4_000.0, "frames": frames(12, 1, 2),
        "vms": [moved, vm("vm2", true, "off"), back], "forecast": null, "trouble": null,
    });
    serde_json::from_value(report).unwrap()
}

#[test]
fn a_report_is_counted_vm_by_vm() {
    let mut metrics = new();
    let before = scraped(&metrics);
    metrics.ended(&report());
    let expected = r#"
transhume_blackout_seconds_bucket{le="0.03"} 1
transhume_blackout_seconds_bucket{le="0.05"} 1
transhume_blackout_seconds_bucket{le="0.075"} 1
transhume_blackout_seconds_bucket{le="0.1"} 1
transhume_blackout_seconds_bucket{le="0.2"} 1
transhume_blackout_seconds_bucket{le="0.3"} 1
transhume_blackout_seconds_bucket{le="0.5"} 1
transhume_blackout_seconds_bucket{le="1"} 1
transhume_blackout_seconds_bucket{le="2"} 1
transhume_blackout_seconds_bucket{le="5"} 1
transhume_blackout_seconds_bucket{le="+Inf"} 1
transhume_blackout_seconds_sum 0.025
transhume_blackout_seconds_count 1
transhume_buffer_peak_bytes_bucket{le="4096"} 1
transhume_buffer_peak_bytes_bucket{le="65536"} 2
"#;
    let lines = changed(&before, &scraped(&metrics));
    let expected: Vec<&str> = expected.trim().lines().collect();
    assert_eq!(lines[..expected.len()], expected);
    let numbers: Vec<&str> = lines
        .iter()
        .map(String::as_str)
        .filter(|line| !line.contains("_bucket"))
        .skip(2)
        .collect();
    let expected = r#"
transhume_buffer_peak_bytes_sum 5000.0
transhume_buffer_peak_bytes_count 2
transhume_forecast_ratio_sum{figure="bytes"} 1.0
transhume_forecast_ratio_count{figure="bytes"} 1
transhume_forecast_ratio_sum{figure="duration"} 2.0
transhume_forecast_ratio_count{figure="duration"} 1
transhume_forecasts_total{figure="bytes",inside="true"} 1
transhume_forecasts_total{figure="duration",inside="false"} 1
transhume_frames_captured_total 12
transhume_frames_delivered_total 11
transhume_frames_late_total 2
transhume_frames_lost_total 1
transhume_gap_seconds_sum 0.04
transhume_gap_seconds_count 1
transhume_move_duration_seconds_sum 4.0
transhume_move_duration_seconds_count 1
transhume_moves_total{outcome="partly-committed"} 1
transhume_page_bytes_total{class="lz4"} 4000
transhume_page_bytes_total{class="zero"} 80
transhume_pages_total{class="lz4"} 3
transhume_pages_total{class="zero"} 10
transhume_phase_duration_seconds_sum{phase="pre-copy"} 2.0
transhume_phase_duration_seconds_count{phase="pre-copy"} 1
transhume_switchovers_total 1
transhume_vmct_bytes_total 5000
"#;
    assert_eq!(numbers, expected.trim().lines().collect::<Vec<_>>());
}

#[test]
fn a_time_that_cannot_be_lowers_no_sum() {
    let mut metrics = new();
    let before = scraped(&metrics);
    let mut report = report();
    report.duration_ms = -5.0;
    report.vms.clear();
    metrics.ended(&report);
    let lines = changed(&before, &scraped(&metrics));
    assert!(lines.iter().all(|line| !line.contains("duration")), "{lines:?}");
    assert!(!lines.is_empty());
}

#[test]
fn events_are_counted_by_what_they_say() {
    let mut metrics = new();
    let before = scraped(&metrics);
    let vm = || "vm1".parse().unwrap();
    let reason = || "so it is".to_owned();
    let refusal = |kind| Refusal {
        kind,
        reason: reason(),
        hint: reason(),
    };
    let refused = |kind| Happening::Refused {
        host: host("h2"),
        vm: vm(),
        refusal: refusal(kind),
    };
    let fault = Fault::new(FaultKind::PageStream, reason());
    let events = [
        Happening::Begun {
            vms: vec![vm()],
            batches: 2,
        },
        refused(RefusalKind::NoCapacity),
        refused(RefusalKind::NoCapacity),
        refused(RefusalKind::Mtu),
        Happening::Committed { batch: 1 },
        Happening::AgentLost { host: host("h1") },
        Happening::Failed {
            host: None,
            vm: None,
            fault: fault.clone(),
        },
        Happening::RollingBack {
            batch: 2,
            reason: reason(),
        },
        Happening::VmLost {
            vm: vm(),
            host: host("h2"),
            fault,
        },
    ];
    events.iter().for_each(|what| metrics.happened(what));
    metrics.heard(&LinkNews::Lost { host: host("h1") });
    let expected = r#"
transhume_batches_total{decision="committed"} 1
transhume_batches_total{decision="rolled-back"} 1
transhume_faults_total{kind="page-stream"} 1
transhume_links_lost_total{host="h1"} 1
transhume_moves_begun_total 1
transhume_orders_refused_total{kind="mtu"} 1
transhume_orders_refused_total{kind="no-capacity"} 2
transhume_vms_lost_total 1
"#;
    let lines = changed(&before, &scraped(&metrics));
    assert_eq!(lines, expected.trim().lines().collect::<Vec<_>>());
}

#[test]
fn writes_of_the_journal_are_counted_and_still_written() {
    let mut metrics = new();
    let mut journal = metrics.measured(Box::new(MemoryJournal::default()));
    let id = journal.new_migration().unwrap();
    let entry = JournalEntry::CancelAsked { at: WallMicros(1) };
    journal.append(id, &[entry.clone(), entry.clone()], None).unwrap();
    assert_eq!(journal.migrations().unwrap()[&id], [entry.clone(), entry]);
    journal.remove_migration(id).unwrap();
    let text = scraped(&metrics);
    for line in [
        "transhume_journal_entries_total 2",
        "transhume_journal_write_seconds_count{what=\"entries\"} 1",
        "transhume_journal_write_seconds_count{what=\"number\"} 1",
        "transhume_journal_write_seconds_count{what=\"removal\"} 1",
        "transhume_journal_write_seconds_count{what=\"cluster\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn what_is_known_from_the_start_is_there_from_the_start() {
    let mut metrics = new();
    metrics.measured(Box::new(MemoryJournal::default()));
    let text = scraped(&metrics);
    let told = |name: &&str| text.contains(&format!("# TYPE {name} "));
    let missing: Vec<&str> = ALL
        .iter()
        .map(|about| about.name)
        .filter(|name| !told(name))
        .collect();
    // Of hosts that have not answered yet nothing more is known; the certificate is the API's
    // matter.
    let known =
        |name: &str| !name.starts_with("transhume_host_") && name != "transhume_certificate_until_seconds";
    let of_hosts = !missing.iter().any(|name| known(name));
    assert!(of_hosts, "{missing:?}");
    let expected = r#"
transhume_host_connected{host="h1"} 0
transhume_host_connected{host="h2"} 0
"#;
    assert!(text.contains(expected.trim()), "{text}");
    assert!(text.contains("transhume_moves_in_step{step=\"select-batch\"} 0\n"));
    assert!(text.contains("transhume_moving_vms{phase=\"stop-and-copy\"} 0\n"));
}
