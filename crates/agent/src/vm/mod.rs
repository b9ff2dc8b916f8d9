//! One task per VM: takes the VM's orders one after the other and owns everything of the VM on this host.
//!
//! The roles and the orders that lead from one to the next are drawn in `docs/design/agent.md`; [`Task::carry_out`] is that
//! drawing as code. Waits that may be long (stop-and-copy, loading, the marker) are given up when an abort comes in.

mod answers;
mod home;
mod passes;
mod source;
mod target;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval};
use transhume_model::VmName;
use transhume_pages::stream::StreamDigest;
use transhume_protocol::message::{
    Command, Fault, FaultKind, GuestState, Order, Outcome, Refusal, RefusalKind, SourceFrames, VmRole,
    VmState,
};
use transhume_qemu::{Incoming, Loaded, Running, Surrendered, Vm, VmPaths, Waiting};

use self::answers::Answers;
use crate::agent::Shared;
use crate::limits::{ALARMS_WAITING_MAX, PROGRESS_MS};
use crate::nics::{Alarm, SourceBuffers, Taps, TargetBuffers};
use crate::page_stream::PageStream;
use crate::record::Record;

pub(crate) use self::source::Leaving;

/// What the task owns in each role. The recorded [`VmRole`] names the same places without what is owned.
#[derive(Debug)]
pub(crate) enum Life {
    /// Promised a place; nothing is here.
    Expected,
    /// Runs here.
    Home { qemu: Running, taps: Taps },
    /// Runs here, or is stopped here, while it is copied away.
    Source {
        qemu: Running,
        taps: Taps,
        leaving: Box<Leaving>,
    },
    /// Has left; its buffers still forward.
    Left {
        qemu: Surrendered,
        buffers: Option<SourceBuffers>,
    },
    /// Is coming.
    Target {
        qemu: Arrival,
        taps: Taps,
        stream: Option<PageStream>,
        /// Told when the page stream has come as it was sent.
        whole: Option<oneshot::Receiver<StreamDigest>>,
        buffers: Option<TargetBuffers>,
    },
    /// Runs here; its buffers still deliver.
    Arrived {
        qemu: Running,
        taps: Taps,
        buffers: Option<TargetBuffers>,
    },
}

/// How far a coming VM is.
#[derive(Debug)]
pub(crate) enum Arrival {
    Waiting(Incoming<Waiting>),
    Loaded(Incoming<Loaded>),
    /// Cannot arrive any more; waits to be dropped.
    Spoilt(Vm),
}

impl Arrival {
    fn vm(&self) -> &Vm {
        match self {
            Arrival::Waiting(qemu) => qemu.vm(),
            Arrival::Loaded(qemu) => qemu.vm(),
            Arrival::Spoilt(vm) => vm,
        }
    }
}

impl Life {
    fn vm(&self) -> Option<&Vm> {
        match self {
            Life::Expected => None,
            Life::Home { qemu, .. } | Life::Source { qemu, .. } | Life::Arrived { qemu, .. } => {
                Some(qemu.vm())
            }
            Life::Left { qemu, .. } => Some(qemu.vm()),
            Life::Target { qemu, .. } => Some(qemu.vm()),
        }
    }
}

/// Why an order did not succeed.
#[derive(Debug)]
enum Trouble {
    /// Nothing was done.
    Refused(Refusal),
    /// Something broke on the way.
    Failed(Fault),
}

fn failed(kind: FaultKind, error: impl std::error::Error) -> Trouble {
    Trouble::Failed(Fault {
        kind,
        reason: chain(&error),
        hint: None,
    })
}

/// An error with its sources, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

struct Task {
    shared: Arc<Shared>,
    record: Record,
    life: Life,
    orders: mpsc::Receiver<Order>,
    /// Orders that came while a long one was carried out.
    postponed: VecDeque<Order>,
    answers: Answers,
    alarms: mpsc::Receiver<Alarm>,
    alarm: mpsc::Sender<Alarm>,
    seen: Arc<Mutex<Seen>>,
    /// When a page stream's progress is looked at next.
    progress: Interval,
    /// The VM is gone from here; the task ends.
    gone: bool,
}

/// The host state's line about a VM.
pub(crate) fn state(record: &Record, running: bool) -> VmState {
    VmState {
        spec: record.spec.clone(),
        role: record.role,
        epoch: record.epoch,
        guest: if running {
            GuestState::Running
        } else {
            GuestState::Paused
        },
    }
}

/// A VM's task, as the rest of the agent sees it.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The host state's line.
    pub(crate) state: VmState,
    /// Its QEMU, while it is at home here and runs.
    pub(crate) at_home: Option<Vm>,
}

/// Both ends of the queue in which a VM's buffers and streams speak up.
pub(crate) type Alarms = (mpsc::Sender<Alarm>, mpsc::Receiver<Alarm>);

/// An empty one.
pub(crate) fn alarms() -> Alarms {
    mpsc::channel(ALARMS_WAITING_MAX)
}

/// The task's life.
pub(crate) async fn run(
    shared: Arc<Shared>,
    record: Record,
    life: Life,
    orders: mpsc::Receiver<Order>,
    seen: Arc<Mutex<Seen>>,
    (alarm, alarms): Alarms,
) {
    let mut progress = interval(Duration::from_millis(PROGRESS_MS));
    progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut task = Task {
        shared,
        record,
        life,
        orders,
        postponed: VecDeque::new(),
        answers: Answers::default(),
        alarms,
        alarm,
        seen,
        progress,
        gone: false,
    };
    task.publish().await;
    while !task.gone {
        if let Some(order) = task.postponed.pop_front() {
            task.take(order).await;
            continue;
        }
        let qemu = task.life.vm().cloned();
        let died = async {
            match &qemu {
                Some(vm) => vm.died().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            order = task.orders.recv() => match order {
                Some(order) => task.take(order).await,
                None => return,
            },
            Some(alarm) = task.alarms.recv() => task.heed(alarm).await,
            () = died => task.qemu_died().await,
            _ = task.progress.tick(), if task.copies() => task.look_at_progress().await,
        }
    }
}

impl Task {
    fn name(&self) -> &VmName {
        &self.record.spec.name
    }

    fn dir(&self) -> PathBuf {
        self.shared.config.vm_dir(self.name())
    }

    fn paths(&self) -> VmPaths {
        VmPaths::new(self.dir())
    }

    /// Persists the record; every change of role goes through here before its effect.
    fn remember(&mut self) -> Result<(), Trouble> {
        self.record
            .write(&self.dir())
            .map_err(|error| failed(FaultKind::Internal, error))
    }

    fn enter(&mut self, role: VmRole) -> Result<(), Trouble> {
        self.record.role = role;
        self.remember()
    }

    /// Brings the host state's line up to date.
    async fn publish(&self) {
        let running = match &self.life {
            Life::Home { qemu, .. } | Life::Source { qemu, .. } | Life::Arrived { qemu, .. } => {
                matches!(
                    qemu.vm().query_status().await,
                    Ok(transhume_qemu::RunState::Running)
                )
            }
            Life::Expected | Life::Left { .. } | Life::Target { .. } => false,
        };
        let at_home = match &self.life {
            Life::Home { qemu, .. } if running => Some(qemu.vm().clone()),
            _ => None,
        };
        *self.seen.lock().expect("no holder of this lock panics") = Seen {
            state: state(&self.record, running),
            at_home,
        };
    }

    fn tell(&self, outcome: Outcome) {
        self.shared
            .report(None, self.record.epoch, Some(self.name().clone()), outcome);
    }

    /// Keeps an answer and gives it to the order that waits for it, if one does.
    fn settle(&mut self, command: &'static str, outcome: Outcome) {
        if let Some((order, epoch)) = self.answers.settle(command, &outcome) {
            self.shared
                .report(Some(order), epoch, Some(self.name().clone()), outcome);
        }
    }

    async fn take(&mut self, order: Order) {
        let (id, epoch, command) = (order.id, order.epoch, order.command.name());
        let answer = match self.fence(&order) {
            Err(trouble) => Err(trouble),
            Ok(()) => match self.answers.done(command) {
                Some(outcome) if !self.begins_anew(&order.command) => Ok(Some(outcome.clone())),
                _ => {
                    self.answers.wait(command, id, epoch);
                    self.carry_out(order).await
                }
            },
        };
        // The VM is struck out before its last answer, so that the next order finds no dying task.
        if self.gone {
            self.shared.dismiss(&self.record.spec.name);
        } else {
            self.publish().await;
        }
        let outcome = match answer {
            Ok(None) => return,
            Ok(Some(outcome)) => {
                self.answers.settle(command, &outcome);
                outcome
            }
            Err(Trouble::Refused(refusal)) => Outcome::Refused(refusal),
            Err(Trouble::Failed(fault)) => Outcome::Failed(fault),
        };
        self.shared
            .report(Some(id), epoch, Some(self.name().clone()), outcome);
    }

    /// A new move of a VM that lives here forgets the answers of the last one.
    fn begins_anew(&self, command: &Command) -> bool {
        matches!(
            (&self.life, command),
            (Life::Home { .. }, Command::PreCopy { .. })
        )
    }

    /// G2: an order from an older attempt is refused; a newer epoch is remembered before it is obeyed.
    fn fence(&mut self, order: &Order) -> Result<(), Trouble> {
        if order.epoch < self.record.epoch {
            return Err(Trouble::Refused(Refusal {
                kind: RefusalKind::StaleEpoch,
                reason: format!(
                    "{} of VM {} carries epoch {}, host {} holds epoch {}",
                    order.command.name(),
                    self.name(),
                    order.epoch,
                    self.shared.config.host,
                    self.record.epoch
                ),
                hint: "a newer attempt, or a newer coordinator, has taken over".to_owned(),
            }));
        }
        if order.epoch > self.record.epoch {
            self.record.epoch = order.epoch;
            self.remember()?;
        }
        Ok(())
    }

    /// The table of roles and orders. `Ok(None)`: the answer comes later, through [`Task::settle`].
    async fn carry_out(&mut self, order: Order) -> Result<Option<Outcome>, Trouble> {
        let (id, epoch) = (order.id, order.epoch);
        match (&self.life, order.command) {
            (Life::Expected, Command::StartVm { spec }) => self.start_vm(spec).await.map(Some),
            (Life::Home { .. }, Command::StartVm { .. }) => Ok(Some(Outcome::Started {
                spec: self.record.spec.clone(),
            })),
            (_, Command::DestroyVm { .. }) => self.destroy().await.map(Some),

            (Life::Expected, Command::Reserve { migration, spec, .. }) => {
                self.reserve(migration, spec).await.map(Some)
            }
            (Life::Expected, Command::Prepare { .. }) => self.prepare().await.map(Some),
            (
                Life::Target { .. } | Life::Arrived { .. } | Life::Home { .. },
                Command::OpenTargetBuffer { .. },
            ) => self.open_target_buffer().await.map(Some),
            (Life::Target { .. }, Command::AwaitLoaded { .. }) => self.await_loaded().await.map(Some),
            (Life::Target { .. } | Life::Arrived { .. } | Life::Home { .. }, Command::Activate { .. }) => {
                self.activate(epoch).await.map(Some)
            }
            (Life::Arrived { .. } | Life::Home { .. }, Command::CloseTargetBuffer { .. }) => {
                self.close_target_buffer().await
            }
            (Life::Expected | Life::Target { .. }, Command::AbortTarget { .. }) => {
                self.drop_target().await.map(Some)
            }

            (
                Life::Home { .. },
                Command::PreCopy {
                    migration,
                    page_stream,
                    mode,
                    blackout_max,
                    ..
                },
            ) => self
                .pre_copy(id, migration, page_stream, mode, blackout_max)
                .await
                .map(Some),
            (Life::Source { .. }, Command::OpenSourceBuffer { .. }) => {
                self.open_source_buffer().await.map(Some)
            }
            (Life::Source { .. }, Command::ConnectBuffers { tunnels, .. }) => {
                self.connect_buffers(&tunnels).await.map(Some)
            }
            // The tunnel of a VM that has left connects again by itself.
            (Life::Left { .. }, Command::ConnectBuffers { .. }) => Ok(Some(Outcome::BuffersConnected)),
            (Life::Source { .. }, Command::Capture { .. }) => self.capture().await.map(Some),
            (Life::Source { .. }, Command::StopAndCopy { .. }) => self.stop_and_copy().await.map(Some),
            (Life::Source { .. } | Life::Left { .. }, Command::Commit { .. }) => {
                self.commit().await.map(Some)
            }
            (Life::Left { .. }, Command::CloseSourceBuffer { .. }) => self.close_source_buffer().await,
            (Life::Left { .. }, Command::Discard { .. }) => self.discard().await.map(Some),
            (Life::Source { .. }, Command::AbortSource { .. }) => self.restore().await.map(Some),
            (Life::Home { .. }, Command::AbortSource { .. }) => {
                Ok(Some(Outcome::SourceRestored(SourceFrames::default())))
            }
            (_, command) => Err(self.wrong_state(&command)),
        }
    }

    fn wrong_state(&self, command: &Command) -> Trouble {
        match (self.wrong_state_of(command.name()), command) {
            (Trouble::Refused(refusal), Command::StartVm { .. } | Command::Reserve { .. }) => {
                Trouble::Refused(Refusal {
                    kind: RefusalKind::AlreadyHere,
                    ..refusal
                })
            }
            (trouble, _) => trouble,
        }
    }

    fn wrong_state_of(&self, command: &str) -> Trouble {
        Trouble::Refused(Refusal {
            kind: RefusalKind::WrongState,
            reason: format!(
                "{} does not apply to VM {}, which is `{:?}` on host {}",
                command,
                self.name(),
                self.record.role,
                self.shared.config.host
            ),
            hint: "another move of this VM may be under way; see `transhume migrations`".to_owned(),
        })
    }

    /// Waits for `work` unless an abort of this VM comes in first. Other orders wait their turn.
    async fn unless_aborted<T>(
        orders: &mut mpsc::Receiver<Order>,
        postponed: &mut VecDeque<Order>,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                Some(order) = orders.recv() => {
                    let abort = matches!(
                        order.command,
                        Command::AbortSource { .. } | Command::AbortTarget { .. } | Command::DestroyVm { .. }
                    );
                    postponed.push_back(order);
                    if abort {
                        return None;
                    }
                }
            }
        }
    }

    fn given_up(&self) -> Trouble {
        let reason = format!("given up for VM {}: an abort came in", self.name());
        Trouble::Failed(Fault {
            kind: FaultKind::Internal,
            reason,
            hint: None,
        })
    }

    /// QEMU's process ended by itself.
    async fn qemu_died(&mut self) {
        let reason = format!(
            "QEMU of VM {} on host {} ended by itself; its last words are in {}",
            self.name(),
            self.shared.config.host,
            self.paths().stderr().display()
        );
        tracing::error!("{reason}");
        self.tell(Outcome::Failed(Fault {
            kind: FaultKind::Qemu,
            reason,
            hint: None,
        }));
        self.forget_dead().await;
    }

    /// Something a buffer or the page stream has to say.
    async fn heed(&mut self, alarm: Alarm) {
        match alarm {
            Alarm::Fault(fault) => self.tell(Outcome::Failed(fault)),
            Alarm::Look => self.progress.reset_immediately(),
            Alarm::SourceClosed(frames) => self.settle("CloseSourceBuffer", Outcome::SourceClosed(frames)),
            Alarm::TargetClosed(frames) => self.target_closed(frames).await,
        }
    }
}
