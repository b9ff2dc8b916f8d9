//! How fast a guest writes to its memory, estimated by QEMU: it hashes a sample of the pages,
//! waits, and hashes them again.
//!
//! The guest runs on meanwhile. A page counts once, however often it was written: what is told is
//! memory that changed in the sampling time, which is what a round of pre-copy of that length would
//! have to carry again (§2.2.2). Deliberately absent: the dirty bitmap and the dirty ring, which
//! log every write and slow the guest down.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use transhume_model::Mebibytes;

use crate::error::QemuError;
use crate::limits::{DIRTY_POLL, DIRTY_SAMPLE_PAGES, DIRTY_SAMPLE_PAGES_PER_GIB, DIRTY_SAMPLING};
use crate::qmp::Qmp;

/// What QEMU estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtyRate {
    /// Memory that changed in a second, in whole MiB, rounded down.
    pub per_second: Mebibytes,
    /// Pages that were looked at.
    pub sampled_pages: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Unstarted,
    Measuring,
    Measured,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Answer {
    status: Status,
    /// MiB/s; there once it is measured.
    dirty_rate: Option<i64>,
    /// Of each GiB.
    sample_pages: u64,
}

/// Pages of each GiB to look at: enough for [`DIRTY_SAMPLE_PAGES`] in all, within what QEMU takes.
fn sample_pages_per_gib(memory: Mebibytes) -> u64 {
    let (least, most) = DIRTY_SAMPLE_PAGES_PER_GIB;
    (DIRTY_SAMPLE_PAGES * 1024 / memory.0.max(1)).clamp(least, most)
}

impl Answer {
    pub(crate) fn rate(&self, memory: Mebibytes) -> Option<DirtyRate> {
        let per_second = u64::try_from(self.dirty_rate?).ok()?;
        let sampled_pages = self.sample_pages.saturating_mul(memory.0) / 1024;
        match self.status {
            Status::Measured => Some(DirtyRate {
                per_second: Mebibytes(per_second),
                sampled_pages,
            }),
            Status::Unstarted | Status::Measuring => None,
        }
    }
}

/// Measures; takes [`DIRTY_SAMPLING`] and a little more. A measurement that is under way already is
/// an error.
pub(crate) async fn measure(qmp: &Qmp, memory: Mebibytes, limit: Duration) -> Result<DirtyRate, QemuError> {
    let work = async {
        let arguments = json!({
            "calc-time": DIRTY_SAMPLING.as_secs(),
            "sample-pages": sample_pages_per_gib(memory),
            "mode": "page-sampling",
        });
        qmp.execute("calc-dirty-rate", arguments).await?;
        tokio::time::sleep(DIRTY_SAMPLING).await;
        loop {
            let answer: Answer = qmp.query("query-dirty-rate").await?;
            if let Some(rate) = answer.rate(memory) {
                return Ok(rate);
            }
            tokio::time::sleep(DIRTY_POLL).await;
        }
    };
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(QemuError::Timeout {
            vm: qmp.vm().clone(),
            step: "measuring its dirty rate",
            limit,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Answer {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn only_a_measured_rate_is_one() {
        let memory = Mebibytes(512);
        let measuring = r#"{"status":"measuring","sample-pages":4096,"mode":"page-sampling","calc-time-unit":"second",
            "start-time":1,"calc-time":1}"#;
        assert_eq!(answer(measuring).rate(memory), None);
        let measured = r#"{"status":"measured","dirty-rate":7,"sample-pages":4096,"mode":"page-sampling",
            "calc-time-unit":"second","start-time":1,"calc-time":1}"#;
        let expected = DirtyRate {
            per_second: Mebibytes(7),
            sampled_pages: 2048,
        };
        assert_eq!(answer(measured).rate(memory), Some(expected));
        assert_eq!(answer(&measured.replace("7", "-1")).rate(memory), None);
    }

    #[test]
    fn small_guests_are_sampled_densely_and_large_ones_sparsely() {
        let pages = |mib| sample_pages_per_gib(Mebibytes(mib));
        assert_eq!((pages(96), pages(1024), pages(1 << 20)), (16_384, 2_048, 128));
    }
}
