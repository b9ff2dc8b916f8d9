//! The mark that each of our taps carries, as its link's alias (ip-link(8)): whose it is is known
//! without any record.
//!
//! ```text
//! transhume:<owner>:<vm>:<nic>
//! ```

use std::fs;

use transhume_model::{NicIndex, VmName};
use transhume_netcfg::{Netlink, Port, PortKind};

use crate::error::{Error, IoContext};

const PREFIX: &str = "transhume";
/// The kernel keeps 256 bytes of an alias; the rest of a mark is shorter than 70.
const OWNER_BYTES_MAX: usize = 64;
/// Processes looked at for the holder of a tap; only an error's text depends on it.
const PROCESSES_MAX: usize = 100_000;

/// Whose a tap is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapMark {
    /// The agent that made it: 1 to 64 bytes, no `:`.
    pub owner: String,
    /// The VM.
    pub vm: VmName,
    /// Which of its NICs.
    pub nic: NicIndex,
}

/// A tap that carries a mark of the owner asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MarkedTap {
    /// Name of the interface.
    pub name: String,
    /// The VM.
    pub vm: VmName,
    /// Which of its NICs.
    pub nic: NicIndex,
}

impl TapMark {
    /// The mark as an alias.
    pub(crate) fn alias(&self) -> Result<String, Error> {
        let owner = &self.owner;
        if owner.is_empty() || owner.len() > OWNER_BYTES_MAX || owner.contains([':', '\0']) {
            return Err(Error::BadOwner { owner: owner.clone() });
        }
        Ok(format!("{PREFIX}:{owner}:{}:{}", self.vm, self.nic.0))
    }

    /// The mark in an alias; `None` where it is something else.
    fn parse(alias: &str) -> Option<Self> {
        let mut parts = alias.split(':');
        let mut next = || parts.next();
        let (prefix, owner, vm, nic) = (next()?, next()?, next()?, next()?);
        (prefix == PREFIX && next().is_none()).then_some(())?;
        Some(Self {
            owner: owner.to_owned(),
            // What is ours has a plain name.
            vm: vm.parse().ok().filter(VmName::is_plain)?,
            nic: NicIndex(nic.parse().ok()?),
        })
    }
}

/// The taps of this network namespace that carry a mark of `owner`: for an agent that starts.
pub fn marked_taps(owner: &str) -> Result<Vec<MarkedTap>, Error> {
    let mut netlink = Netlink::open().context("*", "open a netlink socket")?;
    let links = netlink.all_links().context("*", "list the links")?;
    let marked = |link: Port| {
        let TapMark { owner: of, vm, nic } = TapMark::parse(&link.alias)?;
        (of == owner && link.kind == PortKind::Tap).then_some(MarkedTap {
            name: link.name,
            vm,
            nic,
        })
    };
    Ok(links.into_iter().filter_map(marked).collect())
}

/// What a link of a name that we want is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Ours,
    /// In words.
    Foreign(String),
}

/// Looks at the link `name`; `None` where there is none.
pub(crate) fn look(netlink: &mut Netlink, name: &str, mark: &TapMark) -> Result<Option<Found>, Error> {
    let links = netlink.all_links().context(name, "list the links")?;
    Ok(links
        .into_iter()
        .find(|link| link.name == name)
        .map(|link| judge(&link, mark)))
}

fn judge(link: &Port, mark: &TapMark) -> Found {
    match (link.kind, TapMark::parse(&link.alias)) {
        (PortKind::Tap, Some(found)) if found == *mark => Found::Ours,
        (PortKind::Tap, Some(found)) => Found::Foreign(format!(
            "a tap of `{}` for NIC {} of VM {}",
            found.owner, found.nic.0, found.vm
        )),
        (PortKind::Tap, None) => Found::Foreign("a tap without our mark".to_owned()),
        (PortKind::Veth, _) => Found::Foreign("a veth".to_owned()),
        (PortKind::Wire, _) => Found::Foreign("no tap".to_owned()),
    }
}

/// Which process holds the tap `name`, in words.
pub(crate) fn holder(name: &str) -> String {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = processes.take(PROCESSES_MAX).filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        holds(pid, name).then_some(pid)
    });
    match pids.next() {
        Some(pid) => {
            let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("process {pid} ({})", command.trim())
        }
        None => "a process that cannot be seen from here".to_owned(),
    }
}

fn holds(pid: u32, name: &str) -> bool {
    let Ok(infos) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
        return false;
    };
    infos
        .flatten()
        .any(|info| fs::read_to_string(info.path()).is_ok_and(|text| names_tap(&text, name)))
}

/// Whether a descriptor, by its text in /proc, is one of the tap `name`.
pub(crate) fn names_tap(fdinfo: &str, name: &str) -> bool {
    fdinfo
        .lines()
        .any(|line| line.strip_prefix("iff:").is_some_and(|iff| iff.trim() == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(owner: &str) -> TapMark {
        TapMark {
            owner: owner.to_owned(),
            vm: "vm1".parse().unwrap(),
            nic: NicIndex(2),
        }
    }

    #[test]
    fn a_mark_survives_its_alias() {
        let alias = mark("host-a").alias().unwrap();
        assert_eq!(alias, "transhume:host-a:vm1:2");
        assert_eq!(TapMark::parse(&alias), Some(mark("host-a")));
    }

    #[test]
    fn what_is_no_mark_is_not_taken_for_one() {
        for alias in [
            "",
            "uplink of rack 7",
            "transhume:a:vm1",
            "transhume:a:vm1:2:3",
            "transhume:a:VM:2",
            "transhume:a:vm1:x",
            "other:a:vm1:2",
        ] {
            assert_eq!(TapMark::parse(alias), None, "{alias}");
        }
    }

    #[test]
    fn an_owner_that_no_alias_could_carry_is_refused() {
        for owner in ["", "a:b", &"x".repeat(65)] {
            assert!(matches!(mark(owner).alias(), Err(Error::BadOwner { .. })));
        }
    }

    #[test]
    fn a_link_is_ours_by_its_whole_mark() {
        let link = |kind, alias: &str| Port {
            index: 7,
            name: "th0".to_owned(),
            kind,
            alias: alias.to_owned(),
        };
        let ours = mark("a").alias().unwrap();
        assert_eq!(judge(&link(PortKind::Tap, &ours), &mark("a")), Found::Ours);
        for (kind, alias) in [
            (PortKind::Tap, ""),
            (PortKind::Tap, "transhume:b:vm1:2"),
            (PortKind::Tap, "transhume:a:vm1:1"),
            (PortKind::Veth, &ours),
            (PortKind::Wire, &ours),
        ] {
            assert!(matches!(judge(&link(kind, alias), &mark("a")), Found::Foreign(_)));
        }
    }
}
