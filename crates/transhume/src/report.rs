//! The report of a move as people read it.

use transhume_api::wait_in_words;
use transhume_protocol::message::GuestState;
use transhume_protocol::report::{Frames, MigrationReport, VmLoss, VmReport};

use crate::forecasts;
use crate::table::Table;

/// Times that are known better than this need no remark.
const CLOCK_UNCERTAINTY_MS_MAX: f64 = 1.0;

fn ms(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.1}"))
}

/// The report as tables.
pub fn show(report: &MigrationReport) {
    let mut table = Table::new(&[
        "VM",
        "FROM",
        "TO",
        "BLACKOUT ms",
        "GAP ms",
        "CAPTURED",
        "DELIVERED",
        "LOST",
        "DUPLICATED",
        "REORDERED",
        "LATE",
        "MB",
    ]);
    for vm in &report.vms {
        let count = |of: fn(&Frames) -> u64| {
            vm.frames
                .as_ref()
                .map_or("-".to_owned(), |frames| of(frames).to_string())
        };
        table.row([
            vm.id.to_string(),
            vm.source.to_string(),
            vm.target.to_string(),
            ms(vm.blackout_ms),
            ms(vm.gap_ms),
            count(|frames| frames.captured),
            count(|frames| frames.delivered),
            count(|frames| frames.lost),
            count(|frames| frames.duplicated),
            count(|frames| frames.reordered),
            count(|frames| frames.late),
            format!("{:.1}", vm.pages.wire.0 as f64 / 1e6),
        ]);
    }
    out!("{}", table.text());
    let frames = &report.frames;
    outln!(
        "migration {} {}: {} VMs in {:.2} s; lost {}, duplicated {}, reordered {}",
        report.migration,
        report.outcome.name(),
        report.vms.len(),
        report.duration_ms / 1e3,
        lost(report),
        frames.duplicated,
        frames.reordered
    );
    report
        .vms
        .iter()
        .flat_map(notes)
        .chain(clocks(report))
        .for_each(|note| outln!("{note}"));
    for wait in &report.waiting {
        outln!("waits for {}", wait_in_words(wait));
    }
    forecasts::show_report(report);
}

/// Frames that are lost, as far as anybody can say.
fn lost(report: &MigrationReport) -> String {
    let losses = || report.vms.iter().filter_map(|vm| vm.source_lost.as_ref());
    let known: u64 = losses().filter_map(|loss| loss.frames_lost).sum();
    let counted = report.frames.lost + known;
    let ran_elsewhere = |vm: &VmReport| vm.reclaimed.as_ref().is_some_and(|back| back.may_have_run);
    let unknown = losses().any(|loss| loss.frames_lost.is_none()) || report.vms.iter().any(ran_elsewhere);
    match unknown {
        true => format!("{counted} and an unknown number"),
        false => counted.to_string(),
    }
}

/// How far the figures that compare two hosts' clocks may be off, where that matters.
fn clocks(report: &MigrationReport) -> Option<String> {
    let figured = report.vms.iter().filter(|vm| vm.blackout_ms.is_some());
    let uncertain = figured.filter_map(|vm| vm.clock_uncertainty_ms);
    let worst = uncertain.fold(0.0, f64::max);
    (worst > CLOCK_UNCERTAINTY_MS_MAX).then(|| {
        format!("blackouts and gaps may be up to {worst:.1} ms off: the hosts' clocks are known no better")
    })
}

/// What the columns do not hold of a VM.
fn notes(vm: &VmReport) -> Vec<String> {
    let (id, host) = (&vm.id, &vm.host);
    let mut notes = Vec::new();
    if vm.guest != GuestState::Running && vm.lost.is_none() {
        notes.push(format!(
            "VM {id} on host {host} is {}, as it was before",
            vm.guest.name()
        ));
    }
    if let Some(loss) = &vm.source_lost {
        let lost = match loss.frames_lost {
            Some(frames) => format!("{frames} frames are lost with it"),
            None => "how many frames are lost with it nobody can say".to_owned(),
        };
        notes.push(format!(
            "VM {id}: its source, host {}, was lost before it had delivered all; {} frames came from it, {lost}",
            loss.host, loss.delivered
        ));
    }
    if let Some(back) = &vm.reclaimed {
        let what = match back.may_have_run {
            false => "where it never ran",
            true => "where it may have run: what it did there, and what reached it there, is lost",
        };
        notes.push(format!(
            "VM {id} went back to its source after the commit, from host {}, {what}",
            back.from
        ));
    }
    if let Some(why) = &vm.clocks {
        notes.push(format!("VM {id}: not all times are known: {why}"));
    }
    let frames = vm.frames.unwrap_or_default();
    if frames.untaken > 0 {
        notes.push(format!(
            "VM {id}: {} frames came for it that its guest never took",
            frames.untaken
        ));
    }
    if frames.second_speaker > 0 {
        notes.push(format!(
            "VM {id}: somebody else sent {} frames with its address",
            frames.second_speaker
        ));
    }
    notes
}

/// Everything that went wrong, the worst first, each with what would help.
pub fn troubles(report: &MigrationReport) -> Vec<(String, String)> {
    let lost = report.vms.iter().filter_map(|vm| {
        let VmLoss { reason, hint } = vm.lost.as_ref()?;
        let what = format!("VM {} IS LOST on host {}: {reason}", vm.id, vm.host);
        Some((what, hint.clone()))
    });
    let trouble = report.trouble.iter().map(|trouble| {
        let (number, step) = (trouble.step.number(), trouble.step);
        let what = format!("in step {number} ({step}): {}", trouble.reason);
        (what, trouble.hint.clone())
    });
    lost.chain(trouble).collect()
}
