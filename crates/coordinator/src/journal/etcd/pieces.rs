//! Records that are longer than what etcd takes in one write: they are written in pieces first,
//! each a write like any other, and then the record itself, which says which pieces it is in,
//! together with whatever else belongs to it. So all of it is there or nothing, whenever the writer
//! ends.
//!
//! Pieces that no record names are of a write that never came to its end, or of one that was
//! written over. Whoever writes the record next removes them; nobody reads them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::super::JournalError;
use super::super::record::{JSON_BYTES_MAX, seal_body, sound_body};
use super::gateway::Op;
use super::keys::{Keys, WriteId};
use super::lead::{json, parsed};

/// The longest record, with its checksum; it takes 65 writes.
pub(super) const DIVIDED_BYTES_MAX: usize = JSON_BYTES_MAX + 8;
/// A piece, so that one fits a write.
const PIECE_BYTES_MAX: usize = 1 << 20;
/// Shorter ones stay whole where a write is divided: 64 of hosts and two more fit one.
const WHOLE_BYTES_MAX: usize = 16 << 10;
/// In front of what names a record's pieces; no record begins so.
const DIVIDED: u8 = 0x02;

/// In place of a record that is kept in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Divided {
    /// Who wrote them.
    pub(super) write: WriteId,
    /// How many.
    pub(super) pieces: usize,
    /// All of them together.
    pub(super) bytes: usize,
}

impl Divided {
    /// What stands in the place of a record; `None` where it is the record itself.
    pub(super) fn of(value: &[u8]) -> Option<Self> {
        let rest = sound_body(value)?.strip_prefix(&[DIVIDED])?;
        parsed(rest)
    }

    fn value(&self) -> Vec<u8> {
        seal_body(&[&[DIVIDED], json(self).as_slice()].concat())
    }

    /// The record, where its pieces are all there.
    pub(super) fn joined(&self, pieces: Vec<Vec<u8>>) -> Option<Vec<u8>> {
        let whole = pieces.len() == self.pieces && pieces.iter().map(Vec::len).sum::<usize>() == self.bytes;
        whole.then(|| pieces.concat())
    }
}

/// What is to be written for one that is too long: the pieces, each by itself and in this order,
/// and what names them, in one.
pub(super) struct Division {
    pub(super) pieces: Vec<Op>,
    pub(super) last: Vec<Op>,
}

/// `write` is the number of the first of these writes.
pub(super) fn divide(
    keys: &Keys,
    write: WriteId,
    what: &str,
    operations: Vec<Op>,
) -> Result<Division, JournalError> {
    let mut division = Division {
        pieces: Vec::new(),
        last: Vec::new(),
    };
    for operation in operations {
        let (key, value) = match operation {
            Op::Put(key, value) if value.len() > WHOLE_BYTES_MAX => (key, value),
            other => {
                division.last.push(other);
                continue;
            }
        };
        if value.len() > DIVIDED_BYTES_MAX {
            return Err(JournalError::TooLarge {
                what: what.to_owned(),
                bytes: value.len(),
                bytes_max: DIVIDED_BYTES_MAX,
            });
        }
        let pieces = value.chunks(PIECE_BYTES_MAX).enumerate();
        let pieces = pieces.map(|(index, piece)| Op::Put(keys.piece(&key, write, index), piece.into()));
        let before = division.pieces.len();
        division.pieces.extend(pieces);
        let divided = Divided {
            write,
            pieces: division.pieces.len() - before,
            bytes: value.len(),
        };
        division.last.push(Op::Put(key, divided.value()));
    }
    Ok(division)
}

/// Records that have pieces, those included that no record names.
#[derive(Debug, Default)]
pub(super) struct Pieces(BTreeSet<String>);

impl Pieces {
    pub(super) fn insert(&mut self, record: String) {
        self.0.insert(record);
    }

    /// Pieces of records that are removed go with them.
    pub(super) fn removed_with(&self, keys: &Keys, operations: &[Op]) -> Vec<Op> {
        let below = |operation: &Op| match operation {
            Op::Remove(record) if self.0.contains(record) => Some(keys.pieces_of(record)),
            Op::RemoveBelow(prefix) if self.0.iter().any(|record| record.starts_with(prefix)) => {
                Some(keys.pieces_below(prefix))
            }
            _ => None,
        };
        operations.iter().filter_map(below).map(Op::RemoveBelow).collect()
    }

    /// These were written: what removes the pieces that are now nobody's.
    pub(super) fn written(&mut self, keys: &Keys, operations: &[Op]) -> Vec<Op> {
        let mut stale = Vec::new();
        for operation in operations {
            match operation {
                Op::Put(record, value) => {
                    let divided = Divided::of(value);
                    let had = self.0.contains(record);
                    match divided {
                        Some(divided) => {
                            self.0.insert(record.clone());
                            let own = keys.pieces_by(record, divided.write);
                            if had {
                                stale.push(Op::RemoveRange(keys.pieces_of(record), own));
                            }
                        }
                        None if had => {
                            self.0.remove(record);
                            stale.push(Op::RemoveBelow(keys.pieces_of(record)));
                        }
                        None => {}
                    }
                }
                Op::Remove(record) => {
                    self.0.remove(record);
                }
                Op::RemoveBelow(prefix) => self.0.retain(|record| !record.starts_with(prefix)),
                Op::PutWith(..) | Op::RemoveRange(..) | Op::Get(_) => {}
            }
        }
        stale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: WriteId = WriteId { term: 3, write: 5 };

    fn keys() -> Keys {
        Keys::new("/t")
    }

    #[test]
    fn a_long_record_is_its_pieces_again_and_none_of_others() {
        let long: Vec<u8> = (0..3 * PIECE_BYTES_MAX + 1).map(|index| index as u8).collect();
        let operations = vec![
            Op::Put("/t/clusters/a".to_owned(), long.clone()),
            Op::Put("/t/clusters/b".to_owned(), vec![1]),
        ];
        let division = divide(&keys(), WRITE, "it", operations).unwrap();
        let values = division.pieces.iter().map(|piece| match piece {
            Op::Put(key, value) => {
                assert_eq!(keys().record_of(key).as_deref(), Some("/t/clusters/a"));
                value.clone()
            }
            other => panic!("{other:?}"),
        });
        let values: Vec<Vec<u8>> = values.collect();
        assert_eq!(values.len(), 4);
        let [Op::Put(at, named), Op::Put(_, short)] = division.last.as_slice() else {
            panic!("{:?}", division.last);
        };
        assert_eq!((at.as_str(), short.as_slice()), ("/t/clusters/a", &[1][..]));
        let divided = Divided::of(named).unwrap();
        assert_eq!(divided.joined(values[1..].to_vec()), None, "one is missing");
        assert_eq!(divided.joined(values), Some(long.clone()));
        assert_eq!(Divided::of(&long), None);
        assert_eq!(Divided::of(&seal_body(b"{}")), None);
    }

    #[test]
    fn what_is_longer_than_anything_may_be_is_refused() {
        let long = vec![0; DIVIDED_BYTES_MAX + 1];
        let refused = divide(&keys(), WRITE, "it", vec![Op::Put("/t/x".to_owned(), long)]);
        let Err(JournalError::TooLarge { bytes_max, .. }) = refused else {
            panic!("not refused");
        };
        assert_eq!(bytes_max, DIVIDED_BYTES_MAX);
    }

    #[test]
    fn pieces_go_with_their_record_or_when_it_is_written_over() {
        let mut pieces = Pieces::default();
        let record = "/t/entries/1/0".to_owned();
        let long = |write| {
            let all = vec![Op::Put(record.clone(), vec![0; WHOLE_BYTES_MAX + 1])];
            divide(&keys(), write, "it", all).unwrap().last
        };
        assert!(pieces.written(&keys(), &long(WRITE)).is_empty(), "the first ones");
        let later = WriteId { term: 3, write: 9 };
        let stale = pieces.written(&keys(), &long(later));
        let [Op::RemoveRange(from, to)] = stale.as_slice() else {
            panic!("{stale:?}");
        };
        let old = keys().piece(&record, WRITE, 0);
        assert!(*from <= old && old < *to && *to <= keys().piece(&record, later, 0));
        let all = [Op::RemoveBelow("/t/entries/1/".to_owned())];
        let with = pieces.removed_with(&keys(), &all);
        assert!(matches!(with.as_slice(), [Op::RemoveBelow(below)] if below == "/t/pieces/entries/1/"));
        pieces.written(&keys(), &all);
        assert!(pieces.removed_with(&keys(), &all).is_empty(), "they are gone");
        // Of a write that never came to its end.
        pieces.insert(record.clone());
        let short = [Op::Put(record, vec![1])];
        let stale = pieces.written(&keys(), &short);
        assert!(matches!(stale.as_slice(), [Op::RemoveBelow(_)]), "{stale:?}");
        assert!(pieces.written(&keys(), &short).is_empty());
    }
}
