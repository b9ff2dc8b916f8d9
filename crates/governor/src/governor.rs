//! The governor: from figures of each stream to the rate of each, round after round.

use std::collections::{BTreeMap, BTreeSet};

use transhume_model::{BitRate, HostName, MigrationId, Millis, VmName};
use transhume_protocol::message::VmRates;
use transhume_protocol::migration::StreamStage;

use crate::estimate::{Estimate, Figures};
use crate::limits::{
    CHANGE_MIN, LEAST_BYTES_PER_S, LEFT_BYTES_MIN, PAYLOAD_SHARE, THROTTLE_STEPS, UNUSED_OFFER, USED_SHARE,
};
use crate::network::{Link, Network};
use crate::outlook::Outlook;
use crate::share::{Both, Demand, share_alone, share_in_turn};
use crate::stuck::{Stuck, StuckWatch};

/// One page stream under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// The VM.
    pub vm: VmName,
    /// Host it leaves.
    pub source: HostName,
    /// Host it goes to.
    pub target: HostName,
    /// Its memory, bytes: what is left before its first look.
    pub memory: u64,
    /// How far.
    pub stage: StreamStage,
}

/// The batch under way of one move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The move.
    pub migration: MigrationId,
    /// Its streams.
    pub streams: Vec<Stream>,
}

/// What is known of one VM.
#[derive(Debug, Default)]
struct Known {
    estimate: Estimate,
    figures: Figures,
    watch: StuckWatch,
    /// Rates as they were decided last, bytes per second.
    given: Option<f64>,
    /// Hundredths of its processors that its guest keeps.
    processor_percent: Option<u8>,
    told: Option<VmRates>,
}

/// Of all moves.
#[derive(Debug, Default)]
pub struct Governor {
    vms: BTreeMap<VmName, Known>,
    outlooks: BTreeMap<MigrationId, Outlook>,
}

impl Governor {
    /// Takes a look at a VM's stream into account.
    pub fn see(&mut self, now: Millis, vm: &VmName, figures: Figures) {
        let known = self.vms.entry(vm.clone()).or_default();
        known.estimate.see(now, figures);
        known.figures = figures;
    }

    /// A VM's stream begins, maybe not for the first time: what was known is of another one.
    pub fn forget(&mut self, vm: &VmName) {
        self.vms.remove(vm);
    }

    /// Whether a VM that is not ready is stuck; told once.
    pub fn stuck(&mut self, now: Millis, network: &Network, stream: &Stream) -> Option<Stuck> {
        let known = self.vms.get_mut(&stream.vm)?;
        let path = network.path(&stream.source, &stream.target);
        let most = path
            .iter()
            .filter_map(|link| budget(network, link))
            .reduce(f64::min);
        known.watch.see(now, known.figures, &known.estimate, most)
    }

    /// Slows a VM's guest down by one step of [`THROTTLE_STEPS`] between all of its processors and
    /// `percent` of them. Whether it helped is looked at anew. What it keeps now; `None` where
    /// there is no further step.
    pub fn throttle(&mut self, vm: &VmName, percent: u8) -> Option<u8> {
        let known = self.vms.get_mut(vm)?;
        let now = known.processor_percent.unwrap_or(100);
        let step = (100 - percent.min(99)).div_ceil(THROTTLE_STEPS);
        if now <= percent {
            return None;
        }
        let slower = now.saturating_sub(step).max(percent);
        known.processor_percent = Some(slower);
        known.watch = StuckWatch::default();
        Some(slower)
    }

    /// A guest has all of its processors again before it is stopped.
    fn throttle_of(&self, stream: &Stream) -> Option<u8> {
        let known = self.vms.get(&stream.vm)?;
        known
            .processor_percent
            .filter(|_| stream.stage != StreamStage::Stopped)
    }

    /// The rates that changed, by source. What is not under way any more is forgotten.
    pub fn round(&mut self, network: &Network, batches: &[Batch]) -> BTreeMap<HostName, Vec<VmRates>> {
        let under_way = |vm: &VmName| {
            batches
                .iter()
                .flat_map(|batch| &batch.streams)
                .any(|stream| stream.vm == *vm)
        };
        self.vms.retain(|vm, _| under_way(vm));
        let links = Links::new(network, batches);
        let both: Vec<Both> = batches
            .iter()
            .map(|batch| Both {
                copying: self.demands(&links, batch, false),
                switching: self.demands(&links, batch, true),
            })
            .collect();
        let stopped: Vec<bool> = batches.iter().map(is_stopped).collect();
        let now = share_in_turn(&links.budgets, &both, &stopped);
        let mut changed: BTreeMap<HostName, Vec<VmRates>> = BTreeMap::new();
        for (place, batch) in batches.iter().enumerate() {
            // What it will have when its guests stand still.
            let then = match stopped[place] {
                true => now[place].clone(),
                false => share_alone(&links.budgets, &both, place),
            };
            for (at, stream) in batch.streams.iter().enumerate() {
                let rates = VmRates {
                    vm: stream.vm.clone(),
                    copying: now[place][at].and_then(bits),
                    switching: then[at].and_then(bits),
                    processor_percent: self.throttle_of(stream),
                };
                let known = self.vms.entry(stream.vm.clone()).or_default();
                known.given = now[place][at];
                if known.told.as_ref().is_none_or(|told| differs(told, &rates)) {
                    known.told = Some(rates.clone());
                    changed.entry(stream.source.clone()).or_default().push(rates);
                }
            }
        }
        changed
    }

    /// An agent that starts anew knows no rates.
    pub fn forget_rates_of<'a>(&mut self, vms: impl IntoIterator<Item = &'a VmName>) {
        for vm in vms {
            if let Some(known) = self.vms.get_mut(vm) {
                known.told = None;
            }
        }
    }

    /// How far a move is, from its batch under way and what is before and behind it: bytes sent by
    /// batches that are through, and guest memory of batches to come.
    pub fn outlook(&mut self, now: Millis, batch: &Batch, sent_before: u64, to_come: u64) -> Outlook {
        let (mut sent, mut left, mut rate) = (sent_before as f64, 0.0, 0.0);
        let (mut wire, mut passed) = (0.0, 0.0);
        for stream in &batch.streams {
            let estimate = self.vms.get(&stream.vm).map(|known| &known.estimate);
            sent += estimate.map_or(0.0, |estimate| estimate.sent() as f64);
            left += estimate.and_then(Estimate::left).unwrap_or(stream.memory as f64);
            let net = |estimate: &Estimate| Some((estimate.bytes_per_s()? - estimate.dirty_per_s()).max(0.0));
            rate += estimate.and_then(net).unwrap_or(0.0);
            wire += estimate.map_or(stream.memory as f64, |estimate| {
                estimate.ratio() * stream.memory as f64
            });
            passed += stream.memory as f64;
        }
        let ratio = if passed > 0.0 { wire / passed } else { 1.0 };
        left += to_come as f64 * ratio;
        let outlook = self.outlooks.entry(batch.migration).or_default();
        outlook.see(now, sent, left, (rate > 0.0).then_some(rate));
        *outlook
    }

    /// A move begins with what was forecast at worst.
    pub fn begun(&mut self, migration: MigrationId, over_at: Millis) {
        self.outlooks.insert(migration, Outlook::forecast(over_at));
    }

    /// It is over.
    pub fn over(&mut self, migration: MigrationId) {
        self.outlooks.remove(&migration);
    }

    /// What each stream of a batch wants while its guest runs, or `stopped`; `None` for those
    /// without a budget.
    fn demands(&self, links: &Links, batch: &Batch, stopped: bool) -> Vec<Option<Demand>> {
        let demand = |stream: &Stream| {
            let known = self.vms.get(&stream.vm);
            let estimate = known.map(|known| &known.estimate);
            let left = estimate.and_then(Estimate::left).unwrap_or(stream.memory as f64);
            // With its guest stopped nothing is dirtied, and what is left then nobody knows: all
            // are alike.
            let (left, dirty) = match stopped {
                true => (LEFT_BYTES_MIN, 0.0),
                false => (left, estimate.map_or(0.0, Estimate::dirty_per_s)),
            };
            let given = known.and_then(|known| known.given);
            let used = estimate.and_then(Estimate::bytes_per_s);
            let most = match (given, used) {
                (Some(given), Some(used))
                    if stream.stage != StreamStage::Stopped && !stopped && used < given * USED_SHARE =>
                {
                    (used * UNUSED_OFFER).max(LEAST_BYTES_PER_S)
                }
                _ => f64::INFINITY,
            };
            let places = links.of(stream);
            (!places.is_empty()).then_some(Demand {
                links: places,
                left,
                dirty,
                least: LEAST_BYTES_PER_S,
                most,
            })
        };
        batch.streams.iter().map(demand).collect()
    }
}

fn is_stopped(batch: &Batch) -> bool {
    batch
        .streams
        .iter()
        .any(|stream| stream.stage == StreamStage::Stopped)
}

/// The links with a budget that any stream passes.
struct Links<'a> {
    network: &'a Network,
    links: Vec<Link>,
    budgets: Vec<f64>,
}

impl<'a> Links<'a> {
    fn new(network: &'a Network, batches: &[Batch]) -> Self {
        let streams = batches.iter().flat_map(|batch| &batch.streams);
        let all: BTreeSet<Link> = streams
            .flat_map(|stream| network.path(&stream.source, &stream.target))
            .collect();
        let (links, budgets) = all
            .into_iter()
            .filter_map(|link| budget(network, &link).map(|budget| (link, budget)))
            .unzip();
        Links {
            network,
            links,
            budgets,
        }
    }

    /// Places of a stream's links.
    fn of(&self, stream: &Stream) -> Vec<usize> {
        let path = self.network.path(&stream.source, &stream.target);
        path.iter()
            .filter_map(|link| self.links.binary_search(link).ok())
            .collect()
    }
}

/// What payload a link carries, bytes per second.
fn budget(network: &Network, link: &Link) -> Option<f64> {
    Some(network.rates(link)?.ceiling.bytes_per_s() as f64 * PAYLOAD_SHARE)
}

fn bits(bytes_per_s: f64) -> Option<BitRate> {
    BitRate::from_bits_per_s((bytes_per_s * 8.0) as u64)
}

fn differs(told: &VmRates, now: &VmRates) -> bool {
    let differ = |told: Option<BitRate>, now: Option<BitRate>| match (told, now) {
        (Some(told), Some(now)) => {
            let (told, now) = (told.bits_per_s() as f64, now.bits_per_s() as f64);
            (told - now).abs() > told * CHANGE_MIN
        }
        (told, now) => told != now,
    };
    told.processor_percent != now.processor_percent
        || differ(told.copying, now.copying)
        || differ(told.switching, now.switching)
}

#[cfg(test)]
mod tests;
