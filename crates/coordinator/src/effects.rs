//! What jobs want done is done here: durable first, then the hosts as they are now, then whoever
//! asked.

use transhume_api::ClusterView;
use transhume_model::ClusterName;

use crate::error::Refused;
use crate::hosts::Hosts;
use crate::jobs::Effect;
use crate::journal::JournalError;
use crate::store::Store;
use crate::views;

/// Carries one effect out. No cluster with a job is being moved.
pub(crate) fn carry_out(effect: Effect, store: &mut Store, hosts: &mut Hosts) -> Result<(), JournalError> {
    match effect {
        Effect::Keep(record) => {
            store.keep(record)?;
            hosts.inspect_all();
        }
        Effect::Forget { cluster, reply } => {
            let view = view(&cluster, store, hosts);
            forget(&cluster, store, hosts)?;
            if let Some(reply) = reply {
                reply.send(view);
            }
        }
        Effect::VmStarted {
            cluster,
            host,
            spec,
            epoch,
        } => {
            if let Some(record) = store.clusters().with_spec(&cluster, &spec) {
                store.keep(record)?;
            }
            hosts.vm_started(&host, spec, epoch);
        }
        Effect::VmStopped { host, vm } => hosts.vm_stopped(&host, &vm),
        Effect::VmGone { host, vm } => hosts.vm_gone(&host, &vm),
        Effect::VmForgotten { cluster, vm, reply } => {
            let Some(record) = store.clusters().without(&cluster, &vm) else {
                return Ok(());
            };
            let view = views::cluster(&record, hosts, None);
            // The last VM of a cluster takes it along.
            if record.spec.vms.is_empty() {
                forget(&cluster, store, hosts)?;
            } else {
                store.keep(record)?;
            }
            reply.send(Ok(view));
        }
        Effect::Show { cluster, reply } => reply.send(view(&cluster, store, hosts)),
        Effect::Refuse { refused, reply } => reply.send(Err(refused)),
    }
    Ok(())
}

fn view(cluster: &ClusterName, store: &Store, hosts: &Hosts) -> Result<ClusterView, Refused> {
    let record = store.clusters().named(cluster.as_str())?;
    Ok(views::cluster(record, hosts, None))
}

fn forget(cluster: &ClusterName, store: &mut Store, hosts: &mut Hosts) -> Result<(), JournalError> {
    store.forget(cluster)?;
    hosts.inspect_all();
    Ok(())
}
