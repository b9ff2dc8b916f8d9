//! What a plan says: serialized for `--json`, the API and the journal.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};
use transhume_model::{ClusterName, HostName, VmName};
use utoipa::ToSchema;

pub use transhume_model::Interval;

use crate::infeasible::{Addition, Impossible, Unplaced};
use crate::input::{PlanInput, UNIT, Vm, as_f64, decimal};
use crate::solve::Ended;
use crate::words::{listed, some};

/// VMs that have to leave and cannot whose reasons are told; the rest are counted.
const REASONS_TOLD_MAX: usize = 10;

/// The answer to [`plan()`](crate::plan()).
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PlanReport {
    /// The cluster.
    pub cluster: ClusterName,
    /// What came out.
    pub answer: Answer,
    /// Why the search ended.
    pub ended: Ended,
    /// Candidates that the search examined.
    pub work: u64,
}

impl PlanReport {
    /// Where no placement was found: that, and what ended the search, whose limit was `limit_s`.
    pub fn not_found(&self, limit_s: u64) -> Option<String> {
        let Answer::NotFound { hosts_min, .. } = &self.answer else {
            return None;
        };
        let found = match self.ended {
            Ended::Deadline => format!("no placement was found in {limit_s} s"),
            Ended::Cancelled => "the search was stopped before it found a placement".to_owned(),
            Ended::WorkBound | Ended::Complete => {
                "no placement was found, and the search came to its end".to_owned()
            }
        };
        let some = some(*hosts_min, "target");
        Some(format!("{found}; there may be one, on at least {some}"))
    }
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    /// Every VM has a place, or all but those that are named in `unplaced`.
    Planned(Box<Plan>),
    /// Proved: there is no placement.
    Impossible(Box<Impossible>),
    /// No placement was found before the search ended; there may be one.
    NotFound {
        /// A placement would need at least so many targets.
        hosts_min: usize,
        /// With these hosts more a placement was found.
        addition: Option<Addition>,
    },
}

/// A placement with its order and forecast.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Plan {
    /// Where every VM of the cluster goes or stays, in the order of the input.
    pub placement: Vec<Placed>,
    /// VMs that were to be placed and have no place; they stay where they are.
    pub unplaced: Vec<Unplaced>,
    /// Where some are unplaced: proved that not all can be placed, and what would help.
    pub why_not_all: Option<Box<Impossible>>,
    /// Groups that no order was found to keep on the way.
    pub broken_meanwhile: Vec<BrokenMeanwhile>,
    /// VMs that move without a resource `memory`: what moving them carries and how long it takes
    /// is not known.
    pub memory_unknown: Vec<VmName>,
    /// What was seen of hosts and VMs that have no part in the plan.
    pub notes: Vec<String>,
    /// Targets used, N(S2): hosts that receive or keep VMs that were to be placed.
    pub targets: Proof,
    /// Memory of the VMs that move, MiB.
    pub memory_moved_mib: Proof,
    /// Memory of all moves in the batches, MiB: a VM that goes by way of a spare host counts twice.
    pub memory_carried_mib: Total,
    /// Traffic between VMs on different hosts, Mbit/s.
    pub traffic_mbit_s: Proof,
    /// k, most VMs in one batch; 0 when nothing moves.
    pub k: usize,
    /// The batches in order.
    pub batches: Vec<PlannedBatch>,
    /// Steps that wait for each other and could not be freed; empty in a plan that can be carried
    /// out.
    pub cycle: Vec<Step>,
    /// States after which the search for an order was given up: there may be one. Absent where a
    /// cycle is proved, or there is none.
    pub cycle_states: Option<usize>,
    /// With one more host like this one for the time of the move they can be ordered: it was tried.
    pub cycle_freed_by: Option<HostName>,
    /// VMs whose memory the band cannot carry (§2.2.2); empty in a plan that can be carried out.
    pub refused: Vec<Refused>,
    /// Forecast of the whole move, seconds.
    pub duration_s: Interval,
    /// Traffic of each pair that moves times how long one of the two has moved and the other has
    /// not, at worst, Mbit.
    pub split_mbit: f64,
    /// Where the hosts that are left have a deadline: who is safe by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safe_by: Option<SafeBy>,
    /// In words: why these hosts, this order, this k.
    pub explanation: Vec<String>,
    /// Hosts before and after, for the picture.
    pub bars: Vec<Bar>,
}

impl Plan {
    /// Whether the plan can be carried out as it is.
    pub fn is_executable(&self) -> bool {
        self.cycle.is_empty() && self.refused.is_empty()
    }

    /// Why VMs that have to leave cannot, in words of bounded length.
    pub fn why_some_stay(&self) -> String {
        let mut told: Vec<String> = self.in_the_way().map(|one| one.why.clone()).collect();
        let left_out = told.len().saturating_sub(REASONS_TOLD_MAX);
        told.truncate(REASONS_TOLD_MAX);
        if left_out > 0 {
            told.push(format!("{left_out} more stay"));
        }
        told.join("; ")
    }

    /// Where moves wait for each other: that, and whether it is proved.
    pub fn why_no_order(&self) -> Option<String> {
        let why = match self.cycle_states {
            None => "no host is free to break the cycle".to_owned(),
            Some(states) => format!("no order was found within {states} states"),
        };
        let vms = listed(self.cycle.iter().map(|step| step.vm.as_str()));
        let waits = format!("VMs {vms} wait for each other's places, and {why}");
        (!self.cycle.is_empty()).then_some(waits)
    }

    /// VMs that have to leave their hosts and cannot.
    pub fn in_the_way(&self) -> impl Iterator<Item = &Unplaced> {
        self.unplaced.iter().filter(|unplaced| unplaced.must_leave)
    }
}

/// Where a VM runs and where it will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Placed {
    /// The VM.
    pub vm: VmName,
    /// Its host now.
    pub source: HostName,
    /// Its host after the move; the same when it stays.
    pub target: HostName,
}

/// A total of its unit, exact.
// Inside it counts parts, as `Amount::parts` does; JSON has units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, ToSchema)]
#[schema(value_type = f64)]
pub struct Total(pub u128);

impl Total {
    /// Whole units.
    pub fn units(units: usize) -> Self {
        Self(units as u128 * UNIT)
    }

    /// As a floating number of units.
    pub fn as_f64(self) -> f64 {
        as_f64(self.0)
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&decimal(self.0))
    }
}

impl Serialize for Total {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.0 % UNIT, u64::try_from(self.0 / UNIT)) {
            (0, Ok(units)) => serializer.serialize_u64(units),
            _ => serializer.serialize_f64(self.as_f64()),
        }
    }
}

/// A value of the objective and what is proved about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Proof {
    /// What the plan has.
    pub value: Total,
    /// No plan with the more important objectives as good as here has less.
    pub at_least: Total,
    /// Optimal: the two are equal, and so they are for the more important objectives.
    pub optimal: bool,
}

impl Proof {
    /// How far the value may be above the optimum, percent of the bound.
    pub fn gap_percent(&self) -> f64 {
        let (value, bound) = (self.value.as_f64(), self.at_least.as_f64());
        match value <= bound {
            true => 0.0,
            false => 100.0 * (value - bound) / bound.max(1e-3),
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.optimal {
            true => write!(f, "{} (optimal, proved)", self.value),
            false => write!(
                f,
                "{} (at least {}, gap {:.1} %)",
                self.value,
                self.at_least,
                self.gap_percent()
            ),
        }
    }
}

/// One move of one VM; a VM that frees a cycle makes two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Step {
    /// The VM.
    pub vm: VmName,
    /// From here.
    pub source: HostName,
    /// To there.
    pub target: HostName,
    /// It goes on to its own target later: this host only frees a cycle.
    pub spare: bool,
}

/// A group that holds before the first and after the last batch, and not all the time between.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct BrokenMeanwhile {
    /// The group.
    pub group: String,
    /// Broken when this batch has committed, from 1 ...
    pub after_batch: usize,
    /// ... until this one has.
    pub until_batch: usize,
    /// For so long, seconds.
    pub duration_s: Interval,
}

impl BrokenMeanwhile {
    /// In words.
    pub fn sentence(&self) -> String {
        format!(
            "group {} is broken from batch {} to batch {}, for {:.0} to {:.0} s",
            self.group, self.after_batch, self.until_batch, self.duration_s.low, self.duration_s.high
        )
    }
}

/// VMs that are not safe in time that are told one by one; the rest are counted.
const LATE_TOLD_MAX: usize = 20;

/// Who is safe before the hosts that are left die; times are the forecast's worst case.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct SafeBy {
    /// The deadline, seconds from the beginning.
    pub deadline_s: f64,
    /// Weight of all VMs that are to leave.
    pub weight: u64,
    /// Weight of those that are safe in time.
    pub weight_safe: u64,
    /// VMs that are to leave and are not safe in time, in the order in which they go.
    pub late: Vec<Late>,
}

/// A VM that is not safe in time.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Late {
    /// The VM.
    pub vm: VmName,
    /// When it would be safe, seconds from the beginning; absent where it has no place.
    pub safe_after_s: Option<f64>,
}

impl SafeBy {
    /// In words: who is safe in time, and who is not.
    pub fn sentences(&self) -> Vec<String> {
        let mut said = vec![format!(
            "safe within {:.0} s, at worst: {} of a weight of {}",
            self.deadline_s, self.weight_safe, self.weight
        )];
        let told = self.late.iter().take(LATE_TOLD_MAX);
        said.extend(told.map(|late| match late.safe_after_s {
            Some(after_s) => format!(
                "VM {} is not safe in time: after {after_s:.0} s, {:.0} s too late",
                late.vm,
                after_s - self.deadline_s
            ),
            None => format!("VM {} is not safe: it has no place", late.vm),
        }));
        if self.late.len() > LATE_TOLD_MAX {
            said.push(format!(
                "{} more are not safe in time",
                self.late.len() - LATE_TOLD_MAX
            ));
        }
        said
    }

    /// As the batches of a plan have it.
    pub(crate) fn of(input: &PlanInput, plan: &Plan, deadline_s: f64) -> Self {
        let mut ends: BTreeMap<&VmName, f64> = BTreeMap::new();
        let mut now_s = 0.0;
        for batch in &plan.batches {
            now_s += batch.duration_s.high;
            ends.extend(batch.moves.iter().map(|one| (&one.step.vm, now_s)));
        }
        let leaving = || {
            let vms = input.cluster.vms.iter();
            vms.filter(|vm| input.from.contains(&vm.host))
        };
        let end = |vm: &Vm| ends.get(&vm.name).copied();
        let in_time = |vm: &&Vm| end(vm).is_some_and(|end_s| end_s <= deadline_s);
        let weight = |vm: &Vm| u64::from(vm.weight);
        let mut late: Vec<Late> = leaving()
            .filter(|vm| !in_time(vm))
            .map(|vm| Late {
                vm: vm.name.clone(),
                safe_after_s: end(vm),
            })
            .collect();
        let order = |late: &Late| late.safe_after_s.unwrap_or(f64::INFINITY);
        late.sort_by(|a, b| order(a).total_cmp(&order(b)));
        SafeBy {
            deadline_s,
            weight: leaving().map(weight).sum(),
            weight_safe: leaving().filter(in_time).map(weight).sum(),
            late,
        }
    }
}

/// A batch V_k with its forecast.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct PlannedBatch {
    /// The moves, each with its forecast.
    pub moves: Vec<ForecastMove>,
    /// Time of the batch, seconds: its slowest VM.
    pub duration_s: Interval,
    /// Bytes over VMCT, MiB.
    pub carried_mib: Interval,
    /// Blackout of each of its VMs, milliseconds: they commit as one.
    pub blackout_ms: Interval,
    /// Use of the bands of the hosts that take part.
    pub links: Vec<LinkUse>,
}

/// A step and what to expect of it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct ForecastMove {
    /// The step.
    #[serde(flatten)]
    pub step: Step,
    /// Rate set for its page stream, Mbit/s.
    pub rate_mbit_s: f64,
    /// Memory carried, MiB.
    pub carried_mib: Interval,
    /// From the first page to activation, seconds.
    pub duration_s: Interval,
    /// Blackout, milliseconds.
    pub blackout_ms: Interval,
    /// Pre-copy rounds.
    pub rounds: Interval,
    /// Figures that were not measured and are assumed.
    pub assumed: Vec<String>,
}

/// Forecast of a move whose batches are chosen.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Forecasts {
    /// The moves of each batch.
    pub batches: Vec<Vec<ForecastMove>>,
    /// VMs whose measured dirty rate their share of the band cannot carry (§2.2.2).
    pub refused: Vec<Refused>,
    /// The whole move, seconds.
    pub duration_s: Interval,
}

/// Bands of one host during a batch, as shares of each band (1 = full).
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct LinkUse {
    /// The host.
    pub host: HostName,
    /// Cluster traffic that leaves or reaches the host, the busier direction: from half of what the
    /// pairs exchange (both directions alike) to all of it, before or after the batch commits.
    pub ct: Interval,
    /// Migration, the busier direction, while pages are sent.
    pub vmct: Interval,
    /// Storage of the VMs on the host, before or after the batch commits.
    pub nast: Interval,
}

/// A VM that must not be moved at this rate.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Refused {
    /// The VM.
    pub vm: VmName,
    /// The rate it would get, Mbit/s.
    pub rate_mbit_s: f64,
    /// The rate that would do; `None` when none below [`crate::forecast::RATE_MBIT_S_MAX`] does.
    pub rate_needed_mbit_s: Option<f64>,
    /// In words.
    pub why: String,
}

/// One host in the picture, by its fullest resource; shares are thousandths of all it has of that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Bar {
    /// The host.
    pub host: HostName,
    /// The resource: the one that is fullest before or after.
    pub resource: String,
    /// What the host has of it, after overcommit.
    pub whole: Total,
    /// Share that others than this cluster use.
    pub others: u32,
    /// VMs before, each with its share.
    pub before: Vec<(VmName, u32)>,
    /// VMs after.
    pub after: Vec<(VmName, u32)>,
}
