//! k, rates and forecast: the order of [`crate::order`] for several k, each with its forecast, and
//! the best of them.
//!
//! The VMs of a batch share the VMCT bands of their hosts fairly: rates grow together until a link
//! is full, those on other links grow on (max-min). Best is: nothing refused, no group broken on
//! the way, least memory carried, then of those with nearly the least time the one that splits
//! talking VMs least, then least time, then the smallest k.

use std::collections::BTreeMap;

use transhume_model::{HostName, VmName};

use crate::deadline::{self, Job};
use crate::forecast::{Figures, Forecast, Mode, together};
use crate::input::{InputError, Place, PlanInput};
use crate::link;
use crate::meanwhile::Groups;
use crate::order::{Hop, Moves, Order, order};
use crate::report::{BrokenMeanwhile, ForecastMove, Forecasts, Interval, PlannedBatch, Refused, Step, Total};

/// Orders of more moves than this are tried for fewer k.
const MOVES_FOR_ALL_K_MAX: usize = 2_000;

/// Within this much of the least worst-case time, what keeps talkers together counts more than
/// time.
const LONGER_TO_STAY_TOGETHER: f64 = 1.10;
/// A hundredth of the time is not worth a larger batch.
const SHORTER_TO_BE_FASTER: f64 = 0.99;

/// The chosen schedule.
pub(crate) struct Schedule {
    pub k: usize,
    pub batches: Vec<PlannedBatch>,
    /// Memory of all hops, thousandths of a MiB.
    pub carried: u128,
    pub cycle: Vec<Step>,
    /// States after which the search for an order was given up.
    pub states: Option<usize>,
    pub refused: Vec<Refused>,
    pub duration_s: Interval,
    /// Traffic of talking pairs times how long one has moved and the other has not, at worst.
    pub split_mbit: f64,
    /// Groups that are broken on the way.
    pub broken: Vec<BrokenMeanwhile>,
    /// Every k that was tried, with its worst-case time and how many VMs it would refuse.
    pub tried: Vec<(usize, f64, usize)>,
}

/// Schedules the moves with the k asked for, or the best one.
pub(crate) fn schedule(
    input: &PlanInput,
    moves: &Moves<'_>,
    k: Option<usize>,
    mode: Mode,
    in_time: Option<&InTime<'_>>,
) -> Schedule {
    let vms = moves.vms.iter().map(|vm| &input.cluster.vms[*vm]);
    let figures: Vec<Figures> = vms.map(Figures::of).collect();
    let groups = Groups::of(input, moves);
    if let Some(in_time) = in_time {
        let order = in_time.order(input, moves, &figures, mode);
        let k = order.batches.iter().map(Vec::len).max().unwrap_or(0);
        return of_order(input, moves, (&figures, &groups), &order, k, mode);
    }
    let mut tried = Vec::new();
    let mut nearly_best: Vec<Schedule> = Vec::new();
    for k in candidates(moves.count(), k) {
        let next = with_k(input, moves, (&figures, &groups), k, mode);
        tried.push((k, next.duration_s.high, next.refused.len()));
        nearly_best.push(next);
        keep_nearly_best(&mut nearly_best);
    }
    // The smaller k come first and win where two do not differ otherwise.
    let better = |best: Schedule, next: Schedule| {
        let by_split = next.split_mbit.total_cmp(&best.split_mbit);
        let faster = next.duration_s.high < best.duration_s.high * SHORTER_TO_BE_FASTER;
        match by_split.is_lt() || (by_split.is_eq() && faster) {
            true => next,
            false => best,
        }
    };
    let best = nearly_best.into_iter().reduce(better);
    Schedule {
        tried,
        ..best.expect("there is always a k to try")
    }
}

/// Drops schedules that leave more behind, break more groups on the way, carry more, or take
/// clearly longer than another.
fn keep_nearly_best(schedules: &mut Vec<Schedule>) {
    let key = |s: &Schedule| (s.cycle.len(), s.refused.len(), s.broken.len(), s.carried);
    let least = schedules.iter().map(key).min();
    schedules.retain(|s| Some(key(s)) == least);
    let times = schedules.iter().map(|s| s.duration_s.high);
    let time_max = times.fold(f64::INFINITY, f64::min) * LONGER_TO_STAY_TOGETHER;
    schedules.retain(|s| s.duration_s.high <= time_max);
}

/// Traffic of each pair that moves, times how long one of the two has moved and the other has not;
/// each batch takes its longest.
fn split_mbit(moves: &Moves<'_>, batches: &[Vec<Hop>], ends_s: &[f64]) -> f64 {
    let mut moved_s: Vec<Option<f64>> = vec![None; moves.source.len()];
    for (hops, end_s) in batches.iter().zip(ends_s) {
        hops.iter().for_each(|hop| moved_s[hop.vm] = Some(*end_s));
    }
    let mut sum = 0.0;
    for (vm, peers) in moves.peers.iter().enumerate() {
        for (peer, amount) in peers.iter().filter(|(peer, _)| *peer > vm) {
            if let (Some(one), Some(other)) = (moved_s[vm], moved_s[*peer]) {
                sum += Total(*amount).as_f64() * (one - other).abs();
            }
        }
    }
    sum
}

/// The k to try: powers of two up to the number of moves, or what was asked for, at most the number
/// of moves (§3.3.2 step 1).
fn candidates(moving: usize, asked: Option<usize>) -> Vec<usize> {
    if let Some(k) = asked {
        return vec![k.min(moving)];
    }
    let step = if moving > MOVES_FOR_ALL_K_MAX { 8 } else { 2 };
    let powers = std::iter::successors(Some(1usize), |k| k.checked_mul(step));
    let mut all: Vec<usize> = powers.take_while(|k| *k < moving).collect();
    all.push(moving);
    all
}

/// Forecasts a move whose batches are chosen: what the coordinator asks before it begins one.
pub fn forecast(input: &PlanInput, batches: &[Vec<Step>], mode: Mode) -> Result<Forecasts, InputError> {
    let unknown = |kind: &str, name: &str| InputError {
        place: Place::default(),
        what: format!("the batches name {kind} {name}, which the input does not have"),
        hint: None,
    };
    let host = |name: &HostName| {
        let found = input.hosts.iter().position(|host| host.name == *name);
        found.ok_or_else(|| unknown("host", name.as_str()))
    };
    let hop = |one: &Step| {
        let vm = input.cluster.vms.iter().position(|vm| vm.name == one.vm);
        Ok(Hop {
            vm: vm.ok_or_else(|| unknown("VM", one.vm.as_str()))?,
            source: host(&one.source)?,
            target: host(&one.target)?,
            spare: one.spare,
        })
    };
    let figures: Vec<Figures> = input.cluster.vms.iter().map(Figures::of).collect();
    let vms: Vec<usize> = (0..figures.len()).collect();
    let mut all = Forecasts::default();
    for batch in batches {
        let hops: Vec<Hop> = batch.iter().map(hop).collect::<Result<_, InputError>>()?;
        let known = Known {
            input,
            vms: &vms,
            figures: &figures,
            mode,
        };
        let moves = known.forecast(&hops, &rates(input, &hops), &mut all.refused);
        all.duration_s = all.duration_s.plus(slowest(&moves));
        all.batches.push(moves);
    }
    Ok(all)
}

/// What forecasts of hops are made of.
struct Known<'a> {
    input: &'a PlanInput,
    /// Index of each VM that hops name among the cluster's.
    vms: &'a [usize],
    /// Its figures.
    figures: &'a [Figures],
    mode: Mode,
}

impl Known<'_> {
    /// The VMs of one batch at their rates; those that cannot be carried are added to `refused`.
    fn forecast(&self, hops: &[Hop], rates: &[f64], refused: &mut Vec<Refused>) -> Vec<ForecastMove> {
        let (figures, mode) = (self.figures, self.mode);
        let of = |(hop, rate): (&Hop, &f64)| figures[hop.vm].at(*rate, mode);
        let mut forecasts: Vec<Forecast> = hops.iter().zip(rates).map(of).collect();
        together(&mut forecasts, at_once(hops));
        let mut list = Vec::new();
        for ((hop, rate), forecast) in hops.iter().zip(rates).zip(forecasts) {
            let figures = &figures[hop.vm];
            if forecast.diverges && figures.dirty_known {
                refused.push(refuse(self.input, self.vms[hop.vm], *rate, figures, mode));
            }
            let step = step(self.input, self.vms, hop);
            list.push(forecast_move(step, *rate, forecast, figures, mode));
        }
        list
    }
}

/// The most VMs of a batch that leave or reach one host.
fn at_once(hops: &[Hop]) -> usize {
    let mut count: BTreeMap<(bool, usize), usize> = BTreeMap::new();
    for hop in hops {
        *count.entry((false, hop.source)).or_default() += 1;
        *count.entry((true, hop.target)).or_default() += 1;
    }
    count.into_values().max().unwrap_or(0)
}

fn slowest(moves: &[ForecastMove]) -> Interval {
    let durations = moves.iter().map(|one| one.duration_s);
    durations.fold(Interval::default(), Interval::slowest)
}

fn with_k(
    input: &PlanInput,
    moves: &Moves<'_>,
    (figures, groups): (&[Figures], &Groups),
    k: usize,
    mode: Mode,
) -> Schedule {
    let order = order(moves, k.max(1));
    of_order(input, moves, (figures, groups), &order, k, mode)
}

/// When the hosts that are left die.
pub(crate) struct InTime<'a> {
    pub safe_by_s: f64,
    /// The move that each VM is a part of, where they are several; none is the same as 0.
    pub part_of: &'a BTreeMap<VmName, usize>,
}

impl InTime<'_> {
    /// Those first that are to be safe by then.
    fn order(&self, input: &PlanInput, moves: &Moves<'_>, figures: &[Figures], mode: Mode) -> Order {
        let all = (0..moves.source.len()).filter(|vm| moves.source[*vm] != moves.target[*vm]);
        let jobs = all.map(|vm| {
            let hop = Hop {
                vm,
                source: moves.source[vm],
                target: moves.target[vm],
                spare: false,
            };
            let link = |host: usize| f64::from(input.hosts[host].bands.vmct_mbit_s);
            let alone = link(hop.source).min(link(hop.target));
            let described = &input.cluster.vms[moves.vms[vm]];
            Job {
                hop,
                part_of: self.part_of.get(&described.name).copied().unwrap_or(0),
                time_s: figures[vm].at(alone, mode).duration_s.high,
                weight: described.weight,
            }
        });
        Order::of(deadline::batches(jobs.collect(), self.safe_by_s))
    }
}

/// The forecast of an order.
fn of_order(
    input: &PlanInput,
    moves: &Moves<'_>,
    (figures, groups): (&[Figures], &Groups),
    order: &Order,
    k: usize,
    mode: Mode,
) -> Schedule {
    let known = Known {
        input,
        vms: &moves.vms,
        figures,
        mode,
    };
    let mut place = moves.source.clone();
    let mut refused: Vec<Refused> = Vec::new();
    let mut batches = Vec::new();
    let mut duration_s = Interval::default();
    let mut ends_s = Vec::new();
    for hops in &order.batches {
        let rates = rates(input, hops);
        let list = known.forecast(hops, &rates, &mut refused);
        let batch = PlannedBatch {
            duration_s: slowest(&list),
            carried_mib: list
                .iter()
                .fold(Interval::default(), |sum, m| sum.plus(m.carried_mib)),
            blackout_ms: list
                .iter()
                .fold(Interval::default(), |most, m| most.slowest(m.blackout_ms)),
            links: link::uses(input, moves, &place, hops, &rates),
            moves: list,
        };
        duration_s = duration_s.plus(batch.duration_s);
        ends_s.push(duration_s.high);
        batches.push(batch);
        hops.iter().for_each(|hop| place[hop.vm] = hop.target);
    }
    let broken = groups.broken(moves, &order.batches);
    let broken = broken.into_iter().map(|window| {
        let meanwhile = &batches[window.after + 1..(window.until + 1).min(batches.len())];
        BrokenMeanwhile {
            group: input.cluster.groups[window.group].name.clone(),
            after_batch: window.after + 1,
            until_batch: window.until + 1,
            duration_s: meanwhile
                .iter()
                .fold(Interval::default(), |sum, batch| sum.plus(batch.duration_s)),
        }
    });
    let broken = broken.collect();
    refused.sort_by(|a, b| a.vm.cmp(&b.vm));
    refused.dedup_by(|a, b| a.vm == b.vm);
    Schedule {
        k,
        batches,
        carried: moves.carried(order.hops()).0,
        cycle: order
            .cycle
            .iter()
            .map(|hop| step(input, &moves.vms, hop))
            .collect(),
        states: order.states,
        refused,
        duration_s,
        broken,
        split_mbit: split_mbit(moves, &order.batches, &ends_s),
        tried: Vec::new(),
    }
}

fn step(input: &PlanInput, vms: &[usize], hop: &Hop) -> Step {
    Step {
        vm: input.cluster.vms[vms[hop.vm]].name.clone(),
        source: input.hosts[hop.source].name.clone(),
        target: input.hosts[hop.target].name.clone(),
        spare: hop.spare,
    }
}

fn forecast_move(step: Step, rate: f64, forecast: Forecast, figures: &Figures, mode: Mode) -> ForecastMove {
    let mut assumed = figures.assumed(mode);
    if forecast.diverges && !figures.dirty_known {
        assumed.push(
            "the worst case of the assumed dirty rate would not converge: measure it before moving"
                .to_owned(),
        );
    }
    ForecastMove {
        step,
        rate_mbit_s: rate,
        carried_mib: forecast.carried_mib,
        duration_s: forecast.duration_s,
        blackout_ms: forecast.blackout_ms,
        rounds: forecast.rounds,
        assumed,
    }
}

fn refuse(input: &PlanInput, vm: usize, rate: f64, figures: &Figures, mode: Mode) -> Refused {
    let needed = figures.rate_needed(mode);
    let within = match mode {
        Mode::Live { blackout_ms_max } => format!("within {blackout_ms_max:.0} ms"),
        Mode::Offline => "while it is stopped".to_owned(),
    };
    let name = &input.cluster.vms[vm].name;
    let help = match needed {
        Some(needed) => format!("{needed:.0} Mbit/s would do, or a longer blackout, or fewer VMs at once"),
        None => "no rate would do: allow a longer blackout, or move it offline".to_owned(),
    };
    Refused {
        vm: name.clone(),
        rate_mbit_s: rate,
        rate_needed_mbit_s: needed,
        why: format!("VM {name} dirties memory faster than {rate:.0} Mbit/s carries it {within}: {help}"),
    }
}

/// Max-min fair rates of the moves of one batch over the outgoing link of each source and the
/// incoming one of each target.
fn rates(input: &PlanInput, hops: &[Hop]) -> Vec<f64> {
    let hosts = input.hosts.len();
    let link = |host: usize| f64::from(input.hosts[host].bands.vmct_mbit_s);
    // Links 0..hosts go out, hosts..2*hosts come in.
    let mut left: Vec<f64> = (0..2 * hosts).map(|l| link(l % hosts)).collect();
    let mut open = vec![0usize; 2 * hosts];
    for hop in hops {
        open[hop.source] += 1;
        open[hosts + hop.target] += 1;
    }
    let mut links: Vec<usize> = hops.iter().flat_map(|h| [h.source, hosts + h.target]).collect();
    links.sort_unstable();
    links.dedup();
    let mut rates: Vec<Option<f64>> = vec![None; hops.len()];
    while rates.iter().any(Option::is_none) {
        let share = |l: usize| left[l] / open[l] as f64;
        let tightest = links
            .iter()
            .copied()
            .filter(|l| open[*l] > 0)
            .min_by(|a, b| share(*a).total_cmp(&share(*b)));
        let Some(tightest) = tightest else {
            break;
        };
        let rate = share(tightest);
        for (hop, set) in hops.iter().zip(&mut rates).filter(|(_, set)| set.is_none()) {
            if hop.source == tightest || hosts + hop.target == tightest {
                *set = Some(rate);
                for l in [hop.source, hosts + hop.target] {
                    left[l] = (left[l] - rate).max(0.0);
                    open[l] -= 1;
                }
            }
        }
    }
    rates.into_iter().map(|r| r.unwrap_or(0.0)).collect()
}
