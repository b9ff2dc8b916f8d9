//! Parts die in the middle of a move. Every VM runs in exactly one place afterwards, the batch is
//! on one side, nothing is lost.

mod user;

use std::path::PathBuf;

use transhume_lab::faults;
use user::{UserLab, assert_no_frame_lost, lab, moved, says, start};

const MOVE: [&str; 8] = [
    "migrate", "lab", "--from", "h1,h2", "--to", "h3,h4", "--batch", "4",
];
const LAB: &str = "--hosts 4 --vms 4 --rate 300";

fn over(lab: &UserLab, when: &str) {
    lab.assert_one_of_each(4);
    lab.assert_clean(when);
}

/// All four VMs are on one side.
fn side(lab: &UserLab) -> &'static str {
    let hosts = lab.hosts_of_vms();
    let source = hosts
        .iter()
        .filter(|host| ["h1", "h2"].contains(&host.as_str()))
        .count();
    match source {
        4 => "source",
        0 => "target",
        _ => panic!("the batch is on both sides: {hosts:?}"),
    }
}

fn coordinator_config(lab: &UserLab) -> PathBuf {
    let dir = lab.open().layout.coordinator_dir();
    let files = std::fs::read_dir(dir).unwrap().flatten();
    let mut found = files
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml"));
    found.next().expect("the coordinator has a configuration")
}

/// The coordinator dies around its `Committed`, is started again, and ends the move on the right
/// side; whoever watched it watches on, and ends with the exit code of that.
fn coordinator_crashes(at: &str, outcome: &str, code: i32, expected: &'static str) {
    let lab = lab(LAB);
    let config = coordinator_config(&lab);
    let text = std::fs::read_to_string(&config).unwrap();
    let mut opened = lab.open();
    faults::kill(&opened, "coordinator").unwrap();
    std::fs::write(&config, format!("crash_at = \"{at}\"\n{text}")).unwrap();
    faults::start_coordinator(&mut opened).unwrap();
    says("hosts").succeeded();
    let mut moving = start(&MOVE);
    moving.until("the coordinator does not answer");
    // It closes its connections one by one: only when it is gone is its address free.
    faults::kill(&opened, "coordinator").unwrap();
    std::fs::write(&config, text).unwrap();
    faults::start_coordinator(&mut opened).unwrap();
    let done = moving.finish();
    assert_eq!(done.code, Some(code), "{done:?}");
    let report = says("report --json").json();
    assert_eq!(report["outcome"], outcome, "{report}");
    assert_eq!(side(&lab), expected);
    assert_no_frame_lost(&report);
    over(&lab, at);
}

#[test]
fn a_coordinator_killed_right_before_committed_undoes_the_batch() {
    coordinator_crashes("before-committed", "rolled-back", 4, "source");
}

#[test]
fn a_coordinator_killed_right_after_committed_finishes_the_batch() {
    coordinator_crashes("after-committed", "committed", 0, "target");
}

#[test]
fn a_target_agent_killed_during_stop_and_copy_rolls_the_batch_back() {
    let lab = lab(LAB);
    let mut opened = lab.open();
    let mut moving = start(&MOVE);
    moving.until("step 6:");
    faults::kill(&opened, "agent h3").unwrap();
    faults::start_agent(&mut opened, "h3").unwrap();
    let done = moving.finish();
    match side(&lab) {
        "source" => assert_eq!(done.code, Some(4), "{done:?}"),
        // The kill came after the decision: it rolls forward.
        _ => assert_eq!(done.code, Some(0), "{done:?}"),
    }
    assert_no_frame_lost(&says("report --json").json());
    over(&lab, "after the target's agent was killed");
    if side(&lab) == "source" {
        moved("migrate lab --from h1,h2 --to h3,h4");
        over(&lab, "after the second attempt");
    }
}

#[test]
fn a_source_agent_killed_between_capture_and_commit_loses_nothing() {
    let lab = lab(LAB);
    let mut opened = lab.open();
    let mut moving = start(&MOVE);
    moving.until("step 6:");
    faults::kill(&opened, "agent h1").unwrap();
    faults::start_agent(&mut opened, "h1").unwrap();
    let done = moving.finish();
    assert!(matches!(done.code, Some(0 | 4)), "{done:?}");
    side(&lab);
    assert_no_frame_lost(&says("report --json").json());
    over(&lab, "after the source's agent was killed");
}

#[test]
fn an_agent_that_hangs_during_pre_copy_rolls_the_batch_back() {
    let lab = lab(LAB);
    let opened = lab.open();
    let mut moving = start(&MOVE);
    moving.until("step 2:");
    faults::freeze(&opened, "agent h3").unwrap();
    let begun = std::time::Instant::now();
    let mut opened = opened;
    // As the host's watchdog would.
    std::thread::sleep(std::time::Duration::from_secs(3));
    faults::thaw(&opened, "agent h3").unwrap();
    faults::kill(&opened, "agent h3").unwrap();
    faults::start_agent(&mut opened, "h3").unwrap();
    let done = moving.finish();
    assert!(
        matches!(done.code, Some(0 | 4)),
        "after {:?}: {done:?}",
        begun.elapsed()
    );
    side(&lab);
    over(&lab, "after the target's agent hung");
}

#[test]
fn a_fabric_that_filters_rarp_is_waited_for() {
    let lab = lab(LAB);
    let blocked = faults::block_rarp(&lab.open()).unwrap();
    let report = moved("migrate lab --from h1,h2 --to h3,h4");
    // A guest that happens to ask for a neighbour in time is heard instead.
    for vm in report["vms"].as_array().unwrap() {
        assert!(vm["old_path"] == "lingered" || vm["old_path"] == "marker", "{vm}");
    }
    drop(blocked);
    over(&lab, "after a move without a marker");
}

/// What a buffer does that overflows all the same is tested in netbuf.
#[test]
fn a_batch_whose_buffers_would_overflow_goes_back_before_it_is_stopped() {
    let lab = lab("--hosts 4 --vms 4 --rate 2000 --buffer-bytes-max 2048");
    // The VMs of the other host go on sending.
    let done = says("migrate lab --from h1 --to h3");
    assert_eq!(done.code, Some(4), "{done:?}");
    assert!(
        done.stderr.contains("error: ") && done.stderr.contains("buffer") && done.stderr.contains("hint: "),
        "{done:?}"
    );
    let report = says("report --json").json();
    assert_eq!(report["outcome"], "rolled-back");
    for vm in report["vms"].as_array().unwrap() {
        assert!(vm["blackout_ms"].is_null(), "it was not stopped: {vm}");
    }
    assert!(
        report["trouble"]["hint"]
            .as_str()
            .is_some_and(|hint| !hint.is_empty()),
        "{report}"
    );
    assert_eq!(side(&lab), "source");
    over(&lab, "after the limit");
}

/// Committed, and its coordinator killed before it could give an order; meanwhile something happens
/// to its target. What `migrate` said by then is dropped.
fn committed_and_unsaid(lab: &UserLab, meanwhile: impl FnOnce(&mut transhume_lab::Lab)) {
    let config = coordinator_config(lab);
    let text = std::fs::read_to_string(&config).unwrap();
    let mut opened = lab.open();
    faults::kill(&opened, "coordinator").unwrap();
    std::fs::write(&config, format!("crash_at = \"after-committed\"\n{text}")).unwrap();
    faults::start_coordinator(&mut opened).unwrap();
    says("hosts").succeeded();
    let mut moving = start(&["migrate", "lab", "--from", "h1", "--to", "h3"]);
    moving.until("the coordinator does not answer");
    moving.give_up();
    faults::kill(&opened, "coordinator").unwrap();
    meanwhile(&mut opened);
    std::fs::write(&config, text).unwrap();
    faults::start_coordinator(&mut opened).unwrap();
}

/// Asks until the move waits for somebody.
fn until_asked() -> String {
    let begun = std::time::Instant::now();
    loop {
        let report = says("report --json").json();
        let waits = report["waiting"].as_array().cloned().unwrap_or_default();
        let hint = waits.iter().find_map(|wait| wait["why"]["hint"].as_str());
        if let Some(hint) = hint {
            return hint.to_owned();
        }
        assert!(begun.elapsed().as_secs() < 90, "nobody is asked: {report}");
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
}

/// Its host loses power and is back: its agent's record says that it never ran there.
#[test]
fn a_vm_that_its_target_lost_before_it_ran_goes_back_to_its_source() {
    let lab = lab("--hosts 4 --vms 2 --rate 300");
    let h3 = "h3".parse().unwrap();
    committed_and_unsaid(&lab, |opened| {
        transhume_lab::storm::end_everything(opened, &h3).unwrap();
        faults::start_agent(opened, "h3").unwrap();
    });
    let hint = until_asked();
    assert!(hint.contains("--run-on source`"), "provably never ran: {hint}");
    let told = says("migration resolve 1 --vm vm1 --run-on source --dry-run");
    assert!(told.stdout.contains("runs on its source"), "{told:?}");
    says("migration resolve 1 --vm vm1 --run-on source").succeeded();
    says("follow 1");
    let report = says("report --json").json();
    assert_eq!(report["outcome"], "rolled-back", "{report}");
    assert_eq!(report["vms"][0]["reclaimed"]["may_have_run"], false, "{report}");
    assert_no_frame_lost(&report);
    assert_eq!(lab.hosts_of_vms(), ["h1", "h2"]);
    lab.assert_one_of_each(2);
    lab.assert_clean("after the way back");
    says("migrate lab --from h1 --to h4").succeeded();
    assert_eq!(lab.hosts_of_vms(), ["h4", "h2"]);
}

/// Its host never comes back, and a coordinator that was started anew cannot know what had left.
#[test]
fn a_vm_whose_target_is_lost_for_good_goes_back_where_somebody_says_so() {
    let lab = lab("--hosts 4 --vms 2 --rate 300");
    let h3 = "h3".parse().unwrap();
    committed_and_unsaid(&lab, |opened| {
        transhume_lab::storm::lose_power(opened, &h3).unwrap()
    });
    let hint = until_asked();
    assert!(hint.contains("--although-it-may-have-run"), "{hint}");
    says("host fence h3 --powered-off --yes").succeeded();
    let refused = says("migration resolve 1 --vm vm1 --run-on source --yes");
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(refused.stderr.contains("--run-on nowhere"), "{refused:?}");
    says("migration resolve 1 --vm vm1 --run-on source --although-it-may-have-run --yes").succeeded();
    says("follow 1");
    let report = says("report --json").json();
    assert_eq!(report["vms"][0]["reclaimed"]["may_have_run"], true, "{report}");
    assert_eq!(lab.hosts_of_vms(), ["h1", "h2"]);
    says("migrate lab --from h1 --to h4").succeeded();
    assert_eq!(lab.hosts_of_vms(), ["h4", "h2"]);
}
