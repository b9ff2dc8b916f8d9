//! What an agent of a lab may: what packaging/systemd/transhume-agent.service gives one, and no
//! more.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{LabError, Layout};

/// The program that takes everything else away.
const SETPRIV: &str = "/usr/bin/setpriv";

/// Capabilities of an agent, without their prefix; docs/design/unprivileged.md has the reason of
/// each.
pub const AGENT_CAPABILITIES: [&str; 7] = [
    "kill",
    "net_admin",
    "net_raw",
    "setgid",
    "setpcap",
    "setuid",
    "sys_ptrace",
];

/// In front of the program that is to have no others, also when it is root.
fn limited() -> Vec<String> {
    let kept = AGENT_CAPABILITIES.map(|name| format!("+{name}")).join(",");
    let bounding = format!("--bounding-set=-all,{kept}");
    let rest = ["--inh-caps=-all", "--no-new-privs", "--"];
    [vec![bounding], rest.map(str::to_owned).to_vec()].concat()
}

/// Where version 1 of control groups has its cpu controller.
const CPU: &str = "/sys/fs/cgroup/cpu";
/// Enters a control group, by its list of processes, and becomes another program.
const ENTER: &str = r#"echo $$ > "$0" && exec "$@""#;

/// A control group in which the agents of a lab may make others: the root's is nobody's. A lab in
/// mounts of its own may have the same name.
fn group(layout: &Layout) -> PathBuf {
    let mounts = fs::read_link("/proc/self/ns/mnt").unwrap_or_default();
    let mounts = mounts.to_string_lossy();
    let mounts = mounts.trim_matches(|sign: char| !sign.is_ascii_digit());
    let name = layout.dir().file_name().unwrap_or_default().to_owned();
    Path::new(CPU).join(format!("transhume-lab-{}-{mounts}", name.display()))
}

/// What an agent is started by, in front of its own words: without rights that it needs not, and in
/// the lab's control group where that is of version 1. In version 2 it is whoever raises the lab
/// who is in a group of its own, or not.
pub fn limits(layout: &Layout) -> Result<Vec<String>, LabError> {
    let mut words = Vec::new();
    if Path::new(CPU).join("tasks").exists() {
        let group = group(layout);
        match fs::create_dir(&group) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(LabError::File {
                    action: "create",
                    path: group,
                    source,
                });
            }
            _ => {}
        }
        let list = group.join("cgroup.procs").display().to_string();
        words.extend(["/bin/sh".to_owned(), "-c".to_owned(), ENTER.to_owned(), list]);
    }
    words.push(SETPRIV.to_owned());
    words.extend(limited());
    Ok(words)
}

/// Removes the lab's control group with those that ended agents left; its processes are gone.
pub fn remove_group(layout: &Layout) {
    let group = group(layout);
    let below = fs::read_dir(&group).into_iter().flatten().flatten();
    for directory in below.filter(|entry| entry.path().is_dir()) {
        // One that is not empty is somebody's.
        let _ = fs::remove_dir(directory.path());
    }
    let _ = fs::remove_dir(group);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The highest that it may be; 0 is best, 10 worst.
    const EXPOSURE_MAX: [(&str, f64); 2] = [
        ("transhume-agent.service", 4.3),
        ("transhume-coordinator.service", 1.4),
    ];
    /// What systemd says of units that it would run. The program is not there where it is not
    /// installed, the key not before systemd 254.
    const KNOWN: [&str; 2] = [
        "Command /usr/bin/transhume is not executable",
        "Unknown key 'DelegateSubgroup'",
    ];

    fn systemd_analyze(arguments: &[&str]) -> String {
        let ran = std::process::Command::new("systemd-analyze")
            .args(arguments)
            .env("SYSTEMD_LOG_TARGET", "console")
            .output();
        let ran = ran.expect("MISSING: systemd-analyze; `make setup` installs it");
        let (said, errors) = (ran.stdout, ran.stderr);
        String::from_utf8_lossy(&[said, errors].concat()).into_owned()
    }

    #[test]
    fn units_are_understood_and_as_tight_as_their_page_says() {
        for (unit, exposure_max) in EXPOSURE_MAX {
            let path = format!("{}/../../packaging/systemd/{unit}", env!("CARGO_MANIFEST_DIR"));
            let verified = systemd_analyze(&["verify", &path]);
            let complaints = verified
                .lines()
                .filter(|line| line.contains("transhume") && !KNOWN.iter().any(|known| line.contains(known)));
            assert_eq!(complaints.collect::<Vec<_>>(), Vec::<&str>::new());
            let judged = systemd_analyze(&["security", "--offline=true", "--no-pager", &path]);
            let exposure = judged
                .rsplit_once("Overall exposure level for")
                .and_then(|(_, line)| {
                    let (_, level) = line.split_once(": ")?;
                    level.split_whitespace().next()?.parse::<f64>().ok()
                });
            let exposure = exposure.unwrap_or_else(|| panic!("no judgement of {unit}: {judged}"));
            assert!(
                exposure <= exposure_max,
                "{unit}: {exposure}, {exposure_max} at most"
            );
        }
    }

    #[test]
    fn labs_and_hosts_give_an_agent_the_same() {
        let unit = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../packaging/systemd/transhume-agent.service"
        );
        let unit = std::fs::read_to_string(unit).unwrap();
        let given = unit
            .lines()
            .find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
        let mut given: Vec<_> = given
            .expect("a line CapabilityBoundingSet=")
            .split_whitespace()
            .map(|name| name.trim_start_matches("CAP_").to_lowercase())
            .collect();
        given.sort();
        assert_eq!(given, AGENT_CAPABILITIES);
        assert!(unit.lines().any(|line| line == "NoNewPrivileges=yes"));
    }
}
