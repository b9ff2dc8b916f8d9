//! Slows a guest down while its memory is copied (§2.2.2: a dirty rate that the band cannot carry).
//!
//! Only the threads of its processors: those of QEMU that copy, take orders and drive devices go on
//! as before. They are put into a control group of their own and get a share of a short period.
//! QEMU's own auto-converge is not used: it takes a stream that is held for one that does not
//! converge.
//!
//! A group carries QEMU's process id in its name, so that an agent that starts anew finds it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;
use transhume_qemu::Vm;

use crate::cgroup::{ROOT, own_group};
use crate::pace::Pace;

/// Where version 1 of control groups has its cpu controller.
const V1: &str = "/sys/fs/cgroup/cpu";
/// A group's name without QEMU's process id.
const PREFIX: &str = "transhume-";
/// A guest stands still for less than this at a time, microseconds: short, so that its peers hardly
/// notice. Longer only where the share would be less than [`QUOTA_US_MIN`] of it.
const PERIOD_US_MIN: u64 = 10_000;
const NO_SUCH_THREAD: i32 = rustix::io::Errno::SRCH.raw_os_error();
/// The kernel takes no less.
const QUOTA_US_MIN: u64 = 1_000;

/// The threads of one guest's processors, slowed down.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    dir: PathBuf,
    /// Where the threads belong.
    parent: PathBuf,
    version: Version,
}

/// Of the kernel's control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    fn found() -> Result<Self, String> {
        if Path::new(V1).join("tasks").exists() {
            return Ok(Version::One);
        }
        match Path::new(ROOT).join("cgroup.controllers").exists() {
            true => Ok(Version::Two),
            false => Err(format!(
                "there is no control group for processors, neither {V1} nor {ROOT}"
            )),
        }
    }

    /// The file that lists a group's threads.
    fn threads(self) -> &'static str {
        match self {
            Version::One => "tasks",
            Version::Two => "cgroup.threads",
        }
    }
}

impl Group {
    fn of(pid: u32) -> Result<Self, String> {
        let version = Version::found()?;
        let parent = match version {
            Version::One => own_group_of_v1(pid),
            Version::Two => {
                own_group(pid).map_err(|error| format!("the control group of process {pid}: {error}"))?
            }
        };
        Ok(Group {
            dir: parent.join(format!("{PREFIX}{pid}")),
            parent,
            version,
        })
    }

    /// Lets these threads run for so many hundredths of each of their processors.
    fn limit(&self, threads: &[u32], percent: u8) -> io::Result<()> {
        if !self.dir.exists() {
            fs::create_dir(&self.dir)?;
        }
        let (quota, period) = quota_and_period_us(threads.len(), percent);
        match self.version {
            Version::One => {
                fs::write(self.dir.join("cpu.cfs_period_us"), period.to_string())?;
                fs::write(self.dir.join("cpu.cfs_quota_us"), quota.to_string())?;
            }
            Version::Two => {
                fs::write(self.dir.join("cgroup.type"), "threaded")?;
                fs::write(self.parent.join("cgroup.subtree_control"), "+cpu")?;
                fs::write(self.dir.join("cpu.max"), format!("{quota} {period}"))?;
            }
        }
        move_to(&self.dir.join(self.version.threads()), threads)
    }

    /// Whether such a group can be made beside this one, and divide processors.
    fn probed(&self) -> Result<(), String> {
        if self.version == Version::Two {
            let list = self.parent.join("cgroup.controllers");
            let given = fs::read_to_string(&list).map_err(|error| format!("{}: {error}", list.display()))?;
            if !given.split_whitespace().any(|controller| controller == "cpu") {
                return Err(format!(
                    "{} has no cpu: whoever made that control group has to pass it on (systemd: Delegate=cpu)",
                    list.display()
                ));
            }
        }
        let probe = self.parent.join(format!("{PREFIX}probe-{}", std::process::id()));
        fs::create_dir(&probe)
            .map_err(|error| format!("no control group can be made as {}: {error}", probe.display()))?;
        // It is empty, so that it goes at once.
        let _ = fs::remove_dir(&probe);
        Ok(())
    }

    /// The threads run as before. Fine where there is no such group.
    fn lift(&self) -> io::Result<()> {
        let there = match fs::read_to_string(self.dir.join(self.version.threads())) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let threads: Vec<u32> = there.lines().filter_map(|line| line.parse().ok()).collect();
        move_to(&self.parent.join(self.version.threads()), &threads)?;
        fs::remove_dir(&self.dir)
    }
}

/// So long these threads may run in each period, together.
fn quota_and_period_us(threads: usize, percent: u8) -> (u64, u64) {
    let hundredths = threads.max(1) as u64 * u64::from(percent.max(1));
    let period = PERIOD_US_MIN.max((QUOTA_US_MIN * 100).div_ceil(hundredths));
    (period * hundredths / 100, period)
}

/// One at a time: the kernel takes no list. A thread that has ended is not missed.
fn move_to(list: &Path, threads: &[u32]) -> io::Result<()> {
    for thread in threads {
        match fs::write(list, thread.to_string()) {
            Err(error) if error.raw_os_error() == Some(NO_SUCH_THREAD) => {}
            written => written?,
        }
    }
    Ok(())
}

/// The group of version 1 that a process is in: whoever started its agent may have given it one,
/// and the root's belongs to nobody.
fn own_group_of_v1(pid: u32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let own = cpu_path(&text).map(|path| Path::new(V1).join(path.trim_start_matches('/')));
    // In a container the path may be that of another tree.
    let there = own.filter(|dir| dir.join(Version::One.threads()).exists());
    there.unwrap_or_else(|| PathBuf::from(V1))
}

/// The path behind the cpu controller in `/proc/PID/cgroup`.
fn cpu_path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let mut controllers = fields.next()?.split(',');
        controllers.any(|name| name == "cpu").then(|| fields.next())?
    })
}

/// Why no guest can be slowed down on this host.
pub(crate) fn trouble() -> Option<String> {
    let group = Group::of(std::process::id());
    group.and_then(|group| group.probed()).err()
}

/// Lets a guest run as before, also one that an earlier agent had slowed down before it was killed.
/// Where there are no control groups there is nothing to lift.
pub(crate) fn lift(pid: u32) {
    if let Ok(group) = Group::of(pid)
        && let Err(error) = group.lift()
    {
        warn!(
            pid,
            "its guest is still slowed down: {}: {error}",
            group.dir.display()
        );
    }
}

/// Follows what a pace says of a guest, until it is dropped: then the guest runs as before.
#[derive(Debug)]
pub(crate) struct Throttle {
    pid: u32,
    task: JoinHandle<()>,
}

impl Throttle {
    /// Of a guest whose memory is about to be copied.
    pub(crate) fn follow(vm: Vm, pace: &Pace) -> Self {
        let pid = vm.process().pid;
        let task = tokio::spawn(obey(vm, pid, pace.processor_changes()));
        Throttle { pid, task }
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.task.abort();
        lift(self.pid);
    }
}

async fn obey(vm: Vm, pid: u32, mut changes: watch::Receiver<Option<u8>>) {
    loop {
        let percent = *changes.borrow_and_update();
        match percent {
            Some(percent) => {
                if let Err(why) = slow_down(&vm, pid, percent).await {
                    warn!(vm = %vm.name(), "its guest cannot be slowed down: {why}");
                }
            }
            None => lift(pid),
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn slow_down(vm: &Vm, pid: u32, percent: u8) -> Result<(), String> {
    let threads = vm.processor_threads().await.map_err(|error| error.to_string())?;
    let group = Group::of(pid)?;
    group
        .limit(&threads, percent)
        .map_err(|error| format!("{}: {error}", group.dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    /// A process that does nothing but count.
    struct Busy(Child);

    impl Drop for Busy {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Share of a processor that it had meanwhile.
    fn share_of(busy: &Busy, for_so_long: Duration) -> f64 {
        let ticks = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", busy.0.id())).unwrap();
            let after_name = stat.rsplit(") ").next().unwrap();
            let words: Vec<&str> = after_name.split(' ').collect();
            words[11].parse::<u64>().unwrap() + words[12].parse::<u64>().unwrap()
        };
        let (before, begun) = (ticks(), Instant::now());
        std::thread::sleep(for_so_long);
        (ticks() - before) as f64 / 100.0 / begun.elapsed().as_secs_f64()
    }

    #[test]
    fn a_thread_gets_its_share_and_everything_back() {
        let busy = Busy(
            Command::new("sh")
                .args(["-c", "while :; do :; done"])
                .stdin(Stdio::null())
                .spawn()
                .unwrap(),
        );
        assert_eq!(trouble(), None, "this test needs control groups for processors");
        let group = Group::of(busy.0.id()).unwrap();
        group.limit(&[busy.0.id()], 10).unwrap();
        let limited = share_of(&busy, Duration::from_secs(1));
        assert!(limited < 0.2, "{limited} of a processor, 0.1 was allowed");
        // A second step, and a thread that is there already.
        group.limit(&[busy.0.id()], 50).unwrap();
        group.lift().unwrap();
        assert!(!group.dir.exists());
        let list = fs::read_to_string(group.parent.join(group.version.threads())).unwrap();
        assert!(
            list.lines().any(|line| line == busy.0.id().to_string()),
            "back where it was"
        );
        group.lift().unwrap();
    }

    #[test]
    fn a_process_is_found_in_its_group_of_version_1() {
        let text = "9:name=systemd:/\n3:cpuset:/a\n2:cpuacct,cpu:/system.slice/x:y.service\n0::/b\n";
        assert_eq!(cpu_path(text), Some("/system.slice/x:y.service"));
        assert_eq!(cpu_path("3:cpuset:/a\n0::/b\n"), None);
    }

    /// Version 2 gives a group what its parent passes on, and systemd passes `cpu` on only when it
    /// is told to.
    #[test]
    fn a_group_that_was_not_given_processors_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let group = Group {
            dir: dir.path().join("transhume-1"),
            parent: dir.path().to_owned(),
            version: Version::Two,
        };
        let list = dir.path().join("cgroup.controllers");
        fs::write(&list, "cpuset memory pids\n").unwrap();
        let why = group.probed().unwrap_err();
        assert!(
            why.contains("Delegate=cpu") && why.contains(&list.display().to_string()),
            "{why}"
        );
        fs::write(&list, "cpuset cpu memory pids\n").unwrap();
        assert_eq!(group.probed(), Ok(()));
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 1, "the probe is gone");
    }

    #[test]
    fn a_small_share_is_no_larger_than_was_asked_for() {
        assert_eq!(quota_and_period_us(1, 20), (2_000, 10_000));
        assert_eq!(quota_and_period_us(4, 20), (8_000, 10_000));
        assert_eq!(
            quota_and_period_us(1, 5),
            (1_000, 20_000),
            "the kernel takes no less than 1 ms"
        );
        assert_eq!(quota_and_period_us(4, 1), (1_000, 25_000));
        for (threads, percent) in (1..=64).flat_map(|threads| (1..100).map(move |percent| (threads, percent)))
        {
            let (quota, period) = quota_and_period_us(threads, percent);
            assert!(quota >= QUOTA_US_MIN && quota * 100 <= period * threads as u64 * u64::from(percent));
        }
    }

    #[test]
    fn a_thread_that_has_ended_is_not_missed() {
        let mut ended = Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let group = Group::of(std::process::id()).unwrap();
        group.limit(&[ended.id()], 50).unwrap();
        group.lift().unwrap();
    }
}
