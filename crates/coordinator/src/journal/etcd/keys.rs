//! What is called how below the prefix, and the small records there. Pure.
//!
//! ```text
//!  PREFIX/format  fleet  term            written when somebody begins to lead
//!  PREFIX/leader                         who leads; goes with the lease
//!  PREFIX/head                           the last write: term and number
//!  PREFIX/beat                           the leader's clock, every other second
//!  PREFIX/restoring                      from the beginning to the end of a restore
//!  PREFIX/entries/MOVE/PART              what one append brought of one move
//!  PREFIX/clusters/NAME  hosts/BUCKET  drains/NUMBER  numbers/NAME
//!  PREFIX/pieces/RECORD/WRITE/PIECE      a record that is longer than one write takes
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use transhume_model::{DrainId, HostName, MigrationId, WallMicros};

use super::super::HostRecord;

/// Hosts share so many records, so that any number of them fits the 128 operations that etcd takes
/// in one transaction.
pub(super) const BUCKETS: u8 = 64;

/// Names of keys.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

/// A counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Number {
    Migration,
    Drain,
    Epoch,
}

impl Number {
    pub(super) const ALL: [Number; 3] = [Number::Migration, Number::Drain, Number::Epoch];

    fn name(self) -> &'static str {
        match self {
            Number::Migration => "last-migration",
            Number::Drain => "last-drain",
            Number::Epoch => "last-epoch",
        }
    }
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
        }
    }

    fn below(&self, rest: &str) -> String {
        format!("{}/{rest}", self.prefix)
    }

    pub(super) fn format(&self) -> String {
        self.below("format")
    }

    pub(super) fn fleet(&self) -> String {
        self.below("fleet")
    }

    pub(super) fn term(&self) -> String {
        self.below("term")
    }

    /// There while a backup is put below the prefix.
    pub(super) fn restoring(&self) -> String {
        self.below("restoring")
    }

    /// Start of all keys.
    pub(super) fn all(&self) -> String {
        self.below("")
    }

    pub(super) fn leader(&self) -> String {
        self.below("leader")
    }

    pub(super) fn head(&self) -> String {
        self.below("head")
    }

    pub(super) fn beat(&self) -> String {
        self.below("beat")
    }

    /// Start of the keys of all moves' entries.
    pub(super) fn entries(&self) -> String {
        self.below("entries/")
    }

    /// The same of one move. Numbers are in hexadecimal and of one length, so that keys are in
    /// their order.
    pub(super) fn entries_of(&self, migration: MigrationId) -> String {
        self.below(&format!("entries/{:016x}/", migration.0))
    }

    pub(super) fn part(&self, migration: MigrationId, part: u64) -> String {
        format!("{}{part:016x}", self.entries_of(migration))
    }

    /// Move and part that a key is of.
    pub(super) fn part_of(&self, key: &str) -> Option<(MigrationId, u64)> {
        let (migration, part) = key.strip_prefix(&self.entries())?.split_once('/')?;
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        Some((MigrationId(number(migration)?), number(part)?))
    }

    pub(super) fn clusters(&self) -> String {
        self.below("clusters/")
    }

    pub(super) fn cluster(&self, name: &str) -> String {
        self.clusters() + name
    }

    pub(super) fn hosts(&self) -> String {
        self.below("hosts/")
    }

    pub(super) fn bucket(&self, bucket: u8) -> String {
        format!("{}{bucket:02x}", self.hosts())
    }

    pub(super) fn drains(&self) -> String {
        self.below("drains/")
    }

    pub(super) fn drain(&self, drain: DrainId) -> String {
        format!("{}{:016x}", self.drains(), drain.0)
    }

    /// Start of the keys of all pieces of records.
    pub(super) fn pieces(&self) -> String {
        self.below("pieces/")
    }

    /// The same of the records whose keys begin so.
    pub(super) fn pieces_below(&self, record: &str) -> String {
        let rest = record.strip_prefix(&self.prefix).unwrap_or(record);
        self.pieces() + rest.trim_start_matches('/')
    }

    /// The same of one record.
    pub(super) fn pieces_of(&self, record: &str) -> String {
        self.pieces_below(record) + "/"
    }

    /// The same of what one write made of it: a later one's are behind an earlier one's.
    pub(super) fn pieces_by(&self, record: &str, write: WriteId) -> String {
        format!(
            "{}{:016x}.{:016x}/",
            self.pieces_of(record),
            write.term,
            write.write
        )
    }

    pub(super) fn piece(&self, record: &str, write: WriteId, piece: usize) -> String {
        format!("{}{piece:08x}", self.pieces_by(record, write))
    }

    /// The record that a piece is of.
    pub(super) fn record_of(&self, piece: &str) -> Option<String> {
        let rest = piece.strip_prefix(&self.pieces())?;
        let mut parts = rest.rsplitn(3, '/').skip(2);
        parts.next().map(|record| self.below(record))
    }

    pub(super) fn numbers(&self) -> String {
        self.below("numbers/")
    }

    pub(super) fn number(&self, number: Number) -> String {
        self.numbers() + number.name()
    }
}

/// Which bucket a host's record is in; the same for ever.
pub(super) fn bucket_of(host: &HostName) -> u8 {
    blake3::hash(host.as_str().as_bytes()).as_bytes()[0] % BUCKETS
}

/// The records of a bucket.
pub(super) type Bucket = BTreeMap<HostName, HostRecord>;

/// The last write below the prefix. Each write compares it with what its writer wrote last, so that
/// none is done twice and none between two of another's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) term: u64,
    pub(super) write: u64,
    /// The writer's clock.
    pub(super) at: WallMicros,
}

/// One write of one leader; later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WriteId {
    pub(super) term: u64,
    pub(super) write: u64,
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeaderRecord {
    pub(super) term: u64,
    /// Where its API is.
    pub(super) api: String,
    /// One life of one process.
    pub(super) run: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_the_order_of_their_numbers_and_read_back() {
        let keys = Keys::new("/transhume/lab");
        let parts = [(1, 0), (1, 9), (1, 10), (1, 255), (2, 0), (16, 0), (1 << 40, 3)];
        let named: Vec<String> = parts
            .iter()
            .map(|(migration, part)| keys.part(MigrationId(*migration), *part))
            .collect();
        assert!(named.is_sorted(), "{named:?}");
        for (name, (migration, part)) in named.iter().zip(parts) {
            assert_eq!(keys.part_of(name), Some((MigrationId(migration), part)));
            assert!(name.starts_with(&keys.entries_of(MigrationId(migration))));
        }
        for other in [
            "/transhume/lab/entries/1",
            "/transhume/other/entries/1/2",
            "/transhume/lab/entries/x/1",
        ] {
            assert_eq!(keys.part_of(other), None, "{other}");
        }
    }

    #[test]
    fn pieces_are_in_the_order_of_their_writes_and_name_their_record() {
        let keys = Keys::new("/transhume/lab");
        let of = |term, write, piece| {
            let write = WriteId { term, write };
            keys.piece(&keys.part(MigrationId(7), 3), write, piece)
        };
        let named = [of(1, 0, 0), of(1, 0, 1), of(1, 9, 0), of(1, 10, 0), of(2, 1, 0)];
        assert!(named.is_sorted(), "{named:?}");
        for name in &named {
            assert_eq!(keys.record_of(name), Some(keys.part(MigrationId(7), 3)));
            assert!(name.starts_with(&keys.pieces_below(&keys.entries_of(MigrationId(7)))));
        }
        let cluster = keys.cluster("lab");
        let write = WriteId { term: 1, write: 1 };
        assert_eq!(keys.record_of(&keys.piece(&cluster, write, 0)), Some(cluster));
        for other in ["/transhume/lab/pieces/x", "/transhume/lab/clusters/a/b/c/d"] {
            assert_eq!(keys.record_of(other), None, "{other}");
        }
    }

    #[test]
    fn hosts_spread_over_all_buckets_and_no_more() {
        let hosts = (0..2_000).map(|index| format!("h{index}").parse::<HostName>().unwrap());
        let used: std::collections::BTreeSet<u8> = hosts.map(|host| bucket_of(&host)).collect();
        assert_eq!(used, (0..BUCKETS).collect());
    }
}
