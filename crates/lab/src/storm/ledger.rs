//! The log of a storm: one JSON line a round, appended, so that a storm goes on where an earlier
//! one stopped.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use transhume_model::VmName;

use super::fault::Fault;

/// Frames or messages that went wrong, and what broke besides. All zero is the promise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Never arrived.
    pub lost: u64,
    /// Arrived twice.
    pub duplicated: u64,
    /// Arrived after a later one.
    pub reordered: u64,
    /// TCP streams that broke.
    pub tcp_broken: u64,
    /// Disk blocks that failed or held something else.
    pub disk_errors: u64,
}

impl Counts {
    /// What came on top of an earlier count.
    pub fn since(&self, earlier: &Counts) -> Counts {
        Counts {
            lost: self.lost.saturating_sub(earlier.lost),
            duplicated: self.duplicated.saturating_sub(earlier.duplicated),
            reordered: self.reordered.saturating_sub(earlier.reordered),
            tcp_broken: self.tcp_broken.saturating_sub(earlier.tcp_broken),
            disk_errors: self.disk_errors.saturating_sub(earlier.disk_errors),
        }
    }

    /// Both together.
    pub fn plus(&self, other: &Counts) -> Counts {
        Counts {
            lost: self.lost + other.lost,
            duplicated: self.duplicated + other.duplicated,
            reordered: self.reordered + other.reordered,
            tcp_broken: self.tcp_broken + other.tcp_broken,
            disk_errors: self.disk_errors + other.disk_errors,
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} lost, {} duplicated, {} reordered",
            self.lost, self.duplicated, self.reordered
        )?;
        if self.tcp_broken > 0 {
            write!(f, ", {} TCP streams broken", self.tcp_broken)?;
        }
        if self.disk_errors > 0 {
            write!(f, ", {} disk errors", self.disk_errors)?;
        }
        Ok(())
    }
}

/// A fault as it fell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StruckLine {
    /// What.
    pub fault: Fault,
    /// The part or process that it was for: `agent h3`, `coordinator`, `qemu vm2 on h3`.
    pub victim: String,
    /// The step that the move was in; 0 before the first and after the end.
    pub step: u8,
    /// It fell after the batch's `Committed`.
    pub committed: bool,
}

/// What became of a round, in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoundVerdict {
    /// Every promise was kept.
    Kept,
    /// A VM lost its only copy to a fault, and that was reported.
    LostAndReported,
    /// A promise was not kept.
    Violated,
}

/// One round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundLine {
    /// The storm's seed.
    pub seed: u64,
    /// The round's number.
    pub round: u64,
    /// k.
    pub k: usize,
    /// VMs that were to move.
    pub vms: usize,
    /// Faults that fell.
    pub struck: Vec<StruckLine>,
    /// Faults whose moment did not come, or whose victim was gone.
    pub missed: Vec<Fault>,
    /// What was decided about VMs that the move waited for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decided: Vec<String>,
    /// How the move ended, in the report's word.
    pub outcome: String,
    /// VMs that changed their host.
    pub switchovers: usize,
    /// What became of it.
    pub verdict: RoundVerdict,
    /// What was not kept, in words.
    pub violations: Vec<String>,
    /// VMs lost.
    pub lost_vms: Vec<VmName>,
    /// The guests' account of this round.
    pub guests: Counts,
    /// Of the whole round, in milliseconds.
    pub duration_ms: u64,
}

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It cannot be read or written.
    #[error("cannot {action} the storm's log {}", path.display())]
    File {
        /// In words.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A line is not a round.
    #[error("line {line} of {} is not a round of a storm", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: usize,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// A line of a log: a round of a seed.
pub trait Round: Serialize + DeserializeOwned {
    /// What everything drawn came from.
    fn seed(&self) -> u64;
    /// Its number, from 1.
    fn round(&self) -> u64;
}

impl Round for RoundLine {
    fn seed(&self) -> u64 {
        self.seed
    }

    fn round(&self) -> u64 {
        self.round
    }
}

/// A log that rounds are added to.
#[derive(Debug)]
pub struct Ledger<Line = RoundLine> {
    file: Option<(PathBuf, File)>,
    rounds: Vec<Line>,
}

impl<Line: Round> Ledger<Line> {
    /// Opens a log, or keeps the rounds in memory only. A last line that was cut off is dropped.
    pub fn open(path: Option<&Path>) -> Result<Self, LedgerError> {
        let Some(path) = path else {
            return Ok(Ledger {
                file: None,
                rounds: Vec::new(),
            });
        };
        let failed = |action| {
            move |source| LedgerError::File {
                action,
                path: path.to_owned(),
                source,
            }
        };
        let text = match fs::read_to_string(path) {
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => String::new(),
            text => text.map_err(failed("read"))?,
        };
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let rounds = parse(path, &text[..whole])?;
        let file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .map_err(failed("open"))?;
        file.set_len(whole as u64).map_err(failed("cut"))?;
        Ok(Ledger {
            file: Some((path.to_owned(), file)),
            rounds,
        })
    }

    /// Reads a log that is not written to.
    pub fn read(path: &Path) -> Result<Vec<Line>, LedgerError> {
        let text = fs::read_to_string(path).map_err(|source| LedgerError::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        parse(path, &text)
    }

    /// Rounds of a seed that are in it.
    pub fn done(&self, seed: u64) -> BTreeSet<u64> {
        let own = self.rounds.iter().filter(|line| line.seed() == seed);
        own.map(Line::round).collect()
    }

    /// Everything in it.
    pub fn rounds(&self) -> &[Line] {
        &self.rounds
    }

    /// Adds a round; it is on the disk when this returns.
    pub fn add(&mut self, line: Line) -> Result<(), LedgerError> {
        if let Some((path, file)) = &mut self.file {
            let mut bytes = serde_json::to_vec(&line).expect("a round has only text and numbers");
            bytes.push(b'\n');
            file.write_all(&bytes)
                .and_then(|()| file.sync_data())
                .map_err(|source| LedgerError::File {
                    action: "write",
                    path: path.clone(),
                    source,
                })?;
        }
        self.rounds.push(line);
        Ok(())
    }
}

fn parse<Line: Round>(path: &Path, text: &str) -> Result<Vec<Line>, LedgerError> {
    let line = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|source| LedgerError::Line {
            path: path.to_owned(),
            line: index + 1,
            source,
        })
    };
    text.lines().enumerate().map(line).collect()
}

#[cfg(test)]
pub(super) fn sample(seed: u64, round: u64) -> RoundLine {
    RoundLine {
        seed,
        round,
        k: 2,
        vms: 4,
        struck: vec![StruckLine {
            fault: Fault::KillTargetAgent,
            victim: "agent h3".to_owned(),
            step: 6,
            committed: false,
        }],
        missed: Vec::new(),
        decided: Vec::new(),
        outcome: "rolled-back".to_owned(),
        switchovers: 0,
        verdict: RoundVerdict::Kept,
        violations: Vec::new(),
        lost_vms: Vec::new(),
        guests: Counts::default(),
        duration_ms: 9_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);
    impl Drop for Scratch {
        fn drop(&mut self) {
            let _gone = fs::remove_file(&self.0);
        }
    }

    fn scratch(name: &str) -> Scratch {
        Scratch(std::env::temp_dir().join(format!("transhume-ledger-{}-{name}", std::process::id())))
    }

    #[test]
    fn a_log_goes_on_where_it_stopped_and_drops_a_line_that_was_cut() {
        let path = scratch("resume");
        let mut first = Ledger::<RoundLine>::open(Some(&path.0)).unwrap();
        first.add(sample(3, 1)).unwrap();
        first.add(sample(3, 2)).unwrap();
        first.add(sample(4, 9)).unwrap();
        File::options()
            .append(true)
            .open(&path.0)
            .unwrap()
            .write_all(b"{\"seed\":3,\"rou")
            .unwrap();
        let mut second = Ledger::<RoundLine>::open(Some(&path.0)).unwrap();
        assert_eq!(second.done(3), BTreeSet::from([1, 2]));
        second.add(sample(3, 3)).unwrap();
        assert_eq!(Ledger::<RoundLine>::read(&path.0).unwrap().len(), 4);
    }

    #[test]
    fn a_foreign_file_is_refused_with_its_line() {
        let path = scratch("foreign");
        fs::write(&path.0, "{\"hello\":1}\n").unwrap();
        let error = Ledger::<RoundLine>::open(Some(&path.0)).unwrap_err();
        assert!(error.to_string().starts_with("line 1 of"), "{error}");
        assert_eq!(
            fs::read_to_string(&path.0).unwrap(),
            "{\"hello\":1}\n",
            "untouched"
        );
    }
}
