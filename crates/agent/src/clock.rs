//! The one place where this agent asks what time it is.

use std::sync::OnceLock;

use tokio::time::{Duration, Instant};
use transhume_model::Millis;
pub(crate) use transhume_netbuf::wall;
use transhume_protocol::migration::Now;

/// Origin of the monotonic clock: the first time anybody asks.
fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// Both clocks, for a VM's machine.
pub(crate) fn now() -> Now {
    let mono = Millis(origin().elapsed().as_millis() as u64);
    Now { mono, wall: wall() }
}

/// When a monotonic instant of [`now`] is, for those who sleep until then: never before it.
pub(crate) fn instant(at: Millis) -> Instant {
    origin() + Duration::from_millis(at.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_sleeps_until_an_instant_wakes_when_it_has_come() {
        let at = now().mono + Millis(250);
        tokio::time::sleep_until(instant(at)).await;
        assert!(now().mono >= at);
    }
}
