//! The simulated clock and what travels: FIFO channels with changing delays, reordering only
//! between channels.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use transhume_agent_core::{Product, Ticket, Timer, Trouble};
use transhume_model::WallMicros;
use transhume_protocol::message::{Order, Report};
use transhume_protocol::migration::TimerId;

use crate::fault::Mischief;
use crate::random::Random;

/// Microseconds of simulated time.
pub(crate) type Micros = u64;
/// A host, by its place in the world.
pub(crate) type HostIx = usize;
/// A VM, by its place in the world.
pub(crate) type VmIx = usize;

pub(crate) const MILLI: Micros = 1_000;
pub(crate) const SECOND: Micros = 1_000 * MILLI;

/// Delay of a message between coordinator and agent, and of a tunnel.
const DELAY_MICROS_MAX: Micros = 3_000;
/// Delay of a frame on its way through the fabric.
pub(crate) const PATH_MICROS_MAX: Micros = 4_000;

/// One VM in one life of a host's agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) host: HostIx,
    pub(crate) run: u64,
    pub(crate) vm: VmIx,
}

/// What can happen next. What is about a life of an agent is void when that life is over.
#[derive(Debug)]
pub(crate) enum Event {
    /// An order reaches an agent; void if the connection is another one by now.
    OrderArrives {
        host: HostIx,
        link: u64,
        order: Box<Order>,
    },
    /// A report reaches the coordinator; void likewise.
    ReportArrives {
        host: HostIx,
        link: u64,
        report: Box<Report>,
    },
    /// The coordinator notices that a connection is gone.
    LossNoticed {
        host: HostIx,
        coordinator_run: u64,
    },
    /// Somebody has looked whether a lost host is off.
    Decides {
        coordinator_run: u64,
    },
    /// What is left on a host is asked for.
    Cleans {
        host: HostIx,
    },
    /// Coordinator and agent try to connect.
    LinkBack {
        host: HostIx,
        coordinator_run: u64,
    },
    PartitionHeals {
        host: HostIx,
    },
    DiskFreed {
        host: HostIx,
    },
    AgentStarts {
        host: HostIx,
    },
    HostBoots {
        host: HostIx,
    },
    AgentKilled {
        host: HostIx,
        run: u64,
    },
    CoordinatorStarts,
    CoordinatorTimer {
        coordinator_run: u64,
        timer: TimerId,
    },
    AgentTimer {
        at: At,
        timer: Timer,
    },
    /// An act takes effect.
    ActDue {
        at: At,
        ticket: Ticket,
    },
    /// What came of it is said, some time after.
    ActAnswers {
        at: At,
        ticket: Ticket,
        result: Box<Result<Product, Trouble>>,
    },
    /// An act that waits for something has waited long enough.
    ActLimit {
        at: At,
        ticket: Ticket,
    },
    /// QEMU's run state changed.
    QemuSays {
        host: HostIx,
        vm: VmIx,
        pid: u32,
    },
    /// QEMU's process is gone.
    QemuGone {
        at: At,
    },
    /// A target's QEMU ends because its page stream did.
    QemuDies {
        host: HostIx,
        vm: VmIx,
        pid: u32,
    },
    /// The guest obeys its power button.
    PowersOff {
        host: HostIx,
        vm: VmIx,
        pid: u32,
    },
    /// An end of a page stream notices that it broke.
    StreamBroke {
        at: At,
    },
    /// A page stream is through.
    StreamDone {
        vm: VmIx,
        stream: u64,
    },
    /// A frame or FIN comes out of the tunnel.
    TunnelDelivers {
        vm: VmIx,
        tunnel: u64,
        what: InTunnel,
    },
    /// The source's end of a tunnel notices that it is broken.
    TunnelBroken {
        at: At,
        tunnel: u64,
    },
    /// A committed source connects its tunnel again.
    TunnelAgain {
        at: At,
    },
    /// The target tells the source that everything up to FIN is delivered.
    FinDone {
        at: At,
        tunnel: u64,
    },
    /// The source has waited long enough for a marker.
    LingerOver {
        at: At,
    },
    /// A peer sends the next frame of a VM's flow.
    PeerSends {
        vm: VmIx,
        flow: u64,
    },
    FrameArrives {
        host: HostIx,
        vm: VmIx,
        frame: u64,
    },
    /// The fabric learns that the VM is at a host.
    Learned {
        vm: VmIx,
        host: HostIx,
    },
    /// The announcement reaches the old place.
    MarkerArrives {
        host: HostIx,
        vm: VmIx,
    },
    /// The weather strikes by itself.
    Strikes {
        what: Mischief,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InTunnel {
    Frame { number: u64, frame: u64 },
    Fin { last: u64 },
}

/// Channels that keep order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Channel {
    Orders(HostIx),
    Reports(HostIx),
    Tunnel(VmIx),
    Path(VmIx, HostIx),
}

#[derive(Debug)]
struct Due(Micros, u64, Event);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// The queue of what is to come, and the clock.
#[derive(Debug, Default)]
pub(crate) struct Network {
    pub(crate) now: Micros,
    queue: BinaryHeap<Reverse<Due>>,
    serial: u64,
    /// When each channel delivers its latest message.
    latest: BTreeMap<Channel, Micros>,
}

impl Network {
    /// The next event; the clock goes to its instant.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let Reverse(Due(at, _, event)) = self.queue.pop()?;
        self.now = at;
        Some(event)
    }

    /// The next event, if it comes by then; otherwise the clock goes there.
    pub(crate) fn next_until(&mut self, until: Micros) -> Option<Event> {
        if self.queue.peek().is_some_and(|Reverse(due)| due.0 <= until) {
            return self.next();
        }
        self.now = self.now.max(until);
        None
    }

    /// How many events there were and are to come.
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Something that happens after a while.
    pub(crate) fn after(&mut self, delay: Micros, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(crate) fn at(&mut self, at: Micros, event: Event) {
        self.serial += 1;
        self.queue
            .push(Reverse(Due(at.max(self.now), self.serial, event)));
    }

    /// Something that travels behind everything sent earlier on the same channel.
    pub(crate) fn send(&mut self, random: &mut Random, channel: Channel, event: Event) {
        let delay_max = match channel {
            Channel::Path(..) => PATH_MICROS_MAX,
            Channel::Orders(_) | Channel::Reports(_) | Channel::Tunnel(_) => DELAY_MICROS_MAX,
        };
        let latest = self.latest.entry(channel).or_default();
        let at = (self.now + random.between(10, delay_max)).max(*latest);
        *latest = at;
        self.at(at, event);
    }

    /// The wall clock of a machine that is off by so much.
    pub(crate) fn wall(&self, offset: i64) -> WallMicros {
        const BEGUN: u64 = 1_800_000_000_000_000;
        WallMicros((BEGUN + self.now).saturating_add_signed(offset))
    }
}
