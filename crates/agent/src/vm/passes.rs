//! QEMU's passes over a guest's memory, as it tells of them itself (event `MIGRATION_PASS`, QEMU's `migration/ram.c`).

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use transhume_qemu::Vm;

use crate::nics::Alarm;

/// Passes before a prediction is believed: the first copies everything, the second what it missed.
pub(super) const ROUNDS_MIN: u64 = 2;

/// The number of the pass that began last; dropping it ends the watch.
#[derive(Debug)]
pub(super) struct Passes {
    latest: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Passes {
    /// From now on; the VM's task is told when the pass begins from which predictions are believed.
    pub fn watch(vm: &Vm, alarm: mpsc::Sender<Alarm>) -> Self {
        let mut events = vm.events();
        let (tell, latest) = watch::channel(0);
        let task = tokio::spawn(async move {
            loop {
                let event = match events.recv().await {
                    Ok(event) => event,
                    // The looks that the task takes anyway make up for it.
                    Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return,
                };
                let pass = event.data.get("pass").and_then(|pass| pass.as_u64());
                if let Some(pass) = pass.filter(|_| event.name == "MIGRATION_PASS") {
                    tell.send_replace(pass);
                    if pass == ROUNDS_MIN && alarm.send(Alarm::Look).await.is_err() {
                        return;
                    }
                }
            }
        });
        Self { latest, task }
    }

    /// Resolves when so many more have begun; never where QEMU is gone.
    pub async fn more(&mut self, passes: u64) {
        let now = *self.latest.borrow_and_update();
        if self.latest.wait_for(|pass| *pass >= now + passes).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Passes {
    fn drop(&mut self) {
        self.task.abort();
    }
}
