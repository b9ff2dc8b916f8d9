//! What operators decide about hosts that are lost, and what is cleaned away when one is back.

use std::collections::BTreeMap;

use transhume_api::{HostView, Verdict};
use transhume_model::{ClusterName, HostName, MigrationId, PlacedVm, VmName};
use transhume_protocol::migration::{Cannot, Cleaning, Input, Ran, Resolution, RunOn};

use super::{Core, CoreError};
use crate::error::Refused;
use crate::journal::{HostRecord, Leftover};
use crate::requests::{HostWish, Reply, ResolveWish};

/// A decision that is checked: what it does, and what may be lost by it.
struct Checked {
    verdict: Verdict,
    doing: Doing,
}

enum Doing {
    Keep(HostRecord),
    Fence(HostRecord),
    Feed(MigrationId, Vec<Input>),
    ForgetCluster(ClusterName, Vec<HostRecord>),
}

fn cannot_resolve(id: MigrationId, cannot: &Cannot) -> Refused {
    let hint = match cannot {
        Cannot::MayHaveRun { vm, .. } => format!(
            "`transhume migration resolve {id} --vm {vm} --run-on nowhere` gives it up, and it can be started from its \
             disks; where you know that it did not run, or that its disks are as they were, \
             `--run-on source --although-it-may-have-run`"
        ),
        Cannot::NotInBatch(_) | Cannot::NotOpen(_) | Cannot::NotThere { .. } => {
            format!("`transhume report {id}` shows which VMs wait for a decision, and which one")
        }
    };
    Refused::conflict("cannot-resolve", cannot.to_string(), hint)
}

/// What may be lost of a VM where it is to run there.
fn loss(vm: &VmName, run_on: RunOn, off: Option<&HostName>, ran: Ran) -> Option<String> {
    match (run_on, ran) {
        (RunOn::Target, _) => {
            let host = off.map_or(String::new(), |host| {
                format!(" that host {host} had captured for it")
            });
            Some(format!("VM {vm}: frames{host}; how many nobody can say"))
        }
        (RunOn::Source, Ran::Never) => None,
        (RunOn::Source, Ran::Maybe) => Some(format!(
            "VM {vm}: what it did on its target, and the frames that reached it there, how many nobody can say; and \
             its disks: whatever it wrote to them there is not what its memory on its source expects, so that its \
             file systems may break"
        )),
        (RunOn::Nowhere, _) => Some(format!("VM {vm}: everything that it held in memory")),
    }
}

impl Core {
    pub(super) fn show_host(&self, name: &str) -> Result<HostView, Refused> {
        let host = self.hosts.named(name)?;
        let list = self.host_list();
        let found = list.hosts.into_iter().find(|view| view.name == host);
        found.ok_or_else(|| Refused::unknown("host", name, std::iter::empty()))
    }

    pub(super) fn host_list(&self) -> transhume_api::HostList {
        let mut list = self.hosts.list(self.now().mono);
        for view in &mut list.hosts {
            if let Some(record) = self.store.host(&view.name) {
                view.fenced_at = record.fenced_at;
                view.cordoned = record.cordoned;
                view.leftovers = record.leftovers.iter().map(|left| left.vm.clone()).collect();
            }
        }
        list
    }

    /// Carries a checked decision out, unless it was only asked what it would do.
    fn decide(
        &mut self,
        checked: Result<Checked, Refused>,
        dry_run: bool,
        reply: Reply<Verdict>,
    ) -> Result<(), CoreError> {
        let Checked { mut verdict, doing } = match checked {
            Ok(checked) => checked,
            Err(refused) => {
                reply.send(Err(refused));
                return Ok(());
            }
        };
        if !dry_run {
            audit!(done = verdict.what, lost = ?verdict.may_be_lost, "decided");
            match doing {
                Doing::Keep(record) => self.store.keep_host(record)?,
                Doing::Fence(record) => {
                    let host = record.host.clone();
                    self.store.keep_host(record)?;
                    self.feed_all_on(&host, || Input::Fenced { host: host.clone() })?;
                }
                // What is left there is remembered first: whoever dies in between is asked again.
                Doing::ForgetCluster(cluster, hosts) => {
                    self.store.keep_hosts(hosts, None)?;
                    self.store.forget(&cluster)?;
                }
                Doing::Feed(id, inputs) => inputs.into_iter().try_for_each(|input| self.feed(id, input))?,
            }
            verdict.done = true;
        }
        reply.send(Ok(verdict));
        Ok(())
    }

    pub(super) fn work_on_host(
        &mut self,
        name: &str,
        wish: HostWish,
        dry_run: bool,
        reply: Reply<Verdict>,
    ) -> Result<(), CoreError> {
        let checked = self.hosts.named(name).and_then(|host| match wish {
            HostWish::Fence { force } => self.check_fence(host, force),
            HostWish::Cordon(cordoned) => Ok(self.check_cordon(host, cordoned)),
            HostWish::Forget => self.check_forget_host(host),
        });
        self.decide(checked, dry_run, reply)
    }

    pub(super) fn record_of(&self, host: &HostName) -> HostRecord {
        let known = self.store.host(host).cloned();
        known.unwrap_or_else(|| HostRecord::new(host.clone()))
    }

    /// The operator's word that a host is off. Only then may a VM that could still run there be run
    /// elsewhere.
    fn check_fence(&self, host: HostName, force: bool) -> Result<Checked, Refused> {
        if self.hosts.is_connected(&host) && !force {
            return Err(Refused::conflict(
                "host-answers",
                format!("the agent of host {host} answers: it is not off"),
                format!(
                    "if its VMs can still leave, `transhume drain {host}`; else power it off first, or fence it all the same with `--force`"
                ),
            ));
        }
        let mut may_be_lost: Vec<String> = Vec::new();
        for record in self.store.clusters().all() {
            for placed in record.spec.vms.iter().filter(|placed| placed.host == host) {
                may_be_lost.push(format!(
                    "what VM {} of cluster {} held in memory, once it is restarted elsewhere",
                    placed.spec.name, record.spec.name
                ));
            }
        }
        let record = HostRecord {
            fenced_at: Some(self.now().wall),
            ..self.record_of(&host)
        };
        let what = format!("host {host} counts as powered off until its agent is back and clean");
        Ok(Checked {
            verdict: Verdict::planned(what, may_be_lost),
            doing: Doing::Fence(record),
        })
    }

    fn check_cordon(&self, host: HostName, cordoned: bool) -> Checked {
        let what = match cordoned {
            true => format!("no VM is moved or started to host {host}"),
            false => format!("VMs may be moved and started to host {host}"),
        };
        let record = HostRecord {
            cordoned,
            ..self.record_of(&host)
        };
        Checked {
            verdict: Verdict::planned(what, Vec::new()),
            doing: Doing::Keep(record),
        }
    }

    /// For a host that never comes back, or comes back empty.
    fn check_forget_host(&self, host: HostName) -> Result<Checked, Refused> {
        if self.hosts.is_connected(&host) {
            return Err(Refused::conflict(
                "host-answers",
                format!("the agent of host {host} answers: what is left there is being cleaned away"),
                format!("`transhume host show {host}` shows what is left"),
            ));
        }
        let lives = |placed: &&transhume_model::PlacedVm| placed.host == host;
        let mut all = self.store.clusters().all().flat_map(|record| &record.spec.vms);
        if let Some(placed) = all.find(lives) {
            let (vm, cluster) = (&placed.spec.name, &placed.spec.cluster);
            return Err(Refused::conflict(
                "host-holds-vms",
                format!("VM {vm} of cluster {cluster} lives on host {host}"),
                format!(
                    "`transhume host fence {host} --powered-off`, then `transhume vm restart {cluster} {vm} --on HOST`"
                ),
            ));
        }
        let record = self.record_of(&host);
        let lost = record.leftovers.iter().map(|left| {
            format!(
                "the order to clean VM {} away there: if the host comes back as it was, do it by hand",
                left.vm
            )
        });
        Ok(Checked {
            verdict: Verdict::planned(
                format!("nothing is remembered of host {host} any more"),
                lost.collect(),
            ),
            doing: Doing::Keep(HostRecord::new(host)),
        })
    }

    /// A cluster whose hosts never come back is taken off the list.
    pub(super) fn forget_cluster(
        &mut self,
        name: &str,
        dry_run: bool,
        reply: Reply<Verdict>,
    ) -> Result<(), CoreError> {
        let checked = self.check_forget_cluster(name);
        self.decide(checked, dry_run, reply)
    }

    /// No VM of it may run anywhere: its host is fenced, or answers and does not know it.
    fn check_forget_cluster(&self, name: &str) -> Result<Checked, Refused> {
        let cluster = self.store.clusters().live(name)?;
        self.check_idle(&cluster.name)?;
        let mut hosts: BTreeMap<HostName, HostRecord> = BTreeMap::new();
        let mut may_be_lost = Vec::new();
        for PlacedVm { host, spec } in &cluster.vms {
            let vm = &spec.name;
            self.hosts.check_not_stranded(vm)?;
            let there = |name: &&HostName| self.hosts.is_connected(name);
            if let Some(found) = self.hosts.with_vm(vm).find(there) {
                return Err(Refused::conflict(
                    "vm-there",
                    format!("host {found} answers and has VM {vm}"),
                    format!("`transhume vm stop {name} {vm}`, then `transhume vm forget {name} {vm}`"),
                ));
            }
            if !self.hosts.is_connected(host) {
                self.check_fenced(host, vm)?;
                let record = hosts.entry(host.clone()).or_insert_with(|| self.record_of(host));
                self.leave_behind(record, vm);
            }
            may_be_lost.push(format!(
                "VM {vm}: what it held in memory, and its place; its disks are not touched"
            ));
        }
        let what = format!(
            "nothing is remembered of cluster {name} any more; what its hosts still have of it is ended when they are back"
        );
        Ok(Checked {
            verdict: Verdict::planned(what, may_be_lost),
            doing: Doing::ForgetCluster(cluster.name.clone(), hosts.into_values().collect()),
        })
    }

    /// Whatever a host has of a VM is ended when it is back.
    fn leave_behind(&self, record: &mut HostRecord, vm: &VmName) {
        record.leftovers.retain(|left| left.vm != *vm);
        record.leftovers.push(Leftover {
            vm: vm.clone(),
            migration: None,
            clean: Cleaning::Destroy,
            at: self.now().wall,
        });
    }

    /// Where a VM is to run whose other host is lost.
    pub(super) fn resolve(
        &mut self,
        id: &str,
        choice: ResolveWish,
        dry_run: bool,
        reply: Reply<Verdict>,
    ) -> Result<(), CoreError> {
        let checked = self.check_resolve(id, choice);
        self.decide(checked, dry_run, reply)
    }

    fn check_resolve(&self, id: &str, choice: ResolveWish) -> Result<Checked, Refused> {
        let ResolveWish {
            vm,
            run_on,
            although_it_may_have_run,
        } = choice;
        let id = self.moves.cancellable(id)?;
        let migration = self.moves.running(id).ok_or_else(Refused::ending)?;
        let undecided = migration.undecided();
        let named: Vec<VmName> = match &vm {
            Some(name) => vec![
                name.parse()
                    .map_err(|_| Refused::unknown("vm", name, std::iter::empty()))?,
            ],
            None => undecided.iter().map(|(vm, _)| vm.clone()).collect(),
        };
        if named.is_empty() {
            return Err(Refused::conflict(
                "nothing-to-resolve",
                format!("migration {id} waits for no decision"),
                format!("`transhume report {id}` shows what it waits for"),
            ));
        }
        let mut may_be_lost = Vec::new();
        for vm in &named {
            let checked = migration.check_resolution(vm, run_on, although_it_may_have_run);
            let Resolution { off, ran } = checked.map_err(|cannot| cannot_resolve(id, &cannot))?;
            if let Some(host) = &off {
                self.check_fenced(host, vm)?;
            }
            may_be_lost.extend(loss(vm, run_on, off.as_ref(), ran));
        }
        let names: Vec<String> = named.iter().map(ToString::to_string).collect();
        let what = format!("VM {} of migration {id} {}", names.join(", "), run_on.sentence());
        let inputs = named.into_iter().map(|vm| Input::Resolve {
            vm,
            run_on,
            although_it_may_have_run,
        });
        Ok(Checked {
            verdict: Verdict::planned(what, may_be_lost),
            doing: Doing::Feed(id, inputs.collect()),
        })
    }

    /// A VM runs elsewhere only when its host is known to be off.
    fn check_fenced(&self, host: &HostName, vm: &VmName) -> Result<(), Refused> {
        if self.store.is_fenced(host) && !self.hosts.is_connected(host) {
            return Ok(());
        }
        Err(Refused::conflict(
            "host-not-fenced",
            format!("VM {vm} may still run on host {host}, which does not answer"),
            format!(
                "make sure that host {host} is off, then say so: `transhume host fence {host} --powered-off`"
            ),
        ))
    }

    /// The plug of a committed VM opens before the limit.
    pub(super) fn open_plug(
        &mut self,
        cluster: &str,
        vm: &str,
        dry_run: bool,
        reply: Reply<Verdict>,
    ) -> Result<(), CoreError> {
        let checked = self.check_open_plug(cluster, vm);
        self.decide(checked, dry_run, reply)
    }

    fn check_open_plug(&self, cluster: &str, vm: &str) -> Result<Checked, Refused> {
        let placed = self.store.clusters().vm(cluster, vm)?;
        let vm = placed.spec.name.clone();
        let hint = "nothing is to be opened; `transhume cluster show` says what the VM does";
        let Some(id) = self.moves.with_vm(&vm) else {
            let message = format!("VM {vm} is not being moved");
            return Err(Refused::conflict("no-plug", message, hint));
        };
        let checked = self
            .moves
            .running(id)
            .map(|migration| migration.check_open_plug(&vm));
        if let Some(Err(why)) = checked {
            return Err(Refused::conflict("no-plug", why, hint));
        }
        let lost = format!("VM {vm}: frames that its source holds; how many nobody can say");
        let what = format!("the plug of VM {vm} opens on its target without waiting for its source");
        Ok(Checked {
            verdict: Verdict::planned(what, vec![lost]),
            doing: Doing::Feed(id, vec![Input::GiveUpSource { vm }]),
        })
    }

    /// A VM whose host is off is booted elsewhere: the old copy is ended when that host is back.
    pub(super) fn check_restart(
        &self,
        placed: &transhume_model::PlacedVm,
        on: &str,
    ) -> Result<HostName, Refused> {
        let (vm, host) = (&placed.spec.name, &placed.host);
        let cluster = &placed.spec.cluster;
        let target = self.hosts.named(on)?;
        self.hosts.check_not_stranded(vm)?;
        self.hosts.check_connected(&target)?;
        if self.hosts.is_connected(host) {
            return Err(Refused::conflict(
                "host-answers",
                format!("VM {vm} lives on host {host}, whose agent answers"),
                format!(
                    "`transhume vm stop {cluster} {vm}`, then `transhume vm start {cluster} {vm}`; `transhume migrate {cluster}` moves it"
                ),
            ));
        }
        self.check_fenced(host, vm)?;
        let knows = |name: &&HostName| self.hosts.is_connected(name);
        if let Some(found) = self.hosts.with_vm(vm).find(knows) {
            return Err(Refused::conflict(
                "vm-elsewhere",
                format!("host {found} knows VM {vm} already"),
                format!("`transhume host show {found}` shows what is there"),
            ));
        }
        Ok(target)
    }

    /// Where it lives, and that its old copy is to be ended, are durable before it can run.
    pub(super) fn relocate_from_fenced(
        &mut self,
        placed: &transhume_model::PlacedVm,
        target: &HostName,
    ) -> Result<(), CoreError> {
        let vm = placed.spec.name.clone();
        let mut old = self.record_of(&placed.host);
        self.leave_behind(&mut old, &vm);
        audit!(%vm, from = %placed.host, to = %target, "restarted from its disks");
        let places = [(vm, target.clone())].into();
        let cluster = self.store.clusters().relocated(&placed.spec.cluster, &places);
        self.store.keep_hosts(vec![old], cluster)?;
        Ok(())
    }

    pub(super) fn check_not_cordoned(&self, host: &HostName) -> Result<(), Refused> {
        match self.store.is_cordoned(host) {
            false => Ok(()),
            true => Err(Refused::conflict(
                "host-cordoned",
                format!("host {host} is cordoned: nothing is put on it"),
                format!("name other hosts, or `transhume host uncordon {host}`"),
            )),
        }
    }
}
