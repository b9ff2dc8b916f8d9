//! `transhume bands` on a link of a network namespace of the test's own.

mod user;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use user::transhume;

/// The agent probes its QEMU before it serves; then it looks once a second.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Ends with its test.
struct Ends(Child);

impl Ends {
    fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.0)
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tool(line: &str) -> String {
    let mut words = line.split_whitespace();
    let done = Command::new(words.next().unwrap()).args(words).output();
    let done = done.expect("iproute2 is needed");
    assert!(
        done.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8(done.stdout).unwrap()
}

fn configure(dir: &Path, bands: &str) -> String {
    let file = dir.join("agent.toml");
    let state = dir.display();
    let text = format!(
        r#"
        host = "h1"
        insecure = true
        state_dir = "{state}"
        spool_dir = "{state}/spool"
        qemu_user = "3999700-3999709"
        bridge = "br-ct"
        listen = {{ control = "10.9.0.1:7401", ct = "10.9.0.1", vmct = "10.9.0.1" }}
        capacity = {{ vcpus = 8, memory = 4096 }}
        {bands}
        "#
    );
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

const SHARED: &str = r#"
    [bands]
    form = "shared"
    interface = "out"
    rate = "1gbit"
    ct = { share = 50 }
    vmct = { share = 30, ceil = 90 }
    nast = { share = 20, own = "10.9.0.1", servers = ["10.9.0.2:10809"] }
"#;

/// In a thread with a network namespace of its own, which is gone with the thread.
fn with_a_link(test: impl FnOnce(&Path) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("tests of the network need root");
        tool("ip link add out type veth peer name in");
        let dir = std::env::temp_dir().join(format!("transhume-bands-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&dir)));
        std::fs::remove_dir_all(&dir).unwrap();
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_link_is_planned_divided_shown_and_cleared() {
    with_a_link(|dir| {
        tool("tc qdisc add dev out root handle 5: tbf rate 100mbit burst 10kb limit 100kb");
        let before = tool("tc qdisc show dev out");
        let config = configure(dir, SHARED);
        let bands = |verb: &str| transhume(&["bands", verb, "--config", &config]);
        bands("apply").refused(3, &["tbf 5:", "out"]);
        assert_eq!(tool("tc qdisc show dev out"), before, "nothing was changed");

        configure(dir, &SHARED.replace("rate =", "take_over = true\n    rate ="));
        let planned = bands("plan");
        planned.succeeded();
        assert!(
            planned
                .stdout
                .contains("out: qdisc replace root handle 7e57: htb default 10"),
            "{planned:?}"
        );
        assert_eq!(tool("tc qdisc show dev out"), before, "a plan changes nothing");
        bands("apply").succeeded();
        assert_eq!(bands("apply").succeeded().stdout, "out: nothing to do\n");
        let shown = transhume(&["bands", "show", "--json", "--config", &config]);
        let link = &shown.succeeded().json()["links"][0];
        assert_eq!(link["missing"].as_array().map(Vec::len), Some(0), "{link}");
        assert_eq!(link["classes"].as_array().map(Vec::len), Some(3), "{link}");
        tool("tc class change dev out parent 7e57:1 classid 7e57:20 htb rate 1mbit ceil 2mbit");
        let shown = bands("show");
        assert!(
            shown
                .succeeded()
                .stdout
                .contains("out is not as configured: 1 step"),
            "{shown:?}"
        );
        assert_eq!(bands("clear").succeeded().stdout, "cleared: out\n");
        assert_eq!(tool("tc qdisc show dev out"), before, "what was there is back");
        assert_eq!(bands("clear").succeeded().stdout, "nothing to clear\n");
    });
}

/// Waits until `tc` shows what is asked for, or for its absence.
fn await_queue(line: &str, shown: &str, there: bool) {
    let begun = Instant::now();
    while tool(line).contains(shown) != there {
        assert!(begun.elapsed() < WAIT_MAX, "`{line}` with {shown}: {there}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn an_agent_divides_its_link_puts_right_what_somebody_changes_and_clears_it_in_the_end() {
    with_a_link(|dir| {
        for line in ["br-ct type bridge", "lo up", "br-ct up", "out up"] {
            let verb = if line.contains("type") { "add" } else { "set" };
            tool(&format!("ip link {verb} {line}"));
        }
        tool("ip addr add 10.9.0.1/24 dev br-ct");
        tool("tc qdisc add dev out root handle 5: tbf rate 100mbit burst 10kb limit 100kb");
        let before = tool("tc qdisc show dev out");
        let config = configure(dir, &SHARED.replace("rate =", "take_over = true\n    rate ="));
        let log = std::fs::File::create(dir.join("agent.log")).unwrap();
        let agent = Command::new(env!("CARGO_BIN_EXE_transhume"))
            .args(["agent", "--config", &config])
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        let mut agent = Ends(agent.expect("the binary is built"));
        await_queue("tc qdisc show dev out", "htb 7e57:", true);
        // What it took some milliseconds to build is whole.
        await_queue("tc filter show dev out", "7e57:30", true);

        tool("tc class change dev out parent 7e57:1 classid 7e57:20 htb rate 1mbit ceil 2mbit");
        await_queue("tc class show dev out", "ceil 2Mbit", false);
        tool("tc qdisc del dev out root");
        await_queue("tc filter show dev out", "7e57:30", true);
        transhume(&["bands", "clear", "--config", &config]).refused(3, &["host h1", "runs"]);

        rustix::process::kill_process(agent.pid(), rustix::process::Signal::TERM).unwrap();
        assert!(agent.0.wait().unwrap().success(), "it was asked to end");
        assert_eq!(tool("tc qdisc show dev out"), before, "what was there is back");
    });
}

#[test]
fn what_cannot_be_divided_is_refused_by_name() {
    with_a_link(|dir| {
        let config = |bands: &str| configure(dir, bands);
        let plan = |config: &str| transhume(&["bands", "plan", "--config", config]);
        plan(&config("")).refused(3, &["has no [bands]"]);
        plan(&config(&SHARED.replace("\"out\"", "\"eth7\""))).refused(3, &["no interface eth7"]);
        plan(&config(&SHARED.replace("share = 50", "share = 60"))).refused(3, &["110 %"]);
        tool("ip link add br9 type bridge");
        plan(&config(&SHARED.replace("\"out\"", "\"br9\""))).refused(3, &["br9 is a bridge"]);
        plan(&config(
            &SHARED
                .replace("rate = \"1gbit\"", "")
                .replace("\"out\"", "\"lo\""),
        ))
        .refused(3, &["speed of lo"]);
        let config = config(SHARED);
        // Without the capability the kernel says no, and nothing is left.
        let done = Command::new("setpriv")
            .args([
                "--bounding-set=-net_admin",
                "--inh-caps=-net_admin",
                "--no-new-privs",
            ])
            .args([
                env!("CARGO_BIN_EXE_transhume"),
                "bands",
                "apply",
                "--config",
                &config,
            ])
            .output()
            .expect("setpriv of util-linux is needed");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && said.contains("CAP_NET_ADMIN"), "{said}");
        assert!(!tool("tc qdisc show dev out").contains("htb"));
    });
}
