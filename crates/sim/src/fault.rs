//! What can go wrong: one chosen fault at one chosen order, or weather that strikes by chance.

use transhume_model::VmName;

use crate::coordinator::CrashPoint;

/// One fault, aimed at the first order of a name to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The order's name, as in the step table.
    pub command: &'static str,
    /// The VM it is about.
    pub vm: VmName,
    /// What happens.
    pub what: OrderFault,
}

/// What happens to an order or to those who handle it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderFault {
    /// The agent says no.
    Refused,
    /// The agent tries and fails.
    Failed,
    /// The agent hangs: the order is never answered.
    Unanswered,
    /// The answer comes twice.
    AnsweredTwice,
    /// An older coordinator's copy of the order, with an older epoch, comes just before.
    StaleCopyFirst,
    /// The agent dies with the order in hand, and comes back.
    AgentDiesBefore,
    /// The agent dies when the order is carried out, before it answers, and comes back.
    AgentDiesAfter,
    /// The connection breaks with the order on its way; both ends live.
    LinkBreaks,
    /// The coordinator dies at the `Ready` that gives the order, and comes back.
    CoordinatorDies(CrashPoint),
}

/// How often things go wrong by chance, in events per million opportunities, until `until_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Weather {
    /// After this, the sun shines.
    pub until_ms: u64,
    /// An agent dies, per order that reaches it.
    pub agent_dies: u32,
    /// A link between coordinator and agent breaks, per message.
    pub link_breaks: u32,
    /// The coordinator dies, at each of its three crash points.
    pub coordinator_dies: u32,
    /// An agent refuses or fails an order.
    pub order_fails: u32,
    /// An agent hangs over an order.
    pub order_hangs: u32,
    /// A tunnel breaks, per frame in it.
    pub tunnel_breaks: u32,
    /// The user cancels, per report.
    pub user_cancels: u32,
}
