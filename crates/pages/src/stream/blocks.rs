//! The RAM blocks of one VM, in the order in which the stream names them.

use std::collections::HashMap;

use crate::limits::BLOCKS_MAX;

/// A RAM block's place in the block list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockIndex(pub u16);

/// Why a block was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// More blocks than a VM may have.
    #[error("more than {BLOCKS_MAX} RAM blocks")]
    TooMany,
    /// The same name twice.
    #[error("a RAM block is named twice")]
    Twice,
    /// A name that does not fit its length byte.
    #[error("a RAM block's name is longer than 255 bytes")]
    LongName,
}

/// Names and lengths of RAM blocks.
#[derive(Clone, Debug, Default)]
pub struct BlockTable {
    blocks: Vec<(Box<[u8]>, u64)>,
    by_name: HashMap<Box<[u8]>, BlockIndex>,
}

impl BlockTable {
    /// Adds a block of `len` bytes.
    pub fn add(&mut self, name: &[u8], len: u64) -> Result<BlockIndex, BlockError> {
        if name.len() > 255 {
            return Err(BlockError::LongName);
        }
        if self.blocks.len() >= BLOCKS_MAX {
            return Err(BlockError::TooMany);
        }
        let index = BlockIndex(self.blocks.len() as u16);
        if self.by_name.contains_key(name) {
            return Err(BlockError::Twice);
        }
        self.by_name.insert(name.into(), index);
        self.blocks.push((name.into(), len));
        Ok(index)
    }

    /// The block of this name.
    pub fn find(&self, name: &[u8]) -> Option<BlockIndex> {
        self.by_name.get(name).copied()
    }

    /// The name of a block.
    pub fn name(&self, index: BlockIndex) -> Option<&[u8]> {
        self.blocks.get(usize::from(index.0)).map(|(name, _)| &name[..])
    }

    /// The length of a block, in bytes.
    pub fn len_bytes(&self, index: BlockIndex) -> Option<u64> {
        self.blocks.get(usize::from(index.0)).map(|(_, len)| *len)
    }

    /// Number of blocks.
    pub fn count(&self) -> usize {
        self.blocks.len()
    }
}
