//! The simulated clock and what travels: FIFO channels with changing delays, reordering only between channels.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use transhume_model::{HostName, VmName};
use transhume_protocol::message::{Order, Report};
use transhume_protocol::migration::TimerId;

use crate::random::Random;

/// Microseconds of simulated time.
pub(crate) type Micros = u64;

/// Delay of a message between coordinator and agent, and of a tunnel.
const DELAY_MICROS_MAX: Micros = 3_000;
/// Delay of a frame on its way through the fabric.
pub(crate) const PATH_MICROS_MAX: Micros = 4_000;

/// What can happen next.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// An order reaches an agent; void if the connection is another one by now.
    OrderArrives {
        host: HostName,
        link: u64,
        order: Order,
    },
    /// The agent gets round to it; void if the agent died meanwhile.
    OrderActedOn {
        host: HostName,
        run: u64,
        order: Order,
    },
    /// A report reaches the coordinator.
    ReportArrives {
        host: HostName,
        link: u64,
        report: Box<Report>,
    },
    /// The coordinator notices that a connection is gone.
    LossNoticed {
        host: HostName,
        coordinator_run: u64,
    },
    /// Coordinator and agent are connected again.
    LinkBack {
        host: HostName,
        coordinator_run: u64,
    },
    AgentStarts {
        host: HostName,
    },
    CoordinatorStarts,
    TimerFires {
        coordinator_run: u64,
        timer: TimerId,
    },
    /// The page stream is through.
    StreamEnds {
        vm: VmName,
        source_run: u64,
        target_run: u64,
    },
    /// A page stream's prediction is within budget.
    Converges {
        host: HostName,
        run: u64,
        vm: VmName,
    },
    /// A frame or FIN comes out of the tunnel.
    TunnelDelivers {
        vm: VmName,
        source_run: u64,
        target_run: u64,
        what: InTunnel,
    },
    /// The target tells the source that everything up to FIN is delivered.
    FinDone {
        vm: VmName,
        run: u64,
    },
    /// A peer sends the next frame of a VM's flow.
    PeerSends {
        vm: VmName,
    },
    FrameArrives {
        host: HostName,
        vm: VmName,
        frame: u64,
    },
    /// The fabric learns that the VM is at a host.
    Learned {
        vm: VmName,
        host: HostName,
    },
    /// The announcement reaches the source.
    MarkerArrives {
        host: HostName,
        vm: VmName,
    },
    /// The source has waited long enough for a marker.
    LingerOver {
        host: HostName,
        run: u64,
        vm: VmName,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InTunnel {
    Frame { number: u64, frame: u64 },
    Fin { last: u64 },
}

/// Channels that keep order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Channel {
    Orders(HostName),
    Reports(HostName),
    /// One VM's work queue in an agent.
    Work(HostName, VmName),
    Tunnel(VmName),
    Path(VmName, HostName),
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
        let delay_max = if matches!(channel, Channel::Path(..)) {
            PATH_MICROS_MAX
        } else {
            DELAY_MICROS_MAX
        };
        let latest = self.latest.entry(channel).or_default();
        let at = (self.now + random.between(10, delay_max)).max(*latest);
        *latest = at;
        self.at(at, event);
    }
}
