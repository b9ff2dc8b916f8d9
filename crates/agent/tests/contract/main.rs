//! The real agent on real QEMU is held to the contract of every agent: the part of its table that
//! can be asked for in minutes. What is left out waits for a limit of half a minute or more
//! (`AwaitLoaded` without its memory, buffers whose other end does not close), or fails at acts
//! that cannot be made to fail from outside.
#![allow(missing_docs)]

mod hosts;
#[path = "../../../qemu/tests/support/mod.rs"]
mod support;

use std::cell::{Cell, RefCell};
use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hosts::{Host, Hosts, receive, send};
use transhume_agent_core::tap_name;
use transhume_model::{Epoch, OrderId, VmSpec};
use transhume_protocol::message::{Command, GuestState, Order, OrderKind as O, Outcome, Report};
use transhume_sim::contract::{
    Case, Place, Role, Section, Subject, expected, expected_failing, forgotten_by_restart, orders,
};

/// Longest wait for an answer, on a machine that has much else to do.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// An answer that waits for what was held takes longer than this.
const NO_ANSWER: Duration = Duration::from_secs(1);
/// Of orders that are not the suite's.
const OWN_ORDERS: u64 = 1_000;
const OWN_EPOCH: Epoch = Epoch(1);
const LAST_EPOCH: Epoch = Epoch(9);

/// What the table's part is: each role once, all that is refused in it, all of an older epoch, what
/// was done already, and then orders that are carried out.
const PART: [(Role, &[O], &[O]); 12] = [
    (
        Role::None,
        &[O::DestroyVm, O::Discard, O::AbortTarget],
        &[O::StartVm, O::Reserve],
    ),
    (Role::Booting, &[], &[O::Capture, O::DestroyVm]),
    (
        Role::Home,
        &[O::StartVm, O::AbortSource],
        &[O::StopVm, O::DestroyVm, O::PreCopy],
    ),
    (
        Role::Off,
        &[O::StopVm, O::AbortSource],
        &[O::StartVm, O::DestroyVm, O::Commit],
    ),
    (Role::Expected, &[O::Reserve], &[O::Prepare, O::AbortTarget]),
    (
        Role::Target,
        &[O::Reserve, O::Prepare, O::OpenTargetBuffer],
        &[O::AbortTarget],
    ),
    (
        Role::Loaded,
        &[O::Reserve, O::Prepare, O::OpenTargetBuffer, O::AwaitLoaded],
        &[O::Activate, O::AbortTarget],
    ),
    (
        Role::PreCopying,
        &[O::PreCopy, O::OpenSourceBuffer, O::ConnectBuffers],
        &[O::Capture, O::AbortSource],
    ),
    (
        Role::Captured,
        &[
            O::PreCopy,
            O::OpenSourceBuffer,
            O::ConnectBuffers,
            O::Capture,
            O::StopAndCopy,
        ],
        &[O::Commit, O::AbortSource],
    ),
    (
        Role::Left,
        &[
            O::PreCopy,
            O::OpenSourceBuffer,
            O::ConnectBuffers,
            O::Capture,
            O::StopAndCopy,
            O::Commit,
        ],
        &[O::Discard],
    ),
    (
        Role::Arrived,
        &[
            O::Reserve,
            O::Prepare,
            O::OpenTargetBuffer,
            O::AwaitLoaded,
            O::Activate,
        ],
        &[O::DestroyVm],
    ),
    (Role::Stranded, &[], &[O::DestroyVm]),
];

/// Both hosts, and what the VMs on them are made from.
struct Bench {
    hosts: RefCell<Hosts>,
    spec: VmSpec,
    vms: Cell<u32>,
}

impl Bench {
    fn new(name: &str) -> Self {
        let dir = support::TempDir::new(name);
        let hosts = Hosts::new(&dir.0, &support::qemu_path());
        let spec = support::spec(&dir.0, "vm", 0);
        // The hosts' keeper removes the directory.
        std::mem::forget(dir);
        Bench {
            hosts: RefCell::new(hosts),
            spec,
            vms: Cell::new(0),
        }
    }

    /// A VM at home on the source.
    fn subject(&self) -> Real<'_> {
        self.vms.set(self.vms.get() + 1);
        let mut spec = self.spec.clone();
        spec.name = format!("vm{}", self.vms.get()).parse().unwrap();
        let links = {
            let hosts = self.hosts.borrow();
            [hosts.source.connect(), hosts.target.connect()]
        };
        let mut real = Real {
            bench: self,
            spec,
            links,
            patience: ANSWER_MAX,
            orders: OWN_ORDERS,
            converged: false,
        };
        let command = Command::StartVm { spec: real.vm() };
        let started = real.own(Place::Source, OWN_EPOCH, command);
        assert!(matches!(started, Outcome::Started { .. }), "{started:?}");
        real
    }

    fn case(&self, role: Role) -> Case<Real<'_>> {
        let mut subject = self.subject();
        if role == Role::None {
            // QEMU lets a disk have one writer.
            let vm = subject.spec.name.clone();
            let destroyed = subject.own(Place::Source, OWN_EPOCH, Command::DestroyVm { vm });
            assert_eq!(destroyed, Outcome::Destroyed);
        }
        Case::new(subject, role)
    }
}

/// One VM between two real agents.
struct Real<'b> {
    bench: &'b Bench,
    spec: VmSpec,
    links: [TcpStream; 2],
    patience: Duration,
    orders: u64,
    /// The source said that the predicted blackout fits.
    converged: bool,
}

impl Real<'_> {
    fn at<T>(&self, place: Place, work: impl FnOnce(&mut Host) -> T) -> T {
        let mut hosts = self.bench.hosts.borrow_mut();
        match place {
            Place::Source => work(&mut hosts.source),
            Place::Target => work(&mut hosts.target),
        }
    }

    fn reconnect(&mut self, place: Place) {
        self.links[index(place)] = self.at(place, |host| host.connect());
    }

    /// The first report that will do.
    fn hears(&mut self, place: Place, will_do: impl Fn(&Report) -> bool) -> Option<Report> {
        let until = Instant::now() + self.patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let report = receive(&mut self.links[index(place)], left)?;
            self.converged |= matches!(report.outcome, Outcome::Converged(_));
            if will_do(&report) {
                return Some(report);
            }
        }
    }

    /// Waits until the agent knows what the guest does.
    fn sees(&mut self, place: Place, guest: GuestState) {
        let until = Instant::now() + self.patience;
        loop {
            let Outcome::Host(state) = self.own(place, OWN_EPOCH, Command::inspect()) else {
                panic!("a question is answered otherwise")
            };
            if state.vms.iter().any(|vm| vm.guest == guest) {
                return;
            }
            assert!(Instant::now() < until, "the guest is not {guest:?}: {state:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// An order of the test's own, which must be answered.
    fn own(&mut self, place: Place, epoch: Epoch, command: Command) -> Outcome {
        self.orders += 1;
        let id = OrderId(self.orders);
        let name = command.name();
        let answer = self.give(place, Order { id, epoch, command });
        answer.unwrap_or_else(|| panic!("{name} is not answered")).outcome
    }

    /// Ends the VM on both hosts; nothing of it may be left.
    fn destroy(&mut self) {
        self.patience = ANSWER_MAX;
        for place in [Place::Source, Place::Target] {
            self.at(place, |host| host.hold_spawns(false));
            self.reconnect(place);
            let vm = self.spec.name.clone();
            let destroyed = self.own(place, LAST_EPOCH, Command::DestroyVm { vm });
            assert_eq!(destroyed, Outcome::Destroyed);
            let left = self.at(place, |host| host.left());
            assert_eq!(left, Vec::<String>::new(), "{place:?}");
        }
    }
}

impl Drop for Real<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.destroy();
        }
    }
}

fn index(place: Place) -> usize {
    usize::from(place == Place::Target)
}

impl Subject for Real<'_> {
    fn vm(&self) -> VmSpec {
        self.spec.clone()
    }

    fn give(&mut self, place: Place, order: Order) -> Option<Report> {
        let (id, kind) = (order.id, order.command.kind());
        send(&mut self.links[index(place)], &order);
        let answer = self.hears(place, |report| report.order == Some(id))?;
        if kind == O::ConnectBuffers && answer.outcome == Outcome::BuffersConnected && !self.converged {
            // No coordinator goes on before.
            let fits = self.hears(place, |report| matches!(report.outcome, Outcome::Converged(_)));
            fits.expect("a guest that writes little converges");
        }
        Some(answer)
    }

    fn hold_spawn(&mut self, place: Place) {
        self.at(place, |host| host.hold_spawns(true));
        self.patience = NO_ANSWER;
    }

    fn strand(&mut self, place: Place) {
        let vm = self.spec.name.clone();
        self.at(place, |host| {
            host.stop();
            fs::write(host.vm_dir(&vm).join("state.json"), "{\"version\":2,").unwrap();
            host.start();
        });
        self.reconnect(place);
    }

    fn restart(&mut self, place: Place) {
        self.at(place, |host| {
            host.stop();
            host.start();
        });
        self.reconnect(place);
    }
}

/// What was answered otherwise than the table says.
#[derive(Default)]
struct Verdict {
    asked: usize,
    wrong: Vec<String>,
}

impl Verdict {
    fn ask(&mut self, case: &mut Case<Real<'_>>, section: Section, kind: O, role: Role) {
        let answer = case.ask(kind);
        self.compare(
            &format!("{section:?}: {kind} in {}", role.name()),
            &answer,
            &expected(section, kind, role),
        );
    }

    fn compare(&mut self, what: &str, answer: &str, expected: &str) {
        self.asked += 1;
        if answer != expected {
            self.wrong.push(format!("{what}: {answer}, not {expected}"));
        }
    }

    /// The order fails. Why, says whatever broke: only the simulation's acts fail without a reason.
    fn fails(&mut self, case: &mut Case<Real<'_>>, role: Role, kind: O, act: usize) {
        let (expected, _) = expected_failing(kind, role, act);
        let answer = case.ask(kind);
        let first = |answer: &str| answer.split(' ').next().unwrap_or_default().to_owned();
        let what = format!("act {act} fails: {kind} in {}", role.name());
        self.compare(&what, &first(&answer), &first(&expected));
    }

    fn works_again(&mut self, case: &mut Case<Real<'_>>, role: Role, kind: O, act: usize) {
        let (_, expected) = expected_failing(kind, role, act);
        let what = format!("act {act} failed: {kind} in {}", role.name());
        self.compare(&what, &case.ask(kind), &expected);
    }

    /// Everything that leaves the role as it is.
    fn ask_what_changes_nothing(&mut self, case: &mut Case<Real<'_>>, role: Role, done: &[O]) {
        let refused = orders().filter(|kind| expected(Section::Fresh, *kind, role).starts_with("refused"));
        for kind in refused.chain(done.iter().copied()) {
            self.ask(case, Section::Fresh, kind, role);
        }
        if matches!(role, Role::None | Role::Booting | Role::Stranded) {
            return;
        }
        for kind in orders() {
            let answer = case.ask_stale(kind);
            let what = format!("stale: {kind} in {}", role.name());
            self.compare(&what, &answer, "refused StaleEpoch");
        }
    }

    fn end(self) {
        assert!(
            self.wrong.is_empty(),
            "{} of {} answers:\n{}",
            self.wrong.len(),
            self.asked,
            self.wrong.join("\n")
        );
    }
}

#[test]
fn a_real_agent_answers_as_every_agent_must() {
    let bench = Bench::new("contract");
    let mut verdict = Verdict::default();
    for (role, done, carried_out) in PART {
        for (nth, kind) in carried_out.iter().enumerate() {
            let begun = Instant::now();
            let mut case = bench.case(role);
            if nth == 0 {
                verdict.ask_what_changes_nothing(&mut case, role, done);
            }
            verdict.ask(&mut case, Section::Fresh, *kind, role);
            verdict.ask(&mut case, Section::Again, *kind, role);
            drop(case);
            eprintln!("{kind} in {}: {:?}", role.name(), begun.elapsed());
        }
    }
    verdict.end();
}

#[test]
fn what_a_real_agent_could_not_do_it_does_when_it_is_told_again() {
    let bench = Bench::new("contract-failures");
    let mut verdict = Verdict::default();
    for (role, kind, act) in [(Role::None, O::StartVm, 2), (Role::Expected, O::Prepare, 1)] {
        let mut case = bench.case(role);
        let tap = tap_name(&case.subject.spec.name, 0);
        case.subject.at(role.place(), |host| host.take_tap_name(&tap));
        verdict.fails(&mut case, role, kind, act);
        case.subject.at(role.place(), |host| host.free_tap_name(&tap));
        verdict.works_again(&mut case, role, kind, act);
    }
    a_page_stream_that_nobody_listens_for(&bench, &mut verdict);
    a_record_that_cannot_be_written(&bench, &mut verdict);
    a_qemu_that_is_killed(&bench, &mut verdict);
    verdict.end();
}

#[test]
fn a_real_agent_that_was_killed_answers_the_last_order_again() {
    let bench = Bench::new("contract-killed");
    assert_eq!(forgotten_by_restart(|| bench.subject()), Vec::<String>::new());
}

/// The order is never done by itself: the way back is.
fn a_page_stream_that_nobody_listens_for(bench: &Bench, verdict: &mut Verdict) {
    let (role, kind) = (Role::Home, O::PreCopy);
    let mut case = bench.case(role);
    let vm = case.subject.spec.name.clone();
    let dropped = case
        .subject
        .own(Place::Target, LAST_EPOCH, Command::AbortTarget { vm });
    assert_eq!(dropped, Outcome::TargetDropped);
    verdict.fails(&mut case, role, kind, 1);
    verdict.works_again(&mut case, role, kind, 1);
    verdict.ask(&mut case, Section::Fresh, O::AbortSource, role);
    verdict.ask_what_changes_nothing(&mut case, role, &[]);
}

/// An order that cannot be recorded has failed and changed nothing.
fn a_record_that_cannot_be_written(bench: &Bench, verdict: &mut Verdict) {
    let role = Role::Expected;
    let mut case = bench.case(role);
    let vm = case.subject.spec.name.clone();
    let in_the_way = case
        .subject
        .at(role.place(), |host| host.vm_dir(&vm).join("state.json.new"));
    fs::create_dir(&in_the_way).unwrap();
    let answer = case.ask(O::Prepare);
    verdict.compare("Prepare without a record", &answer, "failed Record");
    fs::remove_dir(&in_the_way).unwrap();
    verdict.ask_what_changes_nothing(&mut case, role, &[O::Reserve]);
    verdict.ask(&mut case, Section::Fresh, O::Prepare, role);
}

/// Its place stays, whatever it was in the midst of.
fn a_qemu_that_is_killed(bench: &Bench, verdict: &mut Verdict) {
    for role in [Role::Home, Role::PreCopying, Role::Captured] {
        let mut case = bench.case(role);
        let vm = case.subject.spec.name.clone();
        case.subject.at(Place::Source, |host| host.kill_qemu(&vm));
        case.subject.sees(Place::Source, GuestState::Off);
        verdict.ask(&mut case, Section::Fresh, O::AbortSource, role);
        verdict.ask_what_changes_nothing(&mut case, Role::Off, &[O::StopVm]);
        verdict.ask(&mut case, Section::Fresh, O::StartVm, Role::Off);
    }
}
