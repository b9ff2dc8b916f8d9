//! Two simulated agents without a coordinator: the contract suite plays it.

use transhume_model::VmSpec;
use transhume_protocol::message::{Order, Report};

use super::World;
use crate::check::Violation;
use crate::contract::{Breakable, Place, Subject};
use crate::fault::ActFault;
use crate::network::{HostIx, MILLI, Micros, SECOND};
use crate::scenario::{Scenario, spec};

/// Longest wait for an answer: an act that waits gives up after 30 s.
const ANSWER_MICROS_MAX: Micros = 45 * SECOND;
/// What follows an answer happens within this.
const AFTERWARDS_MICROS: Micros = 50 * MILLI;

impl World {
    /// One VM at home on its source, a target, no coordinator and no peers.
    pub fn alone() -> Self {
        let mut world = World::new(Scenario::calm(1, 1, 1).with_one_pair());
        // Its first peers' frame is void.
        world.flow = 1;
        world.overheard = Some(Vec::new());
        world.guests[0].committed = true;
        for host in 0..world.hosts.len() {
            world.take_up_all(host).expect("nothing is checked here");
        }
        world.pass(AFTERWARDS_MICROS).expect("nothing is checked here");
        world
    }

    fn host(&self, place: Place) -> HostIx {
        match place {
            Place::Source => self.guests[0].source,
            Place::Target => self.guests[0].target,
        }
    }

    fn pass(&mut self, micros: Micros) -> Result<(), Violation> {
        let until = self.network.now + micros;
        while let Some(event) = self.network.next_until(until) {
            self.happen(event)?;
        }
        Ok(())
    }

    fn answered(&mut self, host: HostIx, order: Order) -> Result<Option<Report>, Violation> {
        let id = order.id;
        let is_answer = |(from, report): &(HostIx, Report)| *from == host && report.order == Some(id);
        self.overheard = Some(Vec::new());
        self.obey(host, order)?;
        let until = self.network.now + ANSWER_MICROS_MAX;
        loop {
            let answer = self.overheard.iter().flatten().find(|heard| is_answer(heard));
            if let Some((_, report)) = answer {
                let report = report.clone();
                self.pass(AFTERWARDS_MICROS)?;
                return Ok(Some(report));
            }
            let Some(event) = self.network.next_until(until) else {
                return Ok(None);
            };
            self.happen(event)?;
        }
    }
}

impl Subject for World {
    fn vm(&self) -> VmSpec {
        spec(0)
    }

    fn give(&mut self, place: Place, order: Order) -> Option<Report> {
        let host = self.host(place);
        self.answered(host, order)
            .expect("without a coordinator only what no order may do is checked")
    }

    fn hold_spawn(&mut self, place: Place) {
        // The VM is admitted before.
        self.next_act_fault = Some((self.host(place), 1, ActFault::Stays));
    }

    fn strand(&mut self, place: Place) {
        let host = self.host(place);
        self.hosts[host].disk.spoil(0);
        self.restart(place);
    }

    fn restart(&mut self, place: Place) {
        let host = self.host(place);
        self.agent_dies(host).expect("nothing is checked here");
        self.pass(2 * SECOND).expect("nothing is checked here");
    }
}

impl Breakable for World {
    fn fail_act(&mut self, place: Place, after: usize) {
        self.next_act_fault = Some((self.host(place), after, ActFault::FailsAfter));
    }

    fn acts(&self, place: Place) -> usize {
        let on_source = place == Place::Source;
        self.acts
            .iter()
            .filter(|(_, source, _)| *source == on_source)
            .count()
    }
}
