//! What can go wrong: chosen faults at chosen places, or weather that strikes by chance.

use transhume_protocol::message::OrderKind;

use crate::coordinator::CrashPoint;

/// Which of a VM's two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The one that it leaves.
    Source,
    /// The one that it goes to.
    Target,
}

/// One fault, aimed at a VM (counted from 0). It strikes once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// At the first order of a kind.
    Order {
        /// Whose.
        vm: usize,
        /// Which.
        order: OrderKind,
        /// What happens.
        what: OrderFault,
    },
    /// At the first act of a name on one of the VM's hosts.
    Act {
        /// Whose.
        vm: usize,
        /// Where.
        place: Place,
        /// Its name.
        act: &'static str,
        /// What happens.
        what: ActFault,
    },
    /// At the n-th change of its record on one of its hosts, from 0.
    Write {
        /// Whose.
        vm: usize,
        /// Where.
        place: Place,
        /// Which.
        nth: usize,
        /// What happens.
        what: WriteFault,
    },
}

/// What becomes of a host that loses its power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerLoss {
    /// It never comes back.
    ForGood,
    /// It comes back, with what is on its disk.
    ComesBack,
}

/// What happens to an order or to those who handle it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderFault {
    /// It is lost on its way, with a link that goes on.
    Lost,
    /// It comes twice.
    ComesTwice,
    /// Its answer comes twice.
    AnsweredTwice,
    /// An older coordinator's copy of it, with an older epoch, comes just before.
    StaleCopyFirst,
    /// The agent is killed with it in hand, and comes back.
    AgentDies,
    /// The connection breaks with it on its way; both ends live.
    LinkBreaks,
    /// The coordinator dies at the `Ready` that gives it, and comes back.
    CoordinatorDies(CrashPoint),
    /// The user cancels as it arrives.
    Cancelled,
    /// Its host is cut off for a minute.
    Partitioned,
    /// Its host dies for good.
    HostDies,
    /// Its host loses its power and comes back.
    HostReboots,
}

/// What happens to an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActFault {
    /// It fails, and did nothing, or half of it.
    Fails,
    /// It is done, and its answer is an error all the same.
    FailsAfter,
    /// It does nothing until its own limit, then fails.
    Hangs,
    /// It is done, and answers seconds later.
    Late,
    /// It is answered twice.
    AnsweredTwice,
    /// The agent is killed before it.
    AgentDiesBefore,
    /// The agent is killed when it is done, before it is answered.
    AgentDiesAfter,
    /// The VM's QEMU there ends just before it.
    QemuDies,
    /// The host dies for good, just before it.
    HostDies,
    /// The host loses its power just before it, and comes back.
    HostReboots,
    /// It is never answered.
    Stays,
}

/// What happens to the change of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFault {
    /// It fails once.
    Fails,
    /// The disk is full for some seconds.
    DiskFull,
    /// The agent is killed before it.
    AgentDiesBefore,
    /// The agent is killed after it, before anything follows from it.
    AgentDiesAfter,
    /// It is written, and cannot be read when the next agent starts: killed as well, so that one
    /// does.
    Unreadable,
    /// It is acknowledged and not durable: no disk may do that. The negative control.
    NotDurable,
}

/// What strikes by itself, at an instant of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mischief {
    /// An agent is killed.
    AgentDies,
    /// The coordinator is killed.
    CoordinatorDies,
    /// A VM's QEMU ends, wherever there is one.
    QemuDies,
    /// A guest powers itself off.
    PowersOff,
    /// A guest panics.
    Panics,
    /// Its user pauses a guest.
    Pauses,
    /// Its user lets a paused guest run.
    Resumes,
    /// A guest takes no frames any more.
    TurnsDeaf,
    /// A deaf guest takes frames again.
    Hears,
    /// A host's clock, or the coordinator's, is set.
    ClockStepped,
    /// A host is cut off for a minute.
    Partitioned,
    /// The disk with a host's records is full for some seconds.
    DiskFull,
    /// A page stream breaks.
    StreamBreaks,
    /// A tunnel breaks.
    TunnelBreaks,
    /// The user cancels.
    Cancelled,
    /// The coordinator's driver finds that a VM does not get ready.
    GetsStuck,
    /// The coordinator's driver cuts what is to come anew.
    CutAnew,
    /// A host dies for good.
    HostDies,
    /// A host loses its power and comes back.
    HostReboots,
}

impl Mischief {
    /// All but the loss of a host.
    pub const CURABLE: [Mischief; 17] = [
        Mischief::AgentDies,
        Mischief::CoordinatorDies,
        Mischief::QemuDies,
        Mischief::PowersOff,
        Mischief::Panics,
        Mischief::Pauses,
        Mischief::Resumes,
        Mischief::TurnsDeaf,
        Mischief::Hears,
        Mischief::ClockStepped,
        Mischief::Partitioned,
        Mischief::DiskFull,
        Mischief::StreamBreaks,
        Mischief::TunnelBreaks,
        Mischief::Cancelled,
        Mischief::GetsStuck,
        Mischief::CutAnew,
    ];
}

/// How often things go wrong by chance, in events per million opportunities, until `until_ms`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Weather {
    /// After this, the sun shines.
    pub until_ms: u64,
    /// Per act.
    pub act: u32,
    /// What may happen to an act.
    pub acts: Vec<ActFault>,
    /// Per change of a record.
    pub write: u32,
    /// What may happen to a change of a record.
    pub writes: Vec<WriteFault>,
    /// Per message: its link breaks.
    pub link_breaks: u32,
    /// Per message: it comes twice.
    pub comes_twice: u32,
    /// Per `Ready` and crash point: the coordinator dies.
    pub coordinator_dies: u32,
    /// Per frame in a tunnel: the tunnel breaks.
    pub tunnel_breaks: u32,
    /// Longest pause between two strikes of [`Mischief`].
    pub strike_ms_max: u64,
    /// What may strike.
    pub strikes: Vec<Mischief>,
}
