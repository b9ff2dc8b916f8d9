//! What is simulated: hosts, VMs, batches, limits and faults.

use std::str::FromStr;

use transhume_model::{
    Boot, ClusterName, Epoch, HostName, Mac, Mebibytes, MigrationId, Millis, NicSpec, Vcpus, VmName, VmSpec,
};
use transhume_protocol::message::Mode;
use transhume_protocol::migration::{Limits, MoveRequest, MoveVm};

use crate::fault::{Fault, Weather};

/// One run to be made.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Every chance in the run comes from it.
    pub seed: u64,
    /// N(V): the VMs are `vm1` …, spread evenly.
    pub vms: usize,
    /// k: batches of this many.
    pub batch: usize,
    /// N(S1): the sources are `s1` ….
    pub sources: usize,
    /// N(S2): the targets are `t1` ….
    pub targets: usize,
    /// Live or offline.
    pub mode: Mode,
    /// Longest pause between two frames for one VM.
    pub frame_gap_micros_max: u64,
    /// One aimed fault.
    pub fault: Option<Fault>,
    /// Faults by chance.
    pub weather: Weather,
}

impl Scenario {
    /// `vms` VMs in batches of `batch` from two hosts to two, without faults.
    pub fn calm(seed: u64, vms: usize, batch: usize) -> Self {
        Scenario {
            seed,
            vms,
            batch,
            sources: 2,
            targets: 2,
            mode: Mode::Live,
            frame_gap_micros_max: 3_000,
            fault: None,
            weather: Weather::default(),
        }
    }

    pub(crate) fn request(&self) -> MoveRequest {
        let vms: Vec<MoveVm> = (0..self.vms)
            .map(|index| MoveVm {
                powered_off: false,
                spec: spec(index),
                source: host("s", index % self.sources),
                target: host("t", index % self.targets),
            })
            .collect();
        MoveRequest {
            migration: MigrationId(1),
            cluster: name("herd"),
            mode: self.mode,
            epoch: Epoch(1),
            from: (0..self.sources).map(|index| host("s", index)).collect(),
            to: (0..self.targets).map(|index| host("t", index)).collect(),
            batches: vms.chunks(self.batch).map(<[MoveVm]>::to_vec).collect(),
            limits: limits(),
            forecast: None,
        }
    }
}

/// Waits scaled to the simulation's delays of a few milliseconds, so that runs with time-outs stay short.
fn limits() -> Limits {
    Limits {
        reserve_ms_max: Millis(400),
        prepare_ms_max: Millis(400),
        start_pre_copy_ms_max: Millis(400),
        buffers_ms_max: Millis(400),
        pre_copy_ms_max: Millis(800),
        capture_ms_max: Millis(300),
        stop_and_copy_ms_max: Millis(300),
        activate_ms_max: Millis(200),
        close_ms_max: Millis(200),
        abort_ms_max: Millis(200),
        agent_lost_ms_max: Millis(0),
        retry_ms: Millis(10),
        retry_ms_max: Millis(100),
        blackout_ms_max: Millis(300),
    }
}

fn name<N: FromStr<Err = transhume_model::IdError>>(text: &str) -> N {
    text.parse().expect("the simulation's names are well-formed")
}

/// The VM with this index, from 0.
pub(crate) fn vm_name(index: usize) -> VmName {
    name(&format!("vm{}", index + 1))
}

fn host(side: &str, index: usize) -> HostName {
    name(&format!("{side}{}", index + 1))
}

fn spec(index: usize) -> VmSpec {
    let [.., c, d] = (index as u32).to_be_bytes();
    VmSpec {
        name: vm_name(index),
        cluster: name::<ClusterName>("herd"),
        vcpus: Vcpus(1),
        memory: Mebibytes(96),
        machine: None,
        nics: vec![NicSpec {
            mac: Mac::new([0x52, 0x54, 0, 0, c, d]).expect("a unicast address"),
            mtu: 1500,
        }],
        disks: Vec::new(),
        boot: Boot {
            kernel: "/boot/k".into(),
            initrd: "/boot/i".into(),
            cmdline: String::new(),
        },
    }
}
