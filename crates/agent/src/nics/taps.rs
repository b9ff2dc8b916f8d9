//! The taps of a VM.

use std::os::fd::BorrowedFd;

use transhume_agent_core::{SpawnFor, tap_name};
use transhume_model::{NicIndex, VmSpec};
use transhume_netbuf::limits::{PLUG_BYTES_MAX, RING_FRAMES};
use transhume_netbuf::{Error, PlugState, Tap, TapConfig, TapMark};

use crate::config::Config;

/// By NIC index. Dropping them lets go of the descriptors; each link goes when QEMU is gone, too.
#[derive(Debug)]
pub(crate) struct Taps(Vec<Tap>);

impl Taps {
    /// Makes them: open for a guest that boots, shut until FIN for one that is to come.
    pub(crate) fn create(
        config: &Config,
        owner: &str,
        spec: &VmSpec,
        purpose: SpawnFor,
    ) -> Result<Self, Error> {
        let plug = match purpose {
            SpawnFor::Boot => PlugState::Open,
            SpawnFor::Incoming => PlugState::Shut,
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
                mark: TapMark {
                    owner: owner.to_owned(),
                    vm: spec.name.clone(),
                    nic: NicIndex(index as u8),
                },
            })
        };
        let taps = spec.nics.iter().enumerate().map(tap);
        Ok(Self(taps.collect::<Result<_, _>>()?))
    }

    /// Takes them out of a running QEMU.
    pub(crate) fn take(spec: &VmSpec, pid: u32) -> Result<Self, Error> {
        let tap = |(index, nic): (usize, &transhume_model::NicSpec)| {
            Tap::take(pid, &tap_name(&spec.name, index), nic.mtu, PLUG_BYTES_MAX)
        };
        let taps = spec.nics.iter().enumerate().map(tap);
        Ok(Self(taps.collect::<Result<_, _>>()?))
    }

    /// With their NIC's index.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Tap)> {
        self.0.iter().enumerate()
    }

    /// Bytes that each NIC's guest has been given.
    pub(crate) fn given_bytes(&self) -> Result<Vec<u64>, Error> {
        self.0.iter().map(Tap::given_bytes).collect()
    }

    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.0.iter().map(Tap::fd).collect()
    }
}
