//! Builds a lab: namespaces, fabric, storage, agents, coordinator, cluster.

use std::fs;
use std::net::SocketAddrV4;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use transhume_api::{Client, VmLife};
use transhume_model::Band;
use transhume_trust::{Authority, Identity, TrustFiles};

use crate::fabric::LimitedBy;
use crate::image::{self, Additions, Image};
use crate::layout::Circuits;
use crate::process::{self, ProcessRecord};
use crate::state::{HostState, Lab, State, VmState};
use crate::{
    Channel, DiskServer, FabricLink, FabricSpec, JournalKind, LabError, LabUp, Layout, Namespace, apps,
    config, down, etcd, fabric, layout, mounts, namespace, rights, tuning,
};

/// A guest under TCG takes about 2 s alone; on few CPUs they boot one after the other.
const VM_START_MS_MAX: u64 = 60_000;
const VM_START_MS_MAX_PER_VM: u64 = 5_000;
const POLL: Duration = Duration::from_millis(50);
/// No lab stands for so long.
const CERTIFICATE_DAYS: u32 = 365;
/// Sets a variable and becomes another program.
const ENV: &str = "/usr/bin/env";
/// Names the file whose number of milliseconds an agent adds to its clock; without the file it adds
/// nothing.
const CLOCK_FILE_VARIABLE: &str = "TRANSHUME_LAB_CLOCK";
/// Device name part of the storage's link.
const STORAGE: &str = "storage";

/// Builds a whole lab; it stays when the caller ends.
pub async fn up(options: &LabUp) -> Result<Lab, LabError> {
    let (mut lab, image) = infrastructure(options).await?;
    options.progress.step("starting agents and coordinator");
    let lab = blocking(move || {
        for index in 0..lab.state.hosts.len() {
            let name = lab.state.hosts[index].name.to_string();
            start_agent(&mut lab, &name)?;
        }
        if lab.state.journal == JournalKind::Etcd {
            etcd::start(&mut lab)?;
        }
        for index in 0..=lab.state.more_coordinators {
            start_coordinator_of(&mut lab, index)?;
        }
        Ok(lab)
    })
    .await?;
    let mut lab = create_clusters(lab, options, &image).await?;
    options.progress.step("waiting for the guests");
    wait_for_guests(&lab).await?;
    if let Some(app) = options.app {
        options.progress.step(&format!("waiting for {app}"));
        apps::wait(&lab, app).await?;
    }
    lab.complete(options)?;
    Ok(lab)
}

/// Everything below the agents: namespaces, fabric, storage, configuration files, and the guests'
/// image.
pub async fn infrastructure(options: &LabUp) -> Result<(Lab, Image), LabError> {
    options.check()?;
    down::sweep(&options.progress).await?;
    down::refuse_leftovers(&options.name)?;
    let lab = plan(options)?;
    let dir = lab.layout.dir();
    fs::create_dir_all(&dir).map_err(|source| LabError::File {
        action: "create",
        path: dir,
        source,
    })?;
    lab.save()?;
    let additions = Additions {
        app: options.app,
        overlay: options.overlay.as_deref(),
        run: options.run.as_deref(),
    };
    let initrd = lab.layout.initrd();
    let image = image::build(
        Path::new(image::CACHE),
        initrd,
        &additions,
        options.memory_range().0,
        &options.progress,
    )
    .await?;
    let options = options.clone();
    let lab = blocking(move || build(lab, &options)).await?;
    Ok((lab, image))
}

/// Runs blocking work off the runtime's own threads.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LabError> + Send + 'static,
) -> Result<T, LabError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Where another program is, whatever directory the lab is used from later.
fn executable(program: &Path) -> Result<PathBuf, LabError> {
    let refuse = |why: String| LabError::Option {
        option: "program",
        reason: format!("{} {why}", program.display()),
    };
    let found = fs::canonicalize(program).map_err(|error| refuse(format!("cannot be run: {error}")))?;
    let is_program =
        fs::metadata(&found).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    match is_program {
        true => Ok(found),
        false => Err(refuse("is no program".to_owned())),
    }
}

fn plan(options: &LabUp) -> Result<Lab, LabError> {
    let layout = Layout::new(&options.name);
    let program = match &options.program {
        Some(program) => executable(program)?,
        None => process::current_program().map_err(|source| LabError::Start {
            program: "the current program".to_owned(),
            source,
        })?,
    };
    let mut state = State {
        owner: Some(process::owner(std::process::id())?),
        program,
        backlog_before: tuning::backlog_to_raise(),
        circuits: options.circuits,
        app: options.app,
        journal: options.journal,
        more_coordinators: options.coordinators - 1,
        ..State::default()
    };
    state.namespaces = vec![layout.fabric_namespace(), layout.storage_namespace()];
    let coordinators = (0..options.coordinators).map(|index| layout.coordinator_namespace(index));
    state.namespaces.extend(coordinators);
    if options.journal == JournalKind::Etcd {
        let members = (0..layout::ETCD_MEMBERS).map(|index| layout.etcd_namespace(index));
        state.namespaces.extend(members);
    }
    for index in 0..options.hosts {
        let name = layout::host_name(index)?;
        let state_dir = layout.host_dir(&name);
        state.namespaces.push(layout.host_namespace(&name));
        state.hosts.push(HostState {
            namespace: layout.host_namespace(&name),
            ct: layout::host_address(Band::Ct, index),
            vmct: layout::host_address(Band::Vmct, index),
            nast: layout::host_address(Band::Nast, index),
            config: state_dir.join("agent.toml"),
            state_dir,
            name,
        });
    }
    for index in 0..options.vms {
        state.vms.push(VmState {
            name: layout::vm_name(index)?,
            index,
            ip: layout::vm_address(index),
            first_host: layout::host_name(layout::first_host(index, options))?,
        });
    }
    Ok(Lab { layout, state })
}

fn build(mut lab: Lab, options: &LabUp) -> Result<Lab, LabError> {
    if lab.state.backlog_before.is_some() {
        tuning::raise_backlog()?;
    }
    options.progress.step("building the network");
    for name in &lab.state.namespaces {
        Namespace::named(name).create()?;
    }
    fabric::build(&fabric_spec(&lab, options))?;
    let authority = match options.insecure {
        true => None,
        false => Some(Authority::create(&lab.layout.authority_dir(), "Transhume lab")?),
    };
    for (index, host) in lab.state.hosts.iter().enumerate() {
        create_dir(&host.state_dir)?;
        if let Some(size) = options.state_bytes_max {
            mounts::memory(&host.state_dir, size)?;
        }
        let own = Identity::Agent(host.name.clone());
        let trust = identify(authority.as_ref(), &own, &host.state_dir)?;
        config::write_agent(&host.config, &lab.layout, options, index as u16, trust)?;
    }
    for index in 0..options.coordinators {
        let dir = lab.layout.dir_of_coordinator(index);
        create_dir(&dir)?;
        let trust = identify(authority.as_ref(), &Identity::Coordinator, &dir)?;
        let path = config_of_coordinator(&lab.layout, index);
        config::write_coordinator(&path, &lab.layout, options, index, trust)?;
    }
    if options.disk.is_some() {
        options.progress.step("starting the storage");
        start_disks(&mut lab, options)?;
    }
    Ok(lab)
}

/// A certificate for a part, in its directory; none in a lab without an authority.
fn identify(
    authority: Option<&Authority>,
    part: &Identity,
    dir: &Path,
) -> Result<Option<TrustFiles>, LabError> {
    let Some(authority) = authority else {
        return Ok(None);
    };
    let issued = authority.issue(part, CERTIFICATE_DAYS, dir)?;
    Ok(Some(TrustFiles {
        authority: authority.certificate(),
        certificate: issued.certificate,
        key: issued.key,
        revoked: Some(authority.revoked()),
    }))
}

fn create_dir(path: &Path) -> Result<(), LabError> {
    fs::create_dir_all(path).map_err(|source| LabError::File {
        action: "create",
        path: path.to_owned(),
        source,
    })
}

/// Where the coordinator's configuration is; of several, the first's.
pub fn coordinator_config(layout: &Layout) -> PathBuf {
    config_of_coordinator(layout, 0)
}

fn config_of_coordinator(layout: &Layout, index: u16) -> PathBuf {
    layout.dir_of_coordinator(index).join("coordinator.toml")
}

fn fabric_spec(lab: &Lab, options: &LabUp) -> FabricSpec {
    let circuits = options.circuits;
    let part = |peer: &str, namespace: String, band, address| FabricLink {
        peer: peer.to_owned(),
        namespace: Namespace::named(namespace),
        circuit: circuits.carrying(band),
        addresses: vec![address],
        bridge: None,
        limited_by: LimitedBy::Lab,
    };
    let mut links = vec![part(
        STORAGE,
        lab.layout.storage_namespace(),
        Band::Nast,
        layout::storage_address(),
    )];
    links.extend((0..options.coordinators).map(|index| {
        part(
            &layout::coordinator_peer(index),
            lab.layout.coordinator_namespace(index),
            Band::Ct,
            layout::coordinator_address(index),
        )
    }));
    if options.journal == JournalKind::Etcd {
        links.extend((0..layout::ETCD_MEMBERS).map(|index| {
            part(
                &layout::etcd_name(index),
                lab.layout.etcd_namespace(index),
                Band::Ct,
                layout::etcd_address(index),
            )
        }));
    }
    for host in &lab.state.hosts {
        links.extend(circuits.all().iter().map(|&circuit| {
            FabricLink {
                peer: host.name.to_string(),
                namespace: Namespace::named(&host.namespace),
                circuit,
                addresses: circuit
                    .bands()
                    .into_iter()
                    .map(|band| host.address(band))
                    .collect(),
                bridge: (circuit == circuits.carrying(Band::Ct)).then(|| config::BRIDGE.to_owned()),
                limited_by: match circuits {
                    Circuits::Shared => LimitedBy::Agent,
                    Circuits::Separate | Circuits::Undivided => LimitedBy::Lab,
                },
            }
        }));
    }
    FabricSpec {
        namespace: Namespace::named(lab.layout.fabric_namespace()),
        circuits,
        links,
        bits_per_s: options.link_bits_per_s,
        mtu: options.mtu,
    }
}

fn start_disks(lab: &mut Lab, options: &LabUp) -> Result<(), LabError> {
    let Some(size) = options.disk else { return Ok(()) };
    let mut started = Vec::new();
    for vm in lab.state.vms.clone() {
        let server = DiskServer::of(&lab.layout, &vm);
        let process = server.start(size)?;
        lab.record(process.clone())?;
        started.push((server, process));
    }
    started
        .iter()
        .try_for_each(|(server, process)| server.ready(process))
}

/// Starts the agent of a host, also after it was killed.
pub fn start_agent(lab: &mut Lab, host: &str) -> Result<ProcessRecord, LabError> {
    let host = lab.host(host)?.clone();
    // Each of these becomes the next, and `env` the agent: the process is the same.
    let mut arguments = rights::limits(&lab.layout)?;
    arguments.extend([
        ENV.to_owned(),
        format!(
            "{CLOCK_FILE_VARIABLE}={}",
            lab.layout.clock_file(&host.name).display()
        ),
        lab.state.program.display().to_string(),
        "agent".to_owned(),
        "--config".to_owned(),
        host.config.display().to_string(),
    ]);
    let namespace = Namespace::named(&host.namespace);
    let what = format!("agent {}", host.name);
    let (program, arguments) = (Path::new(&arguments[0]), &arguments[1..]);
    let process = process::spawn(&namespace, &what, program, arguments, &host.agent_log())?;
    lab.record(process.clone())?;
    let control = SocketAddrV4::new(host.ct, layout::CONTROL_PORT);
    process::wait_for_listener(&namespace, control, &process, &host.agent_log())?;
    Ok(process)
}

/// Starts the coordinator, also after it was killed; of several, the first.
pub fn start_coordinator(lab: &mut Lab) -> Result<ProcessRecord, LabError> {
    start_coordinator_of(lab, 0)
}

/// The same by index.
pub fn start_coordinator_of(lab: &mut Lab, index: u16) -> Result<ProcessRecord, LabError> {
    let config = config_of_coordinator(&lab.layout, index);
    let arguments = [
        "coordinator".to_owned(),
        "--config".to_owned(),
        config.display().to_string(),
    ];
    let namespace = Namespace::named(lab.layout.coordinator_namespace(index));
    let log = lab.layout.dir_of_coordinator(index).join("coordinator.log");
    let name = layout::coordinator_name(index);
    let process = process::spawn(&namespace, &name, &lab.state.program, &arguments, &log)?;
    lab.record(process.clone())?;
    process::wait_for_listener(&namespace, layout::api_address(index), &process, &log)?;
    Ok(process)
}

/// Whether every agent is connected. A coordinator opens its socket after its TCP address.
pub async fn all_connected(client: &Client) -> Result<bool, LabError> {
    match client.hosts().await {
        Ok(list) => Ok(list.hosts.iter().all(|host| host.connected)),
        Err(error) if error.is_away() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn create_clusters(lab: Lab, options: &LabUp, image: &Image) -> Result<Lab, LabError> {
    let specs = layout::clusters(options, image)?;
    let vms = usize::from(options.vms);
    options.progress.step(&format!("starting {vms} VMs"));
    let client = Client::sockets(&lab.layout.api_sockets());
    let limit_ms = start_limit_ms(vms);
    let deadline = Instant::now() + Duration::from_millis(limit_ms);
    while !all_connected(&client).await? {
        if Instant::now() > deadline {
            return Err(LabError::Timeout {
                what: "the connection of the agents".to_owned(),
                waited_ms: limit_ms,
            });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for spec in &specs {
        client.create_cluster(spec).await?;
    }
    loop {
        let mut running = 0;
        for spec in &specs {
            let view = client.cluster(&spec.name).await?;
            running += view.vms.iter().filter(|vm| vm.state == VmLife::Running).count();
        }
        if running == vms {
            return Ok(lab);
        }
        if Instant::now() > deadline {
            let what = format!("the start of {} of {vms} VMs", vms - running);
            return Err(LabError::Timeout {
                what,
                waited_ms: limit_ms,
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

fn start_limit_ms(vms: usize) -> u64 {
    VM_START_MS_MAX + VM_START_MS_MAX_PER_VM * vms as u64
}

/// Waits until every guest answers on its console channel.
pub async fn wait_for_guests(lab: &Lab) -> Result<(), LabError> {
    let limit = Duration::from_millis(start_limit_ms(lab.state.vms.len()));
    let pings = lab.state.vms.iter().map(|vm| async move {
        Channel::new(lab, vm)
            .call(transhume_guest::wire::Op::Ping, limit)
            .await
    });
    futures::future::try_join_all(pings).await.map(|_| ())
}

/// Names of all namespaces that a lab left, recorded or not.
pub fn namespaces_of(layout: &Layout) -> Vec<Namespace> {
    namespace::list(&layout.namespace_prefix())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_program_is_one_that_can_be_run() {
        let sh = executable("/bin/sh".as_ref()).unwrap();
        assert!(sh.is_absolute() && sh.is_file(), "{}", sh.display());
        for (path, why) in [
            ("/nope/transhume", "cannot be run"),
            ("/etc/passwd", "no program"),
            ("/etc", "no program"),
        ] {
            let refused = executable(path.as_ref()).unwrap_err().to_string();
            assert!(refused.contains(path) && refused.contains(why), "{refused}");
        }
    }
}
