//! A coordinator's journal, as a file or in etcd: verified, copied, put to use again. No
//! coordinator runs on a file meanwhile; in etcd one may lead while it is read.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use transhume_api::Verdict;
use transhume_coordinator::journal::{self, JournalError, Summary};
use transhume_coordinator::{Config, EtcdSpec};
use transhume_planner::words::some;

use crate::args::JournalCommand;
use crate::failure::{Failure, Kind};
use crate::moves::print_json;
use crate::operators;

/// Where a journal is.
enum Place {
    File(PathBuf),
    Etcd { spec: EtcdSpec, local: PathBuf },
}

impl Place {
    fn of(file: PathBuf, etcd: bool) -> Result<Self, Failure> {
        if !etcd {
            return Ok(Place::File(file));
        }
        let config = Config::read(&file).map_err(|error| {
            let hint = "behind --etcd stands the configuration of a coordinator, whose `[etcd]` says where";
            Failure::new(Kind::Refused, Failure::of(&error).message, hint)
        })?;
        match config.etcd {
            Some(spec) => Ok(Place::Etcd {
                spec,
                local: config.journal,
            }),
            None => Err(Failure::new(
                Kind::Refused,
                format!("the configuration {} names no etcd", file.display()),
                "add `[etcd]` to it, or name the journal's file without --etcd",
            )),
        }
    }

    fn name(&self) -> String {
        match self {
            Place::File(file) => file.display().to_string(),
            Place::Etcd { spec, .. } => format!("{} in etcd", spec.prefix),
        }
    }

    fn verify(&self) -> Result<Summary, JournalError> {
        match self {
            Place::File(file) => journal::verify(file),
            Place::Etcd { spec, local } => journal::verify_in_etcd(spec, local),
        }
    }

    fn check_backup(&self, copy: &Path) -> Result<Summary, JournalError> {
        match self {
            Place::File(file) => journal::check_backup(file, copy),
            Place::Etcd { spec, local } => journal::check_backup_from_etcd(spec, local, copy),
        }
    }

    fn backup(&self, copy: &Path) -> Result<Summary, JournalError> {
        match self {
            Place::File(file) => journal::backup(file, copy),
            Place::Etcd { spec, local } => journal::backup_from_etcd(spec, local, copy),
        }
    }

    fn check_restore(&self, copy: &Path) -> Result<Summary, JournalError> {
        match self {
            Place::File(file) => journal::check_restore(copy, file),
            Place::Etcd { spec, local } => journal::check_restore_into_etcd(copy, spec, local),
        }
    }

    fn restore(&self, copy: &Path) -> Result<Summary, JournalError> {
        match self {
            Place::File(file) => journal::restore(copy, file),
            Place::Etcd { spec, local } => journal::restore_into_etcd(copy, spec, local),
        }
    }
}

pub async fn run(command: JournalCommand) -> Result<ExitCode, Failure> {
    let (summary, json, done) = match command {
        JournalCommand::Verify { file, etcd, json } => {
            let place = Place::of(file, etcd)?;
            let summary = place.verify().map_err(refused)?;
            (summary, json, format!("{} is whole", place.name()))
        }
        JournalCommand::Backup {
            file,
            copy,
            etcd,
            deciding,
        } => {
            let place = Place::of(file, etcd)?;
            let what = format!("{} is copied to {}", place.name(), copy.display());
            let planned = async {
                place
                    .check_backup(&copy)
                    .map(|_| planned(&what, None))
                    .map_err(refused)
            };
            if let Some(told) = operators::ask_back(&deciding, planned).await? {
                return Ok(told);
            }
            (place.backup(&copy).map_err(refused)?, deciding.json, what)
        }
        JournalCommand::Restore {
            copy,
            file,
            etcd,
            deciding,
        } => {
            let place = Place::of(file, etcd)?;
            let what = format!(
                "{} is a journal again, with epochs above all that agents have seen; VMs that were moved since its backup are where agents say, not where it says: look at `transhume cluster show` before anything is moved",
                place.name()
            );
            let lost = "what was decided since the backup was made: clusters, moves, fences and cordons of that time";
            let planned = async {
                place
                    .check_restore(&copy)
                    .map(|_| planned(&what, Some(lost)))
                    .map_err(refused)
            };
            if let Some(told) = operators::ask_back(&deciding, planned).await? {
                return Ok(told);
            }
            (place.restore(&copy).map_err(refused)?, deciding.json, what)
        }
    };
    if json {
        return print_json(&summary);
    }
    outln!("{done}");
    outln!("{}", text(&summary));
    Ok(ExitCode::SUCCESS)
}

fn planned(what: &str, lost: Option<&str>) -> Verdict {
    Verdict::planned(what.to_owned(), lost.map(str::to_owned).into_iter().collect())
}

fn text(summary: &Summary) -> String {
    let moves = match summary.under_way {
        0 => some(summary.migrations, "move"),
        open => format!("{}, {open} not over", some(summary.migrations, "move")),
    };
    format!(
        "{}, {}, {}, {}",
        some(summary.clusters, "cluster"),
        some(summary.vms, "VM"),
        moves,
        some(summary.drains, "drain")
    )
}

fn refused(error: JournalError) -> Failure {
    let hint = match &error {
        JournalError::InUse { .. } => "stop the coordinator first",
        JournalError::NotThere { .. } => "`journal` in the coordinator's configuration names the file",
        JournalError::Copy { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
            "nothing is written over: name another file, or move that one away"
        }
        JournalError::UnderWay { .. } => {
            "take a backup that was made while no move was under way; where there is none, a journal that is begun anew is \
             obeyed only by agents whose `leader.json` was removed, and knows no VM"
        }
        JournalError::OtherFleet { .. } => {
            "take a backup of this fleet's journal; a place that is to be another fleet's has its `.fleet` file removed first"
        }
        JournalError::OldCopy { .. } => {
            "put a backup to use with `transhume journal restore`; to begin anew all the same, remove the file beside it that \
             names the fleet, and `leader.json` in the state directory of each agent"
        }
        JournalError::FleetFile { .. } => {
            "restore it from a backup of that machine: it names the fleet and its last term"
        }
        JournalError::Random(_) => "look at /dev/urandom",
        JournalError::Copy { .. } => "make room there, or name another place",
        JournalError::Format { .. } => "use the newer release",
        JournalError::Damaged { .. }
        | JournalError::NotExpanded { .. }
        | JournalError::Unreadable { .. }
        | JournalError::Database { .. } => "restore it from a backup with `transhume journal restore`",
        JournalError::NotEmpty { .. } => {
            "nothing is written over: name another prefix, or remove everything below this one, with its last slash, by `etcdctl del --prefix`"
        }
        JournalError::HalfRestored { .. } => "restore it again with `transhume journal restore --etcd`",
        JournalError::Changing { .. } => "try again when fewer moves are under way",
        JournalError::Etcd { .. } | JournalError::Unwritten { .. } => {
            "look at etcd, and at endpoints, prefix and certificates of `[etcd]`"
        }
        JournalError::LeaseLost { .. } | JournalError::ClocksApart { .. } => {
            "try again; what is left of this attempt is removed then"
        }
        JournalError::TooLarge { .. } => "keep the journal in a file",
    };
    Failure::new(Kind::Refused, crate::failure::chain(&error), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_etcd_stands_a_configuration() {
        let refused = Place::of("/nope/coordinator.toml".into(), true).err().unwrap();
        assert!(
            refused.message.contains("/nope/coordinator.toml"),
            "{}",
            refused.message
        );
        assert!(refused.hint.is_some_and(|hint| hint.contains("[etcd]")));
        assert!(
            Place::of("/nope/coordinator.toml".into(), false).is_ok(),
            "a file that is to be made"
        );
    }
}
