//! The group state machine: the ten steps of §3.3.2 for one batch after the other, sans-IO.
//!
//! The driver (coordinator, `sim`, tests) feeds [`Input`]s and carries out [`Ready`]s; persist
//! comes before send.
//!
//! ```text
//!  begin ─▶ ┌── before commit: steps 1 to 6, one barrier each ──┐ all loaded ╔═══════════╗
//!           │ reserve ▸ pre-copy ▸ buffers ▸ capture ▸ stop&copy│ ─────────▶ ║ Committed ║ step 7
//!           └────────────────────────┬──────────────────────────┘            ╚═════╤═════╝
//!   refusal, failure, time-out, lost │ agent, cancel, restart                      ▼
//!                                    ▼                        each VM by itself, until it is done:
//!        abort both sides of every VM until all have answered     activate ▸ close ▸ discard
//!                                    ▼                                             │ all VMs
//!                                  ended ◀── no VM left ──────────────── step 10 ──┴─▶ step 1
//! ```
//!
//! How it works: facts about each VM are kept (`vm`), the protocol's tables and the facts say which
//! orders are wanted (`course`), and what is wanted and neither done nor under way is issued. So a
//! lost answer, a lost agent and a restarted coordinator all have the same cure: the order is
//! simply still wanted.
//!
//! Deliberately absent: clocks, sockets, the journal itself, the choice of targets and batches
//! (planner), any repair of a VM whose QEMU died (it is reported as lost), and a way back after
//! `Committed` that nobody decided on.

mod account;
mod advance;
mod answer;
mod arrange;
mod clock;
mod course;
mod decision;
mod journal;
mod lost;
mod open;
mod ready;
mod recover;
mod request;
mod size;
mod streams;
mod stuck;
mod times;
mod trouble;
mod vm;
mod waiting;

use std::collections::BTreeMap;

use advance::News;
use clock::Clock;
use course::Course;
pub use decision::{Cannot, Ran, Resolution, Resolvable};
pub use journal::{Cleaning, ClockUse, JOURNAL_VERSION, JournalEntry, RunOn, VmSoFar};
pub use ready::{Illegal, Input, Now, OrderIds, Ready, TimerId};
pub use recover::RecoverError;
pub use request::{Converge, Limits, MoveRequest, MoveVm, RequestError, StuckRates};
pub use size::{VM_BYTES_MAX, WORDS_BYTES_MAX, words};
pub use streams::{StreamStage, StreamView};
use transhume_model::{Epoch, HostName, MigrationId, Millis, VmName, WallMicros};
use vm::Vm;

use crate::event::Happening;
use crate::message::OrderKind;
use crate::report::{MigrationReport, Trouble};
use crate::step::{Phase, Step, WaitLimit};

/// What is known of the connection to a host's agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Up,
    Lost {
        since: Millis,
    },
    /// Lost for so long that it is not waited for any more, or fenced.
    Gone {
        since: Millis,
    },
}

/// One move of a cluster, from request to report.
#[derive(Debug)]
pub struct Migration {
    request: MoveRequest,
    ids: OrderIds,
    begun_at: WallMicros,
    /// The batch under way, from 0.
    batch: usize,
    epoch: Epoch,
    course: Course,
    /// The last step that was announced. During roll-back: the step in which it went wrong.
    step: Step,
    /// When the step runs out, by the monotonic clock, and the limit that says so.
    deadline: Option<(Millis, WaitLimit)>,
    pre_copy_deadline: Option<Millis>,
    /// All VMs of the move, in the order of the request.
    vms: Vec<Vm>,
    /// Where a VM stands in `vms`.
    places: BTreeMap<VmName, usize>,
    links: BTreeMap<HostName, Link>,
    /// The latest estimate of each host's clock.
    clocks: BTreeMap<HostName, Clock>,
    /// A coordinator's earlier life gave orders that this one does not know of.
    recovered: bool,
    cancelled: bool,
    /// When the whole move takes too long, and that it did.
    move_deadline: Option<Millis>,
    out_of_time: bool,
    /// Once the batch is back at its sources it begins again without this VM.
    put_off: Option<VmName>,
    trouble: Option<Trouble>,
    /// Whether the trouble is a refusal.
    refused: bool,
    ignored: u64,
    ended: Option<Box<MigrationReport>>,
}

impl Migration {
    /// Accepts a move. The first `Ready` persists the request and gives the first orders. All hosts
    /// are taken for connected.
    pub fn begin(now: Now, request: MoveRequest) -> Result<(Self, Ready), RequestError> {
        request.check()?;
        let mut ready = Ready::default();
        ready.persist.push(JournalEntry::Begun {
            version: JOURNAL_VERSION,
            at: now.wall,
            request: request.clone(),
        });
        let mut migration = Self::new(request, now.wall);
        ready.events.push(Happening::Begun {
            vms: migration.vms.iter().map(|vm| vm.name().clone()).collect(),
            batches: migration.request.batches.len(),
        });
        migration.enter_phase(0..migration.vms.len(), Phase::PreMigration, now.wall, &mut ready);
        migration.set_move_deadline(now, &mut ready);
        migration.begin_batch(now, &mut ready);
        migration.issue(migration.batch_range(), now, &mut ready);
        Ok((migration, ready))
    }

    fn new(request: MoveRequest, begun_at: WallMicros) -> Self {
        let batches = request.batches.iter().enumerate();
        let vms: Vec<Vm> = batches
            .flat_map(|(index, vms)| vms.iter().map(move |vm| Vm::new(vm, index)))
            .collect();
        let hosts = vms.iter().flat_map(|vm| [vm.source.clone(), vm.target.clone()]);
        Migration {
            places: vms
                .iter()
                .enumerate()
                .map(|(place, vm)| (vm.name().clone(), place))
                .collect(),
            clocks: BTreeMap::new(),
            links: hosts.map(|host| (host, Link::Up)).collect(),
            ids: OrderIds::of(request.migration),
            begun_at,
            batch: 0,
            epoch: request.epoch,
            course: Course::BeforeCommit,
            step: Step::SelectBatch,
            deadline: None,
            pre_copy_deadline: None,
            vms,
            recovered: false,
            cancelled: false,
            move_deadline: None,
            out_of_time: false,
            put_off: None,
            trouble: None,
            refused: false,
            ignored: 0,
            ended: None,
            request,
        }
    }

    /// Takes one input. After the end, everything is ignored.
    pub fn handle(&mut self, now: Now, input: Input) -> Result<Ready, Illegal> {
        let mut ready = Ready::default();
        if self.course == Course::Over {
            self.ignore();
            ready.done = true;
            return Ok(ready);
        }
        let was = self.place();
        let news = match input {
            Input::Report { host, report } => self.report_came(now, &host, report, &mut ready)?,
            Input::AgentLost { host } => self.agent_lost(now, &host, &mut ready)?,
            Input::AgentBack { host, state } => {
                let news = self.agent_back(now, &host, &mut ready)?;
                self.learn_what_is_whole(&host, &state);
                news
            }
            Input::Timer(timer) => self.timer_fired(now, &timer, &mut ready),
            Input::Clock {
                host,
                offset_us,
                uncertainty_us,
            } => self.clock_estimated(
                host,
                Clock {
                    offset_us,
                    uncertainty_us,
                },
            )?,
            Input::Stuck { vm, rates } => self.vm_stuck(now, &vm, rates, &mut ready),
            Input::Arrange { batches } => self.arrange(now, batches, &mut ready)?,
            Input::Fenced { host } => self.fenced(now, &host, &mut ready)?,
            Input::GiveUpSource { vm } => self.give_up_source(now, &vm, &mut ready)?,
            Input::Resolve {
                vm,
                run_on,
                although_it_may_have_run,
            } => self.resolve(now, &vm, run_on, although_it_may_have_run, &mut ready)?,
            Input::Cancel => self.cancel(now, &mut ready),
        };
        self.advance(now, was, news, &mut ready);
        Ok(ready)
    }

    /// An input that changes nothing any more.
    fn ignore(&mut self) -> News {
        self.ignored += 1;
        News::Nothing
    }

    fn agent_lost(&mut self, now: Now, host: &HostName, ready: &mut Ready) -> Result<News, Illegal> {
        let Some(link) = self.links.get_mut(host) else {
            return Err(self.illegal(
                None,
                format!("loss of host {host}, which has no part in the move"),
            ));
        };
        if *link != Link::Up {
            return Ok(self.ignore());
        }
        *link = Link::Lost { since: now.mono };
        self.set_host_timer(now, host, ready);
        ready.events.push(Happening::AgentLost { host: host.clone() });
        for vm in &mut self.vms {
            vm.park_orders_to(host);
        }
        if self.course != Course::BeforeCommit || !self.batch_vms().any(|vm| vm.is_on(host)) {
            return Ok(News::OfAll);
        }
        let patience = self.request.limits.agent_lost_ms_max;
        if patience == Millis(0) {
            self.roll_back(now, trouble::agent_lost(self.step, host), ready);
        } else {
            ready
                .timers
                .push((now.mono + patience, TimerId::AgentLost { host: host.clone() }));
        }
        Ok(News::OfAll)
    }

    fn agent_back(&mut self, now: Now, host: &HostName, ready: &mut Ready) -> Result<News, Illegal> {
        if self.links.get(host) == Some(&Link::Up) {
            self.agent_lost(now, host, ready)?;
        }
        let Some(link) = self.links.get_mut(host) else {
            return Err(self.illegal(
                None,
                format!("return of host {host}, which has no part in the move"),
            ));
        };
        *link = Link::Up;
        ready.events.push(Happening::AgentBack { host: host.clone() });
        if self.course == Course::Committed {
            for vm in self.batch_vms_mut().filter(|vm| vm.is_on(host)) {
                vm.part_buffers();
            }
        }
        Ok(News::OfAll)
    }

    fn clock_estimated(&mut self, host: HostName, clock: Clock) -> Result<News, Illegal> {
        if !self.links.contains_key(&host) {
            return Err(self.illegal(
                None,
                format!("the clock of host {host}, which has no part in the move,"),
            ));
        }
        self.clocks.insert(host, clock);
        Ok(News::Nothing)
    }

    fn timer_fired(&mut self, now: Now, timer: &TimerId, ready: &mut Ready) -> News {
        let mattered = match timer {
            TimerId::Step { batch, step } => {
                *batch == self.batch_number() && *step == self.step && self.step_ran_out(now, ready)
            }
            TimerId::PreCopy { batch } => *batch == self.batch_number() && self.pre_copy_ran_out(now, ready),
            TimerId::AgentLost { host } => self.agent_stayed_away(now, host, ready),
            TimerId::HostLost { host } => self.host_ran_out(now, host, ready),
            TimerId::Move => self.move_ran_out(now, ready),
            TimerId::Again { vm, order } => {
                let place = self
                    .places
                    .get(vm)
                    .copied()
                    .filter(|place| self.vms[*place].batch == self.batch);
                if let Some(place) = place
                    && self.vms[place].open.time_is_up(*order, now.mono)
                {
                    return News::OfVm(place);
                }
                false
            }
        };
        if mattered { News::OfAll } else { self.ignore() }
    }

    fn step_ran_out(&mut self, now: Now, ready: &mut Ready) -> bool {
        let out = self.course == Course::BeforeCommit && self.deadline.is_some_and(|(at, _)| at <= now.mono);
        let trouble = if out { self.whose_answer_is_missing() } else { None };
        let Some(trouble) = trouble else { return false };
        self.roll_back(now, trouble, ready);
        true
    }

    fn pre_copy_ran_out(&mut self, now: Now, ready: &mut Ready) -> bool {
        if self.course != Course::BeforeCommit || self.pre_copy_deadline.is_none_or(|at| at > now.mono) {
            return false;
        }
        let late: Vec<_> = self
            .batch_vms()
            .filter(|vm| !vm.has(OrderKind::PreCopy))
            .collect();
        if late.is_empty() {
            return false;
        }
        let late: Vec<_> = late.iter().map(|vm| (vm.name(), &vm.source)).collect();
        let trouble = trouble::never_converged(self.step, &late, self.request.limits.pre_copy_ms_max);
        self.roll_back(now, trouble, ready);
        true
    }

    fn agent_stayed_away(&mut self, now: Now, host: &HostName, ready: &mut Ready) -> bool {
        let patience = self.request.limits.agent_lost_ms_max;
        let away =
            matches!(self.links.get(host), Some(Link::Lost { since }) if *since + patience <= now.mono);
        let matters =
            away && self.course == Course::BeforeCommit && self.batch_vms().any(|vm| vm.is_on(host));
        if matters {
            self.roll_back(now, trouble::agent_lost(self.step, host), ready);
        }
        matters
    }

    fn cancel(&mut self, now: Now, ready: &mut Ready) -> News {
        if self.put_off.take().is_some() {
            // It only rolls back to begin again.
            self.cancelled = true;
            ready.persist.push(JournalEntry::CancelAsked { at: now.wall });
            return News::Nothing;
        }
        if self.course == Course::RollingBack {
            ready.events.push(Happening::AlreadyRollingBack {
                batch: self.batch_number(),
            });
            return self.ignore();
        }
        if self.cancelled {
            return self.ignore();
        }
        self.cancelled = true;
        ready.persist.push(JournalEntry::CancelAsked { at: now.wall });
        if self.course == Course::BeforeCommit {
            self.roll_back(now, trouble::cancelled(self.step), ready);
        }
        News::OfAll
    }

    /// The move.
    pub fn id(&self) -> MigrationId {
        self.request.migration
    }

    /// What was asked.
    pub fn request(&self) -> &MoveRequest {
        &self.request
    }

    /// Newest epoch this move may use. The driver's next epoch must be above it.
    pub fn epoch_last(&self) -> Epoch {
        Epoch(self.epoch.0 + self.request.epochs() - self.batch as u64)
    }

    /// The step of the batch under way, and during roll-back the one in which it went wrong.
    pub fn step(&self) -> Step {
        self.step
    }

    /// Stale and repeated reports, and timers that did not matter any more, so far.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    fn batch_number(&self) -> usize {
        self.batch + 1
    }

    fn batch_vms(&self) -> impl Iterator<Item = &Vm> {
        self.vms.iter().filter(|vm| vm.batch == self.batch)
    }

    fn batch_vms_mut(&mut self) -> impl Iterator<Item = &mut Vm> {
        let batch = self.batch;
        self.vms.iter_mut().filter(move |vm| vm.batch == batch)
    }

    fn illegal(&self, vm: Option<&VmName>, input: String) -> Illegal {
        Illegal {
            migration: self.id(),
            step: self.step,
            vm: vm.cloned(),
            input,
        }
    }
}
