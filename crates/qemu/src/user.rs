//! Who a QEMU runs as: never root, and in a range each VM as somebody else.
//!
//! Nothing is recorded: a user id is taken as long as a process has it, which also an agent that
//! was started anew sees.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;
use std::sync::Mutex;

use rustix::process::{Gid, Uid};
use serde::Deserialize;

use crate::accel::Accel;
use crate::limits::ACCOUNT_BYTES_MAX;

/// Where a system's accounts are.
const ACCOUNTS: &str = "/etc/passwd";
/// The device that KVM's users open.
const KVM: &str = "/dev/kvm";
/// Read and write by everybody.
const ALL_READ_WRITE: u32 = 0o006;
/// Read and write by its group.
const GROUP_READ_WRITE: u32 = 0o060;
/// No process has it: system calls take it for "as it is".
const NOBODY_AT_ALL: u32 = u32::MAX;
/// Its group gives everything.
const ROOT: u32 = 0;

/// As a configuration has it: the name of an account, or a range of user ids, `FIRST-LAST`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum UserChoice {
    /// All VMs run as this account.
    Name(String),
    /// Each VM gets a user id of its own; these need no account.
    Range {
        /// The first.
        first: u32,
        /// The last.
        last: u32,
    },
}

/// Why QEMU cannot be started as somebody else.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// It cannot be read.
    #[error("`{text}` is neither the name of an account nor a range of user ids: {why}")]
    Syntax {
        /// As it stands there.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is none.
    #[error("there is no account `{name}` for QEMU to run as")]
    NoAccount {
        /// Its name.
        name: String,
    },
    /// It is root.
    #[error("`{name}` is root: a guest that breaks out of QEMU would have this host")]
    Root {
        /// Its name.
        name: String,
    },
    /// The system does not say.
    #[error("cannot read {path}")]
    Read {
        /// What.
        path: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// KVM is its owner's alone.
    #[error("{KVM} may be opened by user {uid} alone, and QEMU runs as another")]
    Kvm {
        /// Its owner.
        uid: u32,
    },
    /// As many VMs as there are user ids.
    #[error("all {count} user ids of the range for QEMU are in use")]
    Exhausted {
        /// So many.
        count: u32,
    },
}

impl UserError {
    /// What would help.
    pub fn hint(&self) -> Option<String> {
        match self {
            UserError::Syntax { .. } => {
                Some("write `qemu_user = \"transhume-qemu\"` or `qemu_user = \"3000000-3000999\"`".to_owned())
            }
            UserError::NoAccount { name } => Some(format!(
                "make it (`useradd --system --no-create-home --shell /usr/sbin/nologin {name}`, or `systemd-sysusers` with \
                 packaging/systemd/transhume.sysusers.conf), or name a range of user ids: `qemu_user = \"3000000-3000999\"`"
            )),
            UserError::Root { .. } => Some("name another account, or a range of user ids".to_owned()),
            UserError::Read { .. } => None,
            UserError::Kvm { .. } => Some(format!(
                "give it a group and let that write (`chown :kvm {KVM} && chmod 660 {KVM}`; udev does it on most systems)"
            )),
            UserError::Exhausted { .. } => Some("widen the range in `qemu_user` of agent.toml".to_owned()),
        }
    }
}

impl TryFrom<String> for UserChoice {
    type Error = UserError;

    fn try_from(text: String) -> Result<Self, UserError> {
        text.parse()
    }
}

impl FromStr for UserChoice {
    type Err = UserError;

    fn from_str(text: &str) -> Result<Self, UserError> {
        let wrong = |why| UserError::Syntax {
            text: text.to_owned(),
            why,
        };
        if !text.starts_with(|first: char| first.is_ascii_digit()) {
            let named = !text.is_empty() && !text.contains([':', '\n']);
            return match named {
                true => Ok(UserChoice::Name(text.to_owned())),
                false => Err(wrong("no account has such a name")),
            };
        }
        let (first, last) = text
            .split_once('-')
            .ok_or_else(|| wrong("a range has two ends"))?;
        let number = |text: &str| text.trim().parse::<u32>();
        let (Ok(first), Ok(last)) = (number(first), number(last)) else {
            return Err(wrong("its ends are numbers up to 4294967294"));
        };
        if first == ROOT || last < first || last == NOBODY_AT_ALL {
            return Err(wrong("it begins behind 0 and ends behind its beginning"));
        }
        Ok(UserChoice::Range { first, last })
    }
}

/// What one QEMU runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    /// Of the device that it needs, where only a group may open that.
    pub(crate) device_group: Option<Gid>,
}

/// Whom the QEMUs of this agent run as.
#[derive(Debug)]
pub struct Users {
    choice: Resolved,
    /// From the look at who is there until one more is.
    choosing: Mutex<()>,
}

#[derive(Debug, Clone, Copy)]
enum Resolved {
    One { uid: Uid, gid: Gid },
    Range { first: u32, last: u32 },
}

impl Users {
    /// Looks the account up.
    pub fn resolve(choice: &UserChoice) -> Result<Self, UserError> {
        let resolved = match choice {
            UserChoice::Range { first, last } => Resolved::Range {
                first: *first,
                last: *last,
            },
            UserChoice::Name(name) => {
                let accounts = read(ACCOUNTS)?;
                let (uid, gid) =
                    account(&accounts, name).ok_or_else(|| UserError::NoAccount { name: name.clone() })?;
                if uid == ROOT {
                    return Err(UserError::Root { name: name.clone() });
                }
                Resolved::One {
                    uid: Uid::from_raw(uid),
                    gid: Gid::from_raw(gid),
                }
            }
        };
        Ok(Users {
            choice: resolved,
            choosing: Mutex::new(()),
        })
    }

    /// Somebody for one more QEMU, whom `start` makes a process of: until it returns nobody else is
    /// chosen.
    pub(crate) fn with_one<T>(&self, accel: Accel, start: impl FnOnce(User) -> T) -> Result<T, UserError> {
        let device_group = match accel {
            Accel::Kvm => kvm_group()?,
            Accel::Tcg => None,
        };
        let _turn = self
            .choosing
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (uid, gid) = match self.choice {
            Resolved::One { uid, gid } => (uid, gid),
            Resolved::Range { first, last } => {
                let taken = user_ids_in_use().map_err(|source| UserError::Read {
                    path: "/proc",
                    source,
                })?;
                let free = (first..=last).find(|uid| !taken.contains(uid));
                let free = free.ok_or(UserError::Exhausted {
                    count: (last - first).saturating_add(1),
                })?;
                (Uid::from_raw(free), Gid::from_raw(free))
            }
        };
        Ok(start(User {
            uid,
            gid,
            device_group,
        }))
    }
}

fn read(path: &'static str) -> Result<String, UserError> {
    let file = fs::File::open(path).and_then(|file| {
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(file, ACCOUNT_BYTES_MAX), &mut text)?;
        Ok(text)
    });
    file.map_err(|source| UserError::Read { path, source })
}

/// User and group of an account (passwd(5)).
fn account(accounts: &str, name: &str) -> Option<(u32, u32)> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        found.then_some((uid, gid))
    })
}

fn kvm_group() -> Result<Option<Gid>, UserError> {
    use std::os::unix::fs::MetadataExt;
    match fs::metadata(Path::new(KVM)) {
        Ok(found) => device_group(found.mode(), found.uid(), found.gid()),
        // Then nothing runs under it.
        Err(_) => Ok(None),
    }
}

/// The group that a process needs for such a device.
fn device_group(mode: u32, uid: u32, gid: u32) -> Result<Option<Gid>, UserError> {
    if mode & ALL_READ_WRITE == ALL_READ_WRITE {
        return Ok(None);
    }
    match mode & GROUP_READ_WRITE == GROUP_READ_WRITE && gid != ROOT {
        true => Ok(Some(Gid::from_raw(gid))),
        false => Err(UserError::Kvm { uid }),
    }
}

/// Real, effective, saved and file-system user ids of all processes.
fn user_ids_in_use() -> io::Result<BTreeSet<u32>> {
    let mut taken = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let numbered = path.file_name().and_then(|name| name.to_str());
        if numbered.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
            // One that ends meanwhile has none.
            let status = fs::read_to_string(path.join("status")).unwrap_or_default();
            let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
            let uids = uids.into_iter().flat_map(str::split_ascii_whitespace);
            taken.extend(uids.filter_map(|uid| uid.parse::<u32>().ok()));
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_or_a_range_and_never_root() {
        let range = "3000000-3000999".parse::<UserChoice>().unwrap();
        assert_eq!(
            range,
            UserChoice::Range {
                first: 3_000_000,
                last: 3_000_999
            }
        );
        assert_eq!(
            "transhume-qemu".parse::<UserChoice>().unwrap(),
            UserChoice::Name("transhume-qemu".to_owned())
        );
        for wrong in ["", "0", "0-9", "7", "9-8", "1-4294967295", "5-x", "a:b"] {
            let error = wrong.parse::<UserChoice>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{wrong}`")), "{error}");
            assert!(error.hint().unwrap().contains("qemu_user"));
        }
        let root = Users::resolve(&UserChoice::Name("root".to_owned())).unwrap_err();
        assert!(matches!(root, UserError::Root { .. }), "{root}");
    }

    #[test]
    fn an_account_that_is_not_there_is_named_and_how_it_is_made() {
        let missing = UserChoice::Name("no-such-account".to_owned());
        let error = Users::resolve(&missing).unwrap_err();
        assert!(error.to_string().contains("`no-such-account`"), "{error}");
        assert!(error.hint().unwrap().contains("useradd") && error.hint().unwrap().contains("sysusers"));
        let accounts = "root:x:0:0::/:/bin/sh\ntranshume-qemu:x:990:988::/:/usr/sbin/nologin\nbroken\n";
        assert_eq!(account(accounts, "transhume-qemu"), Some((990, 988)));
        assert_eq!(account(accounts, "transhume"), None);
        assert_eq!(account(accounts, "broken"), None);
    }

    #[test]
    fn a_user_id_that_a_process_has_is_not_given_out() {
        let own = rustix::process::getuid().as_raw();
        assert!(user_ids_in_use().unwrap().contains(&own));
        let users = |first, last| {
            let choice = UserChoice::Range { first, last };
            Users::resolve(&choice).unwrap()
        };
        // Nobody has these here.
        let (first, last) = (3_999_999_000, 3_999_999_001);
        let given = users(first, last).with_one(Accel::Tcg, |user| user.uid.as_raw());
        assert_eq!(given.unwrap(), first);
        if own > ROOT {
            let error = users(own, own).with_one(Accel::Tcg, |_| ()).unwrap_err();
            assert!(matches!(error, UserError::Exhausted { count: 1 }), "{error}");
        }
    }

    #[test]
    fn kvm_is_reached_by_everybody_by_its_group_or_not() {
        assert_eq!(device_group(0o20_666, 0, 0).unwrap(), None);
        assert_eq!(device_group(0o20_660, 0, 104).unwrap(), Some(Gid::from_raw(104)));
        // Root's group is no way to be no root.
        assert!(device_group(0o20_660, 0, 0).is_err());
        let error = device_group(0o20_600, 0, 104).unwrap_err();
        assert!(error.hint().unwrap().contains("kvm"), "{error}");
    }
}
