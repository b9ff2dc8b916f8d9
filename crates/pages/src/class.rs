//! The page classes of figure 2, which of them are switched on, and the account of what each
//! carried.

/// How a page travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PageClass {
    /// QEMU's own zero record.
    Zero,
    /// One repeated byte, which QEMU sent as a page.
    Fill,
    /// The target holds this content.
    Known,
    /// Against the version sent before.
    Delta,
    /// WKdm.
    Wkdm,
    /// LZ4, in place of the paper's LZO.
    Lz4,
    /// zstd with the other such pages of its group.
    Zstd,
    /// As it is.
    Raw,
    /// LZO1X-1, as the paper names it; off unless asked for.
    Lzo,
}

impl PageClass {
    /// All classes, in the order of their codes.
    pub const ALL: [PageClass; 9] = [
        PageClass::Zero,
        PageClass::Fill,
        PageClass::Known,
        PageClass::Delta,
        PageClass::Wkdm,
        PageClass::Lz4,
        PageClass::Zstd,
        PageClass::Raw,
        PageClass::Lzo,
    ];

    /// The class's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            PageClass::Zero => "zero",
            PageClass::Fill => "fill",
            PageClass::Known => "known",
            PageClass::Delta => "delta",
            PageClass::Wkdm => "wkdm",
            PageClass::Lz4 => "lz4",
            PageClass::Zstd => "zstd",
            PageClass::Raw => "raw",
            PageClass::Lzo => "lzo",
        }
    }

    /// The byte on the wire; 0 is a literal.
    pub(crate) fn code(self) -> u8 {
        self as u8 + 1
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }
}

/// The classes that configuration allows. Zero and raw always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes(u16);

impl Default for Classes {
    /// All but LZO.
    fn default() -> Self {
        Classes(u16::MAX).without(PageClass::Lzo)
    }
}

impl Classes {
    /// Only zero and raw.
    pub fn none() -> Self {
        Classes(0)
    }

    /// With this class on.
    #[must_use]
    pub fn with(self, class: PageClass) -> Self {
        Classes(self.0 | 1 << class as u8)
    }

    /// With this class off.
    #[must_use]
    pub fn without(self, class: PageClass) -> Self {
        Classes(self.0 & !(1 << class as u8))
    }

    /// Whether the class may be chosen.
    pub fn allow(self, class: PageClass) -> bool {
        matches!(class, PageClass::Zero | PageClass::Raw) || self.0 & 1 << class as u8 != 0
    }
}

/// What one class carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassCount {
    /// Pages.
    pub pages: u64,
    /// Bytes of their bodies on the wire.
    pub wire_bytes: u64,
}

/// Why QEMU's bytes go unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainReason {
    /// The link carries a page in less time than the codecs need for it.
    FastLink,
    /// The stream is not understood (`PassThrough`).
    NotUnderstood,
}

/// How QEMU's bytes travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// As records of pages, each by its class.
    #[default]
    Coded,
    /// Unchanged.
    Plain(PlainReason),
}

/// Pages and bytes of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    classes: [ClassCount; PageClass::ALL.len()],
    /// Bytes that QEMU wrote.
    pub stream_bytes: u64,
    /// Of these, unchanged because the link is fast.
    pub plain_fast_link_bytes: u64,
    /// Of these, unchanged because they were not understood.
    pub plain_not_understood_bytes: u64,
    /// How often the way has changed.
    pub way_changes: u32,
    /// Bytes that went onto the wire, frames and all.
    pub wire_bytes: u64,
    /// Pages that had to be supplied after a reference failed.
    pub supplied_pages: u64,
}

impl Account {
    /// What one class carried.
    pub fn class(&self, class: PageClass) -> ClassCount {
        self.classes[class as usize]
    }

    /// Bytes of QEMU's that went unchanged.
    pub fn plain_bytes(&self) -> u64 {
        self.plain_fast_link_bytes + self.plain_not_understood_bytes
    }

    pub(crate) fn add_plain(&mut self, reason: PlainReason, bytes: u64) {
        *match reason {
            PlainReason::FastLink => &mut self.plain_fast_link_bytes,
            PlainReason::NotUnderstood => &mut self.plain_not_understood_bytes,
        } += bytes;
    }

    pub(crate) fn add(&mut self, class: PageClass, pages: u64, wire_bytes: u64) {
        let count = &mut self.classes[class as usize];
        count.pages += pages;
        count.wire_bytes += wire_bytes;
    }
}
