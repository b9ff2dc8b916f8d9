//! A sound round is kept; each thing that can be wrong with it is named.

use super::super::facts::*;
use super::*;

fn vm(index: usize) -> VmName {
    format!("vm{index}").parse().unwrap()
}

fn host(index: usize) -> HostName {
    format!("h{index}").parse().unwrap()
}

fn place(index: usize) -> VmPlace {
    VmPlace {
        vm: vm(index),
        batch: 1,
        source: host(1),
        target: host(3),
        blackout_ms: Some(40.0),
        reclaimed: false,
    }
}

fn qemu(index: usize, at: usize) -> QemuSight {
    QemuSight {
        pid: (100 + index) as i32,
        vm: vm(index),
        host: host(at),
    }
}

fn tap(at: usize, qemus: Vec<i32>) -> TapSight {
    TapSight {
        host: host(at),
        name: "th0abc".to_owned(),
        qemus,
    }
}

fn vm_sight(index: usize, at: usize) -> VmSight {
    VmSight {
        vm: vm(index),
        host: host(at),
        running: true,
        state: "running".to_owned(),
        moving: false,
    }
}

/// vm1 and vm2 moved from h1 to h3 and run there; a fault fell.
fn sound() -> Facts {
    let hosts = |(at, vms): (usize, Vec<VmName>)| HostSight {
        host: host(at),
        connected: true,
        vms,
    };
    Facts {
        struck: vec![struck(Fault::KillTargetAgent, 1, 500)],
        moved: Ok(MoveSight {
            ended: true,
            outcome: "committed".to_owned(),
            waits_for: None,
            vms: vec![place(1), place(2)],
            committed_at_ms: BTreeMap::from([(1, 5_000)]),
            duration_ms: 3_000.0,
            frames: Counts::default(),
            late: 0,
        }),
        vms: vec![vm(1), vm(2)],
        started_again: Vec::new(),
        ended_by_themselves: Vec::new(),
        seen: Sighting {
            qemus: vec![qemu(1, 3), qemu(2, 3)],
            guests: vec![guest(1, 3), guest(2, 3)],
            taps: vec![tap(3, vec![101])],
            records: vec![record(1, 3), record(2, 3)],
            cluster: Some(ClusterSight {
                migration: None,
                vms: vec![vm_sight(1, 3), vm_sight(2, 3)],
                hosts: vec![hosts((1, Vec::new())), hosts((3, vec![vm(1), vm(2)]))],
            }),
            ..Sighting::default()
        },
        account: Account::Counted(Counts::default()),
    }
}

fn guest(index: usize, at: usize) -> GuestSight {
    GuestSight {
        vm: vm(index),
        host: host(at),
    }
}

fn record(index: usize, at: usize) -> RecordSight {
    RecordSight {
        host: host(at),
        vm: vm(index),
    }
}

fn struck(fault: Fault, index: usize, at_ms: i64) -> Struck {
    Struck {
        fault,
        vm: Some(vm(index)),
        victim: "somebody".to_owned(),
        hit: true,
        at_ms,
        trouble: None,
    }
}

fn cluster(facts: &mut Facts) -> &mut ClusterSight {
    facts.seen.cluster.as_mut().unwrap()
}

fn moved(facts: &mut Facts) -> &mut MoveSight {
    facts.moved.as_mut().unwrap()
}

#[test]
fn a_sound_round_is_kept() {
    assert_eq!(judge(&sound()), Verdict::Kept);
}

/// Changes a sound round; exactly this violation must be found among others, and none without the
/// change.
#[track_caller]
fn breaks(change: impl FnOnce(&mut Facts), expected: &str) {
    let mut facts = sound();
    change(&mut facts);
    let Verdict::Violated(found) = judge(&facts) else {
        panic!("nothing is found: {:?}", judge(&facts))
    };
    let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(
        texts.iter().any(|text| text == expected),
        "{expected:?} is not in {texts:?}"
    );
}

#[test]
fn a_second_qemu_is_found() {
    breaks(
        |facts| {
            facts.seen.qemus.push(QemuSight { pid: 7, ..qemu(1, 1) });
        },
        "VM vm1 has 2 QEMUs: h3 (pid 101), h1 (pid 7)",
    );
    breaks(
        |facts| facts.seen.qemus.push(qemu(1, 1)),
        "host h1: its agent does not list VM vm1, whose QEMU is there",
    );
    breaks(
        |facts| facts.seen.qemus.push(qemu(1, 1)),
        "host h1: the QEMU of VM vm1 has no record",
    );
}

#[test]
fn a_guest_that_runs_twice_is_found() {
    breaks(
        |facts| facts.seen.guests.push(guest(2, 1)),
        "VM vm2 runs in 2 places: h3, h1",
    );
}

#[test]
fn what_is_left_behind_is_found() {
    breaks(
        |facts| facts.seen.taps.push(tap(1, Vec::new())),
        "host h1: tap th0abc belongs to no QEMU",
    );
    breaks(
        |facts| facts.seen.records.push(record(1, 1)),
        "host h1: a record of VM vm1, which is not there",
    );
    let spool = SpoolSight {
        host: host(1),
        file: "a.spool".to_owned(),
    };
    breaks(
        |facts| facts.seen.spools.push(spool),
        "host h1: spool file a.spool is left",
    );
    let strange = "th-lab-h9".to_owned();
    breaks(
        |facts| facts.seen.strange_namespaces.push(strange),
        "namespace th-lab-h9 does not belong to the lab",
    );
    breaks(
        |facts| facts.seen.missing_namespaces.push("th-lab-h1".to_owned()),
        "namespace th-lab-h1 is gone",
    );
}

#[test]
fn a_lost_doubled_or_reordered_message_is_found() {
    let counted = |counts| move |facts: &mut Facts| facts.account = Account::Counted(counts);
    let one = Counts {
        lost: 1,
        ..Counts::default()
    };
    breaks(
        counted(one),
        "by the guests' account: 1 lost, 0 duplicated, 0 reordered",
    );
    breaks(
        |facts| facts.account = Account::Missing("VM vm1 is silent".to_owned()),
        "there is no account of the guests: VM vm1 is silent",
    );
    breaks(
        |facts| moved(facts).frames.duplicated = 2,
        "by the report's account: 0 lost, 2 duplicated, 0 reordered",
    );
}

#[test]
fn a_cut_fabric_may_lose_frames_but_not_double_them() {
    let with = |counts| {
        let mut facts = sound();
        facts.struck = vec![struck(Fault::CutTargetCt, 1, 500)];
        facts.account = Account::Counted(counts);
        judge(&facts)
    };
    let lost = Counts {
        lost: 9,
        ..Counts::default()
    };
    assert_eq!(with(lost), Verdict::Kept);
    let doubled = Counts {
        duplicated: 1,
        ..lost
    };
    assert!(matches!(with(doubled), Verdict::Violated(_)));
}

#[test]
fn a_move_that_hangs_is_found() {
    breaks(
        |facts| moved(facts).ended = false,
        "the move is still running and does not say what it waits for",
    );
    breaks(
        |facts| {
            moved(facts).ended = false;
            moved(facts).waits_for = Some("Discard of VM vm1 on h1".to_owned());
        },
        "the move is still running, it waits for Discard of VM vm1 on h1",
    );
    breaks(
        |facts| facts.moved = Err("VM vm1 is missing".to_owned()),
        "the move was refused: VM vm1 is missing",
    );
}

#[test]
fn a_calm_move_must_commit() {
    breaks(
        |facts| {
            facts.struck.clear();
            moved(facts).outcome = "rolled-back".to_owned();
        },
        "the move ended rolled-back without any fault",
    );
}

#[test]
fn a_batch_on_both_sides_is_found() {
    breaks(
        |facts| {
            facts.seen.qemus[1].host = host(1);
            cluster(facts).vms[1].host = host(1);
        },
        "batch 1 is on both sides: vm1 on h3, vm2 on h1",
    );
}

/// Its target had lost it before it ran, and the storm took it back, as an operator may.
#[test]
fn a_vm_that_was_taken_back_does_not_split_its_batch() {
    let mut facts = sound();
    facts.seen.qemus[1].host = host(1);
    facts.seen.guests[1].host = host(1);
    facts.seen.taps.push(tap(1, vec![102]));
    facts.seen.records[1].host = host(1);
    let cluster = cluster(&mut facts);
    cluster.vms[1].host = host(1);
    cluster.hosts[0].vms.push(vm(2));
    cluster.hosts[1].vms.retain(|listed| *listed != vm(2));
    assert!(
        matches!(judge(&facts), Verdict::Violated(_)),
        "nobody took it back"
    );
    moved(&mut facts).vms[1].reclaimed = true;
    assert_eq!(judge(&facts), Verdict::Kept);
}

#[test]
fn a_coordinator_that_sees_something_else_is_found() {
    breaks(
        |facts| facts.seen.cluster = None,
        "the coordinator does not answer",
    );
    breaks(
        |facts| cluster(facts).vms[0].host = host(1),
        "VM vm1 is on h3, the coordinator says h1",
    );
    breaks(
        |facts| _ = cluster(facts).vms.remove(0),
        "VM vm1 is unknown to the coordinator",
    );
    breaks(
        |facts| cluster(facts).migration = Some(4),
        "the coordinator says that migration 4 is under way, though it is over",
    );
    breaks(
        |facts| cluster(facts).vms[0].moving = true,
        "VM vm1 still plays a part in a move",
    );
    breaks(
        |facts| cluster(facts).hosts[0].connected = false,
        "host h1: its agent is not connected",
    );
    breaks(
        |facts| cluster(facts).hosts[0].vms.push(vm(1)),
        "host h1: its agent lists VM vm1, which has no QEMU there",
    );
}

#[test]
fn a_vm_that_does_not_run_is_found() {
    breaks(
        |facts| {
            cluster(facts).vms[0].running = false;
            cluster(facts).vms[0].state = "paused".to_owned();
        },
        "VM vm1 does not run: the coordinator says `paused`",
    );
    breaks(
        |facts| _ = facts.seen.guests.remove(0),
        "the guest of VM vm1 does not answer",
    );
}

#[test]
fn a_dead_part_is_found() {
    breaks(
        |facts| facts.seen.dead_parts.push("agent h1".to_owned()),
        "agent h1 does not run and cannot be started again",
    );
    breaks(
        |facts| facts.ended_by_themselves.push("coordinator".to_owned()),
        "coordinator ended by itself",
    );
}

#[test]
fn a_blackout_that_cannot_be_is_found() {
    breaks(
        |facts| moved(facts).vms[0].blackout_ms = Some(-3_599_966.0),
        "VM vm1: the report says a blackout of -3599966 ms in a move of 3000 ms",
    );
}

/// vm1's QEMU is gone from everywhere, and the coordinator says so.
fn without_vm1(fault: Fault, at_ms: i64) -> Facts {
    let mut facts = sound();
    facts.struck = vec![struck(fault, 1, at_ms)];
    facts.seen.qemus.retain(|qemu| qemu.vm != vm(1));
    facts.seen.guests.retain(|guest| guest.vm != vm(1));
    facts.seen.taps.clear();
    facts.seen.records.retain(|record| record.vm != vm(1));
    let cluster = cluster(&mut facts);
    cluster.vms[0].running = false;
    cluster.vms[0].state = "missing".to_owned();
    cluster.hosts[1].vms.retain(|listed| *listed != vm(1));
    facts
}

#[test]
fn a_vm_whose_only_copy_was_killed_is_lost_if_that_is_said() {
    let lost = Verdict::LostAndReported(vec![vm(1)]);
    assert_eq!(
        judge(&without_vm1(Fault::KillTargetQemu, 5_500)),
        lost,
        "after commit"
    );
    assert_eq!(
        judge(&without_vm1(Fault::KillSourceQemu, 4_000)),
        lost,
        "before commit"
    );
    let mut silent = without_vm1(Fault::KillTargetQemu, 5_500);
    cluster(&mut silent).vms[0].running = true;
    assert!(matches!(judge(&silent), Verdict::Violated(_)), "nobody says so");
}

#[test]
fn a_vm_with_another_copy_must_not_be_lost() {
    for (fault, at_ms) in [
        (Fault::KillTargetQemu, 3_000),
        (Fault::KillSourceQemu, 5_500),
        (Fault::KillTargetAgent, 5_500),
    ] {
        let Verdict::Violated(found) = judge(&without_vm1(fault, at_ms)) else {
            panic!("{fault} at {at_ms} excuses a lost VM")
        };
        let expected = "VM vm1 has no QEMU, the coordinator says `missing`";
        assert!(
            found.iter().any(|violation| violation.to_string() == expected),
            "{found:?}"
        );
    }
}

#[test]
fn a_strike_that_missed_excuses_nothing() {
    let mut facts = without_vm1(Fault::KillTargetQemu, 5_500);
    facts.struck[0].hit = false;
    assert!(matches!(judge(&facts), Verdict::Violated(_)));
}

#[test]
fn frames_that_went_with_a_vm_are_no_fault_of_the_report_also_once_it_runs_again() {
    let mut facts = sound();
    facts.struck = vec![struck(Fault::KillTargetQemu, 1, 5_500)];
    let moved = facts.moved.as_mut().unwrap();
    moved.frames.lost = 14;
    facts.started_again = vec![vm(1)];
    assert_eq!(judge(&facts), Verdict::Kept);
    facts.started_again.clear();
    assert!(matches!(judge(&facts), Verdict::Violated(_)), "no VM was lost");
}

#[test]
fn a_frame_comes_twice_only_where_the_fabric_lost_a_link_and_the_report_saw_it_come_late() {
    let mut facts = sound();
    facts.struck = vec![struck(Fault::CutTargetCt, 1, 5_500)];
    facts.account = Account::Counted(Counts {
        lost: 23,
        duplicated: 1,
        reordered: 6,
        ..Counts::default()
    });
    assert!(matches!(judge(&facts), Verdict::Violated(_)), "nothing came late");
    moved(&mut facts).late = 8;
    assert_eq!(judge(&facts), Verdict::Kept);
    facts.struck[0].hit = false;
    assert!(matches!(judge(&facts), Verdict::Violated(_)), "no link was lost");
}
