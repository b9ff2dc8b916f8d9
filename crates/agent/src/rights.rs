//! What an agent may, besides being root: looked at when it starts, so that nothing fails half-way
//! for want of it.

use std::fs;
use std::io;

/// What an agent needs, by name and number (linux/capability.h); docs/design/unprivileged.md has
/// the reason of each.
const CAPABILITIES: [(&str, u32); 7] = [
    ("CAP_KILL", 5),
    ("CAP_NET_ADMIN", 12),
    ("CAP_NET_RAW", 13),
    ("CAP_SETGID", 6),
    ("CAP_SETPCAP", 8),
    ("CAP_SETUID", 7),
    ("CAP_SYS_PTRACE", 19),
];

/// Names of those that this process has not.
pub(crate) fn missing() -> io::Result<Vec<&'static str>> {
    let status = fs::read_to_string("/proc/self/status")?;
    missing_of(&status).ok_or_else(|| io::Error::other("/proc/self/status has no CapEff"))
}

fn missing_of(status: &str) -> Option<Vec<&'static str>> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let set = u64::from_str_radix(set.trim(), 16).ok()?;
    let missing = CAPABILITIES.iter().filter(|(_, number)| set & 1 << number == 0);
    Some(missing.map(|(name, _)| *name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let of = |set: &str| missing_of(&format!("Name:\tx\nCapEff:\t{set}\nCapBnd:\t0\n")).unwrap();
        assert_eq!(of("000001ffffffffff"), Vec::<&str>::new());
        assert_eq!(of("00000000000831e0"), Vec::<&str>::new());
        assert_eq!(of("00000000000831c0"), ["CAP_KILL"]);
        assert_eq!(of("0000000000000000").len(), CAPABILITIES.len());
        assert_eq!(missing_of("Name:\tx\n"), None);
    }

    #[test]
    fn the_page_and_the_unit_have_the_same() {
        let at = |path: &str| {
            let path = format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"));
            fs::read_to_string(path).unwrap()
        };
        let page = at("docs/design/unprivileged.md");
        let unit = at("packaging/systemd/transhume-agent.service");
        assert!(
            !unit.contains("\nRestrictSUIDSGID="),
            "it takes openat2 away, which opens what VMs boot from"
        );
        let given = unit
            .lines()
            .find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
        let mut given: Vec<_> = given.unwrap().split_whitespace().collect();
        given.sort_unstable();
        assert_eq!(given, CAPABILITIES.map(|(name, _)| name));
        for name in given {
            assert!(
                page.contains(&format!("| `{name}` |")),
                "the page has no reason for {name}"
            );
        }
    }
}
