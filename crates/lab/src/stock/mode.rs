//! Ways in which stock QEMU sends memory; the opponents of the page path.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Channels of multifd: as many as the build machine has cores.
const MULTIFD_CHANNELS: u8 = 2;

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

    /// Capabilities for both sides; those of other modes are switched off. The target's word ends
    /// the migration, as careful people have it.
    pub(super) fn capabilities(self) -> Value {
        let multifd = matches!(self, StockMode::Multifd | StockMode::MultifdZstd);
        json!({"capabilities": [
            {"capability": "return-path", "state": true},
            {"capability": "xbzrle", "state": self == StockMode::Xbzrle},
            {"capability": "multifd", "state": multifd},
        ]})
    }

    /// Parameters for both sides.
    pub(super) fn parameters(self, downtime_ms: u64) -> Value {
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
