//! A coordinator's journal as a file: verified, copied, put to use again. No coordinator runs on it
//! meanwhile.

use std::process::ExitCode;

use transhume_api::Verdict;
use transhume_coordinator::journal::{
    JournalError, Summary, backup, check_backup, check_restore, restore, verify,
};
use transhume_planner::words::some;

use crate::args::JournalCommand;
use crate::failure::{Failure, Kind};
use crate::moves::print_json;
use crate::operators;

pub async fn run(command: JournalCommand) -> Result<ExitCode, Failure> {
    let (summary, json, done) = match command {
        JournalCommand::Verify { file, json } => {
            let summary = verify(&file).map_err(refused)?;
            (summary, json, format!("{} is whole", file.display()))
        }
        JournalCommand::Backup { file, copy, deciding } => {
            let what = format!("{} is copied to {}", file.display(), copy.display());
            let planned = async {
                check_backup(&file, &copy)
                    .map(|_| planned(&what, None))
                    .map_err(refused)
            };
            if let Some(told) = operators::ask_back(&deciding, planned).await? {
                return Ok(told);
            }
            (backup(&file, &copy).map_err(refused)?, deciding.json, what)
        }
        JournalCommand::Restore { copy, file, deciding } => {
            let what = format!(
                "{} is a journal again, with epochs above all that agents have seen; VMs that were moved since its backup are where agents say, not where it says: look at `transhume cluster show` before anything is moved",
                file.display()
            );
            let lost = "what was decided since the backup was made: clusters, moves, fences and cordons of that time";
            let planned = async {
                check_restore(&copy, &file)
                    .map(|_| planned(&what, Some(lost)))
                    .map_err(refused)
            };
            if let Some(told) = operators::ask_back(&deciding, planned).await? {
                return Ok(told);
            }
            (restore(&copy, &file).map_err(refused)?, deciding.json, what)
        }
    };
    if json {
        return print_json(&summary);
    }
    println!("{done}");
    println!("{}", text(&summary));
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
        JournalError::Damaged { .. } | JournalError::Unreadable { .. } | JournalError::Database { .. } => {
            "restore it from a backup with `transhume journal restore`"
        }
        // A file has nothing to do with it.
        JournalError::Etcd { .. }
        | JournalError::LeaseLost { .. }
        | JournalError::Unwritten { .. }
        | JournalError::TooLarge { .. }
        | JournalError::ClocksApart { .. } => "name an embedded journal",
    };
    Failure::new(Kind::Refused, crate::failure::chain(&error), hint)
}
