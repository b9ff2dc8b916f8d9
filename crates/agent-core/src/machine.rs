//! One VM's machine: fences orders, answers repeated ones, and lets nothing happen that is not
//! durable.

use std::collections::VecDeque;
use std::mem;

use transhume_model::{Epoch, HostName, VmName};
use transhume_protocol::message::{
    FaultKind, Order, OrderKind, Outcome, RefusalKind, Report, Stranded, VmState,
};
use transhume_protocol::migration::Now;

use crate::absent::absent;
use crate::answers::Answers;
use crate::effect::{Act, Effect, Signal, Ticket, Timer};
use crate::input::{Found, Input};
use crate::limits::{ORDERS_WAITING_MAX, WRITE_AGAIN_MS};
use crate::record::{Change, Record};
use crate::role::{Role, recover};
use crate::trouble::Trouble;

/// What one VM is on this host, and what is to be done about it.
#[derive(Debug)]
pub struct Machine {
    host: HostName,
    name: VmName,
    state: State,
    /// The record as it is on disk.
    durable: Option<Record>,
    /// The state before a [`Ready`] that is not taken yet.
    before: Option<Before>,
    /// What must wait until the record can be written.
    held: After,
}

#[derive(Debug, Clone)]
struct State {
    epoch: Epoch,
    role: Role,
    answers: Answers,
    postponed: VecDeque<Order>,
    next_ticket: u64,
}

/// What a failed write leads back to.
#[derive(Debug)]
enum Before {
    /// An order asked for it: everything is as it was, and the order has failed.
    Order { state: Box<State>, order: Box<Order> },
    /// The world is so: it is written again until it can be.
    Fact,
}

/// What came of an input. Write [`Ready::change`] durably, then give it to [`Machine::proceed`].
#[must_use = "nothing happens before `Machine::proceed`"]
#[derive(Debug)]
pub struct Ready {
    change: Option<Change>,
    after: After,
}

impl Ready {
    /// What must be durable before anything else happens.
    pub fn change(&self) -> Option<&Change> {
        self.change.as_ref()
    }
}

/// What may be done now: signals first, then reports, then effects.
#[derive(Debug, Default)]
pub struct After {
    /// At once.
    pub signals: Vec<Signal>,
    /// To the coordinator.
    pub reports: Vec<Report>,
    /// In this order.
    pub effects: Vec<Effect>,
}

impl After {
    fn then(mut self, later: After) -> After {
        self.signals.extend(later.signals);
        self.reports.extend(later.reports);
        self.effects.extend(later.effects);
        self
    }
}

/// What a role may do while it takes an input.
pub(crate) struct Cx<'a> {
    pub(crate) now: Now,
    pub(crate) host: &'a HostName,
    pub(crate) name: &'a VmName,
    pub(crate) epoch: Epoch,
    answers: &'a mut Answers,
    next_ticket: &'a mut u64,
    after: After,
}

impl Cx<'_> {
    pub(crate) fn act(&mut self, act: Act) -> Ticket {
        let ticket = Ticket(*self.next_ticket);
        *self.next_ticket += 1;
        self.after.effects.push(Effect { ticket, act });
        ticket
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        self.after.signals.push(signal);
    }

    pub(crate) fn timer(&mut self, after: transhume_model::Millis, timer: Timer) {
        let at = self.now.mono + after;
        self.signal(Signal::Timer { at, timer });
    }

    fn send(&mut self, order: Option<(transhume_model::OrderId, Epoch)>, outcome: Outcome) {
        self.after.reports.push(Report {
            order: order.map(|(id, _)| id),
            epoch: order.map_or(self.epoch, |(_, epoch)| epoch),
            vm: Some(self.name.clone()),
            at: self.now.wall,
            outcome,
        });
    }

    /// Answers the order of this kind that waits, if one does, and keeps the answer for one that is
    /// given again.
    pub(crate) fn answer(&mut self, kind: OrderKind, outcome: Outcome) {
        if let Some(order) = self.answers.resolve(kind, &outcome) {
            self.send(Some(order), outcome);
        }
    }

    /// Whether an order of this kind waits for its answer.
    pub(crate) fn is_waiting(&self, kind: OrderKind) -> bool {
        self.answers.is_waiting(kind)
    }

    /// The order of this kind failed; it may be given again.
    pub(crate) fn fail(&mut self, kind: OrderKind, trouble: Trouble) {
        self.answer(kind, trouble.into());
    }

    /// One of several answers to an order.
    pub(crate) fn report_on(&mut self, order: (transhume_model::OrderId, Epoch), outcome: Outcome) {
        self.send(Some(order), outcome);
    }

    /// Something that nobody asked for.
    pub(crate) fn speak_up(&mut self, trouble: Trouble) {
        self.send(None, Outcome::Failed(trouble.into_fault()));
    }

    /// The move is undone: nothing that was answered in it holds any longer.
    pub(crate) fn end_move(&mut self) {
        self.answers.forget_done();
    }

    /// A new move begins: only the order that begins it is waited for.
    pub(crate) fn begin_move(&mut self, kind: OrderKind, order: transhume_model::OrderId) {
        self.answers.clear();
        self.answers.wait(kind, order, self.epoch);
    }
}

/// Orders that end what is under way.
fn is_ending(kind: OrderKind) -> bool {
    matches!(
        kind,
        OrderKind::AbortSource | OrderKind::Reclaim | OrderKind::AbortTarget | OrderKind::DestroyVm
    )
}

impl Machine {
    /// A VM of which nothing is here; its first order follows.
    pub fn new(host: HostName, name: VmName) -> Self {
        Self::with(host, name, Epoch::default(), Role::vacant(), None)
    }

    fn with(host: HostName, name: VmName, epoch: Epoch, role: Role, durable: Option<Record>) -> Self {
        Machine {
            host,
            name,
            state: State {
                epoch,
                role,
                answers: Answers::default(),
                postponed: VecDeque::new(),
                next_ticket: 1,
            },
            durable,
            before: None,
            held: After::default(),
        }
    }

    /// Takes up what an earlier agent recorded.
    pub fn recover(now: Now, host: HostName, record: Record, found: Found) -> (Self, Ready) {
        let (name, epoch) = (record.spec.name.clone(), record.epoch);
        let mut machine = Self::with(host, name, epoch, Role::Gone, Some(record.clone()));
        let after = machine.run(now, |_, cx| recover(cx, record, found));
        machine.before = Some(Before::Fact);
        let ready = machine.ready(after);
        (machine, ready)
    }

    /// Something carries this VM's mark and there is no record that says what it is: it is left
    /// alone.
    pub fn stranded(host: HostName, name: VmName, what: String, hint: String) -> Self {
        let role = Role::stranded_without_record(what, hint);
        Self::with(host, name, Epoch::default(), role, None)
    }

    /// The VM.
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// Newest epoch held.
    pub fn epoch(&self) -> Epoch {
        self.state.epoch
    }

    /// Nothing of the VM is here any more, its record included: the machine takes no more inputs.
    pub fn is_gone(&self) -> bool {
        matches!(self.state.role, Role::Gone) && self.durable.is_none()
    }

    /// The host state's line; `None` while nothing of it is here, and where it is stranded.
    pub fn vm_state(&self) -> Option<VmState> {
        let (spec, role, guest) = self.state.role.shown()?;
        Some(VmState {
            spec: spec.clone(),
            role,
            epoch: self.state.epoch,
            guest,
            whole: self.state.role.is_whole_target(),
        })
    }

    /// Why the VM cannot be taken over, if it cannot.
    pub fn stranded_state(&self) -> Option<Stranded> {
        let (what, hint) = self.state.role.stranded()?;
        Some(Stranded {
            vm: self.name.clone(),
            what: what.to_owned(),
            hint: hint.to_owned(),
        })
    }

    /// What its agent is in the midst of: the order that is being carried out, for logs and for
    /// "what is waited for".
    pub fn busy_with(&self) -> Option<Ticket> {
        self.state.role.busy_with()
    }

    /// Takes one input. The [`Ready`] of the one before must have been given to
    /// [`Machine::proceed`].
    pub fn handle(&mut self, now: Now, input: Input) -> Ready {
        assert!(self.before.is_none(), "the last input is not finished");
        match input {
            Input::Order(order) => self.handle_order(now, order),
            fact => {
                let after = self.run(now, |role, cx| role.fact(cx, fact));
                self.before = Some(Before::Fact);
                self.ready(after)
            }
        }
    }

    /// Orders that waited while the VM went. Where it is gone whoever holds the machines takes them
    /// again: one of them may begin something anew.
    pub fn into_postponed(self) -> Vec<Order> {
        self.state.postponed.into()
    }

    /// The next order that had to wait, if its time has come. Ask until there is none.
    pub fn next(&mut self, now: Now) -> Option<Ready> {
        if self.is_gone() {
            let order = self.state.postponed.pop_front()?;
            let outcome = absent(&self.host, &order)?;
            let after = self.report_alone(now, &order, outcome);
            self.before = Some(Before::Fact);
            return Some(self.ready(after));
        }
        let unwritten = matches!(self.state.role, Role::Gone);
        if unwritten || self.state.role.busy_with().is_some() {
            return None;
        }
        let order = self.state.postponed.pop_front()?;
        Some(self.handle_order(now, order))
    }

    /// What may be done, now that the change is durable, or cannot be made so.
    ///
    /// An order whose record cannot be written has failed and changed nothing. A fact that cannot
    /// be written stays a fact: what follows from it waits, and it is written again with the next
    /// input, or after [`WRITE_AGAIN_MS`].
    pub fn proceed(&mut self, now: Now, ready: Ready, written: Result<(), String>) -> After {
        let before = self.before.take();
        match (written, before) {
            (Ok(()), _) => {
                if ready.change.is_some() {
                    self.durable = self.record();
                }
                mem::take(&mut self.held).then(ready.after)
            }
            (Err(why), Some(Before::Order { state, order })) => {
                self.state = *state;
                let trouble = self.unwritten(&why);
                self.report_alone(now, &order, trouble.into())
            }
            (Err(_), _) => {
                self.held = mem::take(&mut self.held).then(ready.after);
                let at = now.mono + WRITE_AGAIN_MS;
                let timer = Timer::Write;
                After {
                    signals: vec![Signal::Timer { at, timer }],
                    ..After::default()
                }
            }
        }
    }

    fn unwritten(&self, why: &str) -> Trouble {
        let reason = format!(
            "the record of VM {} on host {} cannot be written: {why}",
            self.name, self.host
        );
        Trouble::failed(FaultKind::Record, reason)
    }

    fn record(&self) -> Option<Record> {
        self.state.role.record(self.state.epoch)
    }

    fn ready(&mut self, after: After) -> Ready {
        let record = self.record();
        let change = match (record == self.durable, record) {
            (true, _) => None,
            (false, Some(record)) => Some(Change::Write(Box::new(record))),
            (false, None) => Some(Change::Remove),
        };
        // What waits for an earlier write goes with the first that succeeds, this one included.
        Ready { change, after }
    }

    /// Lets the role take something.
    fn run(&mut self, now: Now, work: impl FnOnce(Role, &mut Cx<'_>) -> Role) -> After {
        let State {
            epoch,
            role,
            answers,
            next_ticket,
            ..
        } = &mut self.state;
        let mut cx = Cx {
            now,
            host: &self.host,
            name: &self.name,
            epoch: *epoch,
            answers,
            next_ticket,
            after: After::default(),
        };
        *role = work(mem::replace(role, Role::Gone), &mut cx);
        cx.after
    }

    fn report_alone(&self, now: Now, order: &Order, outcome: Outcome) -> After {
        let report = Report {
            order: Some(order.id),
            epoch: order.epoch,
            vm: Some(self.name.clone()),
            at: now.wall,
            outcome,
        };
        After {
            reports: vec![report],
            ..After::default()
        }
    }

    fn handle_order(&mut self, now: Now, order: Order) -> Ready {
        let state = Box::new(self.state.clone());
        let after = self.take_order(now, &order);
        let order = Box::new(order);
        self.before = Some(Before::Order { state, order });
        self.ready(after)
    }

    fn take_order(&mut self, now: Now, order: &Order) -> After {
        if order.epoch < self.state.epoch {
            return self.report_alone(now, order, self.stale(order).into());
        }
        // G2: a newer epoch is durable before it is obeyed: it is part of the record.
        self.state.epoch = order.epoch;
        let kind = order.command.kind();
        if let Some(ticket) = self.state.role.busy_with() {
            return self.take_order_while_busy(now, order, ticket);
        }
        // A copy of it that was under way: the move would begin here anew, and nobody end it. Any
        // other role refuses it for a reason of its own.
        if self.state.answers.is_undone(kind, order.epoch) && matches!(self.state.role, Role::Home(_)) {
            return self.report_alone(now, order, self.undone(order).into());
        }
        if let Some(outcome) = self.state.answers.done(kind)
            && !self.state.role.begins_anew(kind)
        {
            return self.report_alone(now, order, outcome.clone());
        }
        self.state.answers.wait(kind, order.id, order.epoch);
        let order = order.clone();
        self.run(now, |role, cx| match role.order(cx, order) {
            Ok(role) => role,
            Err(stays) => {
                cx.fail(kind, stays.trouble);
                stays.role
            }
        })
    }

    /// One that is repeated takes the place of the first; one that ends everything goes in front;
    /// others wait their turn.
    fn take_order_while_busy(&mut self, now: Now, order: &Order, ticket: Ticket) -> After {
        let kind = order.command.kind();
        if self.state.answers.is_waiting(kind) {
            self.state.answers.wait(kind, order.id, order.epoch);
            return After::default();
        }
        if self.state.postponed.len() >= ORDERS_WAITING_MAX {
            let reason = format!("VM {} has {ORDERS_WAITING_MAX} orders waiting", self.name);
            return self.report_alone(now, order, Trouble::failed(FaultKind::Internal, reason).into());
        }
        self.state
            .postponed
            .retain(|waiting| waiting.command.kind() != kind);
        if !is_ending(kind) {
            self.state.postponed.push_back(order.clone());
            return After::default();
        }
        self.state.postponed.push_front(order.clone());
        After {
            signals: vec![Signal::Interrupt(ticket)],
            ..After::default()
        }
    }

    fn undone(&self, order: &Order) -> Trouble {
        Trouble::refused(
            RefusalKind::StaleEpoch,
            format!(
                "{} of VM {} belongs to a batch that was undone on host {} already",
                order.command.name(),
                self.name,
                self.host
            ),
            "it is an old copy of the order, and nothing is to be done",
        )
    }

    fn stale(&self, order: &Order) -> Trouble {
        Trouble::refused(
            RefusalKind::StaleEpoch,
            format!(
                "{} of VM {} carries epoch {}, host {} holds epoch {}",
                order.command.name(),
                self.name,
                order.epoch,
                self.host,
                self.state.epoch
            ),
            "a newer attempt, or a newer coordinator, has taken over",
        )
    }
}
