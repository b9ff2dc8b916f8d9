//! A target's tunnel port, by somebody who knows the protocol: bytes that no source of ours sends.

mod net;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use net::{CLOSE_WAIT, Guest, eventually, in_own_network, kept_events};
use transhume_model::Secret;
use transhume_netbuf::{PlugState, Tap, TargetBuffer, TargetConfig};
use transhume_trust::Security;

const UNICAST: u32 = 1;
const FIN: u32 = 3;
const CLOSE: u32 = 4;
/// Longer than any turning away takes.
const TURNED_AWAY_MAX: Duration = Duration::from_secs(5);

/// The target of a VM in the clear: what is behind the handshake is what is tried.
struct Target {
    tap: Tap,
    guest: Guest,
    buffer: TargetBuffer,
}

impl Target {
    fn new() -> Self {
        net::build();
        let tap = net::tap("dst", "br-b", PlugState::Shut);
        let guest = Guest::new(&tap, false);
        let config = TargetConfig {
            security: Security::Insecure,
            ..net::target_config()
        };
        // Each tunnel that is turned away is told as broken.
        let (events, _) = kept_events();
        let buffer = TargetBuffer::open(config, &tap, events).unwrap();
        Self { tap, guest, buffer }
    }

    /// A tunnel whose hello knows this secret.
    fn tunnel(&self, secret: &Secret) -> TcpStream {
        let mut hello = b"THTUNNL3".to_vec();
        hello.extend(1u64.to_be_bytes());
        hello.push(12);
        hello.extend(secret.bytes());
        hello.extend(net::vm_mac().bytes());
        hello.extend([0, 3]);
        hello.extend(b"vm1");
        let mut tunnel = TcpStream::connect(self.buffer.endpoint().address).unwrap();
        tunnel.set_read_timeout(Some(TURNED_AWAY_MAX)).unwrap();
        tunnel.write_all(&hello).unwrap();
        tunnel
    }

    /// One that is welcome; the number of the last record that the target has.
    fn welcome(&self) -> (TcpStream, u64) {
        let mut tunnel = self.tunnel(&net::secret());
        let mut answers = [0; 32];
        tunnel.read_exact(&mut answers).unwrap();
        (tunnel, u64::from_le_bytes(answers[8..16].try_into().unwrap()))
    }
}

/// A record as a tunnel carries it.
fn record(kind: u32, number: u64, data: &[u8]) -> Vec<u8> {
    let mut record = [&kind.to_le_bytes()[..], &(data.len() as u32).to_le_bytes()].concat();
    record.extend(number.to_le_bytes());
    record.extend(data);
    record.resize(record.len().next_multiple_of(8), 0);
    record
}

/// Header and frame.
fn sound(number: u64) -> Vec<u8> {
    [vec![0; 12], net::frame(net::vm_mac().bytes(), [2; 6], number, 60)].concat()
}

/// Whether the other end has had enough.
fn is_turned_away(mut tunnel: TcpStream) -> bool {
    let mut bytes = [0; 64];
    loop {
        match tunnel.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// Read: a header that the kernel refuses ended the delivery, and the VM was deaf for ever.
#[test]
fn a_frame_that_the_kernel_refuses_is_left_out_and_counted() {
    in_own_network(|| {
        let mut target = Target::new();
        let (mut tunnel, _) = target.welcome();
        // Asks for segments of a kind that there is not.
        let unsound = [
            vec![0, 0x7f, 0xff, 0xff, 9, 0, 0, 0, 0, 0, 0, 0],
            sound(9)[12..].to_vec(),
        ]
        .concat();
        for (number, data) in (1..).zip([sound(0), unsound, sound(1), vec![7; 20], sound(2)]) {
            tunnel.write_all(&record(UNICAST, number, &data)).unwrap();
        }
        for (kind, number) in [(FIN, 6), (CLOSE, 7)] {
            tunnel.write_all(&record(kind, number, &[])).unwrap();
        }
        target.guest.run(true);
        target.buffer.activate().unwrap();
        let account = target.buffer.finish(CLOSE_WAIT).unwrap();
        assert_eq!((account.delivered, account.unfit), (3, 2));
        eventually("the sound ones are there", || target.guest.got() == [0, 1, 2]);
    });
}

/// Each lie ends its tunnel and takes nothing; the source, which comes again, is told what is
/// there.
#[test]
fn a_forged_fin_and_forged_numbers_change_nothing() {
    in_own_network(|| {
        let mut target = Target::new();
        let (mut source, last) = target.welcome();
        assert_eq!(last, 0);
        source.write_all(&record(UNICAST, 1, &sound(0))).unwrap();
        let meter = target.buffer.meter();
        eventually("it has the first", || meter.read().kept_bytes > 0);
        // From somebody whom no order told the secret.
        let mut stranger = target.tunnel(&Secret::new([0; Secret::BYTES]));
        let _ = stranger.write_all(&[record(FIN, 2, &[]), record(CLOSE, 3, &[])].concat());
        assert!(is_turned_away(stranger), "a stranger's FIN");
        let mut long = record(UNICAST, 2, &sound(1));
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        for (what, lie) in [
            ("FIN ahead of its turn", record(FIN, 3, &[])),
            (
                "the last number that there is",
                record(UNICAST, u64::MAX, &sound(1)),
            ),
            ("a frame that was there", record(UNICAST, 1, &sound(0))),
            ("a record of no kind", record(9, 2, &[])),
            ("a record longer than any", long),
        ] {
            let (mut liar, last) = target.welcome();
            assert_eq!(last, 1, "before {what}");
            liar.write_all(&lie).unwrap();
            assert!(is_turned_away(liar), "{what}");
        }
        // Cut off in the midst of a record, and gone.
        let (mut cut, _) = target.welcome();
        cut.write_all(&record(UNICAST, 2, &sound(1))[..40]).unwrap();
        drop(cut);
        let (mut source, last) = target.welcome();
        assert_eq!(last, 1, "nothing of it counts");
        assert!(!net::floods(target.tap.name()), "no FIN came");
        let rest = [
            record(UNICAST, 2, &sound(1)),
            record(FIN, 3, &[]),
            record(CLOSE, 4, &[]),
        ];
        source.write_all(&rest.concat()).unwrap();
        target.guest.run(true);
        target.buffer.activate().unwrap();
        let account = target.buffer.finish(CLOSE_WAIT).unwrap();
        assert_eq!((account.delivered, account.unfit), (2, 0));
        eventually("each came once", || target.guest.got() == [0, 1]);
    });
}
