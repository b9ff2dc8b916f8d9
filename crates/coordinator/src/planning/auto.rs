//! Batches of a move that are cut by what its VMs dirty and its links carry, and anew while it
//! runs.

use std::collections::BTreeMap;

use transhume_governor::BatchSize;
use transhume_model::VmName;
use transhume_planner::{Batch, Move};
use transhume_protocol::forecast::MoveForecast;
use transhume_protocol::migration::MoveVm;

use super::forecasts;
use super::scene::Scene;
use crate::arranging::{bytes_per_s, cut_rounds};
use crate::error::Refused;

/// Memory as it goes over the wire before anything is known of how it compresses.
const RATIO_UNKNOWN: f64 = 1.0;

/// Cuts the planner's rounds into batches of at most `batch_max` VMs, of fewer where the forecast
/// says that they would not get ready together.
pub(super) fn batches(
    scene: &Scene,
    rounds: &[Vec<MoveVm>],
    planned: &[Batch],
    batch_max: usize,
) -> Result<(Vec<Vec<MoveVm>>, MoveForecast), Refused> {
    let dirty = measured(scene);
    let mut vms_max = BatchSize::first(batch_max).get();
    loop {
        let cut = cut_rounds(&scene.network, rounds, &dirty, RATIO_UNKNOWN, vms_max);
        match forecasts::make(scene, &as_planned(&cut, planned)) {
            Ok(forecast) => return Ok((cut, forecast)),
            Err(refused) if vms_max == 1 => return Err(refused),
            Err(_) => vms_max /= 2,
        }
    }
}

fn measured(scene: &Scene) -> BTreeMap<VmName, f64> {
    let states = scene.states.values().flat_map(|state| &state.dirty);
    states.map(|(vm, rate)| (vm.clone(), bytes_per_s(rate))).collect()
}

/// The planner's moves in these batches.
fn as_planned(cut: &[Vec<MoveVm>], planned: &[Batch]) -> Vec<Batch> {
    let moves = planned.iter().flat_map(|batch| &batch.moves);
    let moves: BTreeMap<&VmName, &Move> = moves.map(|planned| (&planned.vm, planned)).collect();
    let of = |vm: &MoveVm| moves.get(&vm.spec.name).copied().cloned();
    cut.iter()
        .map(|batch| Batch {
            moves: batch.iter().filter_map(of).collect(),
        })
        .collect()
}
