//! Forecasts of live moves: what the planner gets to know of hosts and VMs, what it refuses
//! (§2.2.2), and how good it has been.
//!
//! Live, two things are measured: sizes and dirty rates. The speed of the migration links stands in
//! the configuration; everything else is the planner's to assume, and its assumptions are kept with
//! the forecast. Earlier moves of the cluster correct its ranges ([`super::lessons`]). Of a VM that
//! is powered off nothing is copied, and nothing is forecast.

use std::collections::{BTreeMap, BTreeSet};

use transhume_api::{ForecastLine, ForecastRecord, Score};
use transhume_model::{BitRate, Interval, PlacedVm, VmName};
use transhume_planner::forecast;
use transhume_planner::forecast::sampled_dirty_mib_s;
use transhume_planner::input::PlanInput;
use transhume_planner::report::{ForecastMove, Forecasts, Refused as TooSlow, Step};
use transhume_protocol::forecast::{Expected, ForecastVsActual, MoveForecast, VmForecast};
use transhume_protocol::message::Mode;
use transhume_protocol::migration::Converge;
use transhume_protocol::report::{Ending, MigrationReport};

use super::input::vmct;
use super::scene::Scene;
use crate::error::Refused;

const BYTES_PER_MIB: f64 = 1_048_576.0;
const MS_PER_S: f64 = 1_000.0;

/// What to expect of the batches, or the first VM that its share of the band cannot carry.
pub(super) fn make(scene: &Scene, input: &PlanInput, batches: &[Vec<Step>]) -> Result<MoveForecast, Refused> {
    let way = match scene.mode {
        Mode::Live => forecast::Mode::Live {
            blackout_ms_max: scene.blackout_max.0 as f64,
        },
        Mode::Offline => forecast::Mode::Offline,
    };
    let dirty = dirty_rates(scene);
    let batches = copied(scene, batches);
    let made = forecast(input, &batches, way).expect("the batches name hosts and VMs of the scene");
    // A guest that may be slowed down gets ready at any rate.
    let slowed_down = matches!(scene.converge, Converge::Throttle { .. });
    match made.refused.first().filter(|_| !slowed_down) {
        Some(vm) => Err(too_slow(scene, &dirty, vm)),
        None => Ok(assembled(scene, &dirty, made)),
    }
}

/// The batches without those VMs of which nothing is copied.
fn copied(scene: &Scene, batches: &[Vec<Step>]) -> Vec<Vec<Step>> {
    let off = scene.leaving().filter(|vm| scene.is_off(vm));
    let off: BTreeSet<&VmName> = off.map(|vm| &vm.spec.name).collect();
    let mut batches = batches.to_vec();
    for batch in &mut batches {
        batch.retain(|step| !off.contains(&step.vm));
    }
    batches.retain(|batch| !batch.is_empty());
    batches
}

/// What a VM dirties, as measured: a page stream that is no faster never gets it ready. Absent
/// where nothing was measured, and for a guest that may be slowed down.
pub(super) fn need(scene: &Scene, vm: &PlacedVm) -> Option<BitRate> {
    if matches!(scene.converge, Converge::Throttle { .. }) {
        return None;
    }
    let measured = scene.states.get(&vm.host)?.dirty.get(&vm.spec.name)?;
    BitRate::from_bits_per_s(measured.per_second.bytes().0.saturating_mul(8))
}

/// Measured dirty rates with their sampling error, MiB/s.
pub(super) fn dirty_rates(scene: &Scene) -> BTreeMap<VmName, Interval> {
    let measured = scene.leaving().filter_map(|vm| {
        let (name, rate) = scene.states.get(&vm.host)?.dirty.get_key_value(&vm.spec.name)?;
        let range = sampled_dirty_mib_s(rate.per_second, rate.sampled_pages, vm.spec.memory);
        Some((name.clone(), range))
    });
    measured.collect()
}

fn assembled(scene: &Scene, dirty: &BTreeMap<VmName, Interval>, made: Forecasts) -> MoveForecast {
    let vm = |one: &ForecastMove| {
        let link = [&one.step.source, &one.step.target]
            .into_iter()
            .filter_map(|host| {
                let (speed, assumed) = vmct(&scene.vmct_mbit_s, host);
                assumed.then(|| format!("the migration link of host {host} carries {speed} Mbit/s"))
            });
        let modelled = Expected {
            bytes: one.carried_mib.map(|mib| mib * BYTES_PER_MIB),
            duration_ms: one.duration_s.map(|s| s * MS_PER_S),
            blackout_ms: one.blackout_ms,
            gap_ms: None,
        };
        let expected = scene.lessons.apply(modelled);
        VmForecast {
            vm: one.step.vm.clone(),
            rate_mbit_s: one.rate_mbit_s,
            dirty_mib_s: dirty.get(&one.step.vm).copied(),
            expected,
            modelled: (expected != modelled).then_some(modelled),
            assumed: one.assumed.iter().cloned().chain(link).collect(),
        }
    };
    let vms: Vec<VmForecast> = made.batches.iter().flatten().map(vm).collect();
    let fold = |of: fn(&Expected) -> Interval, with: fn(Interval, Interval) -> Interval| {
        let figures = vms.iter().map(|vm| of(&vm.expected));
        figures.fold(Interval::default(), with)
    };
    let expected = Expected {
        bytes: fold(|one| one.bytes, Interval::plus),
        duration_ms: scene.lessons.duration_ms(made.duration_s.map(|s| s * MS_PER_S)),
        blackout_ms: fold(|one| one.blackout_ms, Interval::slowest),
        gap_ms: vms
            .iter()
            .map(|vm| vm.expected.gap_ms)
            .reduce(|a, b| Some(a?.slowest(b?)))
            .flatten(),
    };
    MoveForecast {
        vms,
        expected,
        learnt_from: scene.lessons.vms(),
    }
}

/// G3: refused before anything moves, with the rate that would do.
fn too_slow(scene: &Scene, dirty: &BTreeMap<VmName, Interval>, vm: &TooSlow) -> Refused {
    let measured = dirty.get(&vm.vm).copied().unwrap_or_default();
    let message = format!(
        "VM {} dirties {:.0} to {:.0} MiB of its memory a second; {:.0} Mbit/s, its share of the migration link, do not carry that within {}",
        vm.vm, measured.low, measured.high, vm.rate_mbit_s, scene.blackout_max
    );
    let or = "allow more with --max-blackout, move fewer VMs at once with --batch, slow it down with --converge throttle, or move it with --offline";
    let hint = match vm.rate_needed_mbit_s {
        Some(needed) => format!("{needed:.0} Mbit/s would do; or {or}"),
        None => format!("no rate would do: {or}"),
    };
    Refused::conflict("dirty-rate", message, hint)
}

/// How good the forecasts of these moves have been, VM by VM.
pub(crate) fn record<'a>(reports: impl Iterator<Item = &'a MigrationReport>) -> ForecastRecord {
    let mut record = ForecastRecord::default();
    for report in reports.filter(|report| report.outcome == Ending::Committed) {
        let Some(figures) = report.forecast else { continue };
        record.migrations.push(ForecastLine {
            migration: report.migration,
            cluster: report.cluster.clone(),
            vms: report.vms.len(),
            figures,
        });
        for vm in report.vms.iter().filter_map(|vm| vm.forecast.as_ref()) {
            count(&mut record.bytes, &vm.figures.bytes);
            count(&mut record.duration_ms, &vm.figures.duration_ms);
            count(&mut record.blackout_ms, &vm.figures.blackout_ms);
            vm.figures
                .gap_ms
                .iter()
                .for_each(|gap| count(&mut record.gap_ms, gap));
        }
    }
    record
}

fn count(score: &mut Score, figure: &ForecastVsActual) {
    if let Some(inside) = figure.inside {
        score.of += 1;
        score.inside += usize::from(inside);
    }
}
