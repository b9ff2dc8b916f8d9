//! What the checkers in the guests saw since the last look, put together.

use std::time::Duration;

use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use transhume_guest::app::{App, AppStats, ClusterStats};
use transhume_guest::wire::{Op, Outcome};
use transhume_model::VmName;

use crate::state::{Lab, VmState};
use crate::{Channel, LabError};

/// A guest may be in the middle of a move.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// Until a cluster serves: programs load and initialize under emulation, all guests at once.
const SERVING_S_MAX: u64 = 120;
const SERVING_S_MAX_PER_VM: u64 = 20;
const SERVING_POLL: Duration = Duration::from_secs(1);

/// The account of a whole app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppFigures {
    /// Which.
    pub app: App,
    /// All checkers together: counts are added, of the longest and of elections the most counts.
    pub total: AppStats,
    /// By VM; those that check.
    pub vms: Vec<AppRow>,
}

/// The account of one VM's checker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppRow {
    /// The VM.
    pub id: VmName,
    /// What it saw.
    #[serde(flatten)]
    pub stats: AppStats,
}

/// The account since the last look, which begins anew everywhere.
pub async fn collect(lab: &Lab) -> Result<AppFigures, LabError> {
    let app = lab.state.app.ok_or(LabError::NoApp)?;
    let vms = lab.state.vms.iter().filter(|vm| app.checks(vm.index));
    let asked = vms.map(|vm| async move {
        look(lab, vm).await.map(|stats| AppRow {
            id: vm.name.clone(),
            stats,
        })
    });
    let vms = try_join_all(asked).await?;
    Ok(AppFigures {
        app,
        total: total(&vms),
        vms,
    })
}

/// Waits until the cluster serves every checker.
pub async fn wait(lab: &Lab, app: App) -> Result<(), LabError> {
    let waited_s = SERVING_S_MAX + SERVING_S_MAX_PER_VM * lab.state.vms.len() as u64;
    let deadline = Instant::now() + Duration::from_secs(waited_s);
    loop {
        let figures = collect(lab).await?;
        let Some(waiting) = figures.vms.into_iter().find(|vm| !vm.stats.serving) else {
            return Ok(());
        };
        for vm in &lab.state.vms {
            if let Some(code) = exit_of_script(lab, vm).await? {
                return Err(LabError::AppEnded {
                    app,
                    vm: vm.name.clone(),
                    code,
                });
            }
        }
        if Instant::now() > deadline {
            return Err(LabError::NotServing {
                app,
                vm: waiting.id,
                said: waiting
                    .stats
                    .trouble
                    .unwrap_or_else(|| "no operation ended".to_owned()),
                waited_s,
            });
        }
        sleep(SERVING_POLL).await;
    }
}

/// A server that ended serves nobody, however long one waits.
async fn exit_of_script(lab: &Lab, vm: &VmState) -> Result<Option<i32>, LabError> {
    match Channel::new(lab, vm).call(Op::Stats, CALL_LIMIT).await?.outcome {
        Outcome::Stats(stats) => Ok(stats.run_exit),
        other => Err(LabError::Guest {
            vm: vm.name.to_string(),
            said: format!("answered {other:?} instead of figures"),
        }),
    }
}

async fn look(lab: &Lab, vm: &VmState) -> Result<AppStats, LabError> {
    match Channel::new(lab, vm).call(Op::App, CALL_LIMIT).await?.outcome {
        Outcome::App(stats) => Ok(stats),
        other => Err(LabError::Guest {
            vm: vm.name.to_string(),
            said: format!("answered {other:?} instead of an account"),
        }),
    }
}

/// Pure.
fn total(vms: &[AppRow]) -> AppStats {
    let sum = |of: fn(&AppStats) -> u64| vms.iter().map(|vm| of(&vm.stats)).sum();
    let most = |of: fn(&AppStats) -> u64| vms.iter().map(|vm| of(&vm.stats)).max().unwrap_or(0);
    AppStats {
        serving: vms.iter().all(|vm| vm.stats.serving),
        span_ms: most(|vm| vm.span_ms),
        operations: sum(|vm| vm.operations),
        late: sum(|vm| vm.late),
        failed: sum(|vm| vm.failed),
        wrong: sum(|vm| vm.wrong),
        slowest_ms: most(|vm| vm.slowest_ms),
        trouble: vms.iter().find_map(|vm| {
            let trouble = vm.stats.trouble.as_ref()?;
            Some(format!("{}: {trouble}", vm.id))
        }),
        cluster: ClusterStats {
            // Every checker sees the same terms begin; a link is seen at one of its ends only.
            elections: most(|vm| vm.cluster.elections),
            link_breaks: sum(|vm| vm.cluster.link_breaks),
            full_copies: sum(|vm| vm.cluster.full_copies),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_added_and_of_what_all_see_the_most_counts() {
        let row = |id: &str, operations, slowest_ms, elections| AppRow {
            id: id.parse().unwrap(),
            stats: AppStats {
                serving: true,
                operations,
                slowest_ms,
                trouble: (id == "vm2").then(|| "no answer".to_owned()),
                cluster: ClusterStats {
                    elections,
                    link_breaks: 1,
                    ..ClusterStats::default()
                },
                ..AppStats::default()
            },
        };
        let total = total(&[row("vm1", 5, 30, 1), row("vm2", 7, 20, 2)]);
        assert_eq!((total.operations, total.slowest_ms), (12, 30));
        assert_eq!((total.cluster.elections, total.cluster.link_breaks), (2, 2));
        assert_eq!(total.trouble.as_deref(), Some("vm2: no answer"));
        assert!(total.serving);
    }
}
