//! The journal in a real etcd: the contract of every journal, one leader at a time, and what
//! becomes of writes when members die, a majority is away, or the lease is.

#[path = "../contract/mod.rs"]
mod contract;
mod coordinators;
mod cost;
mod long;
mod moving;
mod rig;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use transhume_api::ClusterStage;
use transhume_coordinator::journal::{EtcdJournal, HostRecord, Journal, JournalError};
use transhume_model::{Epoch, MigrationId};

use crate::contract::{cancel, cluster, contract};
use crate::rig::{Etcd, PREFIX, SHORT_LEASE_S, Tls, encoded};

const MOVE: MigrationId = MigrationId(1);

/// What a journal holds of one move.
fn held(journal: &EtcdJournal) -> Vec<transhume_protocol::migration::JournalEntry> {
    journal.migrations().unwrap().remove(&MOVE).unwrap_or_default()
}

#[test]
fn etcd_keeps_the_contract_and_remembers() {
    let etcd = Etcd::start(1);
    let mut journal = etcd.lead(1).unwrap();
    let first = journal.lead().unwrap();
    contract(&mut journal);
    // More hosts than etcd takes operations in one transaction.
    let hosts = (0..300).map(|index| HostRecord::new(format!("host{index}").parse().unwrap()));
    let hosts: Vec<HostRecord> = hosts.collect();
    journal.put_hosts(&hosts, None).unwrap();
    drop(journal);
    let mut journal = etcd.lead(2).unwrap();
    let second = journal.lead().unwrap();
    assert_eq!(first.fleet, second.fleet);
    assert!(first.term < second.term, "{first:?} {second:?}");
    assert_eq!(
        journal.migrations().unwrap(),
        BTreeMap::from([(MigrationId(2), vec![cancel(9)])])
    );
    assert_eq!(
        journal.clusters().unwrap(),
        [cluster("moved", ClusterStage::Live)]
    );
    assert_eq!(journal.hosts().unwrap().len(), 301);
    assert_eq!(journal.new_migration().unwrap(), MigrationId(4));
    assert_eq!(journal.new_epochs(1).unwrap(), Epoch(5));
    journal.append(MigrationId(2), &[cancel(10)], None).unwrap();
    assert_eq!(
        journal.migrations().unwrap()[&MigrationId(2)],
        [cancel(9), cancel(10)]
    );
}

#[test]
fn another_fleets_prefix_is_refused_and_nothing_is_changed() {
    let etcd = Etcd::start(1);
    let mut journal = etcd.lead(1).unwrap();
    journal.put_cluster(&cluster("lab", ClusterStage::Live)).unwrap();
    drop(journal);
    let before = etcd.dump();
    let fleet = "ab".repeat(16);
    std::fs::write(etcd.local(2).with_extension("fleet"), &fleet).unwrap();
    let refused = etcd.lead(2).unwrap_err();
    assert!(matches!(refused, JournalError::OtherFleet { .. }), "{refused}");
    let text = refused.to_string();
    assert!(
        text.contains(&format!("{PREFIX} in etcd")) && text.contains(&fleet),
        "{text}"
    );
    // The first one's key may go meanwhile: with its lease.
    let leader = encoded(&format!("{PREFIX}/leader"));
    let but_leader = |dump: Vec<(String, String)>| -> Vec<_> {
        dump.into_iter().filter(|(key, _)| *key != leader).collect()
    };
    assert_eq!(but_leader(etcd.dump()), but_leader(before));
}

#[test]
fn a_prefix_that_was_lost_and_begun_anew_is_not_led_with_where_it_was_led() {
    let etcd = Etcd::start(1);
    let fleet = etcd.lead(1).unwrap().fleet().unwrap();
    etcd.wipe();
    let refused = etcd.lead(1).unwrap_err();
    assert!(
        matches!(refused, JournalError::OldCopy { found: 0, led: 1, .. }),
        "{refused}"
    );
    assert!(etcd.keys("").is_empty(), "nothing is begun");
    // As `docs/operating.md` says, where nothing of it is left.
    std::fs::remove_file(etcd.local(1).with_extension("fleet")).unwrap();
    assert_ne!(etcd.lead(1).unwrap().fleet().unwrap(), fleet);
}

#[test]
fn a_clock_that_is_apart_is_refused_and_nothing_is_changed() {
    let etcd = Etcd::start(1);
    let mut journal = etcd.lead(1).unwrap();
    journal.put_cluster(&cluster("lab", ClusterStage::Live)).unwrap();
    drop(journal);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let ahead = now.as_micros() as u64 + 3_600_000_000;
    let beat = json!({ "key": encoded(&format!("{PREFIX}/beat")), "value": encoded(&ahead.to_string()) });
    // After the last beat of the one that was dropped.
    std::thread::sleep(Duration::from_secs(1));
    etcd.call("/v3/kv/put", &beat);
    let refused = etcd.lead(2).unwrap_err();
    let JournalError::ClocksApart { ahead_ms } = refused else {
        panic!("{refused}");
    };
    assert!((3_500_000..=3_600_000).contains(&ahead_ms), "{refused}");
    assert!(
        refused
            .to_string()
            .contains("ahead of this machine's; nothing was changed"),
        "{refused}"
    );
}

#[test]
fn a_lease_that_is_lost_during_a_write_ends_it_and_nothing_is_changed() {
    let etcd = Etcd::start(1);
    let mut journal = etcd.lead(1).unwrap();
    journal.append(MOVE, &[cancel(1)], None).unwrap();
    let lost = journal.lost();
    let found = etcd.call(
        "/v3/kv/range",
        &json!({ "key": encoded(&format!("{PREFIX}/leader")) }),
    );
    let lease = found["kvs"][0]["lease"].as_str().unwrap().to_owned();
    etcd.call("/v3/lease/revoke", &json!({ "ID": lease }));
    let before = etcd.dump();
    let refused = journal.append(MOVE, &[cancel(2)], None).unwrap_err();
    assert!(matches!(refused, JournalError::LeaseLost { .. }), "{refused}");
    assert_eq!(etcd.dump(), before, "nothing was written");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let told = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(1), lost).await });
    assert!(matches!(told, Ok(JournalError::LeaseLost { .. })), "{told:?}");
    assert!(
        journal.append(MOVE, &[cancel(3)], None).is_err(),
        "nor is anything later"
    );
    drop(journal);
    assert_eq!(held(&etcd.lead(2).unwrap()), [cancel(1)]);
}

/// Appends numbers as long as it may; how many were confirmed, the slowest, and why it ended.
fn append_for(
    journal: &mut EtcdJournal,
    first: u64,
    time: Duration,
) -> (u64, Duration, Option<JournalError>) {
    let (begun, mut next, mut slowest) = (Instant::now(), first, Duration::ZERO);
    while begun.elapsed() < time {
        let asked = Instant::now();
        if let Err(error) = journal.append(MOVE, &[cancel(next)], None) {
            return (next, slowest, Some(error));
        }
        slowest = slowest.max(asked.elapsed());
        next += 1;
    }
    (next, slowest, None)
}

#[test]
fn one_member_of_three_that_dies_is_not_noticed() {
    let mut etcd = Etcd::start(3);
    let mut journal = etcd.lead(1).unwrap();
    let mut next = 0;
    for member in 0..3 {
        etcd.kill(member);
        let (confirmed, slowest, ended) = append_for(&mut journal, next, Duration::from_secs(4));
        eprintln!(
            "member {member} killed: {} writes, the slowest {slowest:?}",
            confirmed - next
        );
        assert!(ended.is_none(), "member {member}: {}", ended.unwrap());
        assert!(confirmed > next);
        next = confirmed;
        etcd.revive(member);
        let (confirmed, _, ended) = append_for(&mut journal, next, Duration::from_secs(4));
        assert!(ended.is_none(), "member {member} is back: {}", ended.unwrap());
        next = confirmed;
    }
    assert_eq!(
        held(&journal),
        (0..next).map(cancel).collect::<Vec<_>>(),
        "each once, in order"
    );
}

#[test]
fn a_majority_that_is_away_lets_nothing_be_decided_and_loses_nothing() {
    let etcd = Etcd::start(3);
    let mut journal = etcd.lead_for(SHORT_LEASE_S, 1).unwrap();
    let lost = journal.lost();
    let (confirmed, _, ended) = append_for(&mut journal, 0, Duration::from_millis(500));
    assert!(ended.is_none() && confirmed > 0);
    etcd.freeze(0);
    etcd.freeze(1);
    let begun = Instant::now();
    let (stopped, _, ended) = append_for(&mut journal, confirmed, Duration::from_secs(30));
    let waited = begun.elapsed();
    assert!(matches!(ended, Some(JournalError::LeaseLost { .. })), "{ended:?}");
    eprintln!("without a majority it ended after {waited:?}");
    drop(lost);
    drop(journal);
    etcd.thaw(0);
    etcd.thaw(1);
    let journal = etcd.lead(2).unwrap();
    let held = held(&journal);
    // The write that nobody confirmed may have been taken: it is there whole, once, or not.
    let all: Vec<_> = (0..=stopped).map(cancel).collect();
    assert!(
        held == all || held == all[..all.len() - 1],
        "{} held, {stopped} confirmed",
        held.len()
    );
}

#[test]
fn writes_whose_answers_are_lost_are_done_once() {
    let etcd = Etcd::start(3);
    let mut journal = etcd.lead(1).unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    let (confirmed, ended) = std::thread::scope(|scope| {
        scope.spawn(|| {
            // One member at a time stops for longer than an attempt, so that what it was asked is
            // asked again elsewhere while it may still be done.
            for round in 0..8 {
                etcd.freeze(round % 3);
                std::thread::sleep(Duration::from_millis(900));
                etcd.thaw(round % 3);
                std::thread::sleep(Duration::from_millis(600));
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let mut next = 0;
        while !over.load(std::sync::atomic::Ordering::Relaxed) {
            let (confirmed, _, ended) = append_for(&mut journal, next, Duration::from_millis(100));
            next = confirmed;
            if ended.is_some() {
                return (next, ended);
            }
        }
        (next, None)
    });
    // A stall of the machine may end the lease; what was confirmed is there all the same.
    if let Some(error) = &ended {
        assert!(matches!(error, JournalError::LeaseLost { .. }), "{error}");
        drop(journal);
        journal = etcd.lead(2).unwrap();
    }
    let held = held(&journal);
    let all: Vec<_> = (0..=confirmed).map(cancel).collect();
    let whole = held == all[..all.len() - 1] || (ended.is_some() && held == all);
    assert!(whole, "{} held, {confirmed} confirmed, {ended:?}", held.len());
}

#[test]
fn over_tls_members_and_coordinator_show_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let signed = authority.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(authority, key);
    let own = rcgen::KeyPair::generate().unwrap();
    let member = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let member = member.signed_by(&own, &issuer).unwrap();
    std::fs::write(file("ca.pem"), signed.pem()).unwrap();
    std::fs::write(file("own.pem"), member.pem()).unwrap();
    std::fs::write(file("own.key"), own.serialize_pem()).unwrap();
    let tls = Tls {
        authority: file("ca.pem"),
        certificate: file("own.pem"),
        key: file("own.key"),
    };
    let etcd = Etcd::start_in(1, directory, Some(tls));
    let mut journal = etcd.lead(1).unwrap();
    journal.append(MOVE, &[cancel(1)], None).unwrap();
    assert_eq!(held(&journal), [cancel(1)]);
}
