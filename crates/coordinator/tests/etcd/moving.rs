//! A fleet's journal moves from a file into etcd, and back.

use std::path::PathBuf;

use transhume_api::{ClusterStage, DrainStage};
use transhume_coordinator::journal::{
    HostRecord, Journal, JournalError, RedbJournal, Summary, backup_from_etcd, check_restore_into_etcd,
    restore, restore_into_etcd, verify, verify_in_etcd,
};
use transhume_model::{ClusterName, WallMicros};
use transhume_protocol::message::Mode;
use transhume_protocol::migration::JournalEntry;
use transhume_protocol::report::{Ending, Frames, MigrationReport};

use crate::contract::{cancel, cluster, drain};
use crate::rig::Etcd;

fn ended(migration: transhume_model::MigrationId) -> JournalEntry {
    let cluster: ClusterName = "lab".parse().unwrap();
    JournalEntry::Ended {
        report: Box::new(MigrationReport {
            migration,
            cluster,
            outcome: Ending::Refused,
            mode: Mode::Live,
            from: Vec::new(),
            to: Vec::new(),
            used: Vec::new(),
            batch: 1,
            started_at: WallMicros(1),
            duration_ms: 1.5,
            frames: Frames::default(),
            vms: Vec::new(),
            forecast: None,
            trouble: None,
            waiting: Vec::new(),
        }),
    }
}

/// A coordinator's journal with one of everything; the file.
fn embedded(etcd: &Etcd, name: &str) -> PathBuf {
    let file = etcd.directory.path().join(name).with_extension("redb");
    let mut journal = RedbJournal::open(&file).unwrap();
    journal.lead().unwrap();
    let host = HostRecord {
        cordoned: true,
        ..HostRecord::new("h1".parse().unwrap())
    };
    journal
        .put_hosts(&[host], Some(&cluster("lab", ClusterStage::Live)))
        .unwrap();
    let id = journal.new_drain().unwrap();
    journal.put_drain(&drain(id, DrainStage::Done), &[]).unwrap();
    let id = journal.new_migration().unwrap();
    journal.append(id, &[cancel(1), ended(id)], None).unwrap();
    journal.new_epochs(7).unwrap();
    file
}

/// Everything but numbers.
fn records(journal: &dyn Journal) -> String {
    let (clusters, hosts) = (journal.clusters().unwrap(), journal.hosts().unwrap());
    let (drains, moves) = (journal.drains().unwrap(), journal.migrations().unwrap());
    format!(
        "{clusters:?} {hosts:?} {drains:?} {moves:?} {:?}",
        journal.known_fleet().unwrap()
    )
}

const ONE_OF_EACH: Summary = Summary {
    clusters: 1,
    vms: 0,
    hosts: 1,
    drains: 1,
    migrations: 1,
    under_way: 0,
};

#[test]
fn a_file_becomes_the_journal_of_several_coordinators_and_a_file_again() {
    let etcd = Etcd::start(3);
    let file = embedded(&etcd, "coordinator1");
    let before = records(&RedbJournal::open(&file).unwrap());
    let (spec, local) = (etcd.spec(), etcd.local(1));
    let nothing = verify_in_etcd(&spec, &local).unwrap_err();
    assert!(matches!(nothing, JournalError::NotThere { .. }), "{nothing}");
    assert_eq!(
        check_restore_into_etcd(&file, &spec, &local).unwrap(),
        ONE_OF_EACH
    );
    assert!(etcd.dump().is_empty(), "it was only asked");
    assert_eq!(restore_into_etcd(&file, &spec, &local).unwrap(), ONE_OF_EACH);

    // The file is an old copy from now on, by what is beside it.
    let mut old = RedbJournal::open(&file).unwrap();
    let refused = old.lead().unwrap_err();
    assert!(matches!(refused, JournalError::OldCopy { .. }), "{refused}");
    drop(old);
    let mut journal = etcd.lead(1).unwrap();
    let leader = journal.lead().unwrap();
    assert!(leader.term > 1 << 32, "agents obey it: {leader:?}");
    assert_eq!(records(&journal), before);
    assert!(journal.new_epochs(1).unwrap().0 > 1 << 32);
    assert_eq!(journal.new_migration().unwrap().0, 2);
    assert_eq!(journal.new_drain().unwrap().0, 2);
    // Somebody leads, then somebody has led.
    let refused = restore_into_etcd(&file, &spec, &local).unwrap_err();
    assert!(matches!(refused, JournalError::InUse { .. }), "{refused}");

    // While it leads, and writes.
    let copy = etcd.directory.path().join("copy.redb");
    journal
        .put_cluster(&cluster("later", ClusterStage::Live))
        .unwrap();
    let copied = backup_from_etcd(&spec, &local, &copy).unwrap();
    assert_eq!((copied.clusters, verify(&copy).unwrap()), (2, copied));
    assert_eq!(verify_in_etcd(&spec, &local).unwrap(), copied);
    let again = backup_from_etcd(&spec, &local, &copy).unwrap_err();
    assert!(matches!(again, JournalError::Copy { .. }), "{again}");
    assert_eq!(records(&RedbJournal::open(&copy).unwrap()), records(&journal));
    let epoch = journal.new_epochs(1).unwrap();
    drop(journal);

    // Back into a file that an embedded coordinator starts from.
    let back = etcd.local(1).with_extension("back");
    restore(&copy, &back).unwrap();
    let mut back = RedbJournal::open(&back).unwrap();
    let second = back.lead().unwrap();
    assert_eq!(second.fleet, leader.fleet);
    assert!(second.term > leader.term && back.new_epochs(1).unwrap() > epoch);
    let refused = || restore_into_etcd(&file, &spec, &local).unwrap_err();
    let begun = std::time::Instant::now();
    // The lease of the one that led goes.
    while matches!(refused(), JournalError::InUse { .. }) && begun.elapsed().as_secs() < 30 {
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let refused = refused();
    assert!(matches!(refused, JournalError::NotEmpty { .. }), "{refused}");
}

#[test]
fn a_backup_that_was_not_put_there_whole_is_not_led_with_and_is_put_there_again() {
    let etcd = Etcd::start(1);
    let file = embedded(&etcd, "file");
    let before = records(&RedbJournal::open(&file).unwrap());
    let (spec, local) = (etcd.spec(), etcd.local(1));
    // As somebody left it who was killed.
    etcd.put("restoring", "1");
    etcd.put("clusters/half", "x");
    let refused = etcd.lead(2).unwrap_err();
    assert!(matches!(refused, JournalError::HalfRestored { .. }), "{refused}");
    let refused = verify_in_etcd(&spec, &local).unwrap_err();
    assert!(matches!(refused, JournalError::HalfRestored { .. }), "{refused}");
    restore_into_etcd(&file, &spec, &local).unwrap();
    assert!(etcd.keys("restoring").is_empty() && etcd.keys("clusters/half").is_empty());
    assert_eq!(records(&etcd.lead(2).unwrap()), before);
}

#[test]
fn what_is_not_this_fleets_or_not_over_is_refused_and_nothing_is_changed() {
    let etcd = Etcd::start(1);
    let (ours, theirs) = (embedded(&etcd, "ours"), embedded(&etcd, "theirs"));
    let (spec, local) = (etcd.spec(), etcd.local(1));
    drop(etcd.lead(1).unwrap());
    let before = etcd.keys("");
    // By the file of this machine, then by the prefix alone.
    for place in [local.clone(), etcd.local(9)] {
        let refused = check_restore_into_etcd(&theirs, &spec, &place).unwrap_err();
        assert!(matches!(refused, JournalError::OtherFleet { .. }), "{refused}");
        let refused = restore_into_etcd(&theirs, &spec, &place).unwrap_err();
        assert!(matches!(refused, JournalError::OtherFleet { .. }), "{refused}");
    }
    let mut journal = RedbJournal::open(&ours).unwrap();
    let open = journal.new_migration().unwrap();
    journal.append(open, &[cancel(1)], None).unwrap();
    drop(journal);
    let refused = restore_into_etcd(&ours, &spec, &etcd.local(9)).unwrap_err();
    assert!(
        matches!(refused, JournalError::UnderWay { moves: 1, .. }),
        "{refused}"
    );
    let but_leader =
        |keys: Vec<String>| -> Vec<String> { keys.into_iter().filter(|key| key != "leader").collect() };
    assert_eq!(but_leader(etcd.keys("")), but_leader(before));
    // Somebody else's keys.
    let other = Etcd::start(1);
    other.put("something", "else");
    let refused = restore_into_etcd(&theirs, &other.spec(), &other.local(1)).unwrap_err();
    assert!(matches!(refused, JournalError::NotEmpty { .. }), "{refused}");
    assert_eq!(other.keys(""), ["something"]);
}
