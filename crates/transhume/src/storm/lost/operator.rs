//! Does what an operator would do: fences what is lost, and resolves what waits for a decision.

use std::time::{Duration, Instant};

use transhume_api::HostFence;
use transhume_lab::storm::PowerPlan;
use transhume_model::{HostName, MigrationId};
use transhume_protocol::report::{Ending, MigrationReport, Wait, WaitReason};

use super::{CALM_MAX, LostLine, POLL};
use crate::failure::Failure;
use crate::storm::resolve::resolve;
use crate::storm::scene::Scene;

/// Silence that a link bears, the named limit after which a host is given up, and 30 s.
const ASKED_MAX: Duration = Duration::from_secs(8 + 30 + 30);
/// Until it is over behind a decision.
const DECIDED_MAX: Duration = Duration::from_secs(60);

/// Decides until the move is over.
pub async fn decide(
    scene: &Scene,
    migration: MigrationId,
    plan: &PowerPlan,
    lost_at: Instant,
    line: &mut LostLine,
) -> Result<MigrationReport, Failure> {
    let mut decided_at = None;
    loop {
        let report = scene.client.report(migration).await?;
        let passed = lost_at.elapsed().as_millis() as u64;
        if report.outcome != Ending::Running {
            line.asked_ms.get_or_insert(passed);
            line.over_ms = Some(passed);
            return Ok(report);
        }
        let decides = |wait: &&Wait| matches!(wait.why, WaitReason::Decision { .. });
        let wait = report.waiting.iter().find(decides);
        if let Some(wait) = wait.cloned() {
            line.asked_ms.get_or_insert(passed);
            if line.lost.as_ref() == Some(&wait.host) {
                fence(scene, &wait.host).await?;
            }
            let taken = resolve(scene, migration, &wait.vm, plan.boldness).await?;
            line.decided.push(format!("{} {taken}", wait.vm));
            decided_at = Some(Instant::now());
        }
        let late = match decided_at {
            Some(at) => at.elapsed() > DECIDED_MAX,
            // A move that goes on without the lost host takes its time.
            None => line.lost.is_some() && lost_at.elapsed() > ASKED_MAX + CALM_MAX,
        };
        if late {
            line.violations
                .push(format!("the move is not over: {:?}", report.waiting));
            return Ok(report);
        }
        tokio::time::sleep(POLL).await;
    }
}

pub async fn fence(scene: &Scene, host: &HostName) -> Result<(), Failure> {
    let word_of_honour = HostFence {
        powered_off: true,
        ..HostFence::default()
    };
    let begun = Instant::now();
    loop {
        match scene.client.fence_host(host, &word_of_honour).await {
            Ok(_) => return Ok(()),
            // Its loss is not noticed yet.
            Err(_) if begun.elapsed() < ASKED_MAX => tokio::time::sleep(POLL).await,
            Err(error) => return Err(error.into()),
        }
    }
}
