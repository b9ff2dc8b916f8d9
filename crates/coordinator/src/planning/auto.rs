//! Batches of a move that are cut by what its VMs dirty and its links carry, and anew while it
//! runs.

use std::collections::BTreeMap;

use transhume_governor::BatchSize;
use transhume_model::VmName;
use transhume_planner::input::PlanInput;
use transhume_planner::report::Step;
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
    input: &PlanInput,
    rounds: &[Vec<MoveVm>],
    batch_max: usize,
) -> Result<(Vec<Vec<MoveVm>>, MoveForecast), Refused> {
    let dirty = measured(scene);
    let mut vms_max = BatchSize::first(batch_max).get();
    loop {
        let cut = cut_rounds(&scene.network, rounds, &dirty, RATIO_UNKNOWN, vms_max);
        match forecasts::make(scene, input, &steps(&cut)) {
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

/// What moves in these batches.
pub(super) fn steps(batches: &[Vec<MoveVm>]) -> Vec<Vec<Step>> {
    let step = |vm: &MoveVm| Step {
        vm: vm.spec.name.clone(),
        source: vm.source.clone(),
        target: vm.target.clone(),
        spare: false,
    };
    batches
        .iter()
        .map(|batch| batch.iter().map(step).collect())
        .collect()
}
