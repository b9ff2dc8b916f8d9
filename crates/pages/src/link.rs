//! What the link carries, as the kernel times it; the chooser weighs codecs against it.
//!
//! The kernel times each flight of a TCP connection from its departure to its acknowledgement (its
//! delivery rate), and says whether the sender had more to send, and whether the receiver had no
//! room. Pauses of either agent are in no flight that counts, so a slow codec or a slow target is
//! not taken for a slow link.
//!
//! ```text
//!  the sender had         the flight was   then
//!  more; the target room  slower           the link is full: the fastest of some such flights is its rate, at once
//!  any                    faster           the slowest flight of a span is a rate that the link carries: grow
//!  less, all the span     slower           on a long way a flight of little is slow by itself: grow
//! ```
//!
//! Pure: flights are fed in. A rate past [`LINK_RATE_MAX`] counts as unlimited.

/// Above this no codec can help: 4 GB/s.
pub const LINK_RATE_MAX: u64 = 4_000_000_000;
/// What a link is taken for before anything is known: 1 Gbit/s.
pub const LINK_RATE_ASSUMED: u64 = 125_000_000;
/// A span: about what a link's burst may hold.
const SPAN_BYTES: u64 = 1 << 20;
/// Flights of a full link, slower than the estimate one after the other, of which the fastest is
/// believed.
const SLOWER_BELIEVED: usize = 5;
/// By so much the estimate grows at a time: a burst is not the link, and a codec too heavy is soon
/// put right.
const GROWTH: u64 = 2;

/// What the kernel says of a connection after a push of the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    /// Bytes acknowledged since the connection began.
    pub delivered_bytes: u64,
    /// Rate of the latest flight.
    pub bytes_per_second: u64,
    /// Microseconds in which the target did not read, since the connection began.
    pub receiver_limited_us: u64,
    /// The sender had nothing more to send while it was under way.
    pub sender_limited: bool,
    /// The encoder had waited for QEMU: more would have been sent, had there been more.
    pub qemu_limited: bool,
}

/// Estimates one link's rate.
#[derive(Clone, Debug)]
pub struct LinkMeter {
    bytes_per_second: u64,
    delivered_bytes: u64,
    receiver_limited_us: u64,
    /// Rate of the flight seen last.
    latest: u64,
    span: Span,
    /// Flights of a full link that were slower than the estimate, one after the other: how many,
    /// and the fastest.
    slower_seen: usize,
    slower_fastest: u64,
}

/// What happened since the estimate last had a chance to grow.
#[derive(Clone, Copy, Debug)]
struct Span {
    from_bytes: u64,
    slowest: u64,
    sender_limited: bool,
}

impl Span {
    fn from(bytes: u64) -> Self {
        Span {
            from_bytes: bytes,
            slowest: u64::MAX,
            sender_limited: true,
        }
    }
}

impl Default for LinkMeter {
    fn default() -> Self {
        LinkMeter {
            bytes_per_second: LINK_RATE_ASSUMED,
            delivered_bytes: 0,
            receiver_limited_us: 0,
            latest: 0,
            span: Span::from(0),
            slower_seen: 0,
            slower_fastest: 0,
        }
    }
}

impl From<u64> for LinkMeter {
    /// Begins with a rate that is remembered, bytes per second.
    fn from(bytes_per_second: u64) -> Self {
        LinkMeter {
            bytes_per_second: bytes_per_second.min(LINK_RATE_MAX),
            ..LinkMeter::default()
        }
    }
}

impl LinkMeter {
    /// Takes a flight; one that was seen before says nothing more. True when the estimate is new.
    pub fn saw(&mut self, flight: Flight) -> bool {
        if flight.delivered_bytes <= self.delivered_bytes {
            return false;
        }
        self.delivered_bytes = flight.delivered_bytes;
        let before = self.bytes_per_second;
        self.span.slowest = self.span.slowest.min(flight.bytes_per_second);
        self.span.sender_limited &= flight.sender_limited && !flight.qemu_limited;
        // The kernel keeps the rate of one flight while it cannot time others: more bytes, but no
        // other flight.
        let other = std::mem::replace(&mut self.latest, flight.bytes_per_second) != flight.bytes_per_second;
        let target_limited = flight.receiver_limited_us > self.receiver_limited_us;
        self.receiver_limited_us = flight.receiver_limited_us;
        if other && !flight.sender_limited && !target_limited {
            self.fall(flight.bytes_per_second);
        }
        if self.delivered_bytes - self.span.from_bytes >= SPAN_BYTES {
            self.rise();
        }
        self.bytes_per_second != before
    }

    /// Slow flights in between are the machine's doing, so the fastest of some is taken.
    fn fall(&mut self, bytes_per_second: u64) {
        self.slower_seen += 1;
        self.slower_fastest = self.slower_fastest.max(bytes_per_second);
        if self.slower_fastest >= self.bytes_per_second {
            (self.slower_seen, self.slower_fastest) = (0, 0);
        } else if self.slower_seen == SLOWER_BELIEVED {
            self.bytes_per_second = self.slower_fastest;
            (self.slower_seen, self.slower_fastest) = (0, 0);
        }
    }

    fn rise(&mut self) {
        let span = std::mem::replace(&mut self.span, Span::from(self.delivered_bytes));
        let most = self.bytes_per_second.saturating_mul(GROWTH).min(LINK_RATE_MAX);
        let carried = if span.sender_limited { most } else { span.slowest };
        self.bytes_per_second = carried.clamp(self.bytes_per_second, most);
    }

    /// To be remembered: bytes per second, [`LINK_RATE_MAX`] where nothing limits.
    pub fn estimate(&self) -> u64 {
        self.bytes_per_second
    }

    /// Bytes per second; None: not limited.
    pub fn rate(&self) -> Option<u64> {
        (self.bytes_per_second < LINK_RATE_MAX).then_some(self.bytes_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Delivered so far, and the rate of each flight in MB/s, about; the sender always had more.
    fn full(meter: &mut LinkMeter, flights: &[(u64, u64)]) {
        for (at, &(delivered_bytes, rate)) in (0..).zip(flights) {
            meter.saw(Flight {
                delivered_bytes,
                bytes_per_second: rate * 1_000_000 + at,
                receiver_limited_us: 0,
                sender_limited: false,
                qemu_limited: false,
            });
        }
    }

    /// Flights of a quarter of a mebibyte, about equally fast.
    fn flights(meter: &mut LinkMeter, count: u64, rate: u64, sender_limited: bool, qemu_limited: bool) {
        for at in 0..count {
            meter.saw(Flight {
                delivered_bytes: meter.delivered_bytes + (256 << 10),
                bytes_per_second: rate * 1_000_000 + at,
                receiver_limited_us: 0,
                sender_limited,
                qemu_limited,
            });
        }
    }

    fn megabytes(meter: &LinkMeter) -> u64 {
        meter.bytes_per_second / 1_000_000
    }

    #[test]
    fn a_slow_link_is_known_after_some_flights() {
        let mut meter = LinkMeter::default();
        // Seen in the lab at 200 Mbit/s: a burst passes at once.
        let seen = [
            (66_492, 790),
            (271_058, 225),
            (324_817, 37),
            (389_977, 24),
            (835_074, 24),
            (1_236_170, 24),
            (1_692_290, 23),
            (2_135_378, 23),
        ];
        full(&mut meter, &seen);
        assert_eq!(megabytes(&meter), 37);
        let more = [(2_523_442, 22), (2_940_466, 24), (3_767_274, 24), (4_186_034, 23)];
        full(&mut meter, &more);
        assert!((23..=24).contains(&megabytes(&meter)));
    }

    #[test]
    fn a_burst_is_not_taken_for_the_link() {
        let mut meter = LinkMeter::default();
        // Seen in the lab at 1 Gbit/s, whose bucket holds 1.25 MB.
        let seen = [
            (21_141, 181),
            (328_900, 429),
            (822_156, 355),
            (1_055_227, 1207),
            (2_003_088, 120),
            (2_126_958, 118),
            (4_133_087, 101),
            (4_494_577, 129),
            (5_072_822, 119),
        ];
        full(&mut meter, &seen);
        assert!((118..=130).contains(&megabytes(&meter)), "{}", megabytes(&meter));
    }

    #[test]
    fn a_fast_link_is_known_after_some_spans_and_one_slow_flight_changes_nothing() {
        let mut meter = LinkMeter::default();
        flights(&mut meter, 3, 1500, false, false);
        assert_eq!(megabytes(&meter), 125);
        flights(&mut meter, 1, 1500, false, false);
        assert_eq!(megabytes(&meter), 250);
        flights(&mut meter, 12, 1500, false, false);
        assert_eq!(megabytes(&meter), 1500);
        flights(&mut meter, 1, 172, false, false);
        flights(&mut meter, 20, 1500, false, false);
        assert_eq!(megabytes(&meter), 1500);
    }

    #[test]
    fn a_long_way_is_not_taken_for_a_narrow_one() {
        let mut meter = LinkMeter::default();
        flights(&mut meter, 8, 40, true, false);
        assert_eq!(megabytes(&meter), 500);
        flights(&mut meter, 16, 40, true, false);
        assert_eq!(meter.rate(), None);
        flights(&mut meter, 5, 40, false, false);
        assert_eq!(megabytes(&meter), 40, "now it was full");
    }

    #[test]
    fn a_slow_qemu_says_nothing_of_the_link() {
        let mut meter = LinkMeter::default();
        flights(&mut meter, 40, 40, true, true);
        assert_eq!(megabytes(&meter), 125);
    }

    /// Seen in the lab without a limit, eight streams on two processors: flights that waited for
    /// one between fast ones.
    #[test]
    fn a_machine_that_is_full_is_not_taken_for_a_link() {
        let mut meter = LinkMeter::default();
        flights(&mut meter, 16, 1900, false, false);
        let from = meter.delivered_bytes;
        let seen = [46, 5, 912, 14, 454, 175, 1679, 6];
        let seen: Vec<_> = (1..).map(|at| from + at * 300_000).zip(seen).collect();
        full(&mut meter, &seen);
        assert!(megabytes(&meter) >= 900, "{}", megabytes(&meter));
    }

    #[test]
    fn a_target_that_does_not_read_says_nothing_of_the_link() {
        let mut meter = LinkMeter::default();
        for at in 1..=40 {
            meter.saw(Flight {
                delivered_bytes: at * (20 << 10),
                bytes_per_second: 10_000_000 + at,
                receiver_limited_us: at * 4000,
                sender_limited: false,
                qemu_limited: false,
            });
        }
        assert_eq!(megabytes(&meter), 125);
    }

    #[test]
    fn a_flight_that_was_seen_counts_once() {
        let mut meter = LinkMeter::default();
        let flight = |delivered_bytes| Flight {
            delivered_bytes,
            bytes_per_second: 10_000_000,
            receiver_limited_us: 0,
            sender_limited: false,
            qemu_limited: false,
        };
        // Seen in the lab on an unlimited link: one flight that the machine held up, then others
        // too short to be timed.
        for at in 0..20 {
            assert!(!meter.saw(flight(300_000)));
            assert!(!meter.saw(flight(300_000 + at)));
        }
        assert_eq!(megabytes(&meter), 125);
    }
}
