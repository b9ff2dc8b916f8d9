//! Steps that failed and are asked for again, and agents that are killed between them: no frame is
//! lost, none comes twice.

mod net;

use std::net::TcpStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use net::{
    CLOSE_WAIT, Guest, Peer, Stream, assert_in_order, eventually, in_own_network, kept_events, no_events,
};
use transhume_netbuf::{
    Error, Event, PlugState, Responsiveness, SourceAccount, SourceBuffer, SourceConfig, Tap, TargetBuffer,
    TargetConfig,
};

/// A VM that is to move: its taps, and the guests behind them.
struct Vm {
    source_tap: Tap,
    target_tap: Tap,
    source_guest: Guest,
    target_guest: Guest,
}

impl Vm {
    fn new() -> Self {
        net::build();
        let source_tap = net::tap("src", "br-a", PlugState::Open);
        let target_tap = net::tap("dst", "br-b", PlugState::Shut);
        let source_guest = Guest::new(&source_tap, true);
        let target_guest = Guest::new(&target_tap, false);
        source_guest.send([0xff; 6], 1 << 40);
        Self {
            source_tap,
            target_tap,
            source_guest,
            target_guest,
        }
    }

    fn source(&self, config: &SourceConfig) -> SourceBuffer {
        SourceBuffer::open(config.clone(), &self.source_tap, no_events()).unwrap()
    }

    fn capture(&self, source: &mut SourceBuffer) {
        source.announce().unwrap();
        source.shut(Responsiveness::Taking).unwrap();
        self.source_guest.run(false);
        source.capture().unwrap();
    }

    fn all_got(&self) -> Vec<u64> {
        [self.source_guest.got(), self.target_guest.got()].concat()
    }
}

/// Where an agent is killed on the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Killed {
    BeforeShut,
    BehindShut,
    Capturing,
    BehindShutForAbort,
    GuestRuns,
    BehindPutBack,
}

fn way_back_killed(at: Killed) {
    in_own_network(move || {
        let vm = Vm::new();
        let stream = Stream::start(5_000, 60);
        stream.goes_on();
        let config = net::source_config(64 << 20);
        let mut source = vm.source(&config);
        let reached = |now: Killed| now as u8 <= at as u8;
        if reached(Killed::BehindShut) {
            source.announce().unwrap();
            source.shut(Responsiveness::Taking).unwrap();
        }
        if reached(Killed::Capturing) {
            vm.source_guest.run(false);
            source.capture().unwrap();
            stream.goes_on();
        }
        if reached(Killed::BehindShutForAbort) {
            source.shut_for_abort().unwrap();
        }
        if reached(Killed::GuestRuns) {
            vm.source_guest.run(true);
        }
        if reached(Killed::BehindPutBack) {
            source.put_back().unwrap();
        }
        drop(source);
        stream.goes_on();

        let mut source = SourceBuffer::resume_abort(config, &vm.source_tap, no_events()).unwrap();
        source.shut_for_abort().unwrap();
        vm.source_guest.run(true);
        let account = source.put_back().unwrap();
        assert_eq!(source.put_back().unwrap(), account, "asked again");
        source.discard().unwrap();
        stream.goes_on();
        let sent = stream.stop();
        eventually("every frame is there", || {
            vm.source_guest.got().len() as u64 >= sent
        });
        assert_in_order(&vm.source_guest.got(), sent);
        assert_eq!(account.dropped, 0, "{at:?}");
        assert_eq!(
            (account.put_back, account.undelivered),
            (account.captured, 0),
            "{at:?}"
        );
    });
}

#[test]
fn an_agent_killed_anywhere_on_the_way_back_is_taken_up() {
    for at in [
        Killed::BeforeShut,
        Killed::BehindShut,
        Killed::Capturing,
        Killed::BehindShutForAbort,
        Killed::GuestRuns,
        Killed::BehindPutBack,
    ] {
        println!("{at:?}");
        way_back_killed(at);
    }
}

/// 200 frames for a guest whose ring takes 64: putting back fails midway, when the tap goes down.
fn half_put_back(config: &SourceConfig, tap: &Tap, guest: &Guest) -> SourceBuffer {
    guest.send([0xff; 6], 1 << 40);
    let mut source = SourceBuffer::open(config.clone(), tap, no_events()).unwrap();
    source.announce().unwrap();
    source.shut(Responsiveness::Taking).unwrap();
    guest.run(false);
    source.capture().unwrap();
    let peer = Peer::new();
    (0..200).for_each(|number| peer.send(net::vm_mac().bytes(), number, 60));
    std::thread::sleep(Duration::from_millis(50));
    source.shut_for_abort().unwrap();
    // From here on its ring is small.
    net::ip("link set src txqueuelen 64");
    let failing = std::thread::spawn(move || {
        let failed = source.put_back();
        (source, failed)
    });
    std::thread::sleep(Duration::from_millis(100));
    net::ip("link set src down");
    let (source, failed) = failing.join().unwrap();
    assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
    net::ip("link set src up");
    source
}

#[test]
fn putting_back_is_asked_for_again_after_an_error() {
    in_own_network(|| {
        net::build();
        let tap = net::tap("src", "br-a", PlugState::Open);
        let guest = Guest::new(&tap, true);
        let config = net::source_config(64 << 20);
        let mut source = half_put_back(&config, &tap, &guest);
        guest.run(true);
        let account = source.put_back().unwrap();
        eventually("every frame is there", || guest.got().len() >= 200);
        assert_in_order(&guest.got(), 200);
        assert_eq!((account.captured, account.put_back), (200, 200));
    });
}

#[test]
fn the_next_agent_puts_back_what_is_left() {
    in_own_network(|| {
        net::build();
        let tap = net::tap("src", "br-a", PlugState::Open);
        let guest = Guest::new(&tap, true);
        let config = net::source_config(64 << 20);
        let source = half_put_back(&config, &tap, &guest);
        guest.run(true);
        drop(source);
        let mut source = SourceBuffer::resume_abort(config, &tap, no_events()).unwrap();
        let account = source.put_back().unwrap();
        eventually("every frame is there", || guest.got().len() >= 200);
        assert_in_order(&guest.got(), 200);
        assert_eq!((account.captured, account.put_back), (200, 200));
    });
}

#[test]
fn a_step_out_of_turn_is_refused_by_name_and_changes_nothing() {
    in_own_network(|| {
        let vm = Vm::new();
        let config = net::source_config(64 << 20);
        let mut source = vm.source(&config);
        assert!(matches!(source.finish(CLOSE_WAIT), Err(Error::WrongStage { .. })));
        assert!(matches!(source.put_back(), Err(Error::WrongStage { .. })));
        vm.capture(&mut source);
        source.capture().unwrap();
        let refused = source.shut(Responsiveness::Taking).unwrap_err().to_string();
        assert_eq!(refused, "VM vm1 NIC 0: cannot shut a buffer that captures");
        assert!(matches!(source.discard(), Err(Error::NotAccounted { .. })));
        assert!(config.spool.exists(), "frames nobody has got are kept");
        std::fs::remove_file(&config.spool).unwrap();
    });
}

#[test]
fn a_plug_that_is_shut_already_keeps_the_dummy_at_its_head() {
    in_own_network(|| {
        let vm = Vm::new();
        let mut source = vm.source(&net::source_config(64 << 20));
        source.shut(Responsiveness::Taking).unwrap();
        let peer = Peer::new();
        (0..10).for_each(|number| peer.send(net::vm_mac().bytes(), number, 60));
        eventually("the plug's dummy and the one past it", || {
            vm.source_guest.others() == 2
        });
        source.shut(Responsiveness::Taking).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(vm.source_guest.others(), 3, "only one more past the plug");
        assert_eq!(vm.source_guest.got(), Vec::<u64>::new());
        source.shut_for_abort().unwrap();
        source.put_back().unwrap();
        eventually("they are there", || vm.source_guest.got().len() == 10);
    });
}

/// Where the target's agent is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TargetKilled {
    BeforeActivate,
    BehindActivate,
    BehindFin,
    BehindClose,
}

fn close(mut source: SourceBuffer) -> JoinHandle<SourceAccount> {
    std::thread::spawn(move || source.finish(CLOSE_WAIT).unwrap())
}

fn target_killed(at: TargetKilled) {
    in_own_network(move || {
        let vm = Vm::new();
        let stream = Stream::start(5_000, 60);
        stream.goes_on();
        let mut config: TargetConfig = net::target_config();
        let mut source = vm.source(&net::source_config(64 << 20));
        // As QEMU does it: short until the VM is loaded.
        net::set_vnet_header_bytes(&vm.target_tap, 10);
        let mut target = TargetBuffer::open(config.clone(), &vm.target_tap, no_events()).unwrap();
        source.connect(&target.endpoint()).unwrap();
        config.port = target.endpoint().address.port();
        vm.capture(&mut source);
        stream.goes_on();
        source.committed();
        net::set_vnet_header_bytes(&vm.target_tap, 12);
        vm.target_guest.run(true);
        if at != TargetKilled::BeforeActivate {
            let first = target.activate().unwrap();
            assert_eq!(target.activate().unwrap(), first, "asked again");
            stream.goes_on();
        }
        let mut source = Some(source);
        let mut closing = None;
        if let TargetKilled::BehindFin | TargetKilled::BehindClose = at {
            closing = source.take().map(close);
            eventually("FIN has come", || net::floods("dst"));
        }
        if let (TargetKilled::BehindClose, Some(closing)) = (at, &closing) {
            eventually("the source has closed", || closing.is_finished());
        }
        drop(target);
        stream.goes_on();

        let active = at != TargetKilled::BeforeActivate;
        let mut target = TargetBuffer::resume(config, &vm.target_tap, active, no_events()).unwrap();
        target.activate().unwrap();
        let closing = closing.or_else(|| source.take().map(close)).unwrap();
        let account = target.finish(CLOSE_WAIT).unwrap();
        assert_eq!(target.finish(CLOSE_WAIT).unwrap(), account, "asked again");
        let captured = closing.join().unwrap();
        target.discard().unwrap();
        stream.goes_on();
        let sent = stream.stop();
        eventually("every frame is there", || vm.all_got().len() as u64 >= sent);
        assert_in_order(&vm.all_got(), sent);
        assert!(captured.captured > 0);
        assert_eq!(captured.captured, account.delivered, "{at:?}");
        assert_eq!(
            (
                captured.dropped,
                account.dropped,
                account.undelivered,
                account.untaken
            ),
            (0, 0, 0, 0)
        );
        assert_eq!((account.duplicated, account.reordered, account.late), (0, 0, 0));
    });
}

/// Found in 50 kills: the plug stayed shut, and the VM deaf, for ever.
#[test]
fn a_target_agent_killed_anywhere_delivers_on() {
    for at in [
        TargetKilled::BeforeActivate,
        TargetKilled::BehindActivate,
        TargetKilled::BehindFin,
        TargetKilled::BehindClose,
    ] {
        println!("{at:?}");
        target_killed(at);
    }
}

#[test]
fn a_source_agent_killed_behind_fin_closes_on() {
    in_own_network(|| {
        let vm = Vm::new();
        let stream = Stream::start(5_000, 60);
        stream.goes_on();
        let config = net::source_config(64 << 20);
        let mut source = vm.source(&config);
        let mut target = TargetBuffer::open(net::target_config(), &vm.target_tap, no_events()).unwrap();
        let peer = target.endpoint();
        source.connect(&peer).unwrap();
        vm.capture(&mut source);
        stream.goes_on();
        source.committed();
        vm.target_guest.run(true);
        target.activate().unwrap();
        source.begin_finish().unwrap();
        eventually("FIN has come", || net::floods("dst"));
        drop(source);

        let mut source = SourceBuffer::resume(config, &vm.source_tap, Some(peer), no_events()).unwrap();
        let captured = source.finish(CLOSE_WAIT).unwrap();
        assert_eq!(source.finish(CLOSE_WAIT).unwrap(), captured, "asked again");
        let account = target.finish(CLOSE_WAIT).unwrap();
        stream.goes_on();
        let sent = stream.stop();
        eventually("every frame is there", || vm.all_got().len() as u64 >= sent);
        assert_in_order(&vm.all_got(), sent);
        assert_eq!(captured.captured, account.delivered);
    });
}

#[test]
fn a_stranger_at_the_tunnel_delays_nothing() {
    in_own_network(|| {
        let vm = Vm::new();
        let mut source = vm.source(&net::source_config(64 << 20));
        let mut target = TargetBuffer::open(net::target_config(), &vm.target_tap, no_events()).unwrap();
        let silent: Vec<_> = (0..20)
            .map(|_| TcpStream::connect(target.endpoint().address).unwrap())
            .collect();
        source.connect(&target.endpoint()).unwrap();
        vm.capture(&mut source);
        let peer = Peer::new();
        (0..100).for_each(|number| peer.send(net::vm_mac().bytes(), number, 60));
        std::thread::sleep(Duration::from_millis(20));
        source.committed();
        vm.target_guest.run(true);
        let late = TcpStream::connect(target.endpoint().address).unwrap();
        let begun = Instant::now();
        target.activate().unwrap();
        let closing = close(source);
        assert_eq!(target.finish(CLOSE_WAIT).unwrap().delivered, 100);
        closing.join().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        assert_in_order(&vm.target_guest.got(), 100);
        drop((silent, late));
    });
}

/// Its link is taken away under a buffer that captures, and under one that closes.
#[test]
fn a_tap_that_is_gone_is_reported_and_ends_every_drain() {
    in_own_network(|| {
        let vm = Vm::new();
        let (events, kept) = kept_events();
        let config = net::source_config(64 << 20);
        let mut source = SourceBuffer::open(config, &vm.source_tap, events).unwrap();
        vm.capture(&mut source);
        let peer = Peer::new();
        (0..10).for_each(|number| peer.send(net::vm_mac().bytes(), number, 60));
        std::thread::sleep(Duration::from_millis(20));
        net::ip("link del src");
        let broken = || {
            let kept = kept.lock().unwrap();
            kept.iter()
                .filter(|event| matches!(event, Event::Broken { .. }))
                .count()
        };
        eventually("the loss of the tap is reported", || broken() == 1);
        let begun = Instant::now();
        assert!(source.shut_for_abort().is_err(), "there is no plug to shut");
        drop(source);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!(broken(), 1, "reported once");
    });
}

#[test]
fn a_tap_that_is_down_ends_every_drain() {
    in_own_network(|| {
        let vm = Vm::new();
        let (events, kept) = kept_events();
        let config = net::source_config(64 << 20);
        let mut source = SourceBuffer::open(config, &vm.source_tap, events).unwrap();
        let mut target = TargetBuffer::open(net::target_config(), &vm.target_tap, no_events()).unwrap();
        source.connect(&target.endpoint()).unwrap();
        vm.capture(&mut source);
        source.committed();
        vm.target_guest.run(true);
        target.activate().unwrap();
        net::ip("link set src down");
        let closing = close(source);
        target.finish(CLOSE_WAIT).unwrap();
        closing.join().unwrap();
        let kept = kept.lock().unwrap();
        let down = |event: &Event| format!("{event:?}").contains("look into the plug");
        assert!(kept.iter().any(down), "{kept:?}");
    });
}
