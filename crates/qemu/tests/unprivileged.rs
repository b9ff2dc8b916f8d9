//! What a QEMU may do, as the kernel says of a running one.
#![allow(missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::*;
use transhume_model::{Disk, VmSpec};
use transhume_qemu::{Means, QemuError, RunState, Running, VmPaths};

/// The first and the last user id of the tests' range.
const USER_IDS: std::ops::RangeInclusive<u32> = 3_999_990_000..=3_999_990_999;
/// Seccomp's mode with a filter.
const FILTER: &str = "2";
const LOG_BYTES_MAX: u64 = 64 << 10;
const LIMIT: Duration = Duration::from_secs(60);

/// The fields of `/proc/PID/status`.
fn status(pid: u32) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

/// What a process has open, by what the kernel says that it is.
fn open_files(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    entries
        .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string()))
        .collect()
}

fn private(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn disk(spec: &VmSpec) -> &Path {
    match &spec.disks[..] {
        [Disk::File { path }] => path,
        other => panic!("{other:?}"),
    }
}

/// The user that it runs as, after everything that the kernel tells of its rights.
fn powerless(running: &Running, paths: &VmPaths, spec: &VmSpec) -> u32 {
    let pid = running.vm().process().pid;
    let has = status(pid);
    let uids: Vec<u32> = has["Uid"]
        .split_whitespace()
        .map(|uid| uid.parse().unwrap())
        .collect();
    assert!(
        uids.iter().all(|uid| *uid == uids[0] && USER_IDS.contains(uid)),
        "{uids:?}"
    );
    assert_eq!(has["Gid"], has["Uid"]);
    assert_eq!(has["Groups"], "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(has[set], "0000000000000000", "{set}");
    }
    assert_eq!(
        (has["NoNewPrivs"].as_str(), has["Seccomp"].as_str()),
        ("1", FILTER)
    );
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line.trim_start_matches(name)
            .split_whitespace()
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(limit("Max core file size"), "0");
    assert_eq!(limit("Max file size"), (64 << 20).to_string());
    let handed = [
        "/dev/null".into(),
        "/dev/net/tun".into(),
        disk(spec).display().to_string(),
        paths.console().display().to_string(),
        paths.stderr().display().to_string(),
    ];
    let mut files = open_files(pid);
    for needed in &handed {
        assert!(files.contains(needed), "{needed} of {files:?}");
    }
    let boots_from = [
        spec.boot.kernel.display().to_string(),
        spec.boot.initrd.display().to_string(),
        "/memfd:transhume-boot (deleted)".to_owned(),
    ];
    files.retain(|file| {
        let known = handed.contains(file) || boots_from.contains(file);
        !known && !file.starts_with("socket:") && !file.starts_with("anon_inode:")
    });
    assert_eq!(files, Vec::<String>::new(), "nobody handed it these");
    uids[0]
}

#[test]
fn a_qemu_is_nobody_and_has_nothing_but_what_it_was_handed() {
    in_namespace(|| async {
        let dir = TempDir::new("nobody");
        let launcher = launcher().await;
        // Nothing of this is readable by anybody but root.
        private(&dir.0);
        fs::set_permissions(&dir.0, fs::Permissions::from_mode(0o700)).unwrap();
        let mut users = Vec::new();
        let mut all = Vec::new();
        for name in ["vm-1", "vm-2"] {
            let mut spec = spec(&dir.0, name, 0);
            let (kernel, image) = (dir.0.join("kernel"), dir.0.join(format!("{name}.raw")));
            fs::copy(&spec.boot.kernel, &kernel).unwrap();
            fs::copy(disk(&spec), &image).unwrap();
            spec.boot.kernel = kernel;
            spec.disks = vec![Disk::File { path: image }];
            for file in [&spec.boot.kernel, &spec.boot.initrd, disk(&spec)] {
                private(file);
            }
            let (paths, taps) = (dir.vm(name), [tap(name)]);
            fs::set_permissions(paths.dir(), fs::Permissions::from_mode(0o700)).unwrap();
            let running = boot(&launcher, &spec, &paths, &taps).await;
            let kill = KillOnDrop::new(running.vm().process());
            counted(&paths, 0, 2).await;
            users.push(powerless(&running, &paths, &spec));
            all.push((running, kill));
        }
        assert_ne!(users[0], users[1], "each is somebody else");
        for (running, _) in &all {
            running.vm().kill().await.unwrap();
        }
    });
}

/// The lock is QEMU's alone: it holds against others, and ends with the process although this one,
/// which opened the image, lives on.
#[test]
fn an_image_is_locked_as_long_as_its_qemu_lives() {
    in_namespace(|| async {
        let dir = TempDir::new("locked");
        let launcher = launcher().await;
        let spec = spec(&dir.0, "vm-1", 0);
        private(disk(&spec));
        let taps = [tap("t0"), tap("t1"), tap("t2")];
        let first = boot(&launcher, &spec, &dir.vm("a"), &taps[..1]).await;
        let _first = KillOnDrop::new(first.vm().process());
        let second = borrowed(&taps[1..2]);
        let refused = launcher.boot(&spec, &dir.vm("b"), means(&spec, &second)).await;
        let error = refused.unwrap_err();
        assert!(matches!(error, QemuError::DiedAtStart { .. }), "{error}");
        assert!(error.to_string().contains("\"write\" lock"), "{error}");
        first.vm().kill().await.unwrap();
        let third = boot(&launcher, &spec, &dir.vm("c"), &taps[2..]).await;
        third.vm().kill().await.unwrap();
    });
}

/// Without an agent, too: what does not fit is not written, and the guest runs on.
#[test]
fn a_console_ends_at_its_limit_and_begins_anew_when_it_is_shortened() {
    in_namespace(|| async {
        let dir = TempDir::new("console");
        let launcher = launcher().await;
        let chatters = "/bin/busybox head -c 4000 /dev/zero | /bin/busybox tr '\\0' x; echo";
        let mut spec = spec_that(&dir.0, "vm-1", chatters);
        spec.disks.clear();
        let (paths, taps) = (dir.vm("a"), [tap("t0")]);
        let taps = borrowed(&taps);
        let means = Means {
            log_bytes_max: LOG_BYTES_MAX,
            ..means(&spec, &taps)
        };
        let running = launcher.boot(&spec, &paths, means).await.unwrap();
        let _kill = KillOnDrop::new(running.vm().process());
        running.cont().await.unwrap();
        let length = || fs::metadata(paths.console()).unwrap().len();
        let begun = Instant::now();
        while length() < LOG_BYTES_MAX {
            assert!(begun.elapsed() < LIMIT, "{} bytes", length());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(length(), LOG_BYTES_MAX);
        assert_eq!(running.vm().query_status().await.unwrap(), RunState::Running);
        let before = count(&paths);
        let console = fs::File::options().write(true).open(paths.console()).unwrap();
        console.set_len(0).unwrap();
        // Much was said to nobody meanwhile.
        let after = counted(&paths, before, 5).await;
        let text = fs::read(paths.console()).unwrap();
        assert!(!text.contains(&0), "written at its new end, {after}");
        running.vm().kill().await.unwrap();
    });
}

/// A file as a block device, while a test runs.
struct Loop(std::path::PathBuf);

impl Loop {
    fn over(file: &Path) -> Self {
        let made = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(file)
            .output();
        let made = made.expect("MISSING: losetup; install util-linux");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self(String::from_utf8(made.stdout).unwrap().trim().into())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// A file's driver refuses it, and nobody but root may open it.
#[test]
fn a_disk_may_be_a_block_device() {
    in_namespace(|| async {
        let dir = TempDir::new("device");
        let mut spec = spec_that(&dir.0, "vm-1", "");
        let device = Loop::over(disk(&spec));
        spec.disks = vec![Disk::File {
            path: device.0.clone(),
        }];
        let (paths, taps) = (dir.vm("a"), [tap("t0")]);
        let running = boot(&launcher().await, &spec, &paths, &taps).await;
        let _kill = KillOnDrop::new(running.vm().process());
        counted(&paths, 0, 2).await;
        let files = open_files(running.vm().process().pid);
        assert!(files.contains(&device.0.display().to_string()), "{files:?}");
        running.vm().kill().await.unwrap();
    });
}
