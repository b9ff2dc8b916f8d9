//! What is so now: hosts, clusters, moves under way.

use transhume_api::{ClusterStage, VmLife};
use transhume_metrics::{Samples, coordinator as names};
use transhume_model::{Capacity, HostName};
use transhume_protocol::message::{BandsState, HostState};
use transhume_protocol::migration::Now;
use transhume_protocol::report::WaitReason;
use transhume_protocol::step::{Phase, Step};

use super::word;
use crate::clusters::Clusters;
use crate::hosts::Hosts;
use crate::moves::Moves;
use crate::views;

const US_PER_S: f64 = 1_000_000.0;
const BYTES_PER_MIB: f64 = 1_048_576.0;
const MICROS_PER_SECOND: f64 = 1e6;

/// Where it is read.
pub(crate) struct State<'a> {
    pub(crate) hosts: &'a Hosts,
    pub(crate) clusters: &'a Clusters,
    pub(crate) moves: &'a Moves,
    pub(crate) now: Now,
}

impl State<'_> {
    /// Of every set of labels that is known there is a value: a line that goes away is not 0.
    pub(super) fn show(&self, samples: &mut Samples) {
        for host in self.hosts.names() {
            self.show_host(samples, host);
        }
        self.show_clusters(samples);
        self.show_moves(samples);
    }

    fn show_host(&self, samples: &mut Samples, host: &HostName) {
        let name = [host.as_str()];
        let connected = self.hosts.is_connected(host);
        samples.set(&names::HOST_CONNECTED, name, f64::from(u8::from(connected)));
        for life in VmLife::ALL {
            samples.add(&names::HOST_VMS, [host.as_str(), life.name()], 0.0);
        }
        if let Some(clock) = self.hosts.clock(host, self.now.mono) {
            samples.set(&names::HOST_CLOCK_OFFSET, name, clock.offset_us as f64 / US_PER_S);
            let uncertainty = clock.uncertainty_us as f64 / US_PER_S;
            samples.set(&names::HOST_CLOCK_UNCERTAINTY, name, uncertainty);
        }
        if let Some(state) = self.hosts.state(host) {
            show_state(samples, name, state);
        }
    }

    fn show_clusters(&self, samples: &mut Samples) {
        for stage in [ClusterStage::Starting, ClusterStage::Live, ClusterStage::Ending] {
            samples.add(&names::CLUSTERS, [&word(&stage)], 0.0);
        }
        for cluster in self.clusters.all() {
            samples.add(&names::CLUSTERS, [&word(&cluster.stage)], 1.0);
            for placed in &cluster.spec.vms {
                let life = views::life(placed, self.hosts).name();
                samples.add(&names::HOST_VMS, [placed.host.as_str(), life], 1.0);
            }
        }
    }

    fn show_moves(&self, samples: &mut Samples) {
        samples.add(&names::MOVES_RUNNING, [], 0.0);
        for step in Step::ALL {
            samples.add(&names::MOVES_IN_STEP, [&word(&step)], 0.0);
        }
        for phase in Phase::ALL {
            samples.add(&names::MOVING_VMS, [phase.name()], 0.0);
        }
        for why in ["in-flight", "backing-off", "not-connected"] {
            samples.add(&names::ORDERS_WAITING, [why], 0.0);
        }
        for (step, report) in self.moves.under_way(self.now) {
            samples.add(&names::MOVES_RUNNING, [], 1.0);
            samples.add(&names::MOVES_IN_STEP, [&word(&step)], 1.0);
            for vm in &report.vms {
                samples.add(&names::MOVING_VMS, [vm.phase.name()], 1.0);
            }
            for wait in &report.waiting {
                samples.add(&names::ORDERS_WAITING, [why(&wait.why)], 1.0);
            }
        }
    }
}

fn why(reason: &WaitReason) -> &'static str {
    match reason {
        WaitReason::InFlight => "in-flight",
        WaitReason::BackingOff { .. } => "backing-off",
        WaitReason::Decision { .. } => "decision",
        WaitReason::NotConnected { .. } => "not-connected",
    }
}

/// As the host reported it last, also while its agent is away.
fn show_state(samples: &mut Samples, name: [&str; 1], state: &HostState) {
    let capacities = [
        (&names::HOST_VCPUS, &names::HOST_MEMORY, state.capacity),
        (&names::HOST_VCPUS_FREE, &names::HOST_MEMORY_FREE, state.free),
    ];
    for (vcpus_of, memory_of, Capacity { vcpus, memory }) in capacities {
        samples.set(vcpus_of, name, vcpus.0 as f64);
        samples.set(memory_of, name, memory.0 as f64 * BYTES_PER_MIB);
    }
    samples.set(&names::HOST_STRANDED, name, state.stranded.len() as f64);
    let insecure = f64::from(u8::from(state.insecure));
    samples.set(&names::HOST_INSECURE, name, insecure);
    if let Some(certificate) = &state.certificate {
        let until = certificate.until.0 as f64 / MICROS_PER_SECOND;
        samples.set(&names::HOST_CERTIFICATE_UNTIL, name, until);
    }
    let Some(BandsState {
        vmct,
        put_back,
        trouble,
    }) = &state.bands
    else {
        return;
    };
    if let Some(rates) = vmct {
        let (guaranteed, ceiling) = (rates.guaranteed.bytes_per_s(), rates.ceiling.bytes_per_s());
        samples.set(&names::HOST_VMCT_GUARANTEED, name, guaranteed as f64);
        samples.set(&names::HOST_VMCT_CEILING, name, ceiling as f64);
    }
    samples.set(&names::HOST_BANDS_PUT_BACK, name, *put_back as f64);
    let troubled = f64::from(u8::from(trouble.is_some()));
    samples.set(&names::HOST_BANDS_TROUBLE, name, troubled);
}
