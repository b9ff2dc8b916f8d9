//! What plain QEMUs are told before a migration: the ways in which they send memory, the opponents
//! of the page path, and what moves a batch by hand.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Channels of multifd: as many as the build machine has cores.
const MULTIFD_CHANNELS: u8 = 2;

/// Every capability that some way needs: one that a way does not need is switched off, for a target
/// of one move is the source of the next.
const CAPABILITIES: [&str; 7] = [
    "return-path",
    "xbzrle",
    "multifd",
    "events",
    "pause-before-switchover",
    "late-block-activate",
    "switchover-ack",
];

/// What a migration stream goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamWay {
    /// TCP over the hosts' link for migrations.
    Link,
    /// A Unix socket, from QEMU to QEMU.
    Socket,
}

/// What both sides of one migration are told before it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Terms {
    /// For `migrate-set-capabilities` on the source.
    pub source: Value,
    /// The same on the target.
    pub target: Value,
    /// For `migrate-set-parameters` on both.
    pub parameters: Value,
    /// The target stays paused once it is loaded (`-S`).
    pub paused: bool,
    /// What the stream goes through.
    pub way: StreamWay,
}

impl Terms {
    /// A batch by hand. The source waits for a switchover-ack, and a target without the capability
    /// gives none: a copy that has converged is kept so until QMP `stop`, since a guest that stands
    /// still waits for no ack. No downtime limit can do that: QEMU stops a guest whose bitmap is
    /// empty whatever the limit. Events are the target's only, for a source that is kept would send
    /// one for each of thousands of looks a second. No link: what waits in its queue and in TCP's
    /// buffers, megabytes, would come before the device state.
    pub fn by_hand(downtime_ms: u64) -> Self {
        let both = ["return-path", "pause-before-switchover", "late-block-activate"];
        let with = |more| capabilities(&[&both[..], &[more]].concat());
        Terms {
            source: with("switchover-ack"),
            target: with("events"),
            parameters: StockMode::Precopy.parameters(downtime_ms),
            paused: true,
            way: StreamWay::Socket,
        }
    }
}

fn capabilities(on: &[&str]) -> Value {
    let state = |name| json!({"capability": name, "state": on.contains(&name)});
    json!({"capabilities": CAPABILITIES.map(state)})
}

/// How QEMU is told to send memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StockMode {
    /// As it comes.
    Precopy,
    /// With XBZRLE: deltas against a cache of sent pages.
    Xbzrle,
    /// Over two channels.
    Multifd,
    /// The same with zstd.
    MultifdZstd,
}

impl StockMode {
    /// All of them.
    pub const ALL: [StockMode; 4] = [
        StockMode::Precopy,
        StockMode::Xbzrle,
        StockMode::Multifd,
        StockMode::MultifdZstd,
    ];

    /// As it stands in tables.
    pub fn name(self) -> &'static str {
        match self {
            StockMode::Precopy => "stock precopy",
            StockMode::Xbzrle => "stock xbzrle",
            StockMode::Multifd => "stock multifd",
            StockMode::MultifdZstd => "stock multifd+zstd",
        }
    }

    /// What both sides are told. The target's word ends the migration, as careful people have it.
    pub(super) fn terms(self, downtime_ms: u64) -> Terms {
        let mut on = vec!["return-path"];
        match self {
            StockMode::Precopy => {}
            StockMode::Xbzrle => on.push("xbzrle"),
            StockMode::Multifd | StockMode::MultifdZstd => on.push("multifd"),
        }
        Terms {
            source: capabilities(&on),
            target: capabilities(&on),
            parameters: self.parameters(downtime_ms),
            paused: false,
            way: StreamWay::Link,
        }
    }

    /// Parameters for both sides.
    fn parameters(self, downtime_ms: u64) -> Value {
        let compression = match self {
            StockMode::MultifdZstd => "zstd",
            StockMode::Precopy | StockMode::Xbzrle | StockMode::Multifd => "none",
        };
        json!({
            "max-bandwidth": 0,
            "downtime-limit": downtime_ms,
            "multifd-channels": MULTIFD_CHANNELS,
            "multifd-compression": compression,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(capabilities: &Value) -> Vec<&str> {
        let list = capabilities["capabilities"].as_array().unwrap();
        assert_eq!(
            list.len(),
            CAPABILITIES.len(),
            "none is left as the move before had it"
        );
        let on = list.iter().filter(|one| one["state"] == true);
        on.map(|one| one["capability"].as_str().unwrap()).collect()
    }

    #[test]
    fn a_copy_by_hand_is_held_by_an_ack_that_nobody_gives() {
        let terms = Terms::by_hand(20);
        assert!(terms.paused);
        assert!(on(&terms.source).contains(&"switchover-ack"));
        assert!(!on(&terms.target).contains(&"switchover-ack"));
        for side in [&terms.source, &terms.target] {
            for needed in ["return-path", "pause-before-switchover", "late-block-activate"] {
                assert!(on(side).contains(&needed), "{needed}");
            }
        }
        assert_eq!(terms.parameters["downtime-limit"], 20);
        assert_eq!(terms.parameters["max-bandwidth"], 0);
    }

    #[test]
    fn a_stock_move_behind_one_by_hand_is_held_by_nothing() {
        for mode in StockMode::ALL {
            let terms = mode.terms(300);
            assert!(!terms.paused);
            for side in [&terms.source, &terms.target] {
                assert!(!on(side).contains(&"switchover-ack"));
                assert!(!on(side).contains(&"pause-before-switchover"));
            }
        }
        assert_eq!(on(&StockMode::Precopy.terms(300).source), ["return-path"]);
        assert_eq!(
            on(&StockMode::Xbzrle.terms(300).source),
            ["return-path", "xbzrle"]
        );
        assert_eq!(
            on(&StockMode::MultifdZstd.terms(300).target),
            ["return-path", "multifd"]
        );
    }
}
