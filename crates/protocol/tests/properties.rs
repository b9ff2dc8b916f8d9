//! Properties: messages and journal survive their encoding, a journal can be taken up after any
//! entry, and no sequence of inputs makes the machine panic, unwind a commitment or commit what is
//! not prepared.
#![allow(clippy::disallowed_methods, reason = "reads and rewrites a golden")]

mod support;

use proptest::prelude::*;
use support::{Hand, answer, host, request, vm};
use transhume_model::{Epoch, OrderId, VmName, WallMicros};
use transhume_protocol::message::{
    Command, Fault, FaultKind, GuestState, Mode, Order, OrderKind, Outcome, RefusalKind, Report,
};
use transhume_protocol::migration::{
    Converge, Input, JOURNAL_VERSION, JournalEntry, Migration, MoveRequest, RunOn, StuckRates, TimerId,
};
use transhume_protocol::report::Ending;
use transhume_protocol::step::Step;
use transhume_protocol::wire;

const K: usize = 2;
/// Answers are picked from this many of the latest orders, so that runs get far.
const RECENT_MAX: usize = 4;

fn outcome() -> impl Strategy<Value = Outcome> {
    let named: Vec<&str> = answer::COURSE
        .into_iter()
        .chain(["AbortSource", "AbortTarget"])
        .collect();
    prop_oneof![
        8 => prop::sample::select(named).prop_map(|command| answer::natural(command, WallMicros(5))),
        1 => Just(answer::refusal(RefusalKind::UnknownVm)),
        1 => Just(answer::refusal(RefusalKind::StaleEpoch)),
        1 => Just(answer::refusal(RefusalKind::WrongState)),
        1 => Just(answer::fault(FaultKind::Tunnel)),
        1 => Just(lost()),
        1 => Just(Outcome::Progress(answer::pages())),
        1 => Just(Outcome::Host(Box::new(answer::host_state(host("s1"))))),
    ]
}

fn lost() -> Outcome {
    Outcome::Lost(Fault::new(FaultKind::Qemu, "QEMU ended"))
}

fn any_host() -> impl Strategy<Value = transhume_model::HostName> {
    prop::sample::select(vec!["s1", "s2", "t1", "t2", "elsewhere"]).prop_map(host)
}

fn report() -> impl Strategy<Value = Report> {
    let id =
        prop_oneof![8 => (1u64..60).prop_map(|n| OrderId(1 << 32 | n)), 1 => any::<u64>().prop_map(OrderId)];
    let order = prop::option::weighted(0.9, id);
    (
        order,
        0u64..4,
        prop::option::weighted(0.95, 1usize..=5),
        outcome(),
    )
        .prop_map(|(order, epoch, index, outcome)| Report {
            order,
            epoch: Epoch(epoch),
            vm: index.map(vm),
            at: WallMicros(9),
            outcome,
        })
}

/// What may come next: mostly a sensible answer to an order, so that runs get far; else anything at
/// all.
#[derive(Debug, Clone)]
enum Move {
    AnswerNth(usize),
    /// The same, by an agent whose guest is paused, or whose VM is gone.
    AnswerBadlyNth(usize),
    Anything(Box<Input>),
    /// What is to come goes in batches of so many, maybe the last first.
    CutAnew {
        k: usize,
        turned: bool,
    },
    Wait(u64),
    Restart,
}

fn anything(input: Input) -> Move {
    Move::Anything(Box::new(input))
}

fn any_move() -> impl Strategy<Value = Move> {
    let step = prop::sample::select(Step::ALL.to_vec());
    let timer = (1usize..3, step).prop_map(|(batch, step)| Input::Timer(TimerId::Step { batch, step }));
    let lost = any_host().prop_map(|host| Input::AgentLost { host });
    let back = any_host().prop_map(|host| Input::AgentBack {
        state: Box::new(answer::host_state(host.clone())),
        host,
    });
    let clock =
        (any_host(), any::<i64>(), any::<u64>()).prop_map(|(host, offset_us, uncertainty_us)| Input::Clock {
            host,
            offset_us,
            uncertainty_us,
        });
    let stuck = (1usize..=5).prop_map(|index| Input::Stuck {
        vm: vm(index),
        rates: StuckRates {
            dirty_mbit_s: 1.0,
            most_mbit_s: None,
        },
    });
    let arranged = (1usize..=3, any::<bool>()).prop_map(|(k, turned)| Move::CutAnew { k, turned });
    let said = (any_host(), report()).prop_map(|(host, report)| Input::Report { host, report });
    prop_oneof![
        600 => any::<usize>().prop_map(Move::AnswerNth),
        6 => any::<usize>().prop_map(Move::AnswerBadlyNth),
        2 => clock.prop_map(anything),
        4 => said.prop_map(anything),
        1 => timer.prop_map(anything),
        1 => lost.prop_map(anything),
        2 => stuck.prop_map(anything),
        2 => arranged,
        4 => back.prop_map(anything),
        1 => (0u64..100_000).prop_map(Move::Wait),
        1 => Just(Move::Restart),
    ]
}

fn recent(hand: &Hand, nth: usize) -> Option<Order> {
    let recent = &hand.sent[hand.sent.len().saturating_sub(RECENT_MAX)..];
    let (_, order) = recent.get(nth % recent.len().max(1))?;
    Some(order.clone())
}

/// A guest that does not run, or a VM that is gone, where such a thing can be said.
fn bad_answer(hand: &Hand, order: &Order) -> Option<Outcome> {
    match order.command.kind() {
        OrderKind::Capture => match answer::natural("Capture", hand.now.wall) {
            Outcome::Captured { times, .. } => Some(Outcome::Captured {
                times,
                guest: GuestState::Paused,
            }),
            _ => None,
        },
        kind => kind.row().filter(|row| row.may_lose).map(|_| lost()),
    }
}

fn play(hand: &mut Hand, moved: Move) {
    match moved {
        Move::AnswerBadlyNth(nth) => {
            let Some(order) = recent(hand, nth) else { return };
            if let Some(outcome) = bad_answer(hand, &order) {
                let name = order.command.vm().expect("orders of a move are about a VM");
                let answered = hand.answer_with(name, order.command.name(), outcome);
                answered.expect("an honest answer is never illegal");
            }
        }
        Move::AnswerNth(nth) => {
            let Some(order) = recent(hand, nth) else { return };
            let name = order
                .command
                .vm()
                .expect("orders of a move are about a VM")
                .clone();
            let second = order.command.name() == "PreCopy" && nth % 3 > 0;
            let natural = answer::natural(
                if second { "Converge" } else { order.command.name() },
                hand.now.wall,
            );
            let answered = hand.answer_with(&name, order.command.name(), natural);
            answered.expect("an honest answer is never illegal");
        }
        Move::Anything(input) => {
            // Illegal is fine; a panic is not.
            let _named_error = hand.give(*input);
        }
        Move::CutAnew { k, turned } => {
            let mut vms: Vec<VmName> = hand.to_come().concat();
            if turned {
                vms.reverse();
            }
            let batches = vms.chunks(k).map(<[VmName]>::to_vec).collect();
            let _fixed = hand.give(Input::Arrange { batches });
        }
        Move::Wait(ms) => hand.wait(ms),
        Move::Restart if !hand.done => hand.restart(hand.machine.epoch_last().0 + 1),
        Move::Restart => {}
    }
}

/// What must hold of everything that was ever sent and journaled.
fn check(hand: &Hand) {
    for (index, vms) in hand.machine.request().batches.iter().enumerate() {
        let (batch, names) = (
            index + 1,
            vms.iter().map(|vm| vm.spec.name.clone()).collect::<Vec<_>>(),
        );
        let about = |order: &Order, commands: &[&str]| {
            names.iter().any(|name| order.command.vm() == Some(name))
                && commands.contains(&order.command.name())
        };
        let sent = |commands: &[&str]| hand.sent.iter().any(|(_, order)| about(order, commands));
        if sent(&["Activate", "Commit", "Discard"]) {
            assert!(
                hand.is_committed(batch),
                "nothing of step 8 is sent before the journal holds Committed"
            );
        }
        // One that only rolls back to begin without a VM is not decided.
        let rolls_back = |entry: &JournalEntry| matches!(entry, JournalEntry::RollingBack { batch: which, put_off: None, .. } if *which == batch);
        let rolled_back = hand.journal.iter().any(rolls_back);
        assert!(
            !(rolled_back && hand.is_committed(batch)),
            "a batch is decided once"
        );
    }
}

/// Orders fit what each VM's guest is: none for a powered-off one but those for its place, and it
/// runs on its target only if it ran on its source. Looks at what the latest input did.
fn check_orders(hand: &Hand) {
    let all = || hand.machine.request().batches.iter().flatten();
    for (_, order) in &hand.last.send {
        let name = order.command.vm().expect("orders of a move are about a VM");
        let row = order.command.kind().row().expect("orders of a move have a row");
        let is_off = all().any(|vm| vm.powered_off && vm.spec.name == *name);
        assert!(row.without_guest || !is_off, "{} for {name}", row.order);
        if let Command::Activate { run, .. } = order.command {
            let guest = hand.journal.iter().find_map(|entry| match entry {
                JournalEntry::Committed { vms, .. } => vms.iter().find(|so_far| so_far.vm == *name),
                _ => None,
            });
            let ran = guest.is_some_and(|so_far| so_far.guest == GuestState::Running);
            assert_eq!(run, ran && !is_off, "{name}");
        }
    }
}

/// A lost VM is never activated or lost again, and reported; no figure is below nothing; a move
/// that has not ended names what it waits for.
fn check_report(hand: &Hand) {
    assert_eq!(hand.machine.waiting_for(hand.now).is_empty(), hand.done);
    if hand.last.persist.is_empty() {
        return;
    }
    let mut lost = Vec::new();
    for entry in &hand.journal {
        match entry {
            JournalEntry::VmActivated { vm, .. } => assert!(!lost.contains(vm), "{vm} is lost"),
            JournalEntry::VmLost { vm, .. } => {
                assert!(!lost.contains(vm), "{vm} is lost already");
                lost.push(vm.clone());
            }
            _ => {}
        }
    }
    for vm in hand.report().vms {
        assert_eq!(vm.lost.is_some(), lost.contains(&vm.id), "{}", vm.id);
        let impossible = |ms: Option<f64>| ms.is_some_and(|ms| ms < 0.0);
        assert!(!impossible(vm.blackout_ms) && !impossible(vm.gap_ms), "{vm:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_inputs_breaks_the_machine(
        off in prop::collection::vec(prop::bool::weighted(0.2), 2 * K),
        converge in prop::sample::select(vec![Converge::Wait, Converge::Shrink, Converge::Shrink, Converge::Stop]),
        adaptive in any::<bool>(),
        moves in prop::collection::vec(any_move(), 1..250),
    ) {
        let mut request = request(2 * K, K, Mode::Live);
        request.batch_max = adaptive.then_some(2 * K);
        let vms = request.batches.iter_mut().flatten();
        vms.zip(off).for_each(|(vm, off)| vm.powered_off = off);
        request.converge = converge;
        let mut hand = Hand::begin_with(request);
        for moved in moves {
            play(&mut hand, moved);
            check(&hand);
            check_orders(&hand);
            check_report(&hand);
        }
    }

    #[test]
    fn a_report_survives_the_wire(report in report()) {
        let bytes = wire::encode(&report).unwrap();
        prop_assert_eq!(wire::decode::<Report>(&bytes[wire::LENGTH_BYTES..]).unwrap(), report);
    }

    #[test]
    fn hostile_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _order = wire::decode::<Order>(&bytes);
        let _report = wire::decode::<Report>(&bytes);
        let _entry = wire::decode::<JournalEntry>(&bytes);
    }

    #[test]
    fn a_journal_out_of_order_is_refused_not_believed(picks in prop::collection::vec(0usize..40, 0..40)) {
        let journal = full_journal();
        let shuffled: Vec<_> = picks.iter().map(|pick| journal[pick % journal.len()].clone()).collect();
        let _taken_up = Migration::recover(Hand::begin(1, 1).now, &shuffled, Epoch(99));
    }
}

/// A move of two batches that become three, a VM of the first lost, the second rolled back,
/// cancelled and recovered on the way: every kind of entry.
fn full_journal() -> Vec<JournalEntry> {
    let mut hand = Hand::begin_with(MoveRequest {
        batch_max: Some(4),
        ..request(4, 2, Mode::Live)
    });
    let batches = vec![vec![vm(3)], vec![vm(4)]];
    hand.give(Input::Arrange { batches }).unwrap();
    hand.up_to(2, "Activate");
    hand.restart(5);
    ["s1", "t1", "s2", "t2"]
        .into_iter()
        .for_each(|host| hand.bring_back(host));
    hand.all(2, "Commit");
    hand.answer_with(&vm(2), "Activate", lost()).unwrap();
    hand.resolve(&vm(2), RunOn::Nowhere);
    for command in [
        "Activate",
        "OpenTargetBuffer",
        "ConnectBuffers",
        "CloseSourceBuffer",
        "CloseTargetBuffer",
    ] {
        hand.answer(&vm(1), command);
    }
    hand.all(2, "Discard");
    for command in ["Reserve", "Prepare", "PreCopy"] {
        hand.answer(&vm(3), command);
    }
    hand.give(Input::Cancel).unwrap();
    ["AbortSource", "AbortTarget"]
        .into_iter()
        .for_each(|command| hand.answer(&vm(3), command));
    assert!(hand.done);
    hand.journal
}

/// A VM is put off.
fn shrunk_journal() -> Vec<JournalEntry> {
    let mut hand = Hand::begin_with(MoveRequest {
        converge: Converge::Shrink,
        ..request(2, 2, Mode::Live)
    });
    hand.up_to(2, "Converge");
    let (vm, rates) = (
        vm(1),
        StuckRates {
            dirty_mbit_s: 300.5,
            most_mbit_s: Some(200.0),
        },
    );
    hand.give(Input::Stuck { vm, rates }).unwrap();
    hand.all(2, "AbortSource");
    hand.all(2, "AbortTarget");
    hand.journal
}

#[test]
fn every_kind_of_entry_survives_its_encoding() {
    let journal = [full_journal(), shrunk_journal()].concat();
    for entry in &journal {
        let bytes = serde_json::to_vec(entry).unwrap();
        assert_eq!(serde_json::from_slice::<JournalEntry>(&bytes).unwrap(), *entry);
    }
    let mut kinds: Vec<String> = journal.iter().map(|entry| format!("{entry:?}")).collect();
    kinds
        .iter_mut()
        .for_each(|kind| kind.truncate(kind.find([' ', '{']).unwrap()));
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds.len(), 15, "a kind of entry is missing here: {kinds:?}");
}

/// The journal as each version wrote it, kept in `testdata`: every later version must read it.
#[test]
fn every_version_of_the_journal_can_be_read() {
    for version in 1..=JOURNAL_VERSION {
        let path = format!("{}/testdata/journal_v{version}.json", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_GOLDENS").is_some() && !std::path::Path::new(&path).exists() {
            std::fs::write(&path, serde_json::to_string_pretty(&full_journal()).unwrap()).unwrap();
        }
        can_be_read(&std::fs::read_to_string(path).expect("the journal is there"));
    }
}

fn can_be_read(text: &str) {
    let journal: Vec<JournalEntry> = serde_json::from_str(text).expect("the journal can be read");
    let Some((JournalEntry::Ended { report }, rest)) = journal.split_last() else {
        panic!("the journal has its end");
    };
    assert_eq!(report.outcome, Ending::PartlyCommitted);
    let (machine, _) = Migration::recover(Hand::begin(1, 1).now, rest, Epoch(99))
        .unwrap()
        .unwrap();
    let recovered = machine.report(Hand::begin(1, 1).now);
    assert_eq!(recovered.vms[0].frames, report.vms[0].frames);
    assert_eq!(recovered.vms[0].blackout_ms, report.vms[0].blackout_ms);
    assert_eq!(recovered.vms[1].lost, report.vms[1].lost);
}

/// The coordinator dies after each single entry of a move: it is always taken up on the side that
/// the journal says.
#[test]
fn the_move_can_be_taken_up_after_every_entry() {
    let journal = full_journal();
    let now = Hand::begin(1, 1).now;
    for length in 1..journal.len() {
        let recovered = Migration::recover(now, &journal[..length], Epoch(99));
        let (machine, ready) = recovered.unwrap().expect("only the last entry ends the move");
        let decided = journal[..length]
            .iter()
            .any(|entry| matches!(entry, JournalEntry::Committed { .. }));
        let hosts: Vec<String> = machine
            .report(now)
            .vms
            .iter()
            .map(|vm| vm.host.to_string())
            .collect();
        assert_eq!(
            hosts[0],
            if decided { "t1" } else { "s1" },
            "after {length} entries"
        );
        assert_eq!(hosts[2], "s1", "the second batch was never decided");
        assert!(ready.send.is_empty(), "no host is connected yet");
    }
    assert!(Migration::recover(now, &journal, Epoch(99)).unwrap().is_none());
}

#[test]
fn an_epoch_that_fences_nothing_off_is_refused() {
    let journal = Hand::begin(2, 2).journal;
    let error = Migration::recover(Hand::begin(1, 1).now, &journal, Epoch(1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "epoch 1 is not newer than 1, which the journal holds"
    );
}

#[test]
fn a_newer_journal_is_refused_by_name() {
    let entry = JournalEntry::Begun {
        version: JOURNAL_VERSION + 1,
        at: WallMicros(0),
        request: request(1, 1, Mode::Live),
    };
    let error = Migration::recover(Hand::begin(1, 1).now, &[entry], Epoch(9)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the journal of the move has version 5, this program knows up to 4"
    );
}
