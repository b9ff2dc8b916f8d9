//! The page streams of the batch under way, for whoever shares the links among them.

use transhume_model::{HostName, Mebibytes, VmName};

use super::Migration;
use super::course::Course;
use crate::message::{OrderKind, PageProgress};
use crate::step::Step;

/// How far a page stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamStage {
    /// Its guest runs, or nothing flows yet.
    Copying,
    /// Its blackout fits; it waits for its batch.
    Ready,
    /// Its guest stands still, or is about to.
    Stopped,
}

/// One page stream of the batch under way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamView<'a> {
    /// The VM.
    pub vm: &'a VmName,
    /// Host it leaves.
    pub source: &'a HostName,
    /// Host it goes to.
    pub target: &'a HostName,
    /// Its memory.
    pub memory: Mebibytes,
    /// As last reported.
    pub pages: PageProgress,
    /// How far.
    pub stage: StreamStage,
}

impl Migration {
    /// Streams of the batch under way that have not brought everything over yet. None once it is
    /// committed or rolls back.
    pub fn streams(&self) -> Vec<StreamView<'_>> {
        if self.course != Course::BeforeCommit {
            return Vec::new();
        }
        let copied = self.batch_vms().filter(|vm| !vm.has(OrderKind::StopAndCopy));
        let stage = |ready: bool| match (self.step >= Step::Capture, ready) {
            (true, _) => StreamStage::Stopped,
            (false, true) => StreamStage::Ready,
            (false, false) => StreamStage::Copying,
        };
        let view = |vm| {
            let vm: &super::vm::Vm = vm;
            StreamView {
                vm: vm.name(),
                source: &vm.source,
                target: &vm.target,
                memory: vm.spec.memory,
                pages: vm.so_far.pages,
                stage: stage(vm.has(OrderKind::PreCopy)),
            }
        };
        copied.map(view).collect()
    }

    /// Bytes on the wire of VMs whose batches are through, and guest memory of those whose batches
    /// are still to come.
    pub fn sent_and_to_come(&self) -> (u64, u64) {
        let before = self.vms.iter().filter(|vm| vm.batch < self.batch);
        let after = self
            .vms
            .iter()
            .filter(|vm| vm.batch > self.batch && !vm.powered_off);
        let sent = before.map(|vm| vm.so_far.pages.wire.0).sum();
        (sent, after.map(|vm| vm.spec.memory.bytes().0).sum())
    }
}
