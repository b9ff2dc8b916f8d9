//! What benchmarks and the table in the documentation ask: bare solver results without reports.

use serde::Serialize;

use crate::input::PlanInput;
use crate::paper::{self, Lists, Outcome};
use crate::problem::Problem;
use crate::solve::{self, Ended, Watch};

/// Solver results on one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Measured {
    /// Targets used; `None`: no placement found.
    pub hosts: Option<usize>,
    /// Proved: not fewer.
    pub hosts_min: usize,
    /// Why the search ended.
    pub ended: Ended,
    /// Candidates examined.
    pub work: u64,
}

/// The exact strategy.
pub fn exact(input: &PlanInput, watch: &mut Watch<'_>) -> Measured {
    let solution = solve::solve(&Problem::of(input), watch);
    Measured {
        hosts: solution.host_of.as_ref().map(|_| solution.cost.hosts),
        hosts_min: solution.least.hosts,
        ended: solution.ended,
        work: solution.work,
    }
}

/// First fit decreasing.
pub fn first_fit_decreasing(input: &PlanInput, watch: &mut Watch<'_>) -> Option<usize> {
    solve::baseline(&Problem::of(input), false, watch)
}

/// Best fit decreasing.
pub fn best_fit_decreasing(input: &PlanInput, watch: &mut Watch<'_>) -> Option<usize> {
    solve::baseline(&Problem::of(input), true, watch)
}

/// The paper's recursion; amounts only, so on instances without other constraints.
pub fn paper(input: &PlanInput) -> Option<usize> {
    let problem = Problem::of(input);
    let targets: Vec<usize> = (0..problem.hosts.len())
        .filter(|h| problem.allow.iter().any(|set| set[*h]))
        .collect();
    let lists = Lists {
        hosts: targets.iter().map(|h| problem.hosts[*h].clone()).collect(),
        requests: problem.items.iter().map(|i| i.demand.clone()).collect(),
        home: vec![None; problem.items.len()],
    };
    match paper::map(&lists) {
        Outcome::Mapped { host_of, .. } => {
            let used: std::collections::BTreeSet<usize> = host_of.into_iter().collect();
            Some(used.len())
        }
        Outcome::Unmapped { .. } => None,
    }
}
