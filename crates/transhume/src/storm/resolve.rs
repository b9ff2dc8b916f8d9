//! Decides as an operator would about a VM that a move waits for.

use transhume_api::{ClientError, MoveResolution};
use transhume_lab::storm::Boldness;
use transhume_model::{MigrationId, VmName};
use transhume_protocol::migration::RunOn;

use super::scene::Scene;

/// The copy that runs loses the least; what was possible is returned.
///
/// # Errors
///
/// Nothing was possible, with the refusal of the last way; or nobody answered, and it is to be
/// asked again.
pub async fn resolve(
    scene: &Scene,
    migration: MigrationId,
    vm: &VmName,
    boldness: Boldness,
) -> Result<&'static str, ClientError> {
    let ways = [
        (RunOn::Target, false, "to its target"),
        (RunOn::Source, false, "back to its source"),
        (RunOn::Source, true, "back to its source although it may have run"),
    ];
    for (run_on, although_it_may_have_run, words) in ways {
        if although_it_may_have_run && boldness == Boldness::GivesUp {
            continue;
        }
        match ask(scene, migration, vm, run_on, although_it_may_have_run).await {
            Ok(()) => return Ok(words),
            Err(ClientError::Problem(_)) => {}
            Err(error) => return Err(error),
        }
    }
    ask(scene, migration, vm, RunOn::Nowhere, false).await?;
    Ok("given up")
}

async fn ask(
    scene: &Scene,
    migration: MigrationId,
    vm: &VmName,
    run_on: RunOn,
    although_it_may_have_run: bool,
) -> Result<(), ClientError> {
    let resolution = MoveResolution {
        vm: Some(vm.to_string()),
        run_on,
        although_it_may_have_run,
        dry_run: false,
    };
    scene.client.resolve(migration, &resolution).await?;
    Ok(())
}
