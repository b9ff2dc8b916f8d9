//! How the source closes the old path (design §3, step 7).
//!
//! ```text
//!  Forwarding ──finish──▶ AwaitMarker ──seen, or not in time──▶ Settling ──▶ FIN ──▶
//!  AwaitFlooding ──▶ Late (until silent) ──▶ CLOSE ──▶ AwaitDelivery ──▶ Over
//! ```
//!
//! The marker is the announcement that the target has signed, come back by the fabric: the target
//! has sent it, and what the fabric sent towards the source before it learned so lies in the tap in
//! front of it. Nobody else's frame is one, whatever its address.
//!
//! An agent that comes after a kill finds FIN and CLOSE in the spool and goes on behind them.

use std::time::Instant;

use crate::account::OldPath;
use crate::capture::Worker;
use crate::limits::{
    DELIVERY_WAIT, FLOODING_WAIT, LATE_QUIET, LATE_WAIT, LINGER, MARKER_SETTLE, MARKER_WAIT,
};
use crate::spool::{Kind, Note, Spool};

/// Where the closing of the old path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
    Forwarding,
    AwaitMarker { until: Instant },
    Settling { until: Instant, how: OldPath },
    AwaitFlooding { until: Instant },
    Late { quiet_at: Instant, until: Instant },
    AwaitDelivery { until: Instant },
    Over,
}

impl Closing {
    /// Where a spool says that an agent has got.
    pub(crate) fn resumed(spool: &Spool, now: Instant) -> Self {
        let counts = spool.counts(u64::MAX);
        match (counts.fin, counts.close) {
            (_, true) => Closing::AwaitDelivery {
                until: now + DELIVERY_WAIT,
            },
            (true, false) => Closing::AwaitFlooding {
                until: now + FLOODING_WAIT,
            },
            (false, false) => Closing::Forwarding,
        }
    }

    /// When it goes on if nothing comes before.
    pub(crate) fn until(self) -> Option<Instant> {
        match self {
            Closing::AwaitMarker { until }
            | Closing::Settling { until, .. }
            | Closing::AwaitFlooding { until }
            | Closing::Late { quiet_at: until, .. }
            | Closing::AwaitDelivery { until } => Some(until),
            Closing::Forwarding | Closing::Over => None,
        }
    }
}

impl Worker {
    /// Nothing to do where it has begun.
    pub(super) fn begin_closing(&mut self, now: Instant) {
        if self.closing == Closing::Forwarding {
            self.closing = Closing::AwaitMarker {
                until: now + MARKER_WAIT,
            };
        }
    }

    pub(super) fn advance(&mut self, now: Instant) {
        match self.closing {
            Closing::AwaitMarker { .. } if self.marker_seen => {
                self.closing = Closing::Settling {
                    until: now + MARKER_SETTLE,
                    how: OldPath::Marker,
                };
            }
            Closing::AwaitMarker { until } if now >= until => {
                self.closing = Closing::Settling {
                    until: now + LINGER,
                    how: OldPath::Lingered,
                };
            }
            Closing::Settling { until, how } if now >= until => self.send_fin(now, how),
            Closing::AwaitFlooding { .. } if self.flooding_on => {
                self.frame_at = now;
                self.closing = Closing::Late {
                    quiet_at: now + LATE_QUIET,
                    until: now + LATE_WAIT,
                };
            }
            Closing::AwaitFlooding { until } if now >= until => {
                self.broken("the target did not answer FIN in time".to_owned());
                self.closing = Closing::AwaitFlooding {
                    until: now + FLOODING_WAIT,
                };
            }
            Closing::Late { quiet_at, until }
                if now >= quiet_at && now < until && self.frame_at + LATE_QUIET > now =>
            {
                self.closing = Closing::Late {
                    quiet_at: (self.frame_at + LATE_QUIET).min(until),
                    until,
                };
            }
            Closing::Late { quiet_at, .. } if now >= quiet_at => self.send_close(now),
            Closing::AwaitDelivery { .. } if self.spool.note(Note::Delivered) >= self.spool.last() => {
                self.count_missed();
                self.closing = Closing::Over;
            }
            Closing::AwaitDelivery { until } if now >= until => {
                self.broken("the target did not answer CLOSE in time".to_owned());
                self.closing = Closing::AwaitDelivery {
                    until: now + DELIVERY_WAIT,
                };
            }
            Closing::Forwarding
            | Closing::Over
            | Closing::AwaitMarker { .. }
            | Closing::Settling { .. }
            | Closing::AwaitFlooding { .. }
            | Closing::Late { .. }
            | Closing::AwaitDelivery { .. } => {}
        }
    }

    fn send_fin(&mut self, now: Instant, how: OldPath) {
        // A marker that came while it was lingered for is one.
        let how = if self.marker_seen { OldPath::Marker } else { how };
        tracing::debug!(vm = %self.identity.vm, ?how, "the old path is empty");
        let released = self.tap.release_mac(&self.own);
        self.report(released);
        self.drain_all();
        let word = match how {
            OldPath::Marker => 1,
            OldPath::Lingered => 2,
        };
        self.spool.set_note(Note::OldPath, word);
        self.spool.publish(Kind::Fin, 0);
        self.serve_tunnel();
        self.closing = Closing::AwaitFlooding {
            until: now + FLOODING_WAIT,
        };
    }

    fn send_close(&mut self, now: Instant) {
        let undiverted = self.tap.undivert(&self.own);
        self.report(undiverted);
        self.drain_all();
        self.spool.publish(Kind::Close, 0);
        self.serve_tunnel();
        self.closing = Closing::AwaitDelivery {
            until: now + DELIVERY_WAIT,
        };
    }
}
