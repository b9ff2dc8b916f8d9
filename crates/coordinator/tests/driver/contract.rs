//! The coordinator's fake is held to the contract of every agent, over TCP and in full: what the
//! tests of the coordinator meet is what a real agent would say.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use tokio::runtime::Runtime;
use transhume_model::{Epoch, Millis, OrderId, VmSpec};
use transhume_protocol::message::{Command, FleetId, Hello, Leader, Order, Outcome, Report};
use transhume_protocol::wire;
use transhume_sim::contract::{Breakable, Place, Subject, TABLE, forgotten_by_restart, not_stale, table};

use crate::fake::Agent;
use crate::support::{cluster, room};

/// Longer than an act waits at most.
const ANSWER_MS_MAX: Millis = Millis(45_000);
/// Of orders that are not the suite's.
const OWN_ORDERS: u64 = 1_000;

/// Two fakes, and a connection to each.
struct Pair {
    runtime: Runtime,
    hosts: [(Agent, TcpStream); 2],
    vm: VmSpec,
    questions: u64,
}

impl Pair {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let paper = Arc::default();
        let hosts = ["h1", "h2"].map(|name| {
            let _inside = runtime.enter();
            let mut agent = Agent::new(name, room(4), &paper);
            agent.desk().time_stands_still();
            agent.start();
            let link = link(&agent);
            (agent, link)
        });
        let cluster = cluster("herd", &[("vm1", "h1")]);
        let vm = serde_json::from_value(cluster["vms"][0]["spec"].clone()).unwrap();
        let mut pair = Pair {
            runtime,
            hosts,
            vm,
            questions: 0,
        };
        let command = Command::StartVm { spec: pair.vm() };
        let (id, epoch) = (OrderId(OWN_ORDERS), Epoch(1));
        let started = pair.give(Place::Source, Order { id, epoch, command });
        assert!(matches!(started.unwrap().outcome, Outcome::Started { .. }));
        pair
    }

    fn host(&mut self, place: Place) -> &mut (Agent, TcpStream) {
        &mut self.hosts[usize::from(place == Place::Target)]
    }

    /// All that is said until a question is answered, which comes behind it.
    fn said(&mut self, place: Place) -> Vec<Report> {
        self.questions += 1;
        let (id, epoch) = (OrderId(OWN_ORDERS + self.questions), Epoch(0));
        let command = Command::inspect();
        let (_, link) = self.host(place);
        send(link, &Order { id, epoch, command });
        let said = std::iter::repeat_with(|| receive(link));
        said.take_while(|report| report.order != Some(id)).collect()
    }
}

fn link(agent: &Agent) -> TcpStream {
    let mut link = TcpStream::connect(agent.address).unwrap();
    link.set_nodelay(true).unwrap();
    let hello = Hello::of(Leader {
        fleet: FleetId::of([1; 16]),
        term: 1,
        life: 1,
    });
    link.write_all(&wire::encode(&hello).unwrap()).unwrap();
    assert!(matches!(receive(&mut link).outcome, Outcome::Host(_)));
    link
}

fn send(link: &mut TcpStream, order: &Order) {
    link.write_all(&wire::encode(order).unwrap()).unwrap();
}

fn receive(link: &mut TcpStream) -> Report {
    let mut prefix = [0; wire::LENGTH_BYTES];
    link.read_exact(&mut prefix).unwrap();
    let mut body = vec![0; wire::length(prefix).unwrap()];
    link.read_exact(&mut body).unwrap();
    wire::decode(&body).unwrap()
}

impl Subject for Pair {
    fn vm(&self) -> VmSpec {
        self.vm.clone()
    }

    fn give(&mut self, place: Place, order: Order) -> Option<Report> {
        let id = order.id;
        let answer = |said: Vec<Report>| said.into_iter().find(|report| report.order == Some(id));
        send(&mut self.host(place).1, &order);
        answer(self.said(place)).or_else(|| {
            self.host(place).0.desk().passes(ANSWER_MS_MAX);
            answer(self.said(place))
        })
    }

    fn hold_spawn(&mut self, place: Place) {
        self.host(place).0.desk().holding = true;
    }

    fn strand(&mut self, place: Place) {
        let vm = self.vm.name.clone();
        let (agent, _) = self.host(place);
        agent.desk().strands(&vm, "its record cannot be read", "");
    }

    fn restart(&mut self, place: Place) {
        let (agent, link_to) = &mut self.hosts[usize::from(place == Place::Target)];
        self.runtime.block_on(agent.stop());
        let _inside = self.runtime.enter();
        agent.restart();
        *link_to = link(agent);
    }
}

impl Breakable for Pair {
    fn fail_act(&mut self, place: Place, after: usize) {
        self.host(place).0.desk().failing = Some(after);
    }

    fn acts(&self, place: Place) -> usize {
        let (agent, _) = &self.hosts[usize::from(place == Place::Target)];
        agent.desk().acts
    }
}

#[test]
fn a_fake_answers_as_every_agent_must() {
    let asked = table(Pair::new);
    assert!(
        asked == TABLE,
        "differs from crates/sim/testdata/contract.txt:\n{asked}"
    );
}

#[test]
fn a_fake_refuses_an_older_epoch_in_every_role_that_holds_one() {
    assert_eq!(not_stale(Pair::new), Vec::<String>::new());
}

#[test]
fn a_fake_that_was_killed_answers_the_last_order_again() {
    assert_eq!(forgotten_by_restart(Pair::new), Vec::<String>::new());
}
