//! What answers at an agent's address may be anything: each is seen for what it is, said at
//! `/v1/hosts`, and hurts nobody else.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use transhume_api::{HostView, PlanView};
use transhume_model::{Epoch, WallMicros};
use transhume_protocol::message::{
    FleetId, HostState, Leader, Outcome, PROTOCOL_OLDEST, PROTOCOL_VERSION, RefusalKind, Report,
};
use transhume_protocol::report::Ending;
use transhume_protocol::wire;

use crate::fake::Fate;
use crate::support::{Site, order, until};

const BEFORE: [(&str, &str); 1] = [("vm1", "h1")];

/// Says these bytes to whoever connects, and listens until the other side has had enough.
async fn stranger(address: SocketAddr, bytes: Vec<u8>) -> JoinHandle<()> {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Whoever connected may have gone: it is not to like what it hears.
            let _ = stream.write_all(&bytes).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
}

fn greeting(state: HostState) -> Vec<u8> {
    let report = Report {
        order: None,
        epoch: Epoch::default(),
        vm: None,
        at: WallMicros(1),
        outcome: Outcome::Host(Box::new(state)),
    };
    wire::encode(&report).unwrap()
}

async fn h3(site: &Site) -> HostView {
    site.hosts()
        .await
        .hosts
        .into_iter()
        .find(|host| host.name.as_str() == "h3")
        .unwrap()
}

#[tokio::test]
async fn a_stranger_at_an_agents_address_is_told_apart_and_harms_nobody() {
    let state = |change: fn(&mut HostState)| {
        let site = Site::dark(&[("h3", 1)]);
        let mut state = site.agents["h3"].desk().state.clone();
        change(&mut state);
        greeting(state)
    };
    let mut refused = greeting(Site::dark(&[("h3", 1)]).agents["h3"].desk().state.clone());
    refused.truncate(wire::LENGTH_BYTES);
    refused.extend(vec![b'x'; 3000]);
    let cases = [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "bytes is announced"),
        (vec![0xff; 64], "bytes is announced, 4194304 are allowed"),
        (wire::encode(&"hello").unwrap(), "cannot be understood"),
        (refused, "cannot be understood"),
        (
            state(|state| state.protocol = PROTOCOL_VERSION + 1),
            "there is a newer release: install it here",
        ),
        (state(|state| state.protocol = 4), "install this one there"),
        (
            state(|state| state.host = "h7".parse().unwrap()),
            "what answers there is host h7",
        ),
        (
            wire::encode(&serde_json::json!({ "outcome": { "is": "destroyed" } })).unwrap(),
            "not its state",
        ),
    ];
    for (bytes, says) in cases {
        let mut site = Site::dark(&[("h1", 4), ("h3", 4)]);
        site.agents.get_mut("h1").unwrap().start();
        let stranger = stranger(site.agents["h3"].address, bytes).await;
        site.start().await;
        let why = until(says, async || {
            h3(&site).await.away.filter(|why| why.contains(says))
        })
        .await;
        let site = site.with_lab(&BEFORE).await;
        let answer = site.post("/v1/clusters/lab/plan", &order(&["h1"], &["h3"])).await;
        let problem = answer.refused(409, "agent-unreachable");
        assert!(
            problem.message.contains("h3") && problem.message.contains(&why),
            "{problem:?}"
        );
        stranger.abort();
    }
}

/// What an agent of 0.3.0 says: its one version, and no release.
#[tokio::test]
async fn agents_of_the_release_before_move_vms() {
    let mut site = Site::dark(&[("h1", 4), ("h3", 4)]);
    for agent in site.agents.values_mut() {
        agent.desk().state.protocol = PROTOCOL_OLDEST;
        agent.start();
    }
    site.start().await;
    site.all_connected().await;
    let site = site.with_lab(&BEFORE).await;
    for host in site.hosts().await.hosts {
        assert_eq!((host.protocol, &host.release), (Some(5), &None), "{host:?}");
    }
    let migration = site.migrate(&order(&["h1"], &["h3"])).await;
    let report = site.ended(migration).await;
    assert_eq!(report.outcome, Ending::Committed, "{:?}", report.trouble);
    site.assert_runs(&[("vm1", "h3")]);
}

#[tokio::test]
async fn an_agent_that_was_never_there_is_found_as_soon_as_it_starts() {
    let mut site = Site::dark(&[("h1", 4), ("h3", 4)]);
    site.agents.get_mut("h1").unwrap().start();
    site.start().await;
    let why = until("h3 is seen to be away", async || h3(&site).await.away).await;
    assert!(why.contains("refused"), "{why}");
    let view = h3(&site).await;
    assert!(
        !view.connected && view.capacity.is_none() && view.vms.is_empty(),
        "{view:?}"
    );
    site.agents.get_mut("h3").unwrap().start();
    site.all_connected().await;
    let view = h3(&site).await;
    assert!(view.away.is_none() && view.capacity.is_some(), "{view:?}");
}

#[tokio::test]
async fn a_clock_that_is_an_hour_off_is_measured_and_so_is_its_step() {
    const HOUR_US: i64 = 3_600_000_000;
    let site = Site::new(&[("h1", 4), ("h3", 4)]).await;
    for ahead_us in [0, HOUR_US, -HOUR_US] {
        site.agents["h3"].clock_is_ahead_us(ahead_us);
        let ahead_ms = ahead_us as f64 / 1e3;
        let clock = until("its clock is measured", async || {
            let clock = h3(&site).await.clock?;
            ((clock.offset_ms - ahead_ms).abs() <= clock.uncertainty_ms).then_some(clock)
        })
        .await;
        assert!(clock.uncertainty_ms < 10_000.0, "{clock:?}");
    }
}

/// A15: with an hour between the hosts' clocks, figures that span both are what they would be
/// without, and forecasts learn from nothing else.
#[tokio::test]
async fn hosts_whose_clocks_differ_by_an_hour_are_measured_as_if_they_did_not() {
    const HOUR_US: i64 = 3_600_000_000;
    let site = Site::new(&[("h1", 4), ("h3", 4)]).await.with_lab(&BEFORE).await;
    site.agents["h1"].clock_is_ahead_us(HOUR_US);
    site.agents["h3"].clock_is_ahead_us(-HOUR_US);
    for (host, ahead_ms) in [("h1", 3_600_000.0), ("h3", -3_600_000.0_f64)] {
        until("both clocks are measured", async || {
            let hosts = site.hosts().await.hosts;
            let view = hosts.into_iter().find(|view| view.name.as_str() == host)?;
            let clock = view.clock?;
            ((clock.offset_ms - ahead_ms).abs() <= clock.uncertainty_ms).then_some(())
        })
        .await;
    }
    let (there, back) = (order(&["h1"], &["h3"]), order(&["h3"], &["h1"]));
    for order in [&there, &back, &there, &back] {
        let migration = site.migrate(order).await;
        let report = site.ended(migration).await;
        assert_eq!(report.outcome, Ending::Committed, "{:?}", report.trouble);
        let vm = &report.vms[0];
        let off = vm.clock_uncertainty_ms.expect("both clocks are known");
        if let Some(blackout) = vm.blackout_ms {
            assert!(blackout.abs() <= report.duration_ms + off, "{vm:?}");
        }
    }
    let plan: PlanView = site.post("/v1/clusters/lab/plan", &there).await.is();
    let high = plan.forecast.expected.blackout_ms.high;
    assert!(high < 60_000.0, "nothing was learnt from clocks: {plan:?}");
}

#[tokio::test]
async fn answers_that_make_no_sense_or_come_twice_change_nothing() {
    let site = Site::new(&[("h1", 4), ("h3", 4)]).await.with_lab(&BEFORE).await;
    for command in ["Reserve", "PreCopy", "Capture", "Activate", "Discard"] {
        for host in ["h1", "h3"] {
            site.agents[host].meets(command, Fate::Babble);
        }
    }
    let migration = site.migrate(&order(&["h1"], &["h3"])).await;
    let report = site.ended(migration).await;
    assert_eq!(report.outcome, Ending::Committed, "{:?}", report.trouble);
    site.assert_runs(&[("vm1", "h3")]);
}

#[tokio::test]
async fn a_refusal_names_who_refuses_whatever_the_kind() {
    for kind in [
        RefusalKind::Disk,
        RefusalKind::BootFile,
        RefusalKind::AddressInUse,
        RefusalKind::Qemu,
    ] {
        let site = Site::new(&[("h1", 4), ("h3", 4)]).await.with_lab(&BEFORE).await;
        site.agents["h3"].meets("Prepare", Fate::Refuse(kind));
        let migration = site.migrate(&order(&["h1"], &["h3"])).await;
        let report = site.ended(migration).await;
        let trouble = report.trouble.expect("a reason");
        assert_eq!(report.outcome, Ending::Refused, "{kind:?}");
        let names = (trouble.host.unwrap(), trouble.vm.unwrap());
        assert_eq!((names.0.as_str(), names.1.as_str()), ("h3", "vm1"), "{kind:?}");
        assert_eq!(trouble.hint, "this agent is a fake");
        site.assert_runs(&BEFORE);
    }
}

/// A journal that was lost and begun anew, or another fleet's: agents that have obeyed a newer
/// term, or belong elsewhere, say so, and nothing is ordered.
#[tokio::test]
async fn an_agent_obeys_one_fleet_and_no_older_term() {
    let leader = |fleet: u8, term: u64| Leader {
        fleet: FleetId::of([fleet; 16]),
        term,
        life: 1,
    };
    let mut site = Site::dark(&[("h1", 4), ("h3", 4)]);
    site.agents.values_mut().for_each(crate::fake::Agent::start);
    site.start().await;
    site.all_connected().await;
    let own = site.agents["h3"]
        .desk()
        .leader
        .clone()
        .expect("it obeys somebody");
    site.end().await;
    let newer = Leader {
        term: own.term + 100,
        ..own.clone()
    };
    for (held, says) in [(newer, "in term"), (leader(7, 1), "belongs to fleet")] {
        site.agents["h3"].desk().leader = Some(held);
        site.start().await;
        let why = until(says, async || {
            h3(&site).await.away.filter(|why| why.contains(says))
        })
        .await;
        assert!(why.contains("transhume journal restore"), "{why}");
        assert!(!site.agents["h3"].was_ordered("StartVm"));
        site.end().await;
    }
    // Each start is a newer term.
    site.agents["h3"].desk().leader = Some(own.clone());
    site.start().await;
    site.all_connected().await;
    let now = site.agents["h3"]
        .desk()
        .leader
        .clone()
        .expect("it obeys somebody");
    assert_eq!(now.fleet, own.fleet);
    assert!(now.term > own.term);
}
