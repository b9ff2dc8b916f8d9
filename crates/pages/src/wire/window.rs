//! What is on its way to the target: frames not acknowledged, and the pages that their references
//! may still need.

use std::collections::{HashMap, VecDeque};

use super::error::EncodeError;
use crate::content::{ContentId, Standing};
use crate::limits::PAGE_BYTES;
use crate::stream::Page;

/// A group on its way.
struct Flight {
    number: u32,
    frame_bytes: u64,
    referred: Vec<ContentId>,
}

/// A page kept in case its reference fails.
struct Retained {
    page: Box<Page>,
    groups: u32,
    /// One for each reference: an honest target asks no more often.
    supplies_left: u32,
    /// Some reference counted on another stream.
    promised: bool,
}

/// Bounded by the encoder's window: past it no more of QEMU's bytes are taken.
pub(super) struct Window {
    flights: VecDeque<Flight>,
    retained: HashMap<ContentId, Retained>,
    used_bytes: u64,
    bytes_max: u64,
}

impl Window {
    pub fn new(bytes_max: u64) -> Self {
        Window {
            flights: VecDeque::new(),
            retained: HashMap::new(),
            used_bytes: 0,
            bytes_max,
        }
    }

    /// Whether more may be sent.
    pub fn is_open(&self) -> bool {
        self.used_bytes < self.bytes_max
    }

    /// Bytes sent or retained, not acknowledged.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Whether nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// A group leaves; the pages it refers to are retained already.
    pub fn sent(&mut self, number: u32, frame_bytes: u64, referred: Vec<ContentId>) {
        self.used_bytes += frame_bytes;
        self.flights.push_back(Flight {
            number,
            frame_bytes,
            referred,
        });
    }

    /// Keeps a page that the next group refers to.
    pub fn retain(&mut self, id: ContentId, page: &Page, standing: Standing) {
        let retained = self.retained.entry(id).or_insert_with(|| {
            self.used_bytes += PAGE_BYTES as u64;
            Retained {
                page: Box::new(*page),
                groups: 0,
                supplies_left: 0,
                promised: false,
            }
        });
        retained.promised |= standing == Standing::Promised;
        retained.groups += 1;
        retained.supplies_left += 1;
    }

    /// The page of a reference on its way, once for each; and what the reference counted on.
    pub fn supply(&mut self, id: ContentId) -> Option<(&Page, Standing)> {
        let retained = self.retained.get_mut(&id)?;
        retained.supplies_left = retained.supplies_left.checked_sub(1)?;
        let standing = match retained.promised {
            true => Standing::Promised,
            false => Standing::Held,
        };
        Some((&retained.page, standing))
    }

    /// Everything up to this group has been rebuilt: its retained pages and its room are free.
    pub fn acknowledged(&mut self, number: u32) -> Result<(), EncodeError> {
        if !self.flights.iter().any(|flight| flight.number == number) {
            return Err(EncodeError::Ack(number));
        }
        while let Some(flight) = self.flights.pop_front() {
            self.used_bytes -= flight.frame_bytes;
            for id in flight.referred {
                self.release(id);
            }
            if flight.number == number {
                break;
            }
        }
        Ok(())
    }

    fn release(&mut self, id: ContentId) {
        if let Some(retained) = self.retained.get_mut(&id) {
            retained.groups -= 1;
            if retained.groups == 0 {
                self.retained.remove(&id);
                self.used_bytes -= PAGE_BYTES as u64;
            }
        }
    }
}
