//! What is around a VM: ports of others on its bridge, other addresses of its own, others with its
//! address, taps of a name.

mod net;

use std::time::Duration;

use net::{CLOSE_WAIT, Guest, Peer, Stream, assert_in_order, eventually, in_own_network, no_events};
use transhume_model::NicIndex;
use transhume_netbuf::{
    Error, MarkedTap, OldPath, PlugState, Responsiveness, SourceAccount, SourceBuffer, Tap, TapMark,
    TargetAccount, TargetBuffer, marked_taps,
};

/// A VM that is to move.
struct Vm {
    source_tap: Tap,
    target_tap: Tap,
    source_guest: Guest,
    target_guest: Guest,
}

impl Vm {
    fn new() -> Self {
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

    /// The whole of a move, with something done while it runs nowhere, and just before FIN.
    fn moves(&self, nowhere: impl FnOnce(), arrived: impl FnOnce()) -> (SourceAccount, TargetAccount) {
        let mut source =
            SourceBuffer::open(net::source_config(64 << 20), &self.source_tap, no_events()).unwrap();
        let mut target = TargetBuffer::open(net::target_config(), &self.target_tap, no_events()).unwrap();
        source.connect(&target.endpoint()).unwrap();
        source.announce().unwrap();
        source.shut(Responsiveness::Taking).unwrap();
        self.source_guest.run(false);
        source.capture().unwrap();
        nowhere();
        source.committed();
        self.target_guest.run(true);
        target.activate().unwrap();
        arrived();
        let closing = std::thread::spawn(move || source.finish(CLOSE_WAIT));
        let target = target.finish(CLOSE_WAIT).unwrap();
        (closing.join().unwrap().unwrap(), target)
    }

    fn all_got(&self) -> Vec<u64> {
        [self.source_guest.got(), self.target_guest.got()].concat()
    }
}

/// A container of host A whose veth came after the agent started.
fn late_container() {
    net::ip("link add c0 txqueuelen 20000 type veth peer name c1 txqueuelen 20000");
    net::ip("link set c0 master br-a up");
    net::ip("link set c1 up");
    // The kernel takes its time to see that both ends are up; until then the port drops frames.
    eventually("the port forwards", || net::port_is("c0", "state forwarding"));
}

#[test]
fn a_port_that_came_late_neither_fails_a_move_nor_loses_a_frame() {
    in_own_network(|| {
        net::build();
        let vm = Vm::new();
        late_container();
        let stream = Stream::from(Peer::on("c1"), 5_000, 60);
        stream.goes_on();
        let (source, target) = vm.moves(|| stream.goes_on(), || stream.goes_on());
        stream.goes_on();
        let sent = stream.stop();
        eventually("every frame is there", || vm.all_got().len() as u64 >= sent);
        assert_in_order(&vm.all_got(), sent);
        assert!(source.captured > 0);
        assert_eq!(source.captured, target.delivered);
        assert_eq!((source.dropped, target.dropped), (0, 0));
    });
}

#[test]
fn a_port_that_came_late_fails_no_abort() {
    in_own_network(|| {
        net::build();
        let vm = Vm::new();
        late_container();
        let stream = Stream::from(Peer::on("c1"), 5_000, 60);
        let mut source =
            SourceBuffer::open(net::source_config(64 << 20), &vm.source_tap, no_events()).unwrap();
        source.announce().unwrap();
        source.shut(Responsiveness::Taking).unwrap();
        vm.source_guest.run(false);
        source.capture().unwrap();
        stream.goes_on();
        source.shut_for_abort().unwrap();
        vm.source_guest.run(true);
        source.put_back().unwrap();
        stream.goes_on();
        let sent = stream.stop();
        eventually("every frame is there", || {
            vm.source_guest.got().len() as u64 >= sent
        });
        assert_in_order(&vm.source_guest.got(), sent);
    });
}

/// Whether a port has the hook that a diversion needs.
fn is_hooked(port: &str) -> bool {
    let shown = std::process::Command::new("tc")
        .args(["qdisc", "show", "dev", port])
        .output()
        .expect("`tc` of iproute2 is needed");
    String::from_utf8(shown.stdout).unwrap().contains("clsact")
}

#[test]
fn a_way_out_that_came_late_is_prepared_before_the_switchover_and_a_container_is_left_alone() {
    in_own_network(|| {
        net::build();
        let vm = Vm::new();
        late_container();
        net::ip("link add vx0 type vxlan id 7 dstport 4789 local 127.0.0.1");
        net::ip("link set vx0 master br-a up");
        let source = SourceBuffer::open(net::source_config(64 << 20), &vm.source_tap, no_events());
        source.unwrap().discard().unwrap();
        assert!(is_hooked("a0") && is_hooked("vx0"));
        assert!(!is_hooked("c0") && !is_hooked("src"));
    });
}

/// A virtual router's address (VRRP).
const ROUTER: [u8; 6] = [0, 0, 0x5e, 0, 1, 7];

#[test]
fn frames_for_another_address_of_the_guest_move_with_it() {
    in_own_network(|| {
        net::build();
        let vm = Vm::new();
        vm.source_guest.send_as(ROUTER, [0xff; 6], 1 << 41);
        let peer = Peer::new();
        (0..100).for_each(|number| peer.send(ROUTER, number, 60));
        eventually("the guest has them", || vm.source_guest.got().len() == 100);
        let (source, target) = vm.moves(
            || {
                (100..200).for_each(|number| peer.send(ROUTER, number, 60));
                std::thread::sleep(Duration::from_millis(20));
            },
            || {
                // The announcement has passed the fabric: these come by the new path, and late ones
                // by the old one.
                (200..300).for_each(|number| peer.send(ROUTER, number, 60));
            },
        );
        let late = Peer::new();
        (300..400).for_each(|number| late.send(ROUTER, number, 60));
        eventually("every frame is there", || vm.all_got().len() >= 400);
        assert_in_order(&vm.all_got(), 400);
        assert!(source.captured >= 100);
        assert_eq!((source.captured, source.second_speaker), (target.delivered, 0));
        assert_eq!(source.old_path, Some(OldPath::Marker));
    });
}

#[test]
fn an_abort_leaves_another_address_where_it_was() {
    in_own_network(|| {
        net::build();
        let vm = Vm::new();
        vm.source_guest.send_as(ROUTER, [0xff; 6], 1 << 41);
        let peer = Peer::new();
        let mut source =
            SourceBuffer::open(net::source_config(64 << 20), &vm.source_tap, no_events()).unwrap();
        source.announce().unwrap();
        source.shut(Responsiveness::Taking).unwrap();
        vm.source_guest.run(false);
        source.capture().unwrap();
        (0..100).for_each(|number| peer.send(ROUTER, number, 60));
        source.shut_for_abort().unwrap();
        vm.source_guest.run(true);
        source.put_back().unwrap();
        (100..200).for_each(|number| peer.send(ROUTER, number, 60));
        eventually("every frame is there", || vm.source_guest.got().len() >= 200);
        assert_in_order(&vm.source_guest.got(), 200);
    });
}

/// "I am here", as a stranger's QEMU would say it of the same address.
fn announcement_of_a_stranger() -> Vec<u8> {
    let own = net::vm_mac().bytes();
    let mut frame = [&[0xff; 6][..], &own, &[0x80, 0x35]].concat();
    frame.extend([0, 1, 8, 0, 6, 4, 0, 3]);
    frame.extend(own);
    frame.extend([0; 4]);
    frame.extend(own);
    frame.resize(60, 0);
    frame
}

#[test]
fn a_second_speaker_of_the_address_is_no_marker_and_is_counted() {
    in_own_network(|| {
        net::build();
        let vm = Vm::new();
        let second = Peer::on("fa");
        let own = net::vm_mac().bytes();
        let (source, _) = vm.moves(
            || {
                (0..7).for_each(|number| second.send_as(own, [0xff; 6], number, 60));
                std::thread::sleep(Duration::from_millis(20));
                // What the target announces does not come by; what the stranger says does.
                net::ip("link set fa type bridge_slave bcast_flood off");
            },
            || {
                second.send_bytes(&announcement_of_a_stranger());
                second.send_as(own, [0xff; 6], 8, 60);
            },
        );
        assert_eq!(source.second_speaker, 7);
        assert_eq!(
            source.old_path,
            Some(OldPath::Lingered),
            "no stranger is the marker"
        );
        assert!(source.own_echo >= 2, "{source:?}");
    });
}

#[test]
fn a_tap_in_use_and_one_of_somebody_else_are_left_alone() {
    in_own_network(|| {
        net::build();
        let tap = net::tap("th0", "br-a", PlugState::Open);
        let config = net::tap_config("th0", "br-a", PlugState::Open);
        let error = Tap::create(&config).unwrap_err();
        let holder = format!("process {} (", std::process::id());
        assert!(
            matches!(&error, Error::TapInUse { name, holder: found } if name == "th0" && found.starts_with(&holder)),
            "{error}"
        );
        let other = TapMark {
            owner: "other".to_owned(),
            ..net::mark()
        };
        let foreign = Tap::create(&transhume_netbuf::TapConfig {
            mark: other,
            ..config
        })
        .unwrap_err();
        assert!(matches!(foreign, Error::ForeignInterface { .. }), "{foreign}");
        assert!(
            foreign
                .to_string()
                .contains("a tap of `test` for NIC 0 of VM vm1"),
            "{foreign}"
        );
        net::ip("tuntap add plain mode tap");
        let plain = Tap::create(&net::tap_config("plain", "br-a", PlugState::Open)).unwrap_err();
        assert!(matches!(plain, Error::ForeignInterface { .. }), "{plain}");
        let veth = Tap::create(&net::tap_config("a0", "br-a", PlugState::Open)).unwrap_err();
        assert!(matches!(veth, Error::ForeignInterface { .. }), "{veth}");
        net::ip("link show dev plain");
        net::ip("link show dev a0");
        drop(tap);
    });
}

#[test]
fn a_tap_left_over_is_found_by_its_mark_and_made_anew() {
    in_own_network(|| {
        net::build();
        net::ip("tuntap add th0 mode tap vnet_hdr");
        net::ip("link set th0 alias transhume:test:vm1:0");
        net::ip("link set a0 alias transhume:test:vm1:0");
        let left = MarkedTap {
            name: "th0".to_owned(),
            vm: "vm1".parse().unwrap(),
            nic: NicIndex(0),
        };
        assert_eq!(marked_taps("test").unwrap(), std::slice::from_ref(&left));
        assert_eq!(marked_taps("other").unwrap(), []);
        let tap = net::tap("th0", "br-a", PlugState::Open);
        let guest = Guest::new(&tap, true);
        guest.send([0xff; 6], 1 << 40);
        let peer = Peer::new();
        peer.send(net::vm_mac().bytes(), 0, 60);
        eventually("it is a tap as any", || guest.got() == [0]);
        assert_eq!(marked_taps("test").unwrap(), [left]);
        drop(guest);
        drop(tap);
        assert_eq!(marked_taps("test").unwrap(), [], "it goes with its last holder");
    });
}
