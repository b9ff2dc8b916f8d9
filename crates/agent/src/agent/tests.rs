//! The agent without a QEMU: what it refuses, what it finds of an earlier one, and what it leaves.

use std::path::{Path, PathBuf};

use transhume_agent_core::{Place, RECORD_VERSION, Record};
use transhume_model::{OrderId, ProcessId, VmSpec};
use transhume_protocol::message::{GuestState, RefusalKind, VmRole};

use super::*;
use crate::store::Store;

pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("transhume-agent-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(path.join("spool")).unwrap();
        Self(std::fs::canonicalize(path).unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn record(&self, vm: &str, text: &[u8]) {
        let dir = self.0.join("vms").join(vm);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("state.json"), text).unwrap();
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An agent of this directory, on a host without a QEMU, with its reports.
pub(crate) struct Tested {
    pub(crate) agent: Agent,
    reports: mpsc::Receiver<Report>,
}

impl Tested {
    pub(crate) fn new(dir: &Path) -> Self {
        let state = dir.display();
        let config = toml::from_str(&format!(
            r#"
            host = "h1"
            state_dir = "{state}"
            spool_dir = "{state}/spool"
            bridge = "none"
            listen = {{ control = "127.0.0.1:0", ct = "127.0.0.1", vmct = "127.0.0.1" }}
            capacity = {{ vcpus = 8, memory = 4096 }}
            "#
        ));
        let store = Store::open(dir).unwrap();
        let context = Context::new(
            config.unwrap(),
            store,
            Err("there is none".to_owned()),
            transhume_trust::Security::Insecure,
            None,
        );
        let reports = context.reports.replace();
        let agent = Agent::new(Arc::new(context));
        Self { agent, reports }
    }

    async fn answer(&mut self, command: Command) -> Outcome {
        let (id, epoch) = (OrderId(7), Epoch(3));
        self.agent.take(Order { id, epoch, command }).await;
        let report = self.reports.recv().await.expect("an answer");
        assert_eq!(report.order, Some(id));
        report.outcome
    }

    fn vms(&self) -> Vec<(String, VmRole, GuestState)> {
        let state = self.agent.host_state();
        let vms = state.vms.into_iter();
        vms.map(|vm| (vm.spec.name.to_string(), vm.role, vm.guest))
            .collect()
    }
}

fn spec(name: &str) -> VmSpec {
    serde_json::from_value(serde_json::json!({
        "name": name, "cluster": "herd", "vcpus": 1, "memory": 64,
        "nics": [{"mac": "52:54:00:00:00:01", "mtu": 1500}],
        "boot": {"kernel": "/kernel", "initrd": "/initrd", "cmdline": ""},
    }))
    .unwrap()
}

fn record(name: &str, place: Place) -> Vec<u8> {
    record_of(name, place).to_bytes()
}

pub(crate) fn record_of(name: &str, place: Place) -> Record {
    Record {
        version: RECORD_VERSION,
        spec: spec(name),
        epoch: Epoch(2),
        place,
    }
}

fn destroy(name: &str) -> Command {
    Command::DestroyVm {
        vm: name.parse().unwrap(),
    }
}

/// A process that was.
fn gone() -> ProcessId {
    ProcessId {
        pid: 1,
        start_ticks: 0,
        boot: "an earlier one".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_refused_leaves_nothing_and_may_be_asked_for_again() {
    let dir = Dir::new("refused");
    let mut tested = Tested::new(&dir.0);
    for _ in 0..3 {
        let refused = tested.answer(Command::StartVm { spec: spec("vm1") }).await;
        let Outcome::Refused(refusal) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(refusal.kind, RefusalKind::Qemu);
        assert!(refusal.reason.contains("there is none"), "{refusal}");
        assert_eq!(tested.vms(), []);
        assert_eq!(tested.answer(destroy("vm1")).await, Outcome::Destroyed);
    }
    assert_eq!(tested.agent.host_state().free.memory, Mebibytes(4096));
    assert_eq!(std::fs::read_dir(dir.0.join("vms")).unwrap().count(), 0);
}

/// A QEMU's place alone needs room and nothing else; it is promised durably, and given back.
#[tokio::test(flavor = "multi_thread")]
async fn the_place_of_a_vm_that_is_off_comes_without_a_qemu() {
    let dir = Dir::new("place");
    let mut tested = Tested::new(&dir.0);
    let reserve = Command::Reserve {
        migration: transhume_model::MigrationId(1),
        spec: spec("vm1"),
        powered_off: true,
    };
    assert_eq!(tested.answer(reserve).await, Outcome::Reserved);
    assert_eq!(tested.agent.host_state().free.memory, Mebibytes(4096 - 64));
    let vm = "vm1".parse().unwrap();
    let activated = tested.answer(Command::Activate { vm, run: false }).await;
    assert!(matches!(activated, Outcome::Activated(_)), "{activated:?}");
    assert_eq!(tested.vms(), [("vm1".to_owned(), VmRole::Off, GuestState::Off)]);
    assert_eq!(tested.answer(destroy("vm1")).await, Outcome::Destroyed);
    assert_eq!(tested.agent.host_state().free.memory, Mebibytes(4096));
}

#[test]
fn what_an_earlier_agent_left_is_taken_up_and_what_cannot_be_read_is_stranded() {
    let dir = Dir::new("taken");
    let home = Place::Home {
        process: gone(),
        started: true,
        arrival: None,
    };
    let off = Place::Off {
        why: "by order".to_owned(),
        arrival: None,
    };
    dir.record("died", &record("died", home));
    dir.record("off", &record("off", off));
    dir.record("boots", &record("boots", Place::Booting { off: None }));
    dir.record("torn", b"{\"version\":2,");
    std::fs::create_dir(dir.0.join("vms/empty")).unwrap();
    for run in 0..2 {
        // The tasks of an agent go with its runtime, and with them its hold on the directory.
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(took_over(&dir, run));
    }
    assert!(!dir.0.join("vms/empty").exists() && !dir.0.join("vms/boots").exists());
}

/// The first agent finds what is unreadable, the second destroys it.
async fn took_over(dir: &Dir, run: usize) {
    let mut tested = Tested::new(&dir.0);
    crate::start::take_over(&tested.agent).await.unwrap();
    let off = |name: &str| (name.to_owned(), VmRole::Off, GuestState::Off);
    assert_eq!(tested.vms(), [off("died"), off("off")], "run {run}");
    let state = tested.agent.host_state();
    assert_eq!(state.free.memory, Mebibytes(4096 - 2 * 64));
    let [stranded] = &state.stranded[..] else {
        panic!("{:?}", state.stranded)
    };
    assert_eq!(stranded.vm.as_str(), "torn");
    assert!(stranded.what.contains("set aside"), "{}", stranded.what);
    // Nobody is told that it is not here.
    let refused = tested
        .answer(Command::Discard {
            vm: "torn".parse().unwrap(),
        })
        .await;
    assert!(
        matches!(&refused, Outcome::Refused(refusal) if refusal.kind == RefusalKind::Stranded),
        "{refused:?}"
    );
    if run == 1 {
        assert_eq!(tested.answer(destroy("torn")).await, Outcome::Destroyed);
        assert_eq!(tested.agent.host_state().stranded, []);
        assert!(!dir.0.join("vms/torn").exists());
    }
}

/// It could not be ended by its record: it is found by its mark.
#[tokio::test(flavor = "multi_thread")]
async fn a_qemu_without_a_record_is_stranded_until_it_is_destroyed() {
    let dir = Dir::new("mark");
    let monitor = format!(
        "socket,id=qmp,path={}/vms/vm1/qmp.sock,server=on,wait=off",
        dir.0.display()
    );
    let mut qemu = std::process::Command::new("sh")
        .args(["-c", "read -r _", "sh", &monitor])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut tested = Tested::new(&dir.0);
    crate::start::take_over(&tested.agent).await.unwrap();
    let stranded = tested.agent.host_state().stranded;
    let pid = format!("process {}", qemu.id());
    assert!(
        stranded.len() == 1 && stranded[0].what.contains(&pid),
        "{stranded:?}"
    );
    let refused = tested.answer(Command::StartVm { spec: spec("vm1") }).await;
    assert!(matches!(refused, Outcome::Refused(_)), "{refused:?}");
    assert_eq!(qemu.try_wait().unwrap(), None, "it is left alone");
    assert_eq!(tested.answer(destroy("vm1")).await, Outcome::Destroyed);
    assert!(!qemu.wait().unwrap().success());
    assert_eq!(tested.agent.host_state().stranded, []);
}
