//! All NICs of one VM together: its taps and its two kinds of buffers, one marker, one FIN, one order of frames per NIC (design §3).

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use tokio::sync::mpsc;
use transhume_model::{Bytes, NicIndex, VmName, VmSpec, WallMicros};
use transhume_netbuf::limits::{PLUG_BYTES_MAX, RING_FRAMES};
use transhume_netbuf::{
    Error, Event, Events, NicIdentity, OldPath, PlugState, SourceAccount, SourceBuffer, SourceConfig, Tap,
    TapConfig, TargetAccount, TargetBuffer, TargetConfig,
};
use transhume_protocol::message::{self, Fault, FaultKind, SourceFrames, TargetFrames};

use crate::config::Config;
use crate::record::Record;

/// What buffers and streams tell the VM's task by themselves.
#[derive(Debug)]
pub(crate) enum Alarm {
    /// A fault of the batch.
    Fault(Fault),
    /// QEMU has passed over the memory often enough to predict the rest.
    Look,
    /// Step 9 is done at the source.
    SourceClosed(SourceFrames),
    /// Step 9 is done at the target.
    TargetClosed(TargetFrames),
}

/// Why taps are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TapsFor {
    /// A VM that boots here.
    Home,
    /// A VM that is to come: shut until FIN.
    Target,
}

/// The taps of a VM, by NIC index. Dropping them lets go of the descriptors; each link goes when QEMU is gone, too.
#[derive(Debug)]
pub(crate) struct Taps(Vec<Tap>);

/// Interface names are short and VM names are not: a hash of the name stands for it.
fn tap_name(vm: &VmName, nic: usize) -> String {
    let hash = vm.as_str().bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("th{:010x}n{nic}", hash >> 24)
}

impl Taps {
    pub(crate) fn create(config: &Config, spec: &VmSpec, purpose: TapsFor) -> Result<Self, Error> {
        let plug = match purpose {
            TapsFor::Home => PlugState::Open,
            TapsFor::Target => PlugState::Shut,
        };
        let tap = |(index, nic): (usize, &transhume_model::NicSpec)| {
            Tap::create(&TapConfig {
                name: tap_name(&spec.name, index),
                bridge: config.bridge.clone(),
                mac: nic.mac,
                mtu: nic.mtu,
                ring_frames: RING_FRAMES,
                plug_bytes_max: PLUG_BYTES_MAX,
                plug,
            })
        };
        spec.nics
            .iter()
            .enumerate()
            .map(tap)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Takes the recorded taps out of a running QEMU.
    pub(crate) fn take(record: &Record, pid: u32) -> Result<Self, Error> {
        let tap =
            |(name, nic): (&String, &transhume_model::NicSpec)| Tap::take(pid, name, nic.mtu, PLUG_BYTES_MAX);
        record
            .taps
            .iter()
            .zip(&record.spec.nics)
            .map(tap)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.iter().map(|tap| tap.name().to_owned()).collect()
    }

    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.0.iter().map(Tap::fd).collect()
    }
}

/// What the buffers of one NIC have in common on both sides.
struct Ends<'a> {
    config: &'a Config,
    record: &'a Record,
    alarm: mpsc::Sender<Alarm>,
}

impl Ends<'_> {
    fn identity(&self, nic: usize) -> NicIdentity {
        NicIdentity {
            vm: self.record.spec.name.clone(),
            nic: NicIndex(nic as u8),
            mac: self.record.spec.nics[nic].mac,
            epoch: self.record.epoch,
        }
    }

    fn spool(&self, side: &str, nic: usize) -> std::path::PathBuf {
        let name = format!(
            "{}-{}-{side}-{nic}.spool",
            self.config.host, self.record.spec.name
        );
        self.config.spool_dir.join(name)
    }

    /// Buffers speak on their own threads; the task hears them through its queue.
    fn events(&self) -> Events {
        let (alarm, vm, limit) = (
            self.alarm.clone(),
            self.record.spec.name.clone(),
            self.config.buffer_bytes_max,
        );
        Arc::new(move |event| {
            // The queue is longer than the events of a move; a full one means that nobody listens any more.
            let _ = alarm.try_send(Alarm::Fault(fault(&vm, limit, event)));
        })
    }

    fn source(&self, nic: usize) -> SourceConfig {
        SourceConfig {
            identity: self.identity(nic),
            mtu: self.record.spec.nics[nic].mtu,
            spool: self.spool("source", nic),
            buffer_bytes_max: self.config.buffer_bytes_max.0,
            plug_bytes_max: PLUG_BYTES_MAX,
        }
    }

    fn target(&self, nic: usize, port: u16) -> TargetConfig {
        TargetConfig {
            identity: self.identity(nic),
            mtu: self.record.spec.nics[nic].mtu,
            spool: self.spool("target", nic),
            buffer_bytes_max: self.config.buffer_bytes_max.0,
            plug_bytes_max: PLUG_BYTES_MAX,
            listen: self.config.listen.ct,
            port,
        }
    }
}

fn fault(vm: &VmName, limit: Bytes, event: Event) -> Fault {
    match event {
        Event::LimitReached { bytes } => Fault {
            kind: FaultKind::BufferLimit,
            reason: format!("the network buffer of VM {vm} holds {bytes} bytes, its limit is {limit}"),
            hint: None,
        },
        Event::TunnelBroken { why } => Fault {
            kind: FaultKind::Tunnel,
            reason: format!("the tunnel of VM {vm} broke: {why}"),
            hint: None,
        },
        Event::Broken { what } => Fault {
            kind: FaultKind::Network,
            reason: format!("the network buffer of VM {vm}: {what}"),
            hint: None,
        },
    }
}

/// The source's buffers of a VM, by NIC index.
#[derive(Debug)]
pub(crate) struct SourceBuffers(Vec<SourceBuffer>);

impl SourceBuffers {
    /// Step 3.
    pub(crate) fn open(
        config: &Config,
        record: &Record,
        taps: &Taps,
        alarm: mpsc::Sender<Alarm>,
    ) -> Result<Self, Error> {
        let ends = Ends {
            config,
            record,
            alarm,
        };
        let open = |(nic, tap)| SourceBuffer::open(ends.source(nic), tap, ends.events());
        taps.0
            .iter()
            .enumerate()
            .map(open)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Goes on where a killed agent left off.
    pub(crate) fn resume(
        config: &Config,
        record: &Record,
        taps: &Taps,
        alarm: mpsc::Sender<Alarm>,
    ) -> Result<Self, Error> {
        let ends = Ends {
            config,
            record,
            alarm,
        };
        let resume = |(nic, tap)| {
            SourceBuffer::resume(
                ends.source(nic),
                tap,
                record.tunnels.get(nic).copied(),
                ends.events(),
            )
        };
        taps.0
            .iter()
            .enumerate()
            .map(resume)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Step 4.
    pub(crate) fn connect(&mut self, tunnels: &[SocketAddr]) -> Result<(), Error> {
        self.0
            .iter_mut()
            .zip(tunnels)
            .try_for_each(|(buffer, peer)| buffer.connect(*peer))
    }

    /// Step 5, first half: announced, shut, empty – all NICs.
    pub(crate) fn shut(&mut self) -> Result<(WallMicros, WallMicros), Error> {
        self.0.iter_mut().try_for_each(SourceBuffer::announce)?;
        let mut instants = (WallMicros(0), WallMicros(0));
        for buffer in &mut self.0 {
            let (shut_at, empty_at) = buffer.shut()?;
            instants = (instants.0.max(shut_at), instants.1.max(empty_at));
        }
        Ok(instants)
    }

    /// Step 5, second half.
    pub(crate) fn capture(&mut self) -> Result<(), Error> {
        self.0.iter_mut().try_for_each(SourceBuffer::capture)
    }

    pub(crate) fn committed(&mut self) {
        self.0.iter_mut().for_each(SourceBuffer::committed);
    }

    /// Step 9, on a thread of its own: the marker may take its time.
    pub(crate) fn finish(self, alarm: mpsc::Sender<Alarm>) {
        in_background(alarm, move || {
            let accounts = each(self.0, SourceBuffer::finish)?;
            Ok(Alarm::SourceClosed(source_frames(&accounts)))
        });
    }

    /// Abort, first half.
    pub(crate) fn shut_for_abort(&mut self) -> Result<(), Error> {
        self.0.iter_mut().try_for_each(SourceBuffer::shut_for_abort)
    }

    /// Abort, second half.
    pub(crate) async fn put_back(self) -> Result<SourceFrames, Error> {
        let done = tokio::task::spawn_blocking(move || each(self.0, SourceBuffer::put_back)).await;
        Ok(source_frames(&done.expect("putting frames back does not panic")?))
    }
}

/// The target's buffers of a VM, by NIC index.
#[derive(Debug)]
pub(crate) struct TargetBuffers(Vec<TargetBuffer>);

impl TargetBuffers {
    /// Step 4.
    pub(crate) fn open(
        config: &Config,
        record: &Record,
        taps: &Taps,
        alarm: mpsc::Sender<Alarm>,
    ) -> Result<Self, Error> {
        let ends = Ends {
            config,
            record,
            alarm,
        };
        let open = |(nic, tap)| TargetBuffer::open(ends.target(nic, 0), tap, ends.events());
        taps.0
            .iter()
            .enumerate()
            .map(open)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Goes on where a killed agent left off, at the same addresses.
    pub(crate) fn resume(
        config: &Config,
        record: &Record,
        taps: &Taps,
        alarm: mpsc::Sender<Alarm>,
    ) -> Result<Self, Error> {
        let ends = Ends {
            config,
            record,
            alarm,
        };
        let port = |nic: usize| record.tunnels.get(nic).map_or(0, SocketAddr::port);
        let resume = |(nic, tap)| TargetBuffer::resume(ends.target(nic, port(nic)), tap, ends.events());
        taps.0
            .iter()
            .enumerate()
            .map(resume)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(TargetBuffer::address).collect()
    }

    /// Step 8, the guest running.
    pub(crate) fn activate(&mut self) -> Result<(WallMicros, WallMicros), Error> {
        let mut instants = (WallMicros(0), WallMicros(0));
        for buffer in &mut self.0 {
            let (injected_at, announced_at) = buffer.activate()?;
            instants = (instants.0.max(injected_at), instants.1.max(announced_at));
        }
        Ok(instants)
    }

    /// Step 9, on a thread of its own.
    pub(crate) fn finish(self, alarm: mpsc::Sender<Alarm>) {
        in_background(alarm, move || {
            let accounts = each(self.0, TargetBuffer::finish)?;
            Ok(Alarm::TargetClosed(target_frames(&accounts)))
        });
    }
}

fn each<B: Send, A: Send>(buffers: Vec<B>, work: fn(B) -> Result<A, Error>) -> Result<Vec<A>, Error> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = buffers
            .into_iter()
            .map(|buffer| scope.spawn(move || work(buffer)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a buffer's last step does not panic"))
            .collect()
    })
}

fn in_background(alarm: mpsc::Sender<Alarm>, work: impl FnOnce() -> Result<Alarm, Error> + Send + 'static) {
    tokio::task::spawn_blocking(move || {
        let told = work().unwrap_or_else(|error| {
            Alarm::Fault(Fault {
                kind: FaultKind::Network,
                reason: crate::vm::chain(&error),
                hint: None,
            })
        });
        // The VM may have been destroyed meanwhile; then nobody waits for this.
        let _ = alarm.blocking_send(told);
    });
}

fn source_frames(accounts: &[SourceAccount]) -> SourceFrames {
    let mut frames = SourceFrames::default();
    for account in accounts {
        frames.captured += account.captured;
        frames.bytes += Bytes(account.bytes);
        frames.broadcast += account.broadcast;
        frames.own_echo += account.own_echo;
        frames.dropped += account.dropped;
        frames.put_back += account.put_back;
        frames.peak += Bytes(account.peak_bytes);
        // One NIC without a marker is enough to promise less.
        frames.old_path = match (frames.old_path, account.old_path) {
            (Some(message::OldPath::Lingered), _) | (_, Some(OldPath::Lingered)) => {
                Some(message::OldPath::Lingered)
            }
            (before, None) => before,
            (_, Some(OldPath::Marker)) => Some(message::OldPath::Marker),
        };
        frames.last_sent_at = frames.last_sent_at.max(account.last_sent_us.map(WallMicros));
    }
    frames
}

fn target_frames(accounts: &[TargetAccount]) -> TargetFrames {
    let mut frames = TargetFrames::default();
    for account in accounts {
        frames.delivered += account.delivered;
        frames.broadcast += account.broadcast;
        frames.duplicated += account.duplicated;
        frames.reordered += account.reordered;
        frames.late += account.late;
        frames.dropped += account.dropped;
        frames.peak += Bytes(account.peak_bytes);
        let first = account.first_sent_us.map(WallMicros);
        frames.first_sent_at = match (frames.first_sent_at, first) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tap_names_fit_the_kernel_and_differ() {
        let long = "x".repeat(40);
        let names: Vec<String> = ["vm1", "vm2", &long]
            .iter()
            .map(|name| tap_name(&name.parse().unwrap(), 12))
            .collect();
        assert!(names.iter().all(|name| name.len() <= 15), "{names:?}");
        assert_ne!(names[0], names[1]);
    }
}
