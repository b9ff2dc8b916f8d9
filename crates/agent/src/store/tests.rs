//! A store that is killed, torn, or finds its file system full, at every step.

use std::cell::{Cell, RefCell};

use transhume_agent_core::{Place, RECORD_VERSION};
use transhume_model::{Boot, Epoch, Mebibytes, Vcpus, VmSpec};

use super::*;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("transhume-store-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes down what is done; fails at a step as if the agent were killed there, or as a full disk
/// does.
#[derive(Default)]
struct Faulty {
    done: RefCell<Vec<String>>,
    /// Steps that still succeed.
    left: Cell<Option<usize>>,
}

impl Faulty {
    fn step(&self, what: &str, path: &Path) -> io::Result<()> {
        if let Some(left) = self.left.get() {
            if left == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.left.set(Some(left - 1));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.done.borrow_mut().push(format!("{what} {name}"));
        Ok(())
    }
}

impl Files for Faulty {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.step("make", path)?;
        Disk.make_dir(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        // A write that fails leaves half of it.
        let step = self.step("write+sync", path);
        let written = if step.is_ok() {
            bytes
        } else {
            &bytes[..bytes.len() / 2]
        };
        Disk.write(path, written)?;
        step
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename to", to)?;
        Disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step("remove", path)?;
        Disk.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.step("remove", path)?;
        Disk.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step("sync", path)
    }
}

fn record(epoch: u64) -> Record {
    Record {
        version: RECORD_VERSION,
        spec: VmSpec {
            name: "vm1".parse().unwrap(),
            cluster: "herd".parse().unwrap(),
            vcpus: Vcpus(1),
            memory: Mebibytes(64),
            machine: None,
            nics: Vec::new(),
            disks: Vec::new(),
            boot: Boot {
                kernel: "/k".into(),
                initrd: "/i".into(),
                cmdline: String::new(),
            },
        },
        epoch: Epoch(epoch),
        place: Place::Booting { off: None },
    }
}

fn write(epoch: u64) -> Change {
    Change::Write(Box::new(record(epoch)))
}

fn vm1() -> VmName {
    "vm1".parse().unwrap()
}

fn epochs(dir: &Dir) -> Vec<u64> {
    let store = Store::open(&dir.0).unwrap();
    let kept = store.read_all().unwrap();
    kept.into_iter()
        .filter_map(|kept| match kept.found {
            KeptRecord::Readable(record) => Some(record.epoch.0),
            KeptRecord::Missing => None,
            KeptRecord::Unreadable { why } => panic!("unreadable: {why}"),
        })
        .collect()
}

#[test]
fn a_record_is_on_disk_before_it_takes_the_old_ones_place_and_its_name_before_anything_follows() {
    let dir = Dir::new("order");
    let store = Store::open_with(&dir.0, Faulty::default()).unwrap();
    let taken = || store.files.done.take();
    taken();
    store.apply(&vm1(), &write(1)).unwrap();
    assert_eq!(
        taken(),
        [
            "make vm1",
            "sync vms",
            "write+sync state.json.new",
            "rename to state.json",
            "sync vm1"
        ]
    );
    store.apply(&vm1(), &write(2)).unwrap();
    assert_eq!(
        taken(),
        ["write+sync state.json.new", "rename to state.json", "sync vm1"]
    );
    store.apply(&vm1(), &Change::Remove).unwrap();
    assert_eq!(
        taken(),
        ["remove state.json", "sync vm1", "remove vm1", "sync vms"]
    );
}

#[test]
fn an_agent_that_ends_at_any_step_leaves_the_old_record_or_the_new_one() {
    for steps in 0..4 {
        let dir = Dir::new(&format!("torn-{steps}"));
        {
            let store = Store::open_with(&dir.0, Faulty::default()).unwrap();
            store.apply(&vm1(), &write(1)).unwrap();
            store.files.left.set(Some(steps));
            let failed = store.apply(&vm1(), &write(2));
            assert_eq!(failed.is_err(), steps < 3, "after {steps} steps");
            if steps < 3 {
                let text = failed.unwrap_err().to_string();
                assert!(text.contains("file system is full"), "{text}");
            }
        }
        let expected = if steps < 2 { 1 } else { 2 };
        assert_eq!(epochs(&dir), [expected], "after {steps} steps");
    }
}

#[test]
fn a_vm_that_is_being_forgotten_is_there_whole_or_not_at_all() {
    for steps in 0..5 {
        let dir = Dir::new(&format!("forget-{steps}"));
        {
            let store = Store::open_with(&dir.0, Faulty::default()).unwrap();
            store.apply(&vm1(), &write(1)).unwrap();
            store.files.left.set(Some(steps));
            assert_eq!(store.apply(&vm1(), &Change::Remove).is_err(), steps < 4);
        }
        let expected: &[u64] = if steps == 0 { &[1] } else { &[] };
        assert_eq!(epochs(&dir), expected, "after {steps} steps");
    }
}

#[test]
fn a_record_that_cannot_be_read_is_set_aside_for_good_and_the_others_go_on() {
    let dir = Dir::new("aside");
    let store = Store::open(&dir.0).unwrap();
    store.apply(&vm1(), &write(7)).unwrap();
    let other = record(1).to_bytes();
    for (vm, bytes) in [
        ("old", &b"{\"version\":1}"[..]),
        ("torn", &other[..other.len() / 2]),
        ("other", &other),
    ] {
        fs::create_dir(dir.0.join("vms").join(vm)).unwrap();
        fs::write(dir.0.join("vms").join(vm).join(RECORD), bytes).unwrap();
    }
    fs::create_dir(dir.0.join("vms/lost+found")).unwrap();
    for look in 0..2 {
        let kept = store.read_all().unwrap();
        let names: Vec<_> = kept.iter().map(|kept| kept.vm.as_str()).collect();
        assert_eq!(names, ["old", "other", "torn", "vm1"]);
        for kept in &kept[..3] {
            let KeptRecord::Unreadable { why } = &kept.found else {
                panic!("{kept:?}")
            };
            if look == 0 && kept.vm.as_str() == "old" {
                assert!(why.contains("version 1"), "{why}");
            }
            assert!(store.vm_dir(&kept.vm).join(RECORD_UNREADABLE).is_file());
        }
        assert!(matches!(&kept[3].found, KeptRecord::Readable(record) if record.epoch == Epoch(7)));
    }
}

#[test]
fn a_second_agent_is_refused_by_name_and_one_that_comes_after_is_not() {
    let dir = Dir::new("lock");
    let first = Store::open(&dir.0).unwrap();
    let text = Store::open(&dir.0).unwrap_err().to_string();
    let us = format!("process {}", std::process::id());
    assert!(
        text.contains(&us) && text.contains(&dir.0.display().to_string()),
        "{text}"
    );
    drop(first);
    Store::open(&dir.0).unwrap();
}

#[test]
fn a_file_system_that_takes_no_writes_is_named() {
    let full = error("write", Path::new("/state/agent.lock"))(io::ErrorKind::StorageFull.into());
    assert_eq!(
        full.to_string(),
        "cannot write /state/agent.lock: its file system is full; make room there, or name another `state_dir`"
    );
    let fixed = error("open", Path::new("/state/agent.lock"))(io::ErrorKind::ReadOnlyFilesystem.into());
    assert!(fixed.to_string().contains("read-only"), "{fixed}");
}
