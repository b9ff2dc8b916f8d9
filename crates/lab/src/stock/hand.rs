//! A batch moved by hand: k plain QEMUs stopped, saved, loaded and resumed together over QMP, with
//! nothing of ours in their way. The floor of a batch's blackout on this machine.
//!
//! ```text
//!  migrate ─▶ converged, held (no ack comes) ─all─▶ caught up ─all─▶ stop ─▶ pre-switchover
//!                                           cont ◀─all─ loaded ◀─ migrate-continue ◀─┘
//! ```

use std::time::Duration;

use futures::future::{join_all, try_join_all};
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::time::{Instant, sleep};
use transhume_model::VmName;
use transhume_qemu::{MigrationStatus, Qmp, QmpError, QmpEvent};

use crate::LabError;
use crate::state::Lab;
use crate::stock::parts::{HandMove, ms};
use crate::stock::vm::{Expected, MIGRATION_LIMIT, StockVm};
use crate::stock::watch::{event, late, look, named, now, stock};

/// Looks for dirty pages after which the first pass is over.
const LOOKS_MIN: u64 = 2;
/// Memory that may be left in a copy that has converged, bytes: some milliseconds of sending.
const LEFT_BYTES_MAX: u64 = 1 << 20;
/// A stream's limit while its copy is held: less than a look sends, even one that finds nothing, so
/// each waits for the next tenth of a second. QEMU takes 0 for no limit.
const HELD_BYTES_PER_S: u64 = 300;
/// Between two looks at a copy that converges, and at a source whose target loads.
const POLL: Duration = Duration::from_millis(10);
/// Between two looks at a stopped guest's last memory: what the blackout may grow by them.
const POLL_STOPPED: Duration = Duration::from_millis(1);
/// Longest time for what became dirty while a copy was held.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(20);
/// Longest time for the last memory of a stopped guest.
const MEMORY_LIMIT: Duration = Duration::from_secs(20);
/// Longest time for the device state.
const STATE_LIMIT: Duration = Duration::from_secs(20);
/// Longest time from `cont` to `RESUME`, and from there to the source's end.
const RESUME_LIMIT: Duration = Duration::from_secs(10);
/// Longest time until a cancelled migration has ended.
const CANCEL_LIMIT: Duration = Duration::from_secs(10);

/// One VM of the batch on its way.
struct Side<'a> {
    name: &'a VmName,
    source: &'a Qmp,
    there: &'a Expected,
    stops: Receiver<QmpEvent>,
    loads: Receiver<QmpEvent>,
    resumes: Receiver<QmpEvent>,
}

/// A VM that is loaded and stands still.
struct Loaded {
    stopped: u64,
    continued: u64,
    loaded: u64,
}

/// Why a batch did not arrive.
pub enum Trouble {
    /// No target was told to run: the batch can be undone.
    Before(LabError),
    /// Targets may run: their sources must not.
    After(LabError),
}

/// Moves a batch. After an error nothing of it is undone yet.
pub async fn move_batch(vms: &[StockVm], there: &[Expected]) -> Result<Vec<HandMove>, Trouble> {
    let mut sides: Vec<Side<'_>> = vms.iter().zip(there).map(Side::of).collect();
    let loaded = load_all(&mut sides).await.map_err(Trouble::Before)?;
    // The batch is loaded: the one instant at which all may run.
    run_all(&mut sides, loaded).await.map_err(Trouble::After)
}

/// Takes back a batch that did not arrive: its targets end, its sources run on. What it was undone
/// for; and what could not be undone, if anything.
pub async fn undo(lab: &Lab, vms: &[StockVm], there: Vec<Expected>, trouble: Trouble) -> LabError {
    let cause = match trouble {
        Trouble::Before(cause) => cause,
        Trouble::After(cause) => return cause,
    };
    let begun = &vms[..there.len()];
    // Every target first: none may run, or hold a disk, when its source does.
    let ended: Vec<_> = begun
        .iter()
        .zip(there)
        .map(|(vm, there)| there.end(lab, vm.index))
        .collect();
    let run_again = join_all(begun.iter().map(run_again)).await;
    let undone: Result<(), LabError> = ended.into_iter().chain(run_again).collect();
    match undone {
        Ok(()) => cause,
        Err(source) => LabError::NotUndone {
            cause: Box::new(cause),
            source: Box::new(source),
        },
    }
}

async fn run_again(vm: &StockVm) -> Result<(), LabError> {
    let failed = |source: QmpError| stock(&vm.spec.name, source.into());
    let cancel = vm.qmp.execute("migrate_cancel", json!({}));
    cancel.await.map_err(failed)?;
    let deadline = Instant::now() + CANCEL_LIMIT;
    loop {
        let seen: Value = vm.qmp.query("query-migrate").await.map_err(failed)?;
        let status = serde_json::from_value::<MigrationStatus>(seen["status"].clone());
        if !status.is_ok_and(MigrationStatus::is_under_way) {
            break;
        }
        if Instant::now() > deadline {
            return Err(late(
                &vm.spec.name,
                "the end of a cancelled migration",
                CANCEL_LIMIT,
            ));
        }
        sleep(POLL).await;
    }
    vm.qmp.execute("cont", json!({})).await.map_err(failed)?;
    Ok(())
}

async fn load_all(sides: &mut [Side<'_>]) -> Result<Vec<Loaded>, LabError> {
    try_join_all(sides.iter().map(Side::converge)).await?;
    try_join_all(sides.iter().map(Side::catch_up)).await?;
    try_join_all(sides.iter_mut().map(Side::switch)).await
}

async fn run_all(sides: &mut [Side<'_>], loaded: Vec<Loaded>) -> Result<Vec<HandMove>, LabError> {
    let running = try_join_all(sides.iter_mut().map(Side::resume)).await?;
    let completed = try_join_all(sides.iter().map(|side| {
        let wanted = MigrationStatus::Completed;
        side.reach(wanted, "its source's end", RESUME_LIMIT, POLL)
    }))
    .await?;
    let first = loaded.iter().map(|vm| vm.stopped).min().unwrap_or(0);
    let last = running.iter().map(|[_, running, _]| *running).max().unwrap_or(0);
    let moves = sides.iter().zip(loaded).zip(running).zip(completed);
    let moves = moves.map(
        |(((side, at), [told, running, answered]), source_completed)| HandMove {
            vm: side.name.clone(),
            stopped: at.stopped,
            continued: at.continued,
            loaded: at.loaded,
            told,
            running,
            answered,
            source_completed,
            batch_ms: ms(first, last),
        },
    );
    Ok(moves.collect())
}

impl<'a> Side<'a> {
    fn of((vm, there): (&'a StockVm, &'a Expected)) -> Self {
        Side {
            name: &vm.spec.name,
            source: &vm.qmp,
            there,
            stops: vm.qmp.events(),
            loads: there.qmp.events(),
            resumes: there.qmp.events(),
        }
    }

    /// Sends its memory until little is left; QEMU keeps it so, for no ack comes. Until the others
    /// are there it looks for dirty pages ten times a second and not thousands: what it would send
    /// again and again waits in the socket when its guest is stopped, and takes the processor from
    /// those that are not there yet.
    async fn converge(&self) -> Result<(), LabError> {
        self.order(self.source, "migrate", self.there.channels.clone())
            .await?;
        self.until_left(LOOKS_MIN, LEFT_BYTES_MAX, "convergence", MIGRATION_LIMIT)
            .await?;
        self.limit_bandwidth(HELD_BYTES_PER_S).await
    }

    /// Sends what became dirty while it was held: two more looks, as little before the stop as can
    /// be, for a stream that waits for its limit would wait after the stop as well.
    async fn catch_up(&self) -> Result<(), LabError> {
        let looks = self.looked_and_left().await?.0 + LOOKS_MIN;
        self.limit_bandwidth(0).await?;
        self.until_left(
            looks,
            LEFT_BYTES_MAX,
            "the last look before its stop",
            CATCH_UP_LIMIT,
        )
        .await
    }

    async fn limit_bandwidth(&self, bytes_per_s: u64) -> Result<(), LabError> {
        let limit = json!({"max-bandwidth": bytes_per_s});
        self.order(self.source, "migrate-set-parameters", limit).await
    }

    /// Waits until its source has looked for dirty pages so often, and has so little left.
    async fn until_left(
        &self,
        looks: u64,
        bytes_max: u64,
        what: &str,
        limit: Duration,
    ) -> Result<(), LabError> {
        let deadline = Instant::now() + limit;
        loop {
            let (looked, left) = self.looked_and_left().await?;
            if looked >= looks && left <= bytes_max {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(late(self.name, what, limit));
            }
            sleep(POLL).await;
        }
    }

    /// How often the source looked for dirty pages, and bytes left then; before the first look
    /// everything is.
    async fn looked_and_left(&self) -> Result<(u64, u64), LabError> {
        let seen = look(self.name, self.source).await?;
        let number = |name: &str| seen["ram"][name].as_u64();
        Ok((
            number("dirty-sync-count").unwrap_or(0),
            number("remaining").unwrap_or(u64::MAX),
        ))
    }

    /// Stops it, saves it and loads it.
    async fn switch(&mut self) -> Result<Loaded, LabError> {
        self.order(self.source, "stop", json!({})).await?;
        let stopped = named(self.name, &mut self.stops, "STOP", MEMORY_LIMIT).await?;
        let wanted = MigrationStatus::PreSwitchover;
        let continued = self
            .reach(wanted, "its last memory", MEMORY_LIMIT, POLL_STOPPED)
            .await?;
        let state = json!({"state": wanted.name()});
        self.order(self.source, "migrate-continue", state).await?;
        let loaded = self.load().await?;
        Ok(Loaded {
            stopped,
            continued,
            loaded,
        })
    }

    /// Waits until the target has loaded it. A source that failed in the meantime ends the wait.
    async fn load(&mut self) -> Result<u64, LabError> {
        let (name, source) = (self.name, self.source);
        let completed = |event: &QmpEvent| {
            event.name == "MIGRATION" && event.data["status"] == MigrationStatus::Completed.name()
        };
        let failed = async {
            loop {
                sleep(POLL).await;
                if let Err(error) = look(name, source).await {
                    return error;
                }
            }
        };
        tokio::select! {
            loaded = event(name, &mut self.loads, "its device state", completed, STATE_LIMIT) => loaded,
            error = failed => Err(error),
        }
    }

    /// Lets it run at the target; when it was told so, when it said so, and when it had answered.
    async fn resume(&mut self) -> Result<[u64; 3], LabError> {
        let told = now();
        self.order(&self.there.qmp, "cont", json!({})).await?;
        let answered = now();
        let running = named(self.name, &mut self.resumes, "RESUME", RESUME_LIMIT).await?;
        Ok([told, running, answered])
    }

    /// Looks at the source again and again until it is where it is wanted; when that was seen.
    async fn reach(
        &self,
        wanted: MigrationStatus,
        what: &str,
        limit: Duration,
        poll: Duration,
    ) -> Result<u64, LabError> {
        let deadline = Instant::now() + limit;
        loop {
            if look(self.name, self.source).await?["status"] == wanted.name() {
                return Ok(now());
            }
            if Instant::now() > deadline {
                return Err(late(self.name, what, limit));
            }
            sleep(poll).await;
        }
    }

    async fn order(&self, qmp: &Qmp, command: &str, arguments: Value) -> Result<(), LabError> {
        let done = qmp.execute(command, arguments).await;
        done.map(|_| ()).map_err(|source| stock(self.name, source.into()))
    }
}
