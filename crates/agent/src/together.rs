//! VMs of one host that are captured at the same time stop at the same time.
//!
//! A batch stands still from its first stop until its last VM is loaded. What goes before a stop
//! (the held stream catches up, the guest empties its ring) takes each VM a time of its own, 3 to
//! 30 ms: whoever is through runs on until the others are, and the batch stands still for so much
//! less.
//!
//! ```text
//!  vm1  prepares ───────▶ ready · · · · · stop
//!  vm2    prepares ─────────────▶ ready · stop
//!  vm3    prepares ────────────────────▶ ready, stop
//! ```

use std::collections::HashMap;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use transhume_model::VmName;

use crate::limits::TOGETHER_MAX;

/// The VMs that prepare for their stop, and until when they are waited for: one whose capture is
/// given up needs not say so.
#[derive(Debug, Default)]
pub(crate) struct Together(watch::Sender<HashMap<VmName, Instant>>);

impl Together {
    /// From here on others wait for this VM, [`TOGETHER_MAX`] at most.
    pub(crate) fn prepares(&self, vm: &VmName) {
        let now = Instant::now();
        self.0.send_modify(|preparing| {
            preparing.retain(|_, until| *until > now);
            preparing.insert(vm.clone(), now + TOGETHER_MAX);
        });
    }

    /// Nobody waits for this VM any more. Returns when nobody is to be waited for.
    pub(crate) async fn ready(&self, vm: &VmName) {
        let mut changes = self.0.subscribe();
        self.0
            .send_if_modified(|preparing| preparing.remove(vm).is_some());
        loop {
            let until = changes.borrow_and_update().values().max().copied();
            match until {
                Some(until) if until > Instant::now() => {
                    // Whether somebody is ready or out of time: it is looked again.
                    let _ = timeout_at(until, changes.changed()).await;
                }
                Some(_) | None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    fn vm(name: &str) -> VmName {
        name.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn one_alone_waits_for_nobody() {
        let together = Together::default();
        let begun = Instant::now();
        together.prepares(&vm("a"));
        together.ready(&vm("a")).await;
        // One that is stopped as it is has prepared nothing.
        together.ready(&vm("b")).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn all_go_on_when_the_last_is_ready() {
        let together = Arc::new(Together::default());
        let begun = Instant::now();
        let waiting: Vec<_> = [("a", 3), ("b", 17), ("c", 9)]
            .into_iter()
            .map(|(name, ms)| {
                let together = together.clone();
                together.prepares(&vm(name));
                tokio::spawn(async move {
                    sleep(Duration::from_millis(ms)).await;
                    together.ready(&vm(name)).await;
                    begun.elapsed().as_millis()
                })
            })
            .collect();
        for ended in waiting {
            assert_eq!(ended.await.unwrap(), 17);
        }
    }

    /// A capture that ends in between leaves its VM here: others wait for it once, and not for
    /// long.
    #[tokio::test(start_paused = true)]
    async fn one_that_never_gets_ready_is_waited_for_so_long_and_once() {
        let together = Together::default();
        let begun = Instant::now();
        together.prepares(&vm("lost"));
        together.prepares(&vm("a"));
        together.ready(&vm("a")).await;
        assert_eq!(begun.elapsed(), TOGETHER_MAX);
        together.prepares(&vm("a"));
        together.ready(&vm("a")).await;
        assert_eq!(begun.elapsed(), TOGETHER_MAX);
        assert!(together.0.borrow().is_empty());
    }
}
