//! What the tests on a real QEMU share: a tiny guest, taps in a namespace of their own, a page
//! stream proxy.
#![allow(dead_code)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use rustix::ioctl::{Updater, ioctl};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use transhume_model::{Boot, Disk, Mebibytes, NicSpec, ProcessId, Vcpus, VmSpec};
use transhume_qemu::{
    Accel, HoldPace, Incoming, LOG_BYTES_MAX, Launcher, Loaded, Means, MigrationProgress, QemuBinary,
    ReturnPathFilter, Running, Users, VmFiles, VmPaths, Waiting,
};

/// Longest wait for the guest to do what it does all the time.
pub const GUEST_LIMIT: Duration = Duration::from_secs(60);

/// User ids that no account has.
const USER_IDS: &str = "3999990000-3999990999";

/// Runs a test in a thread with a network namespace of its own, which ends with the thread and its
/// descriptors.
pub fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (run as root)");
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(test());
        });
        if let Err(panic) = run.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A tap in this thread's namespace.
pub fn tap(name: &str) -> OwnedFd {
    /// TUNSETIFF of linux/if_tun.h.
    const TUNSETIFF: rustix::ioctl::Opcode = 0x4004_54ca;
    /// IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    const FLAGS: u16 = 0x0002 | 0x1000 | 0x4000;
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .expect("/dev/net/tun");
    let mut request = [0u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&FLAGS.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes a struct ifreq, 40 bytes, which `request` is.
    unsafe { ioctl(&file, Updater::<TUNSETIFF, [u8; 40]>::new(&mut request)) }.expect("TUNSETIFF");
    file.into()
}

/// A directory that is removed again.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("transhume-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub fn vm(&self, name: &str) -> VmPaths {
        let dir = self.0.join(name);
        fs::create_dir_all(&dir).unwrap();
        VmPaths::new(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Kills a QEMU when the test ends, however it ends: a keeper does, as soon as its input ends,
/// which a killed test ends too.
pub struct KillOnDrop(Child);

/// Field 22 of a stat line is the start time: another process of the same number is left alone.
const KEEPER: &str = r#"trap "" HUP INT TERM; read -r _
                        if [ "$2" = "$(cut -d " " -f 22 "/proc/$1/stat" 2>&-)" ]; then kill -KILL "$1"; fi"#;

impl KillOnDrop {
    pub fn new(process: &ProcessId) -> Self {
        let (pid, start_ticks) = (process.pid.to_string(), process.start_ticks.to_string());
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper", &pid, &start_ticks])
            .stdin(Stdio::piped())
            .spawn();
        Self(keeper.expect("a shell"))
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // Closes the keeper's input first.
        let _ = self.0.wait();
    }
}

fn needed(variable: &str, default: &str, hint: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(|| PathBuf::from(default), PathBuf::from);
    assert!(
        path.is_file(),
        "MISSING: {} for the tests on a real QEMU.\nSet {variable}, or {hint}",
        path.display()
    );
    path
}

/// Where the lab's image builder unpacks the distribution's kernel.
const UNPACKED: &str = "/var/cache/transhume/guest/kernel/boot";

/// A Linux kernel for the guest: the one named, or the newest that the lab has unpacked.
pub fn kernel() -> PathBuf {
    let unpacked = fs::read_dir(UNPACKED).into_iter().flatten().flatten();
    let newest = unpacked
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().contains("vmlinuz-"))
        .max();
    needed(
        "TRANSHUME_GUEST_KERNEL",
        &newest.unwrap_or_default().to_string_lossy(),
        "let the lab unpack one: `cargo test -p transhume-lab`, or any `transhume lab up`.",
    )
}

/// A guest's init: counts aloud; `with_every_count` is done each time, `n` being the count.
fn initrd(dir: &Path, name: &str, with_every_count: &str) -> PathBuf {
    let busybox = needed("TRANSHUME_BUSYBOX", "/bin/busybox", "install busybox-static.");
    let init = format!(
        "#!/bin/busybox sh\n/bin/busybox mount -t devtmpfs dev /dev\nn=0\nwhile :; do n=$((n+1)); echo \"count $n\"\n\
         {with_every_count}\n/bin/busybox sleep 0.1; done\n"
    );
    let mut archive = Vec::new();
    for directory in ["bin", "dev"] {
        newc(&mut archive, directory, 0o040_755, &[]);
    }
    newc(
        &mut archive,
        "bin/busybox",
        0o100_755,
        &fs::read(busybox).unwrap(),
    );
    newc(&mut archive, "init", 0o100_755, init.as_bytes());
    newc(&mut archive, "TRAILER!!!", 0, &[]);
    let path = dir.join(format!("initrd-{name}.img"));
    fs::write(&path, archive).unwrap();
    path
}

/// One entry of a cpio archive in the "newc" form that Linux takes as initial ramdisk.
fn newc(archive: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let fields = [
        0,
        mode,
        0,
        0,
        1,
        0,
        data.len() as u32,
        0,
        0,
        0,
        0,
        name.len() as u32 + 1,
        0,
    ];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(data);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// A VM of one processor and 128 MiB with one NIC and one disk, which writes `dirty_kib` KiB of
/// memory with every count.
pub fn spec(dir: &Path, name: &str, dirty_kib: u32) -> VmSpec {
    let dirty = format!(
        "[ {dirty_kib} = 0 ] || /bin/busybox dd if=/dev/urandom of=/scratch bs=1024 count={dirty_kib} conv=notrunc 2>/dev/null"
    );
    spec_that(dir, name, &dirty)
}

/// The same VM, which does this with every count.
pub fn spec_that(dir: &Path, name: &str, with_every_count: &str) -> VmSpec {
    let disk = dir.join("disk.raw");
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    VmSpec {
        name: name.parse().unwrap(),
        cluster: "test".parse().unwrap(),
        vcpus: Vcpus(1),
        memory: Mebibytes(128),
        machine: None,
        nics: vec![NicSpec {
            mac: "52:54:00:00:00:01".parse().unwrap(),
            mtu: 1500,
        }],
        disks: vec![Disk::File { path: disk }],
        boot: Boot {
            kernel: kernel(),
            initrd: initrd(dir, name, with_every_count),
            cmdline: "console=ttyS0 quiet".into(),
        },
    }
}

pub fn qemu_path() -> PathBuf {
    needed(
        "TRANSHUME_QEMU",
        "/usr/bin/qemu-system-x86_64",
        "install qemu-system-x86 of 9.2 or newer.",
    )
}

pub async fn launcher() -> Launcher {
    let binary = QemuBinary::probe(&qemu_path()).await.unwrap();
    Launcher::new(binary, Accel::Tcg, users())
}

/// Whom the tests' QEMUs run as: nobody else is one of them.
pub fn users() -> Users {
    Users::resolve(&USER_IDS.parse().unwrap()).unwrap()
}

/// What a QEMU is handed: these taps, and the files of its description.
pub fn means<'a>(spec: &VmSpec, taps: &'a [BorrowedFd<'a>]) -> Means<'a> {
    let open = |path: &Path, writable| -> io::Result<OwnedFd> {
        let file = fs::File::options().read(true).write(writable).open(path);
        let named = |error| io::Error::other(format!("{}: {error}", path.display()));
        Ok(file.map_err(named)?.into())
    };
    Means {
        taps,
        files: VmFiles::open(spec, open).unwrap(),
        groups: Vec::new(),
        log_bytes_max: LOG_BYTES_MAX,
    }
}

/// The guest's last count on its console, 0 before the first.
pub fn count(paths: &VmPaths) -> u64 {
    let text = fs::read_to_string(paths.console()).unwrap_or_default();
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    complete
        .lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix("count ")?.parse().ok())
        .unwrap_or(0)
}

/// Waits until the guest has counted on from `from` by `by`.
pub async fn counted(paths: &VmPaths, from: u64, by: u64) -> u64 {
    let begun = Instant::now();
    loop {
        let now = count(paths);
        if now >= from + by {
            return now;
        }
        assert!(
            begun.elapsed() < GUEST_LIMIT,
            "the guest stays at {now}, {} was expected",
            from + by
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Starts a VM and lets its guest run.
pub async fn boot(launcher: &Launcher, spec: &VmSpec, paths: &VmPaths, taps: &[OwnedFd]) -> Running {
    let taps = borrowed(taps);
    let running = launcher.boot(spec, paths, means(spec, &taps)).await.unwrap();
    running.cont().await.unwrap();
    running
}

/// Stop-and-copy at the source, from the stop to the end.
pub async fn finish(source: &Running, limit: Duration) -> MigrationProgress {
    source.await_pre_switchover(limit).await.unwrap();
    source.continue_migration().await.unwrap();
    source.await_completed(limit).await.unwrap()
}

/// Waits for the whole VM at the target.
pub async fn loaded(target: Incoming<Waiting>, limit: Duration) -> Incoming<Loaded> {
    let arrived = target.arrived(limit).await.unwrap();
    target.loaded(arrived)
}

/// Back to normal after an abort, the target being gone.
pub async fn run_here(source: &Running) {
    source.cancel_migration().await.unwrap();
    source.cont().await.unwrap();
}

/// What the proxy does and saw.
#[derive(Default)]
pub struct ProxyState {
    /// Bytes source → target.
    pub forward: AtomicU64,
    /// The ack has come and is held.
    pub holds_ack: AtomicBool,
    /// No hold pace: everything is read at once.
    pub released: AtomicBool,
}

/// Passes a migration stream from a Unix socket to a QEMU that waits for it, withholding the ack on
/// its way back.
pub async fn proxy(listen: PathBuf, target: &mut Incoming<Waiting>) -> Arc<ProxyState> {
    let target = target.take_stream().expect("nobody else took it");
    target.set_nonblocking(true).unwrap();
    let target = UnixStream::from_std(target).unwrap();
    let listener = UnixListener::bind(&listen).unwrap();
    let state = Arc::new(ProxyState::default());
    let shared = Arc::clone(&state);
    tokio::spawn(async move {
        let source = listener.accept().await.unwrap().0;
        // Ends with an error when a test kills either side.
        let _ = pass(source, target, &shared).await;
    });
    state
}

async fn pass(source: UnixStream, target: UnixStream, state: &ProxyState) -> io::Result<()> {
    let (mut source_read, mut source_write) = source.into_split();
    let (mut target_read, mut target_write) = target.into_split();
    let forward = async {
        let mut chunk = vec![0; 256 << 10];
        let mut pace = HoldPace::new();
        loop {
            source_read.readable().await?;
            if state.released.load(Ordering::Relaxed) {
                pace.set_released(true);
            }
            let queued = rustix::io::ioctl_fionread::<&UnixStream>(source_read.as_ref())? as usize;
            let next = pace.next_read(queued);
            if !next.pause.is_zero() {
                tokio::time::sleep(next.pause).await;
            }
            let most = next.bytes_max.min(chunk.len());
            let length = source_read.read(&mut chunk[..most]).await?;
            if length == 0 {
                return target_write.shutdown().await;
            }
            state.forward.fetch_add(length as u64, Ordering::Relaxed);
            target_write.write_all(&chunk[..length]).await?;
        }
    };
    let back = async {
        let mut filter = ReturnPathFilter::new();
        let (mut chunk, mut passed) = (vec![0; 4096], Vec::new());
        loop {
            let length = target_read.read(&mut chunk).await?;
            if length == 0 {
                return source_write.shutdown().await;
            }
            filter.push(&chunk[..length], &mut passed);
            state.holds_ack.store(filter.holds_ack(), Ordering::Relaxed);
            source_write.write_all(&passed).await?;
            passed.clear();
        }
    };
    tokio::try_join!(forward, back).map(|_| ())
}

/// Processor time of a process so far, by thread name, in milliseconds.
pub fn cpu_ms(pid: u32) -> std::collections::BTreeMap<String, u64> {
    let ticks_ms = 1000 / rustix::param::clock_ticks_per_second();
    let mut by_name = std::collections::BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        let Ok(stat) = fs::read_to_string(task.path().join("stat")) else {
            continue;
        };
        let (open, close) = (stat.find('(').unwrap(), stat.rfind(')').unwrap());
        let fields: Vec<&str> = stat[close + 2..].split(' ').collect();
        let used: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        *by_name.entry(stat[open + 1..close].to_owned()).or_default() += used * ticks_ms;
    }
    by_name
}

/// Borrowed form of taps for the launcher.
pub fn borrowed(taps: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    taps.iter().map(AsFd::as_fd).collect()
}
