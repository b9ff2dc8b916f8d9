//! Evacuation under a deadline: the hosts that are left die at a time that is known, and what
//! matters most is to be safe by then.
//!
//! ```text
//!  time of each VM alone on its links, weight ─▶ of each host: whom to take (knapsack)
//!                                                      │
//!  batches: the next VM of every host at once  ◀── heaviest a second first
//! ```
//!
//! Where VMs are parts of different moves, one after the other, a batch is of one move: that of the
//! VM which matters most of all that are next.
//!
//! One VM of a host at a time has its whole link, so it is safe as early as it can be; several at
//! once are all safe only when the last is. Times are the forecast's worst case. Whom the knapsack
//! takes is exact for one host, but for times that are rounded up to a 4096th of the deadline;
//! where several hosts share a target's link, it is a rule of thumb. What is safe in the end is
//! read off the schedule that comes out.

use std::collections::BTreeMap;

use crate::order::Hop;

/// Steps that the deadline is divided into.
const STEPS: usize = 4096;
/// Of a host with more VMs the heaviest a second are taken, without the knapsack.
const EXACT_MAX: usize = 5_000;

/// One VM that is to be safe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Job {
    pub hop: Hop,
    /// The move that it is a part of: no two share a batch.
    pub part_of: usize,
    /// Worst case, alone on its links, seconds.
    pub time_s: f64,
    pub weight: u32,
}

impl Job {
    /// Weight that is safe for each second spent.
    fn density(&self) -> f64 {
        f64::from(self.weight) / self.time_s.max(1e-9)
    }

    /// Steps of the deadline that it takes, rounded up; none where it takes longer.
    fn steps(&self, deadline_s: f64) -> Option<usize> {
        let steps = (self.time_s / deadline_s * STEPS as f64).ceil();
        (steps <= STEPS as f64).then_some(steps as usize)
    }
}

/// Batches in the order in which they go.
pub(crate) fn batches(jobs: Vec<Job>, deadline_s: f64) -> Vec<Vec<Hop>> {
    let mut of_host: BTreeMap<usize, Vec<Job>> = BTreeMap::new();
    for job in jobs {
        of_host.entry(job.hop.source).or_default().push(job);
    }
    let mut queues: Vec<_> = of_host
        .into_values()
        .map(|jobs| in_order(jobs, deadline_s).into_iter().peekable())
        .collect();
    let mut batches = Vec::new();
    loop {
        // The first of those that matter as much.
        let heads = queues.iter_mut().filter_map(|queue| queue.peek());
        let next = heads.reduce(|first, other| match rank(other) > rank(first) {
            true => other,
            false => first,
        });
        let Some(part) = next.map(|(job, _)| job.part_of) else {
            return batches;
        };
        let goes = queues
            .iter_mut()
            .filter_map(|queue| queue.next_if(|(job, _)| job.part_of == part));
        batches.push(goes.map(|(job, _)| job.hop).collect());
    }
}

/// What goes first: that which is to be safe in time, then what is heaviest a second.
fn rank((job, in_time): &(Job, bool)) -> (bool, f64) {
    (*in_time, job.density())
}

/// First those that are to be safe in time, which is said of each, then the rest; of each the
/// heaviest a second first.
fn in_order(mut jobs: Vec<Job>, deadline_s: f64) -> Vec<(Job, bool)> {
    jobs.sort_by(|a, b| {
        let by_density = b.density().total_cmp(&a.density());
        by_density.then(a.hop.vm.cmp(&b.hop.vm))
    });
    let taken = match jobs.len() <= EXACT_MAX {
        true => knapsack(&jobs, deadline_s),
        false => densest(&jobs, deadline_s),
    };
    let (first, rest): (Vec<_>, Vec<_>) = jobs.into_iter().zip(taken).partition(|(_, taken)| *taken);
    first.into_iter().chain(rest).collect()
}

/// Whom to take so that most weight is safe in time.
fn knapsack(jobs: &[Job], deadline_s: f64) -> Vec<bool> {
    let mut best = vec![0u64; STEPS + 1];
    let mut takes = vec![vec![false; STEPS + 1]; jobs.len()];
    for (job, takes) in jobs.iter().zip(&mut takes) {
        let Some(steps) = job.steps(deadline_s) else {
            continue;
        };
        for left in (steps..=STEPS).rev() {
            let with = best[left - steps] + u64::from(job.weight);
            if with > best[left] {
                (best[left], takes[left]) = (with, true);
            }
        }
    }
    let mut left = STEPS;
    let mut taken = vec![false; jobs.len()];
    for (index, takes) in takes.iter().enumerate().rev() {
        if takes[left] {
            taken[index] = true;
            left -= jobs[index].steps(deadline_s).unwrap_or(0);
        }
    }
    taken
}

fn densest(jobs: &[Job], deadline_s: f64) -> Vec<bool> {
    let mut left = STEPS;
    let fits = |job: &Job| match job.steps(deadline_s).filter(|steps| *steps <= left) {
        Some(steps) => {
            left -= steps;
            true
        }
        None => false,
    };
    jobs.iter().map(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(vm: usize, source: usize, time_s: f64, weight: u32) -> Job {
        Job {
            hop: Hop {
                vm,
                source,
                target: 9,
                spare: false,
            },
            part_of: 0,
            time_s,
            weight,
        }
    }

    #[test]
    fn what_are_parts_of_different_moves_share_no_batch() {
        let part = |job: Job, part_of| Job { part_of, ..job };
        let jobs = vec![
            part(job(0, 0, 1.0, 1), 0),
            part(job(1, 0, 1.0, 9), 1),
            part(job(2, 1, 1.0, 5), 0),
            part(job(3, 1, 1.0, 2), 1),
        ];
        assert_eq!(vms(&batches(jobs, 10.0)), [vec![1], vec![0, 2], vec![3]]);
        // The same move: the next of every host.
        let jobs = vec![
            part(job(0, 0, 1.0, 1), 3),
            part(job(1, 0, 1.0, 9), 3),
            part(job(2, 1, 1.0, 5), 3),
        ];
        assert_eq!(vms(&batches(jobs, 10.0)), [vec![1, 2], vec![0]]);
    }

    fn vms(batches: &[Vec<Hop>]) -> Vec<Vec<usize>> {
        let of = |batch: &Vec<Hop>| batch.iter().map(|hop| hop.vm).collect();
        batches.iter().map(of).collect()
    }

    #[test]
    fn what_fits_in_time_goes_before_what_only_looks_better() {
        // The first is the heaviest a second, but leaves room for neither of the others.
        let jobs = vec![job(0, 0, 6.0, 7), job(1, 0, 5.0, 5), job(2, 0, 5.0, 5)];
        assert_eq!(vms(&batches(jobs.clone(), 10.0)), [[1], [2], [0]]);
        assert_eq!(
            vms(&batches(jobs, 20.0)),
            [[0], [1], [2]],
            "time for all: the heaviest a second first"
        );
    }

    #[test]
    fn every_host_sends_one_at_a_time() {
        let jobs = vec![job(0, 0, 1.0, 1), job(1, 0, 1.0, 1), job(2, 1, 1.0, 1)];
        assert_eq!(vms(&batches(jobs, 10.0)), [vec![0, 2], vec![1]]);
        assert!(batches(Vec::new(), 10.0).is_empty());
    }

    #[test]
    fn what_weighs_nothing_or_takes_too_long_goes_last() {
        let jobs = vec![job(0, 0, 1.0, 0), job(1, 0, 30.0, 100), job(2, 0, 9.0, 1)];
        assert_eq!(vms(&batches(jobs, 10.0)), [[2], [1], [0]]);
    }

    /// Every subset tried.
    #[test]
    fn no_choice_saves_more() {
        let mut seed = 7u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..200 {
            let jobs: Vec<Job> = (0..8)
                .map(|vm| job(vm, 0, (next(12) + 1) as f64, next(9) as u32))
                .collect();
            // Times are whole steps of this deadline, so nothing is rounded.
            let deadline_s = 16.0;
            let weight = |taken: &dyn Fn(usize) -> bool| {
                let chosen = || jobs.iter().enumerate().filter(|(i, _)| taken(*i));
                let time: f64 = chosen().map(|(_, job)| job.time_s).sum();
                (time <= deadline_s).then(|| chosen().map(|(_, job)| u64::from(job.weight)).sum::<u64>())
            };
            let best = (0u32..256)
                .filter_map(|set| weight(&|i| set & (1 << i) != 0))
                .max();
            let taken = knapsack(&jobs, deadline_s);
            assert_eq!(weight(&|i| taken[i]), best, "{jobs:?}");
        }
    }
}
