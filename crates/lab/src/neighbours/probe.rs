//! The probes of those who stay: in a guest, and between the hosts themselves.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use transhume_guest::latency::{Answerer, Answers, Asker, PORT};
use transhume_guest::wire::{Op, Outcome, ProbeStats};
use transhume_model::VmName;

use crate::state::{HostState, Lab};
use crate::{Channel, LabError, Namespace};

/// The guest stays where it is; its answer may be long.
const CALL_LIMIT: Duration = Duration::from_secs(60);

/// How often is asked and read, times a second.
#[derive(Debug, Clone, Copy)]
pub struct AskRates {
    /// Questions.
    pub asks: u32,
    /// Reads of the disk.
    pub reads: u32,
}

/// A guest that asks another and reads its disk.
#[derive(Debug)]
pub struct GuestProbe {
    channel: Channel,
    vm: VmName,
}

impl GuestProbe {
    /// Has the guest called `vm` ask the one called `peer`.
    pub async fn start(lab: &Lab, vm: &str, peer: &str, rates: AskRates) -> Result<Self, LabError> {
        let own = lab.vm(vm)?;
        let probe = GuestProbe {
            channel: Channel::new(lab, own),
            vm: own.name.clone(),
        };
        let op = Op::ProbeStart {
            peer: lab.vm(peer)?.ip,
            asks_per_s: rates.asks,
            reads_per_s: rates.reads,
        };
        match probe.channel.call(op, CALL_LIMIT).await?.outcome {
            Outcome::ProbeStarted => Ok(probe),
            other => Err(probe.said(&other)),
        }
    }

    /// Ends it; what the guest saw.
    pub async fn end(self) -> Result<ProbeStats, LabError> {
        match self.channel.call(Op::ProbeEnd, CALL_LIMIT).await?.outcome {
            Outcome::Probe(stats) => Ok(stats),
            other => Err(self.said(&other)),
        }
    }

    fn said(&self, outcome: &Outcome) -> LabError {
        LabError::Guest {
            vm: self.vm.to_string(),
            said: format!("answered {outcome:?} to a probe"),
        }
    }
}

/// A host that asks another, each from its address in CT: the same class as their guests' frames,
/// without the guests.
#[derive(Debug)]
pub struct HostProbe {
    asker: Asker,
    _answerer: Answerer,
}

impl HostProbe {
    /// Has host `from` ask host `to`, so many times a second.
    pub fn start(from: &HostState, to: &HostState, asks_per_s: u32) -> Result<Self, LabError> {
        let failed = |source| LabError::Start {
            program: format!("a probe from {} to {}", from.name, to.name),
            source,
        };
        let bound = |host: &HostState, address: Ipv4Addr, port: u16| {
            Namespace::named(&host.namespace).run(|| UdpSocket::bind((address, port)).map_err(failed))
        };
        let answerer = Answerer::start(bound(to, to.ct, PORT)?).map_err(failed)?;
        let asker = Asker::start(
            bound(from, from.ct, 0)?,
            SocketAddrV4::new(to.ct, PORT),
            asks_per_s,
        );
        Ok(HostProbe {
            asker: asker.map_err(failed)?,
            _answerer: answerer,
        })
    }

    /// Ends it.
    pub fn end(self) -> Answers {
        self.asker.end()
    }
}
