//! The loop of one VM's task: one act after the other, and everything that comes in meanwhile.

use std::pin::pin;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot};
use tracing::Instrument;
use transhume_agent_core::{Effect, Input, Machine, Product, Ready, Trouble};
use transhume_model::VmName;
use transhume_protocol::message::{FaultKind, Order, Report};

use super::acts;
use super::decisions::Decisions;
use super::holdings::Holdings;
use super::{Snapshot, VmMeter, span};
use crate::context::Context;
use crate::limits::INPUTS_WAITING_MAX;
use crate::pace::Pace;

/// What a task that ends leaves to do.
pub(crate) struct Farewell {
    /// To be sent when the VM is struck out.
    pub(crate) reports: Vec<Report>,
    /// Orders that waited.
    pub(crate) postponed: Vec<Order>,
    /// Orders that were not even read.
    pub(crate) orders: mpsc::Receiver<Order>,
    /// Where an agent that starts still waits for it: dropped when nothing of the VM counts any
    /// more.
    pub(crate) taken_over: Option<oneshot::Sender<()>>,
}

/// One VM's task.
pub(crate) struct VmTask {
    context: Arc<Context>,
    decisions: Decisions,
    holdings: Holdings,
    mail: Mail,
    first: Option<Ready>,
    /// Told when nothing is being carried out for the first time.
    taken_over: Option<oneshot::Sender<()>>,
}

/// What comes in.
struct Mail {
    orders: mpsc::Receiver<Order>,
    inputs: mpsc::Receiver<Input>,
}

impl Mail {
    async fn next(&mut self, decisions: &mut Decisions) -> Input {
        tokio::select! {
            biased;
            Some(input) = self.inputs.recv() => input,
            Some(order) = self.orders.recv() => Input::Order(order),
            timer = decisions.due() => Input::Timer(timer),
        }
    }
}

impl VmTask {
    /// Of a new machine, or of one that takes up a record: `first` is what came of that.
    pub(crate) fn new(
        context: Arc<Context>,
        machine: Machine,
        first: Option<Ready>,
        orders: mpsc::Receiver<Order>,
        snapshot: Arc<Mutex<Snapshot>>,
        taken_over: oneshot::Sender<()>,
    ) -> Self {
        let (sender, inputs) = mpsc::channel(INPUTS_WAITING_MAX);
        let holdings = Holdings::new(machine.name().clone(), sender);
        let reach = holdings.reach.clone();
        Self {
            decisions: Decisions::new(machine, context.clone(), reach, snapshot),
            context,
            holdings,
            mail: Mail { orders, inputs },
            first,
            taken_over: Some(taken_over),
        }
    }

    /// How fast its page stream may go, for whoever decides that.
    pub(crate) fn pace(&self) -> Arc<Pace> {
        self.holdings.reach.pace.clone()
    }

    /// The VM.
    pub(crate) fn name(&self) -> &VmName {
        self.decisions.name()
    }

    /// What its parts say of themselves while it works.
    pub(crate) fn meter(&self) -> Arc<VmMeter> {
        self.holdings.meter.clone()
    }

    /// Until nothing of the VM is here any more.
    pub(crate) async fn run(self) -> Farewell {
        let span = span(self.name());
        self.live().instrument(span).await
    }

    async fn live(mut self) -> Farewell {
        if let Some(first) = self.first.take() {
            self.decisions.proceed(first);
        }
        while !self.decisions.is_over() {
            if !self.decisions.is_busy()
                && let Some(taken_over) = self.taken_over.take()
            {
                // An agent that starts may have waited long enough.
                let _ = taken_over.send(());
            }
            match self.decisions.next_act() {
                Some(effect) => self.carry_out(effect).await,
                None => {
                    let input = self.mail.next(&mut self.decisions).await;
                    self.decisions.take(input);
                }
            }
        }
        let (reports, postponed) = self.decisions.into_last();
        Farewell {
            reports,
            postponed,
            orders: self.mail.orders,
            taken_over: self.taken_over,
        }
    }

    async fn carry_out(&mut self, Effect { ticket, act }: Effect) {
        if self.decisions.is_given_up(ticket) {
            let result = Err(given_up(&self.holdings.vm));
            return self.decisions.take(Input::Done { ticket, result });
        }
        if act.is_beside() {
            return acts::begin_beside(&self.holdings, ticket, &act);
        }
        let (name, may_be_given_up) = (act.name(), act.may_be_interrupted());
        tracing::debug!(act = name, "begins");
        let result = {
            let mut work = pin!(acts::carry_out(&mut self.holdings, &self.context, act));
            loop {
                let input = tokio::select! {
                    biased;
                    result = &mut work => break result,
                    input = self.mail.next(&mut self.decisions) => input,
                };
                self.decisions.take(input);
                if may_be_given_up && self.decisions.is_given_up(ticket) {
                    break Err(given_up(self.decisions.name()));
                }
            }
        };
        if let Err(trouble) = &result {
            tracing::warn!(act = name, "{trouble}");
        }
        self.decisions.note_vm(self.holdings.vm());
        self.decisions.take(Input::Done { ticket, result });
    }
}

fn given_up(vm: &VmName) -> Trouble {
    let reason = format!("given up for VM {vm}: an abort came in");
    Trouble::failed(FaultKind::Internal, reason)
}

/// What an act comes to.
pub(super) type Outcome = Result<Product, Trouble>;
