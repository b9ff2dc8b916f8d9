use super::*;
use crate::network::Uplink;
use transhume_model::BandRates;

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn vm(name: &str) -> VmName {
    name.parse().unwrap()
}

fn network(mbit: u64) -> Network {
    let rate = BitRate::from_bits_per_s(mbit * 1_000_000).unwrap();
    let rates = BandRates {
        guaranteed: rate,
        ceiling: rate,
    };
    Network {
        hosts: ["h1", "h2", "h3", "h4"].map(|name| (host(name), rates)).into(),
        uplinks: Vec::new(),
    }
}

fn stream(name: &str, from: &str, to: &str, stage: StreamStage) -> Stream {
    Stream {
        vm: vm(name),
        source: host(from),
        target: host(to),
        memory: 100_000_000,
        stage,
    }
}

fn batch(migration: u64, streams: Vec<Stream>) -> Batch {
    Batch {
        migration: MigrationId(migration),
        streams,
    }
}

fn look(remaining: u64, wire: u64) -> Figures {
    Figures {
        total: 100_000_000,
        remaining,
        wire,
        ..Figures::default()
    }
}

/// Mbit/s of each VM, copying and switching.
fn rates(changed: BTreeMap<HostName, Vec<VmRates>>) -> BTreeMap<VmName, (u64, u64)> {
    let mbit = |rate: Option<BitRate>| (rate.unwrap().bits_per_s() as f64 / 1e6).round() as u64;
    let all = changed.into_values().flatten();
    all.map(|rates| (rates.vm, (mbit(rates.copying), mbit(rates.switching))))
        .collect()
}

#[test]
fn rates_follow_what_is_left_and_are_told_where_the_stream_begins() {
    let mut governor = Governor::default();
    governor.see(Millis(0), &vm("a"), look(75_000_000, 25_000_000));
    governor.see(Millis(0), &vm("b"), look(25_000_000, 75_000_000));
    let streams = vec![
        stream("a", "h1", "h3", StreamStage::Copying),
        stream("b", "h1", "h4", StreamStage::Copying),
    ];
    let changed = governor.round(&network(100), &[batch(1, streams.clone())]);
    assert_eq!(changed.keys().collect::<Vec<_>>(), [&host("h1")]);
    let told = rates(changed);
    assert_eq!(
        (told[&vm("a")].0, told[&vm("b")].0),
        (71, 24),
        "95 Mbit/s, three to one"
    );
    assert_eq!(
        (told[&vm("a")].1, told[&vm("b")].1),
        (48, 48),
        "stopped they are alike"
    );
    assert!(
        governor
            .round(&network(100), &[batch(1, streams.clone())])
            .is_empty(),
        "nothing changed"
    );
    governor.forget_rates_of([&vm("a")]);
    let again = governor.round(&network(100), &[batch(1, streams)]);
    assert_eq!(
        again[&host("h1")].len(),
        1,
        "an agent that starts anew is told again"
    );
}

#[test]
fn a_batch_whose_guests_stand_still_comes_first() {
    let mut governor = Governor::default();
    let stopped = batch(1, vec![stream("a", "h1", "h3", StreamStage::Stopped)]);
    let other = batch(2, vec![stream("b", "h1", "h4", StreamStage::Copying)]);
    let told = rates(governor.round(&network(100), &[stopped, other]));
    assert_eq!((told[&vm("a")].0, told[&vm("b")].0), (94, 1));
    assert_eq!(told[&vm("b")].1, 94, "and so will the other when its time comes");
}

#[test]
fn a_stream_that_does_not_use_its_rate_leaves_it_to_others() {
    let mut governor = Governor::default();
    let batches = [
        batch(1, vec![stream("slow", "h1", "h3", StreamStage::Copying)]),
        batch(2, vec![stream("fast", "h1", "h4", StreamStage::Copying)]),
    ];
    let mut told = rates(governor.round(&network(100), &batches));
    assert_eq!((told[&vm("slow")].0, told[&vm("fast")].0), (48, 48));
    // 1 Mbit/s and 47 Mbit/s.
    for (at, slow, fast) in [(0, 0, 0), (1000, 125_000, 5_900_000)] {
        governor.see(Millis(at), &vm("slow"), look(100_000_000 - slow, slow));
        governor.see(Millis(at), &vm("fast"), look(100_000_000 - fast, fast));
    }
    told.extend(rates(governor.round(&network(100), &batches)));
    assert!(told[&vm("slow")].0 <= 2 && told[&vm("fast")].0 >= 93, "{told:?}");
}

#[test]
fn a_shared_uplink_is_a_link_like_others_and_without_budgets_nothing_is_limited() {
    let mut governor = Governor::default();
    let uplink = Uplink {
        name: "rack".to_owned(),
        hosts: [host("h1"), host("h2")].into(),
        rate: BitRate::from_bits_per_s(50_000_000).unwrap(),
    };
    let only_uplink = Network {
        uplinks: vec![uplink],
        ..Network::default()
    };
    let batches = [batch(
        1,
        vec![
            stream("a", "h1", "h3", StreamStage::Copying),
            stream("b", "h2", "h4", StreamStage::Copying),
            stream("c", "h1", "h2", StreamStage::Copying),
        ],
    )];
    let changed = governor.round(&only_uplink, &batches);
    let all = changed.into_values().flatten();
    let all: BTreeMap<_, _> = all.map(|rates| (rates.vm.clone(), rates)).collect();
    assert_eq!(all[&vm("c")].copying, None, "it stays behind the uplink");
    let sum = |vms: [&str; 2]| {
        vms.iter()
            .map(|name| all[&vm(name)].copying.unwrap().bits_per_s())
            .sum::<u64>()
    };
    assert!((47_000_000..=47_500_001).contains(&sum(["a", "b"])));
}

#[test]
fn a_move_goes_forward_only() {
    let mut governor = Governor::default();
    governor.begun(MigrationId(1), Millis(60_000));
    let batch = batch(1, vec![stream("a", "h1", "h3", StreamStage::Copying)]);
    let before = governor.outlook(Millis(0), &batch, 0, 100_000_000);
    assert_eq!(
        (before.done(), before.left(Millis(0))),
        (0.0, Some(Millis(60_000)))
    );
    governor.see(Millis(0), &vm("a"), look(100_000_000, 0));
    governor.see(Millis(1000), &vm("a"), look(50_000_000, 50_000_000));
    let outlook = governor.outlook(Millis(1000), &batch, 0, 100_000_000);
    // 25 of 25 + 25 + 50 MB, and 75 MB at 25 MB/s.
    assert_eq!(
        (outlook.done(), outlook.left(Millis(1000))),
        (0.25, Some(Millis(3000)))
    );
}

#[test]
fn a_guest_is_slowed_down_in_steps_and_has_all_before_it_is_stopped() {
    let mut governor = Governor::default();
    let percent = |governor: &mut Governor, stage| {
        let batches = [batch(1, vec![stream("a", "h1", "h3", stage)])];
        let changed = governor.round(&network(100), &batches);
        changed
            .into_values()
            .flatten()
            .next()
            .map(|rates| rates.processor_percent)
    };
    assert_eq!(percent(&mut governor, StreamStage::Copying), Some(None));
    let steps: Vec<_> = std::iter::from_fn(|| governor.throttle(&vm("a"), 20)).collect();
    assert_eq!(steps, [84, 68, 52, 36, 20]);
    assert_eq!(
        percent(&mut governor, StreamStage::Copying),
        Some(Some(20)),
        "that alone is news"
    );
    assert_eq!(percent(&mut governor, StreamStage::Stopped), Some(None));
    assert_eq!(governor.throttle(&vm("unknown"), 20), None);
}

#[test]
fn a_stream_that_begins_again_is_told_and_looked_at_anew() {
    let mut governor = Governor::default();
    let batches = [batch(1, vec![stream("a", "h1", "h3", StreamStage::Copying)])];
    governor.see(Millis(0), &vm("a"), look(10_000_000, 90_000_000));
    governor.round(&network(100), &batches);
    governor.forget(&vm("a"));
    let told = governor.round(&network(100), &batches);
    assert_eq!(told[&host("h1")].len(), 1, "its agent may know nothing of it");
    governor.see(Millis(100), &vm("a"), look(100_000_000, 0));
    let outlook = governor.outlook(Millis(100), &batches[0], 0, 0);
    assert_eq!(outlook.done(), 0.0, "nothing of the new stream has gone");
}
