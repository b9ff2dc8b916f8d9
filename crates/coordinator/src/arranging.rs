//! Batches that follow what is measured (`docs/design/governor.md`, "k and order"): before each
//! batch of such a move, what is to come is cut anew. How is `transhume_governor`'s; here its
//! figures are gathered.

use std::collections::{BTreeMap, BTreeSet};

use transhume_governor::{BatchSize, Candidate, Network, cut};
use transhume_model::{HostName, MigrationId, Millis, VmName};
use transhume_protocol::event::Happening;
use transhume_protocol::message::{DirtyRate, Mode};
use transhume_protocol::migration::{Migration, MoveVm};
use transhume_protocol::report::{MigrationReport, VmReport};
use transhume_protocol::step::Step;

/// Moments of a batch at which something is to be done for those to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Its memory begins to be copied: there is time to measure the others.
    Copies,
    /// All of it runs on its targets: what it cost is known.
    Runs,
}

/// The moments in what happened to a move.
pub(crate) fn moments(events: &[Happening]) -> Vec<Moment> {
    let moment = |event: &Happening| match event {
        Happening::StepEntered {
            step: Step::StartPreCopy,
            ..
        } => Some(Moment::Copies),
        Happening::StepEntered {
            step: Step::CloseBuffers,
            ..
        } => Some(Moment::Runs),
        _ => None,
    };
    events.iter().filter_map(moment).collect()
}

/// What was learnt of moves whose batches are cut anew.
#[derive(Debug, Default)]
pub(crate) struct Arranging {
    sizes: BTreeMap<MigrationId, BatchSize>,
    /// What VMs to come dirty of their memory, bytes a second.
    dirty: BTreeMap<VmName, f64>,
}

impl Arranging {
    /// A move begins, or is taken up from the journal.
    pub(crate) fn begun(&mut self, migration: &Migration) {
        if let Some(max) = migration.request().batch_max {
            self.sizes.insert(migration.id(), BatchSize::first(max));
        }
    }

    /// A move is over.
    pub(crate) fn over(&mut self, migration: MigrationId) {
        self.sizes.remove(&migration);
        if self.sizes.is_empty() {
            self.dirty.clear();
        }
    }

    /// A host answered with what its VMs dirty; it knows nothing of others.
    pub(crate) fn measured(&mut self, dirty: &BTreeMap<VmName, DirtyRate>, own: &BTreeSet<VmName>) {
        if !self.sizes.is_empty() {
            let rates = dirty.iter().filter(|(vm, _)| own.contains(*vm));
            let rates = rates.map(|(vm, rate)| (vm.clone(), bytes_per_s(rate)));
            self.dirty.extend(rates);
        }
    }

    /// VMs to come, by the host that is to measure them.
    pub(crate) fn to_measure(&self, migration: &Migration) -> BTreeMap<HostName, Vec<VmName>> {
        let mut by_host: BTreeMap<HostName, Vec<VmName>> = BTreeMap::new();
        if self.sizes.contains_key(&migration.id()) && migration.request().mode == Mode::Live {
            let copied = migration.to_come().iter().flatten().filter(|vm| !vm.powered_off);
            for vm in copied {
                let of_host = by_host.entry(vm.source.clone()).or_default();
                of_host.push(vm.spec.name.clone());
            }
        }
        by_host
    }

    /// What is to come, cut by what is known now; `None` where the batches are fixed or there is
    /// nothing to cut.
    pub(crate) fn arrangement(
        &mut self,
        network: &Network,
        migration: &Migration,
        report: &MigrationReport,
    ) -> Option<Vec<Vec<MoveVm>>> {
        let size = self.sizes.get_mut(&migration.id())?;
        let moved: Vec<&VmReport> = report.vms.iter().filter(|vm| vm.blackout_ms.is_some()).collect();
        let newest = moved.iter().map(|vm| vm.batch).max()?;
        let blackouts = moved
            .iter()
            .filter(|vm| vm.batch == newest)
            .filter_map(|vm| vm.blackout_ms);
        let (vms, worst) = blackouts.fold((0, 0.0_f64), |(vms, worst), ms| (vms + 1, worst.max(ms)));
        let allowed = migration.request().limits.blackout_ms_max;
        size.learn(vms, Millis(worst.ceil() as u64), allowed);
        let cut = cut_rounds(
            network,
            migration.to_come(),
            &self.dirty,
            ratio(migration, &moved),
            size.get(),
        );
        (!cut.is_empty()).then_some(cut)
    }
}

/// What a VM dirties, as it was measured.
pub(crate) fn bytes_per_s(rate: &DirtyRate) -> f64 {
    rate.per_second.bytes().0 as f64
}

/// Share of memory's bytes that went over the wire so far.
fn ratio(migration: &Migration, moved: &[&VmReport]) -> f64 {
    let names: BTreeSet<&VmName> = moved.iter().map(|vm| &vm.id).collect();
    let vms = migration.request().batches.iter().flatten();
    let vms = vms.filter(|vm| names.contains(&vm.spec.name));
    let wire: f64 = moved.iter().map(|vm| vm.pages.wire.0 as f64).sum();
    let memory: f64 = vms.map(|vm| vm.spec.memory.bytes().0 as f64).sum();
    if memory > 0.0 {
        (wire / memory).min(1.0)
    } else {
        1.0
    }
}

/// Cuts each round of the planner by itself.
pub(crate) fn cut_rounds(
    network: &Network,
    to_come: &[Vec<MoveVm>],
    dirty: &BTreeMap<VmName, f64>,
    ratio: f64,
    vms_max: usize,
) -> Vec<Vec<MoveVm>> {
    let mut rounds: BTreeMap<usize, BTreeMap<&VmName, &MoveVm>> = BTreeMap::new();
    for vm in to_come.iter().flatten() {
        rounds.entry(vm.round).or_default().insert(&vm.spec.name, vm);
    }
    let mut batches = Vec::new();
    for vms in rounds.values() {
        let candidate = |vm: &&MoveVm| Candidate {
            vm: vm.spec.name.clone(),
            source: vm.source.clone(),
            target: vm.target.clone(),
            dirty_per_s: match vm.powered_off {
                true => Some(0.0),
                false => dirty.get(&vm.spec.name).copied(),
            },
        };
        let candidates: Vec<Candidate> = vms.values().map(candidate).collect();
        let names = cut(network, &candidates, ratio, vms_max);
        batches.extend(
            names
                .iter()
                .map(|batch| batch.iter().map(|vm| vms[vm].clone()).collect()),
        );
    }
    batches
}

#[cfg(test)]
mod tests {
    use transhume_model::{Epoch, Mebibytes, WallMicros};
    use transhume_protocol::migration::{MoveRequest, Now};

    use super::*;

    const NOW: Now = Now {
        mono: Millis(0),
        wall: WallMicros(0),
    };

    /// Six VMs by two, four of them in the first round.
    fn migration() -> Migration {
        let vm = |index: usize| {
            serde_json::json!({
                "spec": {
                    "name": format!("vm{index}"), "cluster": "lab", "vcpus": 1, "memory": 96, "machine": null,
                    "nics": [], "disks": [], "boot": { "kernel": "/k", "initrd": "/i", "cmdline": "" },
                },
                "source": "h1", "target": "h2", "round": index / 5,
            })
        };
        let request: MoveRequest = serde_json::from_value(serde_json::json!({
            "migration": 1, "cluster": "lab", "mode": "live", "epoch": Epoch(1), "from": ["h1"], "to": ["h2"],
            "batches": [[vm(1), vm(2)], [vm(3), vm(4)], [vm(5), vm(6)]], "batch_max": 6,
        }))
        .unwrap();
        Migration::begin(NOW, request).unwrap().0
    }

    fn names(batches: &[Vec<MoveVm>]) -> Vec<String> {
        let names = |batch: &Vec<MoveVm>| {
            let names: Vec<_> = batch.iter().map(|vm| vm.spec.name.as_str()).collect();
            names.join(" ")
        };
        batches.iter().map(names).collect()
    }

    #[test]
    fn what_is_to_come_is_measured_and_cut_by_it_round_by_round() {
        let migration = migration();
        let mut arranging = Arranging::default();
        arranging.begun(&migration);
        let to_measure = arranging.to_measure(&migration);
        let of_h1 = &to_measure[&"h1".parse::<HostName>().unwrap()];
        assert_eq!(of_h1.len(), 4, "those to come, not those under way");
        let rate = |mib| DirtyRate {
            per_second: Mebibytes(mib),
            sampled_pages: 100,
        };
        let dirty = [("vm3", rate(7)), ("vm4", rate(1))];
        let dirty = dirty.map(|(vm, rate)| (vm.parse::<VmName>().unwrap(), rate));
        let own = dirty.iter().map(|(vm, _)| vm.clone()).collect();
        // What another host says of them is passed over.
        let nonsense = dirty.clone().map(|(vm, _)| (vm, rate(900)));
        arranging.measured(&nonsense.into(), &BTreeSet::new());
        arranging.measured(&dirty.into(), &own);
        let mut report = migration.report(NOW);
        let network = Network::default();
        assert!(
            arranging.arrangement(&network, &migration, &report).is_none(),
            "nothing was moved yet"
        );
        report.vms[..2]
            .iter_mut()
            .for_each(|vm| vm.blackout_ms = Some(200.0));
        let cut = arranging.arrangement(&network, &migration, &report).unwrap();
        assert_eq!(names(&cut), ["vm4 vm3", "vm5 vm6"]);
        report.vms[0].blackout_ms = Some(800.0);
        let cut = arranging.arrangement(&network, &migration, &report).unwrap();
        assert_eq!(names(&cut), ["vm4", "vm3", "vm5", "vm6"], "two were too many");
    }
}
