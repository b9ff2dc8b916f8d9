//! What QEMU reports by itself: its end, its run state, its passes over the guest's memory.

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use transhume_agent_core::limits::ROUNDS_MIN;
use transhume_agent_core::{Input, RunState};
use transhume_qemu::{QmpEvent, Vm, VmPaths};

use crate::logs::ShortLogs;

/// Events after which QEMU is asked for its run state: what an event says may be over when it is
/// read.
const RUN_STATE_EVENTS: [&str; 5] = ["STOP", "RESUME", "RESET", "BLOCK_IO_ERROR", "GUEST_PANICKED"];

/// Watches one QEMU; dropping it ends the watch.
#[derive(Debug)]
pub(super) struct Watch {
    /// The number of the pass over memory that began last.
    pass: watch::Receiver<u64>,
    task: JoinHandle<()>,
    _logs: ShortLogs,
}

impl Watch {
    /// From now on.
    pub(super) fn start(vm: &Vm, paths: &VmPaths, inputs: mpsc::Sender<Input>) -> Self {
        // Subscribed before whoever asks for the run state next.
        let events = vm.events();
        let (publish, pass) = watch::channel(0);
        let watcher = Watcher {
            vm: vm.clone(),
            last_words: paths.stderr().display().to_string(),
            inputs,
            pass: publish,
        };
        let task = tokio::spawn(watcher.run(events));
        let _logs = ShortLogs::of(paths);
        Self { pass, task, _logs }
    }

    /// Resolves when so many more passes have begun; never where QEMU is gone.
    pub(super) async fn more_passes(&mut self, passes: u64) {
        let now = *self.pass.borrow_and_update();
        if self.pass.wait_for(|pass| *pass >= now + passes).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Watcher {
    vm: Vm,
    last_words: String,
    inputs: mpsc::Sender<Input>,
    pass: watch::Sender<u64>,
}

impl Watcher {
    async fn run(self, mut events: tokio::sync::broadcast::Receiver<QmpEvent>) {
        loop {
            let event = tokio::select! {
                biased;
                () = self.vm.died() => {
                    let why = format!("its last words are in {}", self.last_words);
                    return self.tell(Input::Died { why }).await;
                }
                event = events.recv() => event,
            };
            match event {
                Ok(event) => self.heed(&event).await,
                Err(RecvError::Lagged(_)) => self.tell_run_state().await,
                // The end of the process is what matters.
                Err(RecvError::Closed) => self.vm.died().await,
            }
        }
    }

    async fn heed(&self, event: &QmpEvent) {
        match event.name.as_str() {
            "MIGRATION_PASS" => {
                let Some(pass) = event.data["pass"].as_u64() else {
                    return;
                };
                self.pass.send_replace(pass);
                // Later ones come every few milliseconds while the stream is held; the looks by
                // time see those.
                if pass == ROUNDS_MIN {
                    self.tell(Input::PassBegan).await;
                }
            }
            "SHUTDOWN" if event.data["guest"] == true => self.tell(Input::PoweredOff).await,
            name if RUN_STATE_EVENTS.contains(&name) => self.tell_run_state().await,
            _ => {}
        }
    }

    async fn tell_run_state(&self) {
        // One that cannot be asked has ended, or is asked again with the next event.
        if let Ok(run) = self.vm.query_status().await {
            self.tell(Input::RunState(run_state(&run))).await;
        }
    }

    async fn tell(&self, input: Input) {
        // The task may have ended meanwhile; then nobody needs to know.
        let _ = self.inputs.send(input).await;
    }
}

/// QEMU's run state in the machine's words.
pub(crate) fn run_state(run: &transhume_qemu::RunState) -> RunState {
    use transhume_qemu::RunState as Found;
    match run {
        // A guest that sleeps by itself is stopped and continued like one that runs.
        Found::Running | Found::Suspended => RunState::Running,
        Found::Paused | Found::Watchdog => RunState::Paused,
        Found::Prelaunch => RunState::Prelaunch,
        Found::Inmigrate => RunState::InMigrate,
        Found::FinishMigrate => RunState::FinishMigrate,
        Found::Postmigrate => RunState::PostMigrate,
        Found::IoError => RunState::DiskError,
        Found::GuestPanicked | Found::InternalError => RunState::Panicked,
        Found::Shutdown => RunState::Shutdown,
        // Debuggers and snapshots: stopped by somebody who will let it go on.
        Found::Other(_) => RunState::Paused,
    }
}
