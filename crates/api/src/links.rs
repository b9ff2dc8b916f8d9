//! What a link and the agents at both ends of it can do.

use serde::{Deserialize, Serialize};
use transhume_model::{BitRate, HostName};
use transhume_protocol::message::LinkFigures;
use utoipa::ToSchema;

/// Of the band's rate: more does not go through it beside what frames and acknowledgements take.
const BAND_SHARE_MIN: f64 = 0.9;
/// Of the time: TCP waited for the target's agent to read.
const UNREAD_SHARE_MIN: f64 = 0.25;
/// Of a processor: a thread that has more to do does not get further.
const BUSY_SHARE_MIN: f64 = 0.85;

/// `POST /v1/hosts/{name}/links/{target}/check`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LinkView {
    /// Whose agent sent.
    pub from: HostName,
    /// Whose agent received.
    pub to: HostName,
    /// What was measured.
    pub figures: LinkFigures,
    /// The most that VMCT may have on both hosts; `None` where nothing limits it.
    #[serde(default)]
    pub band: Option<BitRate>,
    /// What it was limited by.
    pub limit: LinkLimit,
}

/// What a link check was limited by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LinkLimit {
    /// VMCT's share of the hosts' links.
    Band,
    /// The target's agent took what came no faster.
    TargetAgent,
    /// The source's agent did not send faster.
    SourceAgent,
    /// None of these: the network between, or processors that others use.
    Link,
}

impl LinkLimit {
    /// Judges figures (`docs/design/link-check.md`).
    pub fn of(figures: &LinkFigures, band: Option<BitRate>) -> Self {
        let share = |part_us: u64| part_us as f64 / figures.sent_us.max(1) as f64;
        let full = |band: BitRate| figures.bits_per_s() >= BAND_SHARE_MIN * band.bits_per_s() as f64;
        if band.is_some_and(full) {
            return LinkLimit::Band;
        }
        if share(figures.target_limited_us) >= UNREAD_SHARE_MIN
            || share(figures.target_cpu_us) >= BUSY_SHARE_MIN
        {
            return LinkLimit::TargetAgent;
        }
        match share(figures.source_cpu_us) >= BUSY_SHARE_MIN {
            true => LinkLimit::SourceAgent,
            false => LinkLimit::Link,
        }
    }
}

#[cfg(test)]
mod tests {
    use transhume_model::Bytes;

    use super::*;

    #[test]
    fn the_limit_is_told_by_what_was_full() {
        let idle = LinkFigures {
            bytes: Bytes(250_000_000),
            sent_us: 2_000_000,
            round_trip_us: 100,
            round_trip_us_max: 900,
            source_cpu_us: 400_000,
            target_cpu_us: 300_000,
            target_limited_us: 100_000,
            encrypted: true,
        };
        let gbit = BitRate::from_bits_per_s(1_000_000_000);
        let wider = BitRate::from_bits_per_s(1_200_000_000);
        assert_eq!(LinkLimit::of(&idle, gbit), LinkLimit::Band);
        assert_eq!(LinkLimit::of(&idle, wider), LinkLimit::Link);
        assert_eq!(LinkLimit::of(&idle, None), LinkLimit::Link);
        let source = LinkFigures {
            source_cpu_us: 1_800_000,
            ..idle
        };
        assert_eq!(LinkLimit::of(&source, None), LinkLimit::SourceAgent);
        let unread = LinkFigures {
            target_limited_us: 600_000,
            ..source
        };
        assert_eq!(LinkLimit::of(&unread, None), LinkLimit::TargetAgent);
        let busy = LinkFigures {
            target_cpu_us: 1_900_000,
            ..idle
        };
        assert_eq!(LinkLimit::of(&busy, None), LinkLimit::TargetAgent);
    }
}
