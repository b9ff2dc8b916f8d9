//! What the migration links have to give, and who gets it: admission before a move, rates while it
//! runs (`docs/design/governor.md`). What is decided is `transhume_governor`'s; here its figures
//! are gathered.

use std::collections::BTreeMap;

use tracing::info;
use transhume_governor::limits::{OUTLOOK_MS, ROUND_MS};
use transhume_governor::{
    Batch, Figures, Flow, Governor, Needs, Network, Reservations, Short, Stream, Uplink, needs,
};
use transhume_model::{BandRates, BitRate, HostName, MigrationId, Millis, VmName};
use transhume_protocol::event::Happening;
use transhume_protocol::message::{PageProgress, VmRates};
use transhume_protocol::migration::{Converge, Migration, MoveVm, StreamStage, StreamView, StuckRates};
use transhume_protocol::step::Phase;

use crate::config::Config;
use crate::hosts::Hosts;

/// Bits per second in a Mbit/s.
const BITS_PER_MBIT: u64 = 1_000_000;

/// Reservations and rates of all moves.
#[derive(Debug, Default)]
pub(crate) struct Governing {
    governor: Governor,
    reservations: Reservations,
    next_round: Option<Millis>,
    next_outlook: Option<Millis>,
}

/// What is known of the links: what agents say of their bands, else the configuration.
pub(crate) fn network(hosts: &Hosts, config: &Config) -> Network {
    let rates = config.hosts.iter().filter_map(|host| {
        let rates = vmct(hosts, &host.name).or_else(|| configured(host.vmct_mbit_s?))?;
        Some((host.name.clone(), rates))
    });
    let uplinks = config.uplinks.iter().map(|uplink| Uplink {
        name: uplink.name.clone(),
        hosts: uplink.hosts.iter().cloned().collect(),
        rate: uplink.rate,
    });
    Network {
        hosts: rates.collect(),
        uplinks: uplinks.collect(),
    }
}

/// What a host's agent says that VMCT has of its link.
pub(crate) fn vmct(hosts: &Hosts, host: &HostName) -> Option<BandRates> {
    hosts.state(host)?.bands.as_ref()?.vmct
}

fn configured(mbit_s: u32) -> Option<BandRates> {
    let rate = BitRate::from_bits_per_s(u64::from(mbit_s) * BITS_PER_MBIT)?;
    Some(BandRates {
        guaranteed: rate,
        ceiling: rate,
    })
}

impl Governing {
    /// Whether a move may begin.
    pub(crate) fn admit(&self, network: &Network, batches: &[Vec<MoveVm>]) -> Result<(), Short> {
        self.reservations
            .check(None, network, &needs_of(network, batches))
    }

    /// A move under way would go on in other batches: whether its links have what these need, which
    /// is set aside for it then.
    pub(crate) fn arranged(&mut self, id: MigrationId, network: &Network, batches: &[Vec<MoveVm>]) -> bool {
        let needs = needs_of(network, batches);
        let fits = self.reservations.check(Some(id), network, &needs).is_ok();
        if fits {
            self.reservations.hold(id, needs);
        }
        fits
    }

    /// A move begins, or is taken up from the journal.
    pub(crate) fn begun(&mut self, now: Millis, network: &Network, migration: &Migration) {
        let request = migration.request();
        let needs = needs_of(network, &request.batches);
        self.reservations.hold(request.migration, needs);
        if let Some(forecast) = &request.forecast {
            let at_worst = Millis(forecast.expected.duration_ms.high.max(0.0) as u64);
            self.governor.begun(request.migration, now + at_worst);
        }
    }

    /// A move is over: what it had is free.
    pub(crate) fn over(&mut self, migration: MigrationId) {
        self.reservations.free(migration);
        self.governor.over(migration);
    }

    /// What happened in a move, as far as it is about page streams.
    pub(crate) fn hear(&mut self, now: Millis, events: &[Happening]) {
        for event in events {
            match event {
                Happening::PhaseEntered {
                    vm,
                    phase: Phase::PreCopy,
                } => self.governor.forget(vm),
                Happening::Progress { vm, pages } => self.governor.see(now, vm, figures(pages)),
                _ => {}
            }
        }
    }

    /// An agent that starts anew knows no rates.
    pub(crate) fn agent_back(&mut self, host: &HostName, moves: &[(MigrationId, Vec<StreamView<'_>>)]) {
        let streams = moves.iter().flat_map(|(_, streams)| streams);
        let of_host = streams.filter(|stream| stream.source == host);
        self.governor.forget_rates_of(of_host.map(|stream| stream.vm));
    }

    /// Rates that changed, by the host that is to be told. The next round is due after
    /// [`ROUND_MS`], as long as anything flows.
    pub(crate) fn round(
        &mut self,
        now: Millis,
        network: &Network,
        moves: &[(MigrationId, Vec<StreamView<'_>>)],
    ) -> BTreeMap<HostName, Vec<VmRates>> {
        let batches: Vec<Batch> = moves.iter().map(|(id, streams)| batch(*id, streams)).collect();
        self.next_round = (!batches.is_empty()).then_some(now + ROUND_MS);
        self.governor.round(network, &batches)
    }

    /// When the next round is due.
    pub(crate) fn next_round(&self) -> Option<Millis> {
        self.next_round
    }

    /// VMs that do not get ready; each is told once. Those whose guests may be slowed down are, by
    /// one step.
    pub(crate) fn stuck(
        &mut self,
        now: Millis,
        network: &Network,
        moves: &[(MigrationId, Converge, Vec<StreamView<'_>>)],
    ) -> Vec<(MigrationId, VmName, StuckRates)> {
        let mut found = Vec::new();
        for (id, converge, streams) in moves {
            let copying = streams.iter().filter(|view| view.stage == StreamStage::Copying);
            for stream in copying.map(stream) {
                let Some(stuck) = self.governor.stuck(now, network, &stream) else {
                    continue;
                };
                if let Converge::Throttle { percent } = converge
                    && let Some(kept) = self.governor.throttle(&stream.vm, *percent)
                {
                    info!(migration = %id, vm = %stream.vm, "its guest keeps {kept} % of its processors");
                }
                let mbit_s = |bytes_per_s: f64| bytes_per_s * 8.0 / BITS_PER_MBIT as f64;
                let rates = StuckRates {
                    dirty_mbit_s: mbit_s(stuck.dirty_per_s),
                    most_mbit_s: stuck.most_per_s.map(mbit_s),
                };
                found.push((*id, stream.vm.clone(), rates));
            }
        }
        found
    }

    /// Whether it is time to tell how far the moves are.
    pub(crate) fn outlook_is_due(&mut self, now: Millis) -> bool {
        let due = self.next_outlook.is_none_or(|at| at <= now);
        if due {
            self.next_outlook = Some(now + OUTLOOK_MS);
        }
        due
    }

    /// How far a move is.
    pub(crate) fn outlook(&mut self, now: Millis, migration: &Migration) -> Happening {
        let (sent, to_come) = migration.sent_and_to_come();
        let batch = batch(migration.id(), &migration.streams());
        let outlook = self.governor.outlook(now, &batch, sent, to_come);
        Happening::Outlook {
            done: outlook.done(),
            left_ms: outlook.left(now).map(|left| left.0),
        }
    }
}

fn needs_of(network: &Network, batches: &[Vec<MoveVm>]) -> Needs {
    let flow = |vm: &MoveVm| {
        let least = BitRate::from_bits_per_s(transhume_governor::limits::NEED_BITS_PER_S_MIN)?;
        (!vm.powered_off).then(|| Flow {
            source: vm.source.clone(),
            target: vm.target.clone(),
            rate: vm.need.unwrap_or(least),
        })
    };
    let flows: Vec<Vec<Flow>> = batches
        .iter()
        .map(|batch| batch.iter().filter_map(flow).collect())
        .collect();
    needs(network, flows.iter().map(Vec::as_slice))
}

fn batch(migration: MigrationId, streams: &[StreamView<'_>]) -> Batch {
    Batch {
        migration,
        streams: streams.iter().map(stream).collect(),
    }
}

/// A stream as the governor knows it.
fn stream(view: &StreamView<'_>) -> Stream {
    Stream {
        vm: view.vm.clone(),
        source: view.source.clone(),
        target: view.target.clone(),
        memory: view.memory.bytes().0,
        stage: view.stage,
    }
}

fn figures(pages: &PageProgress) -> Figures {
    Figures {
        total: pages.total.0,
        remaining: pages.remaining.0,
        wire: pages.wire.0,
        dirty_per_s: pages.dirty_per_second.0,
        passes: pages.rounds,
    }
}
