//! What every agent must answer: each order in each role a VM can have, fresh, given again, of an
//! older epoch, and with a failure at each act. One suite for whatever plays an agent; the answers
//! are one table.
//!
//! A [`Subject`] is two agents between which one VM moves. The suite brings it into a [`Role`] by
//! orders, as a coordinator would, then gives the one order whose answer is asked for. [`table`]
//! asks for all of them, [`expected`] says what one of them must be.

mod table;

use std::net::SocketAddr;

use transhume_model::{Endpoint, Epoch, MigrationId, Millis, OrderId, Secret, VmName, VmSpec};
use transhume_protocol::message::{Command, GuestState, Mode, Order, OrderKind, Outcome, Report};

pub use self::table::{Section, TABLE, expected, expected_failing, forgotten_by_restart, not_stale, table};
pub use crate::fault::Place;

/// The epoch of the orders that bring a VM into its role. Older ones are refused from then on.
const EPOCH: Epoch = Epoch(5);

/// Whatever plays the agents of a source and a target.
pub trait Subject {
    /// The VM that is moved. When the subject is made, it is at home on the source and unknown on
    /// the target.
    fn vm(&self) -> VmSpec;

    /// Gives an order to one of the agents; its first answer, or `None` if none comes within the
    /// order's longest wait.
    fn give(&mut self, place: Place, order: Order) -> Option<Report>;

    /// The next QEMU that this host starts does not come up, and does not say so either.
    fn hold_spawn(&mut self, place: Place);

    /// What is of the VM on this host is made such that its agent cannot take it over.
    fn strand(&mut self, place: Place);

    /// The agent of this host is killed, and started again.
    fn restart(&mut self, place: Place);
}

/// A subject whose acts fail when they are told to.
pub trait Breakable: Subject {
    /// The act that comes after so many others on this host is done, and fails all the same.
    fn fail_act(&mut self, place: Place, after: usize);

    /// Acts on this host so far.
    fn acts(&self, place: Place) -> usize;
}

/// What a VM is on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Unknown.
    None,
    /// Being started.
    Booting,
    /// Lives there.
    Home,
    /// Lives there, powered off.
    Off,
    /// Room is promised.
    Expected,
    /// Prepared; its buffer is open.
    Target,
    /// All of it has come.
    Loaded,
    /// Its memory is copied; its buffer is connected.
    PreCopying,
    /// It is stopped, captured and sent.
    Captured,
    /// Committed, at the source.
    Left,
    /// Activated, at the target.
    Arrived,
    /// Cannot be taken over.
    Stranded,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 12] = [
        Role::None,
        Role::Booting,
        Role::Home,
        Role::Off,
        Role::Expected,
        Role::Target,
        Role::Loaded,
        Role::PreCopying,
        Role::Captured,
        Role::Left,
        Role::Arrived,
        Role::Stranded,
    ];

    /// As the table writes it.
    pub fn name(self) -> &'static str {
        match self {
            Role::None => "none",
            Role::Booting => "booting",
            Role::Home => "home",
            Role::Off => "off",
            Role::Expected => "expected",
            Role::Target => "target",
            Role::Loaded => "loaded",
            Role::PreCopying => "pre-copying",
            Role::Captured => "captured",
            Role::Left => "left",
            Role::Arrived => "arrived",
            Role::Stranded => "stranded",
        }
    }

    /// Where it has this role.
    pub fn place(self) -> Place {
        match self {
            Role::None | Role::Booting | Role::Expected | Role::Target | Role::Loaded | Role::Arrived => {
                Place::Target
            }
            Role::Home | Role::Off | Role::PreCopying | Role::Captured | Role::Left | Role::Stranded => {
                Place::Source
            }
        }
    }

    /// The orders that lead there, one after the other.
    fn path(self) -> &'static [(Place, OrderKind)] {
        use OrderKind as O;
        const S: Place = Place::Source;
        const T: Place = Place::Target;
        const MOVE: [(Place, OrderKind); 11] = [
            (T, O::Reserve),
            (T, O::Prepare),
            (S, O::PreCopy),
            (S, O::OpenSourceBuffer),
            (T, O::OpenTargetBuffer),
            (S, O::ConnectBuffers),
            (S, O::Capture),
            (S, O::StopAndCopy),
            (T, O::AwaitLoaded),
            (S, O::Commit),
            (T, O::Activate),
        ];
        let steps = match self {
            Role::None | Role::Booting | Role::Stranded => 0,
            Role::Off => return &[(S, O::StopVm)],
            Role::Expected => 1,
            Role::Home => 2,
            Role::Target => 5,
            Role::PreCopying => 6,
            Role::Captured => 8,
            Role::Loaded => 9,
            Role::Left => 10,
            Role::Arrived => 11,
        };
        &MOVE[..steps]
    }
}

/// Orders of the table: all that are about a VM.
pub fn orders() -> impl Iterator<Item = OrderKind> {
    OrderKind::ALL.into_iter().filter(|kind| kind.is_about_a_vm())
}

/// What an answer is, without what it carries.
pub fn class(report: Option<&Report>) -> String {
    match report.map(|report| &report.outcome) {
        None => "–".to_owned(),
        Some(Outcome::Refused(refusal)) => format!("refused {:?}", refusal.kind),
        Some(Outcome::Failed(fault)) => format!("failed {:?}", fault.kind),
        Some(outcome) => outcome.name().to_owned(),
    }
}

/// A subject on its way into a role.
#[derive(Debug)]
pub struct Case<S> {
    /// The agents.
    pub subject: S,
    role: Role,
    orders: u64,
    page_stream: Endpoint,
    tunnels: Vec<Endpoint>,
}

impl<S: Subject> Case<S> {
    /// Brings the VM into a role.
    pub fn new(subject: S, role: Role) -> Self {
        let nowhere = Endpoint {
            host: "nowhere".parse().expect("it is a name"),
            address: SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 1)),
            secret: Secret::new([0; Secret::BYTES]),
        };
        let mut case = Case {
            subject,
            role,
            orders: 0,
            page_stream: nowhere.clone(),
            tunnels: vec![nowhere],
        };
        for (place, kind) in role.path() {
            case.step(*place, *kind);
        }
        match role {
            Role::Booting => {
                // It is admitted, and its QEMU does not come up.
                case.subject.hold_spawn(Place::Target);
                let order = case.make(OrderKind::StartVm, EPOCH);
                case.subject.give(Place::Target, order);
            }
            Role::Stranded => case.subject.strand(Place::Source),
            _ => {}
        }
        case
    }

    fn step(&mut self, place: Place, kind: OrderKind) {
        let order = self.make(kind, EPOCH);
        let report = self.subject.give(place, order);
        match report.as_ref().map(|report| &report.outcome) {
            None | Some(Outcome::Refused(_) | Outcome::Failed(_)) => {
                panic!("{kind} on the way to {}: {report:?}", self.role.name())
            }
            Some(Outcome::Prepared { page_stream }) => self.page_stream.clone_from(page_stream),
            Some(Outcome::TargetBufferOpen { tunnels }) => self.tunnels.clone_from(tunnels),
            Some(_) => {}
        }
    }

    /// The order in question; its answer's class.
    pub fn ask(&mut self, kind: OrderKind) -> String {
        self.ask_with(kind, EPOCH)
    }

    /// The same, of an older epoch.
    pub fn ask_stale(&mut self, kind: OrderKind) -> String {
        self.ask_with(kind, Epoch(EPOCH.0 - 1))
    }

    fn ask_with(&mut self, kind: OrderKind, epoch: Epoch) -> String {
        let order = self.make(kind, epoch);
        let report = self.subject.give(self.role.place(), order);
        class(report.as_ref())
    }

    fn make(&mut self, kind: OrderKind, epoch: Epoch) -> Order {
        self.orders += 1;
        let spec = self.subject.vm();
        Order {
            id: OrderId(self.orders),
            epoch,
            command: self.command(kind, spec.name.clone(), spec),
        }
    }

    fn command(&self, kind: OrderKind, vm: VmName, spec: VmSpec) -> Command {
        let migration = MigrationId(1);
        match kind {
            OrderKind::Inspect => Command::inspect(),
            OrderKind::Pace => Command::Pace { rates: Vec::new() },
            OrderKind::HearLink => Command::HearLink,
            OrderKind::TryLink => Command::TryLink {
                target: self.page_stream.clone(),
            },
            OrderKind::StartVm => Command::StartVm { spec },
            OrderKind::StopVm => Command::StopVm { vm, force: true },
            OrderKind::DestroyVm => Command::DestroyVm { vm },
            OrderKind::Reserve => Command::Reserve {
                migration,
                spec,
                powered_off: false,
            },
            OrderKind::Prepare => Command::Prepare { vm },
            OrderKind::PreCopy => Command::PreCopy {
                migration,
                vm,
                page_stream: self.page_stream.clone(),
                mode: Mode::Live,
                blackout_max: Millis(300),
            },
            OrderKind::OpenSourceBuffer => Command::OpenSourceBuffer { vm },
            OrderKind::OpenTargetBuffer => Command::OpenTargetBuffer { vm },
            OrderKind::ConnectBuffers => Command::ConnectBuffers {
                vm,
                tunnels: self.tunnels.clone(),
            },
            OrderKind::Capture => Command::Capture { vm },
            OrderKind::StopAndCopy => Command::StopAndCopy { vm },
            OrderKind::AwaitLoaded => Command::AwaitLoaded {
                vm,
                guest: GuestState::Running,
            },
            OrderKind::Activate => Command::Activate { vm, run: true },
            OrderKind::Commit => Command::Commit { vm },
            OrderKind::CloseSourceBuffer => Command::CloseSourceBuffer { vm },
            OrderKind::CloseTargetBuffer => Command::CloseTargetBuffer { vm },
            OrderKind::OpenPlug => Command::OpenPlug { vm },
            OrderKind::Discard => Command::Discard { vm },
            OrderKind::Reclaim => Command::Reclaim { vm },
            OrderKind::AbortSource => Command::AbortSource { vm },
            OrderKind::AbortTarget => Command::AbortTarget { vm },
        }
    }
}
