//! What all VMs of this agent share.

use std::sync::{Mutex, MutexGuard};

use transhume_agent_core::Trouble;
use transhume_bands::Bands;
use transhume_model::VmName;
use transhume_protocol::message::{FaultKind, QemuState};
use transhume_qemu::{Launcher, VmPaths};
use transhume_trust::Security;

use crate::bands::Keeper;
use crate::cgroup::Slice;
use crate::config::Config;
use crate::link::Reports;
use crate::marks;
use crate::page_stream::{PageShare, Pages, Secured};
use crate::reservations::Reservations;
use crate::store::Store;
use crate::throttle;
use crate::together::Together;

/// Configuration and means of one agent.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: Config,
    /// In the marks of this agent's taps.
    pub(crate) owner: String,
    pub(crate) store: Store,
    pub(crate) reports: Reports,
    pub(crate) pages: Pages,
    /// Why no guest can be slowed down here.
    pub(crate) no_throttle: Option<String>,
    /// Where its QEMUs have groups of their own.
    pub(crate) slice: Option<Slice>,
    /// Who is about to be stopped here.
    pub(crate) together: Together,
    bands: Option<Keeper>,
    launcher: Result<Launcher, String>,
    reservations: Mutex<Reservations>,
}

impl Context {
    pub(crate) fn new(
        config: Config,
        store: Store,
        launcher: Result<Launcher, String>,
        security: Security,
        bands: Option<Keeper>,
    ) -> Self {
        let mark = config.bands.as_ref().and_then(Bands::vmct_mark);
        Self {
            bands,
            owner: marks::owner(&config.host, &config.state_dir),
            pages: Pages {
                share: PageShare::new(config.pages.store_bytes_max),
                classes: config.pages.classes(),
                host: config.host.clone(),
                secured: Secured {
                    by_kernel: config.pages.kernel_tls && kernel_carries(&security),
                    security,
                    mark,
                },
            },
            reports: Reports::default(),
            slice: prepared_slice(),
            together: Together::default(),
            no_throttle: throttle::trouble(),
            reservations: Mutex::new(Reservations::new(config.capacity)),
            launcher,
            store,
            config,
        }
    }

    pub(crate) fn reservations(&self) -> MutexGuard<'_, Reservations> {
        locked(&self.reservations)
    }

    /// Files and sockets of a VM's QEMU.
    pub(crate) fn paths(&self, vm: &VmName) -> VmPaths {
        VmPaths::new(self.store.vm_dir(vm))
    }

    /// The host's bands, where they are configured.
    pub(crate) fn bands(&self) -> Option<&Keeper> {
        self.bands.as_ref()
    }

    /// What starts VMs here.
    pub(crate) fn launcher(&self) -> Result<&Launcher, Trouble> {
        self.launcher
            .as_ref()
            .map_err(|why| Trouble::failed(FaultKind::Qemu, why.clone()))
    }

    /// The usable QEMU, or why there is none.
    pub(crate) fn qemu(&self) -> Result<QemuState, String> {
        let launcher = self.launcher.as_ref().map_err(String::clone)?;
        Ok(QemuState {
            version: launcher.binary().version(),
            machines: launcher.binary().machines().to_vec(),
            accel: launcher.accel().name().to_owned(),
        })
    }
}

/// Whether the kernel can seal and open page streams.
fn kernel_carries(security: &Security) -> bool {
    if security.is_insecure() {
        return false;
    }
    match transhume_trust::probe_kernel() {
        Ok(()) => {
            tracing::info!("the kernel seals and opens page streams");
            true
        }
        Err(why) => {
            tracing::info!("this agent seals and opens page streams itself: {why}");
            false
        }
    }
}

fn prepared_slice() -> Option<Slice> {
    match Slice::prepare() {
        Ok(slice) => Some(slice),
        Err(why) => {
            tracing::info!("memory and threads of QEMUs are not limited: {why}");
            None
        }
    }
}

/// What a lock protects; a holder that panicked ends the agent's use of it.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}
