//! What the kernel has on an interface.

use serde::{Deserialize, Serialize};
use transhume_model::BitRate;

use crate::tree::{Class, Filter};

/// Everything that matters of an interface; `None` where there is none of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The link itself.
    pub link: Link,
    /// The queue at its root.
    pub root: Root,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Index of the interface.
    pub index: u32,
    /// What it is to other links.
    pub role: Role,
    /// Its speed, where its driver knows.
    pub speed: Option<BitRate>,
}

/// What a link is to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Frames leave by it.
    Leaf,
    /// A bridge.
    Bridge,
    /// One of the members of a bond or team.
    Member,
}

/// The queue at the root of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// None, or what the kernel makes by itself: its handle is 0.
    ByKernel,
    /// Ours.
    Ours {
        /// In the order of the kernel.
        classes: Vec<Class>,
        /// By preference.
        filters: Vec<Filter>,
        /// Where what no filter takes goes: the minor number of a class.
        default: u16,
    },
    /// Somebody's.
    Others(Previous),
}

/// A queue as it was, to be put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// `fq_codel`, `htb`.
    pub kind: String,
    /// Major number of its handle.
    pub major: u16,
    /// Its options, as the kernel gave them.
    pub options: Vec<u8>,
    /// Queues or classes hang below it.
    pub has_parts: bool,
}

impl Previous {
    /// Kinds that have nothing but options.
    const SIMPLE: [&'static str; 7] = ["pfifo", "bfifo", "pfifo_fast", "tbf", "fq", "fq_codel", "sfq"];

    /// Whether putting it back brings everything back.
    pub fn is_replaceable(&self) -> bool {
        !self.has_parts && Self::SIMPLE.contains(&self.kind.as_str())
    }
}
