//! The lab's commands.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use transhume_lab::{
    Lab, LabName, LabUp, Profile, Progress, Target, Traffic, apps, collect_without, down, exec, log, sweep,
    up,
};
use transhume_model::{Mebibytes, VmName};
use transhume_planner::words::some;

use crate::args::{LabCommand, UpArgs};
use crate::brownout;
use crate::failure::{Failure, Kind};
use crate::figures;
use crate::memory;
use crate::moves::print_json;
use crate::neighbours;
use crate::storm;
use crate::table::Table;

pub async fn run(command: LabCommand) -> Result<ExitCode, Failure> {
    match command {
        LabCommand::Up(args) => raise(args).await,
        LabCommand::Down => remove().await,
        LabCommand::Exec {
            name,
            limit_s,
            json,
            command,
        } => execute(&name, limit_s, json, &command).await,
        LabCommand::Logs { name, console } => logs(&name, console).await,
        LabCommand::App { json } => crate::apps::app(&open()?, json).await,
        LabCommand::Apps(args) => crate::apps::apps(args).await,
        LabCommand::Figures(args) => figures::figures(args).await,
        LabCommand::Memory(args) => memory::memory(args).await,
        LabCommand::Neighbours(args) => neighbours::neighbours(args).await,
        LabCommand::Brownout(args) => brownout::brownout(args).await,
        LabCommand::Storm(args) => storm::storm(args).await,
        LabCommand::Stock(args) => figures::stock(args).await,
        LabCommand::Workload {
            verify_disks,
            without,
            json,
        } => workload(verify_disks, &without, json).await,
    }
}

fn open() -> Result<Lab, Failure> {
    Ok(Lab::open(&LabName::default())?)
}

/// For what raises labs of its own: refuses where one is up.
pub async fn refuse_lab(what: &str) -> Result<(), Failure> {
    sweep(&progress()).await?;
    if Lab::open(&LabName::default()).is_ok() {
        let hint = format!("run `transhume lab down` first: the {what} raises its own");
        return Err(Failure::new(Kind::Refused, "a lab is up", hint));
    }
    Ok(())
}

pub fn progress() -> Progress {
    Progress::new(|text| eprintln!("{text}"))
}

async fn raise(args: UpArgs) -> Result<ExitCode, Failure> {
    let profile = match args.app {
        Some(app) => apps::options(app),
        None => Profile::from(args.profile).options(),
    };
    let options = LabUp {
        hosts: args.hosts.unwrap_or(profile.hosts),
        vms: args.vms.unwrap_or(profile.vms),
        staying: args.staying,
        memory: args.memory_mib.map_or(profile.memory, Mebibytes),
        circuits: args.circuits.into(),
        link_bits_per_s: args.link.0,
        mtu: args.mtu,
        overlay: args.overlay,
        run: args.run,
        traffic: args.workload.map_or(profile.traffic, Traffic::from),
        rate: args.rate.unwrap_or(profile.rate),
        accel: args.accel,
        buffer_bytes_max: args.buffer_bytes_max,
        pages_off: args.pages_off,
        pages_on: args.pages_on,
        program: args.program,
        insecure: args.insecure,
        journal: args.journal.into(),
        coordinators: args.coordinators,
        lease_s: args.lease,
        owner: args.owner,
        progress: progress(),
        ..profile
    };
    up(&options).await?;
    eprintln!(
        "the lab is up; cluster `lab`, {} on {}",
        some((options.vms - options.staying).into(), "VM"),
        some(options.hosts.into(), "host")
    );
    Ok(ExitCode::SUCCESS)
}

async fn remove() -> Result<ExitCode, Failure> {
    let report = down(&LabName::default(), &progress()).await?;
    if report.existed {
        eprintln!(
            "the lab is gone: {} processes ended, {} namespaces removed",
            report.processes, report.namespaces
        );
    } else {
        eprintln!("there is no lab");
    }
    Ok(ExitCode::SUCCESS)
}

async fn execute(name: &str, limit_s: u64, json: bool, command: &[String]) -> Result<ExitCode, Failure> {
    let done = exec(&open()?, name, command, Duration::from_secs(limit_s)).await?;
    if json {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        return print_json(&serde_json::json!({
            "code": done.code,
            "timed_out": done.timed_out,
            "stdout": text(&done.stdout),
            "stderr": text(&done.stderr),
        }));
    }
    crate::out::bytes(&done.stdout);
    std::io::stderr()
        .write_all(&done.stderr)
        .map_err(|error| Failure::of(&error))?;
    if done.timed_out {
        let message = format!("the command did not end within {limit_s} s and was killed");
        return Err(Failure::new(Kind::Other, message, "--limit-s allows longer"));
    }
    Ok(ExitCode::from(
        u8::try_from(done.code).unwrap_or(Kind::Other as u8),
    ))
}

async fn logs(name: &str, console: bool) -> Result<ExitCode, Failure> {
    let lab = open()?;
    let mut target = Target::named(&lab, name)?;
    if let (false, Ok(vm)) = (console, lab.vm(name)) {
        target = Target::Workload(vm.name.clone());
    }
    let mut offset = 0;
    loop {
        let part = log(&lab, &target, offset).await?;
        if part.bytes.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        crate::out::bytes(&part.bytes);
        offset = part.next_offset;
    }
}

async fn workload(verify_disks: bool, without: &[VmName], json: bool) -> Result<ExitCode, Failure> {
    let figures = collect_without(&open()?, without, verify_disks).await?;
    if json {
        return print_json(&figures);
    }
    let mut table = Table::new(&[
        "VM",
        "SENT",
        "RECEIVED",
        "LOST",
        "DUPLICATED",
        "REORDERED",
        "GAP ms",
        "TCP BROKEN",
        "DISK ERRORS",
    ]);
    for vm in &figures.vms {
        table.row([
            vm.id.to_string(),
            vm.sent.to_string(),
            vm.received.to_string(),
            vm.lost.to_string(),
            vm.duplicated.to_string(),
            vm.reordered.to_string(),
            vm.gap_ms.to_string(),
            vm.tcp_broken.to_string(),
            vm.disk_errors.to_string(),
        ]);
    }
    out!("{}", table.text());
    Ok(ExitCode::SUCCESS)
}
