//! Two hosts on this machine: a network namespace each, with a bridge for the guests and a wire
//! between them, and a real agent in each. Nothing of them outlives the test: namespaces have no
//! names, and a keeper ends every QEMU, also after a test that was killed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;
use transhume_agent::Config;
use transhume_model::VmName;
use transhume_protocol::message::{FleetId, Hello, Leader, Order, Outcome, Report};
use transhume_protocol::wire;

/// Longest wait for an agent to start, or to end.
const AGENT_MAX: Duration = Duration::from_secs(30);
/// An agent that was stopped leaves its blocking work behind after this.
const RUNTIME_ENDS_MAX: Duration = Duration::from_secs(5);
const CONTROL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7401);

/// As long as its file is there no QEMU comes up: it stays a shell that waits. Its arguments carry
/// the VM's mark all the same.
const QEMU: &str = r#"#!/bin/sh
while [ -e "HOLD" ]; do sleep 0.1; done
exec "QEMU" "$@"
"#;

/// When its input ends, which a killed test ends too, whatever carries the mark of the directory is
/// ended, and the directory removed.
const KEEPER: &str = r#"trap "" HUP INT TERM; read -r _
for process in /proc/[0-9]*; do
    if tr "\0" "\n" < "$process/cmdline" 2>&- | grep -q "opaque=$1/h[12]/vms/"; then kill -KILL "${process#/proc/}"; fi
done
rm -rf "$1""#;

/// Runs on a thread of its own inside a network namespace.
fn inside<T: Send>(network: &File, work: impl FnOnce() -> T + Send) -> T {
    let enter_and_work = || {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("a network namespace (run as root)");
        work()
    };
    let done = std::thread::scope(|scope| scope.spawn(enter_and_work).join());
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// It lasts as long as its file is open, or something runs in it.
fn new_network() -> File {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (run as root)");
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    made.join().unwrap()
}

fn ip(network: &File, command: &str) {
    let done = inside(network, || {
        Command::new("ip").args(command.split_whitespace()).output()
    });
    let done = done.expect("MISSING: ip; install iproute2");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {command}: {said}");
}

/// A host with its agent.
pub struct Host {
    network: File,
    dir: PathBuf,
    config: Config,
    agent: Option<Agent>,
}

struct Agent {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Host {
    fn new(network: File, dir: &Path, number: u8, qemu: &Path) -> Self {
        let dir = dir.join(format!("h{number}"));
        fs::create_dir_all(&dir).unwrap();
        let script = dir.join("qemu");
        let hold = dir.join("hold");
        let text = QEMU.replace("HOLD", &hold.to_string_lossy());
        fs::write(&script, text.replace("QEMU", &qemu.to_string_lossy())).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&script, executable).unwrap();
        for command in [
            "link set lo up",
            "link add guests type bridge",
            "link set guests up",
            "link set wire up",
            "link set trunk master guests up",
            &format!("address add 10.88.0.{number}/24 dev wire"),
        ] {
            ip(&network, command);
        }
        let at = dir.display();
        let config = format!(
            r#"
            host = "h{number}"
            state_dir = "{at}"
            spool_dir = "{at}/spool"
            qemu = "{at}/qemu"
            accel = "tcg"
            bridge = "guests"
            listen = {{ control = "{CONTROL}", ct = "10.88.0.{number}", vmct = "10.88.0.{number}" }}
            capacity = {{ vcpus = 8, memory = 4096 }}
            insecure = true
            images = ["/"]
            qemu_user = "399998{number}000-399998{number}999"
            "#
        );
        let config = toml::from_str(&config).unwrap();
        let agent = None;
        Host {
            network,
            dir,
            config,
            agent,
        }
    }

    /// Starts the agent; it hears the coordinator when this returns.
    pub fn start(&mut self) {
        let network = self.network.try_clone().unwrap();
        let config = self.config.clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            // Its threads are of this one's namespace.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::select! {
                    ended = transhume_agent::run(config) => panic!("the agent ended: {ended:?}"),
                    _ = stopped => {}
                }
            });
            runtime.shutdown_timeout(RUNTIME_ENDS_MAX);
        });
        self.agent = Some(Agent { stop, thread });
        self.connect();
    }

    /// Ends the agent, wherever it is; its QEMUs live on.
    pub fn stop(&mut self) {
        if let Some(Agent { stop, thread }) = self.agent.take() {
            // One that has ended by itself says why when it is joined.
            let _ = stop.send(());
            thread.join().expect("an agent only ends when it is told to");
        }
    }

    /// A coordinator's connection.
    pub fn connect(&self) -> TcpStream {
        let begun = Instant::now();
        let mut link = loop {
            match inside(&self.network, || TcpStream::connect(CONTROL)) {
                Ok(link) => break link,
                Err(error) => assert!(begun.elapsed() < AGENT_MAX, "no agent: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        link.set_nodelay(true).unwrap();
        let hello = Hello::of(Leader {
            fleet: FleetId::of([1; 16]),
            term: 1,
            life: 1,
        });
        link.write_all(&wire::encode(&hello).unwrap()).unwrap();
        let greeting = receive(&mut link, AGENT_MAX).expect("it says what is here");
        assert!(matches!(greeting.outcome, Outcome::Host(_)), "{greeting:?}");
        link
    }

    /// Where a VM's record, sockets and logs are.
    pub fn vm_dir(&self, vm: &VmName) -> PathBuf {
        self.dir.join("vms").join(vm.as_str())
    }

    /// From now on no QEMU comes up, or does again.
    pub fn hold_spawns(&self, hold: bool) {
        let file = self.dir.join("hold");
        match hold {
            true => fs::write(file, "").unwrap(),
            // Fine where nothing was held.
            false => drop(fs::remove_file(file)),
        }
    }

    /// Somebody else's tap has the name.
    pub fn take_tap_name(&self, name: &str) {
        ip(&self.network, &format!("tuntap add {name} mode tap"));
    }

    /// It is given back.
    pub fn free_tap_name(&self, name: &str) {
        ip(&self.network, &format!("link delete {name}"));
    }

    /// Processes and taps of VMs that are here.
    pub fn left(&self) -> Vec<String> {
        let mut left: Vec<String> = self
            .qemus()
            .into_iter()
            .map(|(vm, pid)| format!("QEMU {pid} of {vm}"))
            .collect();
        let taps = inside(&self.network, || {
            Command::new("ip").args(["-oneline", "tuntap", "list"]).output()
        });
        let taps = String::from_utf8(taps.unwrap().stdout).unwrap();
        left.extend(taps.lines().map(str::to_owned));
        left
    }

    /// Whatever carries the mark of one of its VMs.
    fn qemus(&self) -> Vec<(VmName, u32)> {
        let vms = self.dir.join("vms");
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter_map(|pid| {
            // One that has ended meanwhile is none.
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let vm = transhume_qemu::marked_vm(&vms, arguments.split(|byte| *byte == 0))?;
            Some((vm, pid))
        })
        .collect()
    }

    /// A VM's QEMU is killed, as by the kernel that runs out of memory.
    pub fn kill_qemu(&self, vm: &VmName) {
        let (_, pid) = self
            .qemus()
            .into_iter()
            .find(|(of, _)| of == vm)
            .expect("its QEMU");
        let pid = rustix::process::Pid::from_raw(pid as i32).expect("no process is number 0");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}

/// Both hosts.
pub struct Hosts {
    pub source: Host,
    pub target: Host,
    keeper: Child,
}

impl Hosts {
    /// Agents that run on them; the guests' files may lie in the directory too.
    pub fn new(dir: &Path, qemu: &Path) -> Self {
        // As the agents write it in their marks.
        let dir = &fs::canonicalize(dir).unwrap();
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(dir)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        let [source, target] = [new_network(), new_network()];
        for link in ["wire", "trunk"] {
            let other = format!("/proc/{}/fd/{}", std::process::id(), target.as_raw_fd());
            let add = format!("link add {link} type veth peer name {link} netns {other}");
            ip(&source, &add);
        }
        let mut hosts = Hosts {
            source: Host::new(source, dir, 1, qemu),
            target: Host::new(target, dir, 2, qemu),
            keeper,
        };
        hosts.source.start();
        hosts.target.start();
        hosts
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        // QEMUs go behind the agents, which would report them.
        self.source.stop();
        self.target.stop();
        // Closes the keeper's input first.
        let _ = self.keeper.wait();
    }
}

pub fn send(link: &mut TcpStream, order: &Order) {
    link.write_all(&wire::encode(order).unwrap()).unwrap();
}

/// The next report; `None` if none begins in time.
pub fn receive(link: &mut TcpStream, within: Duration) -> Option<Report> {
    let within = within.max(Duration::from_millis(1));
    link.set_read_timeout(Some(within)).unwrap();
    let mut prefix = [0; wire::LENGTH_BYTES];
    if link.peek(&mut prefix[..1]).ok()? == 0 {
        panic!("the agent closed its connection");
    }
    link.set_read_timeout(Some(AGENT_MAX)).unwrap();
    link.read_exact(&mut prefix).unwrap();
    let mut body = vec![0; wire::length(prefix).unwrap()];
    link.read_exact(&mut body).unwrap();
    Some(wire::decode(&body).unwrap())
}
