//! Dirty rates in pre-migration (§2.2.2): all VMs at once, within one wait. What is not known by
//! then stays unknown; a move is never lost by a guest that does not answer.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;
use transhume_model::{Mebibytes, VmName};
use transhume_protocol::message::{DIRTY_RATE_MS_MAX, DirtyRate};
use transhume_qemu::Vm;

use crate::text::chain;

/// Measures every VM; `vms` pairs each with its memory.
pub(crate) async fn measure(vms: Vec<(Vm, Mebibytes)>) -> BTreeMap<VmName, DirtyRate> {
    let limit = Duration::from_millis(DIRTY_RATE_MS_MAX.0);
    let mut tasks = JoinSet::new();
    for (vm, memory) in vms {
        tasks.spawn(async move { (vm.name().clone(), vm.dirty_rate(memory, limit).await) });
    }
    let mut rates = BTreeMap::new();
    for (vm, measured) in tasks.join_all().await {
        match measured {
            Ok(rate) => {
                let rate = DirtyRate {
                    per_second: rate.per_second,
                    sampled_pages: rate.sampled_pages,
                };
                rates.insert(vm, rate);
            }
            Err(error) => tracing::warn!(%vm, "its dirty rate stays unknown: {}", chain(&error)),
        }
    }
    rates
}
