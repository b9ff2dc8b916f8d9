//! Nothing happens before it is on disk.

use std::path::PathBuf;

use transhume_agent_core::{Act, Place, Product};
use transhume_model::{Epoch, OrderId, ProcessId, VmSpec};
use transhume_protocol::message::{Command, Outcome};
use transhume_trust::Security;

use super::*;
use crate::store::{KeptRecord, Store};

struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn decisions(name: &str) -> (Dir, Decisions) {
    let path = std::env::temp_dir().join(format!("transhume-decisions-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    let state = path.display();
    let config = toml::from_str(&format!(
        r#"
        host = "h1"
        state_dir = "{state}"
        bridge = "none"
        listen = {{ control = "127.0.0.1:0", ct = "127.0.0.1", vmct = "127.0.0.1" }}
        capacity = {{ vcpus = 8, memory = 4096 }}
        "#
    ));
    let store = Store::open(&path).unwrap();
    let context = Context::new(
        config.unwrap(),
        store,
        Err("none".to_owned()),
        Security::Insecure,
        None,
    );
    let machine = Machine::new("h1".parse().unwrap(), "vm1".parse().unwrap());
    let snapshot = Arc::default();
    let decisions = Decisions::new(machine, Arc::new(context), Reach::default(), snapshot);
    (Dir(path), decisions)
}

fn spec() -> VmSpec {
    serde_json::from_value(serde_json::json!({
        "name": "vm1", "cluster": "herd", "vcpus": 1, "memory": 64,
        "nics": [{"mac": "52:54:00:00:00:01", "mtu": 1500}],
        "boot": {"kernel": "/kernel", "initrd": "/initrd", "cmdline": ""},
    }))
    .unwrap()
}

fn order(command: Command) -> Input {
    Input::Order(Order {
        id: OrderId(1),
        epoch: Epoch(1),
        command,
    })
}

/// The act whose turn it is, done.
fn done(decisions: &mut Decisions, product: Product) -> Act {
    let Effect { ticket, act } = decisions.next_act().expect("an act");
    let result = Ok(product);
    decisions.take(Input::Done { ticket, result });
    act
}

fn place(decisions: &Decisions) -> Option<Place> {
    let kept = decisions.context.store.read_all().unwrap();
    kept.into_iter().find_map(|kept| match kept.found {
        KeptRecord::Readable(record) => Some(record.place),
        KeptRecord::Missing | KeptRecord::Unreadable { .. } => None,
    })
}

fn process() -> ProcessId {
    ProcessId {
        pid: 4711,
        start_ticks: 1,
        boot: "now".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_runs_only_when_its_record_names_its_qemu() {
    let (_dir, mut decisions) = decisions("boot");
    decisions.take(order(Command::StartVm { spec: spec() }));
    assert_eq!(place(&decisions), None);
    let admit = done(&mut decisions, Product::Admitted { spec: spec() });
    assert!(matches!(admit, Act::Admit { .. }), "{admit:?}");
    assert!(matches!(place(&decisions), Some(Place::Booting { .. })));
    let spawn = done(&mut decisions, Product::Spawned { process: process() });
    assert!(matches!(spawn, Act::Spawn { .. }), "{spawn:?}");
    assert!(matches!(place(&decisions), Some(Place::Home { process: of, .. }) if of == process()));
    assert_eq!(decisions.next_act().map(|effect| effect.act), Some(Act::Cont));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_from_a_fact_waits_until_the_fact_can_be_written() {
    let (dir, mut decisions) = decisions("full");
    decisions.take(order(Command::StartVm { spec: spec() }));
    let vms = dir.0.join("vms");
    std::fs::remove_dir(&vms).unwrap();
    std::fs::write(&vms, "no directory").unwrap();
    done(&mut decisions, Product::Admitted { spec: spec() });
    assert!(decisions.next_act().is_none(), "nothing is started");
    assert!(decisions.timers.contains_key(&Timer::Write));
    std::fs::remove_file(&vms).unwrap();
    std::fs::create_dir(&vms).unwrap();
    decisions.take(Input::Timer(Timer::Write));
    assert!(matches!(place(&decisions), Some(Place::Booting { .. })));
    let act = decisions.next_act().map(|effect| effect.act);
    assert!(matches!(act, Some(Act::Spawn { .. })), "{act:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_answer_is_kept_for_when_the_vm_is_struck_out() {
    let (_dir, mut decisions) = decisions("last");
    let mut reports = decisions.context.reports.replace();
    decisions.take(order(Command::StartVm { spec: spec() }));
    let Effect { ticket, .. } = decisions.next_act().unwrap();
    // It comes while another is carried out.
    decisions.take(order(Command::StopVm {
        vm: "vm1".parse().unwrap(),
        force: true,
    }));
    let result = Err(transhume_agent_core::Trouble::failed(
        transhume_protocol::message::FaultKind::Qemu,
        "no",
    ));
    decisions.take(Input::Done { ticket, result });
    assert!(decisions.is_over());
    assert!(reports.try_recv().is_err(), "nobody is told yet");
    let (reports, postponed) = decisions.into_last();
    assert!(matches!(&reports[..], [report] if matches!(report.outcome, Outcome::Failed(_))));
    assert!(matches!(&postponed[..], [order] if matches!(order.command, Command::StopVm { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn timers_come_in_their_order_and_one_of_a_kind_counts() {
    let (_dir, mut decisions) = decisions("timers");
    let now = clock::now().mono;
    for (timer, after) in [(Timer::Look, 60_000), (Timer::Probe, 0), (Timer::Look, 1)] {
        let at = now + Millis(after);
        decisions.obey(Signal::Timer { at, timer });
    }
    assert_eq!(decisions.due().await, Timer::Probe);
    assert_eq!(decisions.due().await, Timer::Look);
    assert!(decisions.timers.is_empty());
}
