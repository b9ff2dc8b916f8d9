//! The target's buffers of a VM.

use std::sync::Arc;
use std::time::Duration;

use transhume_model::{Bytes, Endpoint, WallMicros};
use transhume_netbuf::{Error, Meter, PlugOpener, Tap, TargetAccount, TargetBuffer};
use transhume_protocol::message::TargetFrames;

use super::traces::TraceFiles;
use super::{Ends, Side, Taps, each};

/// By NIC index.
#[derive(Debug)]
pub(crate) struct TargetBuffers {
    buffers: Vec<TargetBuffer>,
    traces: TraceFiles,
}

impl TargetBuffers {
    fn of(
        ends: &Ends<'_>,
        taps: &Taps,
        make: impl Fn(usize, &Tap) -> Result<TargetBuffer, Error>,
    ) -> Result<Self, Error> {
        let buffers = taps.iter().map(|(nic, tap)| make(nic, tap));
        Ok(Self {
            buffers: buffers.collect::<Result<_, _>>()?,
            traces: TraceFiles::of(ends, Side::Target),
        })
    }

    /// Step 4.
    pub(crate) fn open(ends: &Ends<'_>, taps: &Taps) -> Result<Self, Error> {
        Self::of(ends, taps, |nic, tap| {
            TargetBuffer::open(ends.target(nic, None), tap, ends.events())
        })
    }

    /// Goes on where a killed agent left off, at the same addresses.
    pub(crate) fn resume(
        ends: &Ends<'_>,
        taps: &Taps,
        tunnels: &[Endpoint],
        activated: bool,
    ) -> Result<Self, Error> {
        Self::of(ends, taps, |nic, tap| {
            TargetBuffer::resume(ends.target(nic, tunnels.get(nic)), tap, activated, ends.events())
        })
    }

    /// What each keeps and has done, also while it works.
    pub(crate) fn meters(&self) -> Vec<Arc<Meter>> {
        self.buffers.iter().map(TargetBuffer::meter).collect()
    }

    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.buffers.iter().map(TargetBuffer::endpoint).collect()
    }

    /// Step 8. Returns when the last NIC's frames were delivered as far as the guest takes them,
    /// and when it was announced.
    pub(crate) fn activate(&mut self) -> Result<(WallMicros, WallMicros), Error> {
        let activated = each(&mut self.buffers, TargetBuffer::activate)?;
        Ok(activated
            .iter()
            .fold((WallMicros(0), WallMicros(0)), |last, nic| {
                (last.0.max(nic.injected_at), last.1.max(nic.announced_at))
            }))
    }

    /// Open the plugs without FIN, also while they are being closed.
    pub(crate) fn openers(&self) -> Vec<PlugOpener> {
        self.buffers.iter().map(TargetBuffer::opener).collect()
    }

    /// Step 9; each NIC waits at most so long.
    pub(crate) fn finish(&mut self, wait: Duration) -> Result<TargetFrames, Error> {
        let accounts = each(&mut self.buffers, |buffer| buffer.finish(wait))?;
        self.traces.write(&self.meters());
        Ok(frames(&accounts))
    }

    /// Removes the spools, whatever is in them.
    pub(crate) fn discard(self) -> Result<(), Error> {
        self.buffers.into_iter().try_for_each(TargetBuffer::discard)
    }
}

fn frames(accounts: &[TargetAccount]) -> TargetFrames {
    let mut frames = TargetFrames::default();
    for account in accounts {
        frames.delivered += account.delivered;
        frames.broadcast += account.broadcast;
        frames.duplicated += account.duplicated;
        frames.reordered += account.reordered;
        frames.late += account.late;
        frames.dropped += account.dropped;
        frames.untaken += account.untaken;
        frames.given_up += account.undelivered;
        frames.peak += Bytes(account.peak_bytes);
        let first = account.first_sent_us.map(WallMicros);
        frames.first_sent_at = match (frames.first_sent_at, first) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_of_a_vm_sums_its_nics_and_dates_the_first_frame() {
        let one = TargetAccount {
            delivered: 3,
            untaken: 1,
            first_sent_us: Some(9),
            ..TargetAccount::default()
        };
        let two = TargetAccount {
            first_sent_us: Some(4),
            ..one
        };
        let both = frames(&[one, two, TargetAccount::default()]);
        assert_eq!((both.delivered, both.untaken), (6, 2));
        assert_eq!(both.first_sent_at, Some(WallMicros(4)));
    }
}
