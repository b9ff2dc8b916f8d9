//! One test for each sentence of §1.2 and §3.3 that states a behaviour of the protocol; the
//! sentence stands above it. Sentences about pages, CPU state and drivers are QEMU's and are tested
//! where QEMU runs.

mod support;

use support::{Hand, answer, request, vm};
use transhume_protocol::message::{Command, FaultKind, Mode, RefusalKind};
use transhume_protocol::migration::{Input, JournalEntry, Limits, Migration, MoveRequest, RequestError};
use transhume_protocol::report::Ending;
use transhume_protocol::step::Phase;

const K: usize = 3;

fn batch_up_to(stop: &str) -> Hand {
    let mut hand = Hand::begin(K, K);
    hand.up_to(K, stop);
    hand
}

fn source_was_touched(hand: &Hand) -> bool {
    hand.sent.iter().any(|(host, _)| host.as_str().starts_with('s'))
}

/// Answers one order for every VM, each being the last in one run, and checks that `next` is sent
/// to none before the last answer, and then to all.
fn is_a_barrier(before: impl Fn() -> Hand, command: &str, next: &str) {
    for last in 1..=K {
        let mut hand = before();
        for index in (1..=K).filter(|index| *index != last).chain([last]) {
            assert!(
                !hand.was_sent(next),
                "{next} was sent before VM {index} answered {command}"
            );
            hand.answer(&vm(index), command);
        }
        let sent: Vec<usize> = (1..=K).map(|index| hand.count(&vm(index), next)).collect();
        assert_eq!(sent, vec![1; K], "{next} goes to all {K} at once");
    }
}

mod offline_1_2 {
    use super::*;

    fn offline() -> Hand {
        let mut hand = Hand::begin_with(request(1, 1, Mode::Offline));
        for command in [
            "Reserve",
            "Prepare",
            "Converge",
            "OpenSourceBuffer",
            "OpenTargetBuffer",
            "ConnectBuffers",
        ] {
            hand.answer(&vm(1), command);
        }
        hand
    }

    /// "1) Virtual machine (VM) pushing and stopping on physical host A."
    #[test]
    fn the_vm_is_stopped_on_a_before_anything_is_copied() {
        let hand = offline();
        assert!(hand.was_sent("Capture") && !hand.was_sent("StopAndCopy"));
        let (_, order) = hand.order(&vm(1), "PreCopy");
        assert!(matches!(
            order.command,
            Command::PreCopy {
                mode: Mode::Offline,
                ..
            }
        ));
    }

    /// "2) Copying saved memory (M) and virtual hardware settings (H) of VM to physical host B."
    #[test]
    fn memory_and_hardware_are_copied_to_b_while_it_is_stopped() {
        let mut hand = offline();
        hand.answer(&vm(1), "Capture");
        assert!(hand.was_sent("StopAndCopy") && !hand.was_sent("Activate"));
    }

    /// "3) Execution of VM (M, H) on physical host B."
    #[test]
    fn the_vm_is_executed_on_b_when_all_is_copied() {
        let mut hand = offline();
        for command in ["Capture", "StopAndCopy", "AwaitLoaded"] {
            hand.answer(&vm(1), command);
        }
        assert_eq!(hand.order(&vm(1), "Activate").0, support::host("t1"));
    }
}

mod live_1_2 {
    use super::*;

    /// "Frequent changes in memory pages and low network throughput can cause impossibility to
    /// finish the migration process."
    #[test]
    fn a_vm_that_never_converges_is_left_running_where_it_is() {
        let mut hand = Hand::begin(K, K);
        hand.up_to(K, "Converge");
        hand.answer(&vm(1), "Converge");
        hand.wait(Limits::default().pre_copy_ms_max.0);
        assert!(!hand.was_sent("Capture") && hand.was_sent("AbortSource"));
        let trouble = hand.report().trouble.expect("there is trouble");
        assert_eq!(
            trouble.vm,
            Some(vm(2)),
            "the first VM that did not converge is named"
        );
    }

    /// "1) Pre-Migration. An active VM runs on physical host A."
    #[test]
    fn nothing_is_asked_of_host_a_before_b_is_prepared() {
        let hand = batch_up_to("Prepare");
        assert!(!source_was_touched(&hand));
    }

    /// "To speed up any future migration, a target host may be preselected where the resources
    /// required to receive migration will be guaranteed."
    #[test]
    fn every_target_guarantees_before_any_is_made_ready() {
        is_a_barrier(|| Hand::begin(K, K), "Reserve", "Prepare");
    }

    /// "2) Reservation. […] B must confirm that it has the necessary resources and reserves a VM
    /// container of appropriate size."
    #[test]
    fn b_is_told_the_size_and_must_confirm_it() {
        let hand = Hand::begin(K, K);
        let (host, order) = hand.order(&vm(1), "Reserve");
        assert_eq!(host, support::host("t1"));
        let Command::Reserve { spec, .. } = order.command else {
            panic!("{order:?}")
        };
        assert_eq!(spec.demand(), support::move_vm(1).spec.demand());
        let reserved = || batch_up_to("Prepare");
        is_a_barrier(reserved, "Prepare", "PreCopy");
    }

    /// "Failure of resource reservation here means that the VM simply continues to run on
    /// unaffected."
    #[test]
    fn a_refused_reservation_touches_no_source() {
        let mut hand = Hand::begin(K, K);
        hand.answer(&vm(1), "Reserve");
        hand.refuse(&vm(2), "Reserve");
        hand.all(K, "AbortTarget");
        assert!(hand.done && !source_was_touched(&hand));
        assert_eq!(hand.report().outcome, Ending::Refused);
    }

    /// "3) Iterative Pre-Copy. During the first iteration, all memory pages are transferred from A
    /// to B. Subsequent iterations copy only those pages modified during the previous transfer
    /// phase."
    #[test]
    fn iterations_go_on_until_every_vm_has_converged() {
        is_a_barrier(|| batch_up_to("Converge"), "Converge", "Capture");
    }

    /// "4) Stop-and-Copy. Suspend the running VM instance at A and redirect its network traffic to
    /// B."
    #[test]
    fn no_vm_is_suspended_before_its_traffic_can_be_redirected() {
        let converged = || {
            let mut hand = batch_up_to("ConnectBuffers");
            hand.all(K, "Converge");
            hand
        };
        is_a_barrier(converged, "ConnectBuffers", "Capture");
    }

    /// "CPU state and any remaining inconsistent memory pages are then transferred."
    #[test]
    fn the_rest_is_transferred_when_all_are_suspended() {
        is_a_barrier(|| batch_up_to("Capture"), "Capture", "StopAndCopy");
    }

    /// "At the end of this stage there is a consistent suspended copy of the VM at both A and B."
    #[test]
    fn copies_at_both_stay_suspended_until_all_are_there() {
        let mut hand = batch_up_to("AwaitLoaded");
        for index in 1..K {
            hand.answer(&vm(index), "AwaitLoaded");
            assert!(!hand.was_sent("Activate") && !hand.was_sent("AbortSource"));
        }
    }

    /// "The copy at A is still considered to be primary and is reactivated in case of failure."
    #[test]
    fn a_failure_before_commitment_reactivates_every_copy_at_a() {
        let mut hand = batch_up_to("AwaitLoaded");
        hand.answer(&vm(1), "AwaitLoaded");
        hand.fail(&vm(2), "AwaitLoaded");
        hand.all(K, "AbortSource");
        hand.all(K, "AbortTarget");
        assert!(hand.done && !hand.was_sent("Activate") && !hand.is_committed(1));
        assert!(hand.hosts().values().all(|host| host.as_str().starts_with('s')));
    }

    /// "5) Commitment. Host B indicates to A that it has successfully received a consistent VM
    /// image."
    #[test]
    fn commitment_waits_for_every_b() {
        is_a_barrier(|| batch_up_to("AwaitLoaded"), "AwaitLoaded", "Commit");
    }

    /// The same for the other half of the image: what A has sent.
    #[test]
    fn commitment_waits_for_every_a() {
        let loaded = || {
            let mut hand = batch_up_to("StopAndCopy");
            hand.all(K, "AwaitLoaded");
            hand
        };
        is_a_barrier(loaded, "StopAndCopy", "Commit");
    }

    /// "Host A acknowledges this message as commitment of the migration transaction: host A may now
    /// discard the original VM […]"
    #[test]
    fn a_discards_only_what_it_acknowledged() {
        let mut hand = batch_up_to("Commit");
        assert!(!hand.was_sent("CloseSourceBuffer") && !hand.was_sent("Discard"));
        hand.answer(&vm(1), "Commit");
        hand.answer(&vm(1), "CloseSourceBuffer");
        assert!(!hand.was_sent("Discard"), "the target's account is still out");
        hand.answer(&vm(1), "CloseTargetBuffer");
        assert_eq!(
            (hand.count(&vm(1), "Discard"), hand.count(&vm(2), "Discard")),
            (1, 0)
        );
    }

    /// "[…] and host B becomes the primary host."
    #[test]
    fn after_commitment_every_fault_rolls_forward() {
        let mut hand = batch_up_to("Activate");
        hand.fail(&vm(1), "Activate");
        hand.answer_with(&vm(2), "Activate", answer::refusal(RefusalKind::Qemu))
            .unwrap();
        hand.give(Input::Cancel).unwrap();
        for host in ["s1", "t1", "s2", "t2"] {
            hand.lose(host);
        }
        hand.wait(3_600_000);
        assert!(!hand.was_sent("AbortSource") && !hand.was_sent("AbortTarget"));
        assert!(hand.hosts().values().all(|host| host.as_str().starts_with('t')));
    }

    /// "6) Activation. The migrated VM on B is now activated."
    #[test]
    fn activation_follows_the_journal_in_one_ready() {
        let mut hand = batch_up_to("AwaitLoaded");
        hand.all(K, "AwaitLoaded");
        let decided = hand
            .last
            .persist
            .iter()
            .any(|entry| matches!(entry, JournalEntry::Committed { .. }));
        let activates = hand
            .last
            .send
            .iter()
            .filter(|(_, order)| order.command.name() == "Activate")
            .count();
        assert!(decided && activates == K, "persist stands before send");
    }

    /// "There are six phases of live migration."
    #[test]
    fn each_vm_goes_through_the_six_phases_in_order() {
        let hand = batch_up_to("");
        for vm in hand.report().vms {
            let phases: Vec<Phase> = vm.phases.iter().map(|time| time.phase).collect();
            assert_eq!(phases, Phase::ALL);
        }
    }
}

mod buffers_3_3_1 {
    use super::*;

    /// "The virtual buffer stores these messages into queue on a node from S1 and delivers them to
    /// the similar buffer assigned to the node from S2."
    #[test]
    fn each_source_buffer_is_told_where_its_own_target_buffer_is() {
        let mut hand = batch_up_to("OpenTargetBuffer");
        for index in 1..=K {
            let tunnels = vec![answer::address(100 + index as u16)];
            let outcome = transhume_protocol::message::Outcome::TargetBufferOpen {
                tunnels: tunnels.clone(),
            };
            hand.answer_with(&vm(index), "OpenTargetBuffer", outcome).unwrap();
            let (host, order) = hand.order(&vm(index), "ConnectBuffers");
            assert_eq!(host, support::move_vm(index).source);
            // Whoever it says that it is, the target of the plan is to be found there.
            let of_target = |end| transhume_model::Endpoint {
                host: support::move_vm(index).target,
                ..end
            };
            let tunnels = tunnels.into_iter().map(of_target).collect();
            assert_eq!(
                order.command,
                Command::ConnectBuffers {
                    vm: vm(index),
                    tunnels
                }
            );
        }
    }

    /// "The main function of this buffer is to save the messages, which could be lost during
    /// migration and to enable the delivery of these messages to the destination node."
    #[test]
    fn the_report_accounts_for_every_message() {
        let hand = batch_up_to("");
        let report = hand.report();
        assert_eq!(
            (
                report.frames.captured,
                report.frames.delivered,
                report.frames.lost
            ),
            (120, 120, 0)
        );
    }
}

mod algorithm_3_3_2 {
    use super::*;

    /// "1) Select k virtual machines from V […], create a new empty set V_k, insert all selected
    /// virtual machines from V into V_k and remove these virtual machines from V."
    #[test]
    fn only_the_batch_gets_orders() {
        let mut hand = Hand::begin(K + 2, K);
        hand.up_to(K, "Discard");
        assert!((K + 1..=K + 2).all(|index| hand.count(&vm(index), "Reserve") == 0));
    }

    /// "[…] 0 < k < N(V) […]": no empty set, and no VM twice.
    #[test]
    fn a_batch_is_never_empty_and_a_vm_is_in_one_batch() {
        let now = Hand::begin(1, 1).now;
        let sound = request(2, 2, Mode::Live);
        let empty = MoveRequest {
            batches: vec![Vec::new()],
            ..sound.clone()
        };
        assert!(matches!(
            Migration::begin(now, empty),
            Err(RequestError::Empty { .. })
        ));
        let twice = MoveRequest {
            batches: vec![sound.batches[0].clone(); 2],
            ..sound
        };
        assert_eq!(
            Migration::begin(now, twice).unwrap_err(),
            RequestError::Twice { vm: vm(1) }
        );
    }

    /// "2) For all items in V_k, start the pre-copy phase."
    #[test]
    fn step_2_starts_all_page_streams_at_once() {
        is_a_barrier(|| batch_up_to("Prepare"), "Prepare", "PreCopy");
    }

    /// "3) Before starting the migration process, create virtual network buffers on all nodes from
    /// S1 […]. Message capturing on all nodes is disabled."
    #[test]
    fn step_3_creates_all_source_buffers_and_captures_nothing() {
        is_a_barrier(|| batch_up_to("PreCopy"), "PreCopy", "OpenSourceBuffer");
        assert!(!batch_up_to("OpenSourceBuffer").was_sent("Capture"));
    }

    /// "4) Create virtual network buffers on all corresponding nodes from S2 for the virtual
    /// machines being migrated and interconnect this buffer to buffers created in stage 3."
    #[test]
    fn step_4_creates_the_target_buffers_after_all_source_buffers() {
        is_a_barrier(
            || batch_up_to("OpenSourceBuffer"),
            "OpenSourceBuffer",
            "OpenTargetBuffer",
        );
    }

    /// "5) Activate message capturing into virtual network buffers on all source nodes from S1 […]"
    #[test]
    fn step_5_captures_on_all_sources_at_once() {
        is_a_barrier(|| batch_up_to("Converge"), "Converge", "Capture");
    }

    /// "6) For all items in V_k, start the post-copy phase." (Stop-and-copy: §1.2, phase 4.)
    #[test]
    fn step_6_lets_all_finish_together() {
        is_a_barrier(|| batch_up_to("Capture"), "Capture", "StopAndCopy");
        is_a_barrier(|| batch_up_to("Capture"), "Capture", "AwaitLoaded");
    }

    /// "7) For all nodes in V_k, start the commit phase."
    #[test]
    fn step_7_commits_all_with_one_entry() {
        let hand = batch_up_to("Activate");
        let committed = hand
            .journal
            .iter()
            .filter(|entry| matches!(entry, JournalEntry::Committed { .. }));
        let vms: Vec<usize> = committed
            .map(|entry| match entry {
                JournalEntry::Committed { vms, .. } => vms.len(),
                other => unreachable!("{other:?}"),
            })
            .collect();
        assert_eq!(vms, [K]);
    }

    /// "8) Start all virtual machines that have been migrated and deliver messages from their
    /// corresponding network message buffers."
    #[test]
    fn step_8_starts_all_at_once_on_their_targets() {
        is_a_barrier(|| batch_up_to("AwaitLoaded"), "AwaitLoaded", "Activate");
        let hand = batch_up_to("Activate");
        assert!((1..=K).all(|index| hand.order(&vm(index), "Activate").0 == support::move_vm(index).target));
    }

    /// "9) Stop all virtual network buffers."
    #[test]
    fn step_9_closes_both_buffers_of_every_vm() {
        let mut hand = batch_up_to("Commit");
        hand.all(K, "Commit");
        for index in 1..=K {
            assert_eq!(hand.count(&vm(index), "CloseSourceBuffer"), 1);
            assert_eq!(hand.count(&vm(index), "CloseTargetBuffer"), 1);
        }
    }

    /// "10) If V is empty, stop the migration process […]"
    #[test]
    fn step_10_stops_when_v_is_empty() {
        let hand = batch_up_to("");
        assert!(hand.done);
        assert_eq!(hand.report().outcome, Ending::Committed);
    }

    /// "[…] else continue with the stage 1."
    #[test]
    fn step_10_goes_on_with_the_rest_of_v() {
        let mut hand = Hand::begin(K + 2, K);
        hand.up_to(K, "Discard");
        for index in 1..=K {
            assert_eq!(
                hand.count(&vm(K + 1), "Reserve"),
                0,
                "VM {index} is not yet discarded"
            );
            hand.answer(&vm(index), "Discard");
        }
        assert_eq!(
            (
                hand.count(&vm(K + 1), "Reserve"),
                hand.count(&vm(K + 2), "Reserve")
            ),
            (1, 1)
        );
    }

    /// The same, when the rest cannot follow: what is committed stays, and nothing more is tried.
    #[test]
    fn a_later_batch_that_rolls_back_leaves_the_earlier_ones_moved() {
        let mut hand = Hand::begin(3, 1);
        hand.up_to(1, "");
        hand.answer_with(&vm(2), "Reserve", answer::fault(FaultKind::Internal))
            .unwrap();
        hand.answer(&vm(2), "AbortTarget");
        assert!(hand.done && hand.count(&vm(3), "Reserve") == 0);
        assert_eq!(hand.report().outcome, Ending::PartlyCommitted);
        let places: Vec<String> = hand.hosts().values().map(ToString::to_string).collect();
        assert_eq!(places, ["t1", "s2", "s1"]);
    }
}
