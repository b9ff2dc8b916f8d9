//! Which way the next of QEMU's bytes take.
//!
//! ```text
//! Coded -> Plain(FastLink)        the link was faster than any codec for a while of the stream
//! Plain(FastLink) -> Coded        the link is clearly slower than the codecs
//! any -> Plain(NotUnderstood)     for good
//! ```

use crate::chooser::Chooser;
use crate::class::{PlainReason, Way};

/// The way of one stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ways {
    way: Way,
    plain_after_bytes: u64,
    /// Bytes of the stream when the plain way began to look better.
    since_bytes: Option<u64>,
}

impl Ways {
    /// Coded at first.
    pub fn new(plain_after_bytes: u64) -> Self {
        Ways {
            way: Way::Coded,
            plain_after_bytes,
            since_bytes: None,
        }
    }

    pub fn way(&self) -> Way {
        self.way
    }

    /// Decides anew, after so many bytes of the stream. True when the way has changed.
    pub fn decide(&mut self, stream_bytes: u64, chooser: &Chooser, understood: bool) -> bool {
        let before = self.way;
        self.way = match self.way {
            _ if !understood => Way::Plain(PlainReason::NotUnderstood),
            Way::Coded if !chooser.raw_always_pays() => {
                self.since_bytes = None;
                Way::Coded
            }
            Way::Coded => {
                let since = *self.since_bytes.get_or_insert(stream_bytes);
                match stream_bytes - since >= self.plain_after_bytes {
                    true => Way::Plain(PlainReason::FastLink),
                    false => Way::Coded,
                }
            }
            Way::Plain(_) if chooser.codecs_pay() => {
                self.since_bytes = None;
                Way::Coded
            }
            plain => plain,
        };
        self.way != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::Classes;

    const AFTER: u64 = 1 << 20;

    #[test]
    fn a_fast_link_is_waited_for_and_a_slow_one_is_not() {
        let mut chooser = Chooser::new(Classes::default());
        let mut ways = Ways::new(AFTER);
        for (at, link, way) in [
            (0, Some(4_000_000_000), Way::Coded),
            (AFTER - 1, Some(4_000_000_000), Way::Coded),
            (AFTER - 1, Some(125_000_000), Way::Coded),
            (AFTER, None, Way::Coded),
            (2 * AFTER, None, Way::Plain(PlainReason::FastLink)),
            // Slower than the codecs, but not clearly.
            (2 * AFTER, Some(1_000_000_000), Way::Plain(PlainReason::FastLink)),
            (2 * AFTER, Some(500_000_000), Way::Coded),
            (2 * AFTER, None, Way::Coded),
        ] {
            chooser.link_rate(link);
            ways.decide(at, &chooser, true);
            assert_eq!(ways.way(), way, "after {at} bytes at {link:?}");
        }
        assert!(ways.decide(2 * AFTER, &chooser, false));
        chooser.link_rate(Some(1));
        assert!(!ways.decide(9 * AFTER, &chooser, false));
        assert_eq!(ways.way(), Way::Plain(PlainReason::NotUnderstood));
    }
}
