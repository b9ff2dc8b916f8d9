//! What a host puts into its link, read again and again while something moves.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use transhume_model::Band;
use transhume_netcfg::Netlink;

use super::Reading;
use crate::layout::Circuits;
use crate::meter::{Direction, class_bytes, device_bytes};
use crate::state::{HostState, Lab};
use crate::{LabError, Namespace};

const INTERVAL: Duration = Duration::from_millis(250);

/// Reads until it is ended.
#[derive(Debug)]
pub struct LinkWatch {
    enough: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<Reading>, LabError>>,
}

impl LinkWatch {
    /// Watches what VMCT sends on a host's link; all bands where nothing tells them apart.
    pub fn start(lab: &Lab, host: &HostState) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&enough);
        let (circuits, namespace) = (lab.state.circuits, host.namespace.clone());
        let thread = thread::spawn(move || {
            Namespace::named(&namespace).run(|| {
                watch(circuits, &told).map_err(|source| LabError::Namespace {
                    name: namespace.clone(),
                    action: "count the bytes of",
                    source,
                })
            })
        });
        LinkWatch { enough, thread }
    }

    /// What was read.
    pub fn end(self) -> Result<Vec<Reading>, LabError> {
        self.enough.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(readings) => readings,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn watch(circuits: Circuits, enough: &AtomicBool) -> io::Result<Vec<Reading>> {
    let device = circuits.carrying(Band::Vmct).host_device();
    let mut netlink = Netlink::open()?;
    let begun = Instant::now();
    let mut readings = Vec::new();
    loop {
        let over = enough.load(Ordering::Relaxed);
        let bytes = match circuits {
            Circuits::Shared => of_class(&mut netlink, &device)?,
            Circuits::Separate | Circuits::Undivided => {
                let devices = fs::read_to_string("/proc/thread-self/net/dev")?;
                device_bytes(&devices, Direction::Sent, |name| name == device)
            }
        };
        readings.push(Reading {
            at: begun.elapsed(),
            bytes,
        });
        if over {
            return Ok(readings);
        }
        thread::sleep(INTERVAL);
    }
}

fn of_class(netlink: &mut Netlink, device: &str) -> io::Result<u64> {
    let link = netlink.look_at(device)?.ok_or(io::ErrorKind::NotFound)?;
    let bytes = class_bytes(netlink, link.index)?;
    let vmct = Band::ALL
        .into_iter()
        .zip(bytes)
        .find(|(band, _)| *band == Band::Vmct);
    Ok(vmct.map_or(0, |(_, bytes)| bytes))
}
