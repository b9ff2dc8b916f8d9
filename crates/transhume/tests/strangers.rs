//! Whoever can reach the ports of a fleet does what it likes there while a cluster moves: nothing
//! changes, and nothing is lost.

mod user;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use transhume_lab::Namespace;
use user::{lab, moved};

/// A new connection to each port there is, and one that is closed at once, as a port scan does.
const ROUND: Duration = Duration::from_millis(50);
/// Each connection says one more byte of a hello.
const BYTE: Duration = Duration::from_secs(1);
/// The beginning of a ClientHello (RFC 8446 §5.1).
const HELLO: [u8; 11] = [22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// A file system's name for a socket that listens (include/net/tcp_states.h).
const LISTENS: &str = "0A";

/// The addresses at which something listens in this thread's network namespace.
fn listening() -> Vec<SocketAddr> {
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap_or_default();
    let of = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (local, state) = (words.next()?, words.nth(1)?);
        let (address, port) = local.split_once(':').filter(|_| state == LISTENS)?;
        let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
        let port = u16::from_str_radix(port, 16).ok()?;
        let address = match Ipv4Addr::from(address) {
            Ipv4Addr::UNSPECIFIED => Ipv4Addr::LOCALHOST,
            address => address,
        };
        Some(SocketAddr::V4(SocketAddrV4::new(address, port)))
    };
    table.lines().filter_map(of).collect()
}

/// A connection, how much of a hello it has said, and when.
struct Slow(TcpStream, usize, Instant);

impl Slow {
    /// Whether it goes on.
    fn speak(&mut self) -> bool {
        if self.2.elapsed() < BYTE {
            return true;
        }
        let byte = HELLO.get(self.1).copied().unwrap_or(0);
        (self.1, self.2) = (self.1 + 1, Instant::now());
        self.0.write_all(&[byte]).is_ok()
    }
}

/// Strangers on every port of one namespace; how many came to each.
fn strangers(namespace: &str, stop: Arc<AtomicBool>) -> JoinHandle<BTreeMap<SocketAddr, usize>> {
    let namespace = Namespace::named(namespace);
    std::thread::spawn(move || {
        let work = || {
            let (mut came, mut slow) = (BTreeMap::new(), Vec::<Slow>::new());
            while !stop.load(Ordering::Relaxed) {
                for address in listening() {
                    let scanned = TcpStream::connect_timeout(&address, CONNECT_MAX);
                    let stays = TcpStream::connect_timeout(&address, CONNECT_MAX);
                    if let (Ok(_), Ok(mut stays)) = (scanned, stays) {
                        let _ = stays.write_all(&HELLO[..1]);
                        slow.push(Slow(stays, 1, Instant::now()));
                        *came.entry(address).or_default() += 1;
                    }
                }
                slow.retain_mut(Slow::speak);
                std::thread::sleep(ROUND);
            }
            Ok(came)
        };
        namespace.run(work).expect("the namespace is there")
    })
}

#[test]
fn a_slow_hello_on_each_port_during_a_switchover_changes_nothing() {
    let lab = lab("--hosts 4 --vms 4 --rate 300");
    let opened = lab.open();
    let stop = Arc::new(AtomicBool::new(false));
    let at: Vec<_> = opened
        .state
        .hosts
        .iter()
        .map(|host| host.namespace.clone())
        .collect();
    let on_hosts: Vec<_> = at
        .iter()
        .map(|namespace| strangers(namespace, stop.clone()))
        .collect();
    let on_coordinator = strangers(&opened.layout.coordinator_namespace(0), stop.clone());
    let there = moved("migrate lab --from h1,h2 --to h3,h4");
    let back = moved("migrate lab --from h3,h4 --to h1,h2");
    stop.store(true, Ordering::Relaxed);
    let came: Vec<_> = on_hosts.into_iter().map(|host| host.join().unwrap()).collect();
    let ports: usize = came.iter().map(BTreeMap::len).sum();
    // The agents' own, and a tunnel of each VM in each move; page streams' as they come.
    assert!(ports >= 4 + 2 * 4, "{came:?}");
    let came = on_coordinator.join().unwrap();
    assert!(!came.is_empty(), "the API has a port");
    let hosts = lab.hosts_of_vms();
    assert!(
        hosts.iter().all(|host| host == "h1" || host == "h2"),
        "{there} {back}"
    );
    lab.assert_one_of_each(4);
    lab.assert_clean("after two moves among strangers");
}
