//! Groups on the way: which one is broken between which batches.
//!
//! A batch commits as one, so a group is looked at before the first batch and after each. Only what
//! the order does is told: a group that is broken before anything moves is not.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use transhume_model::{HostName, VmName};

use crate::input::{GroupKind, PlanInput};
use crate::order::{Hop, Moves};

/// A group that is broken from the end of one batch to the end of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// Index among the input's groups.
    pub group: usize,
    /// Batches from 0: broken when this one has committed ...
    pub after: usize,
    /// ... and no more when this one has.
    pub until: usize,
}

/// A group with its members' places in the moves.
struct Members {
    group: usize,
    kind: GroupKind,
    moving: Vec<usize>,
    staying: Vec<usize>,
}

/// The groups of an input that any VM of the moves is in.
pub(crate) struct Groups(Vec<Members>);

impl Groups {
    pub fn of(input: &PlanInput, moves: &Moves<'_>) -> Self {
        if input.cluster.groups.is_empty() {
            return Self(Vec::new());
        }
        let hosts = input.hosts.iter().enumerate();
        let host: HashMap<&HostName, usize> = hosts.map(|(i, h)| (&h.name, i)).collect();
        let vms = &input.cluster.vms;
        let mover: HashMap<usize, usize> = moves.vms.iter().enumerate().map(|(i, vm)| (*vm, i)).collect();
        let index: HashMap<&VmName, usize> = vms.iter().enumerate().map(|(i, v)| (&v.name, i)).collect();
        let groups = input.cluster.groups.iter().enumerate().map(|(group, of)| {
            let mut members = Members {
                group,
                kind: of.kind,
                moving: Vec::new(),
                staying: Vec::new(),
            };
            for vm in of.vms.iter().map(|name| index[name]) {
                match mover.get(&vm) {
                    Some(mover) => members.moving.push(*mover),
                    None => members.staying.push(host[&vms[vm].host]),
                }
            }
            members
        });
        Self(groups.filter(|group| !group.moving.is_empty()).collect())
    }

    /// Every time that one of them is broken.
    pub fn broken(&self, moves: &Moves<'_>, batches: &[Vec<Hop>]) -> Vec<Window> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let mut goes: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
        for (number, batch) in batches.iter().enumerate() {
            batch
                .iter()
                .for_each(|hop| goes.entry(hop.vm).or_default().push((number, hop.target)));
        }
        self.0
            .iter()
            .flat_map(|group| group.windows(moves, &goes, batches.len()))
            .collect()
    }
}

impl Members {
    fn windows(
        &self,
        moves: &Moves<'_>,
        goes: &BTreeMap<usize, Vec<(usize, usize)>>,
        batches: usize,
    ) -> Vec<Window> {
        let mut at: BTreeMap<usize, usize> = self.moving.iter().map(|vm| (*vm, moves.source[*vm])).collect();
        if self.is_broken(&at) {
            return Vec::new();
        }
        let mut changes: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
        for vm in &self.moving {
            for (batch, target) in goes.get(vm).into_iter().flatten() {
                changes.entry(*batch).or_default().push((*vm, *target));
            }
        }
        let mut windows = Vec::new();
        let mut since = None;
        for (batch, hops) in changes {
            at.extend(hops);
            match (self.is_broken(&at), since) {
                (true, None) => since = Some(batch),
                (false, Some(after)) => {
                    windows.push(Window {
                        group: self.group,
                        after,
                        until: batch,
                    });
                    since = None;
                }
                (true, Some(_)) | (false, None) => {}
            }
        }
        // Where a cycle was left, it stays broken.
        windows.extend(since.map(|after| Window {
            group: self.group,
            after,
            until: batches,
        }));
        windows
    }

    fn is_broken(&self, at: &BTreeMap<usize, usize>) -> bool {
        let on: BTreeSet<usize> = at.values().copied().collect();
        match self.kind {
            GroupKind::Affinity => on.iter().chain(&self.staying).collect::<BTreeSet<_>>().len() > 1,
            GroupKind::AntiAffinity => {
                on.len() < at.len() || self.staying.iter().any(|host| on.contains(host))
            }
        }
    }
}
