//! The page versions sent before, for delta: a direct-mapped cache that both sides keep alike
//! without a word.
//!
//! Both sides offer it the same pages in the same order. A slot keeps its page until that page
//! comes again, or until it has been passed over `PATIENCE` times: a scan of all memory does not
//! wash out the pages that are rewritten.

use crate::codec::ZERO_PAGE;
use crate::stream::{BlockIndex, Page};

const PATIENCE: u8 = 2;

#[derive(Clone)]
struct Slot {
    block: BlockIndex,
    offset: u64,
    passed_over: u8,
}

/// The kept versions of one stream.
pub struct Versions {
    slots: Vec<Option<Slot>>,
    /// By slot, in one piece: memory that nobody has touched is none, and all of it goes at once
    /// when a stream ends, which is when others' guests stand still.
    pages: Vec<Page>,
}

impl Versions {
    /// A cache of so many pages; none switches delta off.
    pub fn new(slots: u32) -> Self {
        Versions {
            slots: vec![None; slots as usize],
            pages: vec![ZERO_PAGE; slots as usize],
        }
    }

    fn slot_of(&self, block: BlockIndex, offset: u64) -> Option<usize> {
        let number = (offset >> 12).wrapping_add(u64::from(block.0) << 40);
        let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        mixed
            .checked_rem(self.slots.len() as u64)
            .map(|slot| slot as usize)
    }

    /// The version of this page that both sides have.
    pub fn get(&self, block: BlockIndex, offset: u64) -> Option<&Page> {
        let at = self.slot_of(block, offset)?;
        let slot = self.slots[at].as_ref()?;
        (slot.block == block && slot.offset == offset).then_some(&self.pages[at])
    }

    /// This page was sent (or received) in this version.
    pub fn put(&mut self, block: BlockIndex, offset: u64, page: &Page) {
        let Some(at) = self.slot_of(block, offset) else {
            return;
        };
        if let Some(slot) = &mut self.slots[at] {
            let is_another = slot.block != block || slot.offset != offset;
            if is_another && slot.passed_over < PATIENCE {
                slot.passed_over += 1;
                return;
            }
        }
        self.slots[at] = Some(Slot {
            block,
            offset,
            passed_over: 0,
        });
        self.pages[at] = *page;
    }
}
