//! Scripts: `> ` lines are inputs, the lines below each are what the machine wanted done.

use std::fmt::Write as _;

use transhume_model::*;
use transhume_protocol::event::Happening;
use transhume_protocol::message::*;
use transhume_protocol::migration::*;
use transhume_protocol::report::Lost;

use super::{Hand, answer, host, request, vm};

/// Plays the inputs of a script and writes the whole script anew, effects and all.
pub fn play(script: &str) -> String {
    let mut out = String::new();
    let mut hand = None;
    for line in script.lines() {
        if line.starts_with('#') || line.is_empty() && hand.is_none() {
            writeln!(out, "{line}").unwrap();
        } else if let Some(input) = line.strip_prefix("> ") {
            if hand.is_some() {
                out.push('\n');
            }
            writeln!(out, "{line}").unwrap();
            let words: Vec<&str> = input.split_whitespace().collect();
            let said = step(&mut hand, &words).unwrap_or_else(|illegal| format!("illegal: {illegal}\n"));
            out.push_str(&said);
        }
    }
    out
}

fn number(word: &str) -> usize {
    word.parse()
        .unwrap_or_else(|_| panic!("`{word}` is not a number"))
}

fn step(hand: &mut Option<Hand>, words: &[&str]) -> Result<String, Illegal> {
    if let ["begin", vms, "VMs,", "k", "=", k, mode, off @ ..] = words {
        let mode = if *mode == "offline" {
            Mode::Offline
        } else {
            Mode::Live
        };
        let mut request = request(number(vms), number(k), mode);
        if let [name, "powered", "off"] = off {
            let mut vms = request.batches.iter_mut().flatten();
            let named = vms.find(|vm| vm.spec.name.as_str() == *name);
            named.expect("the move has such a VM").powered_off = true;
        }
        let begun = hand.insert(Hand::begin_with(request));
        return Ok(render(&begun.last));
    }
    let hand = hand.as_mut().expect("a script begins with `begin`");
    match words {
        [name, "answers", command] => {
            let outcome = answer::natural(command, WallMicros(hand.now.wall.0 + 1_000));
            hand.answer_with(&name.parse().unwrap(), order_of(command), outcome)?;
        }
        [first, "to", last, "answer", command] => {
            let range = number(&first[2..])..=number(&last[2..]);
            let mut all = String::new();
            for index in range {
                let outcome = answer::natural(command, WallMicros(hand.now.wall.0 + 1_000));
                hand.answer_with(&vm(index), order_of(command), outcome)?;
                all.push_str(&render(&hand.last));
            }
            return Ok(all);
        }
        [name, "answers", command, "with", "the", "older", "epoch"] => {
            let (host, order) = hand.order(&name.parse().unwrap(), command);
            let report = Report {
                order: Some(order.id),
                epoch: Epoch(order.epoch.0 - 1),
                vm: Some(name.parse().unwrap()),
                at: hand.now.wall,
                outcome: answer::natural(command, hand.now.wall),
            };
            hand.give(Input::Report { host, report })?;
        }
        [name, "answers", command, "like", other] => {
            let outcome = answer::natural(other, hand.now.wall);
            hand.answer_with(&name.parse().unwrap(), command, outcome)?;
        }
        [name, "refuses", command] => hand.refuse(&name.parse().unwrap(), command),
        [name, "does", "not", "know", "the", "VM", "of", command] => {
            hand.answer_with(
                &name.parse().unwrap(),
                command,
                answer::refusal(RefusalKind::UnknownVm),
            )?;
        }
        [name, "is", "gone", "at", command] => {
            let gone = Outcome::Lost(Fault::new(FaultKind::Qemu, "QEMU ended"));
            hand.answer_with(&name.parse().unwrap(), command, gone)?;
        }
        [name, "is", "given", "up"] => hand.resolve(&name.parse().unwrap(), RunOn::Nowhere),
        [name, "fails", command] => hand.fail(&name.parse().unwrap(), command),
        [name, "loses", "its", "tunnel"] => {
            let (host, order) = hand.order(&name.parse().unwrap(), "ConnectBuffers");
            let vm = Some(name.parse().unwrap());
            let (at, outcome) = (hand.now.wall, answer::fault(FaultKind::Tunnel));
            let report = Report {
                order: None,
                epoch: order.epoch,
                vm,
                at,
                outcome,
            };
            hand.give(Input::Report { host, report })?;
        }
        [name, "is", "lost"] => hand.give(Input::AgentLost { host: host(name) })?,
        [name, "is", "back"] => hand.bring_back(name),
        [ms, "ms", "pass"] => hand.wait(number(ms) as u64),
        ["the", "coordinator", "restarts", "with", "epoch", epoch] => hand.restart(number(epoch) as u64),
        ["the", "user", "cancels"] => hand.give(Input::Cancel)?,
        ["report"] => return Ok(render_report(hand)),
        other => panic!("no such input: {other:?}"),
    }
    Ok(render(&hand.last))
}

fn order_of(command: &str) -> &str {
    if command == "Converge" { "PreCopy" } else { command }
}

fn render(ready: &Ready) -> String {
    let mut out = String::new();
    for entry in &ready.persist {
        writeln!(out, "persist  {}", render_entry(entry)).unwrap();
    }
    for (host, order) in &ready.send {
        let vm = order.command.vm().expect("orders of a move are about a VM");
        let number = order.id.0 & 0xffff_ffff;
        writeln!(
            out,
            "send     {host}: {} {vm} (#{number}, epoch {})",
            order.command.name(),
            order.epoch
        )
        .unwrap();
    }
    for (at, timer) in &ready.timers {
        writeln!(out, "timer    {at}: {}", render_timer(timer)).unwrap();
    }
    for event in &ready.events {
        writeln!(out, "event    {}", render_event(event)).unwrap();
    }
    if ready.done {
        writeln!(out, "done").unwrap();
    }
    if out.is_empty() {
        "nothing\n".to_owned()
    } else {
        out
    }
}

fn render_entry(entry: &JournalEntry) -> String {
    match entry {
        JournalEntry::Begun { version, request, .. } => {
            format!("begun, version {version}, {} batches", request.batches.len())
        }
        JournalEntry::BatchBegun { batch, epoch, .. } => format!("batch {batch} begun, epoch {epoch}"),
        JournalEntry::RollingBack { batch, trouble, .. } => {
            format!("batch {batch} rolls back: {}", trouble.reason)
        }
        JournalEntry::PutOff { vm, batch, epoch, .. } => {
            format!("batch {batch} begins again without {vm}, epoch {epoch}")
        }
        JournalEntry::Rearranged { batches, .. } => {
            let names = |batch: &Vec<VmName>| batch.iter().map(VmName::as_str).collect::<Vec<_>>().join(" ");
            let batches: Vec<_> = batches.iter().map(names).collect();
            format!("to come: {}", batches.join(" | "))
        }
        JournalEntry::Committed { batch, epoch, .. } => format!("COMMITTED batch {batch}, epoch {epoch}"),
        JournalEntry::VmActivated { vm, .. } => format!("{vm} activated"),
        JournalEntry::VmClosed {
            vm,
            without_fin: true,
            ..
        } => format!("{vm} closed without FIN"),
        JournalEntry::VmClosed { vm, .. } => format!("{vm} closed"),
        JournalEntry::GivenUp { vm, side, host, .. } => format!("{vm} goes on without its {side}, {host}"),
        JournalEntry::LeftBehind { vm, host, clean, .. } => format!("{vm} left behind on {host}: {clean:?}"),
        JournalEntry::Resolved { vm, run_on, .. } => format!("{vm} resolved: {}", run_on.name()),
        JournalEntry::VmLost { vm, .. } => format!("{vm} lost"),
        JournalEntry::VmDiscarded { vm, .. } => format!("{vm} discarded"),
        JournalEntry::VmRestored { vm, .. } => format!("{vm} restored"),
        JournalEntry::CancelAsked { .. } => "cancel asked".to_owned(),
        JournalEntry::Recovered { batch, epoch, .. } => format!("recovered in batch {batch}, epoch {epoch}"),
        JournalEntry::Ended { report } => format!("ended: {:?}", report.outcome),
    }
}

fn render_timer(timer: &TimerId) -> String {
    match timer {
        TimerId::Step { batch, step } => format!("{step} of batch {batch} runs out"),
        TimerId::PreCopy { batch } => format!("pre-copy of batch {batch} runs out"),
        TimerId::Move => "the move runs out".to_owned(),
        TimerId::AgentLost { host } => format!("{host} is waited for no longer"),
        TimerId::HostLost { host } => format!("{host} is given up"),
        TimerId::Again { vm, order } => format!("order #{} to {vm} again", order.0 & 0xffff_ffff),
    }
}

fn render_event(event: &Happening) -> String {
    match event {
        Happening::Begun { vms, batches } => format!("begun: {} VMs, {batches} batches", vms.len()),
        Happening::StepEntered { batch, step } => format!("batch {batch}: step {} {step}", step.number()),
        Happening::PhaseEntered { vm, phase } => format!("{vm}: {phase}"),
        Happening::Progress { vm, .. } => format!("{vm}: progress"),
        Happening::Outlook { .. } => "outlook".to_owned(),
        Happening::Stuck { vm, .. } => format!("{vm} is stuck"),
        Happening::PutOff { vm, batch } => format!("{vm} goes last, in batch {batch}"),
        Happening::Rearranged { batches, batch_max } => {
            format!("{batches} batches in all, {batch_max} VMs at most in those to come")
        }
        Happening::Refused { host, vm, refusal } => format!("{vm} refused by {host}: {refusal}"),
        Happening::Failed { vm, fault, .. } => {
            format!(
                "{} failed: {}",
                vm.as_ref().map_or("a host", VmName::as_str),
                fault.reason
            )
        }
        Happening::AgentLost { host } => format!("{host} lost"),
        Happening::AgentBack { host } => format!("{host} back"),
        Happening::HostGone { host } => format!("{host} is gone"),
        Happening::GivenUp { vm, host, side } => format!("{vm} goes on without its {side}, {host}"),
        Happening::DecisionWanted {
            vm,
            host,
            lost: Lost::Host,
            hint,
        } => format!("{vm}, {host} being lost: {hint}"),
        Happening::DecisionWanted {
            vm,
            host,
            lost: Lost::Vm,
            hint,
        } => format!("{vm}, lost on {host}: {hint}"),
        Happening::Resolved { vm, run_on } => format!("{vm} resolved: {}", run_on.name()),
        Happening::Bands { host, change } => format!("{host}: bands {change:?}"),
        Happening::RollingBack { batch, reason } => format!("batch {batch} rolls back: {reason}"),
        Happening::AlreadyRollingBack { batch } => format!("batch {batch} rolls back already"),
        Happening::Committed { batch } => format!("batch {batch} committed"),
        Happening::VmLost { vm, host, fault } => format!("{vm} lost on {host}: {}", fault.reason),
        Happening::Ended { ending } => format!("ended: {ending:?}"),
    }
}

fn render_report(hand: &Hand) -> String {
    let report = hand.report();
    let mut out = format!("report   {:?}", report.outcome);
    if let Some(trouble) = &report.trouble {
        write!(out, ", {}: {} ({})", trouble.step, trouble.reason, trouble.hint).unwrap();
    }
    out.push('\n');
    for vm in &report.vms {
        write!(out, "report   {} on {}, {}", vm.id, vm.host, vm.phase).unwrap();
        if let Some(loss) = &vm.lost {
            write!(out, ", LOST: {} ({})", loss.reason, loss.hint).unwrap();
        } else if vm.guest != GuestState::Running {
            write!(out, ", {}", vm.guest.name()).unwrap();
        }
        if let Some(ms) = vm.blackout_ms {
            write!(out, ", blackout {ms} ms").unwrap();
        }
        if let Some(ms) = vm.gap_ms {
            write!(out, ", gap {ms} ms").unwrap();
        }
        if let Some(frames) = vm.frames {
            write!(
                out,
                ", frames {}/{} lost {}",
                frames.delivered, frames.captured, frames.lost
            )
            .unwrap();
        }
        if let Some(loss) = &vm.source_lost {
            write!(
                out,
                ", source {} lost after {} frames, lost {:?}",
                loss.host, loss.delivered, loss.frames_lost
            )
            .unwrap();
        }
        out.push('\n');
    }
    for wait in &report.waiting {
        let (vm, order, host) = (&wait.vm, wait.order, &wait.host);
        writeln!(
            out,
            "report   waits for {order} of {vm} on {host}: {:?}",
            wait.why
        )
        .unwrap();
    }
    out
}
