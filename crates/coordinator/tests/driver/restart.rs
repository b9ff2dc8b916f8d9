//! A coordinator that ends in the middle and starts again on the same journal (G6): before
//! `Committed` the move is undone, after it it is finished, and a cluster that was half started or
//! half ended goes away.

use std::time::Duration;

use transhume_api::{Client, ClusterList, ClusterView, MigrationList};
use transhume_protocol::event::Happening;
use transhume_protocol::report::Ending;

use crate::fake::Fate;
use crate::support::{Site, cluster, order, until};

const BEFORE: [(&str, &str); 2] = [("vm1", "h1"), ("vm2", "h2")];
const AFTER: [(&str, &str); 2] = [("vm1", "h3"), ("vm2", "h3")];

async fn lab() -> Site {
    Site::new(&[("h1", 4), ("h2", 4), ("h3", 4)])
        .await
        .with_lab(&BEFORE)
        .await
}

#[tokio::test]
async fn before_commit_the_move_is_undone() {
    for (host, command) in [
        ("h3", "Reserve"),
        ("h1", "PreCopy"),
        ("h2", "Capture"),
        ("h3", "AwaitLoaded"),
    ] {
        let mut site = lab().await;
        site.agents[host].meets(command, Fate::Nothing);
        let migration = site.migrate(&order(&["h1", "h2"], &["h3"])).await;
        site.ordered(host, command).await;
        site.end().await;
        site.agents[host].behaves();
        site.start().await;
        let report = site.ended(migration).await;
        assert_eq!(report.outcome, Ending::RolledBack, "{command}");
        site.assert_runs(&BEFORE);
        assert!(!site.agents["h3"].was_ordered("Activate"), "{command}");
    }
}

#[tokio::test]
async fn after_commit_the_move_is_finished() {
    for (host, command) in [
        ("h3", "Activate"),
        ("h1", "Commit"),
        ("h1", "CloseSourceBuffer"),
        ("h3", "CloseTargetBuffer"),
        ("h2", "Discard"),
    ] {
        let mut site = lab().await;
        site.agents[host].meets(command, Fate::Nothing);
        let migration = site.migrate(&order(&["h1", "h2"], &["h3"])).await;
        site.ordered(host, command).await;
        site.end().await;
        site.agents[host].behaves();
        site.start().await;
        let report = site.ended(migration).await;
        assert_eq!(
            report.outcome,
            Ending::Committed,
            "{command}: {:?}",
            report.trouble
        );
        site.assert_runs(&AFTER);
        let events = site.events(migration, 0).await;
        assert_eq!(
            events.first().unwrap()["what"]["event"],
            "begun",
            "the journal holds the earlier life"
        );
        assert_eq!(events.last().unwrap()["what"]["event"], "ended");
        // A host that was away while it was decided: its orders of the old life are older than what
        // agents hold now.
        let view: ClusterView = site.get("/v1/clusters/lab").await.is();
        assert!(view.vms.iter().all(|vm| vm.host.as_str() == "h3"), "{view:?}");
    }
}

/// A client that followed the first life and asks the second one for what came after.
#[tokio::test]
async fn a_follower_goes_on_after_a_restart_where_it_stopped() {
    let mut site = lab().await;
    site.agents["h3"].meets("Activate", Fate::Nothing);
    let client = Client::unix(&site.config().api_socket.unwrap());
    let migration = site.migrate(&order(&["h1", "h2"], &["h3"])).await;
    let mut events = client.events(migration, 0).await.unwrap();
    let mut seen = 0;
    let mut first_life = Vec::new();
    while !first_life.contains(&Happening::Committed { batch: 1 }) {
        let event = events.next().await.unwrap().expect("it goes on");
        seen = event.number;
        first_life.push(event.what);
    }
    site.ordered("h3", "Activate").await;
    site.end().await;
    // In whatever way: the stream is cut off, and says so or ends.
    while let Ok(Some(event)) = events.next().await {
        seen = event.number;
        first_life.push(event.what);
    }
    assert!(client.events(migration, seen).await.unwrap_err().is_away());
    site.agents["h3"].behaves();
    site.start().await;
    let mut events = client.events(migration, seen).await.unwrap();
    let mut second_life = Vec::new();
    while let Some(event) = events.next().await.unwrap() {
        assert!(event.number > seen, "numbers grow from life to life: {event:?}");
        seen = event.number;
        second_life.push(event.what);
    }
    let ending = Ending::Committed;
    assert_eq!(second_life.last(), Some(&Happening::Ended { ending }));
    let begun = |what: &Happening| matches!(what, Happening::Begun { .. });
    assert!(
        first_life.iter().any(begun) && !second_life.iter().any(begun),
        "what is known does not come anew"
    );
}

#[tokio::test]
async fn every_life_gives_newer_epochs() {
    let mut site = lab().await;
    site.agents["h3"].meets("Activate", Fate::Nothing);
    let migration = site.migrate(&order(&["h1", "h2"], &["h3"])).await;
    site.ordered("h3", "Activate").await;
    site.end().await;
    let old_life = site.agents["h3"].desk().orders.len();
    site.agents["h3"].behaves();
    site.start().await;
    assert_eq!(site.ended(migration).await.outcome, Ending::Committed);
    let desk = site.agents["h3"].desk();
    let (old, new) = desk.orders.split_at(old_life);
    let newest = old.iter().map(|order| order.epoch).max().unwrap();
    assert!(new.iter().all(|order| order.epoch > newest), "{newest} {new:?}");
}

#[tokio::test]
async fn what_was_over_is_still_known_and_numbers_go_on() {
    let mut site = lab().await;
    let first = site.migrate(&order(&["h1", "h2"], &["h3"])).await;
    let told = site.ended(first).await;
    site.end().await;
    site.start().await;
    site.all_connected().await;
    assert_eq!(site.report(first).await, told);
    site.assert_runs(&AFTER);
    let second = site.migrate(&order(&["h3"], &["h1"])).await;
    assert!(second > first);
    assert_eq!(site.ended(second).await.outcome, Ending::Committed);
    let list: MigrationList = site.get("/v1/migrations").await.is();
    assert_eq!(
        list.migrations
            .iter()
            .map(|one| one.migration)
            .collect::<Vec<_>>(),
        [first, second]
    );
}

/// Its agents are there and were not heard yet: nothing that is asked meanwhile is refused for it.
#[tokio::test]
async fn a_coordinator_that_has_just_begun_calls_no_host_lost() {
    let mut site = lab().await;
    site.end().await;
    for agent in site.agents.values_mut() {
        agent.stop().await;
        agent.restart_after(Duration::from_millis(500));
    }
    site.start().await;
    let migration = site.migrate(&order(&["h1", "h2"], &["h3"])).await;
    assert_eq!(site.ended(migration).await.outcome, Ending::Committed);
    site.assert_runs(&AFTER);
}

#[tokio::test]
async fn a_host_that_says_nothing_keeps_no_question_waiting_for_ever() {
    let mut site = Site::dark(&[("h1", 1), ("h2", 1)]);
    for (name, agent) in &mut site.agents {
        agent.start_after(if *name == "h2" {
            Duration::MAX
        } else {
            Duration::ZERO
        });
    }
    site.start().await;
    let hosts = site.hosts().await.hosts;
    let connected: Vec<bool> = hosts.iter().map(|host| host.connected).collect();
    assert_eq!(connected, [true, false], "{hosts:?}");
}

#[tokio::test]
async fn a_half_started_cluster_goes_away() {
    let mut site = Site::new(&[("h1", 4), ("h2", 4)]).await;
    site.agents["h2"].meets("StartVm", Fate::Nothing);
    let spec = cluster("lab", &BEFORE);
    tokio::select! {
        answer = site.post("/v1/clusters", &spec) => panic!("it cannot be done yet: {answer:?}"),
        () = site.ordered("h2", "StartVm") => {}
    }
    until("vm1 runs", async || site.agents["h1"].running().first().map(drop)).await;
    site.end().await;
    site.agents["h2"].behaves();
    site.start().await;
    let gone = async || {
        site.get("/v1/clusters")
            .await
            .is::<ClusterList>()
            .clusters
            .is_empty()
            .then_some(())
    };
    until("nothing of it is left", gone).await;
    site.assert_runs(&[]);
}

#[tokio::test]
async fn a_second_coordinator_on_the_same_journal_does_not_start() {
    let site = lab().await;
    let error = transhume_coordinator::run(site.config()).await.unwrap_err();
    assert!(
        error.to_string().contains("is another coordinator running?"),
        "{error}"
    );
    let mut config = site.config();
    config.api_socket = None;
    config.api = Some("127.0.0.1:0".parse().unwrap());
    let error = transhume_coordinator::run(config).await.unwrap_err();
    assert!(
        error.to_string().contains("is in use by another process"),
        "{error}"
    );
    assert_eq!(site.get("/healthz").await.status, 200, "the first one goes on");
}

#[tokio::test]
async fn the_socket_is_its_owners_and_no_file_is_taken_for_an_old_one() {
    use std::os::unix::fs::PermissionsExt;
    let mut site = Site::dark(&[("h1", 1)]);
    let path = site.config().api_socket.unwrap();
    std::fs::write(&path, "somebody's").unwrap();
    let error = transhume_coordinator::run(site.config()).await.unwrap_err();
    assert!(error.to_string().contains("api.sock"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "somebody's");
    std::fs::remove_file(&path).unwrap();
    for _ in 0..2 {
        // The second one finds what the first one left.
        site.start().await;
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        site.end().await;
    }
}
