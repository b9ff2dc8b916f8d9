//! All NICs of one VM together: its taps and its two kinds of buffers; one marker, one FIN, one
//! order of frames per NIC (design §3).

mod source;
mod taps;
mod target;
mod traces;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;
use transhume_agent_core::{Input, Trouble};
use transhume_model::{Bytes, Endpoint, Epoch, NicIndex, VmName, VmSpec};
use transhume_netbuf::limits::PLUG_BYTES_MAX;
use transhume_netbuf::{Error, Event, Events, NicIdentity, SourceConfig, TargetConfig};
use transhume_protocol::message::FaultKind;
use transhume_trust::{Security, draw_secret};

pub(crate) use self::source::{SourceBuffers, TakenAs};
pub(crate) use self::taps::Taps;
pub(crate) use self::target::TargetBuffers;
pub(crate) use self::traces::prepare as prepare_traces;
use crate::config::Config;

/// Which side's buffers a file belongs to.
#[derive(Debug, Clone, Copy)]
enum Side {
    Source,
    Target,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Source => "source",
            Side::Target => "target",
        }
    }
}

/// What the buffers of a VM's NICs have in common on both sides.
pub(crate) struct Ends<'a> {
    pub(crate) config: &'a Config,
    pub(crate) security: &'a Security,
    pub(crate) spec: &'a VmSpec,
    pub(crate) epoch: Epoch,
    pub(crate) inputs: &'a mpsc::Sender<Input>,
}

impl Ends<'_> {
    fn identity(&self, nic: usize) -> NicIdentity {
        NicIdentity {
            vm: self.spec.name.clone(),
            nic: NicIndex(nic as u8),
            mac: self.spec.nics[nic].mac,
            epoch: self.epoch,
        }
    }

    fn source(&self, nic: usize) -> SourceConfig {
        SourceConfig {
            identity: self.identity(nic),
            mtu: self.spec.nics[nic].mtu,
            spool: spool(self.config, &self.spec.name, Side::Source, nic),
            buffer_bytes_max: self.config.buffer_bytes_max.0,
            plug_bytes_max: PLUG_BYTES_MAX,
            traced: self.config.buffer_traces.is_some(),
            security: self.security.clone(),
        }
    }

    /// One that is resumed has the end that it had.
    fn target(&self, nic: usize, before: Option<&Endpoint>) -> TargetConfig {
        TargetConfig {
            identity: self.identity(nic),
            mtu: self.spec.nics[nic].mtu,
            spool: spool(self.config, &self.spec.name, Side::Target, nic),
            buffer_bytes_max: self.config.buffer_bytes_max.0,
            plug_bytes_max: PLUG_BYTES_MAX,
            traced: self.config.buffer_traces.is_some(),
            listen: self.config.listen.ct,
            port: before.map_or(0, |end| end.address.port()),
            host: self.config.host.clone(),
            secret: before.map_or_else(draw_secret, |end| end.secret.clone()),
            security: self.security.clone(),
        }
    }

    /// Buffers report on their own threads; the VM's task hears them through its queue.
    fn events(&self) -> Events {
        let inputs = self.inputs.clone();
        let (vm, limit) = (self.spec.name.clone(), self.config.buffer_bytes_max);
        Arc::new(move |event| {
            let fault = trouble(&vm, limit, event).into_fault();
            // The queue is longer than the events of a move; a full one means that nobody listens
            // any more.
            let _ = inputs.try_send(Input::BufferFault(fault));
        })
    }
}

fn trouble(vm: &VmName, limit: Bytes, event: Event) -> Trouble {
    match event {
        Event::LimitReached { bytes } => Trouble::failed(
            FaultKind::BufferLimit,
            format!("the network buffer of VM {vm} holds {bytes} bytes, its limit is {limit}"),
        ),
        Event::TunnelBroken { why } => {
            Trouble::failed(FaultKind::Tunnel, format!("the tunnel of VM {vm} broke: {why}"))
        }
        Event::Broken { what } => Trouble::failed(
            FaultKind::Network,
            format!("the network buffer of VM {vm}: {what}"),
        ),
    }
}

fn spool(config: &Config, vm: &VmName, side: Side, nic: usize) -> PathBuf {
    let name = format!("{}-{vm}-{}-{nic}.spool", config.host, side.name());
    config.spool_dir.join(name)
}

/// Whether what a source captured by each of its NICs is there.
pub(crate) fn has_spools(config: &Config, vm: &VmSpec) -> bool {
    let mut nics = 0..vm.nics.len();
    nics.all(|nic| spool(config, &vm.name, Side::Source, nic).exists())
}

/// Removes the frames that are kept of a VM which has no buffers any more.
pub(crate) fn remove_spools(config: &Config, vm: &VmName) {
    for side in [Side::Source, Side::Target] {
        for nic in 0..transhume_qemu::NICS_MAX {
            remove_file(&spool(config, vm, side, nic));
        }
    }
}

/// Removes a file of no more use; one that stays is only logged.
pub(crate) fn remove_file(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), "stays behind: {error}");
        }
        _ => {}
    }
}

/// Does something to the buffers of all NICs at once; a single one needs no thread for it.
fn each<B: Send, A: Send>(
    buffers: &mut [B],
    work: impl Fn(&mut B) -> Result<A, Error> + Sync,
) -> Result<Vec<A>, Error> {
    if let [only] = buffers {
        return Ok(vec![work(only)?]);
    }
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| scope.spawn(move || work(buffer)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no step of a buffer panics"))
            .collect()
    })
}
