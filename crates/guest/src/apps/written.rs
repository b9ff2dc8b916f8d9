//! What a key may hold: the last number written, or one whose writing nobody knows the end of.
//! Pure.

use super::Trouble;

/// Older ones are taken for lost.
const IN_DOUBT_MAX: usize = 64;

/// The numbers that one writer wrote into one key.
#[derive(Default)]
pub struct Written {
    next: u64,
    last: u64,
    in_doubt: Vec<u64>,
}

impl Written {
    /// Writes the next number; what comes of it is remembered.
    pub fn write(&mut self, write: impl FnOnce(u64) -> Result<(), Trouble>) -> Result<(), Trouble> {
        self.next += 1;
        let number = self.next;
        let written = write(number);
        match written {
            Ok(()) => self.last = number,
            // It may have been carried out, or be carried out later.
            Err(_) => {
                if self.in_doubt.len() == IN_DOUBT_MAX {
                    self.in_doubt.remove(0);
                }
                self.in_doubt.push(number);
            }
        }
        written
    }

    /// Whether a number that was read can be. From then on it is the last one written.
    pub fn read(&mut self, number: Option<u64>) -> Result<(), Trouble> {
        let read = number.unwrap_or(0);
        if read == self.last {
            return Ok(());
        }
        match self.in_doubt.iter().position(|&doubtful| doubtful == read) {
            Some(place) => {
                self.in_doubt.remove(place);
                self.last = read;
                Ok(())
            }
            None => Err(Trouble::Wrong(format!(
                "read {read} after {} was written",
                self.last
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(_: u64) -> Result<(), Trouble> {
        Err(Trouble::Failed("no answer".into()))
    }

    #[test]
    fn only_the_last_number_is_right() {
        let mut written = Written::default();
        assert_eq!(written.read(None), Ok(()), "nothing was written");
        for expected in 1..=2 {
            let number = |number| {
                assert_eq!(number, expected);
                Ok(())
            };
            written.write(number).unwrap();
        }
        assert_eq!(written.read(Some(2)), Ok(()));
        for stale in [Some(1), Some(3), None] {
            assert!(matches!(written.read(stale), Err(Trouble::Wrong(_))), "{stale:?}");
        }
    }

    #[test]
    fn a_write_in_doubt_may_count_or_not_but_not_both_ways() {
        let mut written = Written::default();
        written.write(|_| Ok(())).unwrap();
        written.write(fail).unwrap_err();
        assert_eq!(written.read(Some(1)), Ok(()), "not carried out yet");
        assert_eq!(written.read(Some(2)), Ok(()), "carried out");
        assert!(written.read(Some(1)).is_err(), "and not undone");
    }

    #[test]
    fn doubts_are_bounded() {
        let mut written = Written::default();
        for _ in 0..=IN_DOUBT_MAX {
            written.write(fail).unwrap_err();
        }
        assert_eq!(written.in_doubt.len(), IN_DOUBT_MAX);
        assert!(written.read(Some(1)).is_err());
    }
}
