//! Times of the planner's parts: `cargo bench -p transhume-planner`. Instances come from seeds,
//! named in each benchmark.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use transhume_planner::generate::{DataCentre, data_centre, small, triplets};
use transhume_planner::input::{json_schema, read};
use transhume_planner::{Go, Options, Watch, measure, plan};

/// Work allowed to one exact solution.
const WORK_MAX: u64 = 200_000_000;

fn shape(vms: usize, vm_kinds: usize, hosts: usize, anti_affinity_percent: u64) -> DataCentre {
    DataCentre {
        vms,
        vm_kinds,
        hosts,
        host_kinds: 1,
        resources: 3,
        anti_affinity_percent,
    }
}

fn solving(c: &mut Criterion) {
    let mut group = c.benchmark_group("exact");
    group.sample_size(10);
    let instances = [
        (
            "40 VMs, 4 hosts (the paper's), seed 1",
            data_centre(shape(40, 1, 4, 0), 1),
        ),
        (
            "400 different VMs, 40 hosts, seed 4",
            data_centre(shape(400, 0, 40, 0), 4),
        ),
        (
            "400 VMs of 20 kinds, 5 % apart, seed 1",
            data_centre(shape(400, 20, 40, 5), 1),
        ),
        ("60 VMs in triplets, seed 1", triplets(60, 1)),
    ];
    for (name, input) in &instances {
        group.bench_function(*name, |b| {
            b.iter(|| {
                let mut ask = || Go::On;
                black_box(measure::exact(input, &mut Watch::new(WORK_MAX, &mut ask)))
            });
        });
    }
    group.finish();
}

fn baselines(c: &mut Criterion) {
    let input = data_centre(shape(400, 0, 40, 0), 4);
    let mut group = c.benchmark_group("400 different VMs, 40 hosts, seed 4");
    group.sample_size(10);
    group.bench_function("first fit decreasing", |b| {
        b.iter(|| measure::first_fit_decreasing(&input, &mut Watch::new(WORK_MAX, &mut || Go::On)));
    });
    group.bench_function("best fit decreasing", |b| {
        b.iter(|| measure::best_fit_decreasing(&input, &mut Watch::new(WORK_MAX, &mut || Go::On)));
    });
    group.bench_function("paper", |b| b.iter(|| measure::paper(&input)));
    group.finish();
}

fn whole(c: &mut Criterion) {
    let input = small(11);
    let json = serde_json::to_string(&data_centre(shape(400, 0, 40, 0), 4)).expect("an input is JSON");
    c.bench_function("whole plan, small, seed 11", |b| {
        b.iter(|| plan(&input, &Options::default()))
    });
    c.bench_function("reading 400 VMs as JSON", |b| {
        b.iter(|| read("bench.json", &json))
    });
    c.bench_function("schema", |b| b.iter(json_schema));
}

criterion_group!(benches, solving, baselines, whole);
criterion_main!(benches);
