//! What an earlier agent recorded is taken over (G6): every VM stays exactly as it is. One that is
//! paused stays paused until the coordinator says what became of its batch.

use transhume_model::{Epoch, MigrationId, Millis, OrderId, VmSpec};
use transhume_protocol::message::{GuestState, Mode, VmRole};

use super::booting::{Booting, Or};
use super::source::{PreCopyOrder, Source};
use super::target::{Memory, Target};
use super::{Arrived, Expected, Home, Left, Off, Role, Stranded};
use crate::effect::{Act, AdoptBuffers, Ticket};
use crate::input::{Found, Input, Product, RunState};
use crate::machine::Cx;
use crate::record::{Arrival, Place, Record};

/// Why a VM is off whose process is gone when an agent starts.
const GONE: &str = "its QEMU ended while no agent watched it";

#[derive(Debug, Clone)]
pub(crate) struct Adopting {
    record: Box<Record>,
    ticket: Ticket,
    /// Its process is gone: only what it captured is taken up.
    gone: bool,
    /// What QEMU said meanwhile, the newest of each kind.
    said: Said,
}

#[derive(Debug, Clone, Default)]
struct Said {
    run: Option<RunState>,
    powered_off: bool,
    died: Option<String>,
}

/// What a recorded VM is now.
pub(crate) fn recover(cx: &mut Cx<'_>, record: Record, found: Found) -> Role {
    take_up(cx, record, found)
}

pub(super) fn take_up(cx: &mut Cx<'_>, record: Record, found: Found) -> Role {
    match (&record.place, &found) {
        (Place::Booting { off }, _) => {
            let spec = record.spec.clone();
            let or = match off {
                None => Or::Gone,
                Some(why) => Or::Off(Box::new(Off::new(spec.clone(), why.clone(), None))),
            };
            Booting::take_back(cx, spec, or)
        }
        (Place::Preparing { migration }, _) => Target::take_back(cx, record.spec.clone(), *migration),
        (Place::Off { .. } | Place::Expected { .. } | Place::Left { process: None, .. }, _) => {
            without_process(record)
        }
        (_, Found::Alive(process))
        // What it captured outlives its QEMU, and is still to be delivered.
        | (
            Place::Left {
                process: Some(process),
                closed: None,
                ..
            },
            Found::Gone,
        ) => {
            let process = process.clone();
            let gone = found == Found::Gone;
            adopt(cx, record, process, gone)
        }
        (Place::Home { .. } | Place::Arrived { .. }, Found::Gone) => Stranded::clear(cx, record),
        (_, Found::Gone) => without_process(record),
    }
}

fn adopt(cx: &mut Cx<'_>, record: Record, process: transhume_model::ProcessId, gone: bool) -> Role {
    let (incoming, surrendered) = (
        matches!(record.place, Place::Target { .. }),
        matches!(record.place, Place::Left { .. }),
    );
    let ticket = cx.act(Act::Adopt {
        process,
        spec: record.spec.clone(),
        epoch: cx.epoch,
        buffers: buffers(&record.place),
        incoming,
        surrendered,
    });
    let record = Box::new(record);
    let said = Said::default();
    Role::Adopting(Adopting {
        record,
        ticket,
        gone,
        said,
    })
}

/// Which of its buffers go on.
fn buffers(place: &Place) -> AdoptBuffers {
    match place {
        Place::Source { restoring: true, .. } => AdoptBuffers::Abort,
        Place::Source {
            capturing: true,
            tunnels,
            ..
        }
        | Place::Left {
            tunnels,
            closed: None,
            ..
        } => AdoptBuffers::Capture {
            tunnels: tunnels.clone(),
        },
        Place::Arrived {
            tunnels, activated, ..
        } if !tunnels.is_empty() => AdoptBuffers::Deliver {
            tunnels: tunnels.clone(),
            activated: activated.is_some(),
        },
        // A source that has not heard that all is delivered still asks.
        Place::Home {
            arrival:
                Some(Arrival {
                    tunnels,
                    closed: Some(_),
                    ..
                }),
            ..
        } if !tunnels.is_empty() => AdoptBuffers::Delivered {
            tunnels: tunnels.clone(),
        },
        // Its batch may be committed: the order to activate may come before any to open its buffer.
        Place::Target { tunnels, .. } if !tunnels.is_empty() => AdoptBuffers::Deliver {
            tunnels: tunnels.clone(),
            activated: false,
        },
        Place::Booting { .. }
        | Place::Home { .. }
        | Place::Off { .. }
        | Place::Source { .. }
        | Place::Left { .. }
        | Place::Expected { .. }
        | Place::Preparing { .. }
        | Place::Target { .. }
        | Place::Arrived { .. } => AdoptBuffers::None,
    }
}

/// A VM that has no process, or none any more.
pub(super) fn without_process(record: Record) -> Role {
    let Record { spec, place, .. } = record;
    match place {
        Place::Off { why, arrival } => Role::Off(Off::new(spec, why, arrival)),
        Place::Expected {
            migration,
            powered_off,
        } => Role::Expected(Expected::new(spec, migration, powered_off)),
        Place::Home { arrival, .. } => Role::Off(Off::new(spec, GONE.to_owned(), arrival)),
        Place::Source {
            process,
            migration,
            guest,
            capturing,
            restoring,
            tunnels,
        } => {
            let home = Home::new(spec, process, guest, true, None);
            let mut source = Source::adopted(home, of_before(migration), capturing, restoring, tunnels);
            source.ended = Some(GONE.to_owned());
            source.orphaned = capturing;
            Role::Source(Box::new(source))
        }
        Place::Left {
            process,
            migration,
            guest,
            tunnels,
            closed,
        } => {
            let left = Left::new(spec, process.clone(), migration, tunnels, closed).with_guest(guest);
            Role::Left(match process {
                Some(_) => left.dead(GONE),
                None => left,
            })
        }
        Place::Target {
            process,
            migration,
            tunnels,
            guest,
        } => Target::new(spec, migration, Some(process), tunnels, Memory::Spoilt)
            .with_guest(guest)
            .dead(GONE),
        Place::Arrived {
            process,
            migration,
            run,
            tunnels,
            activated,
        } => Arrived::new(spec, process, migration, run, tunnels, activated).dead(GONE),
        Place::Booting { off } => match off {
            Some(why) => Role::Off(Off::new(spec, why, None)),
            None => Role::Gone,
        },
        Place::Preparing { migration } => Role::Expected(Expected::new(spec, migration, false)),
    }
}

/// The order to pre-copy went with the agent that got it: no progress is reported on it any more.
pub(super) fn of_before(migration: MigrationId) -> PreCopyOrder {
    PreCopyOrder {
        id: OrderId(0),
        epoch: Epoch(0),
        migration,
        mode: Mode::Live,
        blackout_max: Millis(0),
    }
}

impl Adopting {
    pub(super) fn busy_with(&self) -> Ticket {
        self.ticket
    }

    pub(super) fn is_target(&self) -> bool {
        matches!(self.record.place, Place::Target { .. })
    }

    pub(super) fn record(&self, epoch: Epoch) -> Record {
        Record {
            epoch,
            ..(*self.record).clone()
        }
    }

    pub(super) fn shown(&self) -> (&VmSpec, VmRole, GuestState) {
        let role = match self.record.place {
            Place::Booting { .. } | Place::Expected { .. } | Place::Preparing { .. } => VmRole::Expected,
            Place::Home { .. } => VmRole::Home,
            Place::Off { .. } => VmRole::Off,
            Place::Source { .. } => VmRole::Source,
            Place::Left { .. } => VmRole::Left,
            Place::Target { .. } => VmRole::Target,
            Place::Arrived { .. } => VmRole::Arrived,
        };
        (&self.record.spec, role, GuestState::Paused)
    }

    pub(super) fn fact(mut self, cx: &mut Cx<'_>, fact: Input) -> Role {
        match fact {
            Input::Done { ticket, result } if ticket == self.ticket => match result {
                Ok(Product::Adopted { run }) => {
                    self.said.powered_off |= run == RunState::Shutdown;
                    if self.gone {
                        self.said.died = Some(GONE.to_owned());
                    }
                    self.said.tell(cx, adopted(*self.record, run))
                }
                Ok(Product::AdoptedWithoutSpool) => {
                    self.said.died = Some(GONE.to_owned());
                    let role = adopted(*self.record, RunState::PostMigrate);
                    self.said.tell(cx, role.without_spool())
                }
                Ok(Product::Gone) => take_up(cx, *self.record, Found::Gone),
                Ok(_) => Stranded::with_record(cx, *self.record, &super::unexpected().to_string()),
                Err(trouble) => Stranded::with_record(cx, *self.record, &trouble.to_string()),
            },
            Input::RunState(run) => {
                self.said.run = Some(run);
                Role::Adopting(self)
            }
            Input::PoweredOff => {
                self.said.powered_off = true;
                Role::Adopting(self)
            }
            Input::Died { why } => {
                self.said.died = Some(why);
                Role::Adopting(self)
            }
            _ => Role::Adopting(self),
        }
    }
}

impl Said {
    fn tell(self, cx: &mut Cx<'_>, role: Role) -> Role {
        let run = self.run.map(Input::RunState);
        let powered_off = self.powered_off.then_some(Input::PoweredOff);
        let died = self.died.map(|why| Input::Died { why });
        let facts = run.into_iter().chain(powered_off).chain(died);
        facts.fold(role, |role, fact| role.fact(cx, fact))
    }
}

fn adopted(record: Record, run: RunState) -> Role {
    let Record { spec, place, .. } = record;
    match place {
        Place::Home {
            process,
            started,
            arrival,
        } => {
            let guest = run.guest().unwrap_or(GuestState::Paused);
            Role::Home(Home::new(spec, process, guest, started, arrival))
        }
        Place::Source {
            process,
            migration,
            guest,
            capturing,
            restoring,
            tunnels,
        } => {
            let home = Home::new(spec, process, guest, true, None);
            let mut source = Source::adopted(home, of_before(migration), capturing, restoring, tunnels);
            // We pause a guest only while we capture; anything else it did itself, or its user,
            // while no agent watched.
            // A copy that has left (`PostMigrate`) and is reclaimed did not stop by itself either.
            let paused = capturing || run == RunState::PostMigrate;
            if paused && !matches!(run, RunState::Panicked | RunState::DiskError) {
                source.stopped = run != RunState::Running && guest == GuestState::Running;
            } else {
                source.home.guest = run.guest().unwrap_or(guest);
            }
            Role::Source(Box::new(source))
        }
        Place::Left {
            process,
            migration,
            guest,
            tunnels,
            closed,
        } => Role::Left(Left::new(spec, process, migration, tunnels, closed).with_guest(guest)),
        Place::Target {
            process,
            migration,
            tunnels,
            guest,
        } => {
            let memory = match run {
                RunState::Paused | RunState::Prelaunch | RunState::DiskError | RunState::Panicked => {
                    Memory::whole(run)
                }
                // Its page stream went through the agent that died.
                _ => Memory::Spoilt,
            };
            let target = Target::new(spec, migration, Some(process), tunnels, memory);
            Role::Target(target.with_guest(guest))
        }
        Place::Arrived {
            process,
            migration,
            run: wanted,
            tunnels,
            activated,
        } => {
            let arrived = Arrived::new(spec, process, migration, wanted, tunnels, activated);
            Role::Arrived(arrived.with_guest(run.guest()))
        }
        // These have no process: they are not adopted.
        place @ (Place::Off { .. }
        | Place::Expected { .. }
        | Place::Booting { .. }
        | Place::Preparing { .. }) => without_process(Record {
            version: record.version,
            spec,
            epoch: record.epoch,
            place,
        }),
    }
}
