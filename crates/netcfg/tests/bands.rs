//! The bands' tree on a veth of a network namespace of the test's own: applied, tampered with, put
//! right, cleared; and what goes into which class.

use std::net::UdpSocket;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use socket2::SockRef;
use transhume_bands::{Bands, BandsError, Plan, Previous, Root, Seen, Step, clear, plan, socket_priority};
use transhume_model::Band;
use transhume_netcfg::Netlink;

const SHARED: &str = r#"
    form = "shared"
    interface = "out"
    rate = "1gbit"
    ct = { share = 50 }
    vmct = { share = 30, ceil = 90 }
    nast = { share = 20, own = "10.9.0.1", servers = ["10.9.0.2:10809", "10.8.0.0/16"] }
"#;

/// Runs `test` in a thread with a network namespace of its own, which is gone with the thread.
/// There, `out` leads to `in`.
fn on_a_link(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("tests of the network need root");
        tool("ip link add out type veth peer name in");
        tool("ip addr add 10.9.0.1/24 dev out");
        tool("ip link set out up");
        tool("ip link set in up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn tool(line: &str) {
    let mut words = line.split_whitespace();
    let done = Command::new(words.next().unwrap()).args(words).output();
    let done = done.expect("iproute2 is needed");
    assert!(
        done.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

fn shown() -> String {
    let shown = Command::new("tc")
        .args(["qdisc", "show", "dev", "out", "root"])
        .output();
    String::from_utf8(shown.unwrap().stdout).unwrap()
}

fn see(netlink: &mut Netlink, name: &str) -> Option<Seen> {
    let link = netlink.look_at(name).unwrap()?;
    let root = netlink.root_queue(link.index).unwrap();
    Some(Seen { link, root })
}

fn planned(netlink: &mut Netlink, text: &str) -> Result<Plan, BandsError> {
    let bands: Bands = toml::from_str(text).unwrap();
    let seen = see(netlink, bands.interface(Band::Ct));
    plan(&bands, |_| seen.clone()).map(|mut plans| plans.remove(0))
}

fn carry_out(netlink: &mut Netlink, index: u32, steps: &[Step]) {
    for step in steps {
        netlink
            .take_step(index, step)
            .unwrap_or_else(|error| panic!("{step}: {error}"));
    }
}

/// The tree is put on the link; returns what was there.
fn divide(netlink: &mut Netlink, text: &str) -> Option<Previous> {
    let plan = planned(netlink, text).unwrap();
    assert!(!plan.steps.is_empty());
    carry_out(netlink, plan.index, &plan.steps);
    assert_eq!(
        planned(netlink, text).unwrap().steps,
        [],
        "as the kernel tells it"
    );
    plan.previous
}

#[test]
fn a_tree_is_read_back_as_it_was_put_there_at_any_speed() {
    on_a_link(|| {
        let mut netlink = Netlink::open().unwrap();
        for rate in ["1mbit", "1gbit", "400gbit"] {
            divide(&mut netlink, &SHARED.replace("1gbit", rate));
        }
        let seen = see(&mut netlink, "out").unwrap();
        carry_out(&mut netlink, seen.link.index, &clear(&seen, None));
        assert_eq!(see(&mut netlink, "out").unwrap().root, Root::ByKernel);
    });
}

#[test]
fn whatever_somebody_changes_is_put_right() {
    on_a_link(|| {
        let mut netlink = Netlink::open().unwrap();
        divide(&mut netlink, SHARED);
        for line in [
            "tc class change dev out parent 7e57:1 classid 7e57:20 htb rate 1mbit ceil 2mbit",
            "tc class add dev out parent 7e57:1 classid 7e57:99 htb rate 1mbit",
            "tc filter del dev out parent 7e57: pref 1",
            "tc filter add dev out parent 7e57: pref 9 protocol ip u32 match ip dst 1.2.3.4 classid 7e57:20",
            "tc filter replace dev out parent 7e57: pref 7 protocol all u32 match u32 0 0 classid 7e57:20",
            "tc qdisc del dev out root",
            "tc qdisc del dev out root; tc qdisc add dev out root handle 7e57: htb default 20",
        ] {
            line.split("; ").for_each(tool);
            let plan = planned(&mut netlink, SHARED).unwrap();
            assert!(!plan.steps.is_empty(), "{line}");
            carry_out(&mut netlink, plan.index, &plan.steps);
            assert_eq!(planned(&mut netlink, SHARED).unwrap().steps, [], "{line}");
        }
    });
}

#[test]
fn somebodys_queue_is_refused_or_put_back_as_it_was() {
    on_a_link(|| {
        let mut netlink = Netlink::open().unwrap();
        tool("tc qdisc add dev out root handle 5: tbf rate 100mbit burst 10kb limit 100kb");
        let before = shown();
        let refused = planned(&mut netlink, SHARED).unwrap_err();
        assert_eq!(refused.to_string(), "out has a queue that is not ours: tbf 5:");
        let previous = divide(&mut netlink, &format!("take_over = true\n{SHARED}"));
        // It would be in JSON in a record meanwhile.
        let seen = see(&mut netlink, "out").unwrap();
        carry_out(&mut netlink, seen.link.index, &clear(&seen, previous));
        assert_eq!(shown(), before);

        tool("tc qdisc del dev out root");
        tool("tc qdisc add dev out root handle 6: htb default 1");
        tool("tc class add dev out parent 6: classid 6:1 htb rate 1mbit");
        let consent = format!("take_over = true\n{SHARED}");
        let refused = planned(&mut netlink, &consent).unwrap_err();
        assert!(
            matches!(
                refused,
                BandsError::InUse {
                    replaceable: false,
                    ..
                }
            ),
            "{refused}"
        );
    });
}

#[test]
fn links_are_seen_as_what_they_are() {
    on_a_link(|| {
        let mut netlink = Netlink::open().unwrap();
        tool("ip link add br0 type bridge");
        tool("ip link set out master br0");
        for (name, refused) in [
            ("br0", Some("br0 is a bridge")),
            ("out", None),
            ("none", Some("no interface none")),
            ("longer-than-any-name", Some("no interface longer")),
        ] {
            let text = SHARED.replace("interface = \"out\"", &format!("interface = \"{name}\""));
            match (planned(&mut netlink, &text), refused) {
                (Ok(_), None) => {}
                (Err(error), Some(named)) => assert!(error.to_string().contains(named), "{error}"),
                (other, _) => panic!("{name}: {other:?}"),
            }
        }
        let unknown = SHARED
            .replace("rate = \"1gbit\"", "")
            .replace("\"out\"", "\"lo\"");
        let error = planned(&mut netlink, &unknown).unwrap_err();
        assert_eq!(error.to_string(), "nobody knows the speed of lo");
    });
}

#[test]
fn traffic_goes_into_the_class_of_its_band() {
    on_a_link(|| {
        let mut netlink = Netlink::open().unwrap();
        for peer in ["10.9.0.2", "10.9.0.3"] {
            tool(&format!("ip neigh add {peer} lladdr 52:54:00:00:00:01 dev out"));
        }
        tool("ip route add 10.8.0.0/16 via 10.9.0.2");
        tool("ip addr add 10.9.0.77/24 dev out");
        divide(&mut netlink, SHARED);
        let index = netlink.look_at("out").unwrap().unwrap().index;
        let sent = |from: &str, to: &str, band: Option<Band>| {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            if let Some(band) = band {
                SockRef::from(&socket)
                    .set_priority(socket_priority(band))
                    .unwrap();
            }
            let mut netlink = Netlink::open().unwrap();
            let before = netlink.class_counts(index).unwrap();
            socket.send_to(&[0; 1000], to).unwrap();
            let after = netlink.class_counts(index).unwrap();
            let grown = before.iter().zip(&after).filter(|(before, after)| {
                after.bytes >= before.bytes + 1000 && after.packets > before.packets
            });
            let grown: Vec<_> = grown
                .map(|(_, after)| after.minor)
                .filter(|minor| *minor != 1)
                .collect();
            assert_eq!(grown.len(), 1, "{before:?} {after:?}");
            grown[0]
        };
        let own = "10.9.0.1";
        assert_eq!(sent(own, "10.9.0.3:10809", None), 0x10, "orders, tunnels: CT");
        assert_eq!(
            sent(own, "10.9.0.3:5000", Some(Band::Vmct)),
            0x20,
            "a page stream"
        );
        assert_eq!(sent(own, "10.9.0.2:10809", None), 0x30, "storage");
        assert_eq!(sent(own, "10.9.0.2:22", None), 0x10, "another port of it");
        assert_eq!(sent(own, "10.8.1.2:3260", None), 0x30, "a network of storage");
        assert_eq!(
            sent("10.9.0.77", "10.9.0.2:10809", None),
            0x10,
            "somebody else's to the storage"
        );
    });
}
