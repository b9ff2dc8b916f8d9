//! Two and more real guests on the lab's own fabric and storage, without agents: QEMU is started by
//! hand.
//!
//! Needs root and QEMU; says so where it cannot run.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use transhume_lab::wire::{Op, Outcome};
use transhume_lab::{Channel, Lab, LabError, LabName, LabUp, Namespace, Progress, image::Image};
use transhume_model::Band;

const CALL: Duration = Duration::from_secs(30);

/// Removes the lab also when the test panics.
struct Guard(LabName);

impl Drop for Guard {
    fn drop(&mut self) {
        let name = self.0.clone();
        let ended = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(transhume_lab::down(&name, &Progress::default()))
        })
        .join();
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

fn assert_able() {
    let root = rustix::process::geteuid().is_root();
    let qemu = Path::new("/usr/bin/qemu-system-x86_64").exists() && Path::new("/usr/bin/qemu-nbd").exists();
    assert!(
        root && qemu,
        "MISSING: this test needs root ({root}) and QEMU with qemu-nbd ({qemu}); `scripts/setup.sh` installs them"
    );
}

fn lab_name(part: &str) -> LabName {
    format!("t{}-{part}", std::process::id()).parse().unwrap()
}

fn ip(namespace: &str, line: &str) {
    let done = Namespace::named(namespace).run(|| Ok(Command::new("ip").args(line.split(' ')).status()));
    assert!(done.unwrap().unwrap().success(), "ip {line}");
}

/// What an agent does on `StartVm`, by hand.
fn start_vm(lab: &Lab, options: &LabUp, image: &Image, index: u16) {
    let vm = &lab.state.vms[usize::from(index)];
    let host = lab.host(vm.first_host.as_str()).unwrap();
    let tap = format!("tap{index}");
    ip(&host.namespace, &format!("tuntap add {tap} mode tap vnet_hdr"));
    ip(
        &host.namespace,
        &format!(
            "link set {tap} mtu {} txqueuelen 10000 master br-ct up",
            options.mtu
        ),
    );
    let channel = host.channel_socket(&vm.name);
    std::fs::create_dir_all(channel.parent().unwrap()).unwrap();
    let disk = options.disk.map(|_| {
        format!(
            "driver=nbd,node-name=d0,server.type=inet,server.host=10.77.3.250,server.port={},export={}",
            10809 + index,
            vm.name
        )
    });
    let mut arguments: Vec<String> = [
        "-machine",
        "q35",
        "-accel",
        "tcg",
        "-nodefaults",
        "-display",
        "none",
        "-m",
        &options.memory.0.to_string(),
        "-kernel",
        image.kernel.to_str().unwrap(),
        "-initrd",
        image.initrd.to_str().unwrap(),
        "-append",
        &transhume_lab::guest_cmdline(options, index).unwrap(),
        "-serial",
        &format!("file:{}", host.console_log(&vm.name).display()),
        "-chardev",
        &format!("socket,id=ch,path={},server=on,wait=off", channel.display()),
        "-serial",
        "chardev:ch",
        "-netdev",
        &format!("tap,id=n0,ifname={tap},script=no,downscript=no"),
        "-device",
        &format!(
            "virtio-net-pci,netdev=n0,mac={},romfile=",
            transhume_lab::vm_mac(index)
        ),
    ]
    .map(str::to_owned)
    .to_vec();
    let monitor = format!("unix:{},server=on,wait=off", monitor(lab, index).display());
    arguments.extend(["-monitor".into(), monitor]);
    if let Some(disk) = disk {
        arguments.extend([
            "-blockdev".into(),
            disk,
            "-device".into(),
            "virtio-blk-pci,drive=d0".into(),
        ]);
    }
    let log = host.state_dir.join(format!("{}.log", vm.name));
    let qemu = Path::new("/usr/bin/qemu-system-x86_64");
    transhume_lab::spawn(
        &Namespace::named(&host.namespace),
        vm.name.as_str(),
        qemu,
        &arguments,
        &log,
    )
    .unwrap();
}

fn monitor(lab: &Lab, index: u16) -> std::path::PathBuf {
    lab.layout.dir().join(format!("monitor-{index}.sock"))
}

/// Whether another host sees a RARP frame when QEMU announces the VM.
fn announcement_arrives(lab: &Lab, vm: u16, seen_by: &str) -> bool {
    use std::io::{Read, Write};
    // Says when it listens; ends with 0 when it has heard a RARP frame within two seconds.
    const WATCH: &str = "import socket\n\
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x8035))\n\
        s.bind(('br-ct', 0x8035))\n\
        s.settimeout(2)\n\
        print('.', flush=True)\n\
        s.recv(64)";
    let namespace = Namespace::named(&lab.host(seen_by).unwrap().namespace);
    let mut watcher = namespace
        .run(|| {
            Ok(Command::new("python3")
                .args(["-c", WATCH])
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap())
        })
        .unwrap();
    let listens = watcher.stdout.as_mut().unwrap().read_exact(&mut [0]);
    listens.expect("python3 listens on br-ct");
    let mut monitor = std::os::unix::net::UnixStream::connect(monitor(lab, vm)).unwrap();
    monitor.write_all(b"announce_self\n").unwrap();
    watcher.wait().unwrap().success()
}

async fn boot(options: &LabUp) -> Lab {
    let (lab, image) = transhume_lab::infrastructure(options).await.unwrap();
    let begin = Instant::now();
    for index in 0..options.vms {
        start_vm(&lab, options, &image, index);
    }
    transhume_lab::wait_for_guests(&lab).await.unwrap();
    eprintln!("{} guests up in {} ms", options.vms, begin.elapsed().as_millis());
    lab
}

/// Waits until every pair has exchanged numbered messages.
async fn wait_for_traffic(lab: &Lab) {
    for vm in &lab.state.vms {
        let deadline = Instant::now() + CALL;
        loop {
            let answer = Channel::new(lab, vm).call(Op::Stats, CALL).await.unwrap();
            let Outcome::Stats(stats) = answer.outcome else {
                panic!("{answer:?}")
            };
            if stats.peers.iter().all(|p| p.ready && p.received > 10)
                && stats.tcp.iter().all(|t| t.bytes_received > 0)
            {
                break;
            }
            assert!(Instant::now() < deadline, "{} hears nothing: {stats:?}", vm.name);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// As after a crash before any process was recorded: the two QEMUs and the two disk servers are
/// found all the same.
async fn a_crashed_lab_is_removed(mut lab: Lab) {
    lab.state.processes.clear();
    lab.save().unwrap();
    let name = lab.layout.name();
    let report = transhume_lab::down(name, &Progress::default()).await.unwrap();
    assert_eq!(
        (report.existed, report.processes, report.namespaces),
        (true, 4, 7)
    );
    let again = transhume_lab::down(name, &Progress::default()).await.unwrap();
    assert_eq!(again, transhume_lab::DownReport::default());
    assert!(matches!(Lab::open(name), Err(LabError::NoLab { .. })));
}

fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_guests_exchange_messages_and_lose_none() {
    assert_able();
    let overlay = std::env::temp_dir().join(format!("transhume-overlay-{}", std::process::id()));
    add_glibc_program(&overlay);
    let options = LabUp {
        name: lab_name("two"),
        hosts: 4,
        vms: 2,
        rate: 500,
        overlay: Some(overlay.clone()),
        run: Some("echo workload of $VM_NAME index $VM_INDEX of $VM_COUNT, peers $VM_PEERS; exit 7".into()),
        ..LabUp::default()
    };
    let _guard = Guard(options.name.clone());
    let lab = boot(&options).await;
    wait_for_traffic(&lab).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let figures = transhume_lab::collect(&lab, true).await.unwrap();
    eprintln!("{}", serde_json::to_string(&figures).unwrap());
    assert_eq!(figures.pairs, [], "some pair is not clean");
    for vm in &figures.vms {
        assert!(vm.sent > 1000 && vm.received > 1000, "{vm:?}");
        assert!(
            vm.disk_writes > 20 && vm.disk_errors == 0 && vm.tcp_broken == 0,
            "{vm:?}"
        );
    }
    checks_over_the_channel(&lab).await;
    faults_are_felt_and_undone(&lab).await;
    assert!(
        matches!(transhume_lab::up(&options).await, Err(LabError::Leftovers { found, .. }) if !found.is_empty())
    );
    a_crashed_lab_is_removed(lab).await;
    std::fs::remove_dir_all(&overlay).unwrap();
}

async fn checks_over_the_channel(lab: &Lab) {
    let exec = |place: &'static str, script: &'static str, limit_ms| async move {
        transhume_lab::exec(lab, place, &sh(script), Duration::from_millis(limit_ms))
            .await
            .unwrap()
    };
    let hello = exec("vm2", "echo $(hostname); echo err >&2; exit 3", 5000).await;
    assert_eq!(
        (hello.code, hello.stdout.as_slice(), hello.stderr.as_slice()),
        (3, &b"vm2\n"[..], &b"err\n"[..])
    );
    let begin = Instant::now();
    let large = exec("vm1", "head -c 300000 /dev/zero | tr '\\0' x", 20_000).await;
    assert_eq!(large.stdout, vec![b'x'; 300_000]);
    eprintln!("300 kB over the channel in {} ms", begin.elapsed().as_millis());
    assert!(exec("vm1", "sleep 60", 300).await.timed_out);
    let glibc = exec("vm1", "/opt/id -u", 5000).await;
    assert_eq!(glibc.stdout, b"0\n", "{}", String::from_utf8_lossy(&glibc.stderr));
    let host = exec("h1", "ip -br addr show br-ct", 5000).await;
    assert!(String::from_utf8_lossy(&host.stdout).contains("10.77.1.1/24"));
    let log = transhume_lab::log(lab, &transhume_lab::Target::Workload("vm2".parse().unwrap()), 0)
        .await
        .unwrap();
    let text = String::from_utf8(log.bytes).unwrap();
    assert_eq!(text, "workload of vm2 index 1 of 2, peers 10.78.0.1,10.78.0.2\n");
}

async fn faults_are_felt_and_undone(lab: &Lab) {
    let ping = |count| sh(&format!("busybox ping -c {count} -W 1 10.77.1.2"));
    let reach = || async { transhume_lab::exec(lab, "h1", &ping(1), CALL).await.unwrap().code == 0 };
    assert!(reach().await);
    let cut = transhume_lab::faults::cut_link(lab, "h2", Band::Ct).unwrap();
    assert!(!reach().await);
    drop(cut);
    assert!(reach().await);
    let blocked = transhume_lab::faults::block_rarp(lab).unwrap();
    assert!(reach().await, "only RARP is eaten");
    assert!(!announcement_arrives(lab, 0, "h3"));
    drop(blocked);
    assert!(announcement_arrives(lab, 0, "h3"));
}

/// A dynamic program with its libraries, where the machine has them.
fn add_glibc_program(overlay: &Path) {
    std::fs::create_dir_all(overlay.join("opt")).unwrap();
    std::fs::copy("/usr/bin/id", overlay.join("opt/id")).unwrap();
    let listed = Command::new("ldd").arg("/usr/bin/id").output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    for library in text.split_ascii_whitespace().filter(|word| word.starts_with('/')) {
        let to = overlay.join(library.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(library, to).unwrap();
    }
}
