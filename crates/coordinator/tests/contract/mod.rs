//! What every journal promises, whatever it is kept in.

use transhume_api::{ClusterStage, DrainStage, MoveOrder};
use transhume_coordinator::journal::{ClusterRecord, DrainRecord, HostRecord, Journal};
use transhume_model::{ClusterSpec, DrainId, Epoch, MigrationId, PlacementRules, WallMicros};
use transhume_protocol::migration::JournalEntry;

pub fn cancel(at: u64) -> JournalEntry {
    JournalEntry::CancelAsked { at: WallMicros(at) }
}

pub fn cluster(name: &str, stage: ClusterStage) -> ClusterRecord {
    ClusterRecord {
        spec: ClusterSpec {
            name: name.parse().unwrap(),
            vms: Vec::new(),
            rules: PlacementRules::default(),
        },
        stage,
    }
}

pub fn drain(id: DrainId, stage: DrainStage) -> DrainRecord {
    DrainRecord {
        stage,
        ..DrainRecord::new(
            id,
            vec!["h1".parse().unwrap()],
            MoveOrder::default(),
            WallMicros(0),
        )
    }
}

/// What every journal promises. `journal` is empty.
pub fn contract(journal: &mut dyn Journal) {
    let (first, second) = (journal.new_migration().unwrap(), journal.new_migration().unwrap());
    assert!(
        MigrationId(0) < first && first < second,
        "numbers from 1, growing"
    );
    let epoch = journal.new_epochs(3).unwrap();
    assert!(
        Epoch(0) < epoch && journal.new_epochs(1).unwrap().0 >= epoch.0 + 3,
        "no epoch twice"
    );

    journal.append(first, &[cancel(1), cancel(2)], None).unwrap();
    journal.append(second, &[cancel(9)], None).unwrap();
    let moved = cluster("moved", ClusterStage::Live);
    journal.append(first, &[cancel(3)], Some(&moved)).unwrap();
    let all = journal.migrations().unwrap();
    assert_eq!(
        all[&first],
        [cancel(1), cancel(2), cancel(3)],
        "in order, each move by itself"
    );
    assert_eq!(all[&second], [cancel(9)]);
    assert_eq!(journal.clusters().unwrap(), std::slice::from_ref(&moved));

    journal.append(MigrationId(77), &[], None).unwrap();
    assert!(
        !journal.migrations().unwrap().contains_key(&MigrationId(77)),
        "nothing is not a move"
    );

    journal
        .put_cluster(&cluster("lab", ClusterStage::Starting))
        .unwrap();
    journal.put_cluster(&cluster("lab", ClusterStage::Live)).unwrap();
    assert_eq!(
        journal.clusters().unwrap(),
        [cluster("lab", ClusterStage::Live), moved.clone()]
    );
    journal.remove_cluster(&"lab".parse().unwrap()).unwrap();
    assert_eq!(journal.clusters().unwrap(), [moved]);

    let (one, two) = (journal.new_drain().unwrap(), journal.new_drain().unwrap());
    assert!(one < two);
    for id in [one, two] {
        journal.put_drain(&drain(id, DrainStage::Running), &[]).unwrap();
    }
    let cordoned = HostRecord {
        cordoned: true,
        ..HostRecord::new("h7".parse().unwrap())
    };
    journal
        .put_drain(&drain(two, DrainStage::Done), std::slice::from_ref(&cordoned))
        .unwrap();
    let kept = [drain(one, DrainStage::Running), drain(two, DrainStage::Done)];
    assert_eq!(journal.drains().unwrap(), kept);
    assert!(journal.hosts().unwrap().contains(&cordoned));
    journal.remove_drain(one).unwrap();
    assert_eq!(journal.drains().unwrap(), kept[1..]);

    journal.remove_migration(first).unwrap();
    let all = journal.migrations().unwrap();
    assert_eq!(all.keys().collect::<Vec<_>>(), [&second]);
    assert!(
        journal.new_migration().unwrap() > second,
        "the number of a forgotten move is not given again"
    );
}
