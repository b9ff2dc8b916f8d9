//! Clusters and hosts, as tables.

use std::path::Path;
use std::process::ExitCode;

use transhume_api::{Client, ClockView, ClusterView, Decision, HostView, VmLife};
use transhume_model::{BandRates, ClusterName, GroupKind, IdError, PlacementRules};
use transhume_planner::input::read_document;
use transhume_protocol::message::PROTOCOL_VERSION;

use crate::args::ClusterCommand;
use crate::failure::{Failure, Kind};
use crate::moves::print_json;
use crate::operators::decide;
use crate::plan_file::read_text;
use crate::table::Table;

/// A clock that is further off than this is shown: its owner will want to mend it.
const CLOCK_OFF_MS_MAX: f64 = 100.0;

pub async fn run(client: &Client, command: ClusterCommand) -> Result<ExitCode, Failure> {
    match command {
        ClusterCommand::List { json } => list(client, json).await,
        ClusterCommand::Show { name, json } => {
            let view = client.cluster(&cluster_name(&name)?).await?;
            show(&view, json)
        }
        ClusterCommand::Forget { name, deciding } => {
            let name = cluster_name(&name)?;
            decide(&deciding, |dry_run| {
                client.forget_cluster(&name, Decision { dry_run })
            })
            .await
        }
        ClusterCommand::Rules { name, set, json } => {
            let name = cluster_name(&name)?;
            let rules = match set {
                Some(file) => client.set_rules(&name, &read_rules(&file)?).await?,
                None => client.rules(&name).await?,
            };
            if json {
                return print_json(&rules);
            }
            out!("{}", rules_text(&name, &rules));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn read_rules(file: &Path) -> Result<PlacementRules, Failure> {
    let shown = file.display().to_string();
    let text = read_text(
        file,
        "the rules",
        "`transhume cluster rules CLUSTER --json` shows what is in force",
    )?;
    read_document(&shown, &text).map_err(|error| {
        let hint = error
            .hint
            .clone()
            .unwrap_or_else(|| "docs/cli.md describes the rules of a cluster".to_owned());
        Failure::new(Kind::Refused, error.to_string(), hint)
    })
}

fn rules_text(cluster: &ClusterName, rules: &PlacementRules) -> String {
    if rules.is_empty() {
        return format!("any host will do for any VM of cluster {cluster}\n");
    }
    let mut text = String::new();
    for group in &rules.groups {
        let vms: Vec<&str> = group.vms.iter().map(|vm| vm.as_str()).collect();
        let asks = match group.kind {
            GroupKind::Affinity => "together on one host",
            GroupKind::AntiAffinity => "each on a host of its own",
        };
        text.push_str(&format!("group {}: {}: {asks}\n", group.name, vms.join(", ")));
    }
    for (vm, rules) in &rules.vms {
        if !rules.pin.is_empty() {
            let hosts: Vec<&str> = rules.pin.iter().map(|host| host.as_str()).collect();
            text.push_str(&format!("VM {vm}: only on {}\n", hosts.join(", ")));
        }
        for (label, value) in &rules.selector {
            text.push_str(&format!("VM {vm}: only where {label} is {value}\n"));
        }
    }
    text
}

async fn list(client: &Client, json: bool) -> Result<ExitCode, Failure> {
    let list = client.clusters().await?;
    if json {
        return print_json(&list);
    }
    let mut table = Table::new(&["CLUSTER", "VMS", "HOSTS", "MIGRATION"]);
    for line in list.clusters {
        let hosts: Vec<String> = line.hosts.iter().map(ToString::to_string).collect();
        let migration = line.migration.map_or("-".to_owned(), |id| id.to_string());
        let (name, vms) = (line.name.to_string(), line.vms.to_string());
        table.row([name, vms, hosts.join(","), migration]);
    }
    out!("{}", table.text());
    Ok(ExitCode::SUCCESS)
}

/// One cluster's VMs.
pub fn show(view: &ClusterView, json: bool) -> Result<ExitCode, Failure> {
    if json {
        return print_json(view);
    }
    out!("{}", cluster_text(view));
    Ok(ExitCode::SUCCESS)
}

fn cluster_text(view: &ClusterView) -> String {
    let mut table = Table::new(&["VM", "HOST", "STATE", "VCPUS", "MIB"]);
    for vm in &view.vms {
        let (vcpus, memory) = (vm.demand.vcpus.0.to_string(), vm.demand.memory.0.to_string());
        let state = vm.state.name().to_owned();
        table.row([vm.id.to_string(), vm.host.to_string(), state, vcpus, memory]);
    }
    let mut text = table.text();
    let cluster = &view.name;
    for vm in &view.vms {
        let hint = match vm.state {
            VmLife::Missing => format!(
                "`transhume vm start {cluster} {vm}` boots it again, `transhume vm forget {cluster} {vm}` takes it out of the cluster",
                vm = vm.id
            ),
            VmLife::Stranded => "`transhume hosts` shows what is left of it, and where".to_owned(),
            VmLife::Running
            | VmLife::Paused
            | VmLife::DiskError
            | VmLife::Panicked
            | VmLife::Off
            | VmLife::Unknown => continue,
        };
        text.push_str(&format!("VM {} is {}: {hint}\n", vm.id, vm.state.name()));
    }
    text
}

pub async fn hosts(client: &Client, json: bool) -> Result<ExitCode, Failure> {
    let list = client.hosts().await?;
    if json {
        return print_json(&list);
    }
    out!("{}", hosts_text(&list.hosts));
    Ok(ExitCode::SUCCESS)
}

/// One host.
pub fn show_host(host: &HostView, json: bool) -> Result<ExitCode, Failure> {
    if json {
        return print_json(host);
    }
    out!("{}", hosts_text(std::slice::from_ref(host)));
    Ok(ExitCode::SUCCESS)
}

fn hosts_text(hosts: &[HostView]) -> String {
    let mut table = Table::new(&["HOST", "AGENT", "FREE VCPUS", "FREE MIB", "VMCT", "QEMU", "VMS"]);
    for host in hosts {
        let free = |amount: Option<u64>| amount.map_or("-".to_owned(), |amount| amount.to_string());
        let qemu = host.qemu.as_ref();
        let vms: Vec<String> = host.vms.iter().map(ToString::to_string).collect();
        table.row([
            host.name.to_string(),
            agent(host).to_owned(),
            free(host.free.map(|free| free.vcpus.0)),
            free(host.free.map(|free| free.memory.0)),
            vmct(host),
            qemu.map_or("-".to_owned(), |qemu| format!("{} {}", qemu.version, qemu.accel)),
            vms.join(","),
        ]);
    }
    let notes = hosts.iter().flat_map(notes);
    table.text() + &notes.map(|note| note + "\n").collect::<String>()
}

fn agent(host: &HostView) -> &'static str {
    match (host.connected, host.fenced_at) {
        (true, _) if !host.leftovers.is_empty() => "cleaning",
        (true, _) => "answers",
        (false, Some(_)) => "fenced",
        (false, None) => "away",
    }
}

/// What its bands give to migrations: always, and at most where that is more.
fn vmct(host: &HostView) -> String {
    match host.bands.as_ref().and_then(|bands| bands.vmct) {
        None => "-".to_owned(),
        Some(BandRates { guaranteed, ceiling }) if guaranteed == ceiling => guaranteed.to_string(),
        Some(BandRates { guaranteed, ceiling }) => format!("{guaranteed} to {ceiling}"),
    }
}

/// What is wrong on a host, each with what would help.
fn notes(host: &HostView) -> Vec<String> {
    let name = &host.name;
    let mut notes = Vec::new();
    if host.cordoned {
        notes.push(format!("host {name} is cordoned: nothing is put on it"));
        notes.push(format!("hint: `transhume host uncordon {name}` lifts that"));
    }
    if !host.leftovers.is_empty() {
        let vms: Vec<&str> = host.leftovers.iter().map(|vm| vm.as_str()).collect();
        notes.push(format!(
            "host {name} still holds something of VM {}: it is cleaned away when its agent is back",
            vms.join(", ")
        ));
    }
    if host.protocol.is_some_and(|protocol| protocol < PROTOCOL_VERSION) {
        let release = host.release.as_deref().unwrap_or("0.3.0 or older");
        notes.push(format!(
            "host {name} is spoken to as by an older release: its agent's is {release}"
        ));
        notes.push("hint: moves go on meanwhile; upgrade coordinator and agents, in any order".to_owned());
    }
    if host.insecure {
        notes.push(format!(
            "INSECURE: the links of host {name} are in the clear, and its agent believes whoever reaches it"
        ));
        notes.push(format!(
            "hint: `transhume ca issue agent/{name}`, then [trust] in place of `insecure` in its configuration"
        ));
    }
    if let Some(certificate) = host.certificate.filter(|certificate| certificate.ends_soon) {
        let until = transhume_trust::instant((certificate.until.0 / 1_000_000) as i64);
        notes.push(format!(
            "the certificate of host {name}'s agent is good until {until} and no longer"
        ));
        notes.push("hint: `transhume ca renew` makes the next one; no restart is needed".to_owned());
    }
    for stranded in &host.stranded {
        notes.push(format!(
            "stranded on host {name}: VM {}: {}",
            stranded.vm, stranded.what
        ));
        notes.push(format!("hint: {}", stranded.hint));
    }
    if let Some(fault) = host.bands.as_ref().and_then(|bands| bands.trouble.as_ref()) {
        let what = &fault.reason;
        notes.push(format!(
            "the links of host {name} are not divided as configured: {what}"
        ));
        notes.extend(fault.hint.iter().map(|hint| format!("hint: {hint}")));
    }
    if let Some(ClockView {
        offset_ms,
        uncertainty_ms,
    }) = host.clock
        && offset_ms.abs() > CLOCK_OFF_MS_MAX
    {
        let way = if offset_ms < 0.0 { "behind" } else { "ahead of" };
        notes.push(format!(
            "the clock of host {name} is {:.1} ms {way} the coordinator's (give or take {uncertainty_ms:.1} ms)",
            offset_ms.abs()
        ));
        notes
            .push("hint: let both follow NTP; figures that compare two hosts are corrected by it".to_owned());
    }
    notes
}

/// Becomes part of a path: what is no name never leaves this machine.
pub fn cluster_name(text: &str) -> Result<ClusterName, Failure> {
    let hint = "`transhume cluster list` shows which clusters there are";
    text.parse()
        .map_err(|error: IdError| Failure::new(Kind::Refused, error.to_string(), hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use transhume_api::{ClusterStage, VmView};
    use transhume_model::{Demand, Mebibytes, Vcpus};
    use transhume_protocol::message::Stranded;

    fn host(clock: Option<ClockView>, stranded: Vec<Stranded>) -> HostView {
        HostView {
            name: "h1".parse().unwrap(),
            connected: true,
            away: None,
            release: None,
            protocol: None,
            capacity: None,
            free: None,
            qemu: None,
            qemu_error: None,
            vms: vec!["vm1".parse().unwrap()],
            stranded,
            bands: None,
            insecure: false,
            certificate: None,
            clock,
            fenced_at: None,
            cordoned: false,
            leftovers: Vec::new(),
        }
    }

    #[test]
    fn a_host_of_the_release_before_is_told() {
        let of = |protocol| HostView {
            protocol: Some(protocol),
            ..host(None, Vec::new())
        };
        assert_eq!(notes(&of(PROTOCOL_VERSION)), Vec::<String>::new());
        let told = notes(&of(PROTOCOL_VERSION - 1)).join("\n");
        assert!(
            told.contains("0.3.0 or older") && told.contains("hint: moves go on"),
            "{told}"
        );
    }

    #[test]
    fn what_is_stranded_is_shown_with_what_would_help() {
        let stranded = Stranded {
            vm: "vm2".parse().unwrap(),
            what: "QEMU with pid 71 and no record".to_owned(),
            hint: "end process 71".to_owned(),
        };
        let hosts = vec![host(None, vec![stranded])];
        assert_eq!(
            hosts_text(&hosts),
            "HOST  AGENT    FREE VCPUS  FREE MIB  VMCT  QEMU  VMS\n\
             h1    answers           -         -     -     -  vm1\n\
             stranded on host h1: VM vm2: QEMU with pid 71 and no record\n\
             hint: end process 71\n"
        );
    }

    #[test]
    fn a_clock_is_shown_when_it_is_off_and_not_before() {
        let notes = |offset_ms| {
            let clock = ClockView {
                offset_ms,
                uncertainty_ms: 0.5,
            };
            notes(&host(Some(clock), Vec::new()))
        };
        assert!(notes(CLOCK_OFF_MS_MAX).is_empty() && notes(-CLOCK_OFF_MS_MAX).is_empty());
        let [what, hint] = notes(3_600_000.0).try_into().unwrap();
        assert!(
            what.contains("3600000.0 ms ahead of the coordinator's (give or take 0.5 ms)"),
            "{what}"
        );
        assert!(hint.contains("NTP"), "{hint}");
        assert!(notes(-250.0)[0].contains("250.0 ms behind the coordinator's"));
    }

    #[test]
    fn every_state_of_a_vm_is_shown_and_what_needs_a_hand_says_so() {
        let vm = |state: VmLife| VmView {
            id: state.name().parse().unwrap(),
            host: "h1".parse().unwrap(),
            state,
            role: None,
            demand: Demand {
                vcpus: Vcpus(1),
                memory: Mebibytes(96),
            },
        };
        let view = ClusterView {
            name: "lab".parse().unwrap(),
            stage: ClusterStage::Live,
            migration: None,
            vms: VmLife::ALL.map(vm).to_vec(),
        };
        let text = cluster_text(&view);
        for life in VmLife::ALL {
            let needs_a_hand = matches!(life, VmLife::Missing | VmLife::Stranded);
            let note = format!("VM {} is {}: ", life.name(), life.name());
            assert_eq!(text.contains(&note), needs_a_hand, "{text}");
        }
        assert!(text.contains("transhume vm forget lab missing"), "{text}");
    }
}
