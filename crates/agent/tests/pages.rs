//! Memory goes between two real QEMUs as every combination of page classes, and arrives as it was.
#![allow(missing_docs)]

#[path = "../../qemu/tests/support/mod.rs"]
mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use support::*;
use transhume_agent::pace::Pace;
use transhume_agent::page_stream::{PageShare, Pages, SOURCE_SOCKET, Secured, start_source, start_target};
use transhume_model::{Bytes, Epoch, VmSpec};
use transhume_pages::limits::PAGE_BYTES;
use transhume_pages::{Account, Classes, PageClass};
use transhume_qemu::{Launcher, Means, Running, Vm};

const LIMIT: Duration = Duration::from_secs(60);
/// What the stream may use, bytes per second: slow enough that every class is worth its trouble.
const RATE: u64 = 100_000_000;
const STORE: Bytes = Bytes(64 << 20);
/// Conventional memory, and everything above the holes of a PC's first MiB.
const RAM: [(u64, u64); 2] = [(0, 0xa_0000), (1 << 20, 127 << 20)];

/// All subsets of the classes that can be switched off, and LZO, which can be switched on, alone
/// and with all.
fn combinations() -> Vec<Classes> {
    let usual = |class: &PageClass| Classes::default().allow(*class) && !Classes::none().allow(*class);
    let optional: Vec<_> = PageClass::ALL.into_iter().filter(usual).collect();
    let subset = |bits: u32| {
        let chosen = optional.iter().enumerate().filter(|(at, _)| bits & 1 << at != 0);
        chosen.fold(Classes::none(), |classes, (_, class)| classes.with(*class))
    };
    let lzo = [Classes::none(), Classes::default()].map(|classes| classes.with(PageClass::Lzo));
    (0..1 << optional.len()).map(subset).chain(lzo).collect()
}

/// The guest's memory, as QEMU writes it into a file.
async fn ram(vm: &Vm, file: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    // Another QEMU's, who is somebody else.
    let _ = std::fs::remove_file(file);
    for (from, size) in RAM {
        let arguments = json!({"val": from, "size": size, "filename": file});
        vm.qmp().execute("pmemsave", arguments).await.unwrap();
        all.extend(std::fs::read(file).unwrap());
    }
    assert_eq!(all.len() as u64, RAM.iter().map(|(_, size)| size).sum::<u64>());
    all
}

/// What a QEMU is handed that writes its guest's memory into a file.
fn roomy<'a>(spec: &VmSpec, taps: &'a [BorrowedFd<'a>]) -> Means<'a> {
    Means {
        log_bytes_max: u64::from(u32::MAX),
        ..means(spec, taps)
    }
}

struct Between {
    dir: TempDir,
    launcher: Launcher,
    spec: VmSpec,
    source: Running,
}

impl Between {
    /// Moves the memory to a new QEMU, compares, and gives the move up; returns what was sent.
    async fn once(&self, number: usize, pages: &Pages) -> Account {
        let (at, epoch) = (IpAddr::V4(Ipv4Addr::LOCALHOST), Epoch(number as u64));
        let paths = self.dir.vm(&format!("target-{number}"));
        let taps = [tap(&format!("t{number}"))];
        let taps = borrowed(&taps);
        let mut target = self
            .launcher
            .receive(&self.spec, &paths, roomy(&self.spec, &taps))
            .await
            .unwrap();
        let _kill = KillOnDrop::new(target.vm().process());
        let listening = start_target(at, &self.spec, epoch, target.take_stream().unwrap(), pages)
            .await
            .unwrap();
        let pace = Arc::new(Pace::default());
        let rate = transhume_model::BitRate::from_bits_per_s(RATE * 8);
        pace.set_rates(rate, rate);
        let (stream, _ended) =
            start_source(&self.dir.0, &self.spec, epoch, &listening.at, pace.clone(), pages)
                .await
                .unwrap();
        let socket = self.dir.0.join(SOURCE_SOCKET);
        self.source.start_migration(&socket).await.unwrap();
        self.iterate().await;
        pace.release();
        self.source.stop().await.unwrap();
        let file = self.dir.0.join("ram");
        let before = ram(self.source.vm(), &file).await;
        finish(&self.source, LIMIT).await;
        let whole = loaded(target, LIMIT).await;
        let digest = tokio::time::timeout(LIMIT, listening.whole).await;
        let digest = digest.expect("in time").expect("checked at the target");
        let after = ram(whole.vm(), &file).await;
        let differ = before.chunks(PAGE_BYTES).zip(after.chunks(PAGE_BYTES));
        let differ: Vec<usize> = differ
            .enumerate()
            .filter(|(_, (before, after))| before != after)
            .map(|(page, _)| page)
            .collect();
        assert!(
            differ.is_empty(),
            "{} pages are not the same, the first of them {:?}, classes {:?}",
            differ.len(),
            &differ[..differ.len().min(10)],
            pages.classes
        );
        let account = stream.account();
        assert_eq!(digest.bytes, account.stream_bytes);
        whole.discard().await.unwrap();
        run_here(&self.source).await;
        account
    }

    /// Until pages have been sent a second time.
    async fn iterate(&self) {
        let begun = Instant::now();
        loop {
            let seen = self.source.vm().migration_progress().await.unwrap();
            if seen.dirty_sync_count >= 3 {
                return;
            }
            assert!(begun.elapsed() < LIMIT && seen.error.is_none(), "{seen:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[test]
fn memory_arrives_as_it_was_whatever_the_classes() {
    in_namespace(|| async {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("MISSING: ip; install iproute2").success());
        let dir = TempDir::new("classes");
        // QEMU writes a guest's memory there, as whoever it is.
        std::fs::set_permissions(&dir.0, std::fs::Permissions::from_mode(0o777)).unwrap();
        let launcher = launcher().await;
        let mut spec = spec(&dir.0, "vm-1", 256);
        spec.machine = Some(launcher.binary().newest_machine().clone());
        let paths = dir.vm("source");
        let taps = [tap("s0")];
        let taps = borrowed(&taps);
        let source = launcher.boot(&spec, &paths, roomy(&spec, &taps)).await.unwrap();
        source.cont().await.unwrap();
        let _kill = KillOnDrop::new(source.vm().process());
        counted(&paths, 0, 2).await;
        let between = Between {
            dir,
            launcher,
            spec,
            source,
        };
        let mut seen = [0; PageClass::ALL.len()];
        for (number, classes) in combinations().into_iter().enumerate() {
            // A store of its own: every combination begins with an empty one.
            let pages = Pages {
                share: PageShare::new(STORE),
                classes,
                host: "h1".parse().unwrap(),
                secured: Secured::by(transhume_trust::Security::Insecure),
            };
            let account = between.once(number, &pages).await;
            for (count, class) in seen.iter_mut().zip(PageClass::ALL) {
                let pages = account.class(class).pages;
                assert!(pages == 0 || classes.allow(class), "{class:?} was off");
                *count += pages;
            }
        }
        for (count, class) in seen.into_iter().zip(PageClass::ALL) {
            assert!(count > 0, "{class:?} was never used");
        }
        between.source.vm().kill().await.unwrap();
    });
}
