//! Records that are longer than what etcd takes in one write.

use transhume_api::ClusterStage;
use transhume_coordinator::journal::{ClusterRecord, HostRecord, Journal};
use transhume_model::{MigrationId, PlacementRules};
use transhume_protocol::migration::JournalEntry;

use crate::contract::{cancel, cluster};
use crate::rig::Etcd;

const LONG: MigrationId = MigrationId(7);

/// Numbers that compress badly; some 45 bytes of JSON each.
fn entries(count: u64) -> Vec<JournalEntry> {
    let mut state = 1_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count).map(|_| cancel(next())).collect()
}

/// A cluster whose rules are long, and noise.
fn wide(name: &str, letters: usize) -> ClusterRecord {
    let mut record = cluster(name, ClusterStage::Live);
    let noise: String = entries(letters as u64 / 16)
        .iter()
        .map(|entry| match entry {
            JournalEntry::CancelAsked { at } => format!("{:016x}", at.0),
            other => panic!("{other:?}"),
        })
        .collect();
    record.spec.rules = PlacementRules::default();
    record.spec.vms = serde_json::from_value(serde_json::json!([{
        "host": "h1",
        "spec": {
            "name": "vm1", "cluster": name, "vcpus": 1, "memory": 128,
            "nics": [{ "mac": "52:54:00:00:00:01", "mtu": 1500 }],
            "boot": { "kernel": "/k", "initrd": "/i", "cmdline": noise },
        },
    }]))
    .unwrap();
    record
}

#[test]
fn what_is_longer_than_one_write_is_there_whole_and_goes_whole() {
    let etcd = Etcd::start(3);
    let mut journal = etcd.lead(1).unwrap();
    let long = entries(300_000);
    journal.append(LONG, &[cancel(1)], None).unwrap();
    // All of it with one decision: entries, the cluster, hosts of every bucket.
    let hosts: Vec<HostRecord> = (0..300)
        .map(|index| HostRecord::new(format!("host{index}").parse().unwrap()))
        .collect();
    let first = wide("lab", 4 << 20);
    journal.append_with(LONG, &long, Some(&first), &hosts).unwrap();
    journal.append(LONG, &[cancel(2)], None).unwrap();
    let pieces = etcd.keys("pieces/");
    assert!(pieces.len() >= 4, "{pieces:?}");
    drop(journal);

    let mut journal = etcd.lead(2).unwrap();
    let held = journal.migrations().unwrap().remove(&LONG).unwrap();
    assert_eq!(held.len(), long.len() + 2);
    assert!(held[1..=long.len()] == long[..], "each once, in order");
    assert_eq!(journal.clusters().unwrap(), [first]);
    assert_eq!(journal.hosts().unwrap().len(), 300);
    // Written over by one that is as long, then by a short one.
    let second = wide("lab", 5 << 20);
    journal.put_cluster(&second).unwrap();
    assert_eq!(journal.clusters().unwrap(), std::slice::from_ref(&second));
    let of_one = etcd.keys("pieces/clusters/lab/");
    let writes: std::collections::BTreeSet<&str> = of_one
        .iter()
        .filter_map(|key| key.rsplit_once('/'))
        .map(|(write, _)| write)
        .collect();
    assert_eq!(writes.len(), 1, "the older ones are gone: {of_one:?}");
    let short = cluster("lab", ClusterStage::Live);
    journal.put_cluster(&short).unwrap();
    assert_eq!(journal.clusters().unwrap(), [short]);
    assert!(etcd.keys("pieces/clusters/").is_empty());
    // Removed.
    journal.remove_migration(LONG).unwrap();
    assert!(etcd.keys("entries/").is_empty() && etcd.keys("pieces/").is_empty());
    journal.put_cluster(&second).unwrap();
    journal.remove_cluster(&second.spec.name).unwrap();
    assert!(etcd.keys("clusters/").is_empty() && etcd.keys("pieces/").is_empty());
}

#[test]
fn pieces_of_a_write_that_did_not_come_to_its_end_are_nobodys_and_go() {
    let etcd = Etcd::start(1);
    drop(etcd.lead(1).unwrap());
    // As a leader left them that was killed between its pieces and the record.
    for piece in 0..2 {
        etcd.put(
            &format!("pieces/clusters/lab/{:016x}.{:016x}/{piece:08x}", 1, 1),
            "half",
        );
        etcd.put(
            &format!(
                "pieces/entries/{:016x}/{:016x}/{:016x}.{:016x}/{piece:08x}",
                7, 0, 1, 2
            ),
            "half",
        );
    }
    let mut journal = etcd.lead(2).unwrap();
    assert!(journal.clusters().unwrap().is_empty() && journal.migrations().unwrap().is_empty());
    journal.put_cluster(&cluster("lab", ClusterStage::Live)).unwrap();
    journal.append(LONG, &[cancel(1)], None).unwrap();
    assert_eq!(etcd.keys("pieces/"), Vec::<String>::new());
    assert_eq!(journal.migrations().unwrap()[&LONG], [cancel(1)]);
}

#[test]
fn a_record_whose_pieces_are_not_all_there_is_damaged_by_name() {
    let etcd = Etcd::start(1);
    let mut journal = etcd.lead(1).unwrap();
    journal.put_cluster(&wide("lab", 4 << 20)).unwrap();
    let pieces = etcd.keys("pieces/");
    etcd.put(&pieces[0], "x");
    let refused = journal.clusters().unwrap_err().to_string();
    assert!(refused.contains("cluster lab"), "{refused}");
}
