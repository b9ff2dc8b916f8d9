//! Choices read off the fuzzer's bytes.

/// Numbers read off the front of the fuzzer's bytes; zeros when they run out.
pub struct Choices<'a>(pub &'a [u8]);

impl<'a> Choices<'a> {
    /// Nothing is left.
    pub fn done(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        first
    }

    /// The next two bytes.
    pub fn word(&mut self) -> usize {
        usize::from(self.byte()) | usize::from(self.byte()) << 8
    }

    /// A number below `end`, 0 when there is none.
    pub fn below(&mut self, end: usize) -> usize {
        let number = if end > 256 {
            self.word()
        } else {
            usize::from(self.byte())
        };
        number.checked_rem(end).unwrap_or(0)
    }

    /// The next so many bytes, or those that are left.
    pub fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
