//! Guests as they are: deaf, stopped by their users, deaf of a sudden. None holds others still, and
//! what it never took is accounted for.

mod net;

use std::time::{Duration, Instant};

use net::{CLOSE_WAIT, Guest, Mood, Peer, assert_in_order, eventually, in_own_network, no_events};
use transhume_netbuf::{
    PlugState, Responsiveness, Shut, SourceAccount, SourceBuffer, Tap, TargetAccount, TargetBuffer,
};

/// Far below the wait for a guest that is thought to take frames; far above what a busy machine
/// needs.
const AT_ONCE: Duration = Duration::from_millis(700);

fn source_of(tap: &Tap) -> SourceBuffer {
    SourceBuffer::open(net::source_config(64 << 20), tap, no_events()).unwrap()
}

fn send(numbers: std::ops::Range<u64>) {
    let peer = Peer::new();
    numbers.for_each(|number| peer.send(net::vm_mac().bytes(), number, 60));
    // They are in the ring, or in the plug.
    std::thread::sleep(Duration::from_millis(20));
}

#[test]
fn a_guest_is_asked_whether_it_takes_frames() {
    in_own_network(|| {
        net::build();
        let tap = net::tap("src", "br-a", PlugState::Open);
        let guest = Guest::new(&tap, true);
        guest.send([0xff; 6], 1 << 40);
        let mut source = source_of(&tap);
        assert_eq!(source.probe().unwrap(), Responsiveness::Taking);
        guest.be(Mood::Deaf);
        for asked in 0..3 {
            assert_eq!(
                source.probe().unwrap(),
                Responsiveness::Deaf,
                "asked {asked} times"
            );
        }
        let given_before = tap.given_bytes().unwrap();
        send(0..100);
        assert_eq!(source.probe().unwrap(), Responsiveness::Deaf);
        guest.slow_down(5_000);
        guest.be(Mood::Taking);
        assert_eq!(
            source.probe().unwrap(),
            Responsiveness::Taking,
            "slow is not deaf"
        );
        guest.slow_down(0);
        eventually("the guest has all", || guest.got().len() == 100);
        assert!(tap.given_bytes().unwrap() >= given_before + 100 * 60);
        source.shut_for_abort().unwrap();
        let account = source.put_back().unwrap();
        assert_eq!((account.captured, account.dropped, account.untaken), (0, 0, 0));
    });
}

/// What came of moving a guest that takes no frames on the source.
struct Moved {
    shut: Shut,
    waited: Duration,
    source: SourceAccount,
    target: TargetAccount,
    /// What the source's QEMU had read for nobody.
    lost: Vec<u64>,
    got_before: Vec<u64>,
    got: Vec<u64>,
}

/// 300 frames for it before the move, 100 in it; on the target it takes them.
fn moved(mood: Mood, known_as: Responsiveness) -> Moved {
    let source_tap = net::tap("src", "br-a", PlugState::Open);
    let target_tap = net::tap("dst", "br-b", PlugState::Shut);
    let (mut source_guest, target_guest) = (Guest::new(&source_tap, true), Guest::new(&target_tap, false));
    source_guest.send([0xff; 6], 1 << 40);
    source_guest.be(mood);
    send(0..300);
    let mut source = source_of(&source_tap);
    let mut target = TargetBuffer::open(net::target_config(), &target_tap, no_events()).unwrap();
    source.connect(&target.endpoint()).unwrap();
    source.announce().unwrap();
    let begun = Instant::now();
    let shut = source.shut(known_as).unwrap();
    source_guest.run(false);
    source.capture().unwrap();
    let waited = begun.elapsed();
    send(300..400);
    source.committed();
    target_guest.run(true);
    target.activate().unwrap();
    let closing = std::thread::spawn(move || source.finish(CLOSE_WAIT));
    let target = target.finish(CLOSE_WAIT).unwrap();
    let source = closing.join().unwrap().unwrap();
    let lost = source_guest.end();
    eventually("what was captured is there", || {
        target_guest.got().len() as u64 >= source.captured
    });
    Moved {
        shut,
        waited,
        source,
        target,
        lost,
        got_before: source_guest.got(),
        got: target_guest.got(),
    }
}

impl Moved {
    /// Every frame reached the guest, but for those that QEMU had read for nobody.
    fn check(&self) {
        let expected: Vec<u64> = (0..400).filter(|number| !self.lost.contains(number)).collect();
        assert_eq!(self.got, expected);
        assert!(self.lost.len() as u64 <= self.source.untaken, "{:?}", self.lost);
        assert_eq!(self.source.captured, self.target.delivered);
        assert_eq!((self.source.dropped, self.target.dropped), (0, 0));
        assert_eq!((self.target.untaken, self.target.undelivered), (0, 0));
    }
}

#[test]
fn a_deaf_guest_is_taken_as_it_is_at_once() {
    in_own_network(|| {
        net::build();
        let moved = moved(Mood::Deaf, Responsiveness::Deaf);
        assert_eq!(moved.shut.guest, Responsiveness::Deaf);
        assert!(moved.waited < AT_ONCE, "{:?}", moved.waited);
        assert_eq!(moved.source.untaken, 1);
        moved.check();
    });
}

#[test]
fn a_guest_that_turns_deaf_after_it_was_asked_fails_nothing() {
    in_own_network(|| {
        net::build();
        let moved = moved(Mood::Deaf, Responsiveness::Taking);
        assert_eq!(moved.shut.guest, Responsiveness::Deaf);
        assert!(moved.waited < Duration::from_secs(5), "{:?}", moved.waited);
        moved.check();
    });
}

#[test]
fn a_guest_that_its_user_stopped_moves_at_once() {
    in_own_network(|| {
        net::build();
        let moved = moved(Mood::Stopped, Responsiveness::Stopped);
        assert_eq!(moved.shut.guest, Responsiveness::Stopped);
        assert!(moved.waited < AT_ONCE, "{:?}", moved.waited);
        assert_eq!(moved.source.untaken, 1);
        moved.check();
    });
}

#[test]
fn a_guest_that_is_not_deaf_after_all_loses_nothing() {
    in_own_network(|| {
        net::build();
        let moved = moved(Mood::Taking, Responsiveness::Deaf);
        let mut all = [moved.got_before, moved.got].concat();
        all.sort_unstable();
        assert_in_order(&all, 400);
        assert_eq!(moved.lost, Vec::<u64>::new());
        assert_eq!(moved.source.captured, moved.target.delivered);
    });
}

#[test]
fn an_abort_gives_a_deaf_guest_its_frames_back() {
    in_own_network(|| {
        net::build();
        let tap = net::tap("src", "br-a", PlugState::Open);
        let guest = Guest::new(&tap, true);
        guest.send([0xff; 6], 1 << 40);
        guest.be(Mood::Deaf);
        send(0..100);
        let mut source = source_of(&tap);
        source.announce().unwrap();
        source.shut(Responsiveness::Deaf).unwrap();
        // QMP `stop` never came.
        source.shut_for_abort().unwrap();
        let account = source.put_back().unwrap();
        assert_eq!((account.captured, account.put_back), (99, 99), "QEMU held one");
        guest.be(Mood::Taking);
        eventually("every frame is there", || guest.got().len() == 100);
        assert_in_order(&guest.got(), 100);
    });
}

/// A guest that takes none, its ring full before the move and during pre-copy: what found no room
/// there is told, and is no loss of the move.
#[test]
fn what_found_the_ring_of_a_deaf_guest_full_is_told_and_not_lost() {
    in_own_network(|| {
        net::build();
        let tap = net::tap_of_small_ring("src", "br-a", PlugState::Open, 64);
        let guest = Guest::new(&tap, true);
        guest.send([0xff; 6], 1 << 40);
        guest.be(Mood::Deaf);
        send(0..100);
        let mut source = source_of(&tap);
        // A frame of our own finds no room either.
        assert_eq!(source.probe().unwrap(), Responsiveness::Deaf);
        send(100..130);
        source.announce().unwrap();
        source.shut(Responsiveness::Deaf).unwrap();
        source.shut_for_abort().unwrap();
        let account = source.put_back().unwrap();
        // 64 in its ring, one with QEMU, and a frame of our own may have been in either.
        assert!((63..=64).contains(&account.captured), "{account:?}");
        assert_eq!((account.put_back, account.dropped), (account.captured, 0));
        // Since the opening 30 found it full, and a few frames of the buffer's own.
        assert!((31..=36).contains(&account.untaken), "{account:?}");
    });
}

/// A switchover of 200 frames to a target whose ring takes 64 and whose guest takes none.
fn to_a_small_ring(guest_wakes: bool) -> (TargetAccount, SourceAccount, Vec<u64>, Duration) {
    let source_tap = net::tap("src", "br-a", PlugState::Open);
    let target_tap = net::tap_of_small_ring("dst", "br-b", PlugState::Shut, 64);
    let (source_guest, target_guest) = (Guest::new(&source_tap, true), Guest::new(&target_tap, false));
    source_guest.send([0xff; 6], 1 << 40);
    let mut source = source_of(&source_tap);
    let mut target = TargetBuffer::open(net::target_config(), &target_tap, no_events()).unwrap();
    source.connect(&target.endpoint()).unwrap();
    source.announce().unwrap();
    source.shut(Responsiveness::Taking).unwrap();
    source_guest.run(false);
    source.capture().unwrap();
    send(0..200);
    source.committed();
    let begun = Instant::now();
    let activated = target.activate().unwrap();
    let waited = begun.elapsed();
    assert!(activated.waiting_frames >= 200 - 65, "{activated:?}");
    let closing = std::thread::spawn(move || source.finish(CLOSE_WAIT));
    if guest_wakes {
        target_guest.run(true);
    }
    let target = target.finish(CLOSE_WAIT).unwrap();
    let source = closing.join().unwrap().unwrap();
    target_guest.run(true);
    eventually("the ring is empty", || {
        target_guest.got().len() as u64 >= target.delivered
    });
    (target, source, target_guest.got(), waited)
}

#[test]
fn a_stopped_guest_is_announced_in_time_and_gets_the_rest_when_it_runs() {
    in_own_network(|| {
        net::build();
        let (target, source, got, waited) = to_a_small_ring(true);
        assert!(waited < Duration::from_secs(3), "{waited:?}");
        assert_in_order(&got, 200);
        assert_eq!((source.captured, target.delivered), (200, 200));
        assert_eq!((target.undelivered, target.untaken), (0, 0));
    });
}

#[test]
fn closing_ends_for_a_guest_that_never_takes_its_frames() {
    in_own_network(|| {
        net::build();
        let (target, source, got, _) = to_a_small_ring(false);
        assert_eq!(source.captured, target.delivered + target.undelivered);
        assert!(target.undelivered >= 200 - 66, "{target:?}");
        assert_eq!((target.dropped, target.unfit), (0, 0));
        // One of those in the ring may be with QEMU, which had taken the plug's dummy first; what
        // the plug sends at its opening found the ring full.
        assert!(
            (target.delivered - 1..=target.delivered + 2).contains(&target.untaken),
            "{target:?}"
        );
        assert_in_order(&got, target.delivered);
    });
}
