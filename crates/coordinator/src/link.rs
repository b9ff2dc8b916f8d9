//! The connections to the agents: one task per host, for as long as the coordinator lives.
//!
//! ```text
//!  connect ──▶ first report: the host's state ──▶ Back ──▶ reports … ──▶ silence, or broken
//!     ▲                                                                          │
//!     └──────────────────────────── pause ◀── Lost, Away ◀───────────────────────┘
//! ```
//!
//! A connection is an agent's life: one that restarted is lost and back, whatever it says of
//! itself. Orders that a connection did not carry die with it.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::pin::pin;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{interval, sleep, timeout};
use tracing::{info, warn};
use transhume_model::{Epoch, HostName, HostSpec, OrderId, WallMicros};
use transhume_protocol::message::{
    Command, Hello, HostState, Leader, NoCommonVersion, Order, Outcome, Refusal, Report, is_spoken,
};
use transhume_protocol::wire;
use transhume_trust::stream::{AnyStream, connect};
use transhume_trust::{Identity, Security};

use crate::clock::Sample;

/// Orders waiting for a connection; a batch of hundreds fits.
const ORDERS_WAITING_MAX: usize = 4096;
/// Longest wait for a connection and its first report.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Pauses between attempts, doubling.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// The agent is asked for a sign of life so often.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// So many heartbeats in a row without a message, and the agent is taken for lost. Beats, not
/// seconds: a coordinator whose machine was stalled for a while has asked nothing meanwhile, and
/// must not take all its agents for lost when it wakes.
const SILENT_BEATS_MAX: u32 = 8;
/// Heartbeats belong to no move: of the ids that are the coordinator's own they have the upper
/// half.
const HEARTBEAT_IDS: RangeInclusive<u64> = 1 << 31..=(1 << 32) - 1;
/// Heartbeats whose answers are waited for, to measure clocks by them; more than may go unanswered.
const HEARTBEATS_KEPT_MAX: usize = 16;

/// What a link has for the core.
#[derive(Debug)]
pub(crate) enum LinkNews {
    /// Connected: the state of the host, and where its orders go from now on.
    Back {
        host: HostName,
        state: Box<HostState>,
        orders: mpsc::Sender<Order>,
    },
    /// A heartbeat was answered.
    Heartbeat { host: HostName, sample: Sample },
    /// A report.
    Report { host: HostName, report: Box<Report> },
    /// The connection is gone.
    Lost { host: HostName },
    /// There is no connection, and why; said once per reason.
    Away { host: HostName, why: String },
}

#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("its agent and this coordinator do not trust each other: {0}")]
    Untrusted(String),
    #[error(transparent)]
    Wire(#[from] wire::WireError),
    #[error("it said nothing for {} ms", .0.as_millis())]
    Silent(Duration),
    #[error("{0}: {hint}", hint = .0.hint())]
    Version(NoCommonVersion),
    #[error("what answers there is host {found}: correct the address in the coordinator's configuration")]
    OtherHost { found: HostName },
    #[error("it does not obey this coordinator: {reason}; {hint}")]
    NotObeyed { reason: String, hint: String },
    #[error("its first message was not its state")]
    NoState,
    #[error("the coordinator is ending")]
    Over,
}

/// Keeps the link to one host.
pub(crate) async fn keep(spec: HostSpec, leader: Leader, security: Security, news: mpsc::Sender<LinkNews>) {
    let (mut pause, mut reported) = (RETRY_MIN, String::new());
    loop {
        let mut connected = false;
        let why = match converse(&spec, &leader, &security, &news, &mut connected).await {
            Err(LinkError::Over) => return,
            Err(error) => chain(&error),
            Ok(never) => match never {},
        };
        let host = || spec.name.clone();
        if connected {
            pause = RETRY_MIN;
            if news.send(LinkNews::Lost { host: host() }).await.is_err() {
                return;
            }
        }
        // Once per reason: an agent may be away for hours.
        if connected || why != reported {
            warn!(host = %spec.name, address = %spec.control, "no agent: {why}");
            reported.clone_from(&why);
            if news.send(LinkNews::Away { host: host(), why }).await.is_err() {
                return;
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// An error with all its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

async fn converse(
    spec: &HostSpec,
    leader: &Leader,
    security: &Security,
    news: &mpsc::Sender<LinkNews>,
    connected: &mut bool,
) -> Result<std::convert::Infallible, LinkError> {
    let (mut read, write, state) = timeout(CONNECT_MAX, open(spec, leader, security))
        .await
        .map_err(|_| LinkError::Silent(CONNECT_MAX))??;
    let (orders, queue) = mpsc::channel(ORDERS_WAITING_MAX);
    info!(host = %spec.name, free = ?state.free, vms = state.vms.len(), protocol = state.protocol, "agent connected");
    *connected = true;
    let host = spec.name.clone();
    news.send(LinkNews::Back { host, state, orders })
        .await
        .map_err(|_| LinkError::Over)?;
    let heartbeats = Mutex::new(Heartbeats::default());
    let receive = async {
        loop {
            let report = while_it_answers(read_report(&mut read)).await??;
            let sample = heartbeats.lock().expect("no holder panics").answered(&report);
            if let Some(sample) = sample {
                let host = spec.name.clone();
                let of_clock = LinkNews::Heartbeat { host, sample };
                news.send(of_clock).await.map_err(|_| LinkError::Over)?;
            }
            let of_report = LinkNews::Report {
                host: spec.name.clone(),
                report: Box::new(report),
            };
            news.send(of_report).await.map_err(|_| LinkError::Over)?;
        }
    };
    tokio::select! {
        ended = receive => ended,
        ended = transmit(write, queue, &heartbeats) => ended,
    }
}

/// Waits for the agent's next message as long as it does not miss too many heartbeats.
async fn while_it_answers<T>(message: impl Future<Output = T>) -> Result<T, LinkError> {
    let mut message = pin!(message);
    for _ in 0..SILENT_BEATS_MAX {
        if let Ok(message) = timeout(HEARTBEAT, &mut message).await {
            return Ok(message);
        }
    }
    Err(LinkError::Silent(HEARTBEAT * SILENT_BEATS_MAX))
}

async fn open(
    spec: &HostSpec,
    leader: &Leader,
    security: &Security,
) -> Result<
    (
        BufReader<ReadHalf<AnyStream>>,
        WriteHalf<AnyStream>,
        Box<HostState>,
    ),
    LinkError,
> {
    let stream = TcpStream::connect(spec.control).await?;
    let expects = Identity::Agent(spec.name.clone());
    let stream = connect(stream, security, expects).await.map_err(untrusted)?;
    let (read, mut write) = tokio::io::split(stream);
    let hello = wire::encode(&Hello::of(leader.clone()))?;
    let said = async {
        write.write_all(&hello).await?;
        write.flush().await
    };
    let said = said.await;
    let mut read = BufReader::new(read);
    // Whom an agent does not admit hears so with the first word; it may have closed by now.
    let first = read_message(&mut read).await.map_err(|error| match error {
        LinkError::Io(error) => match security {
            Security::Insecure => LinkError::Io(error),
            Security::Mutual(_) => untrusted(error),
        },
        other => other,
    })?;
    said?;
    let Outcome::Host(state) = greeting(&first)? else {
        return Err(LinkError::NoState);
    };
    if state.host != spec.name {
        return Err(LinkError::OtherHost { found: state.host });
    }
    Ok((read, write, state))
}

/// Certificates that do not fit; or the network, which says so itself.
fn untrusted(error: std::io::Error) -> LinkError {
    match error.get_ref() {
        Some(_) => LinkError::Untrusted(transhume_trust::explain(&error)),
        None => LinkError::Io(error),
    }
}

/// The first report. An agent of another release may say more or less than this one understands,
/// but its version is where it always was: so it is looked at first.
fn greeting(body: &[u8]) -> Result<Outcome, LinkError> {
    #[derive(Deserialize)]
    struct AnyReport {
        outcome: AnyOutcome,
    }
    #[derive(Deserialize)]
    struct AnyOutcome {
        protocol: Option<u16>,
    }
    if let Ok(report) = wire::decode::<Report>(body)
        && let Outcome::Refused(Refusal { reason, hint, .. }) = report.outcome
    {
        return Err(LinkError::NotObeyed { reason, hint });
    }
    let any: AnyReport = wire::decode(body)?;
    match any.outcome.protocol {
        Some(protocol) => {
            is_spoken(protocol).map_err(LinkError::Version)?;
            Ok(wire::decode::<Report>(body)?.outcome)
        }
        None => Err(LinkError::NoState),
    }
}

async fn read_message(read: &mut BufReader<ReadHalf<AnyStream>>) -> Result<Vec<u8>, LinkError> {
    let mut prefix = [0; wire::LENGTH_BYTES];
    read.read_exact(&mut prefix).await?;
    let mut body = vec![0; wire::length(prefix)?];
    read.read_exact(&mut body).await?;
    Ok(body)
}

async fn read_report(read: &mut BufReader<ReadHalf<AnyStream>>) -> Result<Report, LinkError> {
    Ok(wire::decode(&read_message(read).await?)?)
}

async fn transmit(
    mut write: WriteHalf<AnyStream>,
    mut queue: mpsc::Receiver<Order>,
    heartbeats: &Mutex<Heartbeats>,
) -> Result<std::convert::Infallible, LinkError> {
    let mut heartbeat = interval(HEARTBEAT);
    loop {
        let order = tokio::select! {
            order = queue.recv() => order.ok_or(LinkError::Over)?,
            _ = heartbeat.tick() => {
                let id = heartbeats.lock().expect("no holder panics").next();
                Order { id, epoch: Epoch::default(), command: Command::inspect() }
            }
        };
        write.write_all(&wire::encode(&order)?).await?;
        write.flush().await?;
    }
}

/// Heartbeats that are under way: when each one left.
#[derive(Debug, Default)]
struct Heartbeats {
    issued: u64,
    under_way: VecDeque<(OrderId, WallMicros, Instant)>,
}

impl Heartbeats {
    /// The id of the next one, which leaves now.
    fn next(&mut self) -> OrderId {
        let ids = HEARTBEAT_IDS.end() - HEARTBEAT_IDS.start() + 1;
        let id = OrderId(HEARTBEAT_IDS.start() + self.issued % ids);
        self.issued += 1;
        if self.under_way.len() == HEARTBEATS_KEPT_MAX {
            self.under_way.pop_front();
        }
        self.under_way.push_back((id, crate::wall(), Instant::now()));
        id
    }

    /// What the answer to one says of the host's clock; `None` if this is no such answer.
    fn answered(&mut self, report: &Report) -> Option<Sample> {
        let index = self
            .under_way
            .iter()
            .position(|(id, ..)| report.order == Some(*id))?;
        let (_, sent, left) = self.under_way.remove(index)?;
        Some(Sample {
            sent,
            round_trip_us: left.elapsed().as_micros() as u64,
            at: report.at,
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::time::{Instant, advance};
    use transhume_protocol::migration::OrderIds;

    use super::{
        Epoch, HEARTBEAT, HEARTBEAT_IDS, HEARTBEATS_KEPT_MAX, Heartbeats, LinkError, OrderId, Outcome,
        Report, SILENT_BEATS_MAX, WallMicros, while_it_answers,
    };

    fn answer_to(order: OrderId) -> Report {
        Report {
            order: Some(order),
            epoch: Epoch::default(),
            vm: None,
            at: WallMicros(77),
            outcome: Outcome::Destroyed,
        }
    }

    #[test]
    fn a_heartbeat_is_measured_once_by_its_own_answer() {
        let mut heartbeats = Heartbeats::default();
        let (first, second) = (heartbeats.next(), heartbeats.next());
        assert_eq!(
            heartbeats.answered(&answer_to(OrderId(1))),
            None,
            "somebody else's order"
        );
        let sample = heartbeats.answered(&answer_to(second)).expect("it is under way");
        assert_eq!(sample.at, WallMicros(77));
        assert_eq!(heartbeats.answered(&answer_to(second)), None, "answered twice");
        assert!(
            heartbeats.answered(&answer_to(first)).is_some(),
            "out of turn is no matter"
        );
    }

    #[test]
    fn heartbeats_without_answers_are_forgotten_and_their_ids_are_the_coordinators_own() {
        let mut heartbeats = Heartbeats::default();
        let first = heartbeats.next();
        heartbeats.issued = HEARTBEAT_IDS.end() - HEARTBEAT_IDS.start();
        let ids: Vec<_> = (0..HEARTBEATS_KEPT_MAX).map(|_| heartbeats.next()).collect();
        assert!(ids.iter().all(|id| HEARTBEAT_IDS.contains(&id.0)), "{ids:?}");
        assert!(
            ids.iter().all(|id| OrderIds::migration_of(*id).is_none()),
            "{ids:?}"
        );
        assert_eq!(heartbeats.under_way.len(), HEARTBEATS_KEPT_MAX);
        assert_eq!(ids[1], first, "ids begin anew: the first one is long forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_says_nothing_is_lost() {
        let begun = Instant::now();
        let ended = while_it_answers(std::future::pending::<()>()).await;
        assert!(matches!(ended, Err(LinkError::Silent(_))));
        assert_eq!(begun.elapsed(), HEARTBEAT * SILENT_BEATS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_coordinator_that_stood_still_asks_again_first() {
        let (answer, message) = oneshot::channel();
        let waiting = tokio::spawn(while_it_answers(message));
        tokio::task::yield_now().await;
        advance(HEARTBEAT * SILENT_BEATS_MAX * 4).await;
        tokio::task::yield_now().await;
        answer.send(()).expect("still waited for");
        assert!(matches!(waiting.await, Ok(Ok(Ok(())))));
    }
}
