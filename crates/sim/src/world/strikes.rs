//! What happens by itself, and what its guest and user do to a VM.

use std::collections::BTreeMap;

use transhume_agent_core::RunState;
use transhume_model::VmName;
use transhume_protocol::message::VmRole;
use transhume_protocol::migration::{Input, StuckRates};

use super::World;
use crate::check::Violation;
use crate::fault::Mischief;
use crate::host::Stage;
use crate::host::qemu::Qemu;
use crate::network::{At, Event, HostIx, MILLI, Micros, SECOND, VmIx};
use crate::scenario::GuestKind;

/// An agent notices within this that a process is gone.
const NOTICE_MICROS_MAX: Micros = 2 * MILLI;
/// A host that lost its power is up again within this: some are given up before.
const BOOT_MICROS: (Micros, Micros) = (3 * SECOND, 90 * SECOND);
/// A clock is set by at most so many microseconds.
const STEP_MICROS_MAX: i64 = 2 * 3_600 * 1_000_000;

impl World {
    pub(super) fn strike_later(&mut self) {
        let weather = &self.scenario.weather;
        if weather.strikes.is_empty() || weather.strike_ms_max == 0 {
            return;
        }
        let what = *self.random.pick(&weather.strikes);
        let delay = self.random.between(MILLI, weather.strike_ms_max * MILLI);
        if self.network.now + delay < self.calm_from() {
            self.network.after(delay, Event::Strikes { what });
        }
    }

    pub(super) fn strike(&mut self, what: Mischief) -> Result<(), Violation> {
        let host = self.random.between(0, self.hosts.len() as u64 - 1) as HostIx;
        let vm = self.random.between(0, self.guests.len() as u64 - 1) as VmIx;
        match what {
            Mischief::AgentDies => self.agent_dies(host)?,
            Mischief::CoordinatorDies => self.coordinator_dies(),
            Mischief::QemuDies => self.qemu_dies(self.one_of_its_hosts(vm, host), vm)?,
            Mischief::PowersOff => self.running_guest_falls(vm, RunState::Shutdown, GuestKind::Off),
            Mischief::Panics => self.running_guest_falls(vm, RunState::Panicked, GuestKind::Panicked),
            Mischief::Pauses => self.user_pauses(vm),
            Mischief::Resumes => self.user_resumes(vm)?,
            Mischief::TurnsDeaf => self.hearing(vm, true)?,
            Mischief::Hears => self.hearing(vm, false)?,
            Mischief::ClockStepped => self.step_clock(host),
            Mischief::Partitioned => self.partition(host)?,
            Mischief::DiskFull => self.disk_full(host),
            Mischief::StreamBreaks => self.stream_breaks(vm)?,
            Mischief::TunnelBreaks => {
                if let Some(tunnel) = self.tunnel_of(vm) {
                    self.tunnel_breaks(vm, tunnel);
                }
            }
            Mischief::Cancelled => self.feed_coordinator(Input::Cancel)?,
            Mischief::GetsStuck => self.gets_stuck(vm)?,
            Mischief::CutAnew => self.cut_anew()?,
            Mischief::HostDies => self.host_dies(host)?,
            Mischief::HostReboots => self.host_reboots(host)?,
        }
        self.check_vm(vm)
    }

    fn gets_stuck(&mut self, vm: VmIx) -> Result<(), Violation> {
        let rates = StuckRates {
            dirty_mbit_s: 900.0,
            most_mbit_s: None,
        };
        let vm = self.guests[vm].name.clone();
        self.feed_coordinator(Input::Stuck { vm, rates })
    }

    /// Any batches and order that keep the rounds apart.
    fn cut_anew(&mut self) -> Result<(), Violation> {
        let Some(machine) = self.coordinator.machine() else {
            return Ok(());
        };
        let Some(batch_max) = machine.request().batch_max else {
            return Ok(());
        };
        let mut rounds: BTreeMap<usize, Vec<VmName>> = BTreeMap::new();
        for vm in machine.to_come().iter().flatten() {
            rounds.entry(vm.round).or_default().push(vm.spec.name.clone());
        }
        let mut batches = Vec::new();
        for mut vms in rounds.into_values() {
            for place in (1..vms.len()).rev() {
                let other = self.random.between(0, place as u64) as usize;
                vms.swap(place, other);
            }
            while !vms.is_empty() {
                let most = vms.len().min(batch_max) as u64;
                let rest = vms.split_off(self.random.between(1, most) as usize);
                batches.push(std::mem::replace(&mut vms, rest));
            }
        }
        self.feed_coordinator(Input::Arrange { batches })
    }

    fn one_of_its_hosts(&self, vm: VmIx, host: HostIx) -> HostIx {
        let guest = &self.guests[vm];
        if host.is_multiple_of(2) {
            guest.source
        } else {
            guest.target
        }
    }

    fn step_clock(&mut self, host: HostIx) {
        let step = self.random.between(0, 2 * STEP_MICROS_MAX as u64) as i64 - STEP_MICROS_MAX;
        if self.random.happens(250_000) {
            self.coordinator_clock_off = step;
        } else {
            self.hosts[host].clock_off = step;
        }
    }

    /// A process ends that nobody told to.
    pub(super) fn qemu_dies(&mut self, host: HostIx, vm: VmIx) -> Result<(), Violation> {
        let Some(qemu) = self.hosts[host].things[vm].qemu.take() else {
            return Ok(());
        };
        self.mark_lost(host, vm, &qemu);
        let end = self.at(host, vm);
        if self.streams[vm]
            .as_ref()
            .is_some_and(|stream| [stream.source.host, stream.target.host].contains(&host))
        {
            self.stream_breaks(vm)?;
        }
        if let Some(at) = end {
            self.fail_waiting(at)?;
            let delay = self.random.between(10, NOTICE_MICROS_MAX);
            self.network.after(delay, Event::QemuGone { at });
        }
        Ok(())
    }

    /// What waits for a process that is gone waits no more.
    fn fail_waiting(&mut self, at: At) -> Result<(), Violation> {
        use transhume_agent_core::{Act, Trouble};
        use transhume_protocol::message::FaultKind;
        let waits = |act: &Act| matches!(act, Act::FinishCopy { .. } | Act::AwaitLoaded);
        self.answer_waiting(
            at,
            waits,
            Err(Trouble::failed(FaultKind::Qemu, "its QEMU is gone")),
        )
    }

    /// Whether the only copy of the VM may have been in this process.
    fn mark_lost(&mut self, host: HostIx, vm: VmIx, qemu: &Qemu) {
        let guest = &mut self.guests[vm];
        if host == guest.source {
            guest.killed |= !guest.committed;
            // Its tap is emptied when nobody holds it any more.
            guest.may_miss_frames = true;
        } else {
            guest.killed |= qemu.loaded;
        }
    }

    /// Without power: the agent, the QEMUs, the frames that were kept.
    fn memory_is_lost(&mut self, host: HostIx) -> Result<(), Violation> {
        self.agent_dies(host)?;
        for vm in 0..self.guests.len() {
            if let Some(qemu) = self.hosts[host].things[vm].qemu.take() {
                self.mark_lost(host, vm, &qemu);
            }
            if self.guests[vm].source == host {
                self.guests[vm].may_miss_frames = true;
            }
            self.hosts[host].things[vm] = crate::host::Things::default();
        }
        Ok(())
    }

    pub(super) fn host_dies(&mut self, host: HostIx) -> Result<(), Violation> {
        if self.hosts.iter().any(|host| host.lost) {
            return Ok(());
        }
        self.memory_is_lost(host)?;
        (0..self.guests.len()).for_each(|vm| self.hosts[host].disk.remove(vm));
        self.hosts[host].lost = true;
        self.loss.lost_at = Some(self.now().mono);
        Ok(())
    }

    /// Its power goes and comes back: everything that is in memory is gone, its records are not.
    pub(super) fn host_reboots(&mut self, host: HostIx) -> Result<(), Violation> {
        if self.hosts[host].lost || self.hosts[host].booting {
            return Ok(());
        }
        self.memory_is_lost(host)?;
        self.hosts[host].booting = true;
        let delay = self.random.between(BOOT_MICROS.0, BOOT_MICROS.1);
        self.network.after(delay, Event::HostBoots { host });
        Ok(())
    }

    /// Where the guest runs.
    fn runs_on(&self, vm: VmIx) -> Option<HostIx> {
        let mut places = 0..self.hosts.len();
        places.find(|host| self.hosts[*host].things[vm].runs())
    }

    fn running_guest_falls(&mut self, vm: VmIx, to: RunState, kind: GuestKind) {
        if let Some(host) = self.runs_on(vm) {
            self.guest_falls(host, vm, to, kind);
        }
    }

    pub(super) fn guest_falls(&mut self, host: HostIx, vm: VmIx, to: RunState, kind: GuestKind) {
        let Some(qemu) = &mut self.hosts[host].things[vm].qemu else {
            return;
        };
        if !qemu.runs() {
            return;
        }
        let thrown_away = qemu.fall(to);
        self.guests[vm].kind = kind;
        if let Some(frame) = thrown_away {
            self.guests[vm].untaken.insert(frame);
        }
        self.notice(host, vm);
    }

    /// Not in the instants of a capture, nor between the decision and the order to run: a pause
    /// then cannot be told from ours.
    fn user_pauses(&mut self, vm: VmIx) {
        let guest = &self.guests[vm];
        let record = self.hosts[guest.source]
            .disk
            .record(vm)
            .map(|record| &record.place);
        let leaves = match record {
            Some(transhume_agent_core::Place::Source { capturing, .. }) => {
                let machine = self.machine(guest.source, vm);
                *capturing || machine.is_none_or(|machine| machine.busy_with().is_some())
            }
            Some(_) | None => false,
        };
        if leaves && !guest.committed {
            return;
        }
        let there = self
            .machine(guest.target, vm)
            .and_then(|machine| machine.vm_state());
        let arrives = there.is_some_and(|state| matches!(state.role, VmRole::Target | VmRole::Arrived));
        if guest.committed && (arrives || self.machine(guest.target, vm).is_none()) {
            return;
        }
        // QEMU says so before the next order can come.
        if let Some(host) = self.runs_on(vm) {
            self.guest_falls(host, vm, RunState::Paused, GuestKind::Paused);
            self.notice_within(host, vm, 10);
        }
    }

    /// Only while nobody else holds the guest: a user who lets a captured guest run breaks what no
    /// agent can mend.
    fn user_resumes(&mut self, vm: VmIx) -> Result<(), Violation> {
        let guest = &self.guests[vm];
        let host = match guest.committed {
            true => guest.target,
            false => guest.source,
        };
        let captured = self.hosts[host].slot(vm).is_none_or(|slot| {
            let source = slot.source.as_ref();
            source.is_some_and(|source| source.stage != Stage::Open) || slot.machine.busy_with().is_some()
        });
        let state = self.machine(host, vm).and_then(|machine| machine.vm_state());
        let arrives = guest.committed && state.is_none_or(|state| state.role != VmRole::Home);
        if guest.kind != GuestKind::Paused || captured || arrives || self.hosts[host].things[vm].tap.is_none()
        {
            return Ok(());
        }
        let Some(qemu) = &mut self.hosts[host].things[vm].qemu else {
            return Ok(());
        };
        if qemu.run != RunState::Paused || !qemu.loaded {
            return Ok(());
        }
        qemu.run = RunState::Running;
        let kind = if qemu.deaf {
            GuestKind::Deaf
        } else {
            GuestKind::Healthy
        };
        self.guests[vm].kind = kind;
        self.notice(host, vm);
        self.pump(host, vm)
    }

    fn hearing(&mut self, vm: VmIx, deaf: bool) -> Result<(), Violation> {
        let Some(host) = self.runs_on(vm) else {
            return Ok(());
        };
        if let Some(qemu) = &mut self.hosts[host].things[vm].qemu {
            qemu.deaf = deaf;
            self.guests[vm].kind = if deaf { GuestKind::Deaf } else { GuestKind::Healthy };
        }
        self.pump(host, vm)
    }
}
